"""Retention: what has been kept for as long as its bot keeps it is deleted, or made anonymous.

Rows are visited in ranges of their ids, so that no transaction touches more than a bounded number
of them, whatever there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db import transaction
from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from botsessions import clock
from botsessions.bots import Bot
from botsessions.conf import settings
from botsessions.contents import drop
from botsessions.mailboxes.slices import key_of
from botsessions.models import (
    BotSession,
    BotUpdate,
    DeletionChunk,
    MailboxLease,
    MessageDeletion,
    RateWindow,
    TrackedMessage,
)
from botsessions.operations.known import known_bots
from botsessions.operations.taking import taken_sessions
from botsessions.retention import TERMS, Term

#: How many ids one transaction goes through, and how many sessions it ends.
RANGE = 10_000
SESSIONS = 100
#: How long what nobody asks for any more stays: leases of processes that died with nothing to do,
#: rates of chats in which nothing is said, deletions that are over.
IDLE_LEASE = timedelta(days=1)
IDLE_RATE = timedelta(hours=1)
DELETIONS = timedelta(days=30)
#: What the chat of a session begins with that is anonymous, and what stands for that of a message.
NOBODY = "~anonymous/"

DONE, PARKED = BotUpdate.Status.DONE, BotUpdate.Status.PARKED


def prune() -> dict[str, int]:
    """Delete or anonymise what its bot's RETENTION says; return how many rows of each kind.

    Updates that are done are kept for 7 days unless the bot says otherwise, and so are those of
    bots that are not configured any more. Closed sessions are ended in their mailboxes: one that
    somebody works on, or in which a flow waits, is left for the next time. Safe at any time, in any
    number of processes.
    """
    counts: Counter[str] = Counter()
    known = known_bots()
    for alias, bot in known.items():
        _prune_bot(alias, bot, counts)
    updates = BotUpdate.objects.using(settings.DATABASE).exclude(bot__in=list(known))
    _prune_updates(updates, Term(TERMS["UPDATES"]), DONE, counts)
    _prune_idle(counts)
    return {name: number for name, number in counts.items() if number}


def _prune_bot(alias: str, bot: Bot, counts: Counter[str]) -> None:
    terms = bot.retention
    updates = BotUpdate.objects.using(settings.DATABASE).filter(bot=alias)
    _prune_updates(updates, terms["UPDATES"], DONE, counts)
    _prune_updates(updates, terms["PARKED"], PARKED, counts)
    messages = TrackedMessage.objects.using(settings.DATABASE)
    of_bot = BotSession.objects.using(settings.DATABASE).filter(bot=alias).values("pk")
    messages = messages.filter(session__in=of_bot)
    for rows in _older(messages, "sent_at", terms["MESSAGES"]):
        if terms["MESSAGES"].anonymises:
            counts["messages_anonymised"] += anonymise_messages(rows)
        else:
            counts["messages"] += rows.delete()[0]
    for rows in _older(messages, "sent_at", terms["TEXT"]):
        # What was deleted has no text any more, and may have a name.
        counts["texts"] += rows.exclude(text="", name="").update(text="", name="")
    _prune_sessions(alias, bot, counts)


def _prune_updates(
    updates: QuerySet[BotUpdate], term: Term, status: str, counts: Counter[str]
) -> None:
    for rows in _older(updates, "received_at", term):
        rows = rows.filter(status=status)
        if term.anonymises:
            counts["updates_anonymised"] += rows.exclude(mailbox="").update(mailbox="")
        else:
            counts["updates"] += rows.delete()[0]


def _older(rows: QuerySet[Any], column: str, term: Term) -> Iterator[QuerySet[Any]]:
    """Yield the rows that are older than a term, a range of ids at a time.

    Ids and times rise together, nearly: where the range ends is found by halving, and a row that
    was late is found the next time.
    """
    if term.after is None:
        return
    moment = clock.now() - term.after
    model = rows.model
    for first, last in _ranges(model, _first_since(model, column, moment)):
        yield rows.filter(**{"pk__gte": first, "pk__lt": last, f"{column}__lt": moment})


def _ranges(model: type[Model], end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield ranges of ids (the last excluded) that cover all rows, or those before `end`."""
    rows = model._default_manager.using(settings.DATABASE)
    if end is None:
        end = (rows.order_by("-pk").values_list("pk", flat=True).first() or 0) + 1
    first = rows.filter(pk__lt=end).order_by("pk").values_list("pk", flat=True).first()
    while first is not None and first < end:
        last = min(first + RANGE, end)
        yield first, last
        after = rows.filter(pk__gte=last, pk__lt=end).order_by("pk")
        first = after.values_list("pk", flat=True).first()


def _first_since(model: type[Model], column: str, moment: datetime) -> int:
    """Return the id before which all rows are older, about."""
    rows = model._default_manager.using(settings.DATABASE)
    low = 0
    high = (rows.order_by("-pk").values_list("pk", flat=True).first() or 0) + 1
    while low < high:
        middle = (low + high) // 2
        found = rows.filter(pk__gte=middle).order_by("pk").values_list("pk", column).first()
        if found is not None and found[1] < moment:
            low = found[0] + 1
        else:
            high = middle
    return low


def _prune_sessions(alias: str, bot: Bot, counts: Counter[str]) -> None:
    """End closed sessions that nobody has written to for long, in their mailboxes."""
    term = bot.retention["SESSIONS"]
    if term.after is None:
        return
    moment = clock.now() - term.after
    idle = BotSession.objects.using(settings.DATABASE).filter(
        bot=alias, is_open=False, flow__isnull=True, updated_at__lt=moment
    )
    idle = idle.exclude(chat__startswith=NOBODY)
    for first, last in _ranges(BotSession):
        found = idle.filter(pk__gte=first, pk__lt=last).defer("data", "quarantined")
        batch = list(found.order_by("pk"))
        for start in range(0, len(batch), SESSIONS):
            _end(bot, batch[start : start + SESSIONS], idle, term, counts)


def _end(
    bot: Bot,
    batch: list[BotSession],
    idle: QuerySet[BotSession],
    term: Term,
    counts: Counter[str],
) -> None:
    using = settings.DATABASE
    with taken_sessions(batch, {bot.alias: bot}) as sessions:
        rows = idle.filter(pk__in=sessions.ids).order_by("pk")
        for messages in _of_sessions(list(rows.values_list("pk", flat=True))):
            if term.anonymises:
                counts["messages_anonymised"] += anonymise_messages(messages)
            else:
                counts["messages"] += messages.delete()[0]
        with transaction.atomic(using=using):
            ended = list(rows.defer("data", "quarantined").select_for_update())
            if term.anonymises:
                counts["sessions_anonymised"] += len(ended)
                for each in ended:
                    anonymise_session(each.pk)
            else:
                rows = BotSession.objects.using(using).filter(pk__in=[each.pk for each in ended])
                counts["sessions"] += rows.delete()[1].get("botsessions.BotSession", 0)
        # Before the mailboxes are given back: a session that begins then has data of its own.
        drop(bot.store, [key_of(each) for each in ended])


def _of_sessions(sessions: list[int]) -> Iterator[QuerySet[TrackedMessage]]:
    """Yield the messages of these sessions, a bounded number at a time."""
    rows, cursor = TrackedMessage.objects.using(settings.DATABASE), 0
    while sessions:
        found = rows.filter(session__in=sessions, pk__gt=cursor).order_by("pk")
        ids = list(found.values_list("pk", flat=True)[:RANGE])
        if not ids:
            return
        yield rows.filter(pk__in=ids)
        cursor = ids[-1]


def anonymise_session(pk: int) -> None:
    """Keep of a session that it was there, and nothing of whose it was or what it held."""
    BotSession.objects.using(settings.DATABASE).filter(pk=pk).update(
        chat=f"{NOBODY}{uuid4().hex}",
        user="",
        thread="",
        data=None,
        quarantined=None,
        last_flow=None,
        matcher="",
        expires_at=None,
    )


def anonymise_messages(rows: QuerySet[TrackedMessage]) -> int:
    """Keep of messages when and of what kind they were; return how many were not so yet."""
    known = rows.exclude(Q(chat=NOBODY) & Q(message_id=None))
    return known.update(
        chat=NOBODY,
        message_id=None,
        user="",
        name="",
        reply_to="",
        business="",
        text="",
        update_id="",
    )


def _prune_idle(counts: Counter[str]) -> None:
    using, now = settings.DATABASE, clock.now()
    waiting = BotUpdate.objects.using(using).filter(
        mailbox=OuterRef("key"), status=BotUpdate.Status.PENDING
    )
    leases = MailboxLease.objects.using(using).filter(expires_at__lt=now - IDLE_LEASE)
    _delete("leases", leases.exclude(Exists(waiting)), counts)
    rates = RateWindow.objects.using(using).filter(updated_at__lt=now - IDLE_RATE)
    _delete("rate_windows", rates, counts)
    over = MessageDeletion.objects.using(using).filter(finished_at__lt=now - DELETIONS)
    chunks = DeletionChunk.objects.using(using).filter(deletion__in=over.values("pk"))
    _delete("deletion_chunks", chunks, counts)
    _delete("deletions", over, counts)


def _delete(name: str, rows: QuerySet[Any], counts: Counter[str]) -> None:
    """Delete rows, a bounded number in each transaction."""
    model = rows.model._default_manager.using(settings.DATABASE)
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:SESSIONS]):
        counts[name] += model.filter(pk__in=ids).delete()[0]
