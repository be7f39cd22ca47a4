"""`DatabaseStore`: the contract, and what only a row can (S40)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Outcome
from botsessions.mailboxes.contract.cases import arrival, done, save, value
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession
from botsessions.stores import DatabaseStore, database
from botsessions.stores.contract import ANN, BEN, loaded, saved
from botsessions.testing import StoreContract

SECOND = timedelta(seconds=1)
SetClock = Callable[[timedelta], datetime]


@pytest.fixture
def store() -> DatabaseStore:
    return DatabaseStore("default", {})


@pytest.mark.usefixtures("transactional_db")
class TestContract(StoreContract):
    def store(self) -> DatabaseStore:
        return DatabaseStore("default", {})


@pytest.mark.django_db
class TestRow:
    def test_save_makes_a_closed_session_of_version_1(
        self, store: DatabaseStore, set_clock: SetClock
    ) -> None:
        now = set_clock(timedelta())
        key = SessionKey("demo", "c", "u", "t", "q")
        store.save([saved(key, {"n": 1}, 60)])
        row = BotSession.objects.get()
        assert SessionKey(row.bot, row.chat, row.user, row.thread, row.qualifier) == key
        assert (row.data, row.version, row.is_open) == ({"n": 1}, 1, False)
        assert row.expires_at == now + timedelta(seconds=60)
        assert row.created_at == row.updated_at == now

    def test_save_counts_the_version_up_and_leaves_the_rest(
        self, store: DatabaseStore, set_clock: SetClock
    ) -> None:
        long_ago = datetime(2001, 1, 1, tzinfo=UTC)
        store.save([saved(ANN, 1, 60)])
        BotSession.objects.update(
            version=41, is_open=True, created_at=long_ago, updated_at=long_ago
        )
        now = set_clock(SECOND)
        store.save([saved(ANN, 2)])
        row = BotSession.objects.get()
        assert (row.data, row.version, row.is_open) == (2, 42, True)
        assert (row.created_at, row.updated_at, row.expires_at) == (long_ago, now, None)

    def test_delete_leaves_the_header(self, store: DatabaseStore) -> None:
        store.save([saved(ANN, 1), saved(BEN, 2)])
        BotSession.objects.update(is_open=True)
        assert store.delete([ANN]) == 1
        row = BotSession.objects.get(chat="ann", data__isnull=True)
        assert (row.version, row.is_open) == (2, True)
        assert store.delete([ANN]) == 0
        assert BotSession.objects.get(chat="ann").version == 2
        store.save([saved(ANN, 3)])
        assert BotSession.objects.get(chat="ann").version == 3

    def test_row_without_data_is_none(self, store: DatabaseStore) -> None:
        now = datetime.now(UTC)
        BotSession.objects.create(
            bot="demo", chat="ann", user="ann", created_at=now, updated_at=now
        )
        assert store.load([ANN]) == [None]
        assert store.delete([ANN]) == 0

    def test_value_is_live_to_the_very_end(self, store: DatabaseStore, set_clock: SetClock) -> None:
        """S44: exactly equal age is live, older is expired."""
        store.save([saved(ANN, 1, 1)])
        set_clock(SECOND)
        assert loaded(store, ANN) == [1]
        assert store.clear_expired() == 0
        set_clock(SECOND + timedelta(microseconds=1))
        assert loaded(store, ANN) == [None]
        assert store.clear_expired() == 1
        assert BotSession.objects.filter(data__isnull=True, version=2).exists()
        assert store.clear_expired() == 0

    def test_expired_value_that_is_deleted_does_not_count(
        self, store: DatabaseStore, set_clock: SetClock
    ) -> None:
        store.save([saved(ANN, 1, 1), saved(BEN, 2)])
        set_clock(2 * SECOND)
        assert store.delete([ANN, BEN]) == 1
        assert BotSession.objects.filter(data__isnull=True).count() == 2

    def test_expired_are_cleared_in_batches(
        self, store: DatabaseStore, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "CLEARED_AT_ONCE", 10)
        store.save([saved(SessionKey("demo", f"{each}"), each, 1) for each in range(25)])
        set_clock(2 * SECOND)
        with CaptureQueriesContext(connection) as queries:
            assert store.clear_expired() == 25
        updates = [each for each in queries if each["sql"].startswith("UPDATE")]
        assert len(updates) == 3

    def test_queries_do_not_grow_with_the_batch(self, store: DatabaseStore) -> None:
        counts = []
        for number in (1, 100):
            keys = [SessionKey("demo", f"{number}-{each}") for each in range(number)]
            with CaptureQueriesContext(connection) as queries:
                store.save([saved(key, 1) for key in keys])
                store.load(keys)
                store.delete(keys)
            counts.append(len(queries))
        assert counts[1] < counts[0] + 5  # SQLite takes some rows at a time

    def test_nul_is_replaced_as_the_mailbox_does(self, store: DatabaseStore) -> None:
        store.save([saved(ANN, {"text": "a\0b\\u0000"})])
        assert loaded(store, ANN) == [{"text": "a\ufffdb\\u0000"}]

    def test_number_of_any_size_is_loaded(self, store: DatabaseStore) -> None:
        store.save([(ANN, b"18446744073709551616000", None)])
        assert store.load([ANN]) == [b"18446744073709551616000"]


@pytest.mark.django_db
def test_mailbox_and_store_share_the_row(store: DatabaseStore) -> None:
    mailbox = DatabaseMailbox()
    one, two, three = arrival("1"), arrival("2"), arrival("3")
    mailbox.admit([one], "one")
    mailbox.commit([done(one, "one", save(ANN, {"n": 1}))])
    assert loaded(store, ANN) == [{"n": 1}]
    mailbox.admit([two], "two")
    store.save([saved(ANN, {"n": 2})])
    (outcome,) = mailbox.commit([done(two, "two", save(ANN, {"n": 9}, 1))]).outcomes
    assert outcome is Outcome.CONFLICT
    (rows,) = mailbox.load([[ANN]])
    assert value(rows[0]) == {"n": 2}
    mailbox.commit([done(two, "two", save(ANN, {"n": 3}, 2))])
    assert loaded(store, ANN) == [{"n": 3}]
    assert mailbox.admit([three], "three")


@pytest.mark.usefixtures("transactional_db")
class TestErrors:
    def test_database_away_is_unavailable_and_nothing_is_none(
        self, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verbs: list[Callable[[], Any]] = [
            lambda: store.load([ANN]),
            lambda: store.save([saved(ANN, 1)]),
            lambda: store.delete([ANN]),
            store.clear_expired,
        ]
        connection.close()
        with monkeypatch.context() as patch:
            if connection.vendor == "sqlite":
                patch.setitem(connection.settings_dict, "NAME", "/nowhere/to/be/found.sqlite3")
            else:
                patch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
                patch.setitem(connection.settings_dict, "PORT", "1")
            for verb in verbs:
                with pytest.raises(Unavailable, match="away"):
                    verb()
        connection.close()
        for verb in verbs:
            verb()

    def test_error_in_a_transaction_is_left_to_who_began_it(
        self, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: object) -> None:
            raise OperationalError("deadlock detected")

        monkeypatch.setattr(store, "_lock", fail)
        with pytest.raises(OperationalError), transaction.atomic():
            store.save([saved(ANN, 1)])
        with pytest.raises(Unavailable):
            store.save([saved(ANN, 1)])
        assert not BotSession.objects.exists()

    def test_row_that_vanishes_before_it_is_locked_is_made_again(
        self, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.save([saved(ANN, 1)])
        real = store._lock
        deleted: list[object] = []

        def lock(*args: Any) -> Any:
            if not deleted:
                deleted.append(BotSession.objects.all().delete())
            return real(*args)

        monkeypatch.setattr(store, "_lock", lock)
        store.save([saved(ANN, 2), saved(BEN, 3)])
        assert loaded(store, ANN, BEN) == [2, 3]

    def test_rolled_back_save_is_gone(self, store: DatabaseStore) -> None:
        with transaction.atomic():
            store.save([saved(ANN, 1)])
            assert loaded(store, ANN) == [1]
            transaction.set_rollback(True)
        assert loaded(store, ANN) == [None]
