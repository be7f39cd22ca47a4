"""A session that is used outside a handler: from a view, a shell, a task.

It takes its turn in the session's mailbox like an update. What is to be done is in the caller's
hands, and ends with the caller: what is stored, where others come first, is a place in the queue,
and whoever works on the mailbox hands it over when its turn comes. It goes to the database by
itself, in the caller's thread, so that it works with and without a running engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from asgiref.sync import sync_to_async

from botsessions.conf import settings
from botsessions.contents import fill, settle
from botsessions.context import Context, running
from botsessions.exceptions import LeaseLost, MailboxBusy, SessionConflict, Unavailable
from botsessions.flows.dispatch import run_later
from botsessions.keys import SessionKey, mailbox_of
from botsessions.leases import Lease
from botsessions.mailboxes.base import (
    Admission,
    Arrival,
    Commit,
    Effect,
    Mailbox,
    Opening,
    Outcome,
    Row,
    Seen,
    Sent,
    Waiting,
)
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.updates import ACCESS, Direction, Update, User, place

if TYPE_CHECKING:
    from botsessions.bots import Bot
    from botsessions.pacing.line import Ticket

R = TypeVar("R")

log = logging.getLogger("botsessions.access")

#: Seconds between looks at a mailbox that somebody else works on: the first, and the longest. It
#: stands still from when it is handed over until that is seen.
PAUSES = (0.01, 0.05)
#: Seconds between attempts to take over a mailbox that nobody works on any more.
CLAIM_EVERY = 0.5
#: Seconds that an access goes on with what waited in the mailbox, where no engine lasts.
PATIENCE = 0.1


class Access:
    """One turn in a session's mailbox. It is what the engine is to a handler's context."""

    threads: ThreadPoolExecutor | None = None

    def __init__(self, bot: Bot, key: SessionKey, wait: float, mailbox: str = "") -> None:
        """`mailbox` is another one than the session's, for whoever wants no session in it."""
        self.bot = bot
        self.key: SessionKey | None = key
        self._key = key
        self.opened: Sequence[tuple[SessionKey, str]] = ()
        self.flows: Sequence[tuple[SessionKey, Row]] = ()
        self.attempts = 0
        self.journal: dict[int, Any] = {}
        self.rows: dict[SessionKey, Row | None] = {}
        person = User(key.user) if key.user else None
        id = f"access-{uuid4().hex}"
        self.update = Update(bot.alias, id, ACCESS, user=person, **place(key.chat))
        self.mailbox = mailbox or mailbox_of(self.update, bot.unit_of_key(key))
        self._arrival = Arrival(self.update, self.mailbox, [key], only_now=True)
        self._is_stored = False
        self._claims = count(1)
        self.lease: Lease
        self.context: Context
        self._wait = wait
        self._token = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:12]}"
        self._database = DatabaseMailbox()
        self._renewal: asyncio.Task[None] | None = None

    @property
    def send_wait(self) -> float:
        """How many seconds a send may wait for its turn."""
        return settings.RATE_WAIT

    def in_line(self, delivery: Any, ticket: Ticket) -> AbstractContextManager[None]:
        """Nothing is to be noted: who uses the session has room of their own."""
        return nullcontext()

    async def enter(self) -> Context:
        """Wait for the mailbox, and return the context of the turn.

        Where it is taken, the access is stored behind what waits there, and is handed the lease
        when that is done. Raises `MailboxBusy` where it does not come in time, and `Unavailable`.
        """
        try:
            if not await self._take():
                await self._wait_for_turn(time.monotonic() + self._wait)
            [found] = await self.ask(lambda mailbox: mailbox.find([self._arrival]))
            self.rows = {self._key: found.named[0]}
            await self.ask(lambda _: fill(self.bot.store, self.rows.items()))
        except BaseException:
            await asyncio.shield(self._give_up())
            raise
        self.context = Context(self, self)
        return self.context

    async def _wait_for_turn(self, deadline: float) -> None:
        self._is_stored = True
        await self.ask(lambda mailbox: mailbox.store([self._arrival]))
        pause, claim_at = PAUSES[0], 0.0
        while not await self._comes(claims=time.monotonic() >= claim_at):
            if time.monotonic() >= deadline:
                raise MailboxBusy(f"Mailbox {self.mailbox} was not free in {self._wait:g} s.")
            if time.monotonic() >= claim_at:
                claim_at = time.monotonic() + CLAIM_EVERY
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, PAUSES[1])

    async def _take(self) -> bool:
        """Take the mailbox if it is free and nothing waits in it."""
        until = time.monotonic() + settings.LEASE
        admitted = await self.ask(lambda mailbox: mailbox.admit([self._arrival], self._token))
        if admitted.decisions == [Admission.HANDLE]:
            self.lease = Lease(self.mailbox, self._token, until)
            return True
        await self._adopt(admitted.waiting, until)
        return False

    async def _comes(self, *, claims: bool) -> bool:
        """Has its turn come? Where nobody works on the mailbox any more, take it if it `claims`."""
        until = time.monotonic() + settings.LEASE
        handed = [(self.mailbox, self.update.id)]
        if await self.ask(lambda mailbox: mailbox.renew(handed)):
            self._token = self.update.id
        elif not claims:
            return False
        else:
            token = f"{self._token}-{next(self._claims)}"
            waiting = await self.ask(lambda mailbox: mailbox.claim(self.mailbox, token))
            if not waiting or waiting[0].update.id != self.update.id:
                await self._adopt(waiting, until)
                return False
            self._token = token
        self.lease = Lease(self.mailbox, self._token, until)
        return True

    async def _give_up(self) -> None:
        """Wait no longer; what was taken, or handed over just now, is given back."""
        try:
            if self._is_stored:
                await self.ask(lambda mailbox: mailbox.withdraw(self.update))
            for token in {self._token, self.update.id}:
                await self._commit(Commit(self.mailbox, token, Effect.NOTHING))
        except Unavailable as error:
            log.warning("Mailbox %s is not given back before its time: %s", self.mailbox, error)

    def _end(self) -> Commit:
        """Return what ends the turn; an access that was stored is done with it."""
        if self._is_stored:
            return Commit(self.mailbox, self._token, Effect.DONE, self.update)
        return Commit(self.mailbox, self._token, Effect.NOTHING)

    def keep(self) -> None:
        """Renew the lease from now on, as long as the event loop runs."""
        self._renewal = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        held = [(self.mailbox, self._token)]
        while True:
            await asyncio.sleep(max(0.0, self.lease.renew_at - time.monotonic()))
            until = time.monotonic() + settings.LEASE
            try:
                renewed = await self.ask(lambda mailbox: mailbox.renew(held))
            except Unavailable as error:
                log.warning("The lease of mailbox %s was not renewed: %s", self.mailbox, error)
                await asyncio.sleep(settings.RENEW_EVERY)
                continue
            if renewed:
                self.lease.extend(until)
            else:
                self.lease.lost = True
                return

    async def leave(self, error: BaseException | None) -> None:
        """Do what was queued, commit, and let the mailbox go on; after an error commit nothing.

        Raises `LeaseLost` or `SessionConflict` where nothing could be committed.
        """
        context = self.context
        if self._renewal is None:
            self.keep()  # what was queued may have to wait for its turn
        commit = self._end()
        try:
            if error is None:
                await context.flush()
                await run_later(context)
                commit.saves = context.saves()
                commit.opens, commit.seen = context.openings(), context.seen
        except BaseException:
            commit.saves = commit.opens = commit.seen = ()
            raise
        finally:
            context.close()
            if self._renewal is not None:
                self._renewal.cancel()
            # Whoever is cancelled now does not keep the mailbox from those who wait for it.
            outcome = await asyncio.shield(self._commit(commit))
        if outcome is Outcome.LEASE_LOST:
            raise LeaseLost(f"The lease of mailbox {self.mailbox} has run out; nothing was saved.")
        if outcome is Outcome.STORE_AWAY:
            raise Unavailable(f"The store of bot '{self.bot.alias}' is away; nothing was saved.")
        if outcome is not Outcome.COMMITTED:
            raise SessionConflict(
                f"A session of {self.mailbox} was saved by somebody else meanwhile."
            )

    async def _commit(self, commit: Commit) -> Outcome:
        until = time.monotonic() + settings.LEASE
        committed = await self.ask(lambda mailbox: mailbox.commit([commit]))
        await self.ask(lambda _: settle([commit], committed.outcomes))
        [outcome] = committed.outcomes
        if outcome in (Outcome.CONFLICT, Outcome.STORE_AWAY):
            commit.saves = commit.opens = commit.seen = ()
            committed = await self.ask(lambda mailbox: mailbox.commit([commit]))
        await self._adopt(committed.waiting, until)
        return outcome

    async def _adopt(self, waiting: Sequence[Waiting], until: float) -> None:
        """Let the engine of this event loop handle what waited in the mailbox."""
        if waiting:
            from botsessions.engine import current_engine

            engine = current_engine()
            engine.take_up(waiting, until, PATIENCE)
            if not engine.is_lasting and running() is None:  # else it waits for this handler too
                await engine.drain()

    # What a context asks of its engine

    async def ask(self, question: Callable[[Mailbox], R]) -> R:
        """Ask the mailbox something, in the thread of Django's synchronous code."""
        return await sync_to_async(question, thread_sensitive=True)(self._database)

    async def record(self, delivery: Any, sent: Sent) -> None:
        """Track what was sent. Nothing is journaled: nobody runs this again."""
        opens, seen = list(sent.opens), list(sent.seen)
        if sent.session is not None:
            if sent.is_opening:
                opens.append(Opening(sent.session, expires_at=sent.expires_at))
            seen += [
                Seen(sent.session, each, Direction.OUTGOING, "", sent.ordinal, sent.keep_text)
                for each in sent.messages
            ]
        if opens or seen:
            await self.ask(lambda mailbox: mailbox.track(opens, seen))
