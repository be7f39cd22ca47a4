"""The database's store with a cache in front of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from botsessions import clock
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores.base import Store, in_batches
from botsessions.stores.cache_space import CACHE_OPTIONS, CacheSpace
from botsessions.stores.database import BATCH, KEY, DatabaseStore, Stored, live

log = logging.getLogger("botsessions.stores")


class CachedDatabaseStore(DatabaseStore):
    """A `DatabaseStore` whose values are read from a cache where they are the newest.

    The options are those of `CacheStore`. The database alone decides: each value is cached with the
    id and the version of its row, a load asks the database for these two, and takes what is cached
    only if they agree. A cache that is old, empty, or away makes a load slower and never wrong;
    that it is away is logged, as a warning, once for each call.
    """

    known_options: ClassVar[frozenset[str]] = CACHE_OPTIONS

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._space = CacheSpace(self)

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        cached = self._try(lambda: self._space.load(keys)) if keys else {}
        with self._available():
            values = self._newest(cached) if cached else {}
            rows = self._read([key for key in keys if key not in values])
        if rows and cached is not None:  # not where the cache has just failed
            self._remember_later(rows)
        values |= {key: row.data for key, row in rows.items()}
        return [values.get(key) for key in keys]

    def delete(self, keys: Sequence[SessionKey]) -> int:
        deleted = super().delete(keys)
        self._after_commit(lambda: self.forget(keys))
        return deleted

    def clear(self) -> int:
        cleared = super().clear()
        self._after_commit(lambda: self._try(self._clear_cache))
        return cleared

    def forget(self, keys: Sequence[SessionKey]) -> None:
        """Take these out of the cache; never raises."""
        if keys:
            self._try(lambda: self._space.delete(keys))

    def check(self) -> Iterator[CheckMessage]:
        yield from Store.check(self)
        if isinstance(self.options, Mapping):
            yield from self._space.check()

    def _wrote(self, rows: Mapping[SessionKey, Stored]) -> None:
        self._remember_later(rows)

    def _newest(self, cached: Mapping[SessionKey, str]) -> dict[SessionKey, bytes]:
        """Return those cached values that are what the database holds now."""
        newest = {}
        for batch in in_batches(cached, BATCH):
            rows = self._named(batch).filter(live(), data__isnull=False)
            for *parts, id, version in rows.values_list(*KEY, "id", "version"):
                key = SessionKey(*parts)
                stamp, _, data = cached[key].partition(" ")
                if stamp == _stamp(id, version):
                    newest[key] = data.encode()
        return newest

    def _remember_later(self, rows: Mapping[SessionKey, Stored]) -> None:
        """Cache these when the transaction that wrote or read them is committed.

        What it rolls back must not be cached: the next to write gets the same version.
        """
        self._after_commit(lambda: self._try(lambda: self._fill(rows)))

    def _fill(self, rows: Mapping[SessionKey, Stored]) -> None:
        now, values = clock.now(), []
        for key, row in rows.items():
            seconds = (row.expires_at - now).total_seconds() if row.expires_at else None
            if seconds is None or seconds > 0:
                text = f"{_stamp(row.id, row.version)} {row.data.decode()}"
                values.append((key, text, seconds))
        self._space.save(values)

    def _clear_cache(self) -> None:
        try:
            self._space.clear()
        except NotImplementedError:
            log.debug("%r cannot list its keys: what is cached is old, and stays", self)

    def _after_commit(self, work: Callable[[], object]) -> None:
        transaction.on_commit(work, using=self.using)

    def _try(self, work: Callable[[], Any]) -> Any:
        """Return what the cache answers, None where it is away, or not there at all."""
        try:
            return work()
        except (Unavailable, ImproperlyConfigured) as error:
            log.warning("%s; the database answers alone", error)
            return None


def _stamp(id: int, version: int) -> str:
    """Which state of which row: a row that is deleted and made again begins at version 1 too."""
    return f"{id}.{version}"
