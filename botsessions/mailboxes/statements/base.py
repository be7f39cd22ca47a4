"""What a database must be able to do for the mailbox, and the rows that it is given.

Each statement takes a list of rows, already in the order in which they are to be touched, and
returns an iterable of tuples. Between `with statements.together():` and its end the iterables may
be unread promises, so that a database that can takes several statements in one round trip; they are
read after the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from itertools import product
from typing import Any

import msgspec
from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

Tuples = Iterable[tuple[Any, ...]]

#: What stands in a session's row for the data of one that has expired.
EXPIRED = ""

#: A NUL as JSON writes it, after the escaped backslashes that belong to other text.
NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def without_nul(encoded: bytes) -> bytes:
    """Replace NUL characters in JSON, which databases do not store, as U+FFFD."""
    return NUL.sub(rb"\1\\ufffd", encoded) if b"\\u0000" in encoded else encoded


class LeaseRow(msgspec.Struct, gc=False):
    """A mailbox and the token with which it is, or is to be, held."""

    key: str
    token: str = ""


class UpdateRow(msgspec.Struct, gc=False):
    """An update to be stored; `payload` and `journal` are JSON."""

    number: int
    bot: str
    update_id: str
    type: str
    mailbox: str
    status: str
    attempts: int = 0
    payload: msgspec.Raw | None = None
    journal: list[Any] | None = None
    error: str = ""
    due_at: datetime | None = None


class PlaceRow(msgspec.Struct, gc=False):
    """Where an update happened, and the qualifiers of the sessions that its handlers may need."""

    number: int
    bot: str
    chat: str
    user: str
    thread: str
    qualifiers: list[str]

    @property
    def keys(self) -> set[tuple[str, str, str]]:
        """The chat, user and thread of every session there: each the place's own, or `""`.

        One of neither chat nor user is nowhere, unless the place is.
        """
        found = set(product((self.chat, ""), (self.user, ""), (self.thread, "")))
        return {key for key in found if key[0] or key[1] or not (self.chat or self.user)}


class SessionRow(msgspec.Struct, gc=False):
    """A session to be found or opened."""

    number: int
    bot: str
    chat: str
    user: str
    thread: str
    qualifier: str
    expires_at: datetime | None = None


class SaveRow(SessionRow, gc=False):
    """A session to be saved, if `version` is still the one it has."""

    version: int = 0
    data: msgspec.Raw | None = None
    quarantined: msgspec.Raw | None = None
    flow: msgspec.Raw | None = None
    due_at: datetime | None = None
    last_flow: msgspec.Raw | None = None


class MessageRow(msgspec.Struct, gc=False):
    """A message for the slice of the session whose key begins the row."""

    session_bot: str
    session_chat: str
    session_user: str
    session_thread: str
    session_qualifier: str
    chat: str
    message_id: str
    direction: str
    kind: str
    is_service: bool
    user: str
    name: str
    reply_to: str
    business: str
    text: str
    sent_at: datetime
    edited_at: datetime | None
    update_id: str
    ordinal: int


class Statements:
    """The statements of one database connection. Times of leases are the database's own clock."""

    #: Is a transaction still to be ended? Where the connection is the caller's own, one that may
    #: end later ends together with the beginning of the next, which saves a round trip.
    is_unended = False

    #: Does nobody else use the connection?
    own = False

    #: Can `write_every` be asked, rather than the statements one by one?
    can_write_every = False

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    def atomic(self) -> AbstractContextManager[object]:
        """Make a transaction of what is executed within."""
        return transaction.atomic(using=self.connection.alias)

    def together(self, *, last: bool = False) -> AbstractContextManager[object]:
        """Send what is executed within as one round trip, where the database can.

        The transaction may end with the `last` of them: what is executed later is not part of it.
        """
        return nullcontext()

    def begin(self, *, durable: bool) -> None:
        """Prepare the transaction; one that is not durable may be undone by a server's crash."""

    def make_durable(self) -> None:
        """Take back that the transaction need not be durable."""

    def may_end_later(self) -> None:
        """Let this transaction end with the beginning of the next, or with `end`."""

    def end(self) -> None:
        """End the transaction that is still to be ended."""

    # Leases

    def take(self, leases: Sequence[LeaseRow], seconds: float) -> Tuples:
        """Take the leases that are free or have expired, lock the others: (key) of those taken."""
        raise NotImplementedError

    def lock(self, leases: Sequence[LeaseRow]) -> Tuples:
        """Lock the rows of these mailboxes: (key, token) of those that there are."""
        raise NotImplementedError

    def renew(self, leases: Sequence[LeaseRow], seconds: float) -> Tuples:
        """Extend the leases that are still held with their token: (key)."""
        raise NotImplementedError

    def release(self, leases: Sequence[LeaseRow]) -> None:
        """Delete the leases that are still held with their token."""
        raise NotImplementedError

    def release_idle(self, leases: Sequence[LeaseRow]) -> Tuples:
        """Delete those of these leases in whose mailbox nothing waits: (key)."""
        raise NotImplementedError

    def abandoned(self, limit: int, now: datetime) -> Tuples:
        """Find mailboxes with due updates and no live lease, longest waiting first: (key)."""
        raise NotImplementedError

    # Updates

    def known(self, updates: Sequence[UpdateRow]) -> Tuples:
        """Find which of these are stored: (update_id, bot)."""
        raise NotImplementedError

    def next(self, leases: Sequence[LeaseRow]) -> Tuples:
        """Find the next pending update of each mailbox that is held with its token.

        That is the one that failed and is tried again in its place, else the oldest:
        (key, token, payload, attempts, journal, due_at, received_at), payload and journal as JSON
        text.
        """
        raise NotImplementedError

    def insert_pending(self, updates: Sequence[UpdateRow], now: datetime) -> None:
        """Store these in order, leaving alone those that are stored."""
        raise NotImplementedError

    def append_journal(self, updates: Sequence[UpdateRow], now: datetime) -> None:
        """Store these, or add their journal to that of the stored and unfinished ones."""
        raise NotImplementedError

    def finish(self, updates: Sequence[UpdateRow], now: datetime) -> Tuples:
        """Store these as they are, over pending ones only: (update_id, bot) of those written."""
        raise NotImplementedError

    # Sessions and messages

    def sessions(self, sessions: Sequence[SessionRow], now: datetime) -> Tuples:
        """Read the stored ones: (number, id, version, is_open, data, matcher, expires_at, flow).

        Data and flow are JSON text. One that has expired is neither open nor has it anything else.
        """
        raise NotImplementedError

    def sessions_at(self, places: Sequence[PlaceRow], now: datetime) -> Tuples:
        """Read those of each place that are open, have a flow or have one of its qualifiers.

        Those of a place are its `keys`. They come as from `sessions`, with (chat, user, thread,
        qualifier) behind; one may come twice.
        """
        raise NotImplementedError

    def open_sessions(self, sessions: Sequence[SessionRow], now: datetime) -> None:
        """Create or open these.

        One that has expired gets a new version, without data or flow; the slice of one that was not
        open is empty.
        """
        raise NotImplementedError

    def save_sessions(self, sessions: Sequence[SaveRow], now: datetime) -> Tuples:
        """Save those that still have their version: (bot, chat, user, thread, qualifier)."""
        raise NotImplementedError

    def delete_empty(self, sessions: Sequence[SessionRow]) -> None:
        """Delete those of these that have neither data nor a flow and are not open."""
        raise NotImplementedError

    def insert_messages(self, messages: Sequence[MessageRow], now: datetime) -> None:
        """Add messages to the slices of their sessions, where these are open and have not expired.

        No two are the same. Of one that is there already an edited version takes over text and
        kind. Of one that was deleted an edited version changes nothing, and any other puts it back.
        """
        raise NotImplementedError

    # All of that

    def write_every(
        self,
        leases: Sequence[LeaseRow],
        updates: Sequence[UpdateRow],
        sessions: Sequence[SaveRow],
        now: datetime,
    ) -> None:
        """Lock these leases, finish these updates and save these sessions: all, or none of them.

        Where one of them cannot be, the transaction fails with an error that `is_incomplete`.
        """
        raise NotImplementedError

    # What went wrong

    def is_incomplete(self, error: DatabaseError) -> bool:
        """Could `write_every` not write every row?"""
        return False

    def may_retry(self, error: DatabaseError) -> bool:
        """Did the database end the transaction so that it be run again?"""
        return False

    def connection_lost(self, error: Exception) -> bool:
        """Had the connection died, so that a new one may do?"""
        return self.connection.connection is None or not self.connection.is_usable()
