"""A set of sessions and of what was said in them, as a job keeps it: small, and plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from django.db.models import Exists, OuterRef, QuerySet

from botsessions.conf import settings
from botsessions.models import BotSession, TrackedMessage


class Selection(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Sessions of a bot; None is whatever there is, `""` what has no such part.

    `sessions` are their ids. The last two are about messages: those of one direction, and those
    sent before a moment.
    """

    bot: str
    chat: str | None = None
    user: str | None = None
    thread: str | None = None
    qualifier: str | None = None
    is_open: bool | None = None
    sessions: Sequence[int] | None = None
    direction: str | None = None
    before: datetime | None = None

    @classmethod
    def read(cls, stored: Any) -> Selection:
        """Return what `stored` gave."""
        return msgspec.convert(stored, cls)

    def stored(self) -> Any:
        """Return it as JSON has it."""
        return msgspec.to_builtins(self)

    def found(self) -> QuerySet[BotSession]:
        """Return the sessions."""
        parts = {
            name: value
            for name in ("bot", "chat", "user", "thread", "qualifier", "is_open")
            if (value := getattr(self, name)) is not None
        }
        rows = BotSession.objects.using(settings.DATABASE).filter(**parts)
        return rows if self.sessions is None else rows.filter(pk__in=self.sessions)

    def messages(self, last: int) -> QuerySet[TrackedMessage]:
        """Return the messages, of whatever slice, up to the one with the id `last`."""
        rows = TrackedMessage.objects.using(settings.DATABASE)
        rows = rows.filter(pk__lte=last, deleted_at=None)
        if self.direction is not None:
            rows = rows.filter(direction=self.direction)
        return rows if self.before is None else rows.filter(sent_at__lt=self.before)

    def spoken(self, last: int) -> QuerySet[BotSession]:
        """Return the sessions in which there are such messages."""
        return self.found().filter(Exists(self.messages(last).filter(session=OuterRef("pk"))))
