"""The contract of a mailbox backend, and the values that pass between it and the engine.

Every verb takes and returns lists, is synchronous, and is one transaction. Each may raise
`Unavailable` (the database is away and nothing was done). `botsessions.testing.MailboxContract` and
`MailboxRaceContract` are the suites for a backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Any, Protocol

import msgspec

from botsessions.keys import SessionKey
from botsessions.stores.base import Store
from botsessions.updates import Direction, Message, Update


class Row(msgspec.Struct, gc=False):
    """The stored header of a session, with its data where the database holds that.

    One that has expired reads as empty and closed.
    """

    id: int
    version: int
    is_open: bool
    data: bytes | None
    matcher: str = ""
    expires_at: datetime | None = None
    is_expired: bool = False
    #: The flow that waits in it, as JSON.
    flow: bytes | None = None


class Arrival(msgspec.Struct, gc=False):
    """An update that was just received. `sessions` are the keys that its handlers may need."""

    update: Update
    mailbox: str
    sessions: Sequence[SessionKey] = ()
    #: Store the update before it is handled.
    store_first: bool = False
    #: Is there room to handle it now? If not, it is stored.
    room: bool = True
    #: The key that the project's own strategy gave it: its place, beside its chat and user.
    key: SessionKey | None = None
    #: Is a flow of its place to be found, although it has neither a message nor a button?
    is_placed: bool = False
    #: Is ADMIT to refuse it, rather than to store it, where it cannot be handled now?
    only_now: bool = False


class Waiting(msgspec.Struct, gc=False):
    """A stored update whose turn it is; its mailbox is held with `token`."""

    mailbox: str
    token: str
    update: Update
    attempts: int = 0
    journal: list[dict[str, Any]] = []
    #: Not to be tried before this.
    due_at: datetime | None = None
    #: When it was stored.
    received_at: datetime | None = None


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
    #: It cannot be handled now, and was not to be stored.
    REFUSED = auto()


class Found(msgspec.Struct, gc=False):
    """The sessions of an arrival: those that it named, and those where it is from that are open or
    in which a flow waits.
    """

    #: The stored row of each that was named, None where there is none.
    named: list[Row | None]
    #: The open ones, with the name of the matcher that chooses what they track.
    open: list[tuple[SessionKey, str]] = []
    #: Those in which a flow waits.
    flows: list[tuple[SessionKey, Row]] = []


class Admitted(msgspec.Struct):
    """The answer of ADMIT: what becomes of each arrival, and older updates that come first."""

    token: str
    decisions: list[Admission]
    #: The sessions of each arrival.
    sessions: list[Found]
    #: Stored updates of the mailboxes that were taken, to be handled now.
    waiting: list[Waiting]
    #: Was it left unfinished? Then its leases are sure only once they were renewed.
    is_unfinished: bool = False


class Save(msgspec.Struct, gc=False):
    """A session to be saved if its version is still `version` (0: not stored yet).

    Without data the row keeps the version alone: a store of another kind may have the data.
    """

    key: SessionKey
    version: int
    data: bytes | None
    expires_at: datetime | None = None
    #: A stored value that did not fit the session's type, to be kept for the operator.
    quarantined: bytes | None = None
    #: Is nothing of it to be left? Its row goes too, unless it is open.
    is_deleted: bool = False
    #: Where the data is kept; None for the row itself.
    store: Store | None = None
    #: What was stored before.
    before: bytes | None = None
    #: The flow that waits in it from now on, as JSON, and its deadline.
    flow: bytes | None = None
    due_at: datetime | None = None
    #: How the flow before it ended, as JSON, where it has just ended.
    last_flow: bytes | None = None


class Opening(msgspec.Struct, gc=False):
    """A session to be opened; without a matcher it keeps the one it has."""

    key: SessionKey
    matcher: str | None = None
    expires_at: datetime | None = None


class Seen(msgspec.Struct, gc=False):
    """A message for a session's slice, where the session is open.

    `update_id` and `ordinal` say whose handler sent it, or which update brought it.
    """

    session: SessionKey
    message: Message
    direction: Direction
    update_id: str = ""
    ordinal: int = 0
    keep_text: bool = True


class Sent(msgspec.Struct, gc=False):
    """A call that a handler made.

    It is entry `ordinal` of the update's journal; its messages are for the session's slice, which
    it opens unless that is known to be open.
    """

    update: Update
    mailbox: str
    ordinal: int
    result: Any
    session: SessionKey | None = None
    messages: Sequence[Message] = ()
    keep_text: bool = True
    expires_at: datetime | None = None
    #: What came before it in the slices of the handler's sessions.
    opens: Sequence[Opening] = ()
    seen: Sequence[Seen] = ()
    is_opening: bool = True


class Tracked(msgspec.Struct, frozen=True, gc=False):
    """A message of a session's slice.

    `id` numbers the rows in the order in which they were tracked; the other ids are the platform's.
    """

    id: int
    chat: str
    message_id: str
    business: str
    direction: Direction = Direction.OUTGOING
    kind: str = ""
    is_service: bool = False
    user: str = ""
    text: str = ""
    sent_at: datetime | None = None
    edited_at: datetime | None = None
    #: What whoever said it was called then, and the message that it answers.
    name: str = ""
    reply_to: str = ""


class Effect(Enum):
    """What COMMIT is to write for an update."""

    #: It is done; its sessions are saved.
    DONE = auto()
    #: It failed and waits for another attempt.
    RETRY = auto()
    #: It failed for good.
    PARKED = auto()
    #: It is kept for an operator, who is talking there, and decides later whether it is handled.
    HELD = auto()
    #: Nothing: the mailbox alone is given back, or its next update taken.
    NOTHING = auto()
    #: Its turn has come, and somebody elsewhere waits for it: the lease has its id as token now.
    HANDED_OVER = auto()


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
    opens: Sequence[Opening] = ()
    seen: Sequence[Seen] = ()
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
    #: The store of a session's data is away: nothing was written, the lease is still held.
    STORE_AWAY = auto()


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

    def find(self, arrivals: Sequence[Arrival]) -> list[Found]:
        """Return the sessions of each arrival, in one query, as ADMIT does."""

    def store(self, arrivals: Sequence[Arrival]) -> None:
        """Store updates that are being handled as pending, so that they can be acknowledged."""

    def record(self, sent: Sequence[Sent]) -> None:
        """Store the updates as pending, each with its journal entry.

        The sessions are opened, and the messages tracked in them.
        """

    def commit(self, commits: Sequence[Commit]) -> Committed:
        """Write what handlers did, each entry whole or not at all, and go on in their mailboxes."""

    def track(self, opens: Sequence[Opening], seen: Sequence[Seen]) -> None:
        """Open these sessions, and add messages to the slices of those that are open."""

    def tracked(self, session: SessionKey, *, texts: bool = True) -> list[Tracked]:
        """Return the messages of a session's slice, in order; where asked without their texts."""

    def forget(self, messages: Sequence[Tracked]) -> None:
        """Take these messages out of their slices, as if they had never been there."""

    def forget_deleted(self, sessions: Sequence[SessionKey]) -> None:
        """Remove what is kept of the messages of these sessions that were deleted."""

    def mark_deleted(self, outcomes: Mapping[str, Sequence[Tracked]]) -> None:
        """Take messages out of their slices, and keep without its text that each was there.

        They come by what the platform said to their deletion. An edit that arrives later changes
        nothing; a message of the same id that is tracked anew is in the slice again.
        """

    def mark_gone(self, update: Update) -> None:
        """Do so with the messages that an update says are deleted, in all sessions of its chat."""

    def delete_later(
        self, bot: str, through: str, messages: Sequence[Tracked], size: int, requested_by: str = ""
    ) -> int:
        """Take these messages out of their slices into a `MessageDeletion`, and return its id.

        They are messages of `bot`, to be deleted by the bot `through` in calls of `size`. That each
        was there is kept as by `mark_deleted`, without an outcome.
        """

    def end(self, sessions: Sequence[SessionKey]) -> None:
        """Close these sessions: their slices are empty, and nothing is tracked any more."""

    def move(self, bot: str, chat: str, to: str, store: Store | None = None) -> list[SessionKey]:
        """Give a chat's sessions the key of the chat that it became; return the keys that they had.

        One that has data there already stays where it is. `store` is where their data is, if not
        in the rows: there it is under both keys then. Raises `Unavailable` while an update of the
        chat waits or is handled: it would begin a session that nobody finds.
        """

    def due(self, bots: Sequence[str], limit: int) -> list[tuple[SessionKey, bytes]]:
        """Find sessions of these bots with a flow whose deadline has passed, the oldest first.

        Each comes with its flow, and to one caller alone: it is not found again for some seconds.
        """

    def claim(self, mailbox: str, token: str) -> list[Waiting]:
        """Take a mailbox, if it is free and something waits in it, and return what is next."""

    def withdraw(self, update: Update) -> None:
        """Take back an update that waits."""

    def renew(self, leases: Sequence[tuple[str, str]]) -> set[str]:
        """Extend these leases (mailbox, token) and return the mailboxes that are still held."""

    def recover(self, limit: int, token: str) -> list[Waiting]:
        """Take up to `limit` mailboxes that hold updates which are due and have no live lease."""
