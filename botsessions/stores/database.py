"""The store that is the session's own row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec
from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import F, Q

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores.base import Store, Value, in_batches

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from botsessions.models import BotSession

KEY = ("bot", "chat", "user", "thread", "qualifier")
#: How many rows a query names at most.
BATCH = 100
#: How many rows a transaction of `clear_expired` and `clear` empties at most.
CLEARED_AT_ONCE = 500


class Stored(NamedTuple):
    """The data of a row, and what tells this state of it from every other: its id and version."""

    id: int
    version: int
    data: bytes
    expires_at: datetime | None


class DatabaseStore(Store):
    """Keeps the data in the column `BotSession.data`: it comes and goes with the row, in the same
    transaction.

    The mailbox reads and writes that column itself. The verbs are for whoever has no mailbox at
    hand. They commit in batches, or belong to the transaction that they are called in, and count
    the version up, so that a handler which loaded the session before does not overwrite them.
    """

    in_row: ClassVar[bool] = True

    @property
    def using(self) -> str:
        """The alias of the database."""
        return settings.DATABASE

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        with self._available():
            rows = self._read(keys)
        return [rows[key].data if key in rows else None for key in keys]

    def save(self, values: Sequence[Value]) -> None:
        latest = {key: (data, seconds) for key, data, seconds in values}
        written: dict[SessionKey, Stored] = {}
        for batch in in_batches(latest, BATCH):
            with self._available(), transaction.atomic(using=self.using):
                rows = self._write({key: latest[key] for key in batch})
            written |= rows
        self._wrote(written)

    def delete(self, keys: Sequence[SessionKey]) -> int:
        """Delete the values; their rows stay, without data."""
        deleted = 0
        for batch in in_batches(keys, BATCH):
            with self._available(), transaction.atomic(using=self.using):
                ids = self._lock(self._named(batch).filter(data__isnull=False))
                rows = self._rows.filter(id__in=ids.values())
                deleted += rows.filter(live()).count()
                self._empty(rows)
        return deleted

    def clear_expired(self) -> int:
        """Empty the rows whose expiry has passed, some hundred in each transaction.

        A row that somebody is working on is left for the next time.
        """
        return self._clear(Q(expires_at__lt=clock.now()), wait=False)

    def clear(self) -> int:
        return self._clear(Q(), wait=True)

    def _wrote(self, rows: Mapping[SessionKey, Stored]) -> None:
        """Take notice of what was written, in the transaction of whoever called the verb."""

    # Rows

    @property
    def _rows(self) -> QuerySet[BotSession]:
        # Models cannot be imported before the apps are ready, and settings name this module.
        from botsessions.models import BotSession

        return BotSession.objects.using(self.using)

    def _named(self, keys: Sequence[SessionKey]) -> QuerySet[BotSession]:
        return self._rows.filter(
            reduce(or_, (Q(**{part: getattr(key, part) for part in KEY}) for key in keys))
        )

    def _read(self, keys: Sequence[SessionKey]) -> dict[SessionKey, Stored]:
        """Return the live values among these."""
        found = {}
        for batch in in_batches(keys, BATCH):
            rows = self._named(batch).filter(live(), data__isnull=False)
            for *key, id, version, data, expires_at in rows.values_list(
                *KEY, "id", "version", "data", "expires_at"
            ):
                found[SessionKey(*key)] = Stored(id, version, msgspec.json.encode(data), expires_at)
        return found

    def _write(
        self, values: Mapping[SessionKey, tuple[bytes, float | None]]
    ) -> dict[SessionKey, Stored]:
        """Write these values, in a transaction, and return the rows as they are then.

        The rows that are missing are inserted before any is locked, both in the order of the keys:
        those who save the same sessions at once wait for each other in one direction alone.
        """
        from botsessions.mailboxes.statements.base import without_nul
        from botsessions.models import BotSession

        keys, now = list(values), clock.now()
        ids: dict[SessionKey, int] = {}
        while len(ids) < len(keys):  # a row that was there may be deleted before it is locked
            there = {SessionKey(*key) for key in self._named(keys).values_list(*KEY)}
            self._rows.bulk_create(
                [
                    BotSession(**msgspec.structs.asdict(key), created_at=now, updated_at=now)
                    for key in keys
                    if key not in there
                ],
                ignore_conflicts=True,
            )
            ids = self._lock(self._named(keys))
        versions = dict(self._rows.filter(id__in=ids.values()).values_list("id", "version"))
        rows, written = [], {}
        for key, (data, seconds) in values.items():
            # No database stores NUL characters; the mailbox replaces them in the same way.
            cleaned = without_nul(data)
            expires_at = None if seconds is None else now + timedelta(seconds=seconds)
            id, version = ids[key], versions[ids[key]] + 1
            written[key] = Stored(id, version, cleaned, expires_at)
            rows.append(
                BotSession(
                    id=id,
                    data=msgspec.json.decode(cleaned),
                    version=version,
                    expires_at=expires_at,
                    updated_at=now,
                )
            )
        self._rows.bulk_update(rows, ["data", "version", "expires_at", "updated_at"])
        return written

    def _clear(self, condition: Q, *, wait: bool) -> int:
        features = connections[self.using].features
        skip = not wait and features.has_select_for_update_skip_locked
        cleared = 0
        while True:
            with self._available(), transaction.atomic(using=self.using):
                rows = self._rows.filter(condition, data__isnull=False)
                ids = self._lock(rows, CLEARED_AT_ONCE, skip_locked=skip)
                if not ids:
                    return cleared
                # Once more the condition: where rows cannot be locked, somebody may have saved.
                cleared += self._empty(self._rows.filter(condition, id__in=ids.values()))

    def _lock(
        self, rows: QuerySet[BotSession], limit: int | None = None, *, skip_locked: bool = False
    ) -> dict[SessionKey, int]:
        """Lock these rows in the order of their keys and return their ids."""
        locked = rows.order_by(*KEY).select_for_update(skip_locked=skip_locked)
        return {SessionKey(*key): id for *key, id in locked.values_list(*KEY, "id")[:limit]}

    def _empty(self, rows: QuerySet[BotSession]) -> int:
        # The expiry stays: an open session without data has one too.
        return rows.update(data=None, version=F("version") + 1, updated_at=clock.now())

    @contextmanager
    def _available(self) -> Iterator[None]:
        """Raise `Unavailable` where the database is away.

        In somebody's transaction the database's own error is left to who began it.
        """
        nested = connections[self.using].in_atomic_block
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            if nested:
                raise
            raise Unavailable(f"{self!r}: the database '{self.using}' is away: {error}") from error


def live() -> Q:
    """The condition that a row has not expired: its last moment is part of its life."""
    return Q(expires_at=None) | Q(expires_at__gte=clock.now())
