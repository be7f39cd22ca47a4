"""The contract of a session store: four verbs on lists.

A store holds session data alone, as JSON bytes. The header of a session (its key, version, expiry)
is always a row of the database, whatever the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from botsessions.keys import SessionKey


class Store:
    """Where the data of sessions is kept.

    `alias` and `options` are those of `BOTSESSIONS["STORES"]`.
    """

    #: Is the data part of the session's row? Then it is loaded and saved with the row, in the same
    #: transaction.
    in_row: ClassVar[bool] = False

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.options = options

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        """Return the value of each key, None where nothing is stored."""
        raise NotImplementedError

    def save(self, values: Sequence[tuple[SessionKey, bytes]]) -> None:
        """Store these values, replacing what is there."""
        raise NotImplementedError

    def delete(self, keys: Sequence[SessionKey]) -> int:
        """Delete the values of these keys and return how many there were."""
        raise NotImplementedError

    def clear_expired(self) -> int:
        """Delete what has expired and return how much that was."""
        raise NotImplementedError
