"""What an update is for: a flow that waits where it is from, or a handler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import Diverged
from botsessions.flows.base import MISMATCHED, PASSING, Running
from botsessions.flows.control import SessionController
from botsessions.flows.conversations import Conversation, Happened, Talk
from botsessions.flows.deadlines import is_for, session_of
from botsessions.flows.state import End, Ended, FlowState
from botsessions.injection import session_at
from botsessions.mailboxes.base import Save
from botsessions.updates import DEADLINE, EXPIRED

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.routing import BoundFlow, Route
    from botsessions.session import Session

log = logging.getLogger("botsessions.flows")

#: How many messages a waiter's history is at least shortened by, when it is too long.
FORGOTTEN = 10


async def dispatch(context: Context, routes: Sequence[Route]) -> None:
    """Run what an update is for, and what that leaves to be done later."""
    if context.update.type == DEADLINE:
        await _time_passed(context)
    elif context.update.type == EXPIRED:
        await _expired(context)
    elif not context.flows:
        await context.bot.router.dispatch(context, routes)
    else:
        first = [route for route in routes if route.during_flows]
        others = [route for route in routes if not route.during_flows]
        router = context.bot.router
        if not await router.dispatch(context, first) and not await _receive(context):
            await router.dispatch(context, others)
    if context.later or context.again is not None:
        await run_later(context)


async def run_later(context: Context) -> None:
    """Tell flows how they ended, and let conversations begin."""
    while context.later:
        session, state, outcome = context.later.pop(0)
        bound = context.bot.router.flows.get(state.name)
        if bound is None:
            continue
        if outcome is not None:
            await _close(context, bound, session)
            await _tell(context, bound, session, state, outcome)
        elif session.slot.state is state:
            await _resume(context, bound, session, state)
    if context.again is not None:
        context.update, context.again = context.again, None
        routes, keys = context.bot.session_keys(context.update, context.key)
        await context.load(*keys)
        await context.bot.router.dispatch(context, routes)
        await run_later(context)


# An update that a flow may wait for


async def _receive(context: Context) -> bool:
    """Give an update to the flow that began last; what it does not want goes to the one before."""
    waiting = [(session_at(context, key), key) for key, _ in context.flows]
    states = [(session.slot.state, session) for session, _ in waiting]
    live = [(state, session) for state, session in states if state is not None]
    for state, session in sorted(live, key=lambda each: each[0].began_at, reverse=True):
        bound = context.bot.router.flows.get(state.name)
        if bound is None:
            await _lose(context, session, state)
        elif isinstance(bound.flow, Conversation):
            if await _answer(context, bound, session, state):
                return True
        elif await _call(context, bound, session, state):
            return True
    return False


async def _expired(context: Context) -> None:
    """Tell the bot that a session has expired, unless it was written meanwhile."""
    session = session_at(context, session_of(context.update))
    row = context.rows.get(session.key)
    route = context.bot.router.occasion("expired")
    if row is None or not row.is_expired or route is None:
        return
    context.running = Running(session.key)  # whose plain `Session` is this one
    await _load(context, route.fragments)
    session.delete()  # what is written after this is kept
    await route.run(context, data=context.update.payload.get("data"))
    context.running = None


async def _time_passed(context: Context) -> None:
    """Tell a flow that its deadline has passed, unless it has another one by now."""
    key = session_of(context.update)
    session = session_at(context, key)
    state = session.slot.state
    if state is None or not is_for(context.update, state):
        return
    bound = context.bot.router.flows.get(state.name)
    if bound is None:
        await _lose(context, session, state)
    elif not isinstance(bound.flow, Conversation):
        await _time_out(context, bound, session, state)
    elif state.inner is not None:
        happened = Happened(ended=End.TIMED_OUT)
        await _resume(context, bound, session, state, happened)
    else:
        await _resume(context, bound, session, state, Happened(is_timeout=True))


async def _lose(context: Context, session: Session[Any], state: FlowState) -> None:
    """Free a session whose flow the code does not have any more."""
    problem = f"Bot '{context.bot.alias}' has no flow '{state.name}' (any more)."
    log.error("%s Session %s is freed.", problem, session.key)
    session.slot.end(End.LOST, problem, keep=True)
    fallback = context.bot.router.occasion("lost_flow")
    if fallback is not None:
        await _load(context, fallback.fragments)
        await fallback.run(context, flow=state.name)


# Waiters


async def _call(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    outer: tuple[BoundFlow, FlowState] | None = None,
) -> bool:
    """Let a waiter have an update; return False for what it does not want.

    A waiter that a conversation began is told of with that conversation, its `outer` flow.
    """
    flow, update = bound.flow, context.update
    if update.type not in flow.types:
        return False
    control = SessionController(state)
    guarded = outer is not None or bound.has(End.FAILED)
    running = Running(session.key, state, is_guarded=guarded)
    running.control = control
    if flow.where is not None:
        await _load(context, [(spec.scope, spec.qualifier) for spec in flow.where.sessions])
        context.running = running
        try:
            wants = await flow.where.call(context)
        finally:
            context.running = None
        if not wants and not bound.has(MISMATCHED):
            return False
        name = "" if wants else MISMATCHED
    else:
        name = ""
    if getattr(flow, "record_history", False) and not name and update.message is not None:
        state.history.append(update.message)
    await _run(context, bound, session, running, name)
    if running.error is None and control.error is not None:
        running.error = control.error
    if outer is not None:
        await _go_on(context, outer, session, state, running)
    elif session.slot.state is not state:  # it began another flow here, or ended itself
        pass
    elif running.error is not None:
        await _end(context, bound, session, state, End.FAILED, running.error)
    elif not control.goes_on:
        await _end(context, bound, session, state, End.ENDED)
    else:
        _keep(session, state, control)
    return True


async def _time_out(
    context: Context, bound: BoundFlow, session: Session[Any], state: FlowState
) -> None:
    running = Running(session.key, state, is_guarded=False)
    running.control = control = SessionController(state)
    if bound.has(End.TIMED_OUT):
        await _run(context, bound, session, running, End.TIMED_OUT)
    if session.slot.state is state:
        if control.is_kept:
            _keep(session, state, control)
        else:
            session.slot.end(End.TIMED_OUT)
            await _close(context, bound, session)


def _keep(session: Session[Any], state: FlowState, control: SessionController) -> None:
    """Let a waiter wait on, with its new deadline and history."""
    if state.deadline != control.deadline or state.history:
        state.deadline = control.deadline
        while len(state.history) > 1 and _is_large(state):
            del state.history[:FORGOTTEN]
        session.slot.put(state)


def _is_large(state: FlowState) -> bool:
    return len(msgspec.json.encode(state)) > settings.MAX_DATA_BYTES


async def _go_on(
    context: Context,
    outer: tuple[BoundFlow, FlowState],
    session: Session[Any],
    inner: FlowState,
    running: Running,
) -> None:
    """Let a conversation's waiter wait on, or the conversation know how it ended."""
    bound, state = outer
    control = running.control
    if running.error is not None:
        happened = Happened(ended=End.FAILED, error=f"{running.error}")
    elif control is not None and control.goes_on:
        if inner.deadline != control.deadline or inner.history:
            inner.deadline = state.deadline = control.deadline
            session.slot.put(state)
        return
    else:
        happened = Happened(ended=End.ENDED)
    await _resume(context, bound, session, state, happened)


# Conversations


async def _answer(
    context: Context, bound: BoundFlow, session: Session[Any], state: FlowState
) -> bool:
    """Let a conversation have an update; return False where it does not wait for that."""
    if state.inner is None:
        return await _resume(context, bound, session, state, Happened(context.update))
    inner = context.bot.router.flows.get(state.inner.name)
    if inner is None:
        await _lose(context, session, state)
        return False
    return await _call(context, inner, session, state.inner, (bound, state))


async def _resume(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    happened: Happened | None = None,
) -> bool:
    """Run a conversation to its next wait, or to its end; return False if it wanted no answer."""
    flow = bound.flow
    assert isinstance(flow, Conversation)  # noqa: S101 - its callers look
    if state.version != flow.version:
        changed = Diverged(f"{flow.name} is of version {flow.version}, and was {state.version}.")
        return await _diverge(context, bound, session, state, changed)
    # What is in hand is not what is stored, should it come to nothing.
    stored, state = state, msgspec.json.decode(msgspec.json.encode(state), type=FlowState)
    session.slot.state = state
    talk = Talk(context, session, state, flow, happened)
    running = Running(session.key, state, is_guarded=bound.has(End.FAILED))
    context.script = talk
    try:
        await _run(context, bound, session, running)
    finally:
        context.script = None
    if talk.diverged is not None:
        talk.abandon()
        return await _diverge(context, bound, session, state, talk.diverged)
    if session.slot.state is not state:
        return True  # it began another flow here, or ended itself
    if talk.is_paused:
        if talk.is_passed:
            session.slot.state = stored
            return False
        session.slot.put(state)
    elif running.error is not None:
        await _end(context, bound, session, state, End.FAILED, running.error)
    else:
        outcome = End.TIMED_OUT if talk.is_timed_out else End.ENDED
        await _end(context, bound, session, state, outcome)
    return True


async def _diverge(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    error: Diverged,
) -> bool:
    """Begin a conversation anew whose code has changed, or end it, as it declares."""
    flow = bound.flow
    assert isinstance(flow, Conversation)  # noqa: S101 - its callers look
    log.error("%s (%s; session %s)", error, flow.on_change, session.key)
    context.drop()
    if flow.on_change == "restart":
        fresh = flow.state(context.update)
        session.slot.end(End.DIVERGED, error, keep=True)
        session.slot.put(fresh)
        return await _resume(context, bound, session, fresh)
    if not bound.has(End.FAILED):
        context.last_saves = [_last_save(context, session, state, End.DIVERGED, error)]
        raise error
    session.slot.end(End.DIVERGED, error, keep=True)
    await _close(context, bound, session)
    await _tell(context, bound, session, state, End.FAILED, error)
    return True


# What they have in common


async def _run(
    context: Context, bound: BoundFlow, session: Session[Any], running: Running, name: str = ""
) -> None:
    """Call a flow's function, or its hook of that name."""
    route = bound.routes[name]
    await _load(context, route.fragments)
    before, context.running = context.running, running
    try:
        await route.run(context)
    except PASSING:
        raise
    except Exception as error:
        if running.state is not None:
            state = running.state
            context.last_saves = [_last_save(context, session, state, End.FAILED, error)]
        raise
    finally:
        context.running = before


async def _end(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    outcome: End,
    error: BaseException | None = None,
) -> None:
    """End a flow, and tell it so."""
    session.slot.end(outcome, "" if error is None else repr(error))
    if error is not None and not bound.has(End.FAILED):
        log.error("Flow '%s' of session %s has failed.", state.name, session.key, exc_info=error)
    await _close(context, bound, session)
    try:
        await _tell(context, bound, session, state, outcome, error)
    except PASSING:
        raise
    except Exception as problem:
        context.last_saves = [_last_save(context, session, state, End.FAILED, problem)]
        raise


async def _tell(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    outcome: End,
    error: BaseException | None = None,
) -> None:
    """Call a flow's hook for its end, if it has one."""
    if not bound.has(outcome):
        return
    route = bound.routes[outcome]
    await _load(context, route.fragments)
    before, context.running = context.running, Running(session.key, state, is_guarded=False)
    context.running.control = SessionController(state)
    try:
        await route.run(context, **({"error": error} if outcome is End.FAILED else {}))
    finally:
        context.running = before


async def _close(context: Context, bound: BoundFlow, session: Session[Any]) -> None:
    if bound.flow.closes and session.is_open:
        await session.close()


async def _load(context: Context, fragments: Sequence[tuple[Any, str]]) -> None:
    """Read the sessions that a flow declares, where no handler did."""
    keys = []
    for scope, qualifier in fragments:
        base = context.bot.key_in(scope, context.update, context.key)
        if base is not None:
            keys.append(base.qualified(qualifier or base.qualifier))
    await context.load(*keys)


def _last_save(
    context: Context, session: Session[Any], state: FlowState, outcome: End, error: Exception
) -> Save:
    """Return what frees a session of its flow should the update be parked: else it would be
    parked again with everything that is said.
    """
    row = context.rows.get(session.key)
    ended = Ended(state.name, outcome, clock.now(), repr(error)[:500])
    return Save(
        session.key,
        session.version,
        None if row is None else row.data,
        session.expires_at,
        store=context.bot.store,
        before=None if row is None else row.data,
        last_flow=msgspec.json.encode(ended),
    )
