"""What waiters and conversations have in common while they run: their functions, hooks and ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from botsessions.flows.base import PASSING, Running
from botsessions.flows.control import SessionController
from botsessions.flows.state import End, Ended, FlowState, read
from botsessions.mailboxes.base import Save

if TYPE_CHECKING:
    from botsessions.context import Context
    from botsessions.routing import BoundFlow
    from botsessions.session import Session

log = logging.getLogger("botsessions.flows")


@asynccontextmanager
async def within(context: Context, session: Session[Any], running: Running) -> AsyncIterator[None]:
    """Let this flow be the one that runs.

    Should it raise and the update be parked, the session is freed of it all the same: else the
    update would be parked again with everything that is said.
    """
    before, context.running = context.running, running
    try:
        yield
    except PASSING:
        raise
    except Exception as error:
        context.last_saves = last_saves(context, session, running, End.FAILED, error)
        raise
    finally:
        context.running = before


async def run(
    context: Context, bound: BoundFlow, session: Session[Any], running: Running, name: str = ""
) -> None:
    """Call a flow's function, or its hook of that name."""
    route = bound.routes[name]
    await load(context, route.fragments)
    async with within(context, session, running):
        await route.run(context)


async def end(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    outcome: End,
    error: BaseException | None = None,
) -> None:
    """End a flow, and tell it so."""
    if error is not None and not bound.has(outcome):
        log.error("Flow '%s' of session %s has failed.", state.name, session.key, exc_info=error)
    session.slot.end(outcome, "" if error is None else repr(error))
    await tell(context, bound, session, state, outcome, error)


async def tell(
    context: Context,
    bound: BoundFlow,
    session: Session[Any],
    state: FlowState,
    outcome: End,
    error: BaseException | None = None,
) -> None:
    """Call a flow's hook for its end, if it has one; then close the session where it closes."""
    if bound.has(outcome):
        route = bound.routes[outcome]
        await load(context, route.fragments)
        running = Running(session.key, state)
        running.control = SessionController(state)
        async with within(context, session, running):
            await route.run(context, **({"error": error} if outcome is End.FAILED else {}))
    if bound.flow.closes and session.is_open:
        await session.close()


async def load(context: Context, fragments: Sequence[tuple[Any, str]]) -> None:
    """Read the sessions that a flow declares, where no handler did."""
    await context.load(*context.bot.keys_in(fragments, context.update, context.key))


def last_saves(
    context: Context,
    session: Session[Any],
    running: Running,
    outcome: End,
    error: Exception,
    *,
    keep: bool = False,
) -> list[Save]:
    """Return what frees a session of the flow that runs, where that is the one that is stored."""
    row, root = context.rows.get(session.key), running.root
    if row is None or row.flow is None or root is None or read(row.flow).id != root.id:
        return []
    ended = Ended.of(root, outcome, repr(error), keep=keep)
    return [
        Save(
            session.key,
            row.version,
            row.data,
            row.expires_at,
            store=context.bot.store,
            before=row.data,
            last_flow=msgspec.json.encode(ended),
        )
    ]
