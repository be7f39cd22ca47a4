"""The deadline of a flow, which enters the session's mailbox as an update when it has passed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from botsessions.conf import settings
from botsessions.flows.state import FlowState, read
from botsessions.keys import SessionKey
from botsessions.updates import DEADLINE, Update

if TYPE_CHECKING:
    from botsessions.mailboxes.base import Mailbox

log = logging.getLogger("botsessions.flows")

#: How many flows one look finds.
LIMIT = 500


def due(mailbox: Mailbox) -> list[tuple[SessionKey, bytes]]:
    """Find flows of this project's bots whose deadline has passed."""
    return mailbox.due(list(settings.BOTS), LIMIT)


def of(found: Iterable[tuple[SessionKey, bytes]]) -> list[Update]:
    """Return the updates that tell these flows of their deadlines."""
    updates = []
    for key, encoded in found:
        state = read(encoded)
        if state.deadline is not None:
            updates.append(passed(key, state))
    return updates


def passed(key: SessionKey, state: FlowState) -> Update:
    """Return the update that tells a flow of its deadline, the same whoever makes it."""
    assert state.deadline is not None  # noqa: S101 - its callers look
    moment = state.deadline.isoformat()
    return msgspec.structs.replace(
        state.origin,
        id=f"deadline-{state.id}-{moment}",
        type=DEADLINE,
        payload={"session": msgspec.to_builtins(key), "flow": state.id, "deadline": moment},
    )


def session_of(update: Update) -> SessionKey:
    """Return the session whose flow an update tells of its deadline."""
    return msgspec.convert(update.payload["session"], SessionKey)


def is_for(update: Update, state: FlowState) -> bool:
    """Is this the deadline that the flow waits for, and not one that it had before?"""
    moment = None if state.deadline is None else state.deadline.isoformat()
    return (update.payload["flow"], update.payload["deadline"]) == (state.id, moment)
