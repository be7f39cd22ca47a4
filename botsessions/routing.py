"""Routers: which handler, or which flow, an update goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from botsessions.context import Context
from botsessions.flows.base import Flow, Waiter
from botsessions.flows.conversations import Conversation
from botsessions.injection import Plan
from botsessions.marks import Scope
from botsessions.updates import Update, UpdateType

Function = TypeVar("Function", bound=Callable[..., Any])
AFlow = TypeVar("AFlow", bound=Flow)
Filter = Callable[..., Any]
#: Says whether a session tracks the message of an update.
Matcher = Callable[[Update], bool]

#: The types of update in which somebody says something new to the bot.
MESSAGES = (UpdateType.MESSAGE, UpdateType.BUSINESS_MESSAGE, UpdateType.GUEST_MESSAGE)


class Route:
    """A handler, the updates it takes, and what stands around it: middleware and error handlers."""

    def __init__(
        self,
        types: frozenset[str],
        filters: Sequence[Filter],
        handler: Plan,
        *,
        during_flows: bool = False,
    ) -> None:
        self.types = types
        #: Is it asked before a flow that waits is?
        self.during_flows = during_flows
        plans = [Plan(each, threaded=False) for each in filters]
        self.pure = [plan.function for plan in plans if plan.pure]
        self.filters = [plan for plan in plans if not plan.pure]
        self.handler = handler
        self.middleware: tuple[Plan, ...] = ()
        self.errors: tuple[tuple[tuple[type[Exception], ...], Plan], ...] = ()

    def within(self, router: Router) -> Route:
        """Return this route with a router's middleware and error handlers around it."""
        route = object.__new__(Route)
        route.__dict__.update(self.__dict__)
        route.__dict__.pop("fragments", None)
        route.middleware = (*router._middleware, *self.middleware)
        route.errors = (*self.errors, *router._errors)
        return route

    @cached_property
    def fragments(self) -> tuple[tuple[Scope, str], ...]:
        """The scopes and qualifiers of the sessions that the filters, the middleware, the handler
        and its error handlers declare.
        """
        plans = [*self.filters, *self.middleware, self.handler, *(plan for _, plan in self.errors)]
        return tuple(dict.fromkeys(each for plan in plans for each in plan.fragments))

    async def matches(self, context: Context) -> bool:
        """Ask the filters that need more than the update."""
        for plan in self.filters:
            if not await plan.call(context):
                return False
        return True

    async def run(self, context: Context, **given: Any) -> None:
        """Call the handler within its middleware, with what is `given` to it by name.

        Where that raises, the first error handler that fits may recover.
        """
        try:
            if self.middleware:
                await self._call(context, 0, given)
            else:
                await self.handler.call(context, **given)
            await context.flush()
        except Exception as error:
            for kinds, plan in self.errors:
                if isinstance(error, kinds):
                    context.drop()
                    await plan.call(context, error=error)
                    await context.flush()
                    return
            raise

    async def _call(self, context: Context, depth: int, given: Mapping[str, Any]) -> Any:
        if depth == len(self.middleware):
            return await self.handler.call(context, **given)

        async def call_next() -> Any:
            return await self._call(context, depth + 1, given)

        return await self.middleware[depth].call(context, call_next=call_next)


class BoundFlow:
    """A flow within the routers that hold it, whose middleware and error handlers are its own."""

    def __init__(self, flow: Flow, routers: tuple[Router, ...] = ()) -> None:
        self.flow = flow
        self._routers = routers

    def within(self, router: Router) -> BoundFlow:
        """Return this flow with another router around it."""
        return BoundFlow(self.flow, (*self._routers, router))

    def has(self, hook: str) -> bool:
        """Was such a hook declared?"""
        return hook in self.flow.hooks

    @cached_property
    def routes(self) -> dict[str, Route]:
        """The routes of its function, under `""`, and of its hooks."""
        plans = {"": self.flow.plan, **self.flow.hooks}
        return {name: self._route(plan) for name, plan in plans.items()}

    @cached_property
    def fragments(self) -> list[tuple[Scope, str]]:
        """The scopes and qualifiers of the sessions that its function and its hooks declare."""
        found = [each for route in self.routes.values() for each in route.fragments]
        if self.flow.where is not None:
            found += self.flow.where.fragments
        return list(dict.fromkeys(found))

    def _route(self, plan: Plan) -> Route:
        route = Route(frozenset(), (), plan)
        for router in self._routers:
            route = route.within(router)
        return route


class Router:
    """Handlers and how they are found: the first that matches, in order of registration, gets the
    update.

        router = Router()

        @router.command("start")
        async def start(session: Session) -> None: ...

    A filter is a callable that says whether the handler wants the update; it declares its
    parameters like a handler.
    """

    def __init__(self) -> None:
        self._entries: list[Route | Router | Flow] = []
        self._middleware: list[Plan] = []
        self._errors: list[tuple[tuple[type[Exception], ...], Plan]] = []
        self._parents: list[Router] = []
        self._routes: dict[str, list[Route]] = {}
        self._matchers: dict[str, Matcher] = {}
        self._scopes: frozenset[Scope] | None = None
        self._flows: dict[str, BoundFlow] | None = None
        #: What is called for a session, by the name of its occasion.
        self._occasions: dict[str, Plan] = {}

    # Registering

    def on(
        self, *types: str, filters: Sequence[Filter] = (), during_flows: bool = False
    ) -> Callable[[Function], Function]:
        """Take updates of these types; without any, every update.

        What a flow waits for goes to the flow, and to no handler but those `during_flows`, which
        are asked before it: a command that cancels, or tells the time.
        """

        def register(function: Function) -> Function:
            wanted = frozenset(str(each) for each in types)
            plan = Plan(function)
            self._entries.append(Route(wanted, filters, plan, during_flows=during_flows))
            self._changed()
            return function

        return register

    def message(
        self, *filters: Filter, during_flows: bool = False
    ) -> Callable[[Function], Function]:
        """Take what somebody says to the bot."""
        return self.on(*MESSAGES, filters=filters, during_flows=during_flows)

    def command(
        self, *names: str, filters: Sequence[Filter] = (), during_flows: bool = False
    ) -> Callable[[Function], Function]:
        """Take messages that begin with one of these commands, given without the slash."""
        wanted = frozenset(name.lstrip("/") for name in names)
        if not wanted:
            raise ImproperlyConfigured("router.command() needs the name of a command.")

        def is_command(update: Update) -> bool:
            return update.command in wanted

        return self.on(*MESSAGES, filters=(is_command, *filters), during_flows=during_flows)

    def action(
        self, *actions: str, filters: Sequence[Filter] = (), during_flows: bool = False
    ) -> Callable[[Function], Function]:
        """Take presses of buttons that carry one of these; without any, every press."""
        wanted = frozenset(actions)

        def is_action(update: Update) -> bool:
            return update.action is not None and (not wanted or update.action in wanted)

        every = (is_action, *filters)
        return self.on(UpdateType.CALLBACK_QUERY, filters=every, during_flows=during_flows)

    def waiter(
        self,
        timeout: timedelta | float | None = 30,
        record_history: bool = False,
        *,
        name: str = "",
        where: Filter | None = None,
        types: Sequence[str] = MESSAGES,
        closes: bool = False,
    ) -> Callable[[Callable[..., Any]], Waiter]:
        """Let a function receive what a session's sender says next: `await session.begin(it)`.

        It times out after so many seconds (or a timedelta; None for never) unless it is kept.
        `where` is a filter of what it wants, `types` the types of update. A flow that `closes` ends
        its session's tracking when it ends. It is stored by its name, its function's unless given:
        rename it, and those who wait in it are lost.
        """

        def register(function: Callable[..., Any]) -> Waiter:
            return self._add_flow(
                Waiter(
                    function,
                    record_history,
                    name=name,
                    timeout=timeout,
                    types=types,
                    where=where,
                    closes=closes,
                    changed=self._changed,
                )
            )

        return register

    def conversation(
        self,
        timeout: timedelta | float | None = None,
        *,
        name: str = "",
        version: int = 0,
        on_change: str = "restart",
        types: Sequence[str] = MESSAGES,
        closes: bool = False,
    ) -> Callable[[Callable[..., Any]], Conversation]:
        """Let a function ask and wait for answers in one line of thought.

        `timeout` is that of a wait which names none. Where its code has changed so that it does not
        fit what was said already, or `version` has, it begins anew, or with `on_change="fail"`
        ends and tells the operator.
        """

        def register(function: Callable[..., Any]) -> Conversation:
            return self._add_flow(
                Conversation(
                    function,
                    version,
                    on_change,
                    name=name,
                    timeout=timeout,
                    types=types,
                    closes=closes,
                    changed=self._changed,
                )
            )

        return register

    def lost_flow(self, function: Function) -> Function:
        """Call this for a session whose flow the code does not have any more.

        It may declare `flow`, the flow's name. The session is freed before; the update then goes
        on to the handlers.
        """
        return self._add_occasion("lost_flow", function, "flow")

    def expired(self, function: Function) -> Function:
        """Call this once for each session that has expired, when the sweep finds it.

        It may declare `session`, which begins anew, and `data`, what was stored in its row, as
        JSON has it. What it writes is kept; otherwise the session's row is deleted with its end.
        """
        return self._add_occasion("expired", function, "data")

    def middleware(self, function: Function) -> Function:
        """Put a function around every handler of this router.

        It is an `async def` that declares `call_next` and awaits it.
        """
        plan = Plan(function, given=frozenset({"call_next"}))
        if not plan.is_async or "call_next" not in dict(plan.parameters):
            raise ImproperlyConfigured(
                f"Middleware {plan.name} must be an async function with a parameter 'call_next'."
            )
        self._middleware.append(plan)
        self._changed()
        return function

    def error(self, *kinds: type[Exception]) -> Callable[[Function], Function]:
        """Take these exceptions (without any, all) of this router's handlers, as the parameter
        `error`.

        When it returns, the update is done and its sessions are saved as they are; when it raises,
        they are not.
        """

        def register(function: Function) -> Function:
            plan = Plan(function, given=frozenset({"error"}))
            self._errors.append((kinds or (Exception,), plan))
            self._changed()
            return function

        return register

    def include(self, router: Router) -> None:
        """Add another router's handlers here, behind those registered so far."""
        if router is self or router._contains(self):
            raise ImproperlyConfigured("A router cannot include itself.")
        self._entries.append(router)
        router._parents.append(self)
        self._changed()

    def matcher(self, function: Matcher) -> Matcher:
        """Give a function that chooses what a session tracks a name: its own.

        It takes an update and says whether the session that was opened with it tracks the message.
        """
        name = function.__name__
        if self.find_matcher(name) not in (None, function):
            raise ImproperlyConfigured(f"This router has another matcher {name!r}.")
        self._matchers[name] = function
        return function

    # Finding

    def find_matcher(self, name: str) -> Matcher | None:
        """Return the matcher of that name, of this router or of one that it includes."""
        found = self._matchers.get(name)
        inner = (each for each in self._entries if isinstance(each, Router))
        return found or next(filter(None, (each.find_matcher(name) for each in inner)), None)

    @property
    def scopes(self) -> frozenset[Scope]:
        """The scopes of the sessions that its handlers and flows declare."""
        if self._scopes is None:
            found = [fragment for route in self.flat() for fragment in route.fragments]
            found += [fragment for bound in self.flows.values() for fragment in bound.fragments]
            self._scopes = frozenset(scope for scope, _ in found)
        return self._scopes

    @property
    def flows(self) -> Mapping[str, BoundFlow]:
        """Its flows and those of the routers that it includes, by name."""
        if self._flows is None:
            self._flows = {}
            for entry in self._entries:
                inner = entry.flows.values() if isinstance(entry, Router) else ()
                for each in inner or ([BoundFlow(entry)] if isinstance(entry, Flow) else []):
                    other = self._flows.get(each.flow.name)
                    if other is not None and other.flow is not each.flow:
                        raise ImproperlyConfigured(
                            f"This router has two flows named '{each.flow.name}': give one another "
                            "name=…"
                        )
                    self._flows[each.flow.name] = each.within(self)
        return self._flows

    @cached_property
    def flow_types(self) -> frozenset[str]:
        """The types of update that its flows take."""
        return frozenset(each for bound in self.flows.values() for each in bound.flow.types)

    def occasion(self, name: str) -> Route | None:
        """Return the route of what is called on an occasion, its own or that of an included one."""
        if name in self._occasions:
            return Route(frozenset(), (), self._occasions[name]).within(self)
        for entry in self._entries:
            found = entry.occasion(name) if isinstance(entry, Router) else None
            if found is not None:
                return found.within(self)
        return None

    def candidates(self, update: Update) -> list[Route]:
        """Return the routes that may match, in order, up to the first that is sure to.

        Behind it come those that are asked before flows, should one wait.
        """
        routes = self._routes.get(update.type)
        if routes is None:
            routes = [each for each in self.flat() if not each.types or update.type in each.types]
            self._routes[update.type] = routes
        found: list[Route] = []
        is_sure = False
        for route in routes:
            if is_sure and not route.during_flows:
                continue
            for wants in route.pure:
                if not wants(update):
                    break
            else:
                found.append(route)
                is_sure = is_sure or not route.filters
        return found

    async def dispatch(self, context: Context, candidates: Sequence[Route]) -> bool:
        """Run the first of these routes that matches; return False when none does."""
        for route in candidates:
            if not route.filters or await route.matches(context):
                await route.run(context)
                return True
        return False

    def flat(self) -> list[Route]:
        """Return its routes and those of the routers that it includes, in the order in which they
        are asked.
        """
        routes: list[Route] = []
        for entry in self._entries:
            if isinstance(entry, Router):
                routes.extend(route.within(self) for route in entry.flat())
            elif isinstance(entry, Route):
                routes.append(entry.within(self))
        return routes

    def _add_occasion(self, name: str, function: Function, given: str) -> Function:
        if name in self._occasions:
            raise ImproperlyConfigured(f"This router has a function {name} already.")
        self._occasions[name] = Plan(function, given=frozenset({given}))
        self._changed()
        return function

    def _add_flow(self, flow: AFlow) -> AFlow:
        self._entries.append(flow)
        self._changed()
        _ = self.flows  # tells of two of one name
        return flow

    def _contains(self, router: Router) -> bool:
        return any(
            isinstance(entry, Router) and (entry is router or entry._contains(router))
            for entry in self._entries
        )

    def _changed(self) -> None:
        self._routes.clear()
        self._scopes = self._flows = None
        self.__dict__.pop("flow_types", None)
        for parent in self._parents:
            parent._changed()
