"""The part of a bulk deletion that asks the platforms: many chunks at a time, each its own call."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections, transaction
from django.db.models import F

from botsessions import clock, metrics
from botsessions.bots import Bot
from botsessions.clearing import delete, pace_of
from botsessions.conf import settings
from botsessions.exceptions import PlatformError, RateLimited
from botsessions.models import OUTCOMES, DeletionChunk, MessageDeletion
from botsessions.operations.gathering import finish
from botsessions.platforms.base import Deletion

log = logging.getLogger("botsessions.operations")

T = TypeVar("T")

#: How many chunks one process asks for at a time.
AT_ONCE = 32
#: Seconds for which it gathers before it asks for what it has gathered.
GATHERS_FOR = 1.0
#: The first and the longest delay before a call that failed is made again, in seconds.
DELAYS = (1.0, 300.0)
#: How long a platform that only ever says "later" is asked.
PATIENCE = timedelta(days=1)
#: The end of what a platform said, in characters, that is kept with a chunk.
MAX_ERROR = 500

#: Gathers for one deletion that is due; returns whether there was one.
Gather = Callable[[list[str], float], bool]


class Asked:
    """A chunk in this process's hands, and what it found out that is not written yet."""

    def __init__(self, chunk: DeletionChunk) -> None:
        self.chunk = chunk
        self.new: dict[str, str] = {}
        #: When the rest is to be asked for, None where nothing is left.
        self.again: datetime | None = None
        #: Is nothing to be asked in its chat before?
        self.is_paused = False
        self.is_over = False

    @property
    def left(self) -> list[tuple[str, datetime | None]]:
        """The messages without an outcome."""
        known = self.chunk.outcomes
        return [
            (id, None if sent is None else datetime.fromtimestamp(sent, UTC))
            for id, sent in self.chunk.messages
            if id not in known
        ]

    def note(self, found: Mapping[str, Deletion]) -> None:
        """Take down what became of some of its messages."""
        self.new |= {id: outcome.value for id, outcome in found.items()}
        self.chunk.outcomes |= self.new
        self.is_over = len(self.chunk.outcomes) >= len(self.chunk.messages)


class Asker:
    """Works off chunks that are due until the time is over or nothing is left."""

    def __init__(
        self,
        known: Mapping[str, Bot],
        seconds: float,
        progress: Callable[[], object] | None = None,
    ) -> None:
        self._bots = known
        self._until = time.monotonic() + seconds
        self._progress = progress
        self._token = uuid4().hex
        self._in_hand: set[int] = set()
        self._noted: list[tuple[Asked, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._done = 0

    @staticmethod
    def skips() -> bool:
        """Can the database pass over rows that somebody else has locked?"""
        return connections[settings.DATABASE].features.has_select_for_update_skip_locked

    async def run(self, gather: Gather) -> int:
        """Return how many messages came to an outcome.

        Raises what the database raised; what was in hand is then found again after LEASE seconds.
        """
        renewal = asyncio.ensure_future(self._renew())
        try:
            await self._work(gather)
        finally:
            renewal.cancel()
            for bot in self._bots.values():
                await bot.platform.close()
        return self._done

    async def _work(self, gather: Gather) -> None:
        asking: set[asyncio.Task[None]] = set()
        is_to_gather = True
        while True:
            is_time = time.monotonic() < self._until
            if is_time and len(asking) <= AT_ONCE // 2:
                chunks = await self._in_database(partial(self._claim, AT_ONCE - len(asking)))
                asking |= {asyncio.ensure_future(self._ask(each)) for each in chunks}
            if is_time and is_to_gather and len(asking) < AT_ONCE:
                soon = min(self._until, time.monotonic() + GATHERS_FOR)
                is_to_gather = await self._in_database(partial(gather, list(self._bots), soon))
                if is_to_gather and not asking:
                    continue
            if not asking:
                return
            done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            if self._progress is not None:
                await self._in_database(self._progress)

    async def _in_database(self, work: Callable[[], T]) -> T:
        return await sync_to_async(work, thread_sensitive=True)()

    def _claim(self, limit: int) -> list[DeletionChunk]:
        """Take chunks that are due, so that nobody else asks for them now."""
        using, now = settings.DATABASE, clock.now()
        rows, jobs = DeletionChunk.objects.using(using), MessageDeletion.objects.using(using)
        ours = jobs.filter(through__in=list(self._bots)).values("pk")
        with transaction.atomic(using=using):
            due = rows.filter(due_at__lte=now, deletion__in=ours).order_by("due_at", "id")
            found = list(due.select_for_update(skip_locked=self.skips())[:limit])
            claimed = rows.filter(pk__in=[each.pk for each in found])
            claimed.update(due_at=now + self._claim_lasts(), token=self._token)
        known = jobs.in_bulk({each.deletion_id for each in found})
        for each in found:
            each.deletion, each.token = known[each.deletion_id], self._token
        self._in_hand.update(each.pk for each in found)
        return found

    @staticmethod
    def _claim_lasts() -> timedelta:
        return timedelta(seconds=settings.LEASE)

    async def _renew(self) -> None:
        """Keep what is in hand, as the engine keeps its mailboxes."""
        while True:
            await asyncio.sleep(settings.RENEW_EVERY)
            try:
                await self._in_database(self._renew_claims)
            except DatabaseError as error:
                log.warning("Claims of messages to delete were not renewed: %s", error)

    def _renew_claims(self) -> None:
        rows = DeletionChunk.objects.using(settings.DATABASE).filter(token=self._token)
        claimed = rows.filter(pk__in=self._in_hand, due_at__isnull=False)
        claimed.update(due_at=clock.now() + self._claim_lasts())

    async def _ask(self, chunk: DeletionChunk) -> None:
        asked, bot = Asked(chunk), self._bots[chunk.deletion.through]
        try:
            async for found in delete(
                bot.platform, chunk.chat, chunk.business, asked.left, pace_of(bot)
            ):
                asked.note(found)
                await self._write(asked)
        except DatabaseError:
            raise
        except Exception as error:
            if not isinstance(error, PlatformError):
                log.exception("The platform of bot '%s' breaks its contract.", bot.alias)
            self._fail(asked, error)
        if not asked.is_over or asked.new:
            asked.is_over = True
            await self._write(asked)
        self._in_hand.discard(chunk.pk)

    def _fail(self, asked: Asked, error: Exception) -> None:
        """Decide whether, and when, the rest of a chunk is asked for again."""
        chunk, now = asked.chunk, clock.now()
        chunk.error = str(error)[-MAX_ERROR:]
        if isinstance(error, RateLimited):
            # The platform says when; that it did not act is certain, so that it counts for nothing.
            asked.is_paused = True
            seconds = (error.retry_after or DELAYS[0]) * random.uniform(1, 1.1)  # noqa: S311
            gives_up = now + timedelta(seconds=seconds) > chunk.deletion.created_at + PATIENCE
        else:
            chunk.attempts += 1
            longest = min(DELAYS[0] * 2 ** (chunk.attempts - 1), DELAYS[1])
            seconds = random.uniform(longest / 2, longest)  # noqa: S311
            gives_up = chunk.attempts >= settings.DELETE_ATTEMPTS
        if gives_up:
            asked.note(dict.fromkeys((id for id, _ in asked.left), Deletion.FAILED))
        else:
            asked.again = now + timedelta(seconds=seconds)
        log.warning(
            "Messages of chat %s in deletion %d were not deleted (%s): %s",
            chunk.chat,
            chunk.deletion_id,
            "given up" if gives_up else f"again in {seconds:.1f} s",
            error,
        )

    # Writing what became of them, many chunks at a time

    async def _write(self, asked: Asked) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._noted.append((asked, written))
        if self._writer is None:
            self._writer = asyncio.ensure_future(self._write_all())
        await written

    async def _write_all(self) -> None:
        try:
            while self._noted:
                await asyncio.sleep(0)  # whoever is ready at the same time goes along
                batch, self._noted = self._noted, []
                try:
                    await self._in_database(partial(self._store, [asked for asked, _ in batch]))
                except Exception as error:
                    for _, written in batch:
                        written.set_exception(error)
                else:
                    for _, written in batch:
                        written.set_result(None)
        finally:
            self._writer = None

    def _store(self, batch: list[Asked]) -> None:
        """Write outcomes, of those chunks that are still this process's."""
        using = settings.DATABASE
        rows = DeletionChunk.objects.using(using)
        counts: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
        batch = sorted({id(each): each for each in batch}.values(), key=lambda each: each.chunk.pk)
        with transaction.atomic(using=using):
            # Deletions come before their chunks, as for whoever cancels one.
            jobs = MessageDeletion.objects.using(using).order_by("pk").select_for_update()
            list(jobs.filter(pk__in={each.chunk.deletion_id for each in batch}).values("pk"))
            ids = [each.chunk.pk for each in batch]
            locked = rows.filter(pk__in=ids, token=self._token).order_by("pk").select_for_update()
            ours = dict(locked.values_list("pk", "due_at"))
            batch = [each for each in batch if each.chunk.pk in ours]
            for each in batch:
                chunk = each.chunk
                for outcome in each.new.values():
                    counts[chunk.deletion_id][outcome] += 1
                changes = {"outcomes": chunk.outcomes}
                if each.is_over:
                    # One that was cancelled meanwhile is not due any more.
                    due_at = ours[chunk.pk] and each.again
                    changes |= {"due_at": due_at, "token": "", "error": chunk.error}
                    changes["attempts"] = chunk.attempts
                rows.filter(pk=chunk.pk).update(**changes)
            for pk, found in sorted(counts.items()):
                MessageDeletion.objects.using(using).filter(pk=pk).update(
                    **{name: F(name) + number for name, number in found.items() if number}
                )
        self._done += sum(sum(found.values()) for found in counts.values())
        bots = {each.chunk.deletion_id: each.chunk.deletion.bot for each in batch}
        for pk, found in counts.items():
            for outcome, number in found.items():
                if number:
                    metrics.deletions(bots[pk], outcome, number)
        for each in batch:
            each.new = {}
        self._postpone(batch)
        for pk in {each.chunk.deletion_id for each in batch if each.is_over and not each.again}:
            finish(pk)

    def _postpone(self, batch: list[Asked]) -> None:
        """Leave the other chunks of a chat alone, too, until its platform wants to be asked."""
        rows = DeletionChunk.objects.using(settings.DATABASE).filter(token="")
        for each in batch:
            if each.is_paused and each.again is not None:
                same = rows.filter(
                    deletion__through=each.chunk.deletion.through, chat=each.chunk.chat
                )
                same.filter(due_at__lt=each.again).update(due_at=each.again)
