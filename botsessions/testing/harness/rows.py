"""What the harness leaves in the database, read and deleted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from django.db.models import QuerySet

from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.contents import drop, fill
from botsessions.keys import SessionKey
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from botsessions.testing.harness.bot import Heard, numbers

#: Seconds in which a statement of a killed process may still be carried out by the database.
LATE = 0.2


@dataclass(frozen=True)
class Unfinished:
    """What is not done yet: ids of updates that wait, and mailboxes that somebody holds."""

    pending: frozenset[str]
    leases: int

    def __bool__(self) -> bool:
        return bool(self.pending or self.leases)


@dataclass(frozen=True)
class Parked:
    """An update that failed for good, and the last line of its error."""

    id: str
    error: str


class Rows:
    """The rows of one bot."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def _updates(self) -> QuerySet[BotUpdate]:
        return BotUpdate.objects.using(settings.DATABASE).filter(bot=self.alias)

    @property
    def _sessions(self) -> QuerySet[BotSession]:
        return BotSession.objects.using(settings.DATABASE).filter(bot=self.alias)

    @property
    def _leases(self) -> QuerySet[MailboxLease]:
        return MailboxLease.objects.using(settings.DATABASE).filter(
            key__startswith=f"{self.alias}:"
        )

    def unfinished(self) -> Unfinished:
        pending = self._updates.filter(status=BotUpdate.Status.PENDING)
        leases = self._leases.count()
        return Unfinished(frozenset(pending.values_list("update_id", flat=True)), leases)

    def parked(self) -> list[Parked]:
        rows = self._updates.filter(status=BotUpdate.Status.PARKED).order_by("id")
        return [
            Parked(id, (error.strip().splitlines() or [""])[-1])
            for id, error in rows.values_list("update_id", "error")
        ]

    def heard(self, chats: Iterable[str]) -> dict[str, list[int]]:
        """Return the numbers that the session of each chat heard, in order, as its store has it."""
        keys = {chat: SessionKey(self.alias, chat, chat) for chat in chats}
        [rows] = DatabaseMailbox().load([list(keys.values())])
        fill(bots[self.alias].store, zip(keys.values(), rows, strict=True))
        heard = {}
        for chat, row in zip(keys, rows, strict=True):
            stored = row.data if row is not None else None
            runs = msgspec.json.decode(stored, type=Heard).runs if stored else []
            heard[chat] = numbers(runs)
        return heard

    def delete(self) -> None:
        """Delete all of them, once nobody writes any more but the database itself."""
        keys = [SessionKey(self.alias, each.chat, each.user) for each in self._sessions]
        drop(bots[self.alias].store, keys)
        while self._delete():
            time.sleep(LATE)

    def _delete(self) -> int:
        messages = TrackedMessage.objects.using(settings.DATABASE)
        rows = (messages.filter(session__bot=self.alias), self._sessions, self._updates)
        return sum(each.delete()[0] for each in (*rows, self._leases))
