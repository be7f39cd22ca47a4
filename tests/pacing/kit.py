"""What the tests of pacing share."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.cache import caches
from django.test import override_settings

from botsessions.bots import bots
from botsessions.exceptions import RateLimited
from botsessions.platforms.local import LocalPlatform

MEMORY = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


@contextmanager
def redis_cache(url: str, *, clear: bool = True) -> Iterator[None]:
    """Set up a cache "rates" in that Redis, under a prefix of our own."""
    rates = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url,
        "KEY_PREFIX": f"botsessions-tests-pacing-{os.getpid()}",
        "OPTIONS": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
    }
    with override_settings(CACHES={"default": MEMORY, "rates": rates}):
        yield
        cache: Any = caches["rates"]
        if clear:
            cache.delete_pattern("*")
        cache.close()


class Noting(LocalPlatform):
    """Notes when each message went to which chat; `refuse` lets the next ones meet an error."""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        #: (seconds, chat, text), in order.
        self.went: list[tuple[float, str, str]] = []
        self._errors: dict[str, list[Exception]] = {}

    def refuse(self, chat: str, *errors: Exception) -> None:
        self._errors.setdefault(chat, []).extend(errors)

    def texts(self, chat: str = "") -> list[str]:
        return [text for _, where, text in self.went if chat in ("", where)]

    def times(self, chat: str = "") -> list[float]:
        return [at for at, where, _ in self.went if chat in ("", where)]

    def is_group(self, chat: str) -> bool:
        return chat.startswith("-")

    async def send(self, chat: str, text: str, **options: Any) -> dict[str, Any]:
        if self._errors.get(chat):
            raise self._errors[chat].pop(0)
        self.went.append((time.monotonic(), chat, text))
        return await super().send(chat, text, **options)

    async def call(self, method: str, **parameters: Any) -> Any:
        if self._errors.get(method):
            raise self._errors[method].pop(0)
        if method == "album":
            at, chat = time.monotonic(), parameters["chat"]
            self.went += [(at, chat, text) for text in parameters["texts"]]
        return await super().call(method, **parameters)


def platform(alias: str = "demo") -> Noting:
    found = bots[alias].platform
    assert isinstance(found, Noting)
    return found


def limited(seconds: float | None = None) -> RateLimited:
    """Return what a 429 raises."""
    return RateLimited("Too Many Requests", code=429, retry_after=seconds)


def most_in(times: Sequence[float], seconds: float) -> int:
    """Return the most of these times that any span of so many seconds holds, its end excluded."""
    ordered = sorted(times)
    return max((bisect_left(ordered, at + seconds) - n for n, at in enumerate(ordered)), default=0)
