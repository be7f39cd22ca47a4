"""An update on its way through the engine."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from botsessions import clock
from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.context import about
from botsessions.exceptions import NewerData, RateLimited, Unavailable
from botsessions.flows.deadlines import session_of
from botsessions.keys import SessionKey, mailbox_of
from botsessions.leases import Lease
from botsessions.mailboxes.base import (
    Commit,
    Effect,
    Found,
    Opening,
    Row,
    Save,
    Seen,
    Waiting,
)
from botsessions.routing import Route
from botsessions.updates import ABOUT_SESSIONS, ACCESS, Update

log = logging.getLogger("botsessions.engine")

#: Seconds that a bot's asynchronous key strategy may take.
KEY_WITHIN = 30.0
#: The longest delay before another attempt, in seconds.
LONGEST_DELAY = 300.0
#: The end of a traceback, in characters, that is kept with a failed update.
MAX_TRACEBACK = 20_000


class Delivery:
    """An update on its way through this engine."""

    __slots__ = (
        "acknowledged",
        "attempts",
        "bot",
        "conflicts",
        "flows",
        "is_stored",
        "journal",
        "key",
        "keys",
        "lease",
        "losses",
        "mailbox",
        "opened",
        "routes",
        "rows",
        "since",
        "storing",
        "task",
        "trouble",
        "update",
    )

    #: The lease under which it is handled, once it was admitted.
    lease: Lease

    def __init__(
        self, update: Update, acknowledged: asyncio.Future[None] | None, mailbox: str = ""
    ) -> None:
        self.update = update = update.followed
        #: Resolved when the update is committed or stored; None where that was done before.
        self.acknowledged = acknowledged
        self.bot: Bot = bots[update.bot]
        self.attempts = 0
        self.conflicts = 0
        self.losses = 0
        self.storing = False
        #: The results of what its handler sent before, by ordinal.
        self.journal: dict[int, Any] = {}
        self.rows: dict[SessionKey, Row | None] = {}
        self.task: asyncio.Task[None] | None = None
        self.trouble: Exception | None = None
        self.since = 0.0
        self.routes: list[Route] = []
        self.keys: list[SessionKey] = []
        self.key: SessionKey | None = None
        #: The open sessions where it is from, each with its matcher's name.
        self.opened: Sequence[tuple[SessionKey, str]] = ()
        #: The sessions in which a flow waits there.
        self.flows: Sequence[tuple[SessionKey, Row]] = ()
        #: That in which it was stored; or its key's, where that cannot be found one of its own.
        self.mailbox = mailbox
        self.is_stored = bool(mailbox)
        if update.type in ABOUT_SESSIONS:
            self.key = session_of(update)
            self.keys = [self.key]
            self.mailbox = mailbox or mailbox_of(update, self.bot.unit_of_key(self.key))
        elif not self.bot.finds_keys_slowly:
            self._find_keys()
        if not self.mailbox:
            self.mailbox = mailbox_of(update, None)

    @property
    def is_searching(self) -> bool:
        """Is its key still to be found?"""
        return self.bot.finds_keys_slowly and self.update.type not in ABOUT_SESSIONS

    @property
    def is_placed(self) -> bool:
        """May there be sessions that it finds by where it is from?"""
        update = self.update
        said = update.message is not None or update.action is not None
        return said or update.type in self.bot.router.flow_types

    async def find_keys(self) -> None:
        """Ask an asynchronous key strategy, which `__init__` cannot wait for."""
        try:
            self.key = await self.bot.key_later(self.update)
        except Exception as error:
            self.trouble = error
        else:
            self._find_keys(self.key)

    def _find_keys(self, *found: SessionKey | None) -> None:
        try:
            [self.key] = found or (self.bot.key_of(self.update),)
            if not self.is_stored:
                self.mailbox = mailbox_of(self.update, self.bot.unit_of(self.update, self.key))
            self.routes, self.keys = self.bot.session_keys(self.update, self.key)
        except Exception as error:  # of the project's filter or key strategy: fails like a handler
            self.trouble = error

    def take(self, found: Found) -> None:
        """Take over the sessions that the database found for it."""
        self.rows = dict(zip(self.keys, found.named, strict=True))
        self.opened = found.open
        self.flows = found.flows
        for key, row in found.flows:
            self.rows.setdefault(key, row)

    @classmethod
    def of(cls, waiting: Waiting, lease: Lease) -> Delivery:
        """Return the delivery of a stored update."""
        delivery = cls(waiting.update, None, waiting.mailbox)
        delivery.lease = lease
        delivery.attempts = waiting.attempts
        delivery.journal = {each["ordinal"]: each["result"] for each in waiting.journal}
        return delivery

    def acknowledge(self, error: Exception | None = None) -> None:
        """Let the platform have its answer, if it waits for one still."""
        waiting, self.acknowledged = self.acknowledged, None
        if waiting is not None and not waiting.done():
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)

    def done(
        self, saves: Sequence[Save], opens: Sequence[Opening] = (), seen: Sequence[Seen] = ()
    ) -> Commit:
        """Return what commits it as done."""
        return self._end(Effect.DONE, saves=saves, opens=opens, seen=seen)

    def contended(self, reason: object, seen: Sequence[Seen] = ()) -> Commit:
        """Return what tries it again, soon, for a reason that is no fault of its own.

        It counts as one attempt at most, which keeps its place before what came later.
        """
        log.warning(
            "Update %s of bot %s waits: %s",
            self.update.id,
            self.update.bot,
            reason,
            extra=about(self),
        )
        pause = random.uniform(0.5, 1.5) * settings.RETRY_DELAY  # noqa: S311
        due_at = clock.now() + timedelta(seconds=pause)
        commit = self._end(Effect.RETRY, due_at=due_at, seen=seen)
        commit.attempts = max(self.attempts, 1)
        return commit

    def held(self, seen: Sequence[Seen]) -> Commit:
        """Return what keeps it for the operator who is talking where it is from."""
        return self._end(Effect.HELD, seen=seen)

    def failed(self, error: BaseException, seen: Sequence[Seen] = ()) -> Commit:
        """Return what a handler's exception makes of it: another attempt, or parked.

        That the platform takes no more for now counts as one attempt at most, never parks, and is
        worth no traceback. Where it takes no more in another chat than the update's own, whoever
        wrote does not wait for that for ever.
        """
        is_limited = isinstance(error, RateLimited)
        attempts = max(self.attempts, 1) if is_limited else self.attempts + 1
        delay = min(settings.RETRY_DELAY * 2 ** (attempts - 1), LONGEST_DELAY)
        delay = max(delay, getattr(error, "retry_after", None) or 0)
        if isinstance(error, RateLimited) and self._is_elsewhere(error):
            delay = min(delay, LONGEST_DELAY)
        spent = attempts >= settings.ATTEMPTS and not is_limited
        parked = getattr(error, "permanent", False) or spent
        if is_limited:
            what = "Update %s of bot %s is tried again in %g s: %s"
            log.info(what, self.update.id, self.update.bot, delay, error, extra=about(self))
        else:
            log.error(
                "Update %s of bot %s failed (attempt %d, %s).",
                self.update.id,
                self.update.bot,
                attempts,
                "parked" if parked else f"again in {delay:g} s",
                exc_info=error,
                extra=about(self),
            )
        commit = self._end(
            Effect.PARKED if parked else Effect.RETRY,
            error="".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
            due_at=None if parked else clock.now() + timedelta(seconds=delay),
            seen=seen,
        )
        commit.attempts = attempts
        # Whoever finds it when it is due may be newer than this process, which is not to keep it.
        commit.go_on = not isinstance(error, NewerData)
        return commit

    def _is_elsewhere(self, error: RateLimited) -> bool:
        """Was it a call that is not about the chat of the update?"""
        own = "" if self.update.chat is None else self.update.chat.id
        return error.chat is not None and error.chat != own

    def _end(self, effect: Effect, **details: Any) -> Commit:
        return Commit(
            self.mailbox, self.lease.token, effect, self.update, self.attempts + 1, **details
        )


def unhandled(waiting: Waiting) -> Commit | None:
    """Return what becomes of a stored update that is not for a handler, None for one that is.

    An access from outside is handed the mailbox, once: who waits for it may be gone.
    """
    effect, attempts, error = Effect.PARKED, waiting.attempts, ""
    if waiting.update.type == ACCESS:
        effect = Effect.DONE if waiting.attempts else Effect.HANDED_OVER
        attempts = 1
    elif waiting.update.bot not in settings.BOTS:
        error = f"Bot '{waiting.update.bot}' is not configured (any more)."
    else:
        try:
            bots[waiting.update.bot]
            return None
        except ImproperlyConfigured as problem:
            error = str(problem)
    return Commit(waiting.mailbox, waiting.token, effect, waiting.update, attempts, error)


class KeySearches:
    """The searches of one engine for keys that a bot's strategy must look up first.

    Those of a chat go one after another, so that its updates stay in order.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], asyncio.Task[None]] = {}

    def __bool__(self) -> bool:
        return bool(self._last)

    def find_key(
        self,
        delivery: Delivery,
        then: Callable[[Delivery], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """Go on with `then` when the key of a delivery is found: at once, unless it is slow."""
        if not delivery.is_searching:
            then(delivery)
            return
        update = delivery.update
        place = (update.bot, update.conversation or (update.user.id if update.user else ""))
        before = self._last.get(place)

        async def find() -> None:
            if before is not None:
                await asyncio.wait([before])
            try:
                await asyncio.wait_for(delivery.find_keys(), KEY_WITHIN)
            except TimeoutError as error:
                delivery.trouble = error
            if self._last.get(place) is task:
                del self._last[place]
            then(delivery)

        task = self._last[place] = spawn(find())


def unavailable(error: Exception, delivery: Delivery) -> Unavailable:
    """Return what the platform is told; an error that is not the database's absence is logged."""
    if isinstance(error, Unavailable):
        return error
    log.error(
        "Update %s cannot be written.", delivery.update.id, exc_info=error, extra=about(delivery)
    )
    return Unavailable("The update cannot be written.")
