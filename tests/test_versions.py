"""P15: typed data over time. Steps in order, newer data refused, every kind of type and store."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from botsessions import (
    Bot,
    Initial,
    OnMisfit,
    Qualifier,
    Router,
    Session,
    Talk,
    Update,
    clock,
    migrates,
    operations,
)
from botsessions.bots import bots
from botsessions.data import decoder, encode, reader
from botsessions.engine import current_engine
from botsessions.exceptions import InvalidSessionData, NewerData
from botsessions.marks import SessionSpec
from botsessions.models import BotSession, BotUpdate
from botsessions.stores.envelope import Envelope
from botsessions.testing import SessionState
from botsessions.versions import MARK, TooNew, as_stored, split, stored_version, versions_of
from tests.kit import Moment, configured, data, handle, message, running, status, texts
from tests.test_docs import blocks, run

T = TypeVar("T")

ONE, TWO = {"item": "tea"}, {"items": ["tea"], MARK: 2}
THREE = {"counts": {"tea": 1}, MARK: 3}


def many(old: dict[str, Any]) -> dict[str, Any]:
    """From one item to several: version 2."""
    return {"items": [old["item"]]}


def counted(old: dict[str, Any]) -> dict[str, Any]:
    """From several items to how many of each: version 3."""
    return {"counts": {each: old["items"].count(each) for each in old["items"]}}


def failing(old: dict[str, Any]) -> dict[str, Any]:
    raise LookupError("on purpose")


# The same type, at each of its times


@dataclass
class First:
    item: str = ""


@dataclass
class Second:
    version: ClassVar[int] = 2
    items: list[str] = field(default_factory=list)

    to_2 = migrates(from_=1)(many)


@dataclass
class Third:
    version: ClassVar[int] = 3
    counts: dict[str, int] = field(default_factory=dict)

    # They are found by what they say, not by where they stand.
    @migrates(from_=2)
    def count_them(old: Any) -> Any:
        return counted(old)

    @staticmethod
    @migrates(from_=1)
    def several(old: dict[str, Any]) -> dict[str, Any]:
        return many(old)


# The third, of every kind of type


class Structured(msgspec.Struct):
    version: ClassVar[int] = 3
    counts: dict[str, int] = {}

    to_2 = migrates(from_=1)(many)
    to_3 = migrates(from_=2)(counted)


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    version: ClassVar[int] = 3
    counts: dict[str, int] = {}

    @migrates(from_=1)
    @staticmethod
    def to_2(old: dict[str, Any]) -> dict[str, Any]:
        return many(old)

    to_3 = migrates(from_=2)(counted)


class Tagged(msgspec.Struct, tag=True, omit_defaults=True):
    version: ClassVar[int] = 3
    counts: dict[str, int] = {}

    to_2 = migrates(from_=1)(many)

    @migrates(from_=2)
    def to_3(old: Any) -> Any:
        return {"type": "Tagged", **counted(old)}


@dataclass(slots=True, kw_only=True)
class Slotted:
    version = 3
    counts: dict[str, int] = field(default_factory=dict)

    to_2 = migrates(from_=1)(many)
    to_3 = migrates(from_=2)(counted)


@dataclass
class Inheriting(Second):
    """A version further than what it inherits from, with its step alone."""

    version: ClassVar[int] = 3
    counts: dict[str, int] = field(default_factory=dict)

    to_3 = migrates(from_=2)(counted)


class Base(msgspec.Struct):
    version: ClassVar[int] = 3
    to_2: ClassVar[Any] = migrates(from_=1)(failing)
    to_3 = migrates(from_=2)(counted)


class Overriding(Base):
    """Another step in the place of an inherited one of the same name."""

    counts: dict[str, int] = {}
    to_2 = migrates(from_=1)(many)


@dataclass
class Generically(Generic[T]):
    version: ClassVar[int] = 3
    counts: dict[str, T] = field(default_factory=dict)

    to_2 = migrates(from_=1)(many)
    to_3 = migrates(from_=2)(counted)


def modelled(**config: Any) -> Any:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        model_config = config
        version: ClassVar[int] = 3
        counts: dict[str, int] = {}

        @migrates(from_=1)
        def to_2(old: Any) -> Any:
            return many(old)

        to_3 = migrates(from_=2)(counted)

    class Further(Model):
        pass

    return Further


KINDS: dict[str, Callable[[], Any]] = {
    each.__name__: lambda each=each: each
    for each in (Third, Structured, Strict, Tagged, Slotted, Inheriting, Overriding)
} | {
    "generic": lambda: Generically[int],
    "model": modelled,
    "strict model": lambda: modelled(extra="forbid"),
    "wide model": lambda: modelled(extra="allow"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    """Version 3 as a type of every kind."""
    return KINDS[request.param]()


def adding(type_: Any, name: str = "milk", **marks: Any) -> Router:
    """A bot whose handler counts one more of something."""
    router = Router()
    declared: Any = Annotated[Session[type_], *marks.values()] if marks else Session[type_]

    @router.command("read")
    async def read(session: declared) -> None:
        assert session.data

    @router.message()
    async def add(session: declared) -> None:
        match session.data:
            case First():
                session.data.item = name
            case Second() if not isinstance(session.data, Inheriting):
                session.data.items.append(name)
            case _:
                session.data.counts[name] = session.data.counts.get(name, 0) + 1

    return router


async def store(value: Any, **fields: Any) -> None:
    """Store a value as the data of ann's session."""
    now = clock.now()
    await BotSession.objects.acreate(
        bot="demo", chat="ann", user="ann", data=value, version=1, created_at=now, updated_at=now,
        **fields,
    )  # fmt: skip


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    stopped = Moment()
    monkeypatch.setattr(clock, "now", stopped)
    return stopped


# Steps


@pytest.mark.django_db
@pytest.mark.parametrize("stored", [ONE, TWO, THREE], ids=["1", "2", "3"])
async def test_older_data_goes_through_all_steps_in_order(kind: Any, stored: Any) -> None:
    """P15: v1 to v3, read as the type and stored with its mark."""
    with running(adding(kind)):
        await store(stored)
        await handle(message())
        found = await data()
        assert found.pop("counts") == {"tea": 1, "milk": 1}
        assert found.pop(MARK) == 3
        # What only a type of that kind keeps.
        assert found in ({}, {"type": "Tagged"}, {"items": []})
        assert (await BotSession.objects.aget()).quarantined is None


@pytest.mark.django_db
async def test_new_data_is_of_the_types_version(kind: Any) -> None:
    with running(adding(kind)):
        await handle(message())
        await handle(message())
        found = await data()
        assert (found["counts"], found[MARK]) == ({"milk": 2}, 3)


@pytest.mark.django_db
async def test_data_that_is_only_read_is_not_written() -> None:
    """Changes are found by comparing after the steps."""
    with running(adding(Third)):
        await store(ONE)
        await handle(message("/read"))
        row = await BotSession.objects.aget()
        assert (row.data, row.version) == (ONE, 1)


@pytest.mark.django_db
async def test_whatever_is_saved_of_it_is_of_the_new_version() -> None:
    router = Router()

    @router.command("read")
    async def read_and_prolong(session: Session[Third]) -> None:
        assert session.data.counts == {"tea": 1}
        session.expire_in(60)

    @router.message()
    async def prolong(session: Session[Third]) -> None:
        session.expire_in(60)

    with running(router):
        await store(ONE)
        await handle(message())
        assert await data() == ONE
        await handle(message("/read"))
        assert await data() == THREE


@pytest.mark.django_db
async def test_types_without_a_version_are_stored_as_before() -> None:
    with running(adding(First)):
        await handle(message())
        assert await data() == {"item": "milk"}
    for type_ in (First, dict, dict[str, Any], Any):
        encoded = b'{"item": "tea",  "price": "$2"}'
        assert as_stored(type_, encoded) is encoded


@pytest.mark.django_db
async def test_every_verb_of_a_session_knows_its_version() -> None:
    router, seen = Router(), []

    @router.command("update")
    async def update(session: Session[Third]) -> None:
        session.update(counts={**session.data.counts, "milk": 2})
        seen.append(session.dump()["data"])

    @router.command("assign")
    async def assign(session: Session[Third]) -> None:
        session.data = Third({"oat": 1})

    @router.command("reset")
    async def reset(session: Session[Third]) -> None:
        session.reset()

    @router.command("delete")
    async def delete(session: Session[Third]) -> None:
        session.delete()
        seen.append(session.data)

    with running(router):
        await store(ONE)
        await handle(message("/update"))
        assert await data() == {"counts": {"tea": 1, "milk": 2}, MARK: 3}
        await handle(message("/assign"))
        assert await data() == {"counts": {"oat": 1}, MARK: 3}
        await handle(message("/reset"))
        assert await data() == {"counts": {}, MARK: 3}
        await handle(message("/delete"))
        assert not await BotSession.objects.aexists()
    assert seen == [{"counts": {"tea": 1, "milk": 2}}, Third()]


@dataclass
class Seconds:
    """Of version 1 it had minutes."""

    version: ClassVar[int] = 2
    n: int = 0

    @migrates(from_=1)
    def to_seconds(old: Any) -> Any:
        return {"n": old["n"] * 60}


@pytest.mark.django_db
async def test_a_new_value_that_looks_like_the_old_data_is_saved() -> None:
    """It is of another version, so it means something else."""
    router = Router()

    @router.message()
    async def assign(session: Session[Seconds]) -> None:
        session.data = Seconds(1)

    with running(router):
        await store({"n": 1})
        await handle(message())
        await handle(message())
        row = await BotSession.objects.aget()
        assert row.data == {"n": 1, MARK: 2}


@pytest.mark.django_db
async def test_an_asynchronous_beginning_is_of_the_new_version() -> None:
    async def begin(update: Update) -> Third:
        return Third({"gift": 1})

    with running(adding(Third, initial=Initial(begin))):
        await handle(message())
        assert await data() == {"counts": {"gift": 1, "milk": 1}, MARK: 3}
        await BotSession.objects.aupdate(data=ONE)
        await handle(message())
        assert await data() == {"counts": {"tea": 1, "milk": 1}, MARK: 3}


@pytest.mark.django_db
async def test_the_mark_counts_as_data() -> None:
    """P16: the limit is for what is stored."""
    size = len(as_stored(Third, encode(Third({"milk": 1}))))
    with running(adding(Third), MAX_DATA_BYTES=size):
        await handle(message())
        assert await data() == {"counts": {"milk": 1}, MARK: 3}
    with running(adding(Third), MAX_DATA_BYTES=size - 1):
        await handle(message(user="ben"))
        assert f"{size} bytes" in (await BotUpdate.objects.aget(status="parked")).error


# Steps that fail


def wrong(step: Callable[[Any], Any]) -> Any:
    @dataclass
    class Wrong:
        version: ClassVar[int] = 3
        counts: dict[str, int] = field(default_factory=dict)

        to_2 = migrates(from_=1)(many)
        to_3 = migrates(from_=2)(step)

    return Wrong


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "raises": (failing, "its step from version 2 failed: LookupError"),
    "returns nothing": (lambda old: None, "version 2 returned NoneType"),
    "does not fit": (lambda old: {"counts": old["items"]}, "Expected `object`"),
    "is no JSON": (lambda old: {"counts": {"tea": object()}}, "is not JSON"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("case", WRONG)
async def test_a_step_that_fails_is_a_misfit(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """The original is put aside, with its mark, and the session begins anew."""
    step, problem = WRONG[case]
    with running(adding(wrong(step))), caplog.at_level(logging.ERROR, "botsessions.session"):
        await store(TWO)
        await handle(message())
        row = await BotSession.objects.aget()
        assert row.quarantined == TWO
        assert row.data == {"counts": {"milk": 1}, MARK: 3}
    assert problem in caplog.text


@pytest.mark.django_db
async def test_a_step_that_fails_can_fail_the_update() -> None:
    with running(adding(wrong(failing)), on_misfit="raise"):
        await store(ONE)
        await handle(message())
        error = (await BotUpdate.objects.aget(status="parked")).error
        assert "its step from version 2 failed: LookupError('on purpose')" in error
        row = await BotSession.objects.aget()
        assert (row.data, row.quarantined) == (ONE, None)


@pytest.mark.django_db
async def test_a_policy_of_ones_own_takes_what_is_stored_and_returns_the_newest() -> None:
    given_to = []

    def repair(stored: dict[str, Any]) -> dict[str, Any]:
        given_to.append(dict(stored))
        return {**stored, "counts": {"repaired": 1}}  # with the old mark, which counts no more

    router = adding(wrong(failing), misfit=OnMisfit(repair))
    with running(router):
        await store(TWO)
        await handle(message())
        assert await data() == {"counts": {"repaired": 1, "milk": 1}, MARK: 3}
    assert given_to == [TWO]


# Newer than the code


def acting(type_: Any) -> Router:
    """A bot that does each thing to its session that writes."""
    router = Router()

    @router.command("read")
    async def read(session: Session[type_]) -> None:
        assert session.data

    @router.command("assign")
    async def assign(session: Session[type_]) -> None:
        session.data = type_()

    @router.command("update")
    async def update(session: Session[type_]) -> None:
        session.update(item="milk")

    @router.command("reset")
    async def reset(session: Session[type_]) -> None:
        session.reset()

    @router.command("swallow")
    async def swallow(session: Session[type_], bot: Bot) -> None:
        with pytest.raises(NewerData):
            _ = session.data
        session.expire_in(3600)
        await session.send("I cannot read this.")

    @router.command("delete")
    async def delete(session: Session[type_]) -> None:
        session.delete()

    return router


class Typed(TypedDict, total=False):
    item: str


OLDER: dict[str, Any] = {
    "type": First,
    "versioned type": Second,
    "typed dict": Typed,
    "dict": dict,
    "dict of": dict[str, Any],
}


@pytest.mark.django_db
@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("command", ["read", "assign", "update", "reset"])
async def test_newer_data_is_refused_and_not_written_over(older: str, command: str) -> None:
    """P15, whatever the policy for what does not fit."""
    with running(acting(OLDER[older]), on_misfit="reset", ATTEMPTS=1):
        await store(THREE)
        await handle(message(f"/{command}"))
        row = await BotSession.objects.aget()
        assert (row.data, row.version, row.quarantined) == (THREE, 1, None)
        error = (await BotUpdate.objects.aget(status="parked")).error
    assert "NewerData" in error
    assert "demo:ann:ann is of version 3" in error
    assert f"knows version {2 if older == 'versioned type' else 1}" in error


@pytest.mark.django_db
@pytest.mark.parametrize("older", [First, Second, dict])
async def test_newer_data_can_be_deleted_and_kept_for_longer(older: Any) -> None:
    """What does not need to know it does not fail."""
    with running(acting(older), ATTEMPTS=1):
        await store(THREE)
        await handle(message("/swallow"))
        row = await BotSession.objects.aget()
        assert (row.data, row.version, row.is_open) == (THREE, 2, True)
        assert row.expires_at is not None
        assert texts() == ["I cannot read this."]
        await BotSession.objects.aupdate(is_open=False)
        await handle(message("/delete"))
        assert not await BotSession.objects.aexists()


@pytest.mark.django_db
async def test_an_asynchronous_beginning_does_not_take_the_place_of_newer_data() -> None:
    async def begin(update: Update) -> Second:
        return Second(["gift"])

    with running(adding(Second, initial=Initial(begin)), ATTEMPTS=1):
        await store(THREE)
        await handle(message())
        assert await data() == THREE
        assert "NewerData" in (await BotUpdate.objects.aget(status="parked")).error


@pytest.mark.django_db(transaction=True)
def test_while_a_deploy_rolls_updates_that_older_code_refuses_are_handled_by_newer(
    moment: Moment,
) -> None:
    """P15: two versions of a type work on one session, as two releases of a router do."""
    older, newer = configured(adding(Second)), configured(adding(Third))

    async def come(update: Update) -> None:
        await current_engine().submit(update)
        await current_engine().drain()

    def say(settings: dict[str, Any]) -> Update:
        update = message()
        with override_settings(BOTSESSIONS=settings):
            async_to_sync(come)(update)
        return update

    say(older)
    assert BotSession.objects.get().data == {"items": ["milk"], MARK: 2}
    say(newer)
    assert BotSession.objects.get().data == {"counts": {"milk": 2}, MARK: 3}
    refused = say(older)
    row = BotUpdate.objects.get(update_id=refused.id)
    assert (row.status, row.attempts) == ("pending", 1)
    assert row.due_at == moment.now + timedelta(seconds=NewerData.retry_after)
    assert BotSession.objects.get().data == {"counts": {"milk": 2}, MARK: 3}
    later = say(newer)  # behind the one that waits
    assert BotUpdate.objects.get(update_id=later.id).status == "pending"
    moment.advance(NewerData.retry_after + 1)
    with override_settings(BOTSESSIONS=newer):
        operations.recover()
    assert BotSession.objects.get().data == {"counts": {"milk": 4}, MARK: 3}
    assert set(BotUpdate.objects.values_list("status", flat=True)) == {"done"}


def test_newer_data_is_an_error_that_another_attempt_may_not_meet() -> None:
    assert not NewerData.permanent
    assert issubclass(NewerData, InvalidSessionData)


# As it is


@pytest.mark.django_db(transaction=True)
def test_data_is_seen_as_it_is_by_whoever_asks_for_it() -> None:
    """`Any` has no version: it sees the mark, and what it saves carries what it left there."""

    async def repair() -> None:
        raw = bots["demo"].sessions.get("ann", "ann", type=Any)
        async with raw as session:
            assert session.data == THREE
            assert session.dump()["data"] == THREE
            session.data["counts"]["tea"] = 2
        with pytest.raises(NewerData, match="of type Any"):
            async with bots["demo"].sessions.get("ann", "ann") as session:
                session.data["n"] = 1
        async with bots["demo"].sessions.get("new", type=Any) as session:
            assert session.data == {}

    with running(adding(Third)):
        async_to_sync(store)(THREE)
        async_to_sync(repair)()
        assert BotSession.objects.get(chat="ann").data == {"counts": {"tea": 2}, MARK: 3}
        with bots["demo"].sessions.get("ann", "ann", type=Third) as session:
            assert session.data == Third({"tea": 2})


@pytest.mark.django_db
async def test_the_name_of_the_mark_is_reserved() -> None:
    router = Router()

    @router.message()
    async def spoil(update: Update, session: Session) -> None:
        session.data["inner"] = {MARK: 7}
        session.data["price"] = "$version"
        if update.text == "spoil":
            session.data[MARK] = 7

    with running(router):
        await handle(message())
        await handle(message("spoil"))
        assert await data() == {"inner": {MARK: 7}, "price": "$version"}
        error = (await BotUpdate.objects.aget(status="parked")).error
    assert "the name '$version' is reserved" in error
    with pytest.raises(ValueError, match="is a JSON object"):
        as_stored(Third, b"[1]")


# Every store


CACHE = {"BACKEND": "botsessions.stores.CacheStore", "OPTIONS": {"CACHE": "default"}}
STORES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "database": lambda _: {"default": {"BACKEND": "botsessions.stores.DatabaseStore"}},
    "cached database": lambda _: {
        "default": {
            "BACKEND": "botsessions.stores.CachedDatabaseStore",
            "OPTIONS": {"CACHE": "default"},
        }
    },
    "cache": lambda _: {"default": CACHE},
    "file": lambda path: {
        "default": {
            "BACKEND": "botsessions.stores.FileStore",
            "OPTIONS": {"DIRECTORY": str(path)},
        }
    },
    "fallback": lambda path: {
        "default": {
            "BACKEND": "botsessions.stores.FallbackStore",
            "OPTIONS": {"STORES": ["fast", "lasting"]},
        },
        "fast": CACHE,
        "lasting": {
            "BACKEND": "botsessions.stores.FileStore",
            "OPTIONS": {"DIRECTORY": str(path)},
        },
    },
}


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """`STORES` with each of the stores as the default one."""
    from django.core.cache import caches

    yield STORES[request.param](tmp_path)
    caches["default"].clear()


def held() -> dict[str, Any]:
    """Return what is stored of ann's data, wherever that is."""
    row = BotSession.objects.get(chat="ann")
    if row.data is not None:
        return dict(row.data)
    store = bots["demo"].store
    assert store is not None
    key = bots["demo"].sessions.get("ann", "ann").key
    [found] = store.load([key])
    assert found is not None
    return dict(msgspec.json.decode(msgspec.json.decode(found, type=Envelope).data))


@pytest.mark.django_db
def test_every_store_keeps_versions(stores: dict[str, Any]) -> None:
    """P15: brought up from 1 to 3 through deploys; older code does not write over it."""
    say = async_to_sync(handle)
    for type_ in (First, Second, Third):
        with running(adding(type_), STORES=stores):
            say(message())
            kept = held()
    assert kept == {"counts": {"milk": 3}, MARK: 3}
    for type_ in (First, Second):
        with running(adding(type_), STORES=stores, ATTEMPTS=1):
            say(message())
            assert held() == kept
    assert BotUpdate.objects.filter(status="parked").count() == 2


# From outside


@pytest.mark.django_db(transaction=True)
def test_handles_lists_and_the_test_kit_read_typed_data_without_its_mark() -> None:
    found = []

    async def use() -> None:
        sessions = bots["demo"].sessions
        async with sessions.get("ann", "ann", type=Third) as session:
            assert session.data == Third({"tea": 1})
            session.data.counts["milk"] = 1
        async with sessions.get("ben", "ben") as session:
            session.data["n"] = 1
        await sessions.get("cat", "cat").open()
        found.extend([each async for each in sessions.all()])

    with running(adding(Third)):
        async_to_sync(store)(ONE)
        async_to_sync(use)()
        assert [(each.data, each.data_version) for each in found] == [
            ({"counts": {"tea": 1, "milk": 1}}, 3),
            ({"n": 1}, 1),
            (None, 1),
        ]
        state = SessionState.read(bots["demo"], found[0].key)
    assert state is not None
    assert (state.data, state.data_version) == ({"counts": {"tea": 1, "milk": 1}}, 3)


# Conversations


def talking(type_: Any, *, failed: bool = False) -> Router:
    """A bot whose conversation uses its data before and after an answer."""
    router = Router()

    @router.conversation()
    async def order(talk: Talk, session: Session[type_]) -> None:
        name = f"{session.data!r}"
        await talk.send("What?")
        answer = await talk.wait()
        await talk.send(f"{name} and {answer.text}")
        if isinstance(session.data, First):
            session.data.item = answer.text
        elif isinstance(session.data, Second):
            session.data.items.append(answer.text)

    if failed:

        @order.failed
        async def order_failed(error: Exception, bot: Bot) -> None:
            await bot.send("ann", "failed")

    @router.command("order")
    async def begin(session: Session[type_]) -> None:
        await session.begin(order)

    return router


@pytest.mark.django_db
async def test_a_conversation_goes_on_with_its_data_in_the_new_version() -> None:
    """What it had read is of the version in which it began, and goes through the steps too."""
    with running(talking(First)):
        await store(ONE)
        await handle(message("/order"))
    with running(talking(Second)):
        await handle(message("milk"))
        assert texts() == ["Second(items=['tea']) and milk"]  # the rest was said before
        assert await data() == {"items": ["tea", "milk"], MARK: 2}


@pytest.mark.django_db
async def test_what_a_conversation_has_read_is_journaled_with_its_version() -> None:
    with running(talking(Second)):
        await store(ONE)
        await handle(message("/order"))
        row = await BotSession.objects.aget()
        assert row.flow is not None
        assert '{"$version":2,"items":["tea"]}' in str(row.flow["journal"])
        assert row.data == ONE
        await handle(message("milk"))
        assert await data() == {"items": ["tea", "milk"], MARK: 2}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("attempts", "failed"),
    [
        (3, False),
        (3, True),
        (1, False),
        (1, True),
    ],
)
async def test_older_code_leaves_a_conversation_of_newer_code_alone(
    attempts: int, *, failed: bool
) -> None:
    """Neither a hook for its failure nor a parked update ends it."""
    with running(talking(Second)):
        await store(ONE)
        await handle(message("/order"))
        before = await BotSession.objects.aget()
    update = message("milk")
    with running(talking(First, failed=failed), ATTEMPTS=attempts):
        engine = current_engine()
        engine.is_lasting = False  # it does not wait for the next attempt
        await engine.submit(update)
        await engine.drain()
        row = await BotSession.objects.aget()
        assert (row.flow, row.data) == (before.flow, before.data)
        assert await status(update) == ("pending" if attempts > 1 else "parked")
        assert texts() == []


# The documentation


@pytest.mark.django_db
async def test_the_example_of_the_documentation_migrates() -> None:
    router = run("versions_guide", *blocks("docs/sessions.md"))["router"]
    assert isinstance(router, Router)
    with running(router):
        await store({"address": "1 High Street, York"}, qualifier="parcel")
        await handle(message("/parcel"))
        assert texts() == ["To York."]
        assert await data(qualifier="parcel") == {"address": "1 High Street, York"}
        await handle(message("/moved"))
        moved = {"street": "1 High Street", "city": "Leeds", MARK: 3}
        assert await data(qualifier="parcel") == moved


# Registration


@dataclass
class Missing:
    version: ClassVar[int] = 4
    to_2 = migrates(from_=1)(many)
    to_4 = migrates(from_=3)(many)


@dataclass
class Beyond:
    version: ClassVar[int] = 2
    to_2 = migrates(from_=1)(many)
    to_3 = migrates(from_=2)(many)


@dataclass
class Unversioned:
    to_2 = migrates(from_=1)(many)


@dataclass
class FieldOfThatName:
    version: int = 2
    to_2 = migrates(from_=1)(many)


@dataclass
class Before:
    version: ClassVar[int] = 2
    to_1 = migrates(from_=0)(many)
    to_2 = migrates(from_=1)(many)


@dataclass
class FromText:
    version: ClassVar[int] = 2
    to_2 = migrates(from_="1")(many)  # type: ignore[arg-type]


@dataclass
class Twice:
    version: ClassVar[int] = 2
    to_2 = migrates(from_=1)(many)
    too = migrates(from_=1)(many)


@dataclass
class TwiceByInheritance(Second):
    too = migrates(from_=1)(many)


class Zero(msgspec.Struct):
    version: ClassVar[int] = 0


class Text(msgspec.Struct):
    version: ClassVar[str] = "2"


class Truth(msgspec.Struct):
    version: ClassVar[bool] = True


@dataclass
class Later:
    version: ClassVar[int] = 2

    @migrates(from_=1)
    async def to_2(old: Any) -> Any:
        return many(old)


class Array(msgspec.Struct, array_like=True):
    version: ClassVar[int] = 2
    to_2 = migrates(from_=1)(many)


class Row(NamedTuple):
    item: str = ""


Row.version = 2  # type: ignore[attr-defined]

REFUSED: list[tuple[Any, str]] = [
    (Missing, "is of version 4, but has no step from version 2: .*@migrates\\(from_=2\\)"),
    (Beyond, "is of version 2, and has a step from version 2"),
    (Unversioned, "is of version 1, and has a step from version 1: .*ClassVar"),
    (FieldOfThatName, "is of version 1, and has a step from version 1: .*ClassVar"),
    (Before, "has a step from version 0"),
    (FromText, "has a step from version '1'"),
    (Twice, "has two steps from version 1"),
    (TwiceByInheritance, "has two steps from version 1"),
    (Zero, "has version 0"),
    (Text, "has version '2'"),
    (Truth, "has version True"),
    (Later, "has an async step from version 1"),
    (Array, "stored as an array"),
    (Row, "stored as an array"),
    (Second | None | int, "is a union, but Second has a version"),
]


@pytest.mark.parametrize(
    ("type_", "problem"), REFUSED, ids=lambda each: getattr(each, "__name__", "")
)
def test_what_does_not_fit_together_is_refused_at_registration(type_: Any, problem: str) -> None:
    router = Router()
    with pytest.raises(ImproperlyConfigured, match=problem):

        @router.message()
        async def handler(session: Annotated[Session[type_], Qualifier("order")]) -> None: ...

    with running(router), pytest.raises(ImproperlyConfigured, match=problem):
        bots["demo"].sessions.get("ann", type=type_)


@dataclass
class OwnField:
    version: int = 7


class OwnStructField(msgspec.Struct):
    version: int
    name: str = "Struct"


@dataclass
class OwnMethod:
    n: int = 0

    def version(self) -> str:
        return "mine"


@dataclass
class OwnProperty:
    n: int = 0

    @property
    def version(self) -> str:
        return "mine"


@pytest.mark.parametrize("type_", [OwnField, OwnStructField, OwnMethod, OwnProperty, list[Second]])
def test_a_field_or_method_named_version_is_none(type_: Any) -> None:
    assert SessionSpec(type_).type is type_
    assert versions_of(type_) == (1, ())


def test_a_pydantic_field_named_version_is_none() -> None:
    pydantic = pytest.importorskip("pydantic")
    assert versions_of(pydantic.create_model("Model", version=(int, 7))) == (1, ())


def test_a_step_is_a_plain_function() -> None:
    assert Third.several({"item": "tea"}) == Third().several({"item": "tea"}) == {"items": ["tea"]}
    assert Structured.to_3({"items": []}) == {"counts": {}}


# Marks

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text() | st.sampled_from(["$", "version", '"$version"', "a$version"])


@given(st.dictionaries(NAMES, JSON | st.just({MARK: 5}), max_size=4))
def test_a_mark_comes_off_as_it_went_on(value: dict[str, Any]) -> None:
    encoded = msgspec.json.encode(value)
    stored = as_stored(Third, encoded)
    assert msgspec.json.decode(stored) == {**value, MARK: 3}
    # Databases that store JSON in a way of their own change the order of names.
    for order in (
        dict,
        lambda found: dict(sorted(found.items())),
        lambda x: dict([*x.items()][::-1]),
    ):
        spelled = msgspec.json.encode(order(msgspec.json.decode(stored)))
        version, plain = split(spelled)
        assert (version, msgspec.json.decode(plain)) == (3, value)
    with pytest.raises(TooNew):
        reader(Second)(stored)


@given(JSON)
def test_what_carries_no_mark_is_left_as_it_is(value: Any) -> None:
    encoded = msgspec.json.encode(value)
    assert split(encoded) == (1, encoded)
    assert reader(Any)(encoded) == value


@pytest.mark.parametrize("mark", [b"0", b"-1", b"1", b"true", b"1.5", b'"3"', b"null", b"[]"])
def test_a_value_that_is_no_version_is_no_mark(mark: bytes) -> None:
    raw = b'{"$version":%s,"item":"tea"}' % mark
    assert stored_version(raw) == 1
    assert reader(First)(raw) == First("tea")
    assert reader(Third)(raw) == Third({"tea": 1})


@given(st.lists(st.text(), max_size=5))
def test_all_steps_are_the_same_as_one_after_another(items: list[str]) -> None:
    whole = reader(Third)(encode({"items": items, MARK: 2}))
    assert whole == decoder(Third)(encode(counted({"items": items})))
