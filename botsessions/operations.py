"""What keeps the tables in order, as plain functions: the command and the Celery task call the
same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from uuid import uuid4

import msgspec
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Q

from botsessions import clock
from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.contents import drop
from botsessions.engine import current_engine
from botsessions.exceptions import Unavailable
from botsessions.mailboxes.base import Admission, Arrival, Commit, Effect
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.slices import end_expired, key_of
from botsessions.models import BotSession, BotUpdate
from botsessions.turns import RECOVERED
from botsessions.updates import EXPIRED, Update, User, place

log = logging.getLogger("botsessions.operations")

PENDING = BotUpdate.Status.PENDING
#: How many expired sessions are ended in one transaction.
SWEPT = 100
#: The most looks for abandoned updates in one call; what is left is for the next.
LOOKS = 100


def recover() -> int:
    """Handle acknowledged updates that nobody works on, in this process, to their end.

    Those are updates whose process was killed, or that wait for another attempt which is due.
    Returns how many mailboxes were taken up; calling it at any time, in any number of processes, is
    safe. It runs on an event loop of its own, and so does every handler that it calls.
    """
    taken: int = async_to_sync(_recover, force_new_loop=True)()
    return taken


async def _recover() -> int:
    engine = current_engine()
    for _ in range(LOOKS):
        found = await engine.recover()
        await engine.drain()
        if found < RECOVERED:  # a look that found fewer has found them all
            break
    return engine.recovered


def deadlines() -> int:
    """Let flows know that their deadlines have passed, and return how many.

    Safe at any time, in any number of processes: each deadline is told of once. A running web
    process does the same by itself.
    """
    fired: int = async_to_sync(_deadlines, force_new_loop=True)()
    return fired


async def _deadlines() -> int:
    engine = current_engine()
    fired = 0
    for _ in range(LOOKS):
        found = await engine.fire_deadlines()
        await engine.drain()
        fired += found
        if not found:
            break
    return fired


def sweep(limit: int = 10_000) -> int:
    """End sessions that have expired, up to `limit`, and return how many.

    Their data, messages and rows are deleted, each in its turn in its mailbox: one that somebody
    works on is left for the next sweep, and one that was written meanwhile has not expired. A bot
    whose router has a function `expired` is told of each before, once. Stores outside the database
    clear what has expired there. Safe at any time, in any number of processes.
    """
    mailbox = DatabaseMailbox()
    known = {bot.alias: bot for bot in _sound_bots()}
    telling = {alias for alias, bot in known.items() if bot.router.occasion("expired")}
    ended = 0
    for batch in _expired(limit):
        told = [row for row in batch if row.bot in telling]
        if told:
            ended += _tell(told, known)
        ended += _end(mailbox, [row for row in batch if row.bot not in telling], known)
    for store in {id(bot.store): bot.store for bot in known.values()}.values():
        try:
            if store is not None and not store.in_row:
                store.clear_expired()
        except Unavailable as error:
            log.warning("%r was not swept: %s", store, error)
    return ended


def _expired(limit: int) -> Iterator[list[BotSession]]:
    """Yield the sessions that have expired by now, the oldest first, in batches."""
    rows = BotSession.objects.using(settings.DATABASE).defer("data", "quarantined")
    expired = rows.filter(expires_at__lt=clock.now()).order_by("expires_at", "id")
    after = Q()
    while limit > 0:
        batch = list(expired.filter(after)[: min(SWEPT, limit)])
        if not batch:
            return
        yield batch
        limit -= len(batch)
        last: datetime | None = batch[-1].expires_at
        # Not those again that could not be taken.
        after = Q(expires_at__gt=last) | Q(expires_at=last, id__gt=batch[-1].pk)


def _tell(rows: Sequence[BotSession], known: Mapping[str, Bot]) -> int:
    """Let bots know that these sessions have expired; delete those of which that did not work."""
    stored = BotSession.objects.using(settings.DATABASE).filter(pk__in=[row.pk for row in rows])
    data = dict(stored.values_list("pk", "data"))
    updates = {row.pk: expiry_of(row, data.get(row.pk)) for row in rows}
    async_to_sync(_submit, force_new_loop=True)(list(updates.values()))
    ours = BotUpdate.objects.using(settings.DATABASE)
    ids = [update.id for update in updates.values()]
    waiting = ours.filter(update_id__in=ids, status=PENDING).values_list("bot", "update_id")
    left = set(waiting)
    # What is there still was parked, or handled where the clock was behind: nobody is told again.
    told = [row for row in rows if (row.bot, updates[row.pk].id) not in left]
    _end(DatabaseMailbox(), told, known)
    return len(rows) - stored.filter(expires_at__lt=clock.now()).count()


def expiry_of(row: BotSession, data: object) -> Update:
    """Return the update that tells a bot that a session has expired, the same whoever makes it."""
    key = key_of(row)
    assert row.expires_at is not None  # noqa: S101 - it was found by that
    moment = row.expires_at.isoformat()
    return Update(
        row.bot,
        f"expired-{row.pk}-{moment}",
        EXPIRED,
        user=User(key.user) if key.user else None,
        thread=key.thread,
        payload={"session": msgspec.to_builtins(key), "data": data},
        **place(key.chat),
    )


async def _submit(updates: Sequence[Update]) -> None:
    engine = current_engine()
    answers = [engine.submit(update) for update in updates]
    for answer in await asyncio.gather(*answers, return_exceptions=True):
        if isinstance(answer, Exception):
            log.warning("A bot was not told that a session has expired: %s", answer)
    await engine.drain()


def _end(mailbox: DatabaseMailbox, rows: Sequence[BotSession], known: Mapping[str, Bot]) -> int:
    """End these sessions where their mailboxes are free."""
    if not rows:
        return 0
    found: dict[str, list[int]] = {}
    for row in rows:
        key = key_of(row)
        unit = known[row.bot].unit_of_key(key) if row.bot in known else key
        found.setdefault(str(unit.qualified("")), []).append(row.pk)
    arrivals = [
        Arrival(Update("", f"sweep-{uuid4().hex}", "sweep"), name, only_now=True) for name in found
    ]
    token = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:12]}"
    admitted = mailbox.admit(arrivals, token)
    free = [
        arrival.mailbox
        for arrival, decision in zip(arrivals, admitted.decisions, strict=True)
        if decision is Admission.HANDLE
    ]
    try:
        ended = end_expired(mailbox.using, [pk for name in free for pk in found[name]])
    finally:
        # What waits in a mailbox comes first: whoever recovers it works on.
        held = [*free, *(each.mailbox for each in admitted.waiting)]
        mailbox.commit([Commit(name, token, Effect.NOTHING, go_on=False) for name in held])
    if BotUpdate.objects.using(mailbox.using).filter(mailbox__in=free, status=PENDING).exists():
        recover()  # what arrived meanwhile
    for alias, bot in known.items():
        drop(bot.store, [key for key in ended if key.bot == alias])
    return len(ended)


def _sound_bots() -> Iterator[Bot]:
    """The bots whose settings are right; what is wrong with the others is for the checks to say."""
    for alias in bots:
        try:
            yield bots[alias]
        except ImproperlyConfigured as error:
            log.warning("Bot '%s' is left out: %s", alias, error)
