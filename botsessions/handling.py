"""The updates that an engine is handling, and how many more it may take in."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from botsessions.delivery import Delivery
    from botsessions.pacing.line import Ticket

log = logging.getLogger("botsessions.engine")

#: So many times MAX_IN_FLIGHT are handled at the most, with those that only wait for their turn.
WAITING: Final = 10
#: Seconds between looks for handlers that have been running for longer than ACK_AFTER.
SLOW_TICK: Final = 0.1


class Handling:
    """The updates whose handlers run, of which `most` may do something at a time.

    Those whose send waits for its turn by the platform's rates cost nothing but memory: they are
    not counted, up to `WAITING` times as many. Or one busy chat would stop every bot. `freed` is
    called when there may be room again.
    """

    def __init__(self, most: int, freed: Callable[[], object]) -> None:
        self._most = most
        self._freed = freed
        self._every: set[Delivery] = set()
        self._in_line: dict[Delivery, Ticket] = {}
        self._ends_at = math.inf

    def __len__(self) -> int:
        return len(self._every)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._every)

    @property
    def room(self) -> int:
        """How many more may be taken in; not above zero for none."""
        working = len(self._every) - len(self._in_line)
        return min(self._most - working, WAITING * self._most - len(self._every))

    def add(self, delivery: Delivery) -> None:
        """Its handler is about to run."""
        self._every.add(delivery)

    def discard(self, delivery: Delivery) -> None:
        """Its handler has ended."""
        self._every.discard(delivery)

    @contextmanager
    def in_line(self, delivery: Delivery, ticket: Ticket) -> Iterator[None]:
        """Its handler does nothing but wait for the turn of a send."""
        self._in_line[delivery] = ticket
        ticket.end_by(self._ends_at)
        self._freed()
        try:
            yield
        finally:
            self._in_line.pop(delivery, None)

    def end_by(self, moment: float) -> None:
        """The process ends then: whoever has to wait for longer waits in another one."""
        self._ends_at = moment
        for ticket in self._in_line.values():
            ticket.end_by(moment)

    async def cancel(self) -> None:
        """Let those that are left end where they are."""
        left = [each.task for each in self._every if each.task is not None]
        for task in left:
            task.cancel()
        if left:
            log.warning("Gave back %d updates whose handlers did not finish in time.", len(left))
            await asyncio.wait(left, timeout=1)


class SlowWatch:
    """Looks for updates whose handlers run for longer than their bot's ACK_AFTER, to `store` them.

    It looks only while somebody waits for the acknowledgement of one.
    """

    def __init__(
        self,
        handling: Iterable[Delivery],
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        store: Callable[[list[Delivery]], None],
    ) -> None:
        self._handling = handling
        self._call_later = call_later
        self._store = store
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Look from now on."""
        if self._timer is None:
            self._timer = self._call_later(SLOW_TICK, self._look)

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        slow, now = [], asyncio.get_running_loop().time()
        for delivery in self._handling:
            if delivery.acknowledged is None or delivery.storing:
                continue
            if now - delivery.since >= delivery.bot.ack_after:
                delivery.storing = True
                slow.append(delivery)
            else:
                self.begin()
        if slow:
            self._store(slow)
