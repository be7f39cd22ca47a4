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
    MailboxLease,
    MessageDeletion,
    RateWindow,
    TrackedMessage,
)
from botsessions.operations.known import known_bots
from botsessions.operations.taking import mailbox_name, taken
from botsessions.retention import TERMS, Term

#: How many ids one transaction goes through, and how many sessions it ends.
RANGE = 10_000
SESSIONS = 100
#: How long what nobody asks for any more stays: leases of processes that died with nothing to do,
#: rates of chats in which nothing is said, deletions that are over.
IDLE_LEASE = timedelta(days=1)
IDLE_RATE = timedelta(hours=1)
DELETIONS = timedelta(days=30)
#: What the chat of a session begins with that is anonymous.
NOBODY = "~"

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
        counts["texts"] += rows.exclude(text="").update(text="")
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
    names: dict[str, list[int]] = {}
    for each in batch:
        names.setdefault(mailbox_name(key_of(each), {bot.alias: bot}), []).append(each.pk)
    ended: list[BotSession] = []
    with taken(names) as hold, transaction.atomic(using=settings.DATABASE):
        free = [pk for name, pks in names.items() if name in hold for pk in pks]
        rows = idle.filter(pk__in=free).order_by("pk").select_for_update()
        ended = list(rows.defer("data", "quarantined"))
        messages = TrackedMessage.objects.using(settings.DATABASE)
        messages = messages.filter(session__in=[each.pk for each in ended])
        if term.anonymises:
            counts["messages_anonymised"] += anonymise_messages(messages)
            counts["sessions_anonymised"] += len(ended)
            for each in ended:
                anonymise_session(each.pk)
        else:
            counts["messages"] += messages.delete()[0]
            counts["sessions"] += idle.filter(pk__in=[each.pk for each in ended]).delete()[0]
    drop(bot.store, [key_of(each) for each in ended])


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
    return known.update(chat=NOBODY, message_id=None, user="", business="", text="", update_id="")


def _prune_idle(counts: Counter[str]) -> None:
    using, now = settings.DATABASE, clock.now()
    waiting = BotUpdate.objects.using(using).filter(
        mailbox=OuterRef("key"), status=BotUpdate.Status.PENDING
    )
    leases = MailboxLease.objects.using(using).filter(expires_at__lt=now - IDLE_LEASE)
    counts["leases"] += leases.exclude(Exists(waiting)).delete()[0]
    rates = RateWindow.objects.using(using).filter(updated_at__lt=now - IDLE_RATE)
    counts["rate_windows"] += rates.delete()[0]
    over = MessageDeletion.objects.using(using).filter(finished_at__lt=now - DELETIONS)
    while ids := list(over.order_by("pk").values_list("pk", flat=True)[:SESSIONS]):
        counts["deletions"] += len(ids)
        over.filter(pk__in=ids).delete()
