"""What there is to know about a session beside its transcript: its flow, its lease, its updates."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime

from botsessions import clock
from botsessions.admin.moments import age, time_left
from botsessions.admin.visible import line
from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.contents import fill
from botsessions.flows import takeover
from botsessions.mailboxes.base import Row
from botsessions.mailboxes.slices import key_of
from botsessions.models import BotSession, BotUpdate, MailboxLease
from botsessions.operations.known import known_bots
from botsessions.operations.taking import mailbox_name

Status = BotUpdate.Status

#: How many of a session's updates its page shows, of each sort.
UPDATES = 20


class Waiting:
    """The flow that waits in a session, whatever shape it was stored in."""

    def __init__(self, stored: Any, due_at: datetime | None) -> None:
        self.stored = stored
        known = stored if isinstance(stored, dict) else {}
        self.name = line(known.get("name", "?"))
        self.is_operator = known.get("name") == takeover.NAME
        self.operator = line(known.get("operator", ""))
        self.began_at = _moment(known.get("began_at"))
        self.deadline = _moment(known.get("deadline")) or due_at

    @property
    def left(self) -> str:
        """How much time it has left."""
        return time_left(self.deadline)


def _moment(text: Any) -> datetime | None:
    try:
        return parse_datetime(text) if isinstance(text, str) else None
    except ValueError:
        return None


class Lease:
    """Who works on a session's mailbox."""

    def __init__(self, row: MailboxLease) -> None:
        self.row = row
        self.holder = line(row.token)
        self.age = age(row.acquired_at)
        self.is_over = row.expires_at < clock.now()


def lease_of(mailbox: str) -> Lease | None:
    row = MailboxLease.objects.using(settings.DATABASE).filter(pk=mailbox).first()
    return None if row is None else Lease(row)


def mailbox_of(session: BotSession) -> str:
    """Return the mailbox of a session, also of a bot that is not configured any more."""
    return mailbox_name(key_of(session), known_bots())


def _updates() -> QuerySet[BotUpdate]:
    rows = BotUpdate.objects.using(settings.DATABASE).defer("payload", "journal", "error")
    return rows.order_by("-pk")


def waiting_updates(session: BotSession, mailbox: str) -> list[BotUpdate]:
    """Return the updates of a mailbox that wait, failed or are held for an operator.

    Each status has an index of its own, which one query over all of them would not use.
    """
    found: list[BotUpdate] = []
    for status in (Status.PARKED, Status.HELD, Status.PENDING):
        rows = _updates().filter(bot=session.bot, mailbox=mailbox, status=status)
        found += rows[:UPDATES]
    return found


def answered_updates(session: BotSession, ids: set[str]) -> list[BotUpdate]:
    """Return those of the updates with these ids that are done."""
    if not ids:
        return []
    rows = _updates().filter(bot=session.bot, update_id__in=ids, status=Status.DONE)
    return list(rows[:UPDATES])


def contents(session: BotSession) -> bytes | None:
    """Return the stored data of a session, from wherever its bot keeps it; None for none.

    Raises `Unavailable` where a store is away, and `ImproperlyConfigured`.
    """
    store = bots[session.bot].store if session.bot in bots else None
    if store is None or store.in_row:
        return None if session.data is None else msgspec.json.encode(session.data)
    row = Row(session.pk, session.version, session.is_open, None)
    fill(store, [(key_of(session), row)])
    return row.data
