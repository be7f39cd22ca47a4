"""Which session has which type: what the handlers and flows of a bot declare of its sessions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, get_origin

from botsessions.bots import Bot
from botsessions.keys import SessionKey
from botsessions.marks import SessionSpec
from botsessions.routing import Route, Router
from botsessions.versions import name_of, versions_of


class Target(NamedTuple):
    """A session that is to be looked at, and the type of its data."""

    bot: Bot
    key: SessionKey
    type: Any
    #: The version from which on it is known to be of that type: 2 where a mark has to say so.
    sure_from: float

    @property
    def name(self) -> tuple[str, str]:
        """Where it is counted."""
        return self.bot.alias, name_of(self.type)


def declared_in(router: Router) -> Iterator[SessionSpec]:
    """Yield what the router's handlers and flows declare of sessions, and of which place each is.

    What a flow declares without a scope and a qualifier is the session in which it waits. That is
    taken for the session of the bot's own key, unless that type is declared of some place.
    """
    specs = list(dict.fromkeys(_specs(router.flat())))
    flows = [route for bound in router.flows.values() for route in bound.routes.values()]
    of_flows = [*_specs(flows)]
    for bound in router.flows.values():
        of_flows += bound.flow.where.sessions if bound.flow.where is not None else ()
    specs += [spec for spec in of_flows if spec.scope.name or spec.qualifier]
    yield from specs
    known = {spec.type for spec in specs}
    yield from (spec for spec in of_flows if spec.type not in known)


def _specs(routes: Iterable[Route]) -> Iterator[SessionSpec]:
    for route in routes:
        errors = (plan for _, plan in route.errors)
        for plan in (*route.filters, *route.middleware, route.handler, *errors):
            yield from plan.sessions


def target_of(bot: Bot, declared: Sequence[SessionSpec], key: SessionKey) -> Target | None:
    """Return a session as one of the type that is declared for it, None where that has no version.

    Data without a mark is sure to be of it where keys of its shape belong to that type alone.
    """
    likely = [(_likeness(bot, spec, key), spec) for spec in declared]
    best = max((likeness for likeness, _ in likely), default=0)
    specs = [spec for likeness, spec in likely if likeness == best > 0]
    versioned = [spec for spec in specs if versions_of(spec.type).current > 1]
    if not versioned:
        return None
    scopes = {spec.scope.name or bot.strategy for spec in versioned}
    others = (
        spec
        for spec in specs
        # A bare `Session` of the same place is that session, whose data it does not use.
        if not (_is_bare(spec.type) and (spec.scope.name or bot.strategy) in scopes)
    )
    is_alone = best == 2 and len({spec.type for spec in others}) == 1
    is_only = len({spec.type for spec in versioned}) == 1
    return Target(bot, key, versioned[0].type, 1 if is_alone else 2 if is_only else math.inf)


def _is_bare(type_: Any) -> bool:
    return type_ in (dict, Any) or get_origin(type_) is dict


def _likeness(bot: Bot, spec: SessionSpec, key: SessionKey) -> int:
    """Return whether sessions of such a place have such a key: 2 for yes, 1 for perhaps, 0 for no.

    A key without a user may be that of whoever is not named, or of anything that was asked for by
    `bot.sessions.get`.
    """
    scope = spec.scope.name or bot.strategy
    if spec.qualifier != key.qualifier:
        # A key strategy of the project's own may qualify its keys itself.
        return int(not scope and not spec.qualifier)
    chat, user, thread = bool(key.chat), bool(key.user), bool(key.thread)
    match scope:
        case "chat_user":
            return (2 if user else 1) * (chat and not thread)
        case "auto":
            return 2 * (chat and not thread)
        case "chat":
            return 2 * (chat and not user and not thread)
        case "user":
            return 2 * (user and not chat and not thread)
        case "thread":
            return 2 * (chat and not user)
    return 2


def type_of(bot: Bot, key: SessionKey) -> Any:
    """Return the type that is declared of a session, `Any` where none is, or several are."""
    likely = [(_likeness(bot, spec, key), spec) for spec in declared_in(bot.router)]
    best = max((likeness for likeness, _ in likely), default=0)
    types = {spec.type for likeness, spec in likely if likeness == best > 0}
    typed = [each for each in types if not _is_bare(each)]
    return typed[0] if len(typed) == 1 else Any
