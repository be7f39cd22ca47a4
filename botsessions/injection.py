"""Injection plans: what a function declares by annotation, worked out once, at registration.

`Update`, `Bot`, `Session`, `Session[T]`, `Session[T] | None`, each session with marks in
`Annotated`: `Qualifier("…")`, `Scope("…")`, `Initial(factory)`, `Expires(…)`, `OnMisfit(…)`. What
is not declared is not loaded. An annotation that cannot be filled is an `ImproperlyConfigured`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from django.core.exceptions import ImproperlyConfigured

from botsessions.context import Context
from botsessions.exceptions import NoSessionKey, SessionsDisabled
from botsessions.keys import SessionKey
from botsessions.marks import Expires, Initial, OnMisfit, Qualifier, Scope, SessionSpec
from botsessions.session import Session
from botsessions.updates import Update

Provider = Callable[[Context], Any]

#: What a parameter may be annotated as, beside sessions. `bots` adds `Bot`.
provided: dict[object, Provider] = {
    Update: lambda context: context.update,
    Context: lambda context: context,
}
#: The parameters that need no annotation.
BY_NAME: dict[str, object] = {"update": Update, "session": Session}


class Plan:
    """How to call a function: what provides each parameter, and the sessions among them."""

    def __init__(
        self,
        function: Callable[..., Any],
        given: frozenset[str] = frozenset(),
        *,
        threaded: bool = True,
    ) -> None:
        self.function = function
        #: A `def` handler may block, so it runs in a thread; a `def` filter decides at once.
        self.threaded = threaded
        self.name = getattr(function, "__qualname__", repr(function))
        self.is_async = is_asynchronous(function)
        self.sessions: list[SessionSpec] = []
        self.parameters: list[tuple[str, Provider | None]] = []
        #: Does it need the update alone, so that it can be asked before anything is loaded?
        self.pure = not self.is_async
        for name, annotation in _annotations(function, self.name).items():
            self.parameters.append(
                (name, None if name in given else self._provider(name, annotation))
            )
        self.prepares = any(inspect.iscoroutinefunction(spec.initial) for spec in self.sessions)
        self._providers = tuple(provider for _, provider in self.parameters if provider)
        self._given = any(provider is None for _, provider in self.parameters)

    @property
    def fragments(self) -> list[tuple[Scope, str]]:
        """The scopes and qualifiers of the sessions that it declares."""
        return [(spec.scope, spec.qualifier) for spec in self.sessions]

    def call(self, context: Context, **given: Any) -> Awaitable[Any]:
        """Call the function with what it declares, and with `given` by name."""
        if self.prepares or self._given or not self.is_async:
            return self._call(context, given)
        call: Awaitable[Any] = self.function(*[provide(context) for provide in self._providers])
        return call

    async def _call(self, context: Context, given: dict[str, Any]) -> Any:
        for spec in self.sessions if self.prepares else ():
            session = find_session(context, spec, self.name)
            if session is not None:
                await session.prepare()
        arguments = {
            name: given.get(name) if provide is None else provide(context)
            for name, provide in self.parameters
        }
        if self.is_async:
            return await self.function(**arguments)
        if self.threaded:
            return await context.in_thread(self.function, **arguments)
        return self.function(**arguments)

    def _provider(self, name: str, annotation: Any) -> Provider:
        spec = session_spec(annotation)
        if spec is not None:
            self.pure = False
            self.sessions.append(spec)
            return lambda context: find_session(context, spec, self.name)
        provider = provided.get(annotation)
        if provider is None:
            raise ImproperlyConfigured(
                f"Parameter '{name}' of {self.name} is annotated {annotation!r}, which cannot be "
                "filled. Declare Update, Bot, Session, Session[T] or Session[T] | None."
            )
        if annotation is not Update:
            self.pure = False
        return provider


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Is it an `async def`, a partial of one, or an object that is called as one?"""
    called = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def session_spec(annotation: Any) -> SessionSpec | None:
    """Return what a session annotation declares, None for any other annotation."""
    marks: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        marks = tuple(rest)
    optional = False
    if get_origin(annotation) in (Union, types.UnionType):
        members = [each for each in get_args(annotation) if each is not type(None)]
        optional = len(members) < len(get_args(annotation))
        if len(members) != 1:
            return None
        annotation = members[0]
        if get_origin(annotation) is Annotated:
            annotation, *rest = get_args(annotation)
            marks += tuple(rest)
    if annotation is not Session and get_origin(annotation) is not Session:
        return None
    arguments = get_args(annotation)
    return SessionSpec(
        type=arguments[0] if arguments else dict,
        qualifier=next((mark.name for mark in marks if isinstance(mark, Qualifier)), ""),
        scope=next((mark for mark in marks if isinstance(mark, Scope)), Scope()),
        optional=optional,
        initial=next((mark.factory for mark in marks if isinstance(mark, Initial)), None),
        misfit=next((mark.policy for mark in marks if isinstance(mark, OnMisfit)), None),
        expires=next((mark.after for mark in marks if isinstance(mark, Expires)), None),
    )


def find_session(context: Context, spec: SessionSpec, handler: str) -> Session[Any] | None:
    """Return the update's session of that description, the same object for every handler of the
    update.

    Raises `NoSessionKey` or `SessionsDisabled` where a required one cannot be.
    """
    bot, update = context.bot, context.update
    if not bot.has_sessions:
        if spec.optional:
            return None
        raise SessionsDisabled(
            f"{handler} requires a session, but bot '{bot.alias}' has STORE: None. "
            "Give it a store, or declare the parameter as Session | None."
        )
    base = bot.key_in(spec.scope, update, context.key)
    if context.running is not None and not (spec.scope.name or spec.qualifier):
        base = context.running.key  # to a flow its session is the one in which it waits
    if base is None:
        if spec.optional:
            return None
        raise NoSessionKey(
            f"{handler} requires a session, but an update of type '{update.type}' belongs to no "
            "chat or user to keep it for. Declare the parameter as Session | None."
        )
    # A strategy of the project's own may qualify its keys itself.
    key: SessionKey = base.qualified(spec.qualifier or base.qualifier)
    session = context.sessions.get(key)
    if session is None:
        session = Session(context, key, spec, context.rows.get(key))
        context.sessions[key] = session
    elif not session.retype(spec):
        raise ImproperlyConfigured(
            f"{handler} declares session {key} as {spec.type!r}, but another handler of the same "
            "update has used it as another type."
        )
    return session


def session_at(context: Context, key: SessionKey) -> Session[Any]:
    """Return the session of that key, as handlers of the update may declare it later."""
    session = context.sessions.get(key)
    if session is None:
        spec = SessionSpec(qualifier=key.qualifier)
        session = context.sessions[key] = Session(context, key, spec, context.rows.get(key))
    return session


def _annotations(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return a function's parameters with their annotations.

    One without an annotation goes by its name, or by being alone.
    """
    parameters = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    try:
        hints = get_type_hints(
            function if inspect.isroutine(function) else type(function).__call__,
            include_extras=True,
        )
    except NameError as error:
        raise ImproperlyConfigured(
            f"The annotations of {name} cannot be read: {error}. Import what they name at run "
            "time, not under TYPE_CHECKING."
        ) from error
    found = {}
    for each in parameters:
        alone = Update if len(parameters) == 1 else inspect.Parameter.empty
        found[each.name] = hints.get(each.name, BY_NAME.get(each.name, alone))
    return found
