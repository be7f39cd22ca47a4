"""The part of a bulk deletion that asks the platforms: many chunks at a time, each its own call."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.db import DatabaseError

from botsessions import clock
from botsessions.bots import Bot
from botsessions.clearing import delete, pace_of
from botsessions.conf import settings
from botsessions.engine import current_engine
from botsessions.exceptions import PlatformError, RateLimited, Unavailable
from botsessions.models import DeletionChunk
from botsessions.operations.claims import Asked, Claims
from botsessions.operations.gathering import gather_due
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
        self._claims = Claims(known)
        self._asking: set[asyncio.Task[None]] = set()
        self._noted: list[tuple[Asked, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._done = 0

    async def run(self) -> int:
        """Return how many messages came to an outcome.

        Raises what the database raised, once the calls that are under way are over; what is not
        written then is found again after LEASE seconds.
        """
        renewal = asyncio.ensure_future(self._renew())
        try:
            await self._work()
        finally:
            if self._asking:
                await asyncio.wait(self._asking)
            renewal.cancel()
            await current_engine().drain()
            for bot in self._bots.values():
                await bot.platform.close()
        return self._done

    async def _work(self) -> None:
        is_to_gather = True
        while True:
            is_time = time.monotonic() < self._until
            if is_time and len(self._asking) <= AT_ONCE // 2:
                room = AT_ONCE - len(self._asking)
                chunks = await self._in_database(partial(self._claims.take, room))
                self._asking |= {asyncio.ensure_future(self._ask(each)) for each in chunks}
            if is_time and is_to_gather and len(self._asking) < AT_ONCE:
                soon = min(self._until, time.monotonic() + GATHERS_FOR)
                is_to_gather = await self._in_database(partial(gather_due, list(self._bots), soon))
                # What came meanwhile in the mailboxes that were taken; its handlers run here.
                await current_engine().recover()
                if is_to_gather and not self._asking:
                    continue
            if not self._asking:
                return
            done, self._asking = await asyncio.wait(
                self._asking, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                each.result()
            if self._progress is not None:
                await self._in_database(self._progress)

    async def _in_database(self, work: Callable[[], T]) -> T:
        return await sync_to_async(work, thread_sensitive=True)()

    async def _renew(self) -> None:
        """Keep what is in hand, as the engine keeps its mailboxes."""
        while True:
            await asyncio.sleep(settings.RENEW_EVERY)
            try:
                await self._in_database(self._claims.keep)
            except Unavailable as error:
                log.warning("Claims of messages to delete were not renewed: %s", error)

    async def _ask(self, chunk: DeletionChunk) -> None:
        asked, bot = Asked(chunk), self._bots[chunk.deletion.through]
        try:
            async for found in delete(
                bot.platform, chunk.chat, chunk.business, asked.left, pace_of(bot)
            ):
                asked.note(found)
                await self._write(asked)
            # What the platform asks for next is from then on another matter.
            if not asked.is_over:
                raise RuntimeError("some of its messages have come to no outcome")
        except (DatabaseError, Unavailable):
            raise
        except Exception as error:
            if not isinstance(error, PlatformError):
                log.exception("The platform of bot '%s' breaks its contract.", bot.alias)
            self._fail(asked, error)
            asked.is_over = True
            await self._write(asked)
        finally:
            self._claims.give_up(chunk)

    def _fail(self, asked: Asked, error: Exception) -> None:
        """Decide whether, and when, the rest of a chunk is asked for again."""
        chunk, now = asked.chunk, clock.now()
        chunk.error = str(error)[-MAX_ERROR:]
        if isinstance(error, RateLimited):
            # The platform says when; that it did not act is certain, so that it counts for nothing.
            asked.is_paused = True
            chunk.limited_since = chunk.limited_since or now
            seconds = (error.retry_after or DELAYS[0]) * random.uniform(1, 1.1)  # noqa: S311
            gives_up = now + timedelta(seconds=seconds) > chunk.limited_since + PATIENCE
        else:
            chunk.limited_since = None
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
                    store = partial(self._claims.store, [asked for asked, _ in batch])
                    self._done += await self._in_database(store)
                except Exception as error:
                    for _, written in batch:
                        written.set_exception(error)
                else:
                    for _, written in batch:
                        written.set_result(None)
        finally:
            self._writer = None
