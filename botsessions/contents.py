"""The data of sessions whose store is not their row: read after the rows, written with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Commit, Outcome, Row
from botsessions.stores.base import Store
from botsessions.stores.cached_database import CachedDatabaseStore
from botsessions.stores.envelope import opened

log = logging.getLogger("botsessions.stores")


def fill(store: Store | None, rows: Iterable[tuple[SessionKey, Row | None]]) -> None:
    """Put into these rows what the store holds, with one load. Raises `Unavailable`."""
    if store is None or store.in_row:
        return
    found = [
        (key, row) for key, row in rows if row is not None and row.version and not row.is_expired
    ]
    stored = store.load([key for key, _ in found]) if found else []
    for (_, row), value in zip(found, stored, strict=True):
        row.data = opened(value, row.version)


def remove(store: Store | None, keys: Sequence[SessionKey]) -> None:
    """Delete what a store holds of these sessions beside their rows. Raises `Unavailable`."""
    if store is None or not keys:
        return
    if isinstance(store, CachedDatabaseStore):
        store.forget(keys)
    elif not store.in_row:
        store.delete(keys)


def settle(commits: Iterable[Commit], outcomes: Iterable[Outcome]) -> None:
    """Let stores delete what those of these commits that were written have deleted.

    Never raises: what is left behind is not read any more.
    """
    for commit, outcome in zip(commits, outcomes, strict=True):
        for save in commit.saves if outcome is Outcome.COMMITTED else ():
            if save.is_deleted:
                drop(save.store, [save.key])


def drop(store: Store | None, keys: Sequence[SessionKey]) -> None:
    """Let a store delete what no row is there for any more; never raises."""
    try:
        remove(store, keys)
    except Unavailable as error:
        log.warning("The data of %d sessions is left behind: %s", len(keys), error)
