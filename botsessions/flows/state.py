"""What is stored of a flow that waits, and how one ended."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2s
from typing import Any, NamedTuple

import msgspec

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import InvalidSessionData
from botsessions.mailboxes.base import Row
from botsessions.updates import Message, Update

log = logging.getLogger("botsessions.flows")

#: A timeout that was not given: the flow's own.
DEFAULT: Any = object()
#: What is kept of an error's description, in characters.
LONGEST_ERROR = 500


class End(StrEnum):
    """How a flow ended; the hook of that name is called."""

    #: It stopped, returned, or its time was over when it said so itself.
    ENDED = "ended"
    #: Its deadline passed.
    TIMED_OUT = "timed_out"
    #: Somebody ended it, or began another in its place.
    CANCELLED = "cancelled"
    #: It raised, or stopped with an error.
    FAILED = "failed"
    #: The code has no such flow any more.
    LOST = "lost"
    #: A conversation's code has changed so that its journal fits it no longer.
    DIVERGED = "diverged"


class Entry(msgspec.Struct, array_like=True):
    """One step of a conversation: its kind, what it was about, and what came of it."""

    kind: str
    name: str = ""
    #: As JSON text: databases that store JSON in a way of their own change the order of keys.
    text: str = "null"

    @property
    def value(self) -> Any:
        """What came of it."""
        return msgspec.json.decode(self.text)


class FlowState(msgspec.Struct, omit_defaults=True):
    """A flow that waits in a session."""

    name: str
    #: Another for each flow that begins.
    id: str
    began_at: datetime
    #: The update that began it, without what was said: where it is, and who began it.
    origin: Update
    deadline: datetime | None = None
    #: What a waiter that records it was told.
    history: list[Message] = []
    #: The steps of a conversation, since its beginning or its last checkpoint.
    journal: list[Entry] = []
    #: What the last checkpoint was given, as JSON text, and how many there were.
    checkpoint: str = "null"
    checkpoints: int = 0
    #: The step in which a conversation waits, kind and name, and the journal's length before it.
    pending: list[str] = []
    pending_at: int = -1
    version: int = 0
    #: The waiter that a conversation began and waits for.
    inner: FlowState | None = None
    #: Of an operator's turn: who it is, and the flow that waited when it began.
    operator: str = ""
    before: FlowState | None = None

    def encoded(self) -> bytes:
        """Return it as JSON. Raises `InvalidSessionData` where that is more than a row may hold."""
        encoded = msgspec.json.encode(self)
        if len(encoded) > settings.MAX_DATA_BYTES:
            raise InvalidSessionData(
                f"Flow '{self.name}' holds {len(encoded):,} bytes, a journal of "
                f"{len(self.journal)} steps; MAX_DATA_BYTES is {settings.MAX_DATA_BYTES:,}. "
                "A conversation that goes on for long is to call talk.checkpoint()."
            )
        return encoded


class Ended(msgspec.Struct, omit_defaults=True):
    """How a session's last flow ended, for the operator."""

    name: str
    outcome: End
    at: datetime
    error: str = ""
    #: The state of one whose code is gone or has changed.
    state: Any = None

    @classmethod
    def of(cls, flow: FlowState, outcome: End, error: object, *, keep: bool) -> Ended:
        """Return how a flow has ended just now; where asked with all that was stored of it."""
        left = msgspec.to_builtins(flow) if keep else None
        return cls(flow.name, outcome, clock.now(), f"{error}"[:LONGEST_ERROR], left)


class Later(NamedTuple):
    """What is to be done when the running handler has returned."""

    session: Any
    state: FlowState
    #: Tell that flow how it ended; None: it is a conversation, which begins.
    outcome: End | None = None


def as_json(value: Any) -> str:
    """Return a value as JSON text. Raises `TypeError` where it is none."""
    return msgspec.json.encode(value).decode()


def begun(
    name: str,
    update: Update,
    timeout: timedelta | float | None,
    version: int = 0,
    *,
    number: int = 0,
) -> FlowState:
    """Return the state of a flow that begins now, the `number`-th that this update begins.

    When the update is tried again it is the same flow: its id is.
    """
    now = clock.now()
    identity = blake2s(f"{update.bot} {update.id} {number}".encode(), digest_size=12).hexdigest()
    origin = msgspec.structs.replace(
        update, id="", message=None, text="", action=None, payload={}, type=""
    )
    deadline = None if timeout is None else now + span(timeout)
    return FlowState(name, identity, now, origin, deadline, version=version)


def span(after: timedelta | float) -> timedelta:
    """Return a number of seconds as a timedelta."""
    return after if isinstance(after, timedelta) else timedelta(seconds=after)


def read(encoded: bytes) -> FlowState:
    """Return a stored flow."""
    return msgspec.json.decode(encoded, type=FlowState)


class Slot:
    """The flow of one session, as an update's handlers find and leave it."""

    def __init__(self, row: Row | None) -> None:
        self._stored = row.flow if row is not None else None
        self.state: FlowState | None = None
        self.ended: Ended | None = None
        self.changed = False
        if self._stored is not None:
            try:
                self.state = read(self._stored)
            except msgspec.DecodeError as error:
                log.error("A flow cannot be read, and is freed: %s", error)
                state = msgspec.json.decode(self._stored)
                self.ended = Ended("", End.LOST, clock.now(), f"{error}", state)
                self.changed = True

    def put(self, state: FlowState | None) -> None:
        """Let this flow wait, instead of what waited before."""
        self.state = state
        self.changed = True

    def end(self, outcome: End, error: object = "", *, keep: bool = False) -> None:
        """End the flow that waits; where asked keep its state, for the operator."""
        if self.state is not None:
            self.ended = Ended.of(self.state, outcome, error, keep=keep)
            self.put(None)

    def saved(self) -> tuple[bytes | None, datetime | None, bytes | None]:
        """Return what is saved: the flow, its deadline, and how the one before it ended."""
        ended = None if self.ended is None else msgspec.json.encode(self.ended)
        if self.state is None:
            return None, None, ended
        flow = self.state.encoded() if self.changed else self._stored
        return flow, self.state.deadline, ended
