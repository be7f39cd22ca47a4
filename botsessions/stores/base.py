"""The contract of a session store: four verbs on lists.

A store holds session data alone, as JSON bytes. The header of a session (its key, version, expiry)
is always a row of the database, whatever the store. `botsessions.testing.StoreContract` is the
suite for a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, ClassVar

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from botsessions import clock
from botsessions.keys import SessionKey

#: What is saved: the key, the data as JSON, and the seconds it lives (None: for ever).
Value = tuple[SessionKey, bytes, float | None]


class Store:
    """Where the data of sessions is kept.

    `alias` and `options` are those of `BOTSESSIONS["STORES"]`. A store is made once in a process,
    before it is first used, and must not fail or connect then: what is wrong with its options is
    for `check` to say. Every verb may be called from several threads at once.

    Values are bytes, so what a store returns is never shared with what it holds. A verb raises
    `Unavailable` where the store is away, and may be called again; it never takes that for "nothing
    is stored". Two keys are one session only if they are equal. A key may stand in a list twice:
    it is loaded in both places, and of two values the last is saved.
    """

    #: Is the data part of the session's row? Then it is loaded and saved with the row, in the same
    #: transaction.
    in_row: ClassVar[bool] = False
    #: The names that `OPTIONS` may have.
    known_options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.options = options

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.alias}>"

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        """Return the value of each key, None where nothing is stored or it has expired.

        The JSON means what was saved; its spelling (spaces, the order of names) may differ.
        """
        raise NotImplementedError

    def save(self, values: Sequence[Value]) -> None:
        """Store these values, replacing what is there together with its expiry.

        A value is live for its seconds, to the very end of them, and expired after that. Each value
        is stored whole or not at all; the list may be stored in part where this raises.
        """
        raise NotImplementedError

    def delete(self, keys: Sequence[SessionKey]) -> int:
        """Delete the values of these keys and return how many live ones there were."""
        raise NotImplementedError

    def clear_expired(self) -> int:
        """Delete what has expired and return how much that was; 0 where it goes by itself.

        A value that is saved meanwhile stays.
        """
        raise NotImplementedError

    def clear(self) -> int:
        """Delete everything that this store holds, and nothing else, and return how much that was.

        For operators and tests. Raises `NotImplementedError` where the store cannot list its keys.
        """
        raise NotImplementedError(f"{self!r} cannot list its keys.")

    def check(self) -> Iterator[CheckMessage]:
        """Yield what is wrong with the options (`botsessions.E007`) or dangerous, with a hint."""
        if not isinstance(self.options, Mapping):
            yield self.wrong("OPTIONS is no dict.", "It has each option under its name.")
            return
        known = sorted(self.known_options)
        for name in self.options:
            if name in self.known_options:
                continue
            nearest = get_close_matches(str(name).upper(), known, n=1)
            there_are = f"There are {', '.join(known)}." if known else "It takes no options."
            yield self.wrong(
                f"unknown option {name!r}.",
                f"Did you mean {nearest[0]!r}?" if nearest else there_are,
            )

    def wrong(self, problem: str, hint: str) -> CheckMessage:
        """Return the error that names this store."""
        return Error(f"Store '{self.alias}': {problem}", hint=hint, id="botsessions.E007")


def make_store(alias: str, configured: Any) -> Store:
    """Return the store that an entry of `BOTSESSIONS["STORES"]` describes.

    BACKEND is a dotted path or a class. Raises `ImproperlyConfigured`, naming the store.
    """
    if not isinstance(configured, Mapping):
        raise ImproperlyConfigured(f"STORES['{alias}'] is no dict with a BACKEND.")
    backend = configured.get("BACKEND")
    found = backend
    if isinstance(backend, str):
        try:
            found = import_string(backend)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"STORES['{alias}']['BACKEND'] {backend!r}: {error}"
            ) from error
    if not (isinstance(found, type) and issubclass(found, Store)):
        raise ImproperlyConfigured(
            f"STORES['{alias}']['BACKEND'] {backend!r} is no subclass of botsessions.stores.Store."
        )
    return found(alias, configured.get("OPTIONS", {}))


def lifetime(expires_at: datetime | None) -> float | None:
    """Return for how many seconds from now a value is to live, None for ever."""
    if expires_at is None:
        return None
    return max((expires_at - clock.now()).total_seconds(), 0.001)


def in_batches(keys: Iterable[SessionKey], size: int) -> Iterator[list[SessionKey]]:
    """Yield each of these keys once, in order, at most `size` at a time."""
    each = sorted(set(keys))
    for first in range(0, len(each), size):
        yield each[first : first + size]
