"""What an update is for: a flow that waits where it is from, or a handler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from botsessions.flows import resuming, takeover, waiters
from botsessions.flows.base import Running
from botsessions.flows.conversations import Conversation
from botsessions.flows.deadlines import is_for, session_of
from botsessions.flows.running import load, tell, within
from botsessions.flows.state import End, FlowState
from botsessions.injection import session_at
from botsessions.updates import DEADLINE, EXPIRED

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.routing import Route
    from botsessions.session import Session

log = logging.getLogger("botsessions.flows")


async def dispatch(context: Context, routes: Sequence[Route]) -> None:
    """Run what an update is for, and what that leaves to be done later."""
    if context.update.type == DEADLINE:
        await _time_out(context)
    elif context.update.type == EXPIRED:
        await _expire(context)
    elif not context.flows:
        await context.bot.router.dispatch(context, routes)
    elif any(takeover.stands(session_at(context, key)) for key, _ in context.flows):
        raise takeover.Held
    else:
        first = [route for route in routes if route.during_flows]
        others = [route for route in routes if not route.during_flows]
        router = context.bot.router
        if not await router.dispatch(context, first) and not await _receive(context):
            await router.dispatch(context, others)
    if context.later or context.again is not None:
        await run_later(context)


async def run_later(context: Context) -> None:
    """Tell flows how they ended, let conversations begin, and handle what is handed on."""
    while context.later:
        session, state, outcome = context.later.pop(0)
        bound = context.bot.router.flows.get(state.name)
        if bound is None:
            continue
        if outcome is not None:
            await tell(context, bound, session, state, outcome)
        elif session.slot.state is state:
            await resuming.resume(context, bound, session, state)
    if context.again is not None:
        context.update, context.again = context.again, None
        routes, keys = context.bot.session_keys(context.update, context.key)
        await context.load(*keys)
        await context.bot.router.dispatch(context, routes)
        await run_later(context)


async def _receive(context: Context) -> bool:
    """Give an update to the flow that began last; what it does not want goes to the one before."""
    sessions = [session_at(context, key) for key, _ in context.flows]
    waiting = [(each.slot.state, each) for each in sessions if each.slot.state is not None]
    for state, session in sorted(waiting, key=lambda each: each[0].began_at, reverse=True):
        missing = _missing(context, state)
        if missing:
            await _lose(context, session, missing)
            continue
        bound = context.bot.router.flows[state.name]
        way = resuming if isinstance(bound.flow, Conversation) else waiters
        if await way.receive(context, bound, session, state):
            return True
    return False


async def _time_out(context: Context) -> None:
    """Tell a flow that its deadline has passed, unless it has another one by now."""
    session = session_at(context, session_of(context.update))
    state = session.slot.state
    if state is None or not is_for(context.update, state):
        return
    missing = _missing(context, state)
    if missing:
        await _lose(context, session, missing)
        return
    bound = context.bot.router.flows[state.name]
    way = resuming if isinstance(bound.flow, Conversation) else waiters
    await way.time_out(context, bound, session, state)


async def _expire(context: Context) -> None:
    """Tell the bot that a session has expired, unless it was written meanwhile."""
    session = session_at(context, session_of(context.update))
    row = context.rows.get(session.key)
    route = context.bot.router.occasion("expired")
    if row is None or not row.is_expired or route is None:
        return
    await load(context, route.fragments)
    async with within(context, session, Running(session.key)):
        await route.run(context, data=context.update.payload.get("data"))


def _missing(context: Context, state: FlowState) -> str:
    """Return the name of the flow that the code does not have any more, `""` if it has all."""
    names = (state.name, *([state.inner.name] if state.inner else []))
    return next((name for name in names if name not in context.bot.router.flows), "")


async def _lose(context: Context, session: Session[Any], name: str) -> None:
    """Free a session whose flow the code does not have any more."""
    problem = f"Bot '{context.bot.alias}' has no flow '{name}' (any more)."
    log.error("%s Session %s is freed.", problem, session.key)
    session.slot.end(End.LOST, problem, keep=True)
    fallback = context.bot.router.occasion("lost_flow")
    if fallback is not None:
        await load(context, fallback.fragments)
        async with within(context, session, Running(session.key)):
            await fallback.run(context, flow=name)
