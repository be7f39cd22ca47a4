"""The engine: it takes updates in, lets their handlers run, and writes down what they did.

One engine serves one event loop. What waits for the database is gathered into a *turn*: while one turn is in the
database, the next fills up (group commit), so that under load a statement serves many updates and alone an update waits
for nobody. The engine knows no SQL: a turn is handed to the mailbox in the server's one database thread.

    submit ─► ADMIT ─► handle ─► COMMIT ─► acknowledge
                │         └─ ACK_AFTER passed: stored as pending, acknowledged
                └─ mailbox busy: stored as pending, acknowledged; its holder takes it up in its turn
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, ClassVar
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from botsessions import clock
from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.context import Context, current
from botsessions.exceptions import LeaseLost, SessionConflict, Unavailable
from botsessions.keys import SessionKey, mailbox_of
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Mailbox,
    Outcome,
    Row,
    Sent,
    Waiting,
)
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.routing import Route
from botsessions.updates import Update

log = logging.getLogger("botsessions.engine")

#: How often a handler is run again because a session of another scope was saved meanwhile.
CONFLICTS = 5
#: The most updates of one kind in a turn.
TURN_SIZE = 500
#: The longest delay before another attempt, in seconds.
LONGEST_DELAY = 300.0
#: How many mailboxes one look for abandoned updates takes up.
RECOVERED = 100
#: Seconds until the database is asked again after it was away.
COMEBACK = 0.5
#: Seconds between looks for handlers that have been running for longer than ACK_AFTER.
SLOW_TICK = 0.1
#: The end of a traceback, in characters, that is kept with a failed update.
MAX_TRACEBACK = 20_000


class Lease:
    """A mailbox that this engine holds, by its own clock until `until` at the least."""

    __slots__ = ("lost", "mailbox", "token", "until")

    def __init__(self, mailbox: str, token: str, until: float) -> None:
        self.mailbox = mailbox
        self.token = token
        self.until = until
        self.lost = False

    def check(self) -> None:
        """Raise `LeaseLost` where another process may have taken the mailbox over."""
        if self.lost or time.monotonic() >= self.until:
            raise LeaseLost(f"The lease of mailbox {self.mailbox} has run out.")


class Delivery:
    """An update on its way through this engine."""

    __slots__ = (
        "acknowledged", "attempts", "bot", "conflicts", "journal", "keys", "lease", "losses", "mailbox",
        "routes", "rows", "since", "storing", "task", "trouble", "update",
    )  # fmt: skip

    def __init__(self, update: Update, acknowledged: asyncio.Future[None] | None) -> None:
        self.update = update
        #: Resolved when the update is committed or stored; None where that was done before.
        self.acknowledged = acknowledged
        self.bot: Bot = bots[update.bot]
        self.attempts = 0
        self.conflicts = 0
        self.losses = 0
        self.storing = False
        self.journal: list[dict[str, Any]] = []
        self.rows: dict[SessionKey, Row | None] = {}
        self.lease: Lease | None = None
        self.task: asyncio.Task[None] | None = None
        self.trouble: Exception | None = None
        self.since = 0.0
        self.routes: list[Route] = []
        self.keys: list[SessionKey] = []
        key = None
        try:
            self.routes, key, self.keys = self.bot.session_keys(update)
        except Exception as error:  # a key strategy or filter of the project's; it fails like a handler
            self.trouble = error
        self.mailbox = mailbox_of(update, key)

    def acknowledge(self, error: Exception | None = None) -> None:
        """Let the platform have its answer, if it waits for one still."""
        waiting, self.acknowledged = self.acknowledged, None
        if waiting is not None and not waiting.done():
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)


class Turn:
    """What is to be done in the database next, and what became of it."""

    __slots__ = ("admits", "commits", "loads", "records", "recovers", "renews", "stores")

    def __init__(self) -> None:
        self.commits: list[tuple[Commit, Delivery | None]] = []
        self.records: list[tuple[Sent, asyncio.Future[None]]] = []
        self.stores: list[Delivery] = []
        self.loads: list[Delivery] = []
        self.admits: list[Delivery] = []
        self.renews: list[Lease] = []
        self.recovers: list[asyncio.Future[int]] = []

    def __bool__(self) -> bool:
        return bool(
            self.commits or self.admits or self.loads or self.records or self.stores
            or self.renews or self.recovers
        )  # fmt: skip


class Engine:
    """Handles updates on the event loop in which it is made.

    It works from the first `submit` on. A server calls `start` and `stop` around it: a started engine also looks for
    what crashed processes left behind, and runs `def` handlers in threads of its own.
    """

    #: Called at named points with the point's name and the delivery, for tests that pause or kill the process there:
    #: admitted, stored, handling, sent, before_commit, committed.
    at_point: ClassVar[Callable[[str, Delivery], None] | None] = None

    def __init__(self, mailbox: Mailbox | None = None) -> None:
        self.mailbox = mailbox or DatabaseMailbox()
        self.name = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:8]}"
        self.is_started = False
        #: Does the loop outlive the requests it serves? If not, everything is handled before an answer.
        self.is_lasting = False
        self._loop = asyncio.get_running_loop()
        self._tokens = count(1)
        self._turn = Turn()
        self._worker: asyncio.Task[None] | None = None
        self._handling: set[Delivery] = set()
        self._later: dict[Lease, tuple[asyncio.TimerHandle, Delivery]] = {}
        self._held: dict[str, Lease] = {}
        self._slow_timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._stopping = False
        self._overflowed = False
        self._in_database = sync_to_async(self._work_turn, thread_sensitive=True)
        self._room = settings.MAX_IN_FLIGHT

    # What others call

    def submit(self, update: Update) -> asyncio.Future[None]:
        """Take an update in; the future is done when it is committed, or stored to be handled.

        Its exception is `Unavailable` where neither could be done. Raises `Unavailable` while the engine stops.
        """
        if self._stopping:
            raise Unavailable("This process is stopping.")
        acknowledged = self._loop.create_future()
        self._turn.admits.append(Delivery(update, acknowledged))
        self._wake()
        return acknowledged

    async def start(self) -> None:
        """Begin to look for what crashed processes left behind, and go on until `stop`."""
        if not self.is_started:
            self.is_started = self.is_lasting = True
            self._threads = ThreadPoolExecutor(settings.HANDLER_THREADS, "botsessions")
            self._upkeep = self._loop.create_task(self._keep_recovering())

    async def stop(self, timeout: float | None = None) -> None:
        """Let running handlers finish within `timeout` seconds (SHUTDOWN_TIMEOUT), then give back what is held.

        What was acknowledged and not done stays stored, for another process or the next start.
        """
        self._stopping = True
        if self._upkeep is not None:
            self._upkeep.cancel()
        deadline = time.monotonic() + (settings.SHUTDOWN_TIMEOUT if timeout is None else timeout)
        for lease, (timer, _) in list(self._later.items()):
            timer.cancel()
            self._give_back(lease)
        self._later.clear()
        while self._is_busy() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        left = list(self._handling)
        for delivery in left:
            if delivery.task is not None:
                delivery.task.cancel()
        if left:
            log.warning("Gave back %d updates whose handlers did not finish in time.", len(left))
            await asyncio.wait([each.task for each in left if each.task is not None], timeout=1)
        last = time.monotonic() + 2
        while self._is_busy() and time.monotonic() < last:
            await asyncio.sleep(0.01)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for timer in (self._renewal, self._slow_timer):
            if timer is not None:
                timer.cancel()
        self.is_started = False

    async def drain(self) -> None:
        """Wait until nothing is being handled or written any more."""
        while self._is_busy() or self._later:
            await asyncio.sleep(0.001)

    async def recover(self) -> int:
        """Take up acknowledged updates that nobody works on; return how many mailboxes that were."""
        found = self._loop.create_future()
        self._turn.recovers.append(found)
        self._wake()
        return await found

    # The turns in the database

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())

    def _is_busy(self) -> bool:
        return bool(self._handling or self._turn or self._worker is not None)

    async def _work(self) -> None:
        """Take turn after turn to the database until nothing waits for it."""
        try:
            while self._turn:
                turn, self._turn = self._turn, Turn()
                self._turn.admits = turn.admits[TURN_SIZE:]
                del turn.admits[TURN_SIZE:]
                token = f"{self.name}-{next(self._tokens)}"
                until = time.monotonic() + settings.LEASE
                arrivals = self._arrivals(turn)
                try:
                    answers = await self._in_database(turn, arrivals, token)
                except BaseException:
                    self._abandon(turn)
                    raise
                for settle, items, answer in answers:
                    settle(items, answer, until)
        finally:
            self._worker = None
            if self._turn:
                self._wake()

    def _arrivals(self, turn: Turn) -> list[tuple[Delivery, Arrival]]:
        room = self._room - len(self._handling) if not self._stopping else 0
        return [
            (
                each,
                Arrival(
                    each.update,
                    each.mailbox,
                    each.keys,
                    store_first=each.bot.ack_after <= 0,
                    room=number < room,
                ),
            )
            for number, each in enumerate(turn.admits)
        ]

    def _work_turn(
        self, turn: Turn, arrivals: list[tuple[Delivery, Arrival]], token: str
    ) -> list[tuple[Callable[..., None], Any, Any]]:
        """Do a turn, in the database thread. Commits come first: what they free can be taken in the same turn."""
        box = self.mailbox
        return [
            *_each(
                self._committed, turn.commits, lambda items: box.commit([commit for commit, _ in items])
            ),
            *_each(
                self._recorded, turn.records, lambda items: box.record([sent for sent, _ in items])
            ),
            *_each(
                self._stored,
                turn.stores,
                lambda items: box.store([Arrival(each.update, each.mailbox) for each in items]),
            ),
            *_each(
                self._renewed,
                turn.renews,
                lambda items: box.renew([(each.mailbox, each.token) for each in items]),
            ),
            *_each(self._loaded, turn.loads, lambda items: box.load([each.keys for each in items])),
            *_each(
                self._admitted,
                arrivals,
                lambda items: (token, box.admit([arrival for _, arrival in items], token)),
            ),
            *_each(
                self._recovered, turn.recovers, lambda _: box.recover(RECOVERED, f"{token}r")
            ),
        ]

    def _abandon(self, turn: Turn) -> None:
        """The event loop ends: nobody will do this turn."""
        error = Unavailable("This process is stopping.")
        for delivery in (*turn.admits, *(each for _, each in turn.commits if each is not None)):
            delivery.acknowledge(error)
        for future in (*turn.recovers, *(future for _, future in turn.records)):
            future.cancel()

    # What the database answered

    def _admitted(
        self, items: list[tuple[Delivery, Arrival]], answer: tuple[str, Admitted], until: float
    ) -> None:
        if isinstance(answer, Exception):
            for delivery, _ in items:
                delivery.acknowledge(answer)
            return
        token, admitted = answer
        for (delivery, arrival), decision, rows in zip(
            items, admitted.decisions, admitted.sessions, strict=True
        ):
            if decision is Admission.HANDLE or decision is Admission.HANDLE_STORED:
                delivery.lease = self._hold(delivery.mailbox, token, until)
                delivery.rows = dict(zip(delivery.keys, rows, strict=True))
                self._reach("admitted", delivery)
                if decision is Admission.HANDLE_STORED:
                    self._reach("stored", delivery)
                    delivery.acknowledge()
                self._begin(delivery)
                continue
            if decision is Admission.STORED:
                self._overflowed |= not arrival.room
                self._reach("stored", delivery)
            delivery.acknowledge()
        self._take_up(admitted.waiting, until)

    def _committed(
        self, items: list[tuple[Commit, Delivery | None]], answer: Committed, until: float
    ) -> None:
        if isinstance(answer, Exception):
            for commit, delivery in items:
                self._uncommitted(commit, delivery, answer)
            return
        going_on = {each.mailbox for each in answer.waiting}
        for (commit, delivery), outcome in zip(items, answer.outcomes, strict=True):
            lease = self._held.get(commit.mailbox)
            held = lease is not None and lease.token == commit.token
            if outcome is Outcome.COMMITTED:
                if held and commit.mailbox not in going_on:
                    del self._held[commit.mailbox]
                if delivery is not None:
                    self._reach("committed", delivery)
                    delivery.acknowledge()
            elif outcome is Outcome.LEASE_LOST:
                if held:
                    del self._held[commit.mailbox]
                if delivery is not None:
                    self._lost(delivery)
            elif delivery is not None and delivery.lease is not None:
                if outcome is Outcome.CONFLICT:
                    self._again(delivery)
                else:
                    delivery.acknowledge()
                    self._give_back(delivery.lease)
        self._take_up(answer.waiting, until)
        if self._overflowed and len(self._handling) < self._room:
            self._overflowed = False
            self._turn.recovers.append(self._loop.create_future())

    def _uncommitted(self, commit: Commit, delivery: Delivery | None, error: Exception) -> None:
        """Nothing of it was written: the database is away, or will not take this."""
        lease = self._held.get(commit.mailbox)
        if not isinstance(error, Unavailable) and delivery is not None:
            if commit.effect is Effect.DONE:
                self._write(self._failure(delivery, error), delivery)
                return
            log.error("Update %s cannot be written.", delivery.update.id, exc_info=error)
        if delivery is not None:
            delivery.acknowledge(Unavailable(str(error)))
        if lease is not None and lease.token == commit.token:
            # If the update is stored it is taken up again, once the database answers.
            self._loop.call_later(COMEBACK, self._give_back, lease)

    def _recorded(
        self, items: list[tuple[Sent, asyncio.Future[None]]], answer: object, until: float
    ) -> None:
        for _, future in items:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(None)

    def _stored(self, items: list[Delivery], answer: object, until: float) -> None:
        for delivery in items:
            if not isinstance(answer, Exception):
                self._reach("stored", delivery)
            delivery.acknowledge(answer if isinstance(answer, Exception) else None)

    def _renewed(self, items: list[Lease], answer: set[str], until: float) -> None:
        if isinstance(answer, Exception):
            return
        for lease in items:
            if lease.mailbox in answer:
                lease.until = until
            elif self._held.get(lease.mailbox) is lease:
                lease.lost = True

    def _loaded(
        self, items: list[Delivery], answer: list[list[Row | None]], until: float
    ) -> None:
        if isinstance(answer, Exception):
            for delivery in items:
                self._uncommitted(self._nothing(delivery.lease), delivery, answer)
            return
        for delivery, rows in zip(items, answer, strict=True):
            delivery.rows = dict(zip(delivery.keys, rows, strict=True))
            self._begin(delivery)

    def _recovered(
        self, items: list[asyncio.Future[int]], answer: list[Waiting], until: float
    ) -> None:
        failed = isinstance(answer, Exception)
        for future in items:
            if not future.done():
                future.set_result(0 if failed else len(answer))
        if not failed:
            self._overflowed |= len(answer) >= RECOVERED
            self._take_up(answer, until)

    # Handling

    def _take_up(self, waiting: Sequence[Waiting], until: float) -> None:
        """Handle stored updates whose mailboxes are held, each when it is due."""
        for each in waiting:
            lease = self._hold(each.mailbox, each.token, until)
            try:
                delivery = Delivery(each.update, None)
            except (KeyError, ImproperlyConfigured):
                error = f"Bot '{each.update.bot}' is not configured (any more)."
                self._write(
                    Commit(
                        each.mailbox, each.token, Effect.PARKED, each.update, each.attempts, error
                    ),
                    None,
                )
                continue
            delivery.mailbox = each.mailbox
            delivery.lease = lease
            delivery.attempts = each.attempts
            delivery.journal = each.journal
            delay = (each.due_at - clock.now()).total_seconds() if each.due_at else 0
            if delay <= 0:
                self._load(delivery)
            elif self.is_lasting and not self._stopping:
                timer = self._loop.call_later(delay, self._due, delivery, lease)
                self._later[lease] = timer, delivery
            else:
                self._give_back(lease, go_on=False)

    def _due(self, delivery: Delivery, lease: Lease) -> None:
        self._later.pop(lease, None)
        self._load(delivery)

    def _load(self, delivery: Delivery) -> None:
        if delivery.keys:
            self._turn.loads.append(delivery)
            self._wake()
        else:
            self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        self._handling.add(delivery)
        delivery.since = self._loop.time()
        delivery.task = self._loop.create_task(self._handle(delivery))
        if self._slow_timer is None and delivery.acknowledged is not None and self.is_lasting:
            self._slow_timer = self._loop.call_later(SLOW_TICK, self._store_slow)

    async def _handle(self, delivery: Delivery) -> None:
        """Run an update's handler and hand over what it did to be committed."""
        lease, update = delivery.lease, delivery.update
        assert lease is not None
        context = Context(
            delivery.bot,
            update,
            delivery.rows,
            delivery.journal,
            delivery.mailbox,
            partial(self._record, delivery),
            lease.check,
            self._threads,
        )
        current.set(context)
        commit = self._nothing(lease)
        try:
            self._reach("handling", delivery)
            if delivery.trouble is not None:
                raise delivery.trouble
            await delivery.bot.router.dispatch(context, delivery.routes)
            commit = Commit(
                delivery.mailbox,
                lease.token,
                Effect.DONE,
                update,
                delivery.attempts + 1,
                saves=context.saves(),
            )
            self._reach("before_commit", delivery)
        except LeaseLost:
            log.warning("Update %s of %s: its lease was lost.", update.id, delivery.mailbox)
            lease.lost = True
        except asyncio.CancelledError:
            delivery.acknowledge(Unavailable("This process is stopping."))
        except Exception as error:
            commit = self._failure(delivery, error)
        finally:
            context.close()
            self._handling.discard(delivery)
            self._write(commit, delivery)

    def _failure(self, delivery: Delivery, error: Exception) -> Commit:
        """Return what a handler's exception makes of its update: another attempt, or the place of the parked."""
        update, attempts = delivery.update, delivery.attempts + 1
        delay = min(settings.RETRY_DELAY * 2 ** (attempts - 1), LONGEST_DELAY)
        delay = max(delay, getattr(error, "retry_after", None) or 0)
        parked = getattr(error, "permanent", False) or attempts >= settings.ATTEMPTS
        log.error(
            "Update %s of bot %s failed (attempt %d, %s).",
            update.id,
            update.bot,
            attempts,
            "parked" if parked else f"again in {delay:g} s",
            exc_info=error,
        )
        assert delivery.lease is not None
        return Commit(
            delivery.mailbox,
            delivery.lease.token,
            Effect.PARKED if parked else Effect.RETRY,
            update,
            attempts,
            "".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
            None if parked else clock.now() + timedelta(seconds=delay),
        )

    async def _record(self, delivery: Delivery, sent: Sent) -> None:
        """Journal what a handler sent, at once; as long as the mailbox is held, until the database has it."""
        self._reach("sent", delivery)
        while True:
            recorded = self._loop.create_future()
            self._turn.records.append((sent, recorded))
            self._wake()
            try:
                await recorded
                break
            except Unavailable:
                await asyncio.sleep(COMEBACK)
                if delivery.lease is not None:
                    delivery.lease.check()
        delivery.journal.append({"ordinal": sent.ordinal, "result": sent.result})
        self._reach("stored", delivery)
        if self.is_lasting:
            delivery.acknowledge()

    def _again(self, delivery: Delivery) -> None:
        """Run the handler again on fresh sessions: somebody else has saved one of them."""
        delivery.conflicts += 1
        if delivery.conflicts <= CONFLICTS:
            self._load(delivery)
            return
        error = SessionConflict(
            f"A session of update {delivery.update.id} was saved by others {CONFLICTS} times in a row."
        )
        self._write(self._failure(delivery, error), delivery)

    def _lost(self, delivery: Delivery) -> None:
        """Another process has the mailbox. What was stored is its affair; what was not is admitted anew."""
        if delivery.acknowledged is None:
            return
        delivery.losses += 1
        if delivery.losses > CONFLICTS or self._stopping:
            delivery.acknowledge(Unavailable("The mailbox's lease was lost."))
            return
        delivery.storing = False
        self._turn.admits.append(delivery)
        self._wake()

    # Leases and times

    def _hold(self, mailbox: str, token: str, until: float) -> Lease:
        lease = self._held.get(mailbox)
        if lease is None or lease.token != token:
            lease = self._held[mailbox] = Lease(mailbox, token, until)
        if self._renewal is None:
            self._renewal = self._loop.call_later(settings.RENEW_EVERY, self._renew)
        return lease

    def _renew(self) -> None:
        self._renewal = None
        if self._held:
            self._turn.renews.extend(self._held.values())
            self._wake()
            self._renewal = self._loop.call_later(settings.RENEW_EVERY, self._renew)

    def _nothing(self, lease: Lease | None, *, go_on: bool = True) -> Commit:
        assert lease is not None
        return Commit(lease.mailbox, lease.token, Effect.NOTHING, go_on=go_on)

    def _give_back(self, lease: Lease, *, go_on: bool = True) -> None:
        self._write(self._nothing(lease, go_on=go_on), None)

    def _write(self, commit: Commit, delivery: Delivery | None) -> None:
        if self._stopping:
            commit.go_on = False
        self._turn.commits.append((commit, delivery))
        self._wake()

    def _store_slow(self) -> None:
        """Store, and so acknowledge, what is being handled for longer than its bot's ACK_AFTER."""
        self._slow_timer = None
        now = self._loop.time()
        waits = False
        for delivery in self._handling:
            if delivery.acknowledged is None or delivery.storing:
                continue
            if now - delivery.since >= delivery.bot.ack_after:
                delivery.storing = True
                self._turn.stores.append(delivery)
                self._wake()
            else:
                waits = True
        if waits:
            self._slow_timer = self._loop.call_later(SLOW_TICK, self._store_slow)

    async def _keep_recovering(self) -> None:
        while True:
            await self.recover()
            await asyncio.sleep(settings.RECOVER_EVERY)

    def _reach(self, point: str, delivery: Delivery) -> None:
        if Engine.at_point is not None:
            Engine.at_point(point, delivery)


def _each(
    settle: Callable[..., None], items: list[Any], verb: Callable[[list[Any]], Any]
) -> list[tuple[Callable[..., None], Any, Any]]:
    """Do a batch; where one of it cannot be done, one by one, so that it fails alone. Exceptions are answers."""
    if not items:
        return []
    try:
        return [(settle, items, verb(items))]
    except Exception as error:
        if isinstance(error, Unavailable) or len(items) == 1:
            return [(settle, items, error)]
    return [answer for item in items for answer in _each(settle, [item], verb)]


_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()


def current_engine() -> Engine:
    """Return the engine of the running event loop, made when first asked for."""
    loop = asyncio.get_running_loop()
    engine = _engines.get(loop)
    if engine is None:
        engine = _engines[loop] = Engine()
    return engine
