"""Whose session an update has, proved through the engine: keys, strategies, qualifiers, stores."""

import asyncio
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Optional

import msgspec
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from botsessions import (
    Bot,
    Chat,
    Qualifier,
    Router,
    Scope,
    Session,
    SessionKey,
    Update,
    User,
    clock,
)
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.exceptions import NoSessionKey, SessionConflict
from botsessions.models import BotSession, BotUpdate, TrackedMessage
from botsessions.sessions import SessionManager
from botsessions.updates import UpdateType
from tests.kit import handle, keyless, message, running, status, texts
from tests.test_contents import Held

pytestmark = pytest.mark.django_db

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "telegram"
PAYLOADS = sorted(FIXTURES.glob("*.json"))
TELEGRAM = {
    "platform": "botsessions.platforms.telegram.TelegramPlatform",
    "options": {"token": "1:x", "secret": "a-secret-of-tests"},
}
#: The types of update that belong to a chat, as acceptance.md lists them.
IN_A_CHAT = (
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_message",
    "edited_business_message",
    "deleted_business_messages",
    "message_reaction",
    "message_reaction_count",
    "callback_query",
    "my_chat_member",
    "chat_member",
    "chat_join_request",
    "chat_boost",
    "removed_chat_boost",
    "guest_message",
)
NOWHERE = (
    "business_connection",
    "inline_query",
    "chosen_inline_result",
    "shipping_query",
    "pre_checkout_query",
    "poll",
    "poll_answer",
    "purchased_paid_media",
)
_ids = itertools.count(1)


@pytest.fixture(params=["row", "cached", "cache", "file"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """STORES with a store of each kind that every session of the test shares."""
    backends: dict[str, dict[str, Any]] = {
        "row": {"BACKEND": "botsessions.stores.DatabaseStore"},
        "cached": {"BACKEND": "botsessions.stores.CachedDatabaseStore"},
        "cache": {"BACKEND": "botsessions.stores.CacheStore"},
        "file": {
            "BACKEND": "botsessions.stores.FileStore",
            "OPTIONS": {"DIRECTORY": str(tmp_path)},
        },
    }
    memory = {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": str(tmp_path),
    }
    with override_settings(CACHES={"default": memory}):
        yield {"default": backends[request.param]}


class Moment:
    """The time of day, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def sessions(bot: str = "demo") -> SessionManager:
    return bots[bot].sessions


def told(
    text: str = "",
    *,
    user: str = "ann",
    chat: str = "ann",
    kind: str = "group",
    type: str = "message",
    bot: str = "demo",
    **fields: Any,
) -> Update:
    """Return what the local platform makes of a message with these fields."""
    number = f"told {next(_ids)}"
    said = {
        "message_id": number,
        "chat": {"id": chat, "type": kind},
        "from": {"id": user, "name": user.title()} if user else None,
        "text": text,
        **fields,
    }
    body = msgspec.json.encode({"update_id": number, type: said})
    [update] = bots[bot].platform.parse(body)
    return update


async def contents(bot: str = "demo") -> dict[tuple[str, ...], Any]:
    """Return the data of every session of a bot, wherever it is kept, by the parts of its key."""
    found: dict[tuple[str, ...], Any] = {}
    async for each in sessions(bot).all():
        assert each.key.bot == bot
        found[each.key.chat, each.key.user, each.key.thread, each.key.qualifier] = each.data
    return found


async def slice_of(chat: str = "", user: str = "", qualifier: str = "") -> list[str]:
    """Return the texts of what a session of "demo" has tracked, in order."""
    rows = TrackedMessage.objects.filter(
        session__bot="demo",
        session__chat=chat,
        session__user=user,
        session__qualifier=qualifier,
    )
    return [each.text async for each in rows.order_by("id")]


def collecting() -> Router:
    """Return a router that keeps what each session was told, and what was told without one."""
    router = Router()

    @router.on()
    async def collect(update: Update, session: Session | None) -> None:
        if session is None:
            without.append(f"{update.bot} {update.text}")
        else:
            session.data.setdefault("texts", []).append(update.text)

    without.clear()
    return router


#: What `collecting` was told where there was no session.
without: list[str] = []


# Strategies


#: By strategy: the session (chat, user, topic) of each update of `everywhere`.
EXPECTED: dict[str, dict[tuple[str, str, str], list[str]]] = {
    "chat_user": {
        ("ann", "ann", ""): ["private"],
        ("g", "ann", ""): ["in g", "in a topic"],
        ("g", "ben", ""): ["ben in g"],
        ("h", "ann", ""): ["in h"],
        ("c", "", ""): ["post"],
    },
    "chat": {
        ("ann", "", ""): ["private"],
        ("g", "", ""): ["in g", "ben in g", "in a topic"],
        ("h", "", ""): ["in h"],
        ("c", "", ""): ["post"],
    },
    "user": {
        ("", "ann", ""): ["private", "in g", "in h", "in a topic", "query"],
        ("", "ben", ""): ["ben in g"],
    },
    "auto": {
        ("ann", "", ""): ["private"],
        ("g", "ann", ""): ["in g", "in a topic"],
        ("g", "ben", ""): ["ben in g"],
        ("h", "ann", ""): ["in h"],
        ("c", "", ""): ["post"],
    },
    "thread": {
        ("ann", "", ""): ["private"],
        ("g", "", ""): ["in g", "ben in g"],
        ("g", "", "7"): ["in a topic"],
        ("h", "", ""): ["in h"],
        ("c", "", ""): ["post"],
    },
}


def everywhere(bot: str) -> list[Update]:
    """Return updates of two people: in private, two groups, a topic, a channel and nowhere."""
    return [
        message("private", bot=bot),
        message("in g", chat="g", bot=bot),
        message("ben in g", user="ben", chat="g", bot=bot),
        message("in h", chat="h", bot=bot),
        msgspec.structs.replace(message("in a topic", chat="g", bot=bot), thread="7"),
        message("post", user="", chat="c", type="channel_post", bot=bot),
        msgspec.structs.replace(keyless(text="query"), bot=bot),
    ]


@pytest.mark.parametrize("strategy", EXPECTED)
@pytest.mark.parametrize("by_path", [False, True], ids=["name", "path"])
async def test_a_strategy_decides_whose_session_an_update_has(
    strategy: str, *, by_path: bool
) -> None:
    """S2, S3, S4, S5, P11, S8: for two bots at once, which are part of the key."""
    key = f"botsessions.keys.{strategy}" if by_path else strategy
    with running(collecting(), key=key):
        await handle(*everywhere("demo"), *everywhere("other"))
        expected = {(*key, ""): {"texts": texts} for key, texts in EXPECTED[strategy].items()}
        assert await contents("demo") == await contents("other") == expected
        assert not await BotUpdate.objects.exclude(status="done").aexists()
    expected_without = "post" if strategy == "user" else "query"
    assert sorted(without) == [f"demo {expected_without}", f"other {expected_without}"]


async def test_a_person_in_many_chats_has_one_mailbox_where_sessions_are_theirs() -> None:
    """S5: so that no handler runs again."""
    router, runs = Router(), []

    @router.message()
    async def count(session: Session) -> None:
        runs.append(1)
        n = session.data.get("n", 0)
        await asyncio.sleep(0)
        session.data["n"] = n + 1

    with running(router, key="user"):
        await handle(*[message(chat=f"chat{number}") for number in range(10)])
        assert await contents() == {("", "ann", "", ""): {"n": 10}}
    assert len(runs) == 10


@pytest.mark.parametrize("strategy", ["chat_user", "chat", "auto", "thread"])
async def test_two_channels_without_senders_never_mix(strategy: str) -> None:
    """S2, S3, S4: each keeps its posts, said and edited, also where they come at once."""
    with running(collecting(), key=strategy):
        await handle(
            *[
                message(f"{channel} {number}", user="", chat=channel, type=type_)
                for number, type_ in enumerate(("channel_post", "edited_channel_post"))
                for channel in ("news", "views")
            ]
        )
        assert await contents() == {
            ("news", "", "", ""): {"texts": ["news 0", "news 1"]},
            ("views", "", "", ""): {"texts": ["views 0", "views 1"]},
        }


# Key functions of the project

#: The updates that a key function of these tests was asked about.
asked: list[Update] = []


def by_account(update: Update) -> SessionKey | None:
    """Keep a session for each account, which only the payload names."""
    asked.append(update)
    account = update.payload.get("message", {}).get("account")
    return SessionKey(update.bot, user=f"account {account}") if account else None


async def by_account_slowly(update: Update) -> SessionKey | None:
    await asyncio.sleep(0.001)
    return by_account(update)


class ByAccount:
    """A key function that is an object."""

    def __call__(self, update: Update) -> SessionKey | None:
        return by_account(update)


class ByAccountSlowly:
    async def __call__(self, update: Update) -> SessionKey | None:
        return await by_account_slowly(update)


KEY_FUNCTIONS = {
    "path": "tests.test_keys_in_use.by_account",
    "slow path": "tests.test_keys_in_use.by_account_slowly",
    "function": by_account,
    "slow function": by_account_slowly,
    "object": ByAccount(),
    "slow object": ByAccountSlowly(),
    "partial": functools.partial(by_account),
}


@pytest.fixture(params=list(KEY_FUNCTIONS))
def key_function(request: pytest.FixtureRequest) -> Any:
    asked.clear()
    return KEY_FUNCTIONS[request.param]


async def test_a_key_function_receives_the_whole_update(key_function: Any) -> None:
    """S6: the payload too, also of an update that waited in its mailbox."""
    router = Router()

    @router.message()
    async def collect(update: Update, session: Session) -> None:
        words = session.data.setdefault("texts", [])
        await asyncio.sleep(0)
        session.data["texts"] = [*words, update.text]

    with running(router, key=key_function):
        updates = [
            told(f"{number}", user=user, chat=chat, account=account)
            for number, (user, chat, account) in enumerate(
                [("ann", "g", "a"), ("ben", "h", "a"), ("ann", "g", "b"), ("cem", "g", "a")]
            )
        ]
        await handle(*updates)
        # Those of several chats may overtake each other while a slow function looks for the key.
        found = {key: sorted(data["texts"]) for key, data in (await contents()).items()}
        assert found == {
            ("", "account a", "", ""): ["0", "1", "3"],
            ("", "account b", "", ""): ["2"],
        }
    assert all(update in asked for update in updates)
    assert all(update in updates for update in asked)


async def test_a_partial_of_a_slow_key_function_is_awaited() -> None:
    """S6."""
    with running(collecting(), key=functools.partial(by_account_slowly)):
        assert bots["demo"].finds_keys_slowly
        await handle(told("hello", account="a"))
        assert await contents() == {("", "account a", "", ""): {"texts": ["hello"]}}


async def test_an_update_for_which_a_key_function_says_none_has_no_session(
    key_function: Any,
) -> None:
    """S7: handlers run, nothing is read or written, and there is no bucket that all share."""
    router, store = Router(), Held()
    seen: list[Session | None] = []

    @router.command("required")
    async def required(session: Session) -> None:
        seen.append(session)

    @router.command("qualified")
    async def qualified(session: Annotated[Session | None, Qualifier("order")]) -> None:
        seen.append(session)

    @router.on()
    async def optional(update: Update, session: Session | None) -> None:
        seen.append(session)
        if session is not None:
            session.data["n"] = 1

    with running(router, key=key_function, store=store):
        await handle(told("with", account="a"))
        seen.clear()
        loads, values = store.loads, dict(store.values)
        fine = [told(), told(user="ben"), told(type="edited_message"), told("/qualified")]
        wrong = told("/required")
        await handle(*fine, wrong)
        assert seen == [None] * 4
        assert [await status(each) for each in fine] == ["done"] * 4
        row = await BotUpdate.objects.aget(update_id=wrong.id)
        assert row.status == "parked"
        assert NoSessionKey.__name__ in row.error
        assert "'message'" in row.error
        assert store.loads == loads
        assert store.values == values
        assert await BotSession.objects.acount() == 1


async def test_an_open_session_of_a_key_function_tracks_what_is_said_in_it(
    key_function: Any,
) -> None:
    """S65, S6: wherever that is said, also where no handler declares it, and nothing else."""
    router = Router()

    @router.on()
    async def listen(update: Update) -> None: ...

    with running(router, key=key_function):
        await sessions().get(user="account a").open()
        await sessions().get(user="account a", qualifier="order").open()
        await sessions().get(user="account b").open()
        await handle(
            told("one", user="ann", chat="g", account="a"),
            told("two", user="ben", chat="h", account="a"),
            told("another's", user="ann", chat="g", account="b"),
            told("nobody's", user="ann", chat="g"),
        )
        # A mailbox each: what was said first need not be tracked first.
        assert sorted(await slice_of(user="account a")) == ["one", "two"]
        assert sorted(await slice_of(user="account a", qualifier="order")) == ["one", "two"]
        assert await slice_of(user="account b") == ["another's"]


def by_purpose(update: Update) -> SessionKey:
    """Keep two sessions for each person, apart by their qualifiers."""
    return SessionKey(update.bot, user="ann", qualifier=update.text[0])


async def test_keys_of_a_function_that_differ_in_the_qualifier_alone_are_apart() -> None:
    """S6, S1: keys compare by all fields."""
    with running(collecting(), key=by_purpose):
        await handle(message("apple"), message("bean"), message("apricot"))
        assert await contents() == {
            ("", "ann", "", "a"): {"texts": ["apple", "apricot"]},
            ("", "ann", "", "b"): {"texts": ["bean"]},
        }


# Parts that look like others


def spelt(update: Update) -> SessionKey:
    """Return the key whose chat, user and topic the text spells."""
    return SessionKey(update.bot, *json.loads(update.text))


async def test_bots_and_parts_that_look_alike_never_collide(stores: dict[str, Any]) -> None:
    """S9, S8: the bot is the prefix; with ":" and "%" in the parts, in every store, at once."""
    router = Router()

    @router.message()
    async def count(update: Update, session: Session) -> None:
        session.data["text"] = update.text
        session.data["n"] = session.data.get("n", 0) + 1

    parts = [
        ("a:b", "c", ""),
        ("a", "b:c", ""),
        ("a", "b", "c"),
        ("a:b:c", "", ""),
        ("a%3Ab", "c", ""),
        ("a%253Ab", "c", ""),
        ("a%", "3Ab:c", ""),
        ("", "a:b:c", ""),
        ("", "a", "b:c"),
        ("other:a", "b", "c"),
        ("demo", "a", "b"),
        ("A:b", "c", ""),
        ("a/b", "..", "~"),
    ]
    with running(router, STORES=stores, key=spelt):
        await handle(
            *[
                message(json.dumps(each), bot=bot)
                for _ in range(3)
                for each in parts
                for bot in ("demo", "other")
            ]
        )
        expected = {(*each, ""): {"text": json.dumps(each), "n": 3} for each in parts}
        assert await contents("demo") == expected
        assert await contents("other") == expected


# Types of update


def of_type(type_: str, user: str = "ann") -> Update:
    """Return an update of a type, in a group where that type has a chat."""
    place = Chat("g", "group") if type_ in (*IN_A_CHAT, "of its own") else None
    return Update("demo", f"{type_} {next(_ids)}", type_, place, User(user) if user else None)


async def test_every_type_that_belongs_to_a_chat_has_the_same_session() -> None:
    """S88, S10: also one that only its platform knows."""
    router = Router()

    @router.on()
    async def collect(update: Update, session: Session) -> None:
        session.data.setdefault("types", []).append(update.type)

    types = [*IN_A_CHAT, "of its own"]
    with running(router):
        await handle(*[of_type(each) for each in types])
        assert await contents() == {("g", "ann", "", ""): {"types": types}}


@pytest.mark.parametrize("type_", NOWHERE)
async def test_a_type_that_belongs_to_no_chat_has_no_session_but_its_users(type_: str) -> None:
    """S7, S88, S5."""
    router = Router()

    @router.on()
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    with running(router):
        update = of_type(type_)
        await handle(update)
        row = await BotUpdate.objects.aget(update_id=update.id)
        assert row.status == "parked"
        assert NoSessionKey.__name__ in row.error
        assert f"'{type_}'" in row.error
        assert await contents() == {}
    with running(router, key="user"):
        await handle(of_type(type_), of_type(type_))
        assert await contents() == {("", "ann", "", ""): {"n": 2}}
        nobody = of_type(type_, user="")
        await handle(nobody)
        assert await status(nobody) == "parked"


def raw_object(payload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the type and the object of a Telegram update."""
    type_ = next(name for name in payload if name in set(UpdateType))
    return type_, payload[type_]


def raw_key(payload: dict[str, Any]) -> tuple[str, str]:
    """Return chat and user of a Telegram update, read by hand from what Telegram sends."""
    type_, data = raw_object(payload)
    shown = data.get("message") or {} if type_ == "callback_query" else data
    chat = user = ""
    if type_ in (*IN_A_CHAT, "stopped_message_generation"):
        chat = str((shown.get("chat") or {}).get("id", ""))
        chat = str(shown.get("migrate_to_chat_id", chat))
        if shown.get("business_connection_id"):
            chat = f"business/{shown['business_connection_id']}/{chat}"
        elif type_ == "guest_message" or "guest_query_id" in shown:
            chat = f"guest/{chat}"
    if type_ == "chat_boost":
        source = data["boost"]["source"]
        user = str(source["user"]["id"]) if source["source"] == "premium" else ""
    elif "channel_post" not in type_:
        author = data.get("from") or data.get("user") or {}
        user = str(author.get("id", ""))
    return chat, user


@pytest.mark.skipif(not PAYLOADS, reason="../shared/fixtures/telegram is not here")
@pytest.mark.parametrize("strategy", ["chat_user", "user"])
async def test_real_payloads_have_the_sessions_of_their_chats_and_users(strategy: str) -> None:
    """S10, S88, S7: every type that Telegram sends, with a session or with None."""
    router = Router()
    found: dict[str, tuple[str, str] | None] = {}

    @router.on()
    async def note(update: Update, session: Session | None) -> None:
        found[update.id] = None
        if session is not None:
            found[update.id] = session.key.chat, session.key.user
            session.data.setdefault("types", []).append(update.type)

    expected: dict[str, tuple[str, str] | None] = {}
    updates = []
    with running(router, key=strategy, **TELEGRAM):
        for path in PAYLOADS:
            for update in bots["demo"].platform.parse(path.read_bytes()):
                updates.append(msgspec.structs.replace(update, id=path.stem))
                chat, user = raw_key(json.loads(path.read_bytes()))
                key = ("", user) if strategy == "user" else (chat, user)
                is_keyed = bool(user if strategy == "user" else chat)
                expected[path.stem] = key if is_keyed else None
        moves = [each for each in updates if "migrate" in each.id]
        for update in reversed(moves):  # those that tell where to first: there is nothing to move
            await handle(update)
        await handle(*[each for each in updates if each not in moves])
        assert found == expected
        assert not await BotUpdate.objects.exclude(status="done").aexists()
        kept = {key[:2]: len(data["types"]) for key, data in (await contents()).items()}
    counted: dict[tuple[str, str], int] = {}
    for keyed in filter(None, expected.values()):
        counted[keyed] = counted.get(keyed, 0) + 1
    assert kept == counted
    assert len({update.type for update in updates}) >= 23


# What a handler declares


@pytest.mark.parametrize(
    ("declared", "qualifier", "is_optional"),
    [
        (Session, "", False),
        (Session[dict[str, Any]], "", False),
        (Session | None, "", True),
        (Optional[Session], "", True),  # noqa: UP045 - as older code spells it
        (Annotated[Session, Qualifier("order")], "order", False),
        (Annotated[Session, Qualifier("order")] | None, "order", True),
        (Annotated[Session | None, Qualifier("order")], "order", True),
        (Annotated[Session[dict[str, Any]] | None, Qualifier("order")], "order", True),
    ],
    ids=str,
)
async def test_a_session_is_injected_by_its_type(
    declared: Any, qualifier: str, *, is_optional: bool
) -> None:
    """S82, S7: whatever the parameter's name, optional or not, with or without a qualifier."""
    router, seen = Router(), []

    @router.on()
    async def handler(whatever: declared, update: Update) -> None:
        seen.append(whatever and whatever.key)
        if whatever is not None:
            whatever.data["text"] = update.text

    with running(router):
        found, query = message("hello"), keyless()
        await handle(found, query)
        assert await status(found) == "done"
        key = SessionKey("demo", "ann", "ann", "", qualifier)
        assert await contents() == {("ann", "ann", "", qualifier): {"text": "hello"}}
        assert seen == ([key, None] if is_optional else [key])
        row = await BotUpdate.objects.aget(update_id=query.id)
        assert row.status == ("done" if is_optional else "parked")
        assert is_optional or (
            NoSessionKey.__name__ in row.error
            and "handler" in row.error
            and "'inline_query'" in row.error
            and "Session | None" in row.error
        )


async def test_a_session_is_read_once_and_only_where_a_handler_declares_it() -> None:
    """S24: the filter, the middleware and the handler have the same object."""
    router, store = Router(), Held()
    seen: list[Session] = []

    def wanted(session: Session) -> bool:
        seen.append(session)
        return "n" in session.data

    @router.command("none")
    async def nothing(update: Update, bot: Bot) -> None: ...

    @router.command("begin")
    async def begin(session: Session, order: Annotated[Session, Qualifier("order")]) -> None:
        session.data["n"] = order.data["n"] = 1

    @router.message(wanted)
    async def handler(session: Session, bot: Bot, update: Update) -> None:
        seen.extend([session, bot.sessions.get("ann", "ann"), bot.sessions.of(update)])
        assert session.data is seen[0].data

    @router.on("edited_message")
    async def both(session: Session, order: Annotated[Session, Qualifier("order")]) -> None:
        assert session.data == order.data == {"n": 1}

    with running(router, store=store):
        await handle(message("/begin"))
        for update, loads in [
            (message("/none"), 0),
            (keyless(), 0),
            (message("hello"), 1),
            (message(type="edited_message"), 1),
        ]:
            before = store.loads
            await handle(update)
            assert await status(update) == "done"
            assert store.loads - before == loads
    assert len(seen) == 4
    assert len({id(each) for each in seen}) == 1


# Parallel sessions


async def test_parallel_sessions_of_a_chat_keep_apart_and_hear_the_same() -> None:
    """S12: five of one person, declared or not, each with data and a slice of its own."""
    router = Router()
    declared = ("", "order", "support")
    everything = (*declared, "quiz", "outside")

    @router.command("begin")
    async def begin(
        plain: Session,
        order: Annotated[Session, Qualifier("order")],
        support: Annotated[Session, Qualifier("support")],
        bot: Bot,
    ) -> None:
        for each in (plain, order, support):
            each.data["mine"] = each.key.qualifier
            await each.open()
        async with bot.sessions.get("ann", "ann", "quiz") as quiz:
            quiz.data["mine"] = "quiz"

    @router.command("close")
    async def close(support: Annotated[Session, Qualifier("support")]) -> None:
        support.data["closed"] = True
        await support.close()

    @router.message()
    async def listen(update: Update) -> None: ...

    with running(router):
        async with sessions().get("ann", "ann", "outside") as outside:
            outside.data["mine"] = "outside"
        await handle(message("/begin"))
        said = message("to all of them")
        await handle(said)
        await handle(message("of somebody else", user="ben"))
        await handle(message("to another bot", bot="other"))
        await handle(message("/close"), message("to the others"))
        heard = ["to all of them", "/close", "to the others"]
        for qualifier in everything:
            expected = heard if qualifier != "outside" else ["/begin", *heard]
            expected = expected if qualifier != "support" else []
            assert await slice_of("ann", "ann", qualifier) == expected
        expected_data: dict[tuple[str, ...], Any] = {
            ("ann", "ann", "", each): {"mine": each} for each in everything
        }
        expected_data["ann", "ann", "", "support"]["closed"] = True
        assert await contents() == expected_data
        assert said.message is not None
        once = TrackedMessage.objects.filter(message_id=said.message.id)
        assert await once.acount() == 4


Own = Annotated[Session, Qualifier("")]
Order = Annotated[Session, Qualifier("order")]
Person = Annotated[Session, Scope("user")]
PersonsOrder = Annotated[Session, Scope("user"), Qualifier("order")]
Room = Annotated[Session, Scope("chat")]


async def test_named_sessions_that_share_a_store_do_not_overwrite_each_other(
    stores: dict[str, Any],
) -> None:
    """S13: four of one update, also where two updates that share two of them run at once."""
    router, together = Router(), asyncio.Barrier(2)
    runs: list[str] = []

    @router.command("at-once")
    async def at_once(
        update: Update, own: Own, order: Order, person: Person, persons: PersonsOrder
    ) -> None:
        runs.append(update.text)
        named = {"own": own, "order": order, "person": person, "persons": persons}
        for name, each in named.items():
            each.data["name"] = name
            each.data["n"] = each.data.get("n", 0) + 1
        if runs.count(update.text) == 1:
            await asyncio.wait_for(together.wait(), 5)

    with running(router, STORES=stores):
        for _ in range(2):
            runs.clear()
            await handle(message("/at-once in g", chat="g"), message("/at-once in h", chat="h"))
            assert len(runs) == 3  # the later one again, on what the earlier one has saved
        expected = {
            (chat, "ann", "", qualifier): {"name": qualifier or "own", "n": 2}
            for chat in ("g", "h")
            for qualifier in ("", "order")
        }
        assert await contents() == expected | {
            ("", "ann", "", ""): {"name": "person", "n": 4},
            ("", "ann", "", "order"): {"name": "persons", "n": 4},
        }


async def test_updates_of_several_people_at_once_share_a_store(stores: dict[str, Any]) -> None:
    """S13: two named sessions each, ten people in one turn, three times."""
    router = Router()

    @router.message()
    async def count(update: Update, own: Own, order: Order) -> None:
        own.data["n"] = own.data.get("n", 0) + 1
        order.data.setdefault("texts", []).append(update.text)

    people = [f"user{number}" for number in range(10)]
    with running(router, STORES=stores):
        await handle(*[message(f"{each}", user=who) for each in range(3) for who in people])
        found = await contents()
        for who in people:
            assert found.pop((who, who, "", "")) == {"n": 3}
            assert found.pop((who, who, "", "order")) == {"texts": ["0", "1", "2"]}
        assert found == {}


# Several keys in one handler


def of_several_scopes(runs: list[str], after: Callable[[], None] = lambda: None) -> Router:
    """Return a router whose handler has four sessions, one of which another update saves first."""
    router = Router()

    @router.command("elsewhere")
    async def elsewhere(person: Person) -> None:
        person.data["n"] = person.data.get("n", 0) + 10

    @router.message()
    async def handler(update: Update, own: Own, room: Room, person: Person, order: Order) -> None:
        runs.append(update.text)
        for each in (own, room, person):
            each.data["n"] = each.data.get("n", 0) + 1
        if update.text == "raced":
            order.delete()
            await own.send(f"run {len(runs)}")
            if runs.count("raced") == 1:
                await current_engine().submit(message("/elsewhere", chat="den"))
            else:
                after()
        else:
            order.data["kept"] = True

    return router


OWN, ROOM = ("g", "ann", "", ""), ("g", "", "", "")
PERSON, ORDER = ("", "ann", "", ""), ("g", "ann", "", "order")


async def test_a_conflict_on_one_session_runs_the_handler_again_for_all(
    stores: dict[str, Any],
) -> None:
    """P12: of four with different keys none is saved twice, and nothing is sent twice."""
    runs: list[str] = []
    with running(of_several_scopes(runs), STORES=stores):
        await handle(message("begin", chat="g"))
        one = {"n": 1}
        assert await contents() == {OWN: one, ROOM: one, PERSON: one, ORDER: {"kept": True}}
        update = message("raced", chat="g")
        await handle(update)
        assert await status(update) == "done"
        assert runs == ["begin", "raced", "raced"]
        assert await contents() == {OWN: {"n": 2}, ROOM: {"n": 2}, PERSON: {"n": 12}}
        assert texts("g") == ["run 2"]
        rows = {(row.chat, row.user): row.version async for row in BotSession.objects.all()}
        assert rows == {("g", "ann"): 2, ("g", ""): 2, ("", "ann"): 3}


async def test_a_handler_that_conflicts_and_then_fails_saves_nothing_of_any_session(
    stores: dict[str, Any],
) -> None:
    """P12, S25: all or nothing, what it deletes included."""
    runs: list[str] = []

    def fail() -> None:
        raise LookupError("on purpose")

    with running(of_several_scopes(runs, fail), STORES=stores, ATTEMPTS=1):
        await handle(message("begin", chat="g"))
        update = message("raced", chat="g")
        await handle(update)
        assert await status(update) == "parked"
        assert runs == ["begin", "raced", "raced"]
        one = {"n": 1}
        assert await contents() == {OWN: one, ROOM: one, PERSON: {"n": 11}, ORDER: {"kept": True}}


async def test_a_block_that_deletes_too_late_deletes_nothing(stores: dict[str, Any]) -> None:
    """P12, P3: outside handlers too, what somebody else saved meanwhile stays in its store."""
    router = Router()

    @router.message()
    async def count(person: Person) -> None:
        person.data["n"] = person.data.get("n", 0) + 1

    async def delete_late() -> None:
        async with sessions().get(user="ann") as session:
            session.delete()
            await handle(message(chat="g"))

    with running(router, STORES=stores):
        await handle(message(chat="g"))
        with pytest.raises(SessionConflict):
            await delete_late()
        assert await contents() == {PERSON: {"n": 2}}


# Several accesses in one handler


async def test_verbs_of_several_sessions_at_once_go_to_their_own() -> None:
    """S62: of the same key and of different ones, within a handler and outside."""
    router, answers = Router(), []

    async def send(bot: Bot) -> list[Any]:
        get = bot.sessions.get
        sent = await asyncio.gather(
            get("team").send("one"),
            get("den").send("two"),
            get("team").send("three"),
            get("team", qualifier="order").send("four"),
        )
        return list(sent)

    @router.message()
    async def handler(bot: Bot) -> None:
        answers.extend(await send(bot))

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert await slice_of("team") == ["one", "three"]
        assert await slice_of("den") == ["two"]
        assert await slice_of("team", qualifier="order") == ["four"]
        answers.extend(await send(bots["demo"]))
        assert sorted(await slice_of("team")) == ["one", "one", "three", "three"]
        assert await slice_of("den") == ["two", "two"]
        assert await slice_of("team", qualifier="order") == ["four", "four"]
    assert [each["text"] for each in answers] == ["one", "two", "three", "four"] * 2


def adding(*chats: str) -> Router:
    """Return a router whose handler is in blocks of these chats' sessions at once.

    They are left in the order in which they were entered.
    """
    router = Router()

    @router.message()
    async def handler(bot: Bot) -> None:
        together = asyncio.Barrier(len(chats))
        left = [asyncio.Event() for _ in chats]

        async def add(number: int, chat: str) -> None:
            try:
                async with bot.sessions.get(chat) as session:
                    await asyncio.wait_for(together.wait(), 5)
                    session.data["n"] = session.data.get("n", 0) + 1
                    await bot.send(None, f"{number} in {chat}")
                    if number:
                        await asyncio.wait_for(left[number - 1].wait(), 5)
            finally:
                left[number].set()

        await asyncio.gather(*[add(*each) for each in enumerate(chats)])

    return router


async def test_blocks_of_different_sessions_at_once_keep_apart() -> None:
    """S62, S73: within a handler, each with its own data and slice."""
    with running(adding("team", "den", "hall"), ATTEMPTS=1):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        expected = {(chat, "", "", ""): {"n": 1} for chat in ("team", "den", "hall")}
        assert await contents() == expected
        for number, chat in enumerate(("team", "den", "hall")):
            assert await slice_of(chat) == [f"{number} in {chat}"]


async def test_blocks_of_the_same_session_at_once_share_it() -> None:
    """S62, S73: within a handler it is one object, however often it is entered."""
    with running(adding("team", "team", "den", "team"), ATTEMPTS=1):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert await contents() == {("team", "", "", ""): {"n": 3}, ("den", "", "", ""): {"n": 1}}
        assert sorted(await slice_of("team")) == ["0 in team", "1 in team", "3 in team"]
        assert await slice_of("den") == ["2 in den"]


async def test_blocks_of_several_sessions_at_once_outside_handlers(stores: dict[str, Any]) -> None:
    """S62, P10: two of one mailbox take turns, those of others do not wait."""
    router = Router()

    async def add(chat: str, qualifier: str) -> None:
        async with sessions().get(chat, "ann", qualifier) as session:
            n = session.data.get("n", 0)
            await asyncio.sleep(0.001)
            session.data["n"] = n + 1

    with running(router, STORES=stores):
        keys = [("team", ""), ("team", "order"), ("den", "")]
        await asyncio.gather(*[add(*key) for key in keys * 3])
        assert await contents() == {(chat, "ann", "", name): {"n": 3} for chat, name in keys}


# A group that becomes a supergroup


def left(user: str = "ann") -> Update:
    """Return the last message of the group."""
    return told(user=user, chat="g", migrated_to="s")


def came(user: str = "ann") -> Update:
    """Return the first message of the supergroup."""
    return told(user=user, chat="s", kind="supergroup", migrated_from="g")


MOVES: dict[str, Callable[[], list[list[Update]]]] = {
    "left first": lambda: [[left()], [came()]],
    "came first": lambda: [[came()], [left()]],
    "left alone": lambda: [[left()]],
    "came alone": lambda: [[came()]],
    "both at once": lambda: [[left(), came()]],
    "both at once, came before": lambda: [[came(), left()]],
    "told by two people": lambda: [[left("ann"), came("ben")]],
    "told by nobody": lambda: [[came(""), left("")]],
    "told twice": lambda: [[left()], [came()], [left(), came()]],
}


def following() -> Router:
    """Return a router that keeps what is said, and the session's number of updates."""
    router = Router()

    @router.message(lambda update: bool(update.text))
    async def said(update: Update, session: Session, order: Order) -> None:
        session.data.setdefault("texts", []).append(update.text)
        order.data["n"] = order.data.get("n", 0) + 1
        await order.open()
        await session.send(f"heard {update.text}")

    @router.on()
    async def listen(update: Update) -> None: ...

    return router


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
async def test_sessions_of_a_group_follow_it_whoever_tells_first(
    moves: Callable[[], list[list[Update]]],
) -> None:
    """P17: one session results, with its data, its open slice and its messages."""
    with running(following()):
        await handle(told("before", chat="g"), told("elsewhere", chat="h"))
        for updates in moves():
            await handle(*updates)
            assert [await status(each) for each in updates] == ["done"] * len(updates)
        await handle(told("after", chat="s", kind="supergroup"))
        assert await contents() == {
            ("s", "ann", "", ""): {"texts": ["before", "after"]},
            ("s", "ann", "", "order"): {"n": 2},
            ("h", "ann", "", ""): {"texts": ["elsewhere"]},
            ("h", "ann", "", "order"): {"n": 1},
        }
        slices = [
            [text for text in await slice_of("s", "ann", each) if text] for each in ("", "order")
        ]
        assert slices == [["heard before", "after", "heard after"], ["after"]]
        assert await slice_of("h", "ann") == ["heard elsewhere"]
        opened = {(row.chat, row.is_open) async for row in BotSession.objects.all()}
        assert opened == {("s", True), ("h", True)}
        assert (texts("g"), texts("s")) == (["heard before"], ["heard after"])


@pytest.mark.parametrize("strategy", ["chat", "thread", "auto"])
@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
async def test_sessions_of_a_group_follow_it_with_every_strategy(
    strategy: str, moves: Callable[[], list[list[Update]]]
) -> None:
    """P17, S3, S4: also those of everybody together, of one person's and of topics."""
    router = collecting()

    def in_topic(text: str, chat: str, kind: str) -> Update:
        return told(text, chat=chat, kind=kind, thread="7")

    with running(router, key=strategy):
        await handle(told("before", chat="g"), in_topic("topic before", "g", "group"))
        for updates in moves():
            await handle(*updates)
        await handle(
            told("after", chat="s", kind="supergroup"),
            in_topic("topic after", "s", "supergroup"),
        )
        found = {
            key: [text for text in data["texts"] if text]
            for key, data in (await contents()).items()
            if any(data["texts"])
        }
        before, after = ["before", "after"], ["topic before", "topic after"]
        if strategy == "thread":
            assert found == {("s", "", "", ""): before, ("s", "", "7", ""): after}
        else:
            person = "ann" if strategy == "auto" else ""
            everything = ["before", "topic before", "after", "topic after"]
            assert found == {("s", person, "", ""): everything}
        assert not await BotSession.objects.filter(chat="g").aexists()


async def test_a_group_that_moves_takes_its_data_along_in_every_store(
    stores: dict[str, Any],
) -> None:
    """P17: also where the data is not kept in the row."""
    with running(following(), STORES=stores):
        await handle(told("before", chat="g"))
        await handle(left())
        await handle(came())
        await handle(told("after", chat="s", kind="supergroup"))
        assert await contents() == {
            ("s", "ann", "", ""): {"texts": ["before", "after"]},
            ("s", "ann", "", "order"): {"n": 2},
        }


@pytest.mark.parametrize("tells", [left, came])
async def test_the_handler_that_is_told_of_the_move_has_the_session_that_moved(
    tells: Callable[[], Update], stores: dict[str, Any]
) -> None:
    """P17."""
    router, seen = Router(), []

    @router.message()
    async def handler(update: Update, session: Session, room: Room) -> None:
        seen.append((session.key.chat, room.key.chat, session.data.get("n"), room.data.get("n")))
        session.data["n"] = session.data.get("n", 0) + 1
        room.data["n"] = room.data.get("n", 0) + 10

    with running(router, STORES=stores):
        await handle(told("before", chat="g"))
        await handle(tells())
        assert seen == [("g", "g", None, None), ("s", "s", 1, 10)]
        assert await contents() == {("s", "ann", "", ""): {"n": 2}, ("s", "", "", ""): {"n": 20}}


@pytest.mark.parametrize("tells", [left, came])
async def test_what_tells_of_the_move_is_in_the_slice_that_moved(
    tells: Callable[[], Update],
) -> None:
    """P17, S65: it is a message that is said in an open session's place."""
    router, found = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        found.append([each.kind for each in await session.messages()])

    with running(router):
        await sessions().get("g", "ann").open()
        await handle(told("before", chat="g"))
        await handle(tells())
        await handle(told("after", chat="s", kind="supergroup"))
        assert found == [["text"], ["text", "other"], ["text", "other", "text"]]


async def test_what_a_group_says_while_it_moves_is_in_the_session_that_moved() -> None:
    """P17: what was being handled, and what waited behind it, when the move was told."""
    router = Router()
    begun, free = asyncio.Event(), asyncio.Event()

    @router.message(lambda update: bool(update.text))
    async def said(update: Update, session: Session) -> None:
        session.data.setdefault("texts", []).append(update.text)
        if update.text == "slow" and not free.is_set():
            begun.set()
            await asyncio.wait_for(free.wait(), 5)

    with running(router):
        await handle(told("before", chat="g"))
        engine = current_engine()
        engine.is_lasting = True
        engine.submit(told("slow", chat="g"))
        await asyncio.wait_for(begun.wait(), 5)
        engine.submit(told("waiting", chat="g"))
        moving = [engine.submit(left()), engine.submit(came())]
        await asyncio.wait(moving, timeout=2)
        free.set()
        await engine.drain()
        await handle(told("after", chat="s", kind="supergroup"))
        assert await contents() == {
            ("s", "ann", "", ""): {"texts": ["before", "slow", "waiting", "after"]}
        }


async def test_a_group_that_moves_leaves_other_bots_and_people_alone() -> None:
    """P17, S8, S5: other bots' sessions of that chat, and those of people, stay where they are."""
    router = Router()

    @router.message(lambda update: bool(update.text))
    async def said(update: Update, session: Session, person: Person) -> None:
        session.data["text"] = person.data["text"] = update.text

    with running(router):
        await handle(told("demo's", chat="g"), told("other's", chat="g", bot="other"))
        await handle(left(), came())
        ann = ("", "ann", "", "")
        assert await contents() == {
            ("s", "ann", "", ""): {"text": "demo's"},
            ann: {"text": "demo's"},
        }
        assert await contents("other") == {
            ("g", "ann", "", ""): {"text": "other's"},
            ann: {"text": "other's"},
        }


async def test_a_chat_that_says_that_it_came_from_itself_stays_as_it_is() -> None:
    """P17: as the payload `message__migrate_from_chat_id_senderchat__rubenlagus` has it."""
    router = Router()

    @router.on()
    async def listen(update: Update) -> None: ...

    with running(router):
        await sessions().get("s", "ann").open()
        await handle(told("before", chat="s"))
        update = told(chat="s", migrated_from="s")
        await handle(update)
        assert await status(update) == "done"
        assert (await slice_of("s", "ann"))[:1] == ["before"]


# Time, and stores of one's own


async def test_the_time_of_the_last_write_moves_with_each_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S30, S29: and reading leaves it."""
    moment = Moment()
    monkeypatch.setattr(clock, "now", moment)
    router = Router()

    @router.command("look")
    async def look(session: Session) -> None:
        assert session.data["n"]

    @router.command("expire")
    async def expire(session: Session) -> None:
        session.expire_in(1000)

    @router.message()
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    async def stamp() -> float:
        [found] = [each async for each in sessions().all()]
        elapsed: timedelta = found.updated_at - datetime(2030, 1, 1, tzinfo=UTC)
        return elapsed.total_seconds()

    async def outside() -> None:
        async with sessions().get("ann", "ann") as session:
            session.update(n=7)

    with running(router):
        stamps = []
        for text in ("write", "write", "/look", "/look", "write", "/expire"):
            moment.now += timedelta(seconds=10)
            await handle(message(text))
            stamps.append(await stamp())
        assert stamps == [10, 20, 20, 20, 50, 60]
        moment.now += timedelta(seconds=10)
        await outside()
        assert await stamp() == 70


async def test_what_a_session_is_cannot_be_assigned() -> None:
    """S29: its id, bot, chat, user and version are read-only."""
    router, refused = Router(), []
    names = ["key", "bot", "chat", "user", "version", "is_open", "expires_at"]

    @router.message()
    async def handler(session: Session) -> None:
        for name in names:
            try:
                setattr(session, name, getattr(session, name))
            except AttributeError:
                refused.append(name)
        for part in ("bot", "chat", "user", "qualifier"):
            try:
                setattr(session.key, part, "ben")
            except AttributeError:
                refused.append(f"key.{part}")

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "done"
    assert refused == [*names, "key.bot", "key.chat", "key.user", "key.qualifier"]


async def test_all_goes_on_behind_the_first_batch(
    monkeypatch: pytest.MonkeyPatch, stores: dict[str, Any]
) -> None:
    """S36: each live session once, decoded, and no other bot's, in every store."""
    monkeypatch.setattr("botsessions.sessions.BATCH", 2)
    people = [f"user{number}" for number in range(5)]
    with running(collecting(), STORES=stores):
        await handle(*[message(who, user=who) for who in people])
        await handle(message("other's", bot="other"))
        found = [(each.key.user, each.data) async for each in sessions().all()]
        assert sorted(found) == [(who, {"texts": [who]}) for who in people]
        assert list(await contents("other")) == [("ann", "ann", "", "")]


class Shared(Held):
    """A store of the project's own, whose values outlive it."""

    kept: dict[SessionKey, bytes] = {}

    def __init__(self, alias: str, options: Any = ()) -> None:
        super().__init__(alias, options)
        self.values = self.kept

    def save(self, values: Any) -> None:
        self.kept |= {key: data for key, data, _ in values}


class Counted(Held):
    """A store of the project's own, which counts how often it is made."""

    made: list[str] = []

    def __init__(self, alias: str, options: Any = ()) -> None:
        super().__init__(alias, options)
        self.made.append(alias)


async def test_a_store_is_made_once_before_its_first_use() -> None:
    """S35: there is none to be used before, and two bots share it."""
    Counted.made.clear()
    with running(collecting(), STORES={"mine": {"BACKEND": Counted}}, store="mine"):
        for bot in ("demo", "other"):
            await handle(message("one", bot=bot))
        assert Counted.made == ["mine"]
        assert bots["demo"].store is bots["other"].store
    with running(collecting(), STORES={"mine": {"BACKEND": Counted}}, store="mine"):
        await handle(message("two"))
        assert Counted.made == ["mine", "mine"]


@pytest.mark.parametrize("kind", ["path", "class", "instance"])
async def test_a_store_of_ones_own_keeps_the_sessions(kind: str) -> None:
    """S42, S83: by dotted path, as a class, or made already."""
    Shared.kept.clear()
    backend = "tests.test_keys_in_use.Shared" if kind == "path" else Shared
    changes: dict[str, Any] = {"STORES": {"mine": {"BACKEND": backend}}, "store": "mine"}
    if kind == "instance":
        changes = {"store": Shared("mine")}
    with running(collecting(), **changes):
        await handle(message("one"))
        await handle(message("two"))
        assert await contents() == {("ann", "ann", "", ""): {"texts": ["one", "two"]}}
        assert isinstance(bots["demo"].store, Shared)
        assert list(Shared.kept) == [SessionKey("demo", "ann", "ann")]
        assert b'"two"' in Shared.kept[SessionKey("demo", "ann", "ann")]
        assert (await BotSession.objects.aget()).data is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store": "missing"}, "Bot 'demo': STORE 'missing'"),
        ({"STORES": {"default": {"BACKEND": "no.such.Store"}}}, r"'default'.*'no\.such\.Store'"),
        ({"STORES": {"default": {"BACKEND": "botsessions.Chat"}}}, r"'botsessions\.Chat'.*Store"),
        ({"STORES": {"default": {"BACKEND": dict}}}, "'default'.*Store"),
        ({"STORES": {"default": {}}}, "'default'.*Store"),
    ],
    ids=["alias", "path", "no store", "no store class", "nothing"],
)
def test_an_unknown_store_is_named(changes: dict[str, Any], words: str) -> None:
    """S42."""
    with running(Router(), **changes), pytest.raises(ImproperlyConfigured, match=words):
        bots["demo"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("rooms", "KEY 'rooms'.*chat_user"),
        ("tests.test_keys_in_use.nothing", "nothing"),
        ("no.such.function", "no.such.function"),
        (7, "KEY 7"),
        (None, "KEY"),
    ],
)
def test_an_unknown_key_strategy_is_named(key: Any, words: str) -> None:
    """S83, S6."""
    with running(Router(), key=key), pytest.raises(ImproperlyConfigured, match=f"'demo'.*{words}"):
        bots["demo"]
