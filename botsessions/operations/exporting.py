"""What is stored of a person or a chat, as JSON lines: the same that an erasure removes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from django.db.models import Model, QuerySet

from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.contents import fill
from botsessions.mailboxes.base import Row
from botsessions.mailboxes.slices import key_of
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations.subject import Subject

#: How many rows are read at a time.
ROWS = 500


def export(bot: str, *, user: str = "", chat: str = "") -> Iterator[str]:
    """Yield what is stored of a user or a chat of a bot, each row a line of JSON.

    A line names its `table` (session, message, update, flow, message_deletion) and the columns.
    Sessions come with their data whatever store has it. Raises as `begin_erasure`, before the first
    line.
    """
    return _lines(Subject(bot, user=user, chat=chat))


def _lines(subject: Subject) -> Iterator[str]:
    for sessions in _batches(subject.sessions):
        for each, data in zip(sessions, _data(subject.bot, sessions), strict=True):
            yield _line("session", each, data=data)
    theirs = TrackedMessage.objects.using(settings.DATABASE)
    for messages in (theirs.filter(session__in=subject.sessions.values("pk")), subject.said):
        yield from _rows("message", messages)
    yield from _rows("update", subject.waiting)
    yield from _rows("update", subject.done)
    for each in subject.talking():
        yield _line("flow", each)
    yield from _rows("message_deletion", subject.deletions)


def _batches(rows: QuerySet[BotSession]) -> Iterator[list[BotSession]]:
    cursor = 0
    while batch := list(rows.filter(pk__gt=cursor).order_by("pk")[:ROWS]):
        yield batch
        cursor = batch[-1].pk


def _rows(table: str, rows: QuerySet[Any]) -> Iterator[str]:
    for each in rows.order_by("pk").iterator(ROWS):
        yield _line(table, each)


def _line(table: str, row: Model, **instead: Any) -> str:
    columns = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    return msgspec.json.encode({"table": table, **columns, **instead}).decode()


def _data(bot: str, sessions: list[BotSession]) -> list[Any]:
    """Return the data of sessions, from where their store has it."""
    store = bots[bot].store
    if store is None or store.in_row:
        return [each.data for each in sessions]
    rows = [(key_of(each), Row(each.pk, each.version, each.is_open, None)) for each in sessions]
    fill(store, rows)
    return [None if row.data is None else msgspec.json.decode(row.data) for _, row in rows]
