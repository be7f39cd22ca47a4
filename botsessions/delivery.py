"""An update on its way through the engine."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from botsessions import clock
from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.keys import SessionKey, mailbox_of
from botsessions.leases import Lease
from botsessions.mailboxes.base import Commit, Effect, Row, Save, Waiting
from botsessions.routing import Route
from botsessions.updates import Update

log = logging.getLogger("botsessions.engine")

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
        "journal",
        "key",
        "keys",
        "lease",
        "losses",
        "mailbox",
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

    def __init__(self, update: Update, acknowledged: asyncio.Future[None] | None) -> None:
        self.update = update
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
        try:
            self.routes, self.key, self.keys = self.bot.session_keys(update)
        except Exception as error:  # of the project's filter or key strategy: fails like a handler
            self.trouble = error
        self.mailbox = mailbox_of(update, self.key)

    @classmethod
    def of(cls, waiting: Waiting, lease: Lease) -> Delivery:
        """Return the delivery of a stored update.

        Raises `KeyError` where its bot is not configured.
        """
        delivery = cls(waiting.update, None)
        delivery.mailbox = waiting.mailbox
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

    def done(self, saves: Sequence[Save]) -> Commit:
        """Return what commits it as done."""
        return self._end(Effect.DONE, saves=saves)

    def failed(self, error: Exception) -> Commit:
        """Return what a handler's exception makes of it: another attempt, or parked."""
        attempts = self.attempts + 1
        delay = min(settings.RETRY_DELAY * 2 ** (attempts - 1), LONGEST_DELAY)
        delay = max(delay, getattr(error, "retry_after", None) or 0)
        parked = getattr(error, "permanent", False) or attempts >= settings.ATTEMPTS
        log.error(
            "Update %s of bot %s failed (attempt %d, %s).",
            self.update.id,
            self.update.bot,
            attempts,
            "parked" if parked else f"again in {delay:g} s",
            exc_info=error,
        )
        return self._end(
            Effect.PARKED if parked else Effect.RETRY,
            error="".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
            due_at=None if parked else clock.now() + timedelta(seconds=delay),
        )

    def _end(self, effect: Effect, **details: Any) -> Commit:
        return Commit(
            self.mailbox, self.lease.token, effect, self.update, self.attempts + 1, **details
        )
