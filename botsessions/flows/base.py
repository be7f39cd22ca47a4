"""What is declared of a flow: its function, its options and its hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from botsessions.exceptions import Diverged, LeaseLost, NewerData, SessionConflict, Unavailable
from botsessions.flows import takeover
from botsessions.flows.control import SessionController
from botsessions.flows.state import DEFAULT, End, FlowState, Later, begun
from botsessions.injection import BY_NAME, Plan, provided
from botsessions.keys import SessionKey

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.flows.conversations import Talk
    from botsessions.session import Session
    from botsessions.updates import Update

Function = TypeVar("Function", bound=Callable[..., Any])

#: The hook for what a filtered flow does not want.
MISMATCHED = "mismatched"
#: What each hook is given, beside what every handler may declare.
GIVEN = {End.FAILED.value: frozenset({"error"})}
#: What is no fault of a flow's function: the update is tried again.
PASSING = (Unavailable, LeaseLost, SessionConflict, Diverged, NewerData)
#: How many actions one run of a flow may take.
ORDINALS = 1000


class Step(Plan):
    """A flow's function; what it raises is for the flow's hook, where it has one."""

    def call(self, context: Context, **given: Any) -> Awaitable[Any]:
        return self._guarded(context, given)

    async def _guarded(self, context: Context, given: dict[str, Any]) -> None:
        try:
            await self._step(context, given)
        except PASSING:
            raise
        except Exception as error:
            running = context.running
            if running is None or not running.is_guarded:
                raise
            context.discard()
            running.error = error

    async def _step(self, context: Context, given: dict[str, Any]) -> None:
        await super().call(context, **given)
        await context.flush()


class Running:
    """The session that an update is about, and the flow that it runs there."""

    def __init__(
        self,
        key: SessionKey,
        state: FlowState | None = None,
        *,
        outer: FlowState | None = None,
        is_guarded: bool = False,
        talk: Talk | None = None,
    ) -> None:
        self.key = key
        self.state = state
        #: The flow that waits in the session: this one, or the conversation that began it.
        self.root = outer or state
        self.talk = talk
        #: The first ordinal of what it does.
        self.ordinals = 0 if state is None else ORDINALS * (1 + int(state.id[:5], 16))
        #: Is there a hook for what it raises?
        self.is_guarded = is_guarded
        self.error: BaseException | None = None
        self.control: SessionController | None = None


class Flow:
    """A function that a router knows by name, and that waits in sessions.

    Called, it is the function itself.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        timeout: timedelta | float | None,
        types: Sequence[str],
        where: Callable[..., Any] | None = None,
        closes: bool = False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.function = function
        self.name: str = name or getattr(function, "__name__", "")
        if not self.name:
            raise ImproperlyConfigured(f"{function!r} needs a name: name=…")
        if timeout is not None and not isinstance(timeout, int | float | timedelta):
            raise ImproperlyConfigured(
                f"The timeout of {self.name} is {timeout!r}; it is seconds, a timedelta or None, "
                "and the decorator is called: @router.waiter()."
            )
        self.timeout = timeout
        self.types = frozenset(str(each) for each in types)
        self.where = None if where is None else Plan(where, threaded=False)
        #: Is the session closed when the flow ends?
        self.closes = closes
        self.plan: Plan = Step(function)
        self.hooks: dict[str, Plan] = {}
        self._changed = changed
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)

    # Hooks

    def timed_out(self, function: Function) -> Function:
        """Call this when the deadline has passed; with `control.keep(…)` a waiter waits on."""
        return self._hook(End.TIMED_OUT, function)

    def ended(self, function: Function) -> Function:
        """Call this when it ended normally."""
        return self._hook(End.ENDED, function)

    def cancelled(self, function: Function) -> Function:
        """Call this when somebody ended it, or began another flow in its place."""
        return self._hook(End.CANCELLED, function)

    def failed(self, function: Function) -> Function:
        """Call this, with the parameter `error`, when it raised or was stopped with an error.

        The update is then done. Without this hook it is tried again like any other, and the flow
        ends when it is parked.
        """
        return self._hook(End.FAILED, function)

    def mismatched(self, function: Function) -> Function:
        """Call this for a message that `where` does not want.

        Without this hook such a message goes to the next flow, and to the handlers.
        """
        return self._hook(MISMATCHED, function)

    def _hook(self, name: str, function: Function) -> Function:
        if name in self.hooks:
            raise ImproperlyConfigured(f"{self.name} has a hook {name} already.")
        self.hooks[name] = Plan(function, given=GIVEN.get(name, frozenset()))
        self._changed()
        return function

    # Beginning

    def state(
        self,
        update: Update,
        timeout: timedelta | float | None = DEFAULT,
        *,
        number: int = 0,
    ) -> FlowState:
        """Return the state with which it begins."""
        timeout = self.timeout if timeout is DEFAULT else timeout
        return begun(self.name, update, timeout, number=number)

    def begin(self, session: Session[Any], timeout: timedelta | float | None = DEFAULT) -> None:
        """Let it wait in a session, whose flow until now is cancelled."""
        context = session._context
        bound = context.bot.router.flows.get(self.name)
        if bound is None or bound.flow is not self:
            raise ImproperlyConfigured(
                f"{self!r} is no flow of bot '{context.bot.alias}': include its router."
            )
        takeover.check(session)
        slot = session.slot
        before = slot.state
        running = context.running
        if before is not None and running is not None and running.state is before:
            slot.end(End.ENDED)  # it goes over into the other
        elif before is not None:
            slot.end(End.CANCELLED)
            context.later.append(Later(session, before, End.CANCELLED))
        state = self.state(context.update, timeout, number=context.count())
        slot.put(state)
        self._begun(session, state)

    def _begun(self, session: Session[Any], state: FlowState) -> None:
        raise NotImplementedError


class Waiter(Flow):
    """A flow whose function is called for each message until it stops.

    `record_history` keeps what it was told; what is more than MAX_DATA_BYTES is forgotten, the
    oldest first.
    """

    def __init__(self, function: Callable[..., Any], record_history: bool, **options: Any) -> None:
        super().__init__(function, **options)
        self.record_history = record_history

    def _begun(self, session: Session[Any], state: FlowState) -> None:
        if state.deadline is not None and state.deadline <= state.began_at:
            session.slot.end(End.ENDED)
            session._context.later.append(Later(session, state, End.ENDED))


def _control(context: Context) -> SessionController:
    running = context.running
    if running is None or running.control is None:
        raise RuntimeError("Only a waiter, and the hooks of a flow, have a SessionController.")
    return running.control


provided[SessionController] = _control
BY_NAME["control"] = SessionController
