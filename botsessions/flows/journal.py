"""The journal of a conversation: what it did before, given back when it is run again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from botsessions.data import Misfit
from botsessions.exceptions import Diverged
from botsessions.flows.state import End, Entry, FlowState, as_json
from botsessions.updates import Update

if TYPE_CHECKING:
    from botsessions.context import Action
    from botsessions.holding import Holding

#: The kinds of step.
WAIT, ACT, READ, NOW, BEGIN = "wait", "act", "read", "now", "begin"


class Paused(BaseException):
    """The conversation waits; not an `Exception`, so that no handler of those takes it."""


class Again(BaseException):
    """The conversation begins again, with the journal that it has now."""


class Happened(msgspec.Struct):
    """What a conversation was woken for: an answer, its deadline, or the end of its waiter."""

    update: Update | None = None
    is_timeout: bool = False
    ended: End | None = None
    error: str = ""


class Journal:
    """The steps of a conversation that is being run, those of the runs before first.

    Each step asks for the `next` entry. While there is one the step was taken before, and is not
    taken now. At the end the data of the sessions, which was what it had been, becomes what is
    stored; from there on each step notes itself. Where the code does not come the same way as
    before, that is `diverged`.
    """

    def __init__(self, state: FlowState, happened: Happened | None = None) -> None:
        self.state = state
        #: What the conversation was woken for, until the step that waited for it has taken it.
        self.happened = happened
        self.diverged: Diverged | None = None
        self.is_paused = False
        self._at = 0
        self._is_live = False
        self._is_rewound = False
        self._read: dict[str, Holding[Any]] = {}

    def begin(self) -> None:
        """The function begins: its first step is the journal's first."""
        self._at = 0
        self._is_live = False
        self._read = {}

    def next(self, kind: str, name: str = "") -> Entry | None:
        """Return the entry of the next step, None where it was not taken before.

        Raises `Diverged` where another step was, or where this is not the one that waited.
        """
        self.check()
        if self._at < len(self.state.journal):
            entry = self.state.journal[self._at]
            if (entry.kind, entry.name) != (kind, name):
                self._diverge(f"'{entry.kind} {entry.name}'", f"'{kind} {name}'")
            self._at += 1
            return entry
        if self.happened is not None and self.state.pending != [kind, name]:
            self._diverge(f"'{' '.join(self.state.pending)}'", f"'{kind} {name}'")
        self._catch_up()
        return None

    def note(self, kind: str, name: str = "", value: Any = None) -> Entry:
        """Note a step that was taken just now."""
        entry = Entry(kind, name, as_json(value))
        self.state.journal.append(entry)
        self._at = len(self.state.journal)
        return entry

    def check(self) -> None:
        """Raise again what the function should have let pass."""
        if self.is_paused:
            raise Paused
        if self.diverged is not None:
            raise self.diverged

    def pause(self, kind: str, name: str, deadline: datetime | None) -> NoReturn:
        """Let the conversation wait in this step; at the same one the deadline stays as it was."""
        state = self.state
        if state.pending != [kind, name] or state.pending_at != len(state.journal):
            state.pending, state.pending_at = [kind, name], len(state.journal)
            state.deadline = deadline
        state.encoded()  # raises where it is too large
        self.is_paused = True
        raise Paused

    def rewind(self, at: int, *, restores: bool = False) -> NoReturn:
        """Begin again with the journal's first entries alone.

        Where asked the data of its sessions is what it was then.
        """
        if self.happened is not None:
            self._diverge(f"'{' '.join(self.state.pending)}'", "another beginning")
        left, self.state.journal = self.state.journal[at:], self.state.journal[:at]
        for entry in reversed(left) if restores else ():
            if entry.kind == READ and entry.name in self._read:
                self._read[entry.name].pretend(entry.text.encode())
        self._is_rewound = restores
        self.state.pending, self.state.pending_at, self.state.deadline = [], -1, None
        raise Again

    def returned(self) -> None:
        """The function has ended by itself. Raises `Diverged` where it left steps out."""
        self.check()
        if self._at < len(self.state.journal):
            entry = self.state.journal[self._at]
            self._diverge(f"'{entry.kind} {entry.name}'", "the end")
        if self.happened is not None:
            self._diverge(f"'{' '.join(self.state.pending)}'", "the end")

    # What its steps do

    def replayed(self, action: Action[Any]) -> Entry | None:
        """Return the entry of an action, None for one that is to be taken now."""
        return self.next(ACT, action.name)

    def acted(self, action: Action[Any], result: Any) -> None:
        """Note an action that was taken."""
        self.note(ACT, action.name, result)

    def reads(self, session: Holding[Any]) -> None:
        """A session's data is used: let it be what it was when it was first used here."""
        name = str(session.key)
        if name in self._read:
            return
        entry = self.next(READ, name)
        self._read[name] = session
        if entry is None:
            self.note(READ, name, msgspec.Raw(session.snapshot()))
            return
        try:
            session.pretend(entry.text.encode())
        except Misfit as error:
            self._diverge(f"'read {name}'", f"of another type: {error}")

    def _catch_up(self) -> None:
        if not self._is_live:
            self._is_live = True
            for session in self._read.values():
                session.catch_up(keep=self._is_rewound)
            self._is_rewound = False

    def _diverge(self, was: str, now: str) -> NoReturn:
        self.diverged = Diverged(
            f"Step {self._at + 1} of conversation '{self.state.name}' was {was}, and is {now} now."
        )
        raise self.diverged
