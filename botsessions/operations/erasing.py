"""Erasing what is stored of a person or a chat, with a receipt.

Their mailboxes are taken, so that a handler in flight is over before, and brings nothing back: it
has committed, and what it wrote is erased, or its lease is lost. Whatever cannot be had at once is
tried again, by whoever erases next.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from botsessions import clock
from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.contents import drop
from botsessions.mailboxes.slices import key_of
from botsessions.models import (
    OUTCOMES,
    BotSession,
    BotUpdate,
    Erasure,
    MessageDeletion,
    TrackedMessage,
)
from botsessions.operations.gathering import finish, move
from botsessions.operations.known import known_bots
from botsessions.operations.subject import Subject
from botsessions.operations.taking import mailbox_name, taken

log = logging.getLogger("botsessions.operations")

#: How many sessions, and how many rows of other tables, one transaction erases.
SESSIONS = 100
ROWS = 1000
#: Seconds between looks for mailboxes that somebody worked on: here, and for whoever goes on.
PAUSE = 0.1
AGAIN_AFTER = 5.0
#: Seconds for which an erasure belongs to whoever works on it.
CLAIMED_FOR = 60.0


def begin_erasure(
    bot: str,
    *,
    user: str = "",
    chat: str = "",
    delete_messages: bool = False,
    requested_by: str = "",
) -> Erasure:
    """Let a user or a chat of a bot, by the platform's id, be erased by `finish_erasures`.

    Returns the receipt, at once: also in a handler, whose own mailbox is one of those that have to
    be free. Raises `UnknownBot`, and `ValueError` unless exactly one of user and chat is named.
    """
    subject = Subject(bot, user=user, chat=chat)
    return _create(subject, requested_by, deletes=delete_messages)


def erase(
    bot: str,
    *,
    user: str = "",
    chat: str = "",
    delete_messages: bool = False,
    requested_by: str = "",
    wait: float = 30.0,
) -> Erasure:
    """Erase a user or a chat of a bot, by the platform's id, and return the receipt.

    Sessions with their data, slices and flows, what the user said elsewhere, updates that wait or
    were parked, and what stores and caches hold are removed, and what is left of done updates names
    nobody any more. With `delete_messages` the platform is asked to delete the messages too, as a
    deletion that goes on by itself. Waits so many seconds for handlers in flight; a receipt whose
    `finished_at` is None is finished by `finish_erasures`. Raises as `begin_erasure`.
    """
    subject = Subject(bot, user=user, chat=chat)
    erasure = _create(
        subject, requested_by, deletes=delete_messages, claimed_for=wait + CLAIMED_FOR
    )
    until = time.monotonic() + wait
    while (
        not continue_erasure(erasure)
        and erasure.selection is not None  # else it waits for the platform alone
        and time.monotonic() < until
    ):
        time.sleep(PAUSE)
    return erasure


def finish_erasures() -> int:
    """Go on with erasures that waited for somebody; return how many were finished."""
    finished = 0
    while (erasure := _claim()) is not None:
        finished += continue_erasure(erasure)
    return finished


def _claim() -> Erasure | None:
    now = clock.now()
    rows = Erasure.objects.using(settings.DATABASE)
    with transaction.atomic(using=settings.DATABASE):
        due = rows.filter(due_at__lte=now, bot__in=list(known_bots())).order_by("due_at", "id")
        found = due.select_for_update().first()
        if found is not None:
            found.due_at = now + timedelta(seconds=CLAIMED_FOR)
            found.save(update_fields=["due_at"])
    return found


def _create(
    subject: Subject, requested_by: str, *, deletes: bool, claimed_for: float = 0
) -> Erasure:
    """Store an erasure that is due, or belongs to the caller for so many seconds."""
    using, now = settings.DATABASE, clock.now()
    with transaction.atomic(using=using):
        return Erasure.objects.using(using).create(
            bot=subject.bot,
            kind=subject.kind,
            subject=subject.pseudonym,
            selection={subject.kind: subject.id},
            deletion=_begin_deletion(subject.bot, requested_by) if deletes else None,
            due_at=now + timedelta(seconds=claimed_for),
            requested_by=requested_by,
            created_at=now,
        )


def _begin_deletion(bot: str, requested_by: str) -> MessageDeletion:
    """Return a deletion that is gathered by the erasure."""
    return MessageDeletion.objects.using(settings.DATABASE).create(
        bot=bot,
        through=bot,
        status=MessageDeletion.Status.GATHERING,
        requested_by=requested_by,
        created_at=clock.now(),
    )


def continue_erasure(erasure: Erasure) -> bool:
    """Erase what can be had now; return whether the erasure is finished."""
    if erasure.selection is not None:
        subject = Subject(erasure.bot, **erasure.selection)
        found, is_clean = _pass(subject, erasure.deletion)
        counts = Counter(erasure.counts)
        counts.update(found)
        erasure.counts = dict(counts)
        if is_clean:
            erasure.selection = None
            if erasure.deletion is not None:
                finish(erasure.deletion.pk, gathered=True)
    if erasure.selection is None and _is_deleted(erasure):
        erasure.due_at, erasure.finished_at = None, clock.now()
    else:
        erasure.due_at = clock.now() + timedelta(seconds=AGAIN_AFTER)
    erasure.save(update_fields=["counts", "selection", "due_at", "finished_at"])
    return erasure.finished_at is not None


def _is_deleted(erasure: Erasure) -> bool:
    """Is the platform's part over? Then the receipt has it, and its messages are named no more."""
    if erasure.deletion is None:
        return True
    deletion = erasure.deletion
    deletion.refresh_from_db()
    if deletion.finished_at is None:
        return False
    erasure.counts["platform"] = {name: getattr(deletion, name) for name in OUTCOMES}
    deletion.chunks.all().delete()
    return True


def _pass(subject: Subject, deletion: MessageDeletion | None) -> tuple[dict[str, int], bool]:
    """Erase once; return how many rows of each table, and whether nothing was left.

    Updates that wait go first: then somebody works on a mailbox for as long as one handler takes,
    and whose update it was that is being handled is erased with what it did.
    """
    counts: Counter[str] = Counter()
    counts["updates"] += _remove_waiting(subject)
    busy = _end_sessions(subject, deletion, counts)
    busy += _end_others(subject)
    if not busy:
        counts["messages"] += _remove_said(subject, deletion)
        counts["done_updates"] += _blank_done(subject)
        for name, rows in (("deletion_chunks", subject.chunks), ("rate_windows", subject.rates)):
            counts[name] += rows.delete()[0]
    is_clean = not busy and not subject.sessions.exists() and not subject.waiting.exists()
    return {name: number for name, number in counts.items() if number}, is_clean


def _end_sessions(subject: Subject, deletion: MessageDeletion | None, counts: Counter[str]) -> int:
    """Remove the sessions whose mailboxes are free; return how many are not."""
    known, busy, cursor = known_bots(), 0, 0
    while True:
        rows = subject.sessions.filter(pk__gt=cursor).order_by("pk")
        batch = list(rows.defer("data", "quarantined")[:SESSIONS])
        if not batch:
            return busy
        cursor = batch[-1].pk
        names: dict[str, list[BotSession]] = {}
        for each in batch:
            names.setdefault(mailbox_name(key_of(each), known), []).append(each)
        with taken(names) as hold:
            free = [each for name, those in names.items() if name in hold for each in those]
            _remove(free, deletion, counts)
        drop(bots[subject.bot].store, [key_of(each) for each in free])
        busy += len(batch) - len(free)


def _remove(
    sessions: list[BotSession], deletion: MessageDeletion | None, counts: Counter[str]
) -> None:
    """Remove sessions with all that is in them."""
    ids = [each.pk for each in sessions]
    if not ids:
        return
    using = settings.DATABASE
    with transaction.atomic(using=using):
        rows = BotSession.objects.using(using).filter(pk__in=ids)
        locked = list(rows.order_by("pk").select_for_update().values_list("pk", "flow"))
        if deletion is not None:
            counts["messages"] += _move_all(deletion, ids)
        messages = TrackedMessage.objects.using(using).filter(session__in=ids)
        counts["messages"] += messages.delete()[0]
        counts["sessions"] += rows.delete()[0]
        counts["flows"] += sum(flow is not None for _, flow in locked)


def _move_all(deletion: MessageDeletion, sessions: list[int]) -> int:
    """Let a deletion have the messages of these sessions; return how many."""
    moved, rows = 0, TrackedMessage.objects.using(settings.DATABASE)
    while found := move(deletion, rows.filter(session__in=sessions)):
        moved += found
    return moved


def _end_others(subject: Subject) -> int:
    """Return how many of their mailboxes somebody works on."""
    names = list(subject.leases.values_list("key", flat=True))
    with taken(names) as hold:
        return len(names) - len(hold.free)


def _remove_said(subject: Subject, deletion: MessageDeletion | None) -> int:
    """Remove the messages in other sessions that are theirs; return how many."""

    def remove(ids: list[int]) -> int:
        rows = TrackedMessage.objects.using(settings.DATABASE).filter(pk__in=ids)
        moved = 0 if deletion is None else move(deletion, rows)
        return moved + rows.delete()[0]

    return _in_steps(subject.said, remove)


def _remove_waiting(subject: Subject) -> int:
    rows = BotUpdate.objects.using(settings.DATABASE)
    return _in_steps(subject.waiting, lambda ids: rows.filter(pk__in=ids).delete()[0])


def _blank_done(subject: Subject) -> int:
    rows = BotUpdate.objects.using(settings.DATABASE)
    return _in_steps(subject.done, lambda ids: rows.filter(pk__in=ids).update(mailbox=""))


def _in_steps(rows: QuerySet[Any], change: Callable[[list[int]], int]) -> int:
    """Change rows, a bounded number in each transaction; return how many."""
    changed = cursor = 0
    while ids := list(
        rows.filter(pk__gt=cursor).order_by("pk").values_list("pk", flat=True)[:ROWS]
    ):
        with transaction.atomic(using=settings.DATABASE):
            changed += change(ids)
        cursor = ids[-1]
    return changed
