"""Which windows the processes share: those in Redis while it answers, else those in the database.

Where they change over, each keeps the rates by itself: in that moment a chat may get what the one
had still to give besides what the other gives. The platform's 429 is what is left for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import connections
from django.utils.module_loading import import_string

from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.pacing.asking import Asker
from botsessions.pacing.database import DatabaseWindows
from botsessions.pacing.redis import RedisWindows
from botsessions.pacing.window import Request, Verdict, Windows
from botsessions.stores.cache_space import DJANGO_REDIS

T = TypeVar("T")

log = logging.getLogger("botsessions.pacing")

#: Seconds that Redis has for an answer, whatever the cache's own limits are.
ANSWERS_WITHIN: Final = 1.0
#: … and the database, which is asked when nobody else is left.
DATABASE_WITHIN: Final = 5.0
#: Seconds until a Redis that was away is asked again.
COMEBACK: Final = 5.0


class RedisHost:
    """The Redis of one cache, and whether it is away."""

    def __init__(self, alias: str) -> None:
        self.windows = RedisWindows(alias)
        self._asker = Asker("Redis", ANSWERS_WITHIN)
        self._is_away = False
        self._away_until = 0.0

    @property
    def is_to_be_asked(self) -> bool:
        return self._asker.is_free and time.monotonic() >= self._away_until

    async def ask(self, work: Callable[[Windows], T]) -> T:
        """Return its answer. Raises `Unavailable` where there is none in time."""
        try:
            found = await self._asker.ask(partial(work, self.windows))
        except Unavailable as error:
            self._note_away(error)
            raise
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
        self._asker = Asker("The database", DATABASE_WITHIN, connections.close_all)
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
        return await self._ask_database(partial(work, self._database))

    async def _ask_database(self, work: Callable[[], T]) -> T:
        """Ask over a connection of our own, so that whoever sends waits for no lock of another's.

        The room of a message is taken as soon as it is granted, whatever becomes of the transaction
        in which somebody sends. Where nothing can be seen but from within that, it is joined.
        """
        from botsessions.engine import current_engine

        # A started engine has its threads; its callers' transactions are none of theirs.
        if not current_engine().is_started and await _is_joined():
            return await sync_to_async(work, thread_sensitive=True)()
        return await self._asker.ask(work)

    def close(self) -> None:
        """Close the connection of our own, if there is one: a test's database is about to go."""
        self._asker.end()

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


async def _is_joined() -> bool:
    """Must the database be asked in the transaction, or over the connection, of whoever sends?"""
    with suppress(RuntimeError):  # the thread was a request's, which has ended
        return await sync_to_async(is_joined, thread_sensitive=True)()
    return False


def is_joined() -> bool:
    """Does this thread's connection keep others from what it writes, or even from writing?

    That of a `TestCase`, in whose transaction a whole test happens, does; on SQLite so does every
    transaction, and a database in memory is its own thread's.
    """
    connection: Any = connections[settings.DATABASE]
    if connection.vendor == "sqlite":
        return bool(connection.in_atomic_block or connection.is_in_memory_db())
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
