"""Conversations: one function that asks and waits, kept by a journal.

The function is never kept in memory. For each answer it is run again from its beginning; what it
did before (what was said, sent, run and read) is taken from the journal, until it comes to the wait
for which the answer is. Every action that it takes is journaled, whoever offers it: `session.send`,
`bot.call`, `talk.run`. So the function must come the same way each time: what may turn out
otherwise, as a query or the time, goes through `talk.run` or `talk.now`.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions import clock
from botsessions.context import Action
from botsessions.exceptions import Diverged, FlowFailed
from botsessions.flows.base import PASSING, Flow, Step, Waiter
from botsessions.flows.journal import BEGIN, NOW, WAIT, Again, Happened, Journal, Paused
from botsessions.flows.state import DEFAULT, End, FlowState, Later, as_json, begun, span
from botsessions.injection import BY_NAME, is_asynchronous, provided
from botsessions.updates import Update

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.session import Session


class TimedOut(TimeoutError):
    """Nothing was said in time. A conversation that does not catch it has timed out."""


class Talk:
    """The running conversation, for a parameter annotated so, or named `talk`."""

    def __init__(
        self, context: Context, session: Session[Any], flow: Conversation, journal: Journal
    ) -> None:
        self.session = session
        self.journal = journal
        self._context = context
        self._flow = flow
        self._random: random.Random | None = None
        #: Was what was said not what it waits for?
        self.is_passed = False
        #: How the function ended, unless it waits: it returned, or it raised.
        self.outcome: End | None = None
        self.error: BaseException | None = None

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

        `timeout` is in seconds, a timedelta, or None for never. `types` are the types of update:
        messages unless given; those that carry neither a message nor a button are to be among the
        conversation's own. What `where` (a function of the update, which may be asynchronous) does
        not want is answered with the text `otherwise`; without one it goes to the next flow, and
        to the handlers.
        """
        journal = await self._settled()
        entry = journal.next(WAIT)
        if entry is not None:
            update = msgspec.json.decode(entry.text, type=Update | None)
            if update is None:
                raise TimedOut("Nothing was said in time.")
            return update
        happened, journal.happened = journal.happened, None
        if happened is not None and happened.is_timeout:
            journal.note(WAIT)
            raise TimedOut("Nothing was said in time.")
        if happened is not None and happened.update is not None:
            said = happened.update.type in (self._flow.types if types is None else types)
            if said and await self._wants(happened.update, where):
                journal.note(WAIT, value=happened.update)
                return happened.update
            if said and otherwise is not None:
                with self._aside():
                    await self.session.send(otherwise)
            else:
                self.is_passed = True
        timeout = self._flow.timeout if timeout is DEFAULT else timeout
        if timeout is not None and span(timeout) <= timedelta(0):
            journal.note(WAIT)
            raise TimedOut("Nothing was said in time.")
        journal.pause(WAIT, "", None if timeout is None else clock.now() + span(timeout))

    async def begin(self, waiter: Waiter, timeout: timedelta | float | None = DEFAULT) -> None:
        """Let a waiter receive what is said, and return when it ends normally.

        Its end is told here, not to its hooks. Raises `TimeoutError` when it times out, and
        `FlowFailed` when it raises or stops with an error.
        """
        if not isinstance(waiter, Waiter) or waiter.name not in self._context.bot.router.flows:
            raise ImproperlyConfigured(f"{waiter!r} is no waiter of the bot's router.")
        journal = await self._settled()
        entry = journal.next(BEGIN, waiter.name)
        if entry is None:
            state = journal.state
            ended, journal.happened = journal.happened, None
            if ended is None:
                state.inner = waiter.state(
                    self._context.update, timeout, number=self._context.count()
                )
                if state.inner.deadline is None or state.inner.deadline > state.inner.began_at:
                    journal.pause(BEGIN, waiter.name, state.inner.deadline)
                ended = Happened(ended=End.ENDED)
            state.inner = None
            entry = journal.note(BEGIN, waiter.name, [ended.ended, ended.error])
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

        async def call() -> Any:
            if is_asynchronous(function):
                result = await function(*arguments, **options)
            else:
                result = await self._context.in_thread(function, *arguments, **options)
            if inspect.isawaitable(result):  # as of a manager's asynchronous method
                result = await result
            return msgspec.json.decode(as_json(result))

        name = getattr(function, "__qualname__", repr(function))
        return await Action(self._context, call, name=f"run {name}")

    def now(self) -> datetime:
        """Return the time of day at which this was first called here."""
        journal = self.journal
        entry = journal.next(NOW) or journal.note(NOW, value=clock.now().isoformat())
        return datetime.fromisoformat(entry.value)

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same whenever this is run again."""
        if self._random is None:
            state = self.journal.state
            self._random = random.Random(f"{state.id}/{state.checkpoints}")  # noqa: S311
        return self._random

    # Going back and forth

    @property
    def state(self) -> Any:
        """What the last checkpoint was given; None before the first."""
        return msgspec.json.decode(self.journal.state.checkpoint)

    async def checkpoint(self, state: Any = None) -> None:
        """Begin the function again, with this `state` (JSON) and an empty journal.

        What is behind is forgotten, so that a long loop costs no more with every turn.
        """
        journal = await self._settled()
        journal.state.checkpoint = as_json(state)
        journal.state.checkpoints += 1
        journal.rewind(0)

    async def back(self, steps: int = 1) -> None:
        """Begin again at the wait before the one whose answer has just come, or `steps` before.

        The data of its sessions is what it was then.
        """
        if steps < 1:
            raise ValueError("talk.back() goes at least one step back.")
        journal = await self._settled()
        waits = [at for at, entry in enumerate(journal.state.journal) if entry.kind == WAIT]
        last = len(waits) - 2 - steps
        journal.rewind(waits[last] + 1 if last >= 0 else 0, restores=True)

    async def restart(self) -> None:
        """Begin again at the beginning, or at the last checkpoint, with the data of then."""
        journal = await self._settled()
        journal.rewind(0, restores=True)

    # Helpers

    async def _settled(self) -> Journal:
        """Take the actions that were not awaited, and return the journal."""
        self.journal.check()
        await self._context.flush()
        return self.journal

    async def _wants(self, update: Update, where: Callable[[Update], Any] | None) -> bool:
        with self._aside():
            wants = True if where is None else where(update)
            return bool(await wants if inspect.isawaitable(wants) else wants)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Do something that is no step of the conversation: it does not bring it further."""
        self._context.script = None
        try:
            yield
        finally:
            self._context.script = self.journal


class Pausing(Step):
    """A conversation's function: called, it runs to its next wait, or to its end."""

    async def _step(self, context: Context, given: dict[str, Any]) -> None:
        talk = _talk(context)
        while True:
            talk._random = None
            talk.journal.begin()
            try:
                if await self._runs_on(context, talk, given):
                    return
            finally:
                context.script = None

    async def _runs_on(self, context: Context, talk: Talk, given: dict[str, Any]) -> bool:
        """Run it; return False where it is to be run again."""
        context.script = talk.journal
        try:
            await super()._step(context, given)
            talk.journal.returned()
            talk.outcome = End.ENDED
        except Paused:
            context.drop()
        except Again:
            context.drop()
            return False
        except PASSING as error:
            if talk.journal.diverged is not error:
                raise
        except TimedOut as error:
            talk.outcome, talk.error = End.TIMED_OUT, error
            self._check_end(talk)
        except Exception as error:
            talk.outcome, talk.error = End.FAILED, error
            raise
        return True

    def _check_end(self, talk: Talk) -> None:
        try:
            talk.journal.returned()
        except Diverged:
            pass  # it is noted in the journal
        except Paused:
            talk.outcome = None


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

    def mismatched(self, function: Any) -> Any:
        """Raise `ImproperlyConfigured`: its waits say themselves what they want."""
        raise ImproperlyConfigured(
            f"{self.name} is a conversation: use talk.wait(where=…, otherwise=…)."
        )

    def state(
        self,
        update: Update,
        timeout: timedelta | float | None = None,
        *,
        number: int = 0,
    ) -> FlowState:
        # Its waits have deadlines of their own.
        return begun(self.name, update, None, self.version, number=number)

    def begin(self, session: Session[Any], timeout: timedelta | float | None = DEFAULT) -> None:
        if timeout is not DEFAULT:
            raise TypeError(f"{self.name} is a conversation: its waits have timeouts of their own.")
        super().begin(session)

    def _begun(self, session: Session[Any], state: FlowState) -> None:
        session._context.later.append(Later(session, state))


def _talk(context: Context) -> Talk:
    running = context.running
    if running is None or running.talk is None:
        raise RuntimeError("Only the function of a conversation has a Talk.")
    return running.talk


provided[Talk] = _talk
BY_NAME["talk"] = Talk
