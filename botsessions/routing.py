"""Routers: which handler an update goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from botsessions.context import Context
from botsessions.injection import Plan
from botsessions.marks import Scope
from botsessions.updates import Update, UpdateType

Function = TypeVar("Function", bound=Callable[..., Any])
Filter = Callable[..., Any]
#: Says whether a session tracks the message of an update.
Matcher = Callable[[Update], bool]

#: The types of update in which somebody says something new to the bot.
MESSAGES = (UpdateType.MESSAGE, UpdateType.BUSINESS_MESSAGE, UpdateType.GUEST_MESSAGE)


class Route:
    """A handler, the updates it takes, and what stands around it: middleware and error handlers."""

    def __init__(self, types: frozenset[str], filters: Sequence[Filter], handler: Plan) -> None:
        self.types = types
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
        specs = [spec for plan in plans for spec in plan.sessions]
        return tuple(dict.fromkeys((spec.scope, spec.qualifier) for spec in specs))

    async def matches(self, context: Context) -> bool:
        """Ask the filters that need more than the update."""
        for plan in self.filters:
            if not await plan.call(context):
                return False
        return True

    async def run(self, context: Context) -> None:
        """Call the handler within its middleware.

        Where that raises, the first error handler that fits may recover.
        """
        try:
            if self.middleware:
                await self._call(context, 0)
            else:
                await self.handler.call(context)
            await context.flush()
        except Exception as error:
            for kinds, plan in self.errors:
                if isinstance(error, kinds):
                    context.drop()
                    await plan.call(context, error=error)
                    await context.flush()
                    return
            raise

    async def _call(self, context: Context, depth: int) -> Any:
        if depth == len(self.middleware):
            return await self.handler.call(context)

        async def call_next() -> Any:
            return await self._call(context, depth + 1)

        return await self.middleware[depth].call(context, call_next=call_next)


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
        self._entries: list[Route | Router] = []
        self._middleware: list[Plan] = []
        self._errors: list[tuple[tuple[type[Exception], ...], Plan]] = []
        self._parents: list[Router] = []
        self._routes: dict[str, list[Route]] = {}
        self._matchers: dict[str, Matcher] = {}
        self._scopes: frozenset[Scope] | None = None

    # Registering

    def on(self, *types: str, filters: Sequence[Filter] = ()) -> Callable[[Function], Function]:
        """Take updates of these types; without any, every update."""

        def register(function: Function) -> Function:
            wanted = frozenset(str(each) for each in types)
            self._entries.append(Route(wanted, filters, Plan(function)))
            self._changed()
            return function

        return register

    def message(self, *filters: Filter) -> Callable[[Function], Function]:
        """Take what somebody says to the bot."""
        return self.on(*MESSAGES, filters=filters)

    def command(
        self, *names: str, filters: Sequence[Filter] = ()
    ) -> Callable[[Function], Function]:
        """Take messages that begin with one of these commands, given without the slash."""
        wanted = frozenset(name.lstrip("/") for name in names)
        if not wanted:
            raise ImproperlyConfigured("router.command() needs the name of a command.")

        def is_command(update: Update) -> bool:
            return update.command in wanted

        return self.on(*MESSAGES, filters=(is_command, *filters))

    def action(
        self, *actions: str, filters: Sequence[Filter] = ()
    ) -> Callable[[Function], Function]:
        """Take presses of buttons that carry one of these; without any, every press."""
        wanted = frozenset(actions)

        def is_action(update: Update) -> bool:
            return update.action is not None and (not wanted or update.action in wanted)

        return self.on(UpdateType.CALLBACK_QUERY, filters=(is_action, *filters))

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
        """The scopes of the sessions that its handlers declare."""
        if self._scopes is None:
            self._scopes = frozenset(
                scope for route in self._flat() for scope, _ in route.fragments
            )
        return self._scopes

    def candidates(self, update: Update) -> list[Route]:
        """Return the routes that may match, in order, up to the first that is sure to."""
        routes = self._routes.get(update.type)
        if routes is None:
            routes = [each for each in self._flat() if not each.types or update.type in each.types]
            self._routes[update.type] = routes
        found = []
        for route in routes:
            for wants in route.pure:
                if not wants(update):
                    break
            else:
                found.append(route)
                if not route.filters:
                    break
        return found

    async def dispatch(self, context: Context, candidates: Sequence[Route]) -> bool:
        """Run the first of these routes that matches; return False when none does."""
        for route in candidates:
            if not route.filters or await route.matches(context):
                await route.run(context)
                return True
        return False

    def _flat(self) -> list[Route]:
        routes: list[Route] = []
        for entry in self._entries:
            inner = entry._flat() if isinstance(entry, Router) else [entry]
            routes.extend(route.within(self) for route in inner)
        return routes

    def _contains(self, router: Router) -> bool:
        return any(
            isinstance(entry, Router) and (entry is router or entry._contains(router))
            for entry in self._entries
        )

    def _changed(self) -> None:
        self._routes.clear()
        self._scopes = None
        for parent in self._parents:
            parent._changed()
