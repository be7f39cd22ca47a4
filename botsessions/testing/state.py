"""What a test can know that is not on the platform: what is stored, what is due, what failed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import msgspec
from django.db.models import Min

from botsessions.bots import Bot
from botsessions.conf import settings
from botsessions.contents import fill
from botsessions.exceptions import RateLimited
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Tracked
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate
from botsessions.versions import split

#: The precision of the databases, and so what lies between a moment and the next.
TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class SessionState:
    """What is stored of a session."""

    key: SessionKey
    #: As JSON has it, None while nothing was stored; without the mark of its version.
    data: Any
    version: int
    is_open: bool
    expires_at: datetime | None
    #: Its slice of the conversation.
    messages: tuple[Tracked, ...]
    #: The flow that waits in it, as JSON has it; None where none does.
    flow: Any
    #: The version of the type that the data is of.
    data_version: int = 1

    @classmethod
    def read(cls, bot: Bot, key: SessionKey) -> Self | None:
        """Return what is stored of a session that has not expired, None where nothing is."""
        mailbox = DatabaseMailbox()
        [[row]] = mailbox.load([[key]])
        if row is None or row.is_expired:
            return None
        fill(bot.store, [(key, row)])
        data_version, data = split(row.data or b"null")
        return cls(
            key,
            msgspec.json.decode(data),
            row.version,
            row.is_open,
            row.expires_at,
            tuple(mailbox.tracked(key)),
            None if row.flow is None else msgspec.json.decode(row.flow),
            data_version,
        )


def next_due(after: datetime) -> datetime | None:
    """Return the next moment at which something happens by itself, None where nothing will."""
    updates = BotUpdate.objects.using(settings.DATABASE).filter(status=BotUpdate.Status.PENDING)
    sessions = BotSession.objects.using(settings.DATABASE)
    attempt = updates.filter(due_at__gt=after).aggregate(due=Min("due_at"))["due"]
    deadline = sessions.filter(due_at__gt=after).aggregate(due=Min("due_at"))["due"]
    expiry = sessions.filter(expires_at__gte=after).aggregate(due=Min("expires_at"))["due"]
    if expiry is not None:
        expiry += TICK  # a session lives to its very last moment
    return min((each for each in (attempt, deadline, expiry) if each is not None), default=None)


def stored_ids(bot: str, ids: Iterable[str]) -> set[str]:
    """Return which of these updates of a bot are stored."""
    updates = BotUpdate.objects.using(settings.DATABASE).filter(bot=bot, update_id__in=list(ids))
    return set(updates.values_list("update_id", flat=True))


class _Errors(logging.Handler):
    """Keeps what handlers raise: the engine logs it with the update and the bot.

    A `RateLimited` it logs as a matter of course, without a traceback.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: dict[tuple[str, str], BaseException] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(record.args, tuple) and isinstance(record.args[-1], RateLimited):
            error = record.args[-1]
        if error is not None and isinstance(record.args, tuple) and len(record.args) > 1:
            update, bot, *_ = record.args
            self.found.setdefault((str(bot), str(update)), error)


@contextmanager
def noticed() -> Iterator[Mapping[tuple[str, str], BaseException]]:
    """Notice what handlers raise first within the block, by bot and update."""
    log, errors = logging.getLogger("botsessions.engine"), _Errors()
    level = log.level
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    log.addHandler(errors)
    try:
        yield errors.found
    finally:
        log.removeHandler(errors)
        log.setLevel(level)
