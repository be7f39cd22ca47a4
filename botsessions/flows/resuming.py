"""How a conversation goes on: with an answer, a deadline, or the end of its waiter."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from botsessions.exceptions import Diverged
from botsessions.flows import waiters
from botsessions.flows.base import Running
from botsessions.flows.conversations import Conversation, Talk
from botsessions.flows.journal import Happened, Journal
from botsessions.flows.running import end, last_saves, run, tell
from botsessions.flows.state import End, FlowState

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.routing import BoundFlow
    from botsessions.session import Session

log = logging.getLogger("botsessions.flows")


async def receive(
    context: Context, bound: BoundFlow, session: Session[Any], state: FlowState
) -> bool:
    """Let a conversation, or its waiter, have an update; return False where it wants another."""
    if state.inner is None:
        return await resume(context, bound, session, state, Happened(context.update))
    inner = context.bot.router.flows[state.inner.name]
    ran = await waiters.call(context, inner, session, state.inner, outer=state, is_guarded=True)
    if ran is None:
        return False
    running, control = ran
    if session.slot.state is not state:
        return True  # it began another flow here, or ended this one
    if running.error is not None:
        happened = Happened(ended=End.FAILED, error=f"{running.error}")
    elif not control.goes_on:
        happened = Happened(ended=End.ENDED)
    else:
        if waiters.keep(state.inner, control):
            state.deadline = state.inner.deadline
            waiters.shorten(state.inner, state)
            session.slot.put(state)
        return True
    await resume(context, bound, session, state, happened)
    return True


async def time_out(
    context: Context, bound: BoundFlow, session: Session[Any], state: FlowState
) -> None:
    """Let a conversation know that its wait, or its waiter, has timed out."""
    waited = Happened(is_timeout=True)
    happened = waited if state.inner is None else Happened(ended=End.TIMED_OUT)
    await resume(context, bound, session, state, happened)


async def resume(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    stored: FlowState,
    happened: Happened | None = None,
    *,
    may_restart: bool = True,
) -> bool:
    """Run a conversation to its next wait, or to its end; return False if it wanted no answer."""
    flow = bound.flow
    assert isinstance(flow, Conversation)  # noqa: S101 - its callers look
    # What is in hand is not what is stored, should it come to nothing.
    state = msgspec.json.decode(msgspec.json.encode(stored), type=FlowState)
    journal = Journal(state, happened)
    talk = Talk(context, session, flow, journal)
    running = Running(session.key, state, is_guarded=bound.has(End.FAILED), talk=talk)
    if state.version != flow.version:
        journal.diverged = Diverged(
            f"Conversation '{flow.name}' is of version {flow.version}, and was {state.version}."
        )
    else:
        session.slot.state = state
        await run(context, bound, session, running)
    if journal.diverged is not None:
        context.discard()
        await _diverge(context, bound, session, running, journal.diverged, may_restart)
    elif session.slot.state is not state:
        pass  # it began another flow here, or ended itself
    elif journal.is_paused and talk.outcome is None:
        if talk.is_passed:
            session.slot.state = stored
            return False
        session.slot.put(state)
    elif talk.outcome is None:
        session.slot.state = stored  # a middleware has kept the update from it
    else:
        error = talk.error if talk.outcome is End.FAILED else None
        await end(context, bound, session, state, talk.outcome, error)
    return True


async def _diverge(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    running: Running,
    error: Diverged,
    may_restart: bool,
) -> None:
    """Begin a conversation anew whose code has changed, or end it, as it declares."""
    flow, state = bound.flow, running.state
    assert isinstance(flow, Conversation) and state is not None  # noqa: S101, PT018
    log.error("%s (%s; session %s)", error, flow.on_change, session.key)
    if flow.on_change == "restart" and may_restart:
        fresh = flow.state(context.update, number=context.count())
        session.slot.state = state
        session.slot.end(End.DIVERGED, error, keep=True)
        session.slot.put(fresh)
        await resume(context, bound, session, fresh, may_restart=False)
    elif bound.has(End.FAILED):
        session.slot.state = state
        session.slot.end(End.DIVERGED, error, keep=True)
        await tell(context, bound, session, state, End.FAILED, error)
    else:
        context.last_saves = last_saves(context, session, running, End.DIVERGED, error, keep=True)
        raise error
