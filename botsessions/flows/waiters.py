"""How a waiter is run, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from botsessions.conf import settings
from botsessions.flows.base import MISMATCHED, Running, Waiter
from botsessions.flows.control import SessionController
from botsessions.flows.running import end, load, run, within
from botsessions.flows.state import End, FlowState

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.routing import BoundFlow
    from botsessions.session import Session

#: How many messages a history that is too long is shortened by, at least.
FORGOTTEN = 10


async def receive(
    context: Context, bound: BoundFlow, session: Session[Any], state: FlowState
) -> bool:
    """Let a waiter have an update; return False for one that it does not want."""
    ran = await call(context, bound, session, state, is_guarded=bound.has(End.FAILED))
    if ran is None:
        return False
    running, control = ran
    if session.slot.state is not state:
        return True  # it began another flow here, or ended itself
    if running.error is not None:
        await end(context, bound, session, state, End.FAILED, running.error)
    elif not control.goes_on:
        await end(context, bound, session, state, End.ENDED)
    elif keep(state, control):
        shorten(state, state)
        session.slot.put(state)
    return True


async def call(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    *,
    outer: FlowState | None = None,
    is_guarded: bool,
) -> tuple[Running, SessionController] | None:
    """Call a waiter's function; return how it went, None where it does not want the update.

    `outer` is the state of the conversation that began it.
    """
    flow, update = bound.flow, context.update
    if update.type not in flow.types:
        return None
    running = Running(session.key, state, outer=outer, is_guarded=is_guarded)
    running.control = control = SessionController(state)
    name = ""
    if flow.where is not None:
        await load(context, flow.where.fragments)
        async with within(context, session, running):
            wants = await flow.where.call(context)
        if not wants:
            if not bound.has(MISMATCHED):
                return None
            name = MISMATCHED
    records = isinstance(flow, Waiter) and flow.record_history and not name
    if records and update.message is not None:
        state.history.append(update.message)
    await run(context, bound, session, running, name)
    if running.error is None:
        running.error = control.error
    return running, control


async def time_out(
    context: Context, bound: BoundFlow, session: Session[Any], state: FlowState
) -> None:
    """Let a waiter know that its deadline has passed; unless it is kept, it ends."""
    running = Running(session.key, state)
    running.control = control = SessionController(state)
    if bound.has(End.TIMED_OUT):
        await run(context, bound, session, running, End.TIMED_OUT)
    if session.slot.state is not state:
        return
    if control.is_kept:
        keep(state, control)
        session.slot.put(state)
    else:
        session.slot.end(End.TIMED_OUT)
        if bound.flow.closes and session.is_open:
            await session.close()


def keep(state: FlowState, control: SessionController) -> bool:
    """Give a waiter its new deadline; return whether there is anything new to be saved."""
    is_moved = state.deadline != control.deadline
    state.deadline = control.deadline
    return is_moved or bool(state.history)


def shorten(state: FlowState, root: FlowState) -> None:
    """Forget the oldest of a history until the flow that waits is small enough to be saved."""
    while len(state.history) > 1 and len(msgspec.json.encode(root)) > settings.MAX_DATA_BYTES:
        del state.history[:FORGOTTEN]
