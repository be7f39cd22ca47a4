"""How the suites reach a mailbox, and the updates and commits that they give it."""

# ruff: noqa: S101, S107 - these are tests

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from typing import Any
from unittest import mock

import msgspec
from django.conf import settings
from django.test import override_settings

from botsessions import clock
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Mailbox,
    Opening,
    Outcome,
    Row,
    Save,
    Seen,
    Sent,
    Waiting,
)
from botsessions.updates import Chat, Direction, Message, Update, User

HANDLE, HANDLE_STORED = Admission.HANDLE, Admission.HANDLE_STORED
STORED, DUPLICATE, REFUSED = Admission.STORED, Admission.DUPLICATE, Admission.REFUSED

#: Seconds of a lease that a test waits for.
SHORT_LEASE = 0.2
_ids = count(1)


class MailboxCases:
    """How a suite reaches the mailbox that it tests.

    A subclass sets `mailbox` to an empty one before each test: in `setUp`, or in a fixture that is
    used by itself. Sessions may be stored in the database of the tests, which is emptied by then.
    """

    mailbox: Mailbox

    def admit(self, *arrivals: Arrival, token: str = "one") -> Admitted:
        return self.mailbox.admit(arrivals, token)

    def commit(self, *commits: Commit) -> Committed:
        return self.mailbox.commit(commits)

    def load(self, *keys: SessionKey) -> list[Row | None]:
        return self.mailbox.load([keys])[0]

    def row(self, key: SessionKey) -> Row:
        """Return the stored row of a session that there is."""
        (row,) = self.load(key)
        assert row is not None
        return row

    def write(self, *saves: Save) -> None:
        """Save these sessions, with an update in a mailbox of its own."""
        one = arrival(mailbox=f"save-{next(_ids)}")
        self.admit(one)
        assert self.commit(done(one, "one", *saves)).outcomes == [Outcome.COMMITTED]

    def open(self, *keys: SessionKey, matcher: str | None = None, **fields: Any) -> None:
        self.mailbox.track([Opening(key, matcher, **fields) for key in keys], [])

    def ids(self, session: SessionKey) -> list[str]:
        """Return the ids of the messages of a session's slice, in order."""
        return [each.message_id for each in self.mailbox.tracked(session)]

    def left(self) -> list[Waiting]:
        """Return the update whose turn it is in each mailbox without a live lease."""
        waiting = self.mailbox.recover(1000, f"look-{next(_ids)}")
        self.mailbox.commit([nothing(each.mailbox, each.token, go_on=False) for each in waiting])
        return waiting

    def is_free(self, mailbox: str) -> bool:
        """Can the mailbox be taken, with nothing waiting in it?"""
        token = f"look-{next(_ids)}"
        admitted = self.mailbox.admit([arrival(mailbox=mailbox, store_first=True)], token)
        if admitted.decisions != [HANDLE_STORED]:
            return False
        self.mailbox.commit([nothing(mailbox, token, go_on=False)])
        return True


def update(id: str = "", **fields: Any) -> Update:
    """Return an update, by default a new one."""
    defaults: dict[str, Any] = {"bot": "demo", "type": "message", "chat": Chat("ann")}
    return Update(id=id or f"new-{next(_ids)}", **defaults | fields)


def arrival(id: str = "", mailbox: str = "demo:ann", **fields: Any) -> Arrival:
    """Return the arrival of an update, by default of a new one in the mailbox `demo:ann`."""
    return Arrival(update(id), mailbox, **fields)


def said(
    mailbox: str = "demo:ann",
    *,
    chat: str = "ann",
    user: str = "ann",
    sessions: Sequence[SessionKey] = (),
    **fields: Any,
) -> Arrival:
    """Return the arrival of what somebody says, by default the user `ann` in the chat `ann`."""
    message = Message("1", Chat(chat), User(user) if user else None)
    told = update(chat=message.chat, user=message.user, message=message, **fields)
    return Arrival(told, mailbox, sessions)


def done(arrived: Arrival, token: str = "one", *saves: Save, **fields: Any) -> Commit:
    """Return the commit of an arrival that was handled well."""
    return Commit(
        arrived.mailbox, token, Effect.DONE, arrived.update, attempts=1, saves=saves, **fields
    )


def nothing(mailbox: str, token: str, *, go_on: bool = True) -> Commit:
    """Return the commit that does no more than give a mailbox back, or go on in it."""
    return Commit(mailbox, token, Effect.NOTHING, go_on=go_on)


def failed(arrived: Arrival, effect: Effect = Effect.RETRY, **fields: Any) -> Commit:
    """Return the commit of an arrival whose handler raised."""
    defaults: dict[str, Any] = {"token": "one", "attempts": 1, "error": "ValueError"}
    return Commit(arrived.mailbox, effect=effect, update=arrived.update, **defaults | fields)


def save(key: SessionKey, value: Any, version: int = 0) -> Save:
    return Save(key, version, msgspec.json.encode(value))


def sent(arrived: Arrival, ordinal: int, *ids: str, session: SessionKey | None = None) -> Sent:
    """Return a call of an arrival's handler whose answer holds messages of these ids."""
    messages = [Message(id, Chat("ann"), User("bot"), text=f"message {id}") for id in ids]
    return Sent(arrived.update, arrived.mailbox, ordinal, {"ids": ids}, session, messages)


def seen(
    session: SessionKey, *ids: str, direction: Direction = Direction.INCOMING, **fields: Any
) -> list[Seen]:
    """Return messages of these ids for a session's slice."""
    fields = {"user": User("ann"), "text": "hi", **fields}
    return [Seen(session, Message(id, Chat("ann"), **fields), direction) for id in ids]


def names(waiting: Iterable[Waiting]) -> list[str]:
    """Return the ids of updates that wait."""
    return sorted(each.update.id for each in waiting)


def bare(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Return updates that wait without the time at which they were stored, which may vary."""
    return [msgspec.structs.replace(each, received_at=None) for each in waiting]


def value(row: Row | None) -> Any:
    """Return a session's data as Python has it."""
    assert row is not None
    assert row.data is not None
    return msgspec.json.decode(row.data)


def short_leases() -> override_settings:
    """Let leases end soon."""
    return override_settings(BOTSESSIONS=settings.BOTSESSIONS | {"LEASE": SHORT_LEASE})


@contextmanager
def time_is(moment: datetime) -> Iterator[None]:
    """Let the application's clock stand still at a moment."""
    with mock.patch.object(clock, "now", return_value=moment):
        yield
