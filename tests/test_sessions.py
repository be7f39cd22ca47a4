"""Sessions through the whole pipeline: data, changes, qualifiers, sends."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test.utils import CaptureQueriesContext

from botsessions import Bot, Initial, Qualifier, Router, Session, Update
from botsessions.exceptions import NoSessionKey, PlatformUnavailable, SessionsDisabled
from botsessions.marks import SessionSpec
from botsessions.models import BotSession, BotUpdate, TrackedMessage
from tests.kit import data, handle, in_slices, keyless, message, running, status, texts

pytestmark = pytest.mark.django_db


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


async def test_initial_data_is_made_anew_where_nothing_is_stored() -> None:
    """S14."""
    router, made = Router(), []

    def new(update: Update) -> dict[str, Any]:
        made.append(update.id)
        return {"words": []}

    @router.message()
    async def add(update: Update, session: Annotated[Session, Initial(new)]) -> None:
        session.data["words"].append(update.text)

    with running(router):
        await handle(message("a", user="ann"), message("b", user="ben"))
        await handle(message("c", user="ann"))
        assert await data("ann") == {"words": ["a", "c"]}
        assert await data("ben") == {"words": ["b"]}
    assert len(made) == 2


async def test_an_initial_factory_may_be_asynchronous() -> None:
    """S15."""
    router = Router()

    async def new(update: Update) -> dict[str, Any]:
        return {"language": update.user.language if update.user else ""}

    @router.message()
    async def touch(session: Annotated[Session, Initial(new)]) -> None:
        session.data["seen"] = True

    with running(router):
        await handle(message())
        assert await data() == {"language": "", "seen": True}


async def test_all_handlers_of_an_update_see_the_same_session() -> None:
    """S16."""
    router, seen = Router(), []

    @router.middleware
    async def around(call_next: Any, session: Session) -> None:
        seen.append(session)
        session.data["around"] = 1
        await call_next()

    def wanted(session: Session) -> bool:
        seen.append(session)
        return True

    @router.message(wanted)
    async def handler(session: Session[dict[str, Any]]) -> None:
        seen.append(session)
        session.data["handler"] = session.data["around"] + 1

    with running(router):
        await handle(message())
        assert await data() == {"around": 1, "handler": 2}
    assert len(seen) == 3
    assert len({id(each) for each in seen}) == 1


async def test_a_hundred_changes_are_one_write() -> None:
    """S17."""
    router = Router()

    @router.message()
    async def change(session: Session) -> None:
        for number in range(100):
            session.data[f"n{number}"] = number

    with running(router):
        await handle(message())
        row = await BotSession.objects.aget()
        assert row.version == 1
        assert len(row.data or {}) == 100


@pytest.mark.parametrize(
    "change",
    [
        lambda cart: cart.items.append("tea"),
        lambda cart: cart.notes["deep"]["list"].append(3),
        lambda cart: cart.notes["deep"].update(key=1),
        lambda cart: cart.notes["deep"]["list"].pop(),
        lambda cart: cart.notes.pop("deep"),
        lambda cart: setattr(cart, "items", ["all", "new"]),
    ],
)
async def test_a_deep_change_is_saved(change: Any) -> None:
    """S18."""
    router = Router()

    @router.command("begin")
    async def begin(session: Session[Cart]) -> None:
        session.data.notes = {"deep": {"list": [1, 2]}}

    @router.message()
    async def changing(session: Session[Cart]) -> None:
        change(session.data)

    with running(router):
        await handle(message("/begin"))
        before = await data()
        await handle(message())
        assert await data() != before
        assert (await BotSession.objects.aget()).version == 2


async def test_a_session_that_is_only_read_is_not_saved_and_not_created() -> None:
    """S19, P13."""
    router = Router()

    @router.command("begin")
    async def begin(session: Session) -> None:
        session.data["n"] = 1

    @router.message()
    async def read(session: Session) -> None:
        assert session.data.get("n") in (None, 1)

    with running(router):
        await handle(message())
        assert not await BotSession.objects.aexists()
        await handle(message("/begin"))
        await handle(message())
        assert (await BotSession.objects.aget()).version == 1


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="Django sees the statements of SQLite")
def test_what_is_not_declared_is_neither_read_nor_written() -> None:
    """P13: untouched 0 queries of sessions; read-only 1 read and 0 writes."""
    router = Router()

    @router.command("none")
    async def nothing(update: Update) -> None: ...

    @router.message()
    async def read(session: Session) -> None:
        assert session.data == {}

    def of_sessions(queries: Any) -> list[str]:
        return [each["sql"] for each in queries if "botsessions_botsession" in each["sql"]]

    with running(router):
        with CaptureQueriesContext(connection) as queries:
            async_to_sync(handle)(keyless())
        assert of_sessions(queries) == []
        with CaptureQueriesContext(connection) as queries:
            async_to_sync(handle)(message("/none"))
        # ADMIT looks for open sessions, which would track what was said.
        assert len(of_sessions(queries)) == 1
        with CaptureQueriesContext(connection) as queries:
            async_to_sync(handle)(message())
        statements = of_sessions(queries)
        assert len(statements) == 1
        assert statements[0].strip().startswith("SELECT")


async def test_assigning_new_data_is_saved() -> None:
    """S20."""
    router = Router()

    @router.message()
    async def assign(update: Update, session: Session[Cart]) -> None:
        session.data = Cart(items=[update.text])

    with running(router):
        await handle(message("a"))
        await handle(message("b"))
        assert (await data())["items"] == ["b"]


class Structured(msgspec.Struct):
    n: int = 0


class Typed(TypedDict, total=False):
    n: int


@dataclass
class Plain:
    n: int = 0


@pytest.mark.parametrize("type_", [Structured, Plain, dict[str, int], Typed, dict])
async def test_typed_data_goes_round_as_plain_json(type_: Any) -> None:
    """S31, S32."""
    router, kinds = Router(), []

    @router.message()
    async def count(session: Session[type_]) -> None:
        kinds.append(type(session.data))
        if isinstance(session.data, dict):
            session.data["n"] = session.data.get("n", 0) + 1
        else:
            session.data.n += 1

    with running(router):
        await handle(message())
        await handle(message())
        assert await data() == {"n": 2}
    assert kinds[0] is kinds[1]


async def test_data_that_needs_arguments_says_so() -> None:
    router = Router()

    class Needy(msgspec.Struct):
        name: str

    @router.message()
    async def handler(session: Session[Needy]) -> None:
        assert session.data

    with running(router, ATTEMPTS=1):
        await handle(message())
        error = (await BotUpdate.objects.aget()).error
    assert "Initial(factory)" in error


async def test_qualified_sessions_are_apart() -> None:
    router = Router()

    @router.message()
    async def both(
        update: Update, one: Session, two: Annotated[Session[Cart], Qualifier("order")]
    ) -> None:
        one.data["text"] = update.text
        two.data.items.append(update.text)

    with running(router):
        await handle(message("a"))
        await handle(message("b"))
        assert await data() == {"text": "b"}
        assert (await data(qualifier="order"))["items"] == ["a", "b"]


async def test_the_same_id_in_two_bots_is_two_sessions() -> None:
    """S8."""
    router = Router()

    @router.message()
    async def remember(update: Update, session: Session) -> None:
        session.data["bot"] = update.bot

    with running(router):
        await handle(message(id="7"), message(id="7", bot="other"))
        assert await data(bot="demo") == {"bot": "demo"}
        assert await data(bot="other") == {"bot": "other"}
        assert await BotUpdate.objects.filter(update_id="7").acount() == 2


async def test_an_update_without_a_chat_has_no_session() -> None:
    """S7."""
    router, seen = Router(), []

    @router.on("inline_query")
    async def optional(session: Session | None) -> None:
        seen.append(session)

    @router.on("poll_answer")
    async def required(session: Session) -> None:
        seen.append(session)

    with running(router):
        fine, wrong = keyless(), keyless("poll_answer")
        await handle(fine, wrong)
        assert seen == [None]
        assert await status(fine) == "done"
        assert await status(wrong) == "parked"
        error = (await BotUpdate.objects.aget(update_id=wrong.id)).error
        assert NoSessionKey.__name__ in error
        assert "'poll_answer'" in error
        assert not await BotSession.objects.aexists()


async def test_a_bot_without_a_store_has_no_sessions() -> None:
    """S28."""
    router, seen = Router(), []

    @router.command("optional")
    async def optional(bot: Bot, session: Session | None) -> None:
        seen.append((bot.has_sessions, session))

    @router.message()
    async def required(session: Session) -> None: ...

    with running(router, store=None):
        await handle(message("/optional"), message(user="ben"))
        assert seen == [(False, None)]
        row = await BotUpdate.objects.aget(status="parked")
        assert SessionsDisabled.__name__ in row.error
        assert "STORE: None" in row.error


async def test_data_over_the_limit_names_session_and_size_and_changes_nothing() -> None:
    """P16."""
    router = Router()

    @router.message()
    async def grow(update: Update, session: Session) -> None:
        session.data["text"] = update.text * 100

    with running(router, MAX_DATA_BYTES=1000):
        await handle(message("a"))
        await handle(message("b" * 50))
        assert await data() == {"text": "a" * 100}
        error = (await BotUpdate.objects.aget(status="parked")).error
    assert "demo:ann:ann" in error
    assert "5,011 bytes" in error
    assert "MAX_DATA_BYTES is 1,000" in error


@pytest.mark.parametrize(
    "wrong", [object(), "\ud800", {1, object()}], ids=["object", "surrogate", "set"]
)
async def test_data_that_is_not_json_is_a_clear_error(wrong: Any) -> None:
    router = Router()

    @router.message()
    async def spoil(session: Session) -> None:
        session.data["wrong"] = wrong

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "parked"
        assert "is not JSON" in (await BotUpdate.objects.aget()).error
        assert await data() is None


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("a\x00b", "a\ufffdb"),
        (math.nan, None),
        ("\\u0000 'quoted\"", "\\u0000 'quoted\""),
        (2**70, 2**70),
    ],
    ids=["nul", "nan", "text like nul", "huge"],
)
async def test_awkward_data_is_stored_or_cleaned(value: Any, stored: Any) -> None:
    router = Router()

    @router.message()
    async def keep(session: Session) -> None:
        session.data["value"] = value

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert await data() == {"value": stored}


async def test_stored_data_of_another_type_is_a_clear_error() -> None:
    router = Router()

    @router.command("begin")
    async def begin(session: Session) -> None:
        session.data["items"] = "not a list"

    @router.message()
    async def typed(session: Session[Cart]) -> None:
        assert session.data.items

    with running(router, on_misfit="raise"):
        await handle(message("/begin"))
        await handle(message())
        assert "is no" in (await BotUpdate.objects.aget(status="parked")).error
        assert await data() == {"items": "not a list"}


async def test_two_types_for_one_session_are_refused() -> None:
    router = Router()

    @router.middleware
    async def around(call_next: Any, session: Session[Plain]) -> None:
        session.data.n = 1
        await call_next()

    @router.message()
    async def handler(session: Session[Structured]) -> None: ...

    with running(router, ATTEMPTS=1):
        await handle(message())
        assert ImproperlyConfigured.__name__ in (await BotUpdate.objects.aget()).error
    assert SessionSpec().type is dict


async def test_a_send_is_recorded_with_its_update_and_place() -> None:
    router, results = Router(), []

    @router.message()
    async def answer(session: Session) -> None:
        results.append(await session.send("one"))
        session.reply("two")

    with running(router):
        update = message()
        await handle(update)
        assert texts() == ["one", "two"]
        rows = [row async for row in TrackedMessage.objects.order_by("id")]
    assert results[0]["text"] == "one"
    assert [(row.text, row.direction, row.update_id, row.ordinal) for row in rows] == [
        ("one", "outgoing", update.id, 0),
        ("two", "outgoing", update.id, 1),
    ]


async def test_texts_are_not_stored_where_the_bot_says_so() -> None:
    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        await session.send("secret")

    with running(router, store_text=False):
        await handle(message())
        assert texts() == ["secret"]
        assert (await TrackedMessage.objects.aget()).text == ""


async def test_actions_that_were_not_awaited_happen_in_order_when_the_handler_returns() -> None:
    """P8: order is kept, also around an awaited one."""
    router = Router()

    @router.message()
    async def answer(session: Session, bot: Bot) -> None:
        session.send("one")
        await bot.send("ann", "two")
        session.send("three")
        bot.send("ann", "four")

    with running(router):
        await handle(message())
        assert texts() == ["one", "two", "three", "four"]


def test_a_def_handler_uses_the_same_verbs(transactional_db: None) -> None:
    router = Router()

    @router.message()
    def answer(update: Update, session: Session[Cart]) -> None:
        session.data.items.append(update.text)
        session.send(f"{len(session.data.items)}")

    async def run() -> None:
        await handle(message("a"))
        await handle(message("b"))

    with running(router):
        async_to_sync(run)()
        assert texts() == ["1", "2"]


async def test_what_was_not_awaited_does_not_happen_when_the_handler_raises() -> None:
    """P8, S25: data is discarded, a send that happened stays recorded."""
    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        session.data["n"] = 1
        await session.send("happened")
        session.send("never")
        raise RuntimeError("on purpose")

    with running(router, ATTEMPTS=1):
        await handle(message())
        assert texts() == ["happened"]
        assert [row.text async for row in TrackedMessage.objects.all()] == ["happened"]
        assert await data() is None
        assert (await BotSession.objects.aget()).is_open


async def test_a_send_is_not_repeated_when_the_update_is_tried_again() -> None:
    """P8."""
    router = Router()
    tries: list[Any] = []

    @router.message()
    async def answer(session: Session, bot: Bot) -> None:
        first = await session.send(f"try {len(tries)}")
        await bot.send("ann", "without a session")
        tries.append(first)
        if len(tries) < 3:
            raise RuntimeError("on purpose")
        await session.send("done")

    with running(router):
        update = message()
        await handle(update)
        assert texts() == ["try 0", "without a session", "done"]
        assert await status(update) == "done"
    assert tries[0] == tries[1] == tries[2]


async def test_sends_of_a_gather_keep_their_order() -> None:
    import asyncio

    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        results = await asyncio.gather(*[session.send(f"{number}") for number in range(5)])
        assert [each["text"] for each in results] == ["0", "1", "2", "3", "4"]

    with running(router):
        update = message()
        await handle(update)
        assert texts() == ["0", "1", "2", "3", "4"]
        assert await status(update) == "done"


async def test_a_send_that_fails_reaches_the_handler_and_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from botsessions.platforms.local import LocalPlatform

    router = Router()

    async def away(*_: Any, **__: Any) -> None:
        raise PlatformUnavailable("no answer")

    monkeypatch.setattr(LocalPlatform, "send", away)

    @router.message()
    async def answer(session: Session) -> None:
        try:
            await session.send("never")
        except PlatformUnavailable:
            session.data["failed"] = True

    with running(router):
        await handle(message())
        assert await data() == {"failed": True}
        assert not await TrackedMessage.objects.aexists()


async def test_clear_deletes_the_messages_of_its_own_slice() -> None:
    router, counts = Router(), []
    Order = Annotated[Session, Qualifier("order")]

    @router.command("done")
    async def done(order: Order, bot: Bot) -> None:
        counts.append(await order.clear())
        await bot.send(order.chat, "farewell")

    @router.message()
    async def answer(session: Session, order: Order) -> None:
        await session.send("kept")
        await order.send("wiped")

    with running(router):
        await handle(message())
        await handle(message())
        await handle(message("/done"))
        assert texts() == ["kept", "kept", "farewell"]
        left = [row.text async for row in in_slices().order_by("id")]
    # The first message came before the sessions were open.
    assert left == ["kept", "hello", "kept", "/done"]
    assert counts == [4]
