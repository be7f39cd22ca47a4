"""Conversations: one function that asks and waits, kept by a journal.

The function is never kept in memory. For each answer it is run again from its beginning; what it
did before (what was said, sent, run and read) is taken from the journal, until it comes to the wait
for which the answer is. Every action that it takes is journaled, whoever offers it: `session.send`,
`bot.call`, `talk.run`. So the function must come the same way each time: what may turn out
otherwise, as a query or the time, goes through `talk.run` or `talk.now`.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from botsessions import clock
from botsessions.data import Misfit
from botsessions.exceptions import Diverged, FlowFailed
from botsessions.flows.base import DEFAULT, Flow, Step, Waiter
from botsessions.flows.state import End, Entry, FlowState, Later, begun, span
from botsessions.injection import BY_NAME, provided
from botsessions.updates import Update

if TYPE_CHECKING:
    from botsessions.context import Action, Context
    from botsessions.holding import Holding
    from botsessions.session import Session

log = logging.getLogger("botsessions.flows")

WAIT, ACT, READ, NOW, BEGIN = "wait", "act", "read", "now", "begin"


class TimedOut(TimeoutError):
    """Nothing was said in time. A conversation that does not catch it has timed out."""


def as_json(value: Any) -> str:
    """Return a value as JSON text. Raises `TypeError` where it is none."""
    return msgspec.json.encode(value).decode()


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


class Talk:
    """The running conversation, for a parameter annotated so, or named `talk`."""

    def __init__(
        self,
        context: Context,
        session: Session[Any],
        state: FlowState,
        flow: Conversation,
        happened: Happened | None = None,
    ) -> None:
        self.session = session
        self._context = context
        self._state = state
        self._flow = flow
        #: What is still to be answered to the wait that it is for.
        self._happened = happened
        self._at = 0
        self._read: dict[str, Holding[Any]] = {}
        self._is_live = False
        #: Has it come to a wait?
        self.is_paused = False
        self.is_timed_out = False
        #: What is wrong with the journal, where the code has changed.
        self.diverged: Diverged | None = None
        #: Was what was said not what it waits for?
        self.is_passed = False
        self._random: random.Random | None = None

    # Waiting

    async def wait(
        self,
        timeout: timedelta | float | None = DEFAULT,
        *,
        where: Callable[[Update], Any] | None = None,
        types: Sequence[str] | None = None,
        otherwise: str | None = None,
    ) -> Update:
        """Return what is said next. Raises `TimeoutError` when nothing is said in time.

        `timeout` is in seconds, a timedelta, or None for never; `types` are the types of update.
        What `where` (a function of the update, which may be asynchronous) does not want is answered
        with the text `otherwise`; without one it goes to the next flow, and to the handlers.
        """
        await self._settle()
        entry = self._next(WAIT)
        if entry is not None:
            update = msgspec.json.decode(entry.text, type=Update | None)
            if update is None:
                raise TimedOut("Nothing was said in time.")
            return update
        if self._happened is not None and self._happened.is_timeout:
            self._happened = None
            self._note(WAIT)
            raise TimedOut("Nothing was said in time.")
        if self._happened is not None and self._happened.update is not None:
            update = self._happened.update
            if await self._wants(update, where, types):
                self._happened = None
                self._note(WAIT, value=update)
                return update
            if otherwise is None or not self._is_said(update, types):
                self.is_passed = True
            else:
                self._happened = None
                await self._say(otherwise)
        timeout = self._flow.timeout if timeout is DEFAULT else timeout
        if timeout is not None and span(timeout) <= timedelta(0):
            self._note(WAIT)
            raise TimedOut("Nothing was said in time.")
        self._pause(None if timeout is None else clock.now() + span(timeout))

    async def begin(self, waiter: Waiter, timeout: timedelta | float | None = DEFAULT) -> None:
        """Let a waiter receive what is said, and return when it ends normally.

        Its end is told here, not to its hooks. Raises `TimeoutError` when it times out, and
        `FlowFailed` when it raises or stops with an error.
        """
        await self._settle()
        entry = self._next(BEGIN, waiter.name)
        if entry is None:
            ended = self._happened
            if ended is None or ended.ended is None:
                if self._context.bot.router.flows.get(waiter.name) is None:
                    raise ImproperlyConfigured(f"{waiter!r} is no flow of the bot's router.")
                inner = waiter.state(self._context.update, timeout)
                if self._state.inner is None:
                    self._state.inner = inner
                if inner.deadline is None or inner.deadline > inner.began_at:
                    self._pause(self._state.inner.deadline)
                ended = Happened(ended=End.ENDED)
            self._happened = self._state.inner = None
            entry = self._note(BEGIN, waiter.name, [ended.ended, ended.error])
        outcome, error = entry.value
        if outcome == End.TIMED_OUT:
            raise TimedOut(f"{waiter.name} has timed out.")
        if outcome == End.FAILED:
            raise FlowFailed(f"{waiter.name} has failed: {error}")

    # Doing

    def send(self, text: str, **options: Any) -> Action[Any]:
        """Send a message in the conversation's session."""
        return self.session.send(text, **options)

    async def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a function once, and return what it returned whenever this is run again.

        It may be `async def`; a `def` runs in a thread. What it returns must be JSON. Where the
        process is killed before that is journaled, it is called again.
        """
        from botsessions.context import Action

        async def call() -> Any:
            if inspect.iscoroutinefunction(function):
                result = await function(*arguments, **options)
            else:
                result = await sync_to_async(function)(*arguments, **options)
            return msgspec.json.decode(as_json(result))

        name = getattr(function, "__qualname__", repr(function))
        return await Action(self._context, call, name=f"run {name}")

    def now(self) -> datetime:
        """Return the time of day at which this was first called here."""
        entry = self._next(NOW) or self._note(NOW, value=clock.now().isoformat())
        return datetime.fromisoformat(entry.value)

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same whenever this is run again."""
        if self._random is None:
            seed = f"{self._state.id}/{self._state.checkpoints}"
            self._random = random.Random(seed)  # noqa: S311
        return self._random

    # Going back and forth

    @property
    def state(self) -> Any:
        """What the last checkpoint was given; None before the first."""
        return msgspec.json.decode(self._state.checkpoint)

    async def checkpoint(self, state: Any = None) -> None:
        """Begin the function again, with this `state` (JSON) and an empty journal.

        What is behind is forgotten, so that a long loop costs no more with every turn.
        """
        await self._settle()
        self._catch_up()
        self._state.checkpoint = as_json(state)
        self._state.checkpoints += 1
        self._rewind(0)

    async def back(self, steps: int = 1) -> None:
        """Begin again at the wait before the one whose answer has just come, or `steps` before."""
        if steps < 1:
            raise ValueError("talk.back() goes at least one step back.")
        await self._settle()
        self._catch_up()
        waits = [at for at, entry in enumerate(self._state.journal) if entry.kind == WAIT]
        last = len(waits) - 2 - steps
        self._rewind(waits[last] + 1 if last >= 0 else 0, restores=True)

    async def restart(self) -> None:
        """Begin again at the beginning, or at the last checkpoint."""
        await self._settle()
        self._catch_up()
        self._rewind(0, restores=True)

    def _rewind(self, at: int, *, restores: bool = False) -> None:
        """Begin again with the journal's first steps alone; data may become what it was then."""
        left, self._state.journal = self._state.journal[at:], self._state.journal[:at]
        for entry in reversed(left) if restores else ():
            if entry.kind == READ and entry.name in self._read:
                self._read[entry.name].pretend(entry.text.encode())
        if not restores:
            self._read.clear()
        self._happened = None
        self._random = None
        raise Again

    # The journal

    def reset(self) -> None:
        """Begin to run: the next step is the journal's first."""
        self._at = 0
        self._is_live = False
        self._read.clear()

    def replayed(self, action: Action[Any]) -> Entry | None:
        """Return the journal's entry for an action, None for one that is to be taken now."""
        return self._next(ACT, action.name)

    def acted(self, action: Action[Any], result: Any) -> None:
        """Note an action that was taken."""
        self._note(ACT, action.name, result)

    def reads(self, session: Holding[Any]) -> None:
        """A session's data is used: let it be what it was when it was first used here."""
        name = str(session.key)
        if name in self._read:
            return
        entry = self._next(READ, name)
        self._read[name] = session
        if entry is None:
            self._note(READ, name, msgspec.Raw(session.snapshot()))
            return
        try:
            session.pretend(entry.text.encode())
        except Misfit as error:
            raise Diverged(f"The data of session {name} was another then: {error}") from error

    def returned(self) -> None:
        """The function has returned. Raises `Diverged` where it left out what it did before."""
        if self.is_paused:
            return
        if self._at < len(self._state.journal) or self._happened is not None:
            raise Diverged(f"{self._flow.name} returned before it came to where it waited.")

    def abandon(self) -> None:
        """Undo what an incomplete run has done to the data."""
        self._is_live = True
        for session in self._read.values():
            session.catch_up(discard=True)

    def _next(self, kind: str, name: str = "") -> Entry | None:
        """Return the journal's next entry, None at its end. Raises `Diverged` for another one."""
        if self.is_paused:
            raise Paused  # whoever caught it before
        if self._at >= len(self._state.journal):
            self._catch_up()
            return None
        entry = self._state.journal[self._at]
        if (entry.kind, entry.name) != (kind, name):
            raise Diverged(
                f"Step {self._at + 1} of {self._flow.name} was '{entry.kind} {entry.name}', "
                f"and is '{kind} {name}' now."
            )
        self._at += 1
        return entry

    def _note(self, kind: str, name: str = "", value: Any = None) -> Entry:
        entry = Entry(kind, name, as_json(value))
        self._state.journal.append(entry)
        self._at = len(self._state.journal)
        return entry

    def _catch_up(self) -> None:
        """What comes now has not been before: the data is what is stored."""
        if not self._is_live:
            self._is_live = True
            for session in self._read.values():
                session.catch_up()

    async def _settle(self) -> None:
        """Take the actions that were not awaited."""
        if self.is_paused:
            raise Paused
        await self._context.flush()

    def _is_said(self, update: Update, types: Sequence[str] | None) -> bool:
        return update.type in (self._flow.types if types is None else types)

    async def _wants(
        self,
        update: Update,
        where: Callable[[Update], Any] | None,
        types: Sequence[str] | None,
    ) -> bool:
        if not self._is_said(update, types):
            return False
        with self._aside():
            wants = True if where is None else where(update)
            return bool(await wants if inspect.isawaitable(wants) else wants)

    async def _say(self, text: str) -> None:
        """Send what is said each time somebody says the wrong thing."""
        with self._aside():
            await self.session.send(text)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Do something that is no step of the conversation: it does not bring it further."""
        self._context.script = None
        try:
            yield
        finally:
            self._context.script = self

    def _pause(self, deadline: datetime | None) -> NoReturn:
        if self._state.waits_at != len(self._state.journal):
            self._state.waits_at = len(self._state.journal)
            self._state.deadline = deadline
        self._state.encoded()  # raises where it is too large
        self.is_paused = True
        raise Paused


class Pausing(Step):
    """A conversation's function: called, it runs to its next wait, or to its end."""

    async def _step(self, context: Context, given: dict[str, Any]) -> None:
        talk = context.script
        if talk is None:
            raise RuntimeError(f"{self.name} is a conversation: session.begin(it) runs it.")
        while True:
            talk.reset()
            try:
                await super()._step(context, given)
                talk.returned()
                return
            except TimedOut:
                talk.is_timed_out = True
                return
            except Diverged as error:
                talk.diverged = error
                return
            except Paused:
                return
            except Again:
                context.drop()


class Conversation(Flow):
    """A flow whose function runs from one wait to the next.

    It is `async def`. After a restart, and for each answer, it is run again from its beginning (or
    its last checkpoint), and what it did before is read from a journal instead of done.
    """

    def __init__(
        self, function: Callable[..., Any], version: int, on_change: str, **options: Any
    ) -> None:
        super().__init__(function, **options)
        if not inspect.iscoroutinefunction(function):
            raise ImproperlyConfigured(f"Conversation {self.name} must be an async function.")
        if on_change not in ("restart", "fail"):
            raise ImproperlyConfigured(
                f"on_change of {self.name} is {on_change!r}; it is 'restart' or 'fail'."
            )
        self.version = version
        self.on_change = on_change
        self.plan = Pausing(function)

    def state(self, update: Update, timeout: timedelta | float | None = None) -> FlowState:
        # Its waits have deadlines of their own.
        return begun(self.name, update, None, self.version)

    def begin(self, session: Session[Any], timeout: timedelta | float | None = DEFAULT) -> None:
        if timeout is not DEFAULT:
            raise TypeError(f"{self.name} is a conversation: its waits have timeouts of their own.")
        super().begin(session)

    def _begun(self, session: Session[Any], state: FlowState) -> None:
        session._context.later.append(Later(session, state))


def _talk(context: Context) -> Talk:
    if context.script is None:
        raise RuntimeError("Only the function of a conversation has a Talk.")
    return context.script


provided[Talk] = _talk
BY_NAME["talk"] = Talk
