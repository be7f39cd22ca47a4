"""The engine: it takes updates in, lets their handlers run, and writes down what they did.

One engine serves one event loop. What waits for the database is gathered into a *turn*: while one
turn is in the database, the next fills up (group commit), so that under load a statement serves
many updates and alone an update waits for nobody. The engine knows no SQL: a turn is handed to the
mailbox in the one thread that talks to the database.

    submit ─► ADMIT ─► handle ─► COMMIT ─► acknowledge
                │         └─ ACK_AFTER passed: stored as pending, acknowledged
                └─ mailbox busy: stored as pending, acknowledged; its holder takes it up in its turn
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

from asgiref.sync import sync_to_async

from botsessions import clock
from botsessions.conf import settings
from botsessions.context import Context, current
from botsessions.database_thread import DatabaseThread
from botsessions.delivery import Delivery, KeySearches, unavailable, unhandled
from botsessions.exceptions import LeaseLost, Unavailable
from botsessions.flows import deadlines
from botsessions.flows.dispatch import dispatch
from botsessions.flows.takeover import Held
from botsessions.handling import Handling, SlowWatch
from botsessions.leases import TICK, Lease, Leases
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Found,
    Mailbox,
    Outcome,
    Sent,
    Waiting,
)
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.turns import RECOVERED, Gathering, Turn, TurnAnswer
from botsessions.updates import Update
from botsessions.upkeep import Upkeep

log = logging.getLogger("botsessions.engine")

#: How often a handler is run again because a session of another scope was saved meanwhile.
CONFLICTS = 5
#: Seconds until the database is asked again after it was away.
COMEBACK = 0.5
#: Seconds after which an engine that will not last goes on with nothing that it need not.
PATIENCE = 5.0
#: Seconds after which a mailbox that was handed over is looked for, should it be left with work.
LOOK_AFTER = 1.0
#: Seconds between looks for flows whose deadline has passed.
DEADLINE_TICK = 0.25


Result = TypeVar("Result")


class Engine:
    """Handles updates on the event loop in which it is made.

    It works from the first `submit` on. A server calls `start` and `stop` around it: a started
    engine also looks for what crashed processes left behind, runs `def` handlers in threads of its
    own, and has a thread and a connection of its own for the database.
    """

    #: Called at named points with the point's name and the delivery, for tests that pause or kill
    #: the process there: admitted, stored, handling, sent, before_commit, committed.
    at_point: ClassVar[Callable[[str, Delivery], None] | None] = None

    def __init__(self, mailbox: Mailbox | None = None) -> None:
        self.mailbox = mailbox or DatabaseMailbox()
        self.name = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:8]}"
        self.is_started = False
        #: Does the loop outlive the requests it serves? If not, everything is handled before an
        #: answer.
        self.is_lasting = False
        self._tokens = count(1)
        self._turn = Turn()
        self._gathering = Gathering()
        self._worker: asyncio.Task[None] | None = None
        self._handling = Handling(settings.MAX_IN_FLIGHT, self._take_overflow)
        self.in_line = self._handling.in_line
        self._searches = KeySearches()
        self._later: dict[Lease, tuple[asyncio.TimerHandle, Delivery]] = {}
        self._leases = Leases()
        self._slow = SlowWatch(self._handling, self._call_later, self._store)
        self._renewal: asyncio.TimerHandle | None = None
        self._upkeep = Upkeep(self._spawn)
        self._database: DatabaseThread | None = None
        self.threads: ThreadPoolExecutor | None = None
        self._stopping = False
        self._overflowed = False
        self._patient_until = 0.0
        #: Mailboxes that were taken up after other processes.
        self.recovered = 0
        self._parts: dict[str, Callable[[Any, Any, float], None]] = {
            "commits": self._committed,
            "records": self._answered,
            "asks": self._answered,
            "stores": self._stored,
            "renews": self._renewed,
            "loads": self._loaded,
            "admits": self._admitted,
            "recovers": self._recovered,
        }

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; not kept, so that it can go when nobody else keeps it."""
        return asyncio.get_running_loop()

    # What others call

    def submit(self, update: Update) -> asyncio.Future[None]:
        """Take an update in; the future is done when it is committed, or stored to be handled.

        Its exception is `Unavailable` where neither could be done. Raises `Unavailable` while the
        engine stops.
        """
        if self._stopping:
            raise Unavailable("This process is stopping.")
        self._note_busy()
        acknowledged = self._loop.create_future()
        self._searches.find_key(Delivery(update, acknowledged), self._admit, self._spawn)
        return acknowledged

    def _admit(self, delivery: Delivery) -> None:
        self._turn.admits.append(delivery)
        self._wake()

    async def start(self) -> None:
        """Begin to look for what crashed processes left behind, and go on until `stop`."""
        if not self.is_started:
            self.is_started = self.is_lasting = True
            self.mailbox.open()
            self._database = DatabaseThread()
            self.threads = ThreadPoolExecutor(settings.HANDLER_THREADS, "botsessions")
            self._upkeep.every(settings.RECOVER_EVERY, self.recover)
            self._upkeep.every(DEADLINE_TICK, partial(deadlines.look, self))

    async def stop(self, timeout: float | None = None) -> None:
        """Let running handlers finish, then give back what is held.

        They have `timeout` seconds, by default SHUTDOWN_TIMEOUT; then they are cancelled. What was
        acknowledged and not done stays stored, for another process or the next start.
        """
        self._stopping = True
        self._upkeep.cancel()
        deadline = time.monotonic() + (settings.SHUTDOWN_TIMEOUT if timeout is None else timeout)
        self._handling.end_by(deadline)
        for lease, (timer, _) in list(self._later.items()):
            timer.cancel()
            self._give_back(lease)
        self._later.clear()
        while self._is_busy() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._handling.cancel()
        last = time.monotonic() + 2
        while self._is_busy() and time.monotonic() < last:
            await asyncio.sleep(0.01)
        if self.threads is not None:
            self.threads.shutdown(wait=False, cancel_futures=True)
        if self._database is not None:
            await self._in_database(self.mailbox.close)
            self._database.stop()
            self._database = None
        self._cancel_timers()
        self.is_started = False

    async def drain(self) -> None:
        """Wait until nothing is being handled or written any more."""
        while self._is_busy() or self._later:
            await asyncio.sleep(0.001)
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        """Nothing is held or handled: there is nothing to renew, and no reason to keep the loop."""
        self._slow.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    async def recover(self) -> int:
        """Take up acknowledged updates that nobody works on, and return how many mailboxes.

        Raises `Unavailable`. Where there are many, the engine goes on by itself as it has room;
        `recovered` counts them all.
        """
        self._note_busy()
        found: asyncio.Future[list[Waiting]] = self._loop.create_future()
        self._turn.recovers.append(found)
        self._wake()
        return len(await found)

    async def fire_deadlines(self) -> int:
        """Let flows know that their deadlines have passed, and return how many were found.

        Returns when they are committed, or stored to be handled. Raises `Unavailable`.
        """
        return await deadlines.fire(self)

    def _in_database(self, work: Callable[[], Result]) -> Awaitable[Result]:
        """Run it in the thread of the mailbox; unless started, in that of Django."""
        if self._database is not None:
            return self._database.run(work)
        return sync_to_async(work, thread_sensitive=True)()

    async def ask(self, question: Callable[[Mailbox], Result]) -> Result:
        """Ask the mailbox something, in the database thread, and return its answer."""
        answer: asyncio.Future[Result] = self._loop.create_future()
        self._turn.asks.append((question, answer))
        self._wake()
        return await answer

    # The turns in the database

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = self._spawn(self._work())

    def _context(self) -> contextvars.Context | None:
        """The context for what outlives a request: not the request's, whose threads end with it.

        Where nothing outlives it (a test), its own, so that the database thread is the test's.
        """
        return contextvars.Context() if self.is_lasting else None

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._loop.create_task(work, context=self._context())

    def _call_later(
        self, delay: float, call: Callable[..., None], *arguments: Any
    ) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, call, *arguments, context=self._context())

    def _note_busy(self, patience: float = PATIENCE) -> None:
        if not self.is_lasting and not self._is_busy():
            self._patient_until = time.monotonic() + patience

    def _is_busy(self) -> bool:
        return bool(self._handling or self._turn or self._worker is not None or self._searches)

    async def _work(self) -> None:
        """Take turn after turn to the database until nothing waits for it."""
        try:
            while self._turn or self.mailbox.is_unfinished:
                if not self._turn:
                    # Handlers that finish at once have a turn ready, which flushes on its way.
                    await asyncio.sleep(0)
                    if not self._turn:
                        await self._in_database(self.mailbox.flush)
                    continue
                await self._gathering.wait(self._turn)
                turn, self._turn = self._turn, self._gathering.split(self._turn)
                token = f"{self.name}-{next(self._tokens)}"
                until = time.monotonic() + settings.LEASE
                room = 0 if self._stopping else self._handling.room
                tell = self._teller(until)
                try:
                    await self._in_database(partial(turn.work, self.mailbox, token, room, tell))
                except BaseException:  # the event loop ends
                    turn.abandon(Unavailable("This process is stopping."))
                    raise
        finally:
            self._worker = None
            if self._turn:
                self._wake()

    # What the database answered

    def _teller(self, until: float) -> Callable[[TurnAnswer], object]:
        """Return what brings an answer from the database thread to the event loop."""
        loop = self._loop
        return lambda answer: loop.call_soon_threadsafe(self._settle, answer, until)

    def _settle(self, answer: TurnAnswer, until: float) -> None:
        part, items, result = answer
        try:
            self._parts[part](items, result, until)
        except Exception:
            log.exception("The %s of a turn were not settled: a bug.", part)

    def _admitted(
        self, items: list[tuple[Delivery, Arrival]], answer: Admitted, until: float
    ) -> None:
        if isinstance(answer, Exception):
            for delivery, _ in items:
                delivery.acknowledge(unavailable(answer, delivery))
            return
        for (delivery, arrival), decision, found in zip(
            items, answer.decisions, answer.sessions, strict=True
        ):
            if decision is Admission.HANDLE or decision is Admission.HANDLE_STORED:
                delivery.lease = self._hold(delivery.mailbox, answer.token, until)
                delivery.lease.extend(until, provisional=answer.is_unfinished)
                delivery.take(found)
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
        self.take_up(answer.waiting, until)

    def _committed(
        self, items: list[tuple[Commit, Delivery | None]], answer: Committed, until: float
    ) -> None:
        if isinstance(answer, Exception):
            for commit, delivery in items:
                self._uncommitted(commit, delivery, answer)
            return
        going_on = {each.mailbox for each in answer.waiting}
        for (commit, delivery), outcome in zip(items, answer.outcomes, strict=True):
            lease = self._leases.find(commit)
            if outcome is Outcome.COMMITTED:
                if lease is not None and commit.mailbox not in going_on:
                    self._leases.end(lease)
                if delivery is not None:
                    self._reach("committed", delivery)
                    delivery.acknowledge()
            elif outcome is Outcome.LEASE_LOST:
                if lease is not None:
                    self._leases.end(lease)
                if delivery is not None:
                    self._lost(delivery)
            elif delivery is not None and outcome is Outcome.CONFLICT:
                self._again(delivery)
            elif delivery is not None and outcome is Outcome.STORE_AWAY:
                self._write(delivery.contended("a store is away"), delivery)
            else:
                if delivery is not None:
                    delivery.acknowledge()
                if lease is not None:
                    self._give_back(lease)
        self.take_up(answer.waiting, until)
        self._take_overflow()

    def _take_overflow(self) -> None:
        """Take up what was stored for want of room, if there is some now."""
        if self._overflowed and self._handling.room > 0 and not self._stopping:
            self._overflowed = False
            self._upkeep.once(self.recover)

    def _uncommitted(self, commit: Commit, delivery: Delivery | None, error: Exception) -> None:
        """Nothing of it was written: the database is away, or will not take this."""
        lease = self._leases.find(commit)
        if delivery is not None:
            if commit.effect is Effect.DONE and not isinstance(error, Unavailable):
                self._write(delivery.failed(error), delivery)
                return
            delivery.acknowledge(unavailable(error, delivery))
        if lease is not None:
            # If the update is stored it is taken up again, once the database answers.
            self._call_later(COMEBACK, self._give_back, lease)

    def _answered(
        self, items: list[tuple[object, asyncio.Future[Any]]], answer: object, until: float
    ) -> None:
        for _, future in items:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _stored(self, items: list[Delivery], answer: Exception | None, until: float) -> None:
        for delivery in items:
            if answer is None:
                self._reach("stored", delivery)
                delivery.acknowledge()
            else:
                delivery.acknowledge(unavailable(answer, delivery))

    def _renewed(self, items: list[Lease], answer: set[str], until: float) -> None:
        if isinstance(answer, Exception):
            return
        for lease in items:
            if lease.mailbox in answer:
                lease.extend(until)
            lease.lost = lease.mailbox not in answer

    def _loaded(self, items: list[Delivery], answer: list[Found], until: float) -> None:
        if isinstance(answer, Exception):
            for delivery in items:
                self._uncommitted(delivery.lease.give_back(), delivery, answer)
            return
        for delivery, found in zip(items, answer, strict=True):
            delivery.take(found)
            self._begin(delivery)

    def _recovered(
        self, items: list[asyncio.Future[list[Waiting]]], answer: list[Waiting], until: float
    ) -> None:
        self._answered([(None, future) for future in items], answer, until)
        if not isinstance(answer, Exception):
            self.recovered += len(answer)
            self._overflowed |= len(answer) >= RECOVERED
            self.take_up(answer, until)

    # Handling

    def take_up(self, waiting: Sequence[Waiting], until: float, patience: float = PATIENCE) -> None:
        """Handle stored updates of mailboxes that are held; unless it lasts for `patience` only."""
        self._note_busy(patience)
        for each in waiting:
            lease = self._hold(each.mailbox, each.token, until)
            if (commit := unhandled(each)) is not None:
                self._write(commit, None)
                if commit.effect is Effect.HANDED_OVER and self.is_lasting:
                    # It comes back with what was not done there.
                    self._call_later(LOOK_AFTER, self._look_again)
                continue
            delivery = Delivery.of(each, lease)
            delay = (each.due_at - clock.now()).total_seconds() if each.due_at else 0
            if delay <= 0:
                self._searches.find_key(delivery, self._load, self._spawn)
            elif self.is_lasting and not self._stopping:
                timer = self._call_later(delay, self._due, delivery, lease)
                self._later[lease] = timer, delivery
            else:
                self._give_back(lease, go_on=False)

    def _due(self, delivery: Delivery, lease: Lease) -> None:
        self._later.pop(lease, None)
        self._searches.find_key(delivery, self._load, self._spawn)

    def _load(self, delivery: Delivery) -> None:
        if delivery.keys or delivery.is_placed:
            self._turn.loads.append(delivery)
            self._wake()
        else:
            self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        self._handling.add(delivery)
        delivery.since = self._loop.time()
        delivery.task = self._spawn(self._handle(delivery))
        if delivery.acknowledged and self.is_lasting:
            self._slow.begin()

    async def _handle(self, delivery: Delivery) -> None:
        """Run an update's handler and hand over what it did to be committed."""
        context = Context(delivery, self)
        current.set(context)
        commit: Commit | None = None
        try:
            self._reach("handling", delivery)
            if delivery.trouble is not None:
                raise delivery.trouble
            await context.move_chat()
            await context.mark_gone()
            await dispatch(context, delivery.routes)
            saves, seen = context.saves(), [*context.incoming, *context.seen]
            commit = delivery.done(saves, context.openings(), seen)
            self._reach("before_commit", delivery)
        except Held:
            commit = delivery.held(context.incoming)
        except Unavailable as error:
            commit = delivery.contended(error, context.incoming)
        except LeaseLost as error:
            log.warning("%s Update %s is handled anew.", error, delivery.update.id)
        except asyncio.CancelledError:
            delivery.acknowledge(Unavailable("This process is stopping."))
        except BaseException as error:  # whatever it is, the mailbox goes on
            commit = delivery.failed(error, context.incoming)
            if commit.effect is Effect.PARKED:
                commit.saves = context.last_saves
        context.close()
        delivery.task = None  # which leads back to the delivery
        self._handling.discard(delivery)
        if commit is not None:
            self._write(commit, delivery)
        else:
            self._give_back(delivery.lease)
            self._lost(delivery)

    @property
    def send_wait(self) -> float:
        """How many seconds a send may wait: somebody waits for an engine that does not last."""
        patience = max(0.0, self._patient_until - time.monotonic())
        return settings.RATE_WAIT if self.is_lasting else min(settings.RATE_WAIT, patience)

    async def record(self, delivery: Delivery, sent: Sent) -> None:
        """Journal what a handler sent, at once; where the database is away, once it is back."""
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
                delivery.lease.check()
        delivery.journal[sent.ordinal] = sent.result
        self._reach("stored", delivery)
        if self.is_lasting:
            delivery.acknowledge()

    def _again(self, delivery: Delivery) -> None:
        """Run the handler again on fresh sessions: somebody else has saved one of them."""
        delivery.conflicts += 1
        delivery.rows.clear()
        if delivery.conflicts <= CONFLICTS:
            self._load(delivery)
        else:
            self._write(delivery.contended("others keep saving its sessions"), delivery)

    def _lost(self, delivery: Delivery) -> None:
        """Another process has the mailbox.

        What was stored is its affair; what was not is admitted anew.
        """
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
        if self._renewal is None:
            self._renewal = self._call_later(min(TICK, settings.RENEW_EVERY), self._renew)
        return self._leases.hold(mailbox, token, until)

    def _renew(self) -> None:
        self._renewal = None
        if self._leases:
            self._turn.renews.extend(self._leases.due())
            self._renewal = self._call_later(min(TICK, settings.RENEW_EVERY), self._renew)
        if self._turn:
            self._wake()

    def _give_back(self, lease: Lease, *, go_on: bool = True) -> None:
        self._write(lease.give_back(go_on=go_on), None)

    def _write(self, commit: Commit, delivery: Delivery | None) -> None:
        if self._stopping or self._is_impatient():
            commit.go_on = False
        self._turn.commits.append((commit, delivery))
        self._wake()

    def _is_impatient(self) -> bool:
        """Must an engine that somebody waits for leave what else arrives to other processes?"""
        return not self.is_lasting and time.monotonic() > self._patient_until

    def _store(self, slow: list[Delivery]) -> None:
        """Store, and so acknowledge, what is being handled for longer than its bot's ACK_AFTER."""
        self._turn.stores += slow
        self._wake()

    def _look_again(self) -> None:
        if not self._stopping:
            self._upkeep.once(self.recover)

    def _reach(self, point: str, delivery: Delivery) -> None:
        if Engine.at_point is not None:
            Engine.at_point(point, delivery)


_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()


def current_engine() -> Engine:
    """Return the engine of the running event loop, made when first asked for."""
    loop = asyncio.get_running_loop()
    engine = _engines.get(loop)
    if engine is None:
        engine = _engines[loop] = Engine()
    return engine
