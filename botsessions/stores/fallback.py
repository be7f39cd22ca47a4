"""A chain of stores: the first that knows a value answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured

from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores.base import Store, Value, make_store

log = logging.getLogger("botsessions.stores")


class FallbackStore(Store):
    """Stores behind each other, say memory before Redis before files: `OPTIONS["STORES"]`.

    The option lists aliases of `BOTSESSIONS["STORES"]`, none of which may be in the row. A load
    asks each for what those before it do not have; writes and deletions reach all of them, the last
    one first, so what the first knows the others know too. A member that is away makes a write fail
    (it would answer with an old value later), and a load only where no other member has the value.
    """

    known_options: ClassVar[frozenset[str]] = frozenset({"STORES"})

    @cached_property
    def members(self) -> list[Store]:
        """The stores, in order. Raises `ImproperlyConfigured`."""
        aliases = self.options.get("STORES")
        if not isinstance(aliases, list | tuple) or not aliases:
            raise ImproperlyConfigured(f"Store '{self.alias}': STORES is no list of aliases.")
        members = []
        for alias in aliases:
            if alias == self.alias or alias not in settings.STORES:
                raise ImproperlyConfigured(
                    f"Store '{self.alias}': {alias!r} is no other alias in BOTSESSIONS['STORES']."
                )
            member = make_store(alias, settings.STORES[alias])
            if member.in_row or isinstance(member, FallbackStore):
                raise ImproperlyConfigured(
                    f"Store '{self.alias}': {alias!r} cannot be part of a chain; name stores that "
                    "keep data outside the session's row."
                )
            members.append(member)
        return members

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        values: dict[SessionKey, bytes] = {}
        away: Unavailable | None = None
        for member in self.members:
            missing = [key for key in dict.fromkeys(keys) if key not in values]
            if not missing:
                break
            try:
                found = member.load(missing)
            except Unavailable as error:
                log.warning("%r is away: %s", member, error)
                away = error
                continue
            values |= {
                key: value for key, value in zip(missing, found, strict=True) if value is not None
            }
        if away is not None and any(key not in values for key in keys):
            raise away
        return [values.get(key) for key in keys]

    def save(self, values: Sequence[Value]) -> None:
        for member in reversed(self.members):
            member.save(values)

    def delete(self, keys: Sequence[SessionKey]) -> int:
        live = sum(value is not None for value in self.load(list(dict.fromkeys(keys))))
        for member in reversed(self.members):
            member.delete(keys)
        return live

    def clear_expired(self) -> int:
        return max(member.clear_expired() for member in self.members)

    def clear(self) -> int:
        return max(member.clear() for member in self.members)

    def check(self) -> Iterator[CheckMessage]:
        yield from super().check()
        if isinstance(self.options, Mapping):
            try:
                _ = self.members
            except ImproperlyConfigured as problem:
                yield self.wrong(
                    str(problem).partition(": ")[2], "List stores that keep data outside the row."
                )

    def __repr__(self) -> str:
        names: Any = self.options.get("STORES") if isinstance(self.options, Mapping) else None
        return f"<FallbackStore {self.alias} {names}>"
