"""`FallbackStore`: the contract, and which member answers (S41)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from botsessions import Router
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores import CacheStore, FallbackStore, FileStore, make_store
from botsessions.stores.contract import ANN, BEN, loaded, saved
from botsessions.testing import StoreContract
from tests.kit import configured

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"


class Away(FileStore):
    """Is away while `is_away`."""

    is_away = False

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        if self.is_away:
            raise Unavailable("The files are away.")
        return super().load(keys)

    def save(self, values: Any) -> None:
        if self.is_away:
            raise Unavailable("The files are away.")
        super().save(values)


@pytest.fixture(autouse=True)
def _chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    caches = {
        name: {"BACKEND": LOCMEM, "LOCATION": f"{tmp_path.name}-{name}"}
        for name in ("default", "second")
    }
    stores: dict[str, Any] = {}
    for name, cache in (("one", "default"), ("two", "second")):
        stores[f"memory {name}"] = {"BACKEND": CacheStore, "OPTIONS": {"CACHE": cache}}
        stores[f"files {name}"] = {
            "BACKEND": Away,
            "OPTIONS": {"DIRECTORY": str(tmp_path / name)},
        }
        stores[name] = {
            "BACKEND": FallbackStore,
            "OPTIONS": {"STORES": [f"memory {name}", f"files {name}"]},
        }
    stores["row"] = {"BACKEND": "botsessions.stores.DatabaseStore"}
    with override_settings(CACHES=caches, BOTSESSIONS=configured(Router(), STORES=stores)):
        yield


def chain(alias: str = "one") -> FallbackStore:
    from botsessions.conf import settings

    store = make_store(alias, settings.STORES[alias])
    assert isinstance(store, FallbackStore)
    return store


class TestContract(StoreContract):
    shortest_life = 1.0  # caches count whole seconds

    def store(self) -> FallbackStore:
        return chain()

    def other(self) -> FallbackStore:
        return chain("two")


def test_first_member_that_has_a_value_answers() -> None:
    store = chain()
    memory, files = store.members
    store.save([saved(ANN, 1), saved(BEN, 2)])
    assert loaded(memory, ANN, BEN) == loaded(files, ANN, BEN) == [1, 2]
    files.save([saved(ANN, "of the files")])
    memory.delete([BEN])
    assert loaded(store, ANN, BEN) == [1, 2]


def test_writes_and_deletions_reach_every_member() -> None:
    store = chain()
    store.save([saved(ANN, 1)])
    assert [loaded(each, ANN) for each in store.members] == [[1], [1]]
    assert store.delete([ANN, ANN, BEN]) == 1
    assert [loaded(each, ANN) for each in store.members] == [[None], [None]]


def test_member_that_is_away_is_passed_over_where_another_knows() -> None:
    store = chain()
    _, files = store.members
    store.save([saved(ANN, 1)])
    assert isinstance(files, Away)
    files.is_away = True
    assert loaded(store, ANN) == [1]
    with pytest.raises(Unavailable):
        store.load([ANN, BEN])
    with pytest.raises(Unavailable):
        store.save([saved(ANN, 2)])
    assert loaded(store, ANN) == [1]


@pytest.mark.parametrize("members", [None, [], "memory one", ["row"], ["missing"], ["x"], ["one"]])
def test_chain_of_what_is_none_is_refused(members: Any) -> None:
    store = FallbackStore("x", {"STORES": members})
    [message] = store.check()
    assert message.id == "botsessions.E007"
    with pytest.raises(ImproperlyConfigured, match="Store 'x'"):
        store.load([ANN])
