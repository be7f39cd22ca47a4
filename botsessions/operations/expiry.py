"""The sweep: sessions that have expired are ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from asgiref.sync import async_to_sync
from django.db.models import Q

from botsessions import clock
from botsessions.bots import Bot
from botsessions.conf import settings
from botsessions.contents import drop
from botsessions.engine import current_engine
from botsessions.exceptions import Unavailable
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.slices import end_expired, key_of
from botsessions.models import BotSession, BotUpdate
from botsessions.operations.known import known_bots
from botsessions.operations.taking import taken_sessions
from botsessions.updates import EXPIRED, Update, User, place

log = logging.getLogger("botsessions.operations")

PENDING = BotUpdate.Status.PENDING
#: How many expired sessions are ended in one transaction.
SWEPT = 500
#: How long a sweep rests between batches, as a multiple of what a batch took and in seconds at
#: most: a backlog is in no hurry, and the webhooks beside it are.
RESTS = 4.0
LONGEST_REST = 2.0


def sweep(limit: int = 10_000) -> int:
    """End sessions that have expired, up to `limit`, and return how many.

    Their data, messages and rows are deleted, each in its turn in its mailbox: one that somebody
    works on is left for the next sweep, and one that was written meanwhile has not expired. A bot
    whose router has a function `expired` is told of each before, once. Stores outside the database
    clear what has expired there. Safe at any time, in any number of processes.
    """
    mailbox = DatabaseMailbox()
    known = known_bots()
    telling = {alias for alias, bot in known.items() if bot.router.occasion("expired")}
    ended = 0
    rest = 0.0
    for batch in _expired(limit):
        time.sleep(rest)
        began = time.monotonic()
        told = [row for row in batch if row.bot in telling]
        if told:
            ended += _tell(told, known)
        ended += _end(mailbox, [row for row in batch if row.bot not in telling], known)
        rest = min(RESTS * (time.monotonic() - began), LONGEST_REST)
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
    with taken_sessions(rows, known) as sessions:
        ended = end_expired(mailbox.using, sessions.ids)
        # Before the mailboxes are given back: a session that begins then has data of its own.
        for alias, bot in known.items():
            drop(bot.store, [key for key in ended if key.bot == alias])
    return len(ended)
