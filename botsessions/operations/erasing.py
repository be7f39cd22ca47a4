"""Erasing what is stored of a person or a chat, with a receipt.

What counts is what there was when it began; what is said later is a new beginning. It goes in
steps, each of which any process can go on with:

1. Their updates that wait are removed, and who works on a mailbox of the bot now is noted.
2. Until each of those has ended one update, nothing else happens: a handler in flight commits, or
   loses its lease, and brings nothing back after what follows.
3. What there is by then, and no more, is erased: the sessions each in its turn in its mailbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import transaction
from django.db.models import QuerySet

from botsessions import clock
from botsessions.bots import bots
from botsessions.clearing import in_batches
from botsessions.conf import settings
from botsessions.contents import remove
from botsessions.exceptions import MailboxBusy, Unavailable
from botsessions.mailboxes.deletions import finish
from botsessions.mailboxes.slices import key_of, skips_locked
from botsessions.mailboxes.statements.orm import DatabaseClock
from botsessions.models import (
    OUTCOMES,
    BotSession,
    BotUpdate,
    DeletionChunk,
    Erasure,
    MailboxLease,
    MessageDeletion,
    TrackedMessage,
)
from botsessions.operations.gathering import move
from botsessions.operations.known import known_bots
from botsessions.operations.subject import Subject, Upto
from botsessions.operations.taking import (
    Sessions,
    check_alone,
    in_turn,
    mailbox_name,
    taken,
    taken_sessions,
)

#: How many sessions are taken at a time, and how many rows one transaction erases.
SESSIONS = 100
ROWS = 1000
#: Seconds between looks at mailboxes that somebody works on, and after how many it waits in line.
PAUSE = 0.1
QUEUES_AFTER = 1.0
#: Seconds until whoever goes on tries again, and for which one erasure belongs to who works on it.
AGAIN_AFTER = 5.0
CLAIMED_FOR = 60.0
#: Seconds that a task waits for handlers in flight.
SECONDS = 5.0


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
    be free. Raises `UnknownBot`, `TypeError` for an id that is no string, and `ValueError` unless
    exactly one of user and chat is named.
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
    `finished_at` is None is finished by `finish_erasures`. Raises as `begin_erasure`, and
    `RuntimeError` in a transaction.
    """
    check_alone(settings.DATABASE)
    subject = Subject(bot, user=user, chat=chat)
    erasure = _create(
        subject, requested_by, deletes=delete_messages, claimed_for=wait + CLAIMED_FOR
    )
    continue_erasure(erasure, wait)
    return erasure


def finish_erasures() -> int:
    """Go on with erasures that waited for somebody; return how many were finished."""
    finished, until = 0, time.monotonic() + SECONDS
    _forget_cancelled()
    while time.monotonic() < until and (erasure := _claim()) is not None:
        finished += continue_erasure(erasure, until - time.monotonic())
    return finished


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
            token=uuid4().hex if claimed_for else "",
            due_at=now + timedelta(seconds=claimed_for),
            requested_by=requested_by,
            created_at=now,
        )


def _claim() -> Erasure | None:
    using, now = settings.DATABASE, clock.now()
    rows = Erasure.objects.using(using)
    with transaction.atomic(using=using):
        due = rows.filter(due_at__lte=now, bot__in=list(known_bots())).order_by("due_at", "id")
        found = due.select_for_update(skip_locked=skips_locked(settings.DATABASE)).first()
        if found is not None:
            found.due_at, found.token = now + timedelta(seconds=CLAIMED_FOR), uuid4().hex
            found.save(using=using, update_fields=["due_at", "token"])
    return found


def _begin_deletion(bot: str, requested_by: str) -> MessageDeletion:
    """Return a deletion that is gathered by the erasure."""
    return MessageDeletion.objects.using(settings.DATABASE).create(
        bot=bot,
        through=bot,
        status=MessageDeletion.Status.GATHERING,
        forgets=True,
        requested_by=requested_by,
        created_at=clock.now(),
    )


def continue_erasure(erasure: Erasure, wait: float = 0.0) -> bool:
    """Erase what can be had in so many seconds; return whether the erasure is finished.

    Whoever has claimed it calls this; where somebody else has by now, nothing is done.
    """
    until = time.monotonic() + wait
    if erasure.selection is not None and _Erasing(erasure, until).work():
        erasure.selection = None
        if erasure.deletion is not None:
            finish(settings.DATABASE, erasure.deletion.pk, gathered=True)
    is_over = erasure.selection is None and _is_deleted(erasure)
    if is_over:
        erasure.due_at, erasure.finished_at = None, clock.now()
    else:
        erasure.due_at = clock.now() + timedelta(seconds=AGAIN_AFTER)
    ours = _row(erasure).filter(token=erasure.token)
    fields = ("selection", "due_at", "finished_at")
    kept = ours.update(token="", **{name: getattr(erasure, name) for name in fields})
    erasure.refresh_from_db(using=settings.DATABASE)
    return is_over and bool(kept)


def _row(erasure: Erasure) -> QuerySet[Erasure]:
    return Erasure.objects.using(settings.DATABASE).filter(pk=erasure.pk)


def _count(erasure: Erasure, **counts: Any) -> None:
    """Put numbers on the receipt, in the transaction that made them true."""
    with transaction.atomic(using=settings.DATABASE):
        row = _row(erasure).select_for_update().get()
        for name, number in counts.items():
            if isinstance(number, dict):
                row.counts[name] = number
            elif number:
                row.counts[name] = row.counts.get(name, 0) + number
        row.save(using=settings.DATABASE, update_fields=["counts"])


def _is_deleted(erasure: Erasure) -> bool:
    """Is the platform's part over? Then the receipt has it."""
    deletion = erasure.deletion
    if deletion is None:
        return True
    deletion.refresh_from_db(using=settings.DATABASE)
    if deletion.finished_at is None:
        return False
    _count(erasure, platform={name: getattr(deletion, name) for name in OUTCOMES})
    return True


def _forget_cancelled() -> None:
    """Remove the chunks of deletions that were to forget them and were cancelled.

    A call that was under way then has been noted by now.
    """
    past = clock.now() - timedelta(seconds=2 * settings.LEASE)
    rows = DeletionChunk.objects.using(settings.DATABASE)
    rows.filter(deletion__forgets=True, deletion__finished_at__lt=past).delete()


class _Erasing:
    """One process's work on one erasure."""

    def __init__(self, erasure: Erasure, until: float) -> None:
        self._erasure = erasure
        self._until = until
        self._stage: dict[str, Any] = dict(erasure.selection or {})
        self._who = {name: self._stage[name] for name in ("user", "chat") if name in self._stage}
        self._bot = bots[erasure.bot]

    def work(self) -> bool:
        """Erase what can be had; return whether nothing is left."""
        if "began" not in self._stage:
            self._begin()
        if not self._wait_for_flights():
            return False
        if "upto" not in self._stage:
            self._keep(upto=Upto.now())
        subject = Subject(self._bot.alias, upto=Upto(*self._stage["upto"]), **self._who)
        self._remove_waiting(subject)
        is_clean = self._end_sessions(subject) & self._end_flows(subject)
        self._in_steps("messages", subject.said, self._remove_messages)
        updates = BotUpdate.objects.using(settings.DATABASE)
        self._in_steps(
            "done_updates", subject.done, lambda ids: updates.filter(pk__in=ids).update(mailbox="")
        )
        with transaction.atomic(using=settings.DATABASE):
            _count(self._erasure, rate_windows=subject.rates.delete()[0])
        self._take_over(MailboxLease.objects.filter(key__regex=subject.mailboxes))
        is_clean &= self._forget_deletions(subject)
        return is_clean and not subject.sessions.exists() and not subject.waiting.exists()

    def _keep(self, **stage: Any) -> None:
        """Note how far it is, for whoever goes on."""
        self._stage |= stage
        _row(self._erasure).filter(token=self._erasure.token).update(selection=self._stage)

    # Before: handlers in flight

    def _begin(self) -> None:
        began = Upto.now()
        self._remove_waiting(Subject(self._bot.alias, upto=began, **self._who))
        rows = MailboxLease.objects.using(settings.DATABASE)
        ours = rows.filter(key__startswith=f"{self._bot.alias}:")
        if self._bot.strategy == "chat_user" and not any(
            scope.name for scope in self._bot.router.scopes
        ):
            # What is done in a mailbox is done to sessions of its own chat and user.
            ours = ours.filter(key__regex=Subject(self._bot.alias, **self._who).mailboxes)
        self._keep(began=began, flights=list(ours.values_list("key", "token")))

    def _wait_for_flights(self) -> bool:
        """Wait until whoever was working when it began has ended an update; return whether."""
        queues_at = time.monotonic() + QUEUES_AFTER
        while flights := self._still_there():
            if time.monotonic() >= self._until:
                self._keep(flights=flights)
                return False
            if time.monotonic() < queues_at:
                time.sleep(PAUSE)
                continue
            # A mailbox in which something always waits is never given back: it is this one's turn
            # when those that were there before are done.
            self._stage["flights"] = [each for each in flights if not self._had_turn(each[0])]
        self._keep(flights=[])
        return True

    def _still_there(self) -> list[list[str]]:
        """Return the leases that are held as they were; those that have run out are taken over."""
        rows = MailboxLease.objects.using(settings.DATABASE)
        held: set[tuple[str, str]] = set()
        for batch in in_batches([key for key, _ in self._stage["flights"]], SESSIONS):
            there = rows.filter(key__in=batch)
            self._take_over(there)
            held.update(there.values_list("key", "token"))
        return [each for each in self._stage["flights"] if tuple(each) in held]

    def _take_over(self, leases: QuerySet[MailboxLease]) -> None:
        """Take mailboxes over whose leases have run out: whoever had them wakes up too late."""
        over = leases.using(settings.DATABASE).filter(expires_at__lte=DatabaseClock())
        for batch in in_batches(list(over.values_list("key", flat=True)), SESSIONS):
            with taken(batch):
                pass

    def _had_turn(self, name: str) -> bool:
        return self._in_turn(name, lambda: None)

    def _in_turn(self, name: str, work: Callable[[], None]) -> bool:
        """Do it when a mailbox is this one's; return False where that is not in time."""
        try:
            with in_turn(self._bot, name, max(self._until - time.monotonic(), 0)):
                work()
        except (MailboxBusy, Unavailable):
            return False
        return True

    # Updates and messages

    def _remove_waiting(self, subject: Subject) -> None:
        """Remove their updates; who only waits for a turn in a mailbox of theirs has it first."""
        rows = BotUpdate.objects.using(settings.DATABASE)
        waiting = subject.waiting.exclude(pk__in=subject.turns.values("pk"))
        self._in_steps("updates", waiting, lambda ids: rows.filter(pk__in=ids).delete()[0])

    def _remove_messages(self, ids: list[int]) -> int:
        rows = TrackedMessage.objects.using(settings.DATABASE).filter(pk__in=ids)
        deletion = self._erasure.deletion
        moved = 0 if deletion is None else move(deletion, rows.filter(deleted_at=None))
        return moved + rows.delete()[0]

    def _in_steps(self, name: str, rows: QuerySet[Any], change: Callable[[list[int]], int]) -> None:
        """Change rows, a bounded number in each transaction, and count them on the receipt."""
        cursor = 0
        while ids := list(
            rows.filter(pk__gt=cursor).order_by("pk").values_list("pk", flat=True)[:ROWS]
        ):
            with transaction.atomic(using=settings.DATABASE):
                _count(self._erasure, **{name: change(ids)})
            cursor = ids[-1]

    # Sessions

    def _end_sessions(self, subject: Subject) -> bool:
        """Remove their sessions; return False where not every mailbox could be had."""
        known, cursor, is_clean = known_bots(), 0, True
        while True:
            rows = subject.sessions.filter(pk__gt=cursor).order_by("pk")
            batch = list(rows.defer("data", "quarantined")[:SESSIONS])
            if not batch:
                return is_clean
            cursor = batch[-1].pk
            with taken_sessions(batch, known) as sessions:
                is_clean &= self._remove(sessions.free)
            is_clean &= self._one_by_one(sessions, known, lambda row: self._remove([row]))

    def _one_by_one(
        self, sessions: Sessions, known: Any, work: Callable[[BotSession], bool]
    ) -> bool:
        """Do it to those that somebody works on, each in its turn; return whether all was done."""
        done = []
        for row in sessions.busy:
            name = mailbox_name(key_of(row), known)
            had_turn = self._in_turn(name, lambda row=row: done.append(work(row)))  # type: ignore[misc]
            if not had_turn:
                return False
        return all(done)

    def _remove(self, rows: Iterable[BotSession]) -> bool:
        """Remove sessions with all that is in them, in the turn of their mailboxes.

        What their store has goes first: where that is away, the rows that name it stay.
        """
        rows = list(rows)
        ids, using = [each.pk for each in rows], settings.DATABASE
        if not ids:
            return True
        try:
            remove(self._bot.store, [key_of(each) for each in rows])
        except Unavailable:
            return False
        messages = TrackedMessage.objects.using(using).filter(session__in=ids)
        self._in_steps("messages", messages, self._remove_messages)
        with transaction.atomic(using=using):
            stored = BotSession.objects.using(using).filter(pk__in=ids)
            flows = list(stored.select_for_update().values_list("flow", flat=True))
            TrackedMessage.objects.using(using).filter(session__in=ids).delete()
            _count(
                self._erasure,
                flows=sum(flow is not None for flow in flows),
                sessions=stored.delete()[0],
            )
        return True

    def _end_flows(self, subject: Subject) -> bool:
        """End the flows of other sessions that remember them; return whether all could be had."""
        known, is_clean = known_bots(), True
        for row in list(subject.talking()):
            with taken_sessions([row], known) as sessions:
                is_clean &= all(map(self._end_flow, sessions.free))
            is_clean &= self._one_by_one(sessions, known, self._end_flow)
        return is_clean

    def _end_flow(self, row: BotSession) -> bool:
        with transaction.atomic(using=settings.DATABASE):
            stored = BotSession.objects.using(settings.DATABASE).filter(pk=row.pk)
            _count(self._erasure, flows=stored.update(flow=None, due_at=None, last_flow=None))
        return True

    # What deletions know

    def _forget_deletions(self, subject: Subject) -> bool:
        """Let deletions that know them forget that, once they are over; return whether all are."""
        for deletion in self._others(subject):
            rows = MessageDeletion.objects.using(settings.DATABASE).filter(pk=deletion.pk)
            rows.update(forgets=True)
            selected = (deletion.selection or {}).values()
            finish(settings.DATABASE, deletion.pk, gathered=subject.id in selected)
            if deletion.status == MessageDeletion.Status.CANCELLED:
                rows.update(selection=None)
        _forget_cancelled()
        return not self._others(subject).exists()

    def _others(self, subject: Subject) -> QuerySet[MessageDeletion]:
        """The deletions that know them, but for that of the erasure."""
        own = self._erasure.deletion_id
        return subject.deletions if own is None else subject.deletions.exclude(pk=own)
