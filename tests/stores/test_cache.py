"""`CacheStore` in memory and on Redis: the contract, keys, and lifetimes (S37, S39, S90)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import BaseCache, memcache_key_warnings
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage
from django.test import override_settings

from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores import CacheStore
from botsessions.stores.cache_space import CacheSpace
from botsessions.stores.contract import ANN, BEN, PARTS, loaded, saved
from botsessions.testing import StoreContract

PYTHONS = "django_redis.serializers.pickle.PickleSerializer"
JSON = "django_redis.serializers.json.JSONSerializer"
BACKENDS = "django.core.cache.backends."


def made(**options: Any) -> CacheStore:
    return CacheStore("fast", {"CACHE": "sessions"} | options)


def name(key: SessionKey, **options: Any) -> str:
    return CacheSpace(made(**options)).name(key)


@pytest.mark.usefixtures("memory")
class TestInMemory(StoreContract):
    shortest_life = 1.0  # caches count whole seconds

    def store(self) -> CacheStore:
        # The contract saves up to some hundred keys that nothing may evict.
        caches["sessions"]._max_entries = 10_000
        return made()

    def other(self) -> CacheStore:
        return made(PREFIX="other")


@pytest.fixture
def redis_caches(redis: str) -> Iterator[None]:
    """A cache "sessions" in the Redis of the tests, under a prefix of our own."""
    sessions = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": redis,
        "KEY_PREFIX": "botsessions-tests-stores",
        "OPTIONS": {"SERIALIZER": JSON},
    }
    memory = {"BACKEND": f"{BACKENDS}locmem.LocMemCache"}
    with override_settings(CACHES={"default": memory, "sessions": sessions}):
        cache: Any = caches["sessions"]
        cache.delete_pattern("*")
        yield
        cache.delete_pattern("*")
        cache.close()


@pytest.mark.redis
@pytest.mark.usefixtures("redis_caches")
class TestOnRedis(StoreContract):
    shortest_life = 1.0

    def store(self) -> CacheStore:
        return made()

    def other(self) -> CacheStore:
        return made(PREFIX="other")

    def test_what_is_stored_is_readable_json(self) -> None:
        self.store().save([saved(ANN, {"items": ["tea"]}, 100)])
        cache: Any = caches["sessions"]
        raw = cache.client.get_client().get(cache.make_key("botsessions::demo:ann:ann"))
        assert raw == b'"{\\"items\\":[\\"tea\\"]}"'
        assert 98 <= cache.ttl("botsessions::demo:ann:ann") <= 100

    def test_value_without_seconds_has_no_ttl(self) -> None:
        self.store().save([saved(ANN, 1)])
        cache: Any = caches["sessions"]
        assert cache.ttl("botsessions::demo:ann:ann") is None

    def test_prefix_that_looks_like_a_pattern_clears_its_own_alone(self) -> None:
        for prefix in ("*", "[a-z]", "?", "", "a"):
            made(PREFIX=prefix).save([saved(ANN, prefix)])
        for prefix in ("*", "[a-z]", "?"):
            assert made(PREFIX=prefix).clear() == 1
        assert loaded(made(PREFIX=""), ANN) == [""]
        assert loaded(made(PREFIX="a"), ANN) == ["a"]


@pytest.mark.redis
@pytest.mark.usefixtures("redis_caches")
def test_batch_is_one_request(redis: str) -> None:
    store, cache = made(), caches["sessions"]
    client: Any = cache.client.get_client()  # type: ignore[attr-defined]
    keys = [SessionKey("demo", f"{each}") for each in range(100)]

    def calls() -> dict[str, int]:
        return {command: stats["calls"] for command, stats in client.info("commandstats").items()}

    store.save([saved(key, 1) for key in keys])
    before = calls()
    store.load(keys)
    after = calls()
    assert after["cmdstat_mget"] - before.get("cmdstat_mget", 0) == 1
    assert after.get("cmdstat_get") == before.get("cmdstat_get")


@pytest.mark.usefixtures("memory")
class TestMemory:
    def test_least_recently_used_goes_when_it_is_full(self) -> None:
        """S37: 500 entries, as the documentation sets it up."""
        store = made()
        keys = [SessionKey("demo", f"{number}") for number in range(501)]
        store.save([saved(key, 1) for key in keys[:500]])
        assert loaded(store, keys[0]) == [1]
        store.save([saved(keys[500], 1)])
        assert loaded(store, keys[0], keys[1], keys[2], keys[500]) == [1, None, 1, 1]

    def test_clear_leaves_what_is_not_sessions(self) -> None:
        """S90: what the store holds is gone, and the cache's other values are not."""
        caches["sessions"].set("page", "html")
        store = made()
        store.save([saved(ANN, 1)])
        assert store.clear() == 1
        assert caches["sessions"].get("page") == "html"
        assert loaded(store, ANN) == [None]

    def test_ttl_is_for_values_without_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, object] = {}
        real = LocMemCache.set

        def remember(self: LocMemCache, key: str, value: Any, timeout: Any, version: Any) -> None:
            asked[key.split(":")[-1]] = timeout
            real(self, key, value, timeout, version)

        monkeypatch.setattr(LocMemCache, "set", remember)
        values = [saved(ANN, 1), saved(BEN, 2, 0.2), saved(SessionKey("demo", "long"), 3, 100.5)]
        made(TTL=60).save(values)
        assert asked == {"ann": 60, "ben": 1, "long": 101}
        made().save(values)
        assert asked == {"ann": None, "ben": 1, "long": 101}

    def test_foreign_value_is_none(self) -> None:
        caches["sessions"].set(name(ANN), {"not": "text"})
        assert made().load([ANN]) == [None]

    def test_cache_is_looked_up_when_it_is_used(self) -> None:
        store = made(CACHE="elsewhere")
        with pytest.raises(InvalidCacheBackendError, match="elsewhere"):
            store.load([ANN])


class TestKeys:
    def test_plain_key_is_readable(self) -> None:
        assert name(ANN) == "botsessions::demo:ann:ann"
        assert name(ANN, PREFIX="shop") == "botsessions:shop:demo:ann:ann"

    def test_every_key_is_one_that_memcached_takes(self) -> None:
        for part in PARTS:
            for key in (SessionKey("demo", part), SessionKey("demo", part * 2, part, "", part)):
                text = name(key, PREFIX="é" * 10)
                assert list(memcache_key_warnings(f":1:{text}")) == []
                assert text.isascii()
                assert len(text) <= 200

    def test_key_that_is_no_unicode_has_a_name_all_the_same(self) -> None:
        assert name(SessionKey("demo", "\ud800")) != name(SessionKey("demo", "\ud801"))

    def test_prefix_cannot_pass_for_a_key(self) -> None:
        assert name(SessionKey("b"), PREFIX="a") != name(SessionKey("a", "b"))
        assert name(SessionKey("b", "c"), PREFIX="a") != name(SessionKey("c"), PREFIX="a:b")
        hashed = name(SessionKey("demo", " "))
        tail = hashed.rpartition(":")[2]
        assert name(SessionKey(tail)) != hashed

    def test_long_key_is_hashed(self) -> None:
        key = SessionKey("demo", "x" * 160, "y" * 60)
        assert re.fullmatch(r"botsessions::%~[0-9a-f]{64}", name(key))


class Broken(LocMemCache):
    """A cache that is away."""

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionResetError("by peer")

    set_many = delete_many = get_many


class Unlisted(BaseCache):
    """A cache that does what Django asks of one, and no more."""

    values: ClassVar[dict[str, Any]] = {}

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, timeout: Any = None, version: int | None = None) -> None:
        self.values[key] = value

    def delete(self, key: str, version: int | None = None) -> bool:
        return self.values.pop(key, None) is not None


class Refusing(LocMemCache):
    """A cache that takes no value, and says so as memcached does."""

    def set_many(self, data: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return list(data)


def test_cache_that_is_away_is_unavailable_and_not_empty() -> None:
    with override_settings(CACHES={"sessions": {"BACKEND": f"{__name__}.Broken"}}):
        for verb in (
            lambda: made().load([ANN]),
            lambda: made().save([saved(ANN, 1)]),
            lambda: made().delete([ANN]),
        ):
            with pytest.raises(Unavailable, match="by peer"):
                verb()


def test_cache_that_cannot_list_its_keys_says_so() -> None:
    with override_settings(CACHES={"sessions": {"BACKEND": f"{__name__}.Unlisted"}}):
        made().save([saved(ANN, 1), saved(BEN, 2)])
        with pytest.raises(NotImplementedError, match="cache of its own"):
            made().clear()
        assert loaded(made(), ANN) == [1]
        assert made().delete([ANN, BEN]) == 2


def test_refused_value_is_unavailable() -> None:
    with (
        override_settings(CACHES={"sessions": {"BACKEND": f"{__name__}.Refusing"}}),
        pytest.raises(Unavailable, match="refused 2 of 2"),
    ):
        made().save([saved(ANN, 1), saved(BEN, 1)])


# Checks


class JsonSerializer:
    """A serializer of a project's own."""

    def dumps(self, value: Any) -> bytes:
        return f'"{value}"'.encode()


def check(cache: dict[str, Any], **options: Any) -> list[CheckMessage]:
    default = {"BACKEND": f"{BACKENDS}filebased.FileBasedCache", "LOCATION": "/nowhere"}
    with override_settings(CACHES={"default": default, "sessions": cache}):
        return list(made(**options).check())


REDIS = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
DJANGOS_REDIS = REDIS | {"BACKEND": f"{BACKENDS}redis.RedisCache"}


@pytest.mark.parametrize(
    ("cache", "hint"),
    [
        (REDIS, "JSONSerializer"),
        (REDIS | {"OPTIONS": {"SERIALIZER": PYTHONS}}, "JSONSerializer"),
        (REDIS | {"OPTIONS": {"SERIALIZER": PYTHONS, "PICKLE_VERSION": 0}}, "JSONSerializer"),
        (REDIS | {"OPTIONS": {"SERIALIZER": "no.such.Serializer"}}, "JSONSerializer"),
        (DJANGOS_REDIS, "django_redis"),
        ({"BACKEND": f"{BACKENDS}filebased.FileBasedCache", "LOCATION": "/nowhere"}, "FileStore"),
        ({"BACKEND": f"{BACKENDS}db.DatabaseCache", "LOCATION": "table"}, "DatabaseStore"),
    ],
)  # fmt: skip
def test_cache_that_runs_code_when_it_is_read_is_told(cache: dict[str, Any], hint: str) -> None:
    [warning] = check(cache)
    assert warning.id == "botsessions.W003"
    assert "fast" in warning.msg
    assert "sessions" in warning.msg
    assert hint in (warning.hint or "")


@pytest.mark.parametrize(
    "cache",
    [
        {"BACKEND": f"{BACKENDS}locmem.LocMemCache"},
        {"BACKEND": f"{BACKENDS}dummy.DummyCache"},
        REDIS | {"OPTIONS": {"SERIALIZER": JSON}},
        REDIS | {"OPTIONS": {"SERIALIZER": f"{__name__}.JsonSerializer"}},
        DJANGOS_REDIS | {"OPTIONS": {"serializer": f"{__name__}.JsonSerializer"}},
        DJANGOS_REDIS | {"OPTIONS": {"serializer": JsonSerializer()}},
    ],
)
def test_cache_that_is_safe_to_read_is_not_told(cache: dict[str, Any]) -> None:
    assert check(cache) == []


def test_redis_that_hides_its_errors_is_told() -> None:
    options = {"SERIALIZER": JSON, "IGNORE_EXCEPTIONS": True}
    [error] = check(REDIS | {"OPTIONS": options})
    assert error.id == "botsessions.E007"
    assert "begin anew" in error.msg
    with override_settings(DJANGO_REDIS_IGNORE_EXCEPTIONS=True):
        [error] = check(REDIS | {"OPTIONS": {"SERIALIZER": JSON}})
        assert error.id == "botsessions.E007"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"CACHE": "elsewhere"}, "elsewhere"),
        ({"CACHE": None}, "None"),
        ({"CACHE": 7}, "7"),
        ({"PREFIX": 7}, "PREFIX"),
        ({"PREFIX": "x" * 81}, "PREFIX"),
        ({"TTL": 0}, "TTL"),
        ({"TTL": "60"}, "TTL"),
        ({"TTL": True}, "TTL"),
        ({"TTL": float("nan")}, "TTL"),
        ({"TTL": float("inf")}, "TTL"),
        ({"PREFXI": "a"}, "PREFXI"),
    ],
)
def test_wrong_option_is_told(options: dict[str, Any], words: str) -> None:
    [error] = check({"BACKEND": f"{BACKENDS}locmem.LocMemCache"}, **options)
    assert error.id == "botsessions.E007"
    assert words in error.msg
    assert "fast" in error.msg
    assert error.hint


def test_cache_whose_library_is_missing_is_told() -> None:
    [error] = check({"BACKEND": f"{BACKENDS}memcached.PyMemcacheCache", "LOCATION": "h:1"})
    assert error.id == "botsessions.E007"
    assert "pymemcache" in error.msg
