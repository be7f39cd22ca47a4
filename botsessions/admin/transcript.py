"""The transcript of a session, a page at a time: older ones before it, new ones after it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import msgspec
from django.db.models import QuerySet
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions.admin.visible import line, prose
from botsessions.conf import settings
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations.looking import newest, slice_of
from botsessions.platforms.base import Deletion

#: How many messages a page of the transcript shows.
SHOWN = 50
#: How many rows an export reads at a time.
ROWS = 1000
#: What an exported message tells.
EXPORTED = (
    "id", "chat", "message_id", "direction", "kind", "is_service", "user", "name", "reply_to",
    "business", "text", "sent_at", "edited_at", "deleted_at", "outcome", "update_id",
)  # fmt: skip
#: Why a message that was to be deleted is there still.
NOT_DELETED: dict[str, Any] = {
    Deletion.TOO_OLD: gettext_lazy("too old to be deleted on the platform"),
    Deletion.FORBIDDEN: gettext_lazy("the platform does not let the bot delete it"),
    Deletion.FAILED: gettext_lazy("the platform did not delete it"),
}
#: With what a cell begins that spreadsheets take for a formula, full width included.
FORMULAS = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")


class Said:
    """One message, as it is shown."""

    def __init__(self, row: TrackedMessage) -> None:
        self.row = row
        self.is_ours = row.direction == TrackedMessage.Direction.OUTGOING
        #: The row of the message that it answers, where that is shown too.
        self.answers: int | None = None

    @property
    def by(self) -> str:
        """Who said it: by name, where one is stored, or by id."""
        if self.is_ours:
            return _("Bot")
        return line(self.row.name) or line(self.row.user) or _("Somebody")

    @property
    def who(self) -> str:
        """The id of who said it, where the name does not tell it."""
        named = not self.is_ours and self.row.name and self.row.user
        return line(self.row.user) if named else ""

    @property
    def kind(self) -> str:
        """What it is, where it is no plain text."""
        return "" if self.row.kind == "text" else line(self.row.kind)

    @property
    def is_deleted(self) -> bool:
        """Did the platform say that it is not there any more?"""
        return self.row.outcome in (Deletion.DELETED, Deletion.GONE)

    @property
    def why_not(self) -> str:
        """Why the platform did not delete it, where it said so."""
        return str(NOT_DELETED.get(self.row.outcome, ""))

    @property
    def text(self) -> SafeString:
        """What was said."""
        return prose(self.row.text)


class Transcript:
    """The newest messages of a session, or those before or after a message, oldest first."""

    def __init__(self, session: int, *, before: int | None = None, after: int = 0) -> None:
        self.session = session
        rows = _rows(session)
        if after:
            found, older = list(rows.filter(pk__gt=after)[:SHOWN]), None
        else:
            page = newest(rows, SHOWN, before=before)
            found, older = page.rows[::-1], page.further
        self.messages = [Said(row) for row in found]
        here = {(each.row.chat, each.row.message_id): each.row.pk for each in self.messages}
        for each in self.messages:
            each.answers = here.get((each.row.chat, each.row.reply_to))
        #: The message before which there are others; None where there are none.
        self.older = older

    @property
    def updates(self) -> set[str]:
        """The updates that the bot answered here."""
        return {each.row.update_id for each in self.messages if each.row.update_id}


def _rows(session: int) -> QuerySet[TrackedMessage]:
    """Return the messages of a session, oldest first."""
    return slice_of(TrackedMessage.objects.using(settings.DATABASE).all(), session)


def _exported(session: BotSession) -> Iterator[dict[str, Any]]:
    """Yield its messages, in order, a few at a time."""
    cursor = 0
    rows = _rows(session.pk)
    while batch := list(rows.filter(pk__gt=cursor)[:ROWS]):
        for row in batch:
            yield {name: getattr(row, name) for name in EXPORTED}
        cursor = batch[-1].pk


def as_json(session: BotSession) -> bytes:
    """Return the whole transcript as a JSON object: the session's key and its messages."""
    key = {name: getattr(session, name) for name in ("bot", "chat", "user", "thread", "qualifier")}
    whole = {"session": key, "messages": list(_exported(session))}
    return msgspec.json.format(msgspec.json.encode(whole))


def as_csv(session: BotSession) -> bytes:
    """Return the whole transcript as CSV, for spreadsheets; no cell is a formula there."""
    text = io.StringIO()
    text.write("\ufeff")  # Excel reads UTF-8 only where it is told so
    table = csv.writer(text)
    table.writerow(EXPORTED)
    for each in _exported(session):
        table.writerow([neutral(value) for value in each.values()])
    return text.getvalue().encode()


def neutral(value: Any) -> str:
    """Return a value as a cell that no spreadsheet calculates: a quote says that it is text."""
    cell = "" if value is None else value.isoformat() if hasattr(value, "isoformat") else f"{value}"
    return f"'{cell}" if cell.lstrip(" ").startswith(FORMULAS) else cell
