"""Sessions whose data is kept elsewhere than in their row, through the whole pipeline."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings

from botsessions import Expires, Router, Session
from botsessions.bots import bots
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.models import BotSession, BotUpdate
from botsessions.stores import Store
from botsessions.stores.envelope import opened, sealed
from tests.kit import handle, message, running, status

pytestmark = pytest.mark.django_db
KEY = SessionKey("demo", "ann", "ann")


class Held(Store):
    """Keeps values in a dict, and is away when told so."""

    def __init__(self, alias: str = "held", options: Any = ()) -> None:
        super().__init__(alias, dict(options))
        self.values: dict[SessionKey, bytes] = {}
        self.is_away = False
        self.loads = 0

    def load(self, keys: Any) -> list[bytes | None]:
        self.loads += 1
        if self.is_away:
            raise Unavailable("The store is away.")
        return [self.values.get(key) for key in keys]

    def save(self, values: Any) -> None:
        if self.is_away:
            raise Unavailable("The store is away.")
        self.values |= {key: data for key, data, _ in values}

    def delete(self, keys: Any) -> int:
        return len([self.values.pop(key) for key in keys if key in self.values])

    def clear_expired(self) -> int:
        return 0


def counting() -> Router:
    router = Router()

    @router.command("delete")
    async def delete(session: Session) -> None:
        session.delete()

    @router.message()
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    return router


@pytest.fixture(params=["locmem", "file", "redis", "cached"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of a store that is used by each bot as "default"."""
    caches: dict[str, dict[str, Any]] = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    }
    backend: dict[str, Any] = {"BACKEND": "botsessions.stores.CacheStore"}
    if request.param == "file":
        backend = {
            "BACKEND": "botsessions.stores.FileStore",
            "OPTIONS": {"DIRECTORY": str(tmp_path)},
        }
    elif request.param == "redis":
        caches["default"] = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": request.getfixturevalue("redis"),
            "OPTIONS": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
        }
        backend["OPTIONS"] = {"PREFIX": f"contents-{tmp_path.name}"}
    elif request.param == "cached":
        backend = {"BACKEND": "botsessions.stores.CachedDatabaseStore"}
    with override_settings(CACHES=caches):
        yield {"default": backend}
        if request.param == "redis":
            from django.core.cache import cache

            cache.delete_pattern("*contents-*")  # type: ignore[attr-defined]


async def test_every_store_counts_on_and_deletes(stores: dict[str, Any]) -> None:
    with running(counting(), STORES=stores):
        for _ in range(3):
            await handle(message())
        await handle(*(message(user="ben") for _ in range(5)))
        store = bots["demo"].store
        assert store is not None
        row = await BotSession.objects.aget(user="ann")
        assert row.version == 3
        assert row.data == ({"n": 3} if store.in_row else None)
        await handle(message("/delete"))
        assert not await BotSession.objects.filter(user="ann").aexists()
        load = sync_to_async(store.load)
        assert await load([KEY]) == [None]
        await handle(message())
        loaded = (await load([KEY]))[0]
        assert loaded is not None
        assert b'"n":1' in loaded.replace(b" ", b"")


async def test_a_batch_is_one_load() -> None:
    store = Held()
    with running(counting(), store=store):
        users = [f"user{number}" for number in range(10)]
        for _ in range(2):
            await handle(*(message(user=user) for user in users))
        assert len(store.values) == 10
        assert store.loads <= 3


async def test_a_store_that_is_away_is_waited_for() -> None:
    """P9: nothing is lost, and nothing begins anew on an empty session."""
    store, seen = Held(), []
    router = Router()

    @router.message()
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        seen.append(session.data["n"])

    with running(router, store=store, ATTEMPTS=1):
        await handle(message())
        store.is_away = True
        update = message()
        waiting = asyncio.ensure_future(handle(update))
        await asyncio.sleep(0.2)
        assert seen == [1]
        store.is_away = False
        await waiting
        assert (seen, await status(update)) == ([1, 2], "done")


async def test_what_was_stored_for_a_commit_that_never_was_does_not_count() -> None:
    """A crash between the store's write and the database's COMMIT doubles nothing."""
    store = Held()
    with running(counting(), store=store):
        await handle(message())
        store.values[KEY] = sealed(2, b'{"n":2}', b'{"n":1}')  # and then the power went
        await handle(message())
        assert opened(store.values[KEY], 2) == b'{"n":2}'
        assert (await BotSession.objects.aget()).version == 2


async def test_a_commit_that_loses_its_race_does_not_overwrite_the_winner() -> None:
    """P12: the row's version decides before the store is written."""
    store, runs = Held(), []
    router = Router()

    @router.message()
    async def count(session: Session) -> None:
        runs.append(session.data.get("n", 0))
        session.data["n"] = runs[-1] + 1
        if len(runs) == 2:
            store.values[KEY] = sealed(2, b'{"n":50}', b'{"n":1}')
            await BotSession.objects.aupdate(version=2)

    with running(router, store=store):
        await handle(message())
        await handle(message())
        assert runs == [0, 1, 50]
        assert opened(store.values[KEY], 3) == b'{"n":51}'


async def test_a_value_that_the_store_has_lost_is_an_empty_session() -> None:
    store = Held()
    with running(counting(), store=store):
        await handle(message())
        store.values.clear()
        await handle(message())
        assert opened(store.values[KEY], 2) == b'{"n":1}'
        assert not await BotUpdate.objects.exclude(status="done").aexists()


async def test_a_store_is_told_how_long_a_value_lives() -> None:
    """S43."""
    lives: list[float | None] = []

    class Noted(Held):
        def save(self, values: Any) -> None:
            lives.extend(life for _, _, life in values)
            super().save(values)

    router = Router()

    @router.message()
    async def count(session: Annotated[Session, Expires(60)]) -> None:
        session.data["n"] = 1

    with running(router, store=Noted()):
        await handle(message())
    assert lives[0] is not None
    assert 55 < lives[0] <= 60
