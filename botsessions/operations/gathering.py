"""Taking what a deletion is to delete out of its slices, each in its turn in its mailbox."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta

from django.db import transaction
from django.db.models import F, QuerySet

from botsessions import clock
from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.mailboxes.deletions import Doomed, Place, chunked, known_ids
from botsessions.mailboxes.slices import forget, key_of
from botsessions.models import BotSession, DeletionChunk, MessageDeletion, TrackedMessage
from botsessions.operations.known import known_bots
from botsessions.operations.selection import Selection
from botsessions.operations.taking import mailbox_name, taken

#: How many sessions are taken at a time, and how many messages in one transaction.
SESSIONS = 100
MESSAGES = 10_000
#: Seconds until a session that somebody worked on is tried again.
AGAIN_AFTER = 1.0


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
        finish(deletion.pk, gathered=True)


def finish(pk: int, *, gathered: bool = False) -> bool:
    """Note that a deletion is gathered, and whether all of it has come to an outcome."""
    rows = MessageDeletion.objects.using(settings.DATABASE)
    with transaction.atomic(using=settings.DATABASE):
        deletion = rows.select_for_update().get(pk=pk)
        if gathered and deletion.status == MessageDeletion.Status.GATHERING:
            deletion.status, deletion.due_at = MessageDeletion.Status.RUNNING, None
        left = DeletionChunk.objects.using(settings.DATABASE).filter(
            deletion=pk, due_at__isnull=False
        )
        if deletion.status == MessageDeletion.Status.RUNNING and not left.exists():
            deletion.status, deletion.finished_at = MessageDeletion.Status.DONE, clock.now()
        deletion.save(update_fields=["status", "due_at", "finished_at"])
    return deletion.status == MessageDeletion.Status.DONE


def _take(
    deletion: MessageDeletion, selection: Selection, sessions: Iterable[BotSession]
) -> list[int]:
    """Take the messages of these sessions; return those that somebody works on."""
    known = known_bots()
    names: dict[str, list[int]] = {}
    for each in sessions:
        names.setdefault(mailbox_name(key_of(each), known), []).append(each.pk)
    if not names:
        return []
    # The mailboxes are not ours for ever: what is left then is for the next time.
    stop = time.monotonic() + settings.LEASE / 2
    with taken(names) as hold:
        free = [pk for name, pks in names.items() if name in hold for pk in pks]
        messages = selection.messages(deletion.last_message).filter(session__in=free)
        while move(deletion, messages) >= MESSAGES:
            if time.monotonic() > stop:
                return [pk for pks in names.values() for pk in pks]
    return [pk for name, pks in names.items() if name not in hold for pk in pks]


def move(deletion: MessageDeletion, messages: QuerySet[TrackedMessage]) -> int:
    """Make chunks of these messages, up to MESSAGES, and return how many they were."""
    using, size = settings.DATABASE, bots[deletion.through].platform.delete_batch_size
    columns = "id", "chat", "business", "message_id", "sent_at"
    with transaction.atomic(using=using):
        jobs = MessageDeletion.objects.using(using).filter(pk=deletion.pk)
        [status] = jobs.select_for_update().values_list("status", flat=True)
        # What is gathered while it is cancelled is not asked for.
        due_at = None if status == MessageDeletion.Status.CANCELLED else clock.now()
        found = list(messages.order_by("session", "id").values_list(*columns)[:MESSAGES])
        places: dict[Place, list[Doomed]] = {}
        for _, chat, business, message_id, sent_at in found:
            places.setdefault((chat, business), []).append((message_id or "", sent_at))
        known = known_ids(using, deletion, {chat for chat, _ in places})
        for place, doomed in places.items():
            before = known.get(place, set())
            places[place] = [each for each in doomed if each[0] not in before]
        chunks = list(chunked(deletion, places, size, due_at))
        DeletionChunk.objects.using(using).bulk_create(chunks)
        forget(using, [id for id, *_ in found])
        total = sum(len(each.messages) for each in chunks)
        # What has no id of its own, or is in another slice too, needs no call.
        spare = len(found) - total
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
