"""Those who wait for their turn in one event loop.

Each chat has a queue, and only the first of a queue asks for room. Those who may ask now ask
together: however many wait, a round is one question.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Final

from botsessions.exceptions import RateLimited, Unavailable
from botsessions.pacing.shared import shared
from botsessions.pacing.window import Request
from botsessions.platforms.base import Rate

log = logging.getLogger("botsessions.pacing")

#: Seconds from when room is asked for until the message has arrived: it is booked for that moment.
#: Half of it is for the answer: where that comes later, the room is changed for room from then on.
#: The other half is the network's: where the call has not returned by then, it is booked anew.
LAG: Final = 0.1
#: The lag grows where answers are late, up to this; what is late then goes all the same.
LONGEST_LAG: Final = 1.0
#: The most that ask together.
ROUND: Final = 100
#: What is added to a wait, so that its end is not missed by a hair.
HAIR: Final = 0.001
#: Seconds in which room is asked for, however little a call may wait.
ASKED_WITHIN: Final = 1.0
#: Seconds until room is asked for again where nobody answered.
COMEBACK: Final = 0.5


class Ticket:
    """One call that waits for its turn, or whose turn it is."""

    __slots__ = (
        "arrives_by",
        "booked",
        "chat",
        "cost",
        "deadline",
        "ends_at",
        "granted",
        "lag",
        "line",
        "queue",
        "turn",
        "used_by",
        "windows",
    )

    def __init__(
        self, chat: str, cost: int, windows: Sequence[tuple[str, Rate | None]], deadline: float
    ) -> None:
        self.chat = chat
        self.cost = cost
        #: Where it needs room; nothing where it waits for a pause alone.
        self.windows = windows
        self.deadline = deadline
        #: When the process ends: it does not wait for a turn that comes later.
        self.ends_at = math.inf
        #: For which moment it has room that it has not used, how long after it was asked for, and
        #: until when that is to be used.
        self.booked = 0.0
        self.lag = LAG
        self.used_by = math.inf
        #: For which moment it had the room that it uses, by the clock of the windows and by ours.
        self.granted = 0.0
        self.arrives_by = math.inf
        self.line: Line | None = None
        self.queue: Queue
        self.turn: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Is it not its turn yet?"""
        return self.turn is not None and not self.turn.done()

    def end_by(self, moment: float) -> None:
        """Wait no longer than that: by then the process has ended. Its wait ends in `Unavailable`
        as soon as its turn is known to come later.
        """
        self.ends_at = moment
        if self.line is not None:
            self.line.look_again()

    def leave(self) -> None:
        """Make room for the next of its queue, wherever in it it is."""
        if self.line is not None:
            self.line.leave(self)


class Queue:
    """The calls of one chat, in order."""

    __slots__ = ("due", "key", "tickets")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.tickets: deque[Ticket] = deque()
        #: Before that there is no room for its first one.
        self.due = 0.0


class Line:
    """The queues of one bot in one event loop, and the task that asks for them while there are any.

    `bot_window` is the key of the window that all share, which counts `bot_count`; `paused_until`
    tells of a chat's pause, and `ended` is called when nobody waits any more.
    """

    def __init__(
        self,
        bot_window: str,
        bot_count: int,
        paused_until: Callable[[str], float],
        ended: Callable[[], object],
    ) -> None:
        self._bot_window = bot_window
        self._round = min(ROUND, bot_count)
        self._paused_until = paused_until
        self._ended = ended
        #: By chat; and by themselves those that are in no order.
        self._queues: dict[Hashable, Queue] = {}
        #: How many of them need no room in the window of all.
        self._asides = 0
        self._full_until = 0.0
        #: Are there those who may not know yet that it is full for longer than they can wait?
        self._tells = False
        self._lag = LAG
        #: Why nobody answers, while that is so.
        self._trouble: Unavailable | None = None
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def has(self, chat: str) -> bool:
        """Does anybody wait in that chat's queue, or go just now?"""
        return chat in self._queues

    def join(self, ticket: Ticket) -> None:
        """Put it at the end of its chat's queue; what has no cost or no chat has its own."""
        key: Hashable = ticket.chat if ticket.cost and ticket.chat else ticket
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.tickets.append(ticket)
        ticket.line, ticket.queue = self, queue
        self._asides += not ticket.cost

    def leave(self, ticket: Ticket) -> None:
        """Take it out."""
        queue, ticket.line = ticket.queue, None
        queue.tickets.remove(ticket)
        self._asides -= not ticket.cost
        del self._queues[queue.key]
        if queue.tickets:
            self._queues[queue.key] = queue  # behind the others
        if self._worker is not None:
            self._news.set()
        elif not self._queues:
            self._ended()

    def look_again(self) -> None:
        """Something has changed for those who wait."""
        self._tells = True
        self._news.set()

    async def turn_of(self, ticket: Ticket) -> None:
        """Wait until it is its turn, for which it has room now; it stays the first of its queue.

        Raises `RateLimited` where that takes too long, `Unavailable` where nobody can tell, or the
        process ends before.
        """
        latest = max(ticket.deadline, time.monotonic() + ASKED_WITHIN)
        while True:
            if ticket.cost and (error := self._hopeless(ticket, self._full_until)) is not None:
                raise error
            ticket.turn = asyncio.get_running_loop().create_future()
            self._news.set()
            if self._worker is None:
                self._worker = _spawn(self)
            try:
                async with asyncio.timeout(latest - time.monotonic()):
                    await ticket.turn
            except TimeoutError:
                if self._trouble is not None:
                    raise self._trouble from None
                left = max(ticket.queue.due, self._full_until) - time.monotonic()
                raise limited(max(left, ASKED_WITHIN)) from None
            if time.monotonic() <= ticket.used_by:
                ticket.granted, ticket.booked = ticket.booked, 0.0
                return
            self._lag = max(self._lag, min(ticket.lag * 2, LONGEST_LAG))

    async def work(self) -> None:
        """Let them go as there is room, until nobody is left."""
        try:
            while self._queues:
                self._news.clear()
                pause = await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
        finally:
            self._worker = None
            for queue in self._queues.values():  # the event loop ends, or the engine does
                for ticket in queue.tickets:
                    if ticket.turn is not None:
                        ticket.turn.cancel()
            if not self._queues:
                self._ended()

    async def _look(self) -> float | None:
        """Ask for those who may ask.

        Returns for how many seconds there is nothing to do but wait for news, None for ever.
        """
        now = time.monotonic()
        is_full = now < self._full_until
        next_at = self._full_until if is_full else math.inf
        asking = []
        if is_full and self._tells:
            self._tells = False
            for queue in self._queues.values():
                if queue.tickets[0].cost:
                    self._give_up(queue, self._full_until)
        for queue in self._queues.values() if self._asides or not is_full else ():
            first = queue.tickets[0]
            if not first.is_waiting or (is_full and first.cost):
                continue
            due = max(queue.due, self._paused_until(first.chat))
            if due > now:
                self._give_up(queue, due)
                next_at = min(next_at, due)
            elif first.windows:
                asking.append(first)
                if len(asking) == self._round:
                    break
            else:
                _go(first)
        if asking:
            await self._ask(asking)
            return 0.0
        return None if next_at == math.inf else next_at - now

    async def _ask(self, asking: Sequence[Ticket]) -> None:
        lag, asked_at = self._lag, time.monotonic()
        used_by = asked_at + lag / 2 if lag < LONGEST_LAG else math.inf
        requests = [
            Request(each.windows, each.cost, each.booked, max(0.0, each.deadline - asked_at))
            for each in asking
        ]
        try:
            verdicts = await shared.acquire(requests, lag)
        except Unavailable as error:
            if self._trouble is None:
                log.warning("Sends wait, for nobody keeps their rates: %s", error)
            self._trouble = error
            self._full_until = time.monotonic() + COMEBACK
            for ticket in asking:
                ticket.queue.due = self._full_until
            return
        except Exception as error:
            for ticket in asking:
                _fail(ticket, error)
            return
        self._trouble, now = None, time.monotonic()
        if now < used_by:
            self._lag = max(lag * 0.9, LAG)
        for ticket, verdict in zip(asking, verdicts, strict=True):
            ticket.booked, ticket.lag = verdict.booked, lag
            if not verdict.key:
                ticket.arrives_by = asked_at + lag
                _go(ticket, used_by)
                continue
            if verdict.key == self._bot_window:
                self._full_until = now + verdict.wait + HAIR
                self._tells = True
            if verdict.key != self._bot_window or verdict.booked:
                ticket.queue.due = now + verdict.wait + HAIR

    def _give_up(self, queue: Queue, due: float) -> None:
        """Tell those of a queue who cannot wait until then."""
        for ticket in queue.tickets:
            if (error := self._hopeless(ticket, due)) is not None:
                _fail(ticket, error)

    def _hopeless(self, ticket: Ticket, due: float) -> Exception | None:
        """Return what a call raises that cannot wait until then, None where it can.

        While nobody answers it is not known when there is room.
        """
        now = time.monotonic()
        if now < due and ticket.ends_at < due:
            return Unavailable("This process is stopping.")
        if now < due and ticket.deadline < due and self._trouble is None:
            return limited(due - now)
        return None


def limited(seconds: float) -> RateLimited:
    """Return what a call raises that could go in so many seconds at the earliest."""
    error = RateLimited(f"no room for {seconds:.1f} s", code=429, retry_after=seconds)
    error.was_asked = False
    return error


def _go(ticket: Ticket, used_by: float = math.inf) -> None:
    """It is its turn, unless it waits no longer: then the room that it got stays empty."""
    if ticket.turn is not None and not ticket.turn.done():
        ticket.used_by = used_by
        ticket.turn.set_result(None)


def _fail(ticket: Ticket, error: Exception) -> None:
    """Let it be raised where the ticket waits, if it still does."""
    if ticket.turn is not None and not ticket.turn.done():
        ticket.turn.set_exception(error)
        ticket.turn.exception()  # known, though whoever waits may be cancelled just now


def _spawn(line: Line) -> asyncio.Task[None]:
    """Start its work: outside any request, where the event loop outlives them."""
    from botsessions.engine import current_engine

    context = contextvars.Context() if current_engine().is_lasting else None
    return asyncio.get_running_loop().create_task(line.work(), context=context)
