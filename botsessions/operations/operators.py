"""What an operator does to a session or an update, whether in the admin or by the API.

What is done to a session takes its turn in the mailbox and raises what that raises: `MailboxBusy`
where a handler does not end in time, `Unavailable`; and `UnknownBot` where the bot is not
configured (any more). A session is named by its row; who may do what is for the callers to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from django.db import transaction

from botsessions import clock
from botsessions.bots import Bot, find_bot
from botsessions.conf import settings
from botsessions.data import Misfit, decoder
from botsessions.exceptions import InvalidSessionData, SessionConflict
from botsessions.flows import takeover
from botsessions.mailboxes.rows import is_at, place_row
from botsessions.mailboxes.slices import key_of
from botsessions.models import BotSession, BotUpdate, MessageDeletion
from botsessions.operations.declared import type_of
from botsessions.operations.deleting import begin_deletion
from botsessions.operations.selection import Selection
from botsessions.operations.taking import mailbox_name
from botsessions.session import Session
from botsessions.sessions import SessionHandle
from botsessions.updates import Update

R = TypeVar("R")

#: Seconds that an operator waits for a handler to end.
WAIT = 10.0

Status = BotUpdate.Status


def bot_of(row: BotSession | BotUpdate) -> Bot:
    """Return the bot of a row. Raises `UnknownBot`."""
    return find_bot(row.bot)


def handle(row: BotSession, type_: Any = Any) -> SessionHandle[Any]:
    """Return the session of a row, to be entered; it stays as open or closed as it is."""
    return bot_of(row).sessions.at(key_of(row), type=type_, wait=WAIT)


def _in_turn(row: BotSession, do: Callable[[Session[Any]], R], type_: Any = Any) -> R:
    with handle(row, type_) as session:
        return do(session)


# Its messages


def clear(row: BotSession, *, by: str = "") -> MessageDeletion:
    """Begin to delete the messages of a session, on the platform and here."""
    bot_of(row)
    return begin_deletion(Selection(row.bot, sessions=[row.pk]), requested_by=by)


def forget(row: BotSession) -> int:
    """Take all messages out of its slice and leave them on the platform; return how many."""
    forgotten: int = _now(row, lambda session: session.forget())
    return forgotten


def close(row: BotSession) -> None:
    """End the tracking: its slice is empty, its data stays."""
    _now(row, lambda session: session.close())


def send(row: BotSession, text: str) -> Any:
    """Send a message as the bot, which opens the session; return the platform's answer.

    Raises a `PlatformError`.
    """
    return _now(row, lambda session: session.send(text))


def _now(row: BotSession, act: Callable[[Session[Any]], Any]) -> Any:
    """Do one action in a turn, and return its result."""
    action = _in_turn(row, act)
    return action.result


# Its data


def edit(row: BotSession, data: Any, version: int) -> None:
    """Put other data (as JSON has it) into a session, where it still is of that version.

    Raises `SessionConflict` where somebody has saved it meanwhile, and `InvalidSessionData` where
    the data does not fit the type that the bot's code declares.
    """
    bot = bot_of(row)
    type_ = type_of(bot, key_of(row))
    try:
        value = decoder(type_)(msgspec.json.encode(data)) if type_ is not Any else data
    except Misfit as error:
        raise InvalidSessionData(f"The data is no {type_!r}: {error}") from error

    def change(session: Session[Any]) -> None:
        if session.version != version:
            raise SessionConflict(
                f"Session {session.key} was saved meanwhile: it is of version {session.version} "
                f"now, not {version}."
            )
        session.data = value

    _in_turn(row, change, type_)


def reset(row: BotSession) -> None:
    """Delete the data of a session: it begins anew with the next update."""
    _in_turn(row, lambda session: session.delete())


def end_flow(row: BotSession) -> bool:
    """End the flow that waits in a session, as cancelled; return whether there was one."""
    ended: bool = _now(row, lambda session: session.end())
    return ended


def delete(row: BotSession) -> None:
    """Delete a session for good, with data, flow and slice; its messages stay on the platform."""

    def remove(session: Session[Any]) -> None:
        if session.flow is not None and not takeover.stands(session):
            session.end()
        elif takeover.stands(session):
            session.slot.put(None)
        session.close()
        session.delete()

    _in_turn(row, remove)


# Talking in the bot's place


def take_over(row: BotSession, operator: str) -> bool:
    """Let an operator talk: what is said there is recorded and waits; return False if one does.

    The session is open from then on. A flow that waits there goes on when they are done.
    """

    def begin(session: Session[Any]) -> bool:
        if takeover.stands(session):
            return False
        session.open()
        takeover.begin(session, operator)
        return True

    return _in_turn(row, begin)


def hand_back(row: BotSession, *, handles: bool) -> int:
    """Let the bot talk again; return how many updates had come meanwhile.

    They are given to the handlers, in order, where `handles`, and are done otherwise.
    """

    def end(session: Session[Any]) -> int:
        if takeover.stands(session):
            takeover.end(session)
        return _release(row, handles=handles)

    return _in_turn(row, end)


def _release(row: BotSession, *, handles: bool) -> int:
    """Let go of the updates that were held for a session, in the turn of its mailbox."""
    key, using = key_of(row), settings.DATABASE
    mailbox = mailbox_name(key, {row.bot: bot_of(row)})
    rows = BotUpdate.objects.using(using)
    with transaction.atomic(using=using):
        held = rows.filter(bot=row.bot, mailbox=mailbox, status=Status.HELD)
        # The first of several at once was never stored before it was held: its id is not the least.
        ours = [
            each
            for each in held.order_by("finished_at", "pk").select_for_update()
            if is_at(key, place_row(0, msgspec.convert(each.payload, Update)))
        ]
        if handles:
            ids = sorted(each.pk for each in ours)
            rows.filter(pk__in=ids).delete()
            for each, id in zip(ours, ids, strict=True):
                each.pk = id
            rows.bulk_create(ours)
        return _decide(rows.filter(pk__in=[each.pk for each in ours]), handles=handles)


# Updates


def replay(update: BotUpdate) -> bool:
    """Let a parked or held update be handled, as if it had never been tried; return whether it was.

    It comes before what waits in its mailbox, with the next look for updates that nobody works on.
    """
    return _settle(update, handles=True)


def drop(update: BotUpdate) -> bool:
    """Let a parked or held update be done, unhandled; return whether it was one."""
    return _settle(update, handles=False)


def _settle(update: BotUpdate, *, handles: bool) -> bool:
    rows = BotUpdate.objects.using(settings.DATABASE)
    kept = rows.filter(pk=update.pk, status__in=[Status.PARKED, Status.HELD])
    return bool(_decide(kept, handles=handles))


def _decide(updates: Any, *, handles: bool) -> int:
    """Let updates wait for their handlers, or be done."""
    if handles:
        changed: int = updates.update(
            status=Status.PENDING, attempts=0, due_at=None, error="", finished_at=None
        )
    else:
        changed = updates.update(
            status=Status.DONE, payload=None, journal=None, finished_at=clock.now()
        )
    return changed
