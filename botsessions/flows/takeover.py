"""An operator's turn: what is said in a session's place waits for a person instead of the bot.

It is a flow like any other: it waits in the session, is found by where an update is from, and is
stored with everything else. What it receives is recorded in the slice and held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from botsessions import clock
from botsessions.exceptions import BotsessionsError, SessionTakenOver
from botsessions.flows.state import FlowState
from botsessions.updates import Update

if TYPE_CHECKING:
    from botsessions.holding import Holding

#: What stands in the place of a flow's name, which is a function's.
NAME: Final = "~operator"


class Held(BotsessionsError):
    """An update is for the operator who is talking where it is from."""


def stands(session: Holding[Any]) -> bool:
    """Is an operator talking in this session?"""
    state = session.slot.state
    return state is not None and state.name == NAME


def check(session: Holding[Any]) -> None:
    """Raise `SessionTakenOver` where an operator is talking."""
    if stands(session):
        raise SessionTakenOver(f"An operator is talking in session {session.key}.")


def begin(session: Holding[Any], operator: str) -> None:
    """Let an operator talk; the flow that waits there goes on afterwards, with the time it had."""
    origin = Update(session.bot.alias, "", "")
    state = FlowState(NAME, uuid4().hex[:24], clock.now(), origin, operator=operator)
    state.before = session.slot.state
    session.slot.put(state)


def end(session: Holding[Any]) -> None:
    """Let the bot talk again."""
    state = session.slot.state
    assert state is not None and state.name == NAME  # noqa: S101, PT018 - callers look
    before = state.before
    if before is not None and before.deadline is not None:
        before.deadline += clock.now() - state.began_at
    session.slot.put(before)
