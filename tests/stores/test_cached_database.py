"""`CachedDatabaseStore`: the contract, and that no cache makes it wrong (S41, of two members)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from botsessions.keys import SessionKey
from botsessions.mailboxes.contract.cases import arrival, done, save
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession
from botsessions.stores import CachedDatabaseStore
from botsessions.stores.cache_space import CacheSpace
from botsessions.stores.contract import ANN, BEN, loaded, saved
from botsessions.testing import StoreContract

pytestmark = pytest.mark.usefixtures("transactional_db", "memory")


def made(**options: Any) -> CachedDatabaseStore:
    return CachedDatabaseStore("default", {"CACHE": "sessions"} | options)


@pytest.fixture
def store() -> CachedDatabaseStore:
    return made()


def cached(key: SessionKey) -> str | None:
    """Return what the cache holds, with the stamp before it."""
    return CacheSpace(made()).load([key]).get(key)


def load(store: CachedDatabaseStore, *keys: SessionKey) -> tuple[list[Any], bool]:
    """Return the values, and whether the data was read from the database."""
    with CaptureQueriesContext(connection) as queries:
        values = loaded(store, *keys)
    return values, any('"data"' in each["sql"].split("FROM")[0] for each in queries)


class TestContract(StoreContract):
    def store(self) -> CachedDatabaseStore:
        return made()


class TestContractWithoutACache(StoreContract):
    """Whatever the cache does, the contract holds."""

    @pytest.fixture(autouse=True)
    def _away(self, memory: None) -> Iterator[None]:
        with override_settings(CACHES={"sessions": {"BACKEND": f"{__name__}.Away"}}):
            yield

    def store(self) -> CachedDatabaseStore:
        return made()


class TestReading:
    def test_saved_value_comes_from_the_cache(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, 1)])
        assert load(store, ANN) == ([1], False)

    def test_what_the_cache_lacks_is_read_and_cached(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, 1), saved(BEN, 2)])
        store.forget([ANN])
        assert load(store, ANN, BEN) == ([1, 2], True)
        assert load(store, ANN, BEN) == ([1, 2], False)

    def test_deleted_value_leaves_the_cache(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, 1)])
        assert store.delete([ANN]) == 1
        assert cached(ANN) is None
        store.save([saved(ANN, 2)])
        assert store.clear() == 1
        assert cached(ANN) is None

    def test_expiry_is_the_rows(
        self, store: CachedDatabaseStore, set_clock: Callable[[timedelta], datetime]
    ) -> None:
        store.save([saved(ANN, 1, 10)])
        set_clock(timedelta(seconds=11))
        assert cached(ANN) is not None
        assert loaded(store, ANN) == [None]


class TestStale:
    """A cache that is older than the row never wins."""

    def test_row_that_the_mailbox_wrote_is_newer(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, "old")])
        mailbox, one = DatabaseMailbox(), arrival("1")
        mailbox.admit([one], "one")
        mailbox.commit([done(one, "one", save(ANN, "new", 1))])
        assert load(store, ANN) == (["new"], True)
        assert load(store, ANN) == (["new"], False)

    def test_slow_reader_that_caches_last_is_found_out(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, "old")])
        old = cached(ANN)
        assert old is not None
        store.save([saved(ANN, "new")])
        CacheSpace(store).save([(ANN, old, None)])
        assert load(store, ANN) == (["new"], True)

    def test_row_that_was_made_again_has_the_same_version(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, "old")])
        BotSession.objects.all().delete()
        assert loaded(store, ANN) == [None]
        now = datetime.now(UTC)
        BotSession.objects.create(
            bot="demo", chat="ann", user="ann", data="new", version=1, created_at=now,
            updated_at=now,
        )  # fmt: skip
        assert loaded(store, ANN) == ["new"]

    def test_data_that_was_deleted_by_others_is_gone(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, "old")])
        BotSession.objects.update(data=None)
        assert loaded(store, ANN) == [None]

    def test_what_was_rolled_back_is_not_cached(self, store: CachedDatabaseStore) -> None:
        store.save([saved(ANN, "old")])
        with transaction.atomic():
            store.save([saved(ANN, "rolled back")])
            assert loaded(store, ANN) == ["rolled back"]
            assert loaded(store, ANN) == ["rolled back"]
            transaction.set_rollback(True)
        assert loaded(store, ANN) == ["old"]
        store.save([saved(ANN, "new")])  # of the version that was rolled back
        assert loaded(store, ANN) == ["new"]

    @pytest.mark.parametrize("text", ["", " ", "1.1", "x y z", "1", '{"a": 1}', "😀"])
    def test_rubbish_in_the_cache_is_passed_over(
        self, store: CachedDatabaseStore, text: str
    ) -> None:
        store.save([saved(ANN, 1)])
        CacheSpace(store).save([(ANN, text, None)])
        assert loaded(store, ANN) == [1]


class Away(LocMemCache):
    """A cache that is away."""

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionResetError("by peer")

    set_many = delete_many = get_many


class TestCacheAway:
    @pytest.fixture(autouse=True, params=["broken", "missing"])
    def _away(self, request: pytest.FixtureRequest, memory: None) -> Iterator[None]:
        name = "sessions" if request.param == "broken" else "others"
        with override_settings(CACHES={name: {"BACKEND": f"{__name__}.Away"}}):
            yield

    def test_every_call_is_answered_and_logged_once(
        self, store: CachedDatabaseStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = [SessionKey("demo", f"{each}") for each in range(250)]
        calls: list[Callable[[], Any]] = [
            lambda: store.save([saved(key, 1) for key in keys]),
            lambda: loaded(store, *keys),
            lambda: store.delete(keys),
            lambda: store.forget([ANN]),
        ]
        expected = [None, [1] * 250, 250, None]
        for call, answer in zip(calls, expected, strict=True):
            caplog.clear()
            assert call() == answer
            (record,) = caplog.records
            assert record.levelno == logging.WARNING
            assert "sessions" in record.getMessage()


def test_cache_that_cannot_list_its_keys_is_left_to_grow_old(store: CachedDatabaseStore) -> None:
    with override_settings(CACHES={"sessions": {"BACKEND": "tests.stores.test_cache.Unlisted"}}):
        store.save([saved(ANN, 1)])
        assert store.clear() == 1
        assert loaded(store, ANN) == [None]
        store.save([saved(ANN, 2)])
        assert loaded(store, ANN) == [2]


def test_checks_are_those_of_the_cache() -> None:
    [error] = made(CACHE="elsewhere").check()
    assert error.id == "botsessions.E007"
    [error] = made(TLT=1).check()
    assert "TLT" in error.msg
