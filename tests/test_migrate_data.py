"""P15: `migrate_data` brings all that is stored to the versions of today's types."""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import caches
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from botsessions import Router, Scope, Session, SessionKey, Update, clock, migrates
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.mailboxes.contract.races import at_once
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.marks import Qualifier
from botsessions.models import BotSession, BotUpdate, MailboxLease
from botsessions.operations import migrate_data, migrating
from botsessions.operations.migrating import Counts, Migration
from botsessions.stores import Store
from botsessions.stores.envelope import Envelope
from botsessions.versions import MARK
from tests.kit import handle, message, running

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
T = TypeVar("T")


@dataclass
class Old:
    item: str = ""


@dataclass
class Cart:
    version: ClassVar[int] = 3
    items: list[str] = field(default_factory=list)
    notes: str = ""

    @migrates(from_=1)
    def one_to_many(old: Any) -> Any:
        return {"things": [old["item"]]}

    @migrates(from_=2)
    def renamed(old: Any) -> Any:
        return {"items": old["things"]}


@dataclass
class Room:
    version: ClassVar[int] = 2
    n: int = 0

    @migrates(from_=1)
    def doubled(old: Any) -> Any:
        return {"n": old["n"] * 2}


def router(declared: Any = Session[Cart]) -> Router:
    made = Router()

    @made.message()
    async def add(update: Update, session: declared) -> None:
        match session.data:
            case Cart():
                session.data.items.append(update.text)
            case Old():
                session.data.item = update.text

    return made


ONE, TWO = {"item": "tea"}, {"things": ["tea"], MARK: 2}
THREE = {"items": ["tea"], MARK: 3}


def store(data: Any, user: str = "ann", **fields: Any) -> BotSession:
    now = timezone.now() - HOUR
    made = {"bot": "demo", "chat": user, "user": user, "version": 1, "data": data}
    return BotSession.objects.create(**made | {"created_at": now, "updated_at": now} | fields)


def stored(user: str = "ann", **fields: Any) -> Any:
    return BotSession.objects.get(user=user, **fields).data


def counts(done: Migration, name: str = "Cart", bot: str = "demo") -> dict[str, int]:
    """Return what was found of a type, without what was not found."""
    found = msgspec.structs.asdict(done.counts[bot, name])
    assert not MailboxLease.objects.filter(token__startswith="another").exists()
    return {what: number for what, number in found.items() if number}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, and less often."""
    monkeypatch.setattr(migrating, "PAUSES", (0.05, 0.1))


# What it does


def test_everything_is_brought_to_the_newest_version() -> None:
    """P15: all versions, each once; the second time there is nothing left to do."""
    with running(router()):
        store(ONE, "ann")
        store(TWO, "ben")
        store(THREE, "cat")
        store({**THREE, MARK: 4}, "dan")
        store({"thing": "no item"}, "eve")
        store(None, "fay", is_open=True)
        store(ONE, "gus", bot="other")
        assert counts(migrate_data()) == {"current": 1, "migrated": 2, "newer": 1, "misfit": 1}
        rows = {row.user: (row.data, row.version) for row in BotSession.objects.all()}
        assert rows == {
            "ann": (THREE, 2),
            "ben": (THREE, 2),
            "cat": (THREE, 1),
            "dan": ({**THREE, MARK: 4}, 1),
            "eve": ({"thing": "no item"}, 1),
            "fay": (None, 1),
            "gus": (THREE, 2),
        }
        again = migrate_data()
        assert counts(again) == {"current": 3, "newer": 1, "misfit": 1}
        assert counts(again, bot="other") == {"current": 1}
        assert not MailboxLease.objects.exists()
        assert not BotUpdate.objects.exists()


def test_a_dry_run_writes_nothing_and_takes_no_mailbox() -> None:
    with running(router()):
        store(ONE, "ann")
        store(THREE, "ben")
        before = list(BotSession.objects.order_by("id").values())
        MailboxLease.objects.create(
            key="demo:ann:ann", token="busy", acquired_at=timezone.now(),
            expires_at=timezone.now() + HOUR,
        )  # fmt: skip
        with CaptureQueriesContext(connection) as queries:
            done = migrate_data(dry_run=True)
        assert counts(done) == {"current": 1, "migrated": 1}
        assert list(BotSession.objects.order_by("id").values()) == before
        assert not any("mailboxlease" in each["sql"] for each in queries)
        assert list(done.lines()) == [
            "demo: Cart, version 3: 1 current, 1 to migrate",
            "other: Cart, version 3: nothing stored",
        ]


def test_its_lines_say_what_was_found() -> None:
    done = Migration(
        counts={("demo", "Cart"): Counts(1200, 3, 1, 1, 2, 4), ("demo", "Room"): Counts()},
        versions={("demo", "Cart"): 3, ("demo", "Room"): 2},
    )
    assert list(done.lines()) == [
        "demo: Cart, version 3: 1,200 current, 3 migrated, 1 newer, 1 misfit, 2 busy, 4 unclear",
        "demo: Room, version 2: nothing stored",
    ]
    assert list(Migration().lines()) == [
        "No handler or flow declares a session type with a version."
    ]


def test_a_session_keeps_its_expiry_its_flow_and_whether_it_is_open() -> None:
    """A migration is no reason to live longer."""

    def waiting(type_: Any) -> Router:
        flows = Router()

        @flows.waiter(timeout=60)
        async def wait(session: Session[type_]) -> None: ...

        @flows.matcher
        def matcher(update: Update) -> bool:
            return True

        @flows.message()
        async def begin(session: Session[type_]) -> None:
            session.data.item = "tea"
            await session.open(matcher)
            await session.begin(wait)

        return flows

    with running(waiting(Old), expires=3600):
        async_to_sync(handle)(message())
    with running(waiting(Cart), expires=7200):
        before = dict(BotSession.objects.values().get())
        assert before["flow"] is not None
        assert before["due_at"] is not None
        assert before["expires_at"] is not None
        assert counts(migrate_data()) == {"migrated": 1}
        after = dict(BotSession.objects.values().get())
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"data", "version", "updated_at"}
    assert after["data"] == THREE


def test_what_has_expired_is_left_to_the_sweep() -> None:
    with running(router()):
        store(ONE, expires_at=clock.now() - HOUR)
        assert counts(migrate_data()) == {}
        assert stored() == ONE


@dataclass
class Numbered(Generic[T]):
    version: ClassVar[int] = 2
    n: T | None = None

    to_2 = migrates(from_=1)(lambda old: {"n": len(old["item"])})


def test_a_generic_type_is_migrated() -> None:
    with running(router(Session[Numbered[int]])):
        store(ONE)
        assert "demo: Numbered, version 2: 1 migrated" in migrate_data().lines()
        assert stored() == {"n": 3, MARK: 2}


def test_one_bot_alone() -> None:
    with running(router()):
        store(ONE)
        store(ONE, "ben", bot="other")
        assert counts(migrate_data(bot="other"), bot="other") == {"migrated": 1}
        assert stored() == ONE
        with pytest.raises(KeyError, match="nobody"):
            migrate_data(bot="nobody")


def test_data_that_would_be_too_large_is_left() -> None:
    """P16."""
    with running(router(), MAX_DATA_BYTES=len(msgspec.json.encode(THREE)) - 1):
        store(ONE)
        assert counts(migrate_data()) == {"misfit": 1}
        assert stored() == ONE


@dataclass
class Picky:
    version: ClassVar[int] = 2
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.names) > 1:
            raise KeyError("gone")

    @migrates(from_=1)
    def same(old: Any) -> Any:
        return old


def test_data_with_which_a_type_does_not_get_along_is_left() -> None:
    """P16: whatever the type's own code raises; the others are migrated."""
    with running(router(Session[Picky])):
        for user, names in (("ann", ["a"]), ("ben", ["a", "b"]), ("eve", ["c"])):
            store({"names": names}, user)
        assert counts(migrate_data(), "Picky") == {"migrated": 2, "misfit": 1}
        assert stored("ben") == {"names": ["a", "b"]}


def test_what_a_type_has_by_default_is_not_written() -> None:
    """The steps say what is stored; the type only whether that fits."""
    with running(router()):
        store(ONE)
        migrate_data()
        assert "notes" not in stored()


def test_thousands_are_read_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """P15, P18: as many at a time, whatever there is."""
    monkeypatch.setattr(migrating, "BATCH", 250)
    loaded: list[int] = []
    load = DatabaseMailbox.load

    def counting(self: DatabaseMailbox, keys: Any) -> Any:
        loaded.append(len(keys[0]))
        return load(self, keys)

    monkeypatch.setattr(DatabaseMailbox, "load", counting)
    now = timezone.now()
    BotSession.objects.bulk_create(
        BotSession(
            bot="demo", chat=f"u{number}", user=f"u{number}", data=THREE if number % 2 else ONE,
            version=1, created_at=now, updated_at=now,
        )
        for number in range(2100)
    )  # fmt: skip
    told = []
    with running(router()):
        done = migrate_data(progress=lambda so_far: told.append(counts(so_far)["migrated"]))
    assert counts(done) == {"current": 1050, "migrated": 1050}
    assert max(loaded) == 250
    assert told == [*range(125, 1001, 125), 1050]
    assert BotSession.objects.filter(**{f"data__{MARK}": 3}).count() == 2100
    assert not MailboxLease.objects.exists()


def test_a_bot_without_sessions_or_versions_has_nothing_to_migrate() -> None:
    with running(router(), store=None):
        assert migrate_data().counts == {}
    with running(router(Session[Old])), CaptureQueriesContext(connection) as queries:
        assert migrate_data().counts == {}
    assert not any("botsession" in each["sql"] for each in queries)


# Which session has which type


def test_sessions_have_the_type_that_is_declared_for_their_place() -> None:
    """Those of another qualifier or scope are none of its business."""
    made = router(Annotated[Session[Cart], Qualifier("order")])

    @made.command("room")
    async def room(room: Annotated[Session[Room], Scope("chat")], mine: Session) -> None: ...

    with running(made):
        store(ONE, qualifier="order")
        store(ONE, "ben")
        store(ONE, "", chat="team", qualifier="order")
        store({"n": 3}, "", chat="team")
        store({"n": 3}, "", chat="", bot="demo", thread="5")
        done = migrate_data()
        assert counts(done) == {"migrated": 1, "unclear": 1}
        assert counts(done, "Room") == {"migrated": 1}
        assert stored() == THREE
        assert stored("ben") == ONE
        assert stored("", qualifier="order") == ONE
        assert stored("", chat="team", qualifier="") == {"n": 6, MARK: 2}


@pytest.mark.parametrize("key", ["chat_user", "chat", "user", "auto", "thread"])
def test_every_scope_has_its_shape_of_key(key: str) -> None:
    updates = {
        "chat_user": message(chat="team"),
        "chat": message(chat="team"),
        "user": message(),
        "auto": message(),
        "thread": msgspec.structs.replace(message(chat="team"), thread="5"),
    }
    say = async_to_sync(handle)
    with running(router(Session[Old]), key=key):
        say(updates[key])
        assert BotSession.objects.get().data == {"item": "hello"}
    with running(router(Annotated[Session[Cart], Scope(key)])):
        assert counts(migrate_data()) == {"migrated": 1}
        assert BotSession.objects.get().data == {"items": ["hello"], MARK: 3}


def test_what_may_be_of_another_type_is_left_until_it_is_read() -> None:
    """Steps of one type would spoil the data of another. A mark says that it is the type's."""
    made = router()

    @made.command("room")
    async def room(
        room: Annotated[Session, Scope("chat")], both: Annotated[Session, Qualifier("both")]
    ) -> None: ...

    @made.command("both")
    async def both(one: Annotated[Session[Cart], Qualifier("both")]) -> None: ...

    @made.command("two")
    async def two(one: Annotated[Session[Cart], Qualifier("two")]) -> None: ...

    @made.command("other")
    async def other(one: Annotated[Session[Old], Qualifier("two")]) -> None: ...

    @made.command("rooms")
    async def rooms(one: Annotated[Session[Room], Qualifier("three")]) -> None: ...

    @made.command("carts")
    async def carts(one: Annotated[Session[Cart], Qualifier("three")]) -> None: ...

    with running(made):
        store({"n": 3}, "", chat="team")
        store(TWO, "ann", qualifier="three")
        store(ONE, "ann")
        store(ONE, "ann", qualifier="both")
        store(ONE, "ann", qualifier="two")
        store(TWO, "ben", qualifier="two")
        done = migrate_data()
        assert counts(done) == {"migrated": 3, "unclear": 1}
        assert counts(done, "Room") == {"unclear": 1}  # which was declared first
        assert stored("") == {"n": 3}
        assert stored(qualifier="two") == ONE
        assert stored(qualifier="three") == TWO
        assert stored("ben", qualifier="two") == THREE
    with running(router()):
        # A bare key may be of anything that was asked for by `bot.sessions.get`.
        assert counts(migrate_data())["unclear"] == 1
        assert stored("") == {"n": 3}


def test_the_session_of_a_flow_is_one_of_the_bots_own_key() -> None:
    """Unless its type is declared of a place, from which it was begun then."""
    flows = Router()

    @flows.waiter()
    async def wait(session: Session[Cart]) -> None: ...

    @flows.message()
    async def begin(session: Session) -> None: ...

    with running(flows):
        store(ONE)
        assert counts(migrate_data()) == {"migrated": 1}

    @flows.command("order")
    async def order(session: Annotated[Session[Cart], Qualifier("order")]) -> None: ...

    with running(flows):
        store(ONE, "ben")
        store(ONE, "ben", qualifier="order")
        assert counts(migrate_data()) == {"migrated": 1}
        assert stored("ben", qualifier="") == ONE


def own_key(update: Update) -> SessionKey | None:
    return SessionKey(update.bot, "shop", qualifier=update.text)


def test_a_bot_with_keys_of_its_own_has_them_in_any_shape() -> None:
    """What the strategy may have qualified itself is sure only with a mark."""
    with running(router(), key="tests.test_migrate_data.own_key"):
        store(ONE, "", chat="shop", thread="x")
        store(ONE, "", chat="shop", qualifier="unmarked")
        store(TWO, "", chat="shop", qualifier="marked")
        assert counts(migrate_data()) == {"migrated": 2, "unclear": 1}


# Every store


CACHE = {"BACKEND": "botsessions.stores.CacheStore"}
STORES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cached database": lambda _: {"default": {"BACKEND": "botsessions.stores.CachedDatabaseStore"}},
    "cache": lambda _: {"default": CACHE},
    "file": lambda path: {
        "default": {
            "BACKEND": "botsessions.stores.FileStore",
            "OPTIONS": {"DIRECTORY": str(path)},
        }
    },
    "fallback": lambda _: {
        "default": {
            "BACKEND": "botsessions.stores.FallbackStore",
            "OPTIONS": {"STORES": ["one", "two"]},
        },
        "one": {**CACHE, "OPTIONS": {"PREFIX": "one"}},
        "two": {**CACHE, "OPTIONS": {"PREFIX": "two"}},
    },
}


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    yield STORES[request.param](tmp_path)
    caches["default"].clear()


def test_data_is_migrated_in_every_store(stores: dict[str, Any]) -> None:
    say = async_to_sync(handle)
    with running(router(Session[Old]), STORES=stores, expires=3600):
        say(message("tea"), message("tea", user="ben"))
        before = list(BotSession.objects.order_by("id").values_list("expires_at", flat=True))
    with running(router(), STORES=stores):
        assert counts(migrate_data(dry_run=True)) == {"migrated": 2}
        assert counts(migrate_data()) == {"migrated": 2}
        assert counts(migrate_data()) == {"current": 2}
        store = bots["demo"].store
        assert isinstance(store, Store)
        [found] = store.load([SessionKey("demo", "ann", "ann")])
        assert found is not None
        value = found if store.in_row else msgspec.json.decode(found, type=Envelope).data
        assert msgspec.json.decode(value) == THREE
        assert before == list(
            BotSession.objects.order_by("id").values_list("expires_at", flat=True)
        )
        say(message("milk"))
        [found] = store.load([SessionKey("demo", "ann", "ann")])
        assert b"milk" in (found or b"")


# While bots run


def hold(user: str, until: datetime | None = None) -> None:
    """Hold a mailbox as another process does."""
    now = timezone.now()
    key = f"demo:{user}:{user}"
    MailboxLease.objects.create(
        key=key, token=f"held-{user}", acquired_at=now, expires_at=until or now + HOUR
    )


def test_a_session_that_is_worked_on_all_the_time_is_reported() -> None:
    with running(router()):
        store(ONE, "ann")
        store(ONE, "ben")
        hold("ann")
        assert counts(migrate_data()) == {"migrated": 1, "busy": 1}
        assert (stored("ann"), stored("ben")) == (ONE, THREE)
        assert list(MailboxLease.objects.values_list("token", flat=True)) == ["held-ann"]
        MailboxLease.objects.all().delete()
        assert counts(migrate_data()) == {"current": 1, "migrated": 1}


def test_a_session_that_is_free_again_is_migrated_after_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(router()):
        store(ONE, "ann")
        store(ONE, "ben")
        hold("ann")
        pauses = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            assert stored("ben") == THREE
            if len(pauses) == 2:
                MailboxLease.objects.all().delete()

        monkeypatch.setattr("botsessions.operations.migrating.time.sleep", pause)
        assert counts(migrate_data()) == {"migrated": 2}
        assert pauses == [0.05, 0.1]


def test_a_session_for_which_updates_wait_is_left_to_them() -> None:
    """They were there first."""
    from botsessions.mailboxes.base import Arrival

    with running(router()):
        store(ONE)
        update = message("milk")
        DatabaseMailbox().store([Arrival(update, "demo:ann:ann")])
        assert counts(migrate_data()) == {"busy": 1}
        assert stored() == ONE
        assert BotUpdate.objects.get().status == "pending"
        assert not MailboxLease.objects.exists()


def meanwhile(monkeypatch: pytest.MonkeyPatch, verb: str, act: Callable[[], object]) -> None:
    """Let something happen just before the first call of a verb of the mailbox with content."""
    do = getattr(DatabaseMailbox, verb)

    def interrupted(self: DatabaseMailbox, found: Any, *rest: Any) -> Any:
        if verb != "commit" or any(each.saves for each in found):
            monkeypatch.setattr(DatabaseMailbox, verb, do)
            act()
        return do(self, found, *rest)

    monkeypatch.setattr(DatabaseMailbox, verb, interrupted)


@pytest.mark.parametrize("verb", ["admit", "commit"])
def test_a_session_that_is_saved_meanwhile_is_looked_at_again(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a handler of another mailbox, which its lease keeps from nothing: the version does."""
    with running(router()):
        store(ONE, "ann")
        store(ONE, "ben")

        def save() -> None:
            BotSession.objects.filter(user="ann").update(data={"item": "oat"}, version=2)

        meanwhile(monkeypatch, verb, save)
        assert counts(migrate_data()) == {"migrated": 2}
        row = BotSession.objects.get(user="ann")
        assert (row.data, row.version) == ({"items": ["oat"], MARK: 3}, 3)


def test_a_session_that_is_gone_meanwhile_is_not_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(router()):
        store(ONE, "ann")
        meanwhile(monkeypatch, "admit", lambda: BotSession.objects.all().delete())
        assert counts(migrate_data()) == {}
        assert not BotSession.objects.exists()


def test_an_update_that_comes_while_its_session_is_migrated_is_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for the mailbox, and finds the new version."""
    from botsessions.mailboxes.base import Admission, Arrival

    with running(router()):
        store(ONE)
        arrival = Arrival(message("milk"), "demo:ann:ann")

        def arrive() -> None:
            assert DatabaseMailbox().admit([arrival], "one").decisions == [Admission.STORED]

        meanwhile(monkeypatch, "commit", arrive)
        assert counts(migrate_data()) == {"migrated": 1}
        assert stored() == {"items": ["tea", "milk"], MARK: 3}
        assert BotUpdate.objects.get().status == "done"
        assert not MailboxLease.objects.exists()


class Killed(BaseException):
    """What ends a process at once."""


@pytest.mark.parametrize(("verb", "at"), [("admit", 1), ("load", 3), ("commit", 2), ("commit", 3)])
def test_killed_at_any_moment_it_goes_on_when_called_again(
    verb: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "BATCH", 2)
    users = ("ann", "ben", "cat", "dan", "eve")
    with running(router()):
        for user in users:
            store(ONE, user)
        do, calls = getattr(DatabaseMailbox, verb), itertools.count()

        def dying(self: DatabaseMailbox, *arguments: Any) -> Any:
            if next(calls) == at:
                raise Killed
            return do(self, *arguments)

        monkeypatch.setattr(DatabaseMailbox, verb, dying)
        with pytest.raises(Killed):
            migrate_data()
        monkeypatch.setattr(DatabaseMailbox, verb, do)
        found = [stored(user) for user in users]
        left = found.count(ONE)
        assert 0 < left < 5
        assert found.count(THREE) == 5 - left
        MailboxLease.objects.all().delete()  # as those of a killed process are when they expire
        assert counts(migrate_data()) == {"current": 5 - left, "migrated": left}
        assert [stored(user) for user in users] == [THREE] * 5
        assert set(BotSession.objects.values_list("version", flat=True)) == {2}


@pytest.mark.django_db(transaction=True)
def test_handlers_and_migrations_at_once_lose_nothing() -> None:
    """P15: every session ends in the new version with what all handlers said."""
    users, rounds = [f"u{number}" for number in range(8)], 4

    def talk(part: int) -> Callable[[], None]:
        async def all_of_it() -> None:
            engine = current_engine()
            for number in range(rounds):
                for user in users:
                    await engine.submit(message(f"{part}.{number}", user=user))
            await engine.drain()

        return async_to_sync(all_of_it)

    with running(router()):
        for user in users:
            store(ONE, user)
        at_once(talk(1), migrate_data, talk(2), migrate_data)
        from botsessions.operations import recover

        recover()
        assert set(BotUpdate.objects.values_list("status", flat=True)) == {"done"}
        said = {f"{part}.{number}" for part in (1, 2) for number in range(rounds)}
        for user in users:
            data = stored(user)
            assert data[MARK] == 3
            assert sorted(data["items"]) == sorted([*said, "tea"])
        assert counts(migrate_data()) == {"current": len(users)}
        assert not MailboxLease.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_mailbox_that_a_thread_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "PAUSES", (0.5, 5.0))
    inside, waiting = threading.Event(), threading.Event()

    def work() -> None:
        try:
            with bots["demo"].sessions.get("ann", "ann", type=Cart) as session:
                inside.set()
                waiting.wait(10)
                session.data.items.append("milk")
        finally:
            connections.close_all()

    with running(router()):
        store(ONE, "ann")
        store(ONE, "ben")
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        timer = threading.Timer(0.2, waiting.set)
        timer.start()
        done = migrate_data()
        thread.join()
        assert counts(done) == {"current": 1, "migrated": 1}
        assert stored("ann") == {"items": ["tea", "milk"], MARK: 3}
        assert stored("ben") == THREE


@pytest.mark.django_db(transaction=True)
def test_a_handler_of_another_scope_runs_again_on_what_was_migrated() -> None:
    """Its session lies outside its mailbox: the version tells it."""
    made, runs = Router(), []

    @made.message()
    async def touch(
        update: Update, own: Session, me: Annotated[Session[Cart], Scope("user")]
    ) -> None:
        me.data.items.append(update.text)
        runs.append(me.version)
        if len(runs) == 1:
            await sync_to_async(at_once, thread_sensitive=False)(migrate_data)

    with running(made):
        store(ONE, chat="")
        async_to_sync(handle)(message("milk", chat="team"))
        assert runs == [1, 2]
        assert stored(chat="") == {"items": ["tea", "milk"], MARK: 3}
