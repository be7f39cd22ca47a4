"""Which windows the processes share: those in Redis while it answers, else those in the database.

Where they change over, each keeps the rates by itself: in that moment a chat may get what the one
had still to give besides what the other gives. The platform's 429 is what is left for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.pacing.database import DatabaseWindows
from botsessions.pacing.redis import RedisWindows
from botsessions.pacing.window import Request, Verdict, Windows
from botsessions.stores.cache_space import DJANGO_REDIS

if TYPE_CHECKING:
    from botsessions.mailboxes.base import Mailbox

T = TypeVar("T")

log = logging.getLogger("botsessions.pacing")

#: Seconds that Redis has for an answer, whatever the cache's own limits are.
ANSWERS_WITHIN: Final = 1.0
#: Seconds until a Redis that was away is asked again.
COMEBACK: Final = 5.0


class RedisHost:
    """The Redis of one cache, asked in a thread of its own, and whether it is away."""

    def __init__(self, alias: str) -> None:
        self.windows = RedisWindows(alias)
        self._thread = ThreadPoolExecutor(1, "botsessions-pacing")
        #: A question that was not answered in time: the thread is busy with it.
        self._stuck: Future[object] | None = None
        self._is_away = False
        self._away_until = 0.0

    @property
    def is_to_be_asked(self) -> bool:
        is_free = self._stuck is None or self._stuck.done()
        return is_free and time.monotonic() >= self._away_until

    async def ask(self, work: Callable[[Windows], T]) -> T:
        """Return its answer. Raises `Unavailable` where there is none in time."""
        question = self._thread.submit(work, self.windows)
        answer = asyncio.wrap_future(question)
        try:
            await asyncio.wait({answer}, timeout=ANSWERS_WITHIN)
            if not answer.done():
                self._stuck = cast("Future[object]", question)
                raise Unavailable(f"Redis did not answer within {ANSWERS_WITHIN:g} s.")
            found = answer.result()
        except Unavailable as error:
            self._note_away(error)
            raise
        finally:
            answer.cancel()
        if self._is_away:
            self._is_away = False
            log.warning("Redis keeps the rates of sends again.")
        return found

    def _note_away(self, error: Unavailable) -> None:
        self._away_until = time.monotonic() + COMEBACK
        if not self._is_away:
            self._is_away = True
            log.warning("The database keeps the rates of sends meanwhile: %s", error)


class SharedWindows:
    """The windows that this process shares with others, for event loops."""

    def __init__(self) -> None:
        self._database = DatabaseWindows()
        self._hosts: dict[str, RedisHost] = {}

    async def acquire(self, requests: Sequence[Request], lag: float) -> list[Verdict]:
        """See `Windows.acquire`."""
        return await self._ask(lambda windows: windows.acquire(requests, lag))

    async def pause(self, key: str, seconds: float) -> None:
        """See `Windows.pause`."""
        await self._ask(lambda windows: windows.pause(key, seconds))

    async def _ask(self, work: Callable[[Windows], T]) -> T:
        host = self._host()
        if host is not None and host.is_to_be_asked:
            try:
                return await host.ask(work)
            except Unavailable:
                pass  # is logged
        return await in_database(partial(work, self._database))

    def _host(self) -> RedisHost | None:
        alias = settings.RATE_CACHE
        if not is_redis(django_settings.CACHES.get(alias, {}).get("BACKEND", "")):
            return None
        host = self._hosts.get(alias)
        if host is None:
            host = self._hosts[alias] = RedisHost(alias)
        return host


shared = SharedWindows()


@cache
def is_redis(backend: str) -> bool:
    """Is a cache of this class one of django-redis?"""
    try:
        kind = import_string(backend)
    except ImportError:
        return False
    return DJANGO_REDIS in (f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__)


async def in_database(work: Callable[[], T]) -> T:
    """Do it in the thread of the engine's mailbox; where none was started, in that of Django."""
    from botsessions.engine import current_engine

    engine = current_engine()
    if not engine.is_started:
        return await sync_to_async(work, thread_sensitive=True)()

    def ended(mailbox: Mailbox) -> T:
        mailbox.flush()  # a transaction that it may have left unfinished
        return work()

    return await engine.ask(ended)
