"""The part of a Django cache that belongs to one store: its keys, its lifetimes, its dangers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2s
from typing import Any, Final, cast
from urllib.parse import quote

from django.conf import settings as django_settings
from django.core.cache import BaseCache, caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores.base import Store

#: The names of the options that say which part of which cache.
CACHE_OPTIONS: Final = frozenset({"CACHE", "PREFIX", "TTL"})

#: The longest key, in characters; memcached takes 250, of which Django adds some.
LONGEST: Final = 200
#: The longest prefix: beside it there must be room for a hash.
LONGEST_PREFIX: Final = 80
#: The key of a session where it can be had unchanged: what memcached refuses is hashed.
PLAIN: Final = re.compile(r"[\x21-\x7e]+")
#: Begins the hashed ones; in the text of a session key a % is always followed by a digit.
HASHED: Final = "%~"

DJANGO_REDIS: Final = "django_redis.cache.RedisCache"
#: The caches that turn values into Python's own format of objects, and what to do instead.
UNSAFE: Final[Mapping[str, str]] = {
    DJANGO_REDIS: "Set CACHES['{cache}']['OPTIONS']['SERIALIZER'] = "
    "'django_redis.serializers.json.JSONSerializer'.",
    "django.core.cache.backends.redis.RedisCache": "Use django_redis.cache.RedisCache with "
    "'SERIALIZER': 'django_redis.serializers.json.JSONSerializer', or set "
    "CACHES['{cache}']['OPTIONS']['serializer'] to a class that speaks JSON.",
    "django.core.cache.backends.filebased.FileBasedCache": "Use botsessions.stores.FileStore.",
    "django.core.cache.backends.db.DatabaseCache": "Use botsessions.stores.DatabaseStore.",
    "django.core.cache.backends.memcached.BaseMemcachedCache": "Use Redis with a JSON serializer. "
    "If nobody else can reach that server, add 'botsessions.W003' to SILENCED_SYSTEM_CHECKS.",
}


class CacheSpace:
    """The keys of one store in the cache that its options name.

    Texts go in and out, never objects. A verb raises `Unavailable` for whatever the cache raises:
    caches have no error in common.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def alias(self) -> str:
        """The alias of the cache."""
        return cast(str, self._store.options.get("CACHE", "default"))

    @property
    def cache(self) -> BaseCache:
        return caches[self.alias]

    @property
    def head(self) -> str:
        """What every key of this store begins with, and no key of another prefix."""
        return f"botsessions:{quote(self._store.options.get('PREFIX', ''), safe='')}:"

    def name(self, key: SessionKey) -> str:
        """Return the cache's key of a session."""
        return self._name(self.head, key)

    def load(self, keys: Sequence[SessionKey]) -> dict[SessionKey, str]:
        """Return what is there, in one request."""
        head = self.head
        names = {self._name(head, key): key for key in keys}
        cache = self.cache
        with self._available():
            found = cache.get_many(list(names))
        # What is no text was not written by us.
        return {names[name]: text for name, text in found.items() if isinstance(text, str)}

    def save(self, values: Sequence[tuple[SessionKey, str, float | None]]) -> None:
        """Store these texts, those of one lifetime together.

        Caches count whole seconds: a part of one is rounded up.
        """
        head, longest = self.head, self._store.options.get("TTL")
        groups: dict[int | None, dict[str, str]] = {}
        for key, text, own in values:
            seconds = longest if own is None else own
            timeout = None if seconds is None else math.ceil(seconds)
            groups.setdefault(timeout, {})[self._name(head, key)] = text
        cache = self.cache
        for timeout, texts in groups.items():
            with self._available():
                failed = cache.set_many(texts, timeout)
            if failed:
                raise Unavailable(
                    f"{self._store!r}: the cache '{self.alias}' refused {len(failed)} of "
                    f"{len(texts)} values."
                )

    def delete(self, keys: Sequence[SessionKey]) -> None:
        """Delete these, in one request."""
        cache, names = self.cache, list({self.name(key) for key in keys})
        with self._available():
            cache.delete_many(names)

    def clear(self) -> int:
        """Delete every key of this store; see `Store.clear`."""
        cache = self.cache
        if isinstance(cache, LocMemCache):
            return self._clear_memory(cache)
        delete_pattern = getattr(cache, "delete_pattern", None)  # django-redis has it
        if delete_pattern is None:
            raise NotImplementedError(
                f"{self._store!r}: the cache '{self.alias}' cannot list its keys. "
                "Give the store a cache of its own, and clear that."
            )
        with self._available():
            return cast(int, delete_pattern(f"{self.head}*"))  # quoted: there is no * in it

    def check(self) -> Iterator[CheckMessage]:
        """Yield what is wrong with the options, and W003 where values would be unsafe to read."""
        store, options = self._store, self._store.options
        prefix, ttl = options.get("PREFIX", ""), options.get("TTL")
        if not isinstance(prefix, str) or len(quote(prefix, safe="")) > LONGEST_PREFIX:
            yield store.wrong(
                f"PREFIX is {prefix!r:.100}.",
                f"It is a string of at most {LONGEST_PREFIX} characters.",
            )
        is_number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
        if ttl is not None and not (is_number and 0 < ttl < math.inf):
            yield store.wrong(
                f"TTL is {ttl!r}.", "It is a number of seconds above 0, or None for ever."
            )
        try:
            cache = caches[self.alias]
        except (ImproperlyConfigured, ImportError, TypeError) as error:
            known = ", ".join(sorted(django_settings.CACHES))
            yield store.wrong(
                f"the cache {self.alias!r} cannot be had: {error}", f"CACHES has {known}."
            )
            return
        yield from self._check_format(cache)

    def _check_format(self, cache: BaseCache) -> Iterator[CheckMessage]:
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(cache).__mro__}
        options = caches.settings[self.alias].get("OPTIONS", {})
        for kind in kinds & UNSAFE.keys():
            name = "SERIALIZER" if kind == DJANGO_REDIS else "serializer"
            if name in options and _is_safe(options[name], options):
                continue
            yield Warning(
                f"Store '{self._store.alias}': the cache '{self.alias}' turns values into Python's "
                "own format of objects, which runs code when it is read: whoever can write to that "
                "cache can run code here.",
                hint=UNSAFE[kind].format(cache=self.alias),
                id="botsessions.W003",
            )

    def _name(self, head: str, key: SessionKey) -> str:
        name = f"{head}{key}"
        if len(name) <= LONGEST and PLAIN.fullmatch(name):
            return name
        # A custom key strategy may let a lone surrogate through.
        text = str(key).encode(errors="surrogatepass")
        return f"{head}{HASHED}{blake2s(text).hexdigest()}"

    def _clear_memory(self, cache: Any) -> int:
        # Django offers no way to list the keys, and clearing the whole cache would take others'.
        head = cache.make_key(self.head)
        with cache._lock:
            names = [name for name in cache._cache if name.startswith(head)]
            for name in names:
                cache._delete(name)
        return len(names)

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise Unavailable(
                f"{self._store!r}: the cache '{self.alias}' is away: "
                f"{type(error).__name__}: {error}"
            ) from error


def _is_safe(serializer: Any, options: Mapping[str, Any]) -> bool:
    """Does a serializer of Redis write texts as something else than Python's objects?

    It is asked rather than recognised, so that a project's own counts as well.
    """
    try:
        found = import_string(serializer) if isinstance(serializer, str) else serializer
        if isinstance(found, type):
            found = _made(found, options)
        written = found.dumps("text")
    except Exception:
        return False
    # That format ends with a full stop, whatever its version; the text does not.
    return not (isinstance(written, bytes) and written.endswith(b"."))


def _made(serializer: type[Any], options: Mapping[str, Any]) -> Any:
    try:
        return serializer(options=options)  # as django-redis makes them
    except TypeError:
        return serializer()  # as Django's own cache does
