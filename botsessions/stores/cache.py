"""The store that is a part of a Django cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from django.conf import settings as django_settings
from django.core.checks import CheckMessage

from botsessions.keys import SessionKey
from botsessions.stores.base import Store, Value
from botsessions.stores.cache_space import CACHE_OPTIONS, CacheSpace


class CacheStore(Store):
    """Keeps the data in a Django cache, as JSON text.

    OPTIONS: CACHE, the alias (`"default"`); PREFIX, which keeps the stores of one cache apart
    (`""`); TTL, the seconds for which a value lives that is saved without any (None: for ever).

    The data lasts as long as the cache keeps it: one that evicts what is old forgets sessions. It
    is written outside the transaction in which an update is marked as done.
    """

    known_options: ClassVar[frozenset[str]] = CACHE_OPTIONS

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._space = CacheSpace(self)

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        if not keys:
            return []
        texts = self._space.load(keys)
        return [texts[key].encode() if key in texts else None for key in keys]

    def save(self, values: Sequence[Value]) -> None:
        latest = {key: (data, seconds) for key, data, seconds in values}
        self._space.save([(key, data.decode(), seconds) for key, (data, seconds) in latest.items()])

    def delete(self, keys: Sequence[SessionKey]) -> int:
        """Delete the values; the answer counts those that were there just before."""
        there = list(self._space.load(keys)) if keys else []
        if there:
            self._space.delete(there)
        return len(there)

    def clear_expired(self) -> int:
        """Do nothing: a cache lets go of what has expired by itself."""
        return 0

    def clear(self) -> int:
        return self._space.clear()

    def check(self) -> Iterator[CheckMessage]:
        wrong = list(super().check())
        yield from wrong
        if isinstance(self.options, Mapping):
            yield from self._space.check()
            yield from self._check_silence()

    def _check_silence(self) -> Iterator[CheckMessage]:
        """A cache that hides its errors answers "nothing is stored" while it is away."""
        configured = django_settings.CACHES.get(self._space.alias, {})
        options = configured.get("OPTIONS", {})
        default = getattr(django_settings, "DJANGO_REDIS_IGNORE_EXCEPTIONS", False)
        if "django_redis" in configured.get("BACKEND", "") and options.get(
            "IGNORE_EXCEPTIONS", default
        ):
            yield self.wrong(
                f"the cache '{self._space.alias}' ignores its errors: while Redis is away every "
                "session would begin anew.",
                "Give the store a cache of its own with 'IGNORE_EXCEPTIONS': False, or use "
                "botsessions.stores.CachedDatabaseStore.",
            )
