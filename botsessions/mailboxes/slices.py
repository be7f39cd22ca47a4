"""Sessions and their slices where a query a session is enough, in the ORM of every database.

`end`, `due` and `move` are transactions of their own, the others are part of their caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec
from django.db import connections, transaction
from django.db.models import Q
from django.db.models import Value as Constant
from django.db.models.functions import Now

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Opening, Tracked
from botsessions.mailboxes.rows import parts
from botsessions.platforms.base import Deletion
from botsessions.stores.base import Store, Value, lifetime
from botsessions.stores.envelope import opened, sealed
from botsessions.updates import Direction, Update

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from botsessions.models import BotSession, TrackedMessage

T = TypeVar("T")

#: How many messages a query names.
CHUNK = 500
FORGET = "DELETE FROM botsessions_trackedmessage WHERE id = ANY(%s)"
MARK_DELETED = """
UPDATE botsessions_trackedmessage SET deleted_at = %s, outcome = %s, text = ''
WHERE id = ANY(%s) AND deleted_at IS NULL"""


def key_of(session: BotSession) -> SessionKey:
    return SessionKey(session.bot, session.chat, session.user, session.thread, session.qualifier)


def _sessions(using: str) -> QuerySet[BotSession]:
    from botsessions.models import BotSession

    return BotSession.objects.using(using)


def _messages(using: str) -> QuerySet[TrackedMessage]:
    from botsessions.models import TrackedMessage

    return TrackedMessage.objects.using(using)


def _of_session(using: str, key: SessionKey) -> QuerySet[TrackedMessage]:
    return _messages(using).filter(
        **{f"session__{part}": value for part, value in parts(key).items()}
    )


def tracked(using: str, key: SessionKey, *, texts: bool) -> list[Tracked]:
    found = _of_session(using, key).filter(deleted_at=None).order_by("id")
    fields = Tracked.__struct_fields__
    rows = found.values_list(
        *(Constant("") if name == "text" and not texts else name for name in fields)
    )
    return [
        Tracked(id, chat, message_id or "", business, Direction(direction), *rest)
        for id, chat, message_id, business, direction, *rest in rows.iterator()
    ]


def forget(using: str, messages: Sequence[int]) -> None:
    connection = connections[using]
    if connection.vendor == "postgresql":
        # An array is one parameter: a long list costs the client more than the server.
        with connection.cursor() as cursor:
            cursor.execute(FORGET, [list(messages)])
        return
    for ids in _chunks(messages):
        _messages(using).filter(id__in=ids).delete()


def forget_deleted(using: str, sessions: Iterable[SessionKey]) -> None:
    for key in sorted(sessions):
        _of_session(using, key).filter(deleted_at__isnull=False).delete()


def mark_deleted(using: str, outcomes: Mapping[str, Sequence[int]]) -> None:
    connection, now = connections[using], clock.now()
    for outcome, messages in sorted(outcomes.items()):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(MARK_DELETED, [now, outcome, list(messages)])
            continue
        for ids in _chunks(messages):
            there = _messages(using).filter(id__in=ids, deleted_at=None)
            there.update(deleted_at=now, outcome=outcome, text="")


def mark_gone(using: str, update: Update) -> None:
    if update.chat is None:
        return
    there = _messages(using).filter(
        session__bot=update.bot, session__chat=update.conversation, chat=update.chat.id
    )
    for ids in _chunks(update.deleted):
        found = there.filter(message_id__in=ids, deleted_at=None)
        mark_deleted(using, {Deletion.GONE: list(found.values_list("id", flat=True))})


def chosen(opens: Iterable[Opening]) -> list[Opening]:
    """Return those that are opened with a matcher of their own."""
    return [each for each in opens if each.matcher is not None]


def subscribe(using: str, opens: Iterable[Opening]) -> None:
    """Note the matchers that were `chosen` for sessions that were just opened."""
    for each in opens:
        _sessions(using).filter(**parts(each.key)).update(matcher=each.matcher)


def end(using: str, keys: Iterable[SessionKey]) -> None:
    for key in sorted(keys):
        found = _sessions(using).filter(**parts(key))
        with transaction.atomic(using=using):
            # Closed first: whoever tracks a message locks the row, and sees it closed.
            found.update(is_open=False, matcher="")
            _messages(using).filter(session__in=found).delete()


def end_expired(using: str, ids: Sequence[int]) -> list[SessionKey]:
    """Delete those of these sessions that have expired, with their slices; return their keys."""
    with transaction.atomic(using=using):
        rows = _sessions(using).filter(pk__in=ids, expires_at__lt=clock.now()).order_by("id")
        # Whoever opens or saves one meanwhile waits for the lock, and begins a new one.
        expired = list(rows.defer("data", "quarantined").select_for_update())
        ended = [each.pk for each in expired]
        _messages(using).filter(session__in=ended).delete()
        _sessions(using).filter(pk__in=ended).delete()
    return [key_of(each) for each in expired]


def due(using: str, bots: Sequence[str], limit: int) -> list[tuple[SessionKey, bytes]]:
    now = clock.now()
    live = _sessions(using).filter(Q(expires_at=None) | Q(expires_at__gte=now))
    waiting = live.filter(due_at__lte=now, bot__in=bots).order_by("due_at", "id")
    # Who found one may be killed: then it is found again when crashed processes are looked for.
    later = now + timedelta(seconds=settings.RECOVER_EVERY)
    with transaction.atomic(using=using):
        rows = waiting.select_for_update(skip_locked=skips_locked(using)).defer(
            "data", "quarantined"
        )
        found = list(rows[:limit])
        if found:
            _sessions(using).filter(pk__in=[each.pk for each in found]).update(due_at=later)
    return [(key_of(each), msgspec.json.encode(each.flow)) for each in found if each.flow]


def skips_locked(using: str) -> bool:
    """Can the database pass over rows that somebody else has locked?"""
    return connections[using].features.has_select_for_update_skip_locked


def move(using: str, bot: str, chat: str, to: str, store: Store | None) -> list[SessionKey]:
    if _is_worked_on(using, str(SessionKey(bot, chat))):
        raise Unavailable(f"Updates of chat {chat} come first; then its sessions move to {to}.")
    moved: list[tuple[SessionKey, int, BotSession]] = []
    with transaction.atomic(using=using):
        ours = _sessions(using).filter(bot=bot).order_by("id").select_for_update()
        there = {(each.user, each.thread, each.qualifier): each for each in ours.filter(chat=to)}
        for session in ours.filter(chat=chat):
            other = there.get((session.user, session.thread, session.qualifier))
            if other is not None and _has_data(other, store):
                continue
            moved.append((key_of(session), session.version, session))
            if other is not None:
                _merge(using, session, other)
            session.chat = to
            # Whoever holds it under its old key is to look again.
            session.version += 1
            session.save(using=using)
        if store is not None and not store.in_row:
            _move_data(store, moved)
    return [key for key, _, _ in moved]


def _is_worked_on(using: str, place: str) -> bool:
    """Does an update wait in a mailbox of that chat, or is one handled there?"""
    from botsessions.models import BotUpdate, MailboxLease

    waiting = BotUpdate.objects.using(using).filter(status=BotUpdate.Status.PENDING)
    leases = MailboxLease.objects.using(using).filter(expires_at__gt=Now())
    return (
        waiting.filter(Q(mailbox=place) | Q(mailbox__startswith=f"{place}:")).exists()
        or leases.filter(Q(key=place) | Q(key__startswith=f"{place}:")).exists()
    )


def _has_data(session: BotSession, store: Store | None) -> bool:
    if store is None or store.in_row:
        return session.data is not None
    return session.version > 0


def _move_data(store: Store, moved: Sequence[tuple[SessionKey, int, BotSession]]) -> None:
    """Store the data of sessions under their new keys too, with the versions of their rows."""
    values: list[Value] = []
    stored = store.load([key for key, _, _ in moved])
    for (_, version, session), value in zip(moved, stored, strict=True):
        data = opened(value, version)
        if data is not None:
            life = lifetime(session.expires_at)
            values.append((key_of(session), sealed(session.version, data, data), life))
    store.save(values)


def _merge(using: str, session: BotSession, other: BotSession) -> None:
    """Let a session that moves take over the empty one that is there already."""
    messages = _messages(using)
    here: dict[str, list[str]] = {}
    for chat, message_id in messages.filter(session=session).values_list("chat", "message_id"):
        if message_id is not None:
            here.setdefault(chat, []).append(message_id)
    for chat, found in here.items():
        for ids in _chunks(found):
            messages.filter(session=other, chat=chat, message_id__in=ids).delete()
    messages.filter(session=other).update(session=session)
    if other.is_open and not session.is_open:
        session.is_open, session.matcher = True, other.matcher
    if session.flow is None:
        session.flow, session.due_at = other.flow, other.due_at
    session.version = max(session.version, other.version)
    other.delete()


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(values), CHUNK):
        yield values[first : first + CHUNK]
