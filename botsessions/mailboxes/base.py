"""The contract of a mailbox backend, and the values that pass between it and the engine.

Every verb takes and returns lists, is synchronous, and is one transaction. Each may raise
`Unavailable` (the database is away and nothing was done). `botsessions.testing.MailboxContract` and
`MailboxRaceContract` are the suites for a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Any, Protocol

import msgspec

from botsessions.keys import SessionKey
from botsessions.updates import Message, Update


class Row(msgspec.Struct, gc=False):
    """The stored header of a session, with its data where the database holds that."""

    id: int
    version: int
    is_open: bool
    data: bytes | None


class Arrival(msgspec.Struct, gc=False):
    """An update that was just received. `sessions` are the keys that its handlers may need."""

    update: Update
    mailbox: str
    sessions: Sequence[SessionKey] = ()
    #: Store the update before it is handled.
    store_first: bool = False
    #: Is there room to handle it now? If not, it is stored.
    room: bool = True


class Waiting(msgspec.Struct, gc=False):
    """A stored update whose turn it is; its mailbox is held with `token`."""

    mailbox: str
    token: str
    update: Update
    attempts: int = 0
    journal: list[dict[str, Any]] = []
    #: Not to be tried before this.
    due_at: datetime | None = None


class Admission(Enum):
    """What ADMIT decided about an arrival."""

    #: Its mailbox was taken for it: handle it now.
    HANDLE = auto()
    #: As HANDLE, and it is stored already.
    HANDLE_STORED = auto()
    #: It is stored and will be handled in its turn.
    STORED = auto()
    #: It was handled or stored before.
    DUPLICATE = auto()


class Admitted(msgspec.Struct):
    """The answer of ADMIT: what becomes of each arrival, and older updates that come first."""

    token: str
    decisions: list[Admission]
    #: For each arrival the stored rows of its sessions, None where there is none.
    sessions: list[list[Row | None]]
    #: Stored updates of the mailboxes that were taken, to be handled now.
    waiting: list[Waiting]
    #: Was it left unfinished? Then its leases are sure only once they were renewed.
    is_unfinished: bool = False


class Save(msgspec.Struct, gc=False):
    """A session to be saved if its version is still `version` (0: not stored yet)."""

    key: SessionKey
    version: int
    data: bytes | None


class Sent(msgspec.Struct, gc=False):
    """A call that a handler made.

    It is entry `ordinal` of the update's journal; its messages are for the session's slice.
    """

    update: Update
    mailbox: str
    ordinal: int
    result: Any
    session: SessionKey | None = None
    messages: Sequence[Message] = ()
    keep_text: bool = True


class Tracked(msgspec.Struct, gc=False):
    """A message of a session's slice, by its row and by the platform's ids."""

    id: int
    chat: str
    message_id: str
    business: str


class Effect(Enum):
    """What COMMIT is to write for an update."""

    #: It is done; its sessions are saved.
    DONE = auto()
    #: It failed and waits for another attempt.
    RETRY = auto()
    #: It failed for good.
    PARKED = auto()
    #: Nothing: the mailbox alone is given back, or its next update taken.
    NOTHING = auto()


class Commit(msgspec.Struct, gc=False):
    """The end of an update's handling, under the lease of its mailbox."""

    mailbox: str
    token: str
    effect: Effect
    update: Update | None = None
    attempts: int = 0
    error: str = ""
    due_at: datetime | None = None
    saves: Sequence[Save] = ()
    #: Go on with the next update of the mailbox; if not, the lease is given back whatever waits.
    go_on: bool = True


class Outcome(Enum):
    """What became of a `Commit`."""

    COMMITTED = auto()
    #: The lease was gone: nothing was written.
    LEASE_LOST = auto()
    #: A session had been saved by somebody else: nothing was written, the lease is still held.
    CONFLICT = auto()
    #: The update was done already: nothing was written, the lease is still held.
    DUPLICATE = auto()


class Committed(msgspec.Struct):
    """The answer of COMMIT: an outcome for each entry, and what to handle next.

    The mailboxes of what is to be handled next are held still, the others are not.
    """

    outcomes: list[Outcome]
    waiting: list[Waiting]


class Mailbox(Protocol):
    """Where updates wait, each mailbox worked by one holder at a time.

    A server calls the verbs from a thread of their own, between `open` and `close`. There an
    admission of which nothing was acknowledged may be left unfinished until the next verb, or
    `flush`: to others its mailboxes are as taken as if it were finished.
    """

    #: Is an admission to be finished by the next verb, or by `flush`?
    is_unfinished: bool

    def open(self) -> None:
        """From now on all verbs are called from one thread, whose connection nobody else uses."""

    def flush(self) -> None:
        """Finish what is unfinished; where that fails it is undone, as if its leases were lost."""

    def close(self) -> None:
        """Finish and let go of the connection, in the thread of the verbs."""

    def admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        """Take the free mailboxes of these arrivals with `token`, and decide about each arrival.

        The first new update of a free mailbox is to be handled; others, and those of a mailbox in
        which older ones wait, are stored.
        """

    def load(self, keys: Sequence[Sequence[SessionKey]]) -> list[list[Row | None]]:
        """Return the stored rows of these sessions, in one query."""

    def store(self, arrivals: Sequence[Arrival]) -> None:
        """Store updates that are being handled as pending, so that they can be acknowledged."""

    def record(self, sent: Sequence[Sent]) -> None:
        """Store the updates as pending, each with its journal entry.

        The sessions are opened, and the messages tracked in them.
        """

    def commit(self, commits: Sequence[Commit]) -> Committed:
        """Write what handlers did, each entry whole or not at all, and go on in their mailboxes."""

    def tracked(self, session: SessionKey) -> list[Tracked]:
        """Return the messages of a session's slice, in order."""

    def forget(self, messages: Sequence[Tracked]) -> None:
        """Take these messages out of their slices."""

    def renew(self, leases: Sequence[tuple[str, str]]) -> set[str]:
        """Extend these leases (mailbox, token) and return the mailboxes that are still held."""

    def recover(self, limit: int, token: str) -> list[Waiting]:
        """Take up to `limit` mailboxes that hold updates which are due and have no live lease."""
