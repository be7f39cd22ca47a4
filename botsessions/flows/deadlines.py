"""The deadline of a flow, which enters the session's mailbox as an update when it has passed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions.conf import settings
from botsessions.flows.state import FlowState, read
from botsessions.keys import SessionKey
from botsessions.updates import DEADLINE, Update, place

if TYPE_CHECKING:
    from botsessions.mailboxes.base import Mailbox

log = logging.getLogger("botsessions.flows")

#: How many flows one look finds.
LIMIT = 500


class Engine(Protocol):
    """What a look needs of the engine that looks."""

    async def ask(self, question: Callable[[Mailbox], Any]) -> Any:
        """Ask the mailbox something."""

    def submit(self, update: Update) -> asyncio.Future[None]:
        """Take an update in."""


async def look(engine: Engine) -> int:
    """Submit the deadlines that have passed, and return how many; whoever looks goes on at once."""
    submitted = await _submit(engine)
    for each in submitted:
        each.add_done_callback(_note)
    return len(submitted)


async def fire(engine: Engine) -> int:
    """Submit the deadlines that have passed; return how many when they are committed or stored.

    Raises `Unavailable`.
    """
    submitted = await _submit(engine)
    await asyncio.gather(*submitted)
    return len(submitted)


async def _submit(engine: Engine) -> list[asyncio.Future[None]]:
    found = await engine.ask(lambda mailbox: mailbox.due(list(settings.BOTS), LIMIT))
    submitted = []
    for key, encoded in found:
        try:
            state = read(encoded)
            if state.deadline is not None:
                submitted.append(engine.submit(passed(key, state)))
        except (msgspec.DecodeError, ImproperlyConfigured):
            log.exception("The deadline in session %s is looked at again later.", key)
    return submitted


def _note(submitted: asyncio.Future[None]) -> None:
    if not submitted.cancelled() and submitted.exception() is not None:
        log.warning("A deadline is looked at again later: %s", submitted.exception())


def passed(key: SessionKey, state: FlowState) -> Update:
    """Return the update that tells a flow of its deadline, the same whoever makes it."""
    assert state.deadline is not None  # noqa: S101 - its callers look
    moment, origin = state.deadline.isoformat(), state.origin
    if key.chat and key.chat != origin.conversation:  # its group has become a supergroup
        origin = msgspec.structs.replace(origin, **place(key.chat))
    return msgspec.structs.replace(
        origin,
        id=f"deadline-{state.id}-{moment}-{_short(key)}",
        type=DEADLINE,
        payload={"session": msgspec.to_builtins(key), "flow": state.id, "deadline": moment},
    )


def _short(key: SessionKey) -> str:
    """A session may move to another chat while its deadline is on its way."""
    return blake2s(f"{key}".encode(), digest_size=4).hexdigest()


def session_of(update: Update) -> SessionKey:
    """Return the session whose flow an update tells of its deadline."""
    return msgspec.convert(update.payload["session"], SessionKey)


def is_for(update: Update, state: FlowState) -> bool:
    """Is this the deadline that the flow waits for, and not one that it had before?"""
    moment = None if state.deadline is None else state.deadline.isoformat()
    return (update.payload["flow"], update.payload["deadline"]) == (state.id, moment)
