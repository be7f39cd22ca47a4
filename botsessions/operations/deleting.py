"""Bulk deletion of messages: begun at once, worked off by whoever has time, resumed after a crash.

A deletion is gathered from the slices of its sessions, each in its turn in its mailbox, into chunks
that one call can delete. A chunk is asked for by one process at a time, and what became of its
messages is written after each call: what has an outcome is not asked for again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models import Max

from botsessions import clock
from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.exceptions import UnknownBot
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import DeletionChunk, MessageDeletion, TrackedMessage
from botsessions.operations.asking import Asker
from botsessions.operations.known import known_bots
from botsessions.operations.selection import Selection

log = logging.getLogger("botsessions.operations")

Status = MessageDeletion.Status
#: Seconds for which one call works: a task is short, and the next goes on.
SECONDS = 5.0
#: Seconds between looks of whoever waits for one.
LOOK_EVERY = 0.2


def begin_deletion(
    selection: Selection, *, through: str = "", requested_by: str = ""
) -> MessageDeletion:
    """Begin to delete the messages of a set of sessions, and return how far that is.

    They are those that are there now. The bot `through` deletes, by default the sessions' own.
    Raises `UnknownBot`, and `msgspec.ValidationError` for a selection of other types. Nothing is
    gathered or asked for yet: `delete_messages` does.
    """
    through = through or selection.bot
    for alias in (selection.bot, through):
        if alias not in bots:
            raise UnknownBot(f"There is no bot '{alias}'.")
    selection = Selection.read(selection.stored())
    last = TrackedMessage.objects.using(settings.DATABASE).aggregate(last=Max("id"))["last"] or 0
    now = clock.now()
    return MessageDeletion.objects.using(settings.DATABASE).create(
        bot=selection.bot,
        through=through,
        status=Status.GATHERING,
        selection=selection.stored(),
        last_message=last,
        due_at=now,
        requested_by=requested_by,
        created_at=now,
    )


def delete_messages(seconds: float = SECONDS, progress: Callable[[], object] | None = None) -> int:
    """Work off the deletions that are due, for so many seconds; return how many messages came to
    an outcome.

    `progress` is called now and then. Safe at any time, in any number of processes.
    """
    known = known_bots()
    done: int = async_to_sync(Asker(known, seconds, progress).run, force_new_loop=True)()
    return done


def follow_deletion(deletion: MessageDeletion, progress: Callable[[], object]) -> None:
    """Work on what is due until a deletion is over; `progress` is called now and then."""
    while deletion.finished_at is None:
        delete_messages(progress=progress)
        progress()
        deletion.refresh_from_db(using=settings.DATABASE)
        if deletion.finished_at is None:
            time.sleep(LOOK_EVERY)


def cancel_deletion(deletion: MessageDeletion) -> bool:
    """Ask for no more messages of a deletion; return whether it was still going on.

    What was taken out of the slices stays out; calls that are under way are noted as they end.
    """
    return DatabaseMailbox().rerun(lambda: _cancel(deletion.pk))


def _cancel(pk: int) -> bool:
    using = settings.DATABASE
    rows, chunks = MessageDeletion.objects.using(using), DeletionChunk.objects.using(using)
    with transaction.atomic(using=using):
        going_on = rows.filter(pk=pk, status__in=[Status.GATHERING, Status.RUNNING])
        stopped = going_on.update(
            status=Status.CANCELLED, due_at=None, busy=[], finished_at=clock.now()
        )
        waiting = chunks.filter(deletion=pk, due_at__isnull=False).order_by("pk")
        ids = list(waiting.select_for_update().values_list("pk", flat=True))
        chunks.filter(pk__in=ids).update(due_at=None)
    return bool(stopped)
