"""A process that dies at a named point, and the one after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from asgiref.sync import sync_to_async

from botsessions import clock
from botsessions.conf import settings
from botsessions.delivery import Delivery
from botsessions.engine import Engine
from botsessions.flows.state import FlowState
from botsessions.mailboxes.base import Commit
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.turns import TurnAnswer

Result = TypeVar("Result")

#: Seconds that handlers may take to notice that their process is dead.
BURIAL = 5.0


class ProcessKilled(BaseException):
    """The process is dead: nothing that comes after this is done.

    It is no `Exception`, so that a handler does not recover from what no handler survives.
    """


class Crash:
    """The death of the first process in which an update of a bot reaches a point."""

    def __init__(self, alias: str, point: str) -> None:
        self.alias = alias
        self.point = point
        #: Has it happened?
        self.happened = False

    def strikes(self, point: str, delivery: Delivery) -> bool:
        """Does the process die here?"""
        if self.happened or (point, delivery.update.bot) != (self.point, self.alias):
            return False
        self.happened = True
        return True


class _Mailbox(DatabaseMailbox):
    """The mailbox of one process: it does nothing more once that is dead."""

    is_dead = False

    def _transaction(self, work: Callable[[], Result]) -> Result:
        if self.is_dead:
            raise ProcessKilled
        return super()._transaction(work)


class Process(Engine):
    """An engine that can be killed.

    What it had committed is committed; what it was doing goes no further, and what was in memory
    alone is lost.
    """

    def __init__(self, crash: Crash | None = None) -> None:
        self._mortal = _Mailbox()
        super().__init__(self._mortal)
        self._crash = crash
        self._tasks: set[asyncio.Task[None]] = set()
        self._death = self._loop.create_future()
        #: The ends of those updates that failed.
        self.failures: list[Commit] = []

    @property
    def is_dead(self) -> bool:
        """Was it killed?"""
        return self._mortal.is_dead

    def check_alive(self) -> None:
        """Raise `ProcessKilled` in a dead process."""
        if self.is_dead:
            raise ProcessKilled

    async def outlives(self, work: Callable[[Process], Coroutine[Any, Any, None]]) -> bool:
        """Do something in this process, and return whether it lives afterwards.

        If it does not, then everything that it did has ended, and its leases have run out.
        """
        if self._crash is None:
            await work(self)
            return True
        task = self._loop.create_task(work(self))
        try:
            await asyncio.wait({task, self._death}, return_when=asyncio.FIRST_COMPLETED)
            if not self.is_dead:
                await task
                return True
        finally:
            task.cancel()
            self._death.cancel()
        await self._bury(task)
        return False

    async def _bury(self, task: asyncio.Task[None]) -> None:
        tasks = {task, *self._tasks}
        for each in tasks:
            each.cancel()
        self._cancel_timers()
        ended, _ = await asyncio.wait(tasks, timeout=BURIAL)
        for each in ended:
            if not each.cancelled():
                each.exception()  # is known: it was killed
        await sync_to_async(self._let_go)()

    def _let_go(self) -> None:
        """Let its leases and claims run out, as they would in LEASE seconds and a few."""
        from botsessions.models import BotSession, MailboxLease

        leases = MailboxLease.objects.using(settings.DATABASE)
        leases.filter(token__startswith=f"{self.name}-").delete()
        now = clock.now()
        sessions = BotSession.objects.using(settings.DATABASE)
        later = now + timedelta(seconds=settings.RECOVER_EVERY)
        for row in sessions.filter(due_at__gt=now, due_at__lte=later).only("flow"):
            deadline = msgspec.convert(row.flow, FlowState).deadline
            if deadline is not None and deadline <= now:
                sessions.filter(pk=row.pk).update(due_at=deadline)

    async def recover_all(self) -> int:
        """Handle to their end all stored updates that are due and that nobody works on.

        Returns how many mailboxes were taken up.
        """
        taken = 0
        while found := await self.recover():
            await self.drain()
            taken += found
        return taken

    # Where it dies

    def _reach(self, point: str, delivery: Delivery) -> None:
        self.check_alive()
        super()._reach(point, delivery)
        if self._crash is not None and self._crash.strikes(point, delivery):
            self._mortal.is_dead = True
            self._death.set_result(None)
            raise ProcessKilled

    def _settle(self, answer: TurnAnswer, until: float) -> None:
        if not self.is_dead:
            with suppress(ProcessKilled):  # the event loop lives on
                super()._settle(answer, until)

    def _wake(self) -> None:
        if not self.is_dead:
            super()._wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = super()._spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self.is_dead and not task.cancelled():
            task.exception()

    def _write(self, commit: Commit, delivery: Delivery | None) -> None:
        if commit.error and not self.is_dead:
            self.failures.append(commit)
        super()._write(commit, delivery)


Work = Callable[[Process], Coroutine[Any, Any, None]]


async def in_process(
    work: Work, crash: Crash | None = None, again: Work | None = None
) -> list[Commit]:
    """Do something in a process; where that dies, go on in the next one, which first recovers.

    There `again` is done, by default the same. Returns the ends of the updates that failed.
    """
    process = Process(None if crash is None or crash.happened else crash)
    failures = process.failures
    if not await process.outlives(work):
        process = Process()
        await process.recover_all()
        await (again or work)(process)
        failures = [*failures, *process.failures]
    return failures
