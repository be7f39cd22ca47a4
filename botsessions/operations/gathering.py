"""Taking what a deletion is to delete out of its slices, each in its turn in its mailbox."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models import F, QuerySet

from botsessions import clock
from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.mailboxes.deletions import Doomed, Place, chunked, finish, known_ids
from botsessions.mailboxes.slices import forget, mark_deleted, skips_locked
from botsessions.models import BotSession, DeletionChunk, MessageDeletion, TrackedMessage
from botsessions.operations.known import known_bots
from botsessions.operations.selection import Selection
from botsessions.operations.taking import taken_sessions

#: How many sessions are taken at a time, and how many messages in one transaction.
SESSIONS = 100
MESSAGES = 5_000
#: Seconds until a session that somebody worked on is tried again.
AGAIN_AFTER = 1.0


def gather_due(aliases: list[str], until: float) -> bool:
    """Gather for one deletion that is due; return whether there was one."""
    now, using = clock.now(), settings.DATABASE
    rows = MessageDeletion.objects.using(using)
    with transaction.atomic(using=using):
        due = rows.filter(due_at__lte=now, through__in=aliases).order_by("due_at", "id")
        found = due.select_for_update(skip_locked=skips_locked(settings.DATABASE)).first()
        if found is not None:
            # It belongs to whoever found it.
            due_at = now + timedelta(seconds=settings.LEASE)
            rows.filter(pk=found.pk).update(due_at=due_at)
    if found is None:
        return False
    gather(found, until)
    return True


def gather(deletion: MessageDeletion, until: float) -> None:
    """Gather for a deletion until all is gathered, or until that moment (monotonic)."""
    selection = Selection.read(deletion.selection)
    while time.monotonic() < until:
        spoken = selection.spoken(deletion.last_message).defer("data", "quarantined")
        found = list(spoken.filter(pk__gt=deletion.cursor).order_by("pk")[:SESSIONS])
        if not found:
            break
        busy = _take(deletion, selection, found)
        if not _note(deletion, found[-1].pk, [*deletion.busy, *busy]):
            return
    else:
        _pause(deletion, 0)
        return
    if deletion.busy:
        spoken = selection.spoken(deletion.last_message).defer("data", "quarantined")
        batch, rest = deletion.busy[:SESSIONS], deletion.busy[SESSIONS:]
        still = _take(deletion, selection, list(spoken.filter(pk__in=batch)))
        if not _note(deletion, deletion.cursor, [*rest, *still]):
            return
    if deletion.busy:
        _pause(deletion, AGAIN_AFTER)
    else:
        finish(settings.DATABASE, deletion.pk, gathered=True)


def _take(
    deletion: MessageDeletion, selection: Selection, sessions: Sequence[BotSession]
) -> list[int]:
    """Take the messages of these sessions; return those that somebody works on.

    What arrives in their mailboxes meanwhile is for the caller to recover: a handler takes time.
    """
    # The mailboxes are not ours for ever: what is left then is for the next time.
    stop = time.monotonic() + settings.LEASE / 2
    with taken_sessions(sessions, known_bots(), recovers=False) as hold:
        messages = selection.messages(deletion.last_message).filter(session__in=hold.ids)
        while move(deletion, messages) >= MESSAGES:
            if time.monotonic() > stop:
                return [each.pk for each in sessions]
    return [each.pk for each in hold.busy]


def move(deletion: MessageDeletion, messages: QuerySet[TrackedMessage]) -> int:
    """Make chunks of these messages, up to MESSAGES, and return how many they were.

    Of a deletion that was cancelled meanwhile none; but for that of an erasure, which takes them
    all the same, not to be asked for.
    """
    using, size = settings.DATABASE, bots[deletion.through].platform.delete_batch_size
    columns = "id", "chat", "business", "message_id", "sent_at"
    with transaction.atomic(using=using):
        jobs = MessageDeletion.objects.using(using).filter(pk=deletion.pk)
        [status] = jobs.select_for_update().values_list("status", flat=True)
        is_cancelled = status == MessageDeletion.Status.CANCELLED
        if is_cancelled and not deletion.forgets:
            return 0
        found = list(messages.order_by("session", "id").values_list(*columns)[:MESSAGES])
        places: dict[Place, list[Doomed]] = {}
        for _, chat, business, message_id, sent_at in found:
            places.setdefault((chat, business), []).append((message_id or "", sent_at))
        known = known_ids(using, deletion, {chat for chat, _ in places})
        for place, doomed in places.items():
            before = known.get(place, set())
            places[place] = [each for each in doomed if each[0] not in before]
        chunks = list(chunked(deletion, places, size, None if is_cancelled else clock.now()))
        DeletionChunk.objects.using(using).bulk_create(chunks)
        ids = [id for id, *_ in found]
        if deletion.forgets:
            forget(using, ids)
        else:
            mark_deleted(using, {"": ids})
        # What has no id of its own, or is in another slice too, needs no call.
        spare = len(found) - sum(len(each.messages) for each in chunks)
        jobs.update(total=F("total") + len(found), gone=F("gone") + spare)
    return len(found)


def _note(deletion: MessageDeletion, cursor: int, busy: list[int]) -> bool:
    """Note how far it is; return whether it goes on, and was not cancelled."""
    deletion.cursor, deletion.busy = cursor, busy
    rows = MessageDeletion.objects.using(settings.DATABASE)
    going_on = rows.filter(pk=deletion.pk, status=MessageDeletion.Status.GATHERING)
    return bool(going_on.update(cursor=cursor, busy=busy))


def _pause(deletion: MessageDeletion, seconds: float) -> None:
    rows = MessageDeletion.objects.using(settings.DATABASE)
    going_on = rows.filter(pk=deletion.pk, status=MessageDeletion.Status.GATHERING)
    going_on.update(due_at=clock.now() + timedelta(seconds=seconds))
