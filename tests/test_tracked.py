"""Tracked messages: what is said where a session is open is in its slice, in both directions."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from botsessions import (
    Bot,
    Chat,
    Direction,
    Message,
    Qualifier,
    Router,
    Session,
    SessionKey,
    Update,
    User,
    clock,
)
from botsessions.bots import bots
from botsessions.clearing import Cleared
from botsessions.exceptions import InvalidRequest, PlatformUnavailable
from botsessions.mailboxes.base import Tracked
from botsessions.models import BotSession, DeletionChunk, MessageDeletion, TrackedMessage
from botsessions.platforms.base import Deletion
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.local_chat import LocalChat
from botsessions.sessions import SessionManager
from tests.kit import data, handle, in_slices, message, running, status, texts

pytestmark = pytest.mark.django_db

ANN = User("ann", "Ann")
#: A bot that takes everything and says nothing.
quiet = Router()


@quiet.on()
async def listen(update: Update) -> None: ...


class Noting(LocalPlatform):
    """Deletes two messages at a time, and notes which it was asked to delete."""

    delete_batch_size = 2

    def __init__(self, alias: str, options: Any) -> None:
        super().__init__(alias, options)
        self.asked: list[list[str]] = []

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        self.asked.append(list(ids))
        return await super().delete_messages(chat, ids, business)


def sessions(bot: str = "demo") -> SessionManager:
    return bots[bot].sessions


def network(bot: str = "demo") -> LocalChat:
    """Return the network in which a bot meets people."""
    platform = bots[bot].platform
    assert isinstance(platform, LocalPlatform)
    return platform.network


def noting(bot: str = "demo") -> Noting:
    platform = bots[bot].platform
    assert isinstance(platform, Noting)
    return platform


def arrived(payload: dict[str, Any], bot: str = "demo") -> Update:
    """Return what a bot makes of an update of its network."""
    [update] = bots[bot].platform.parse(msgspec.json.encode(payload))
    return update


def say(text: str, user: str = "ann", chat: str = "") -> Update:
    """Let somebody say something in the network, and return the update of it."""
    place = Chat(chat or user, "group" if chat else "private")
    return arrived(network().say(place, User(user, user.title()), text))


async def rows(
    chat: str = "ann", user: str = "ann", qualifier: str = "", bot: str = "demo"
) -> list[tuple[str, str]]:
    """Return direction and text of what a session has tracked, in order, without touching it."""
    stored = in_slices().filter(
        session__bot=bot, session__chat=chat, session__user=user, session__qualifier=qualifier
    )
    return [(each.direction, each.text) async for each in stored.order_by("id")]


def said(tracked: Iterable[Tracked]) -> list[str]:
    return [each.text for each in tracked]


async def meddle() -> None:
    """Save ann's session, as somebody else would who has it meanwhile."""
    await BotSession.objects.filter(bot="demo", user="ann").aupdate(version=F("version") + 1)


# Recording what comes in


async def test_a_message_is_in_every_open_session_of_its_place_and_in_no_other() -> None:
    """S65."""
    here = [("team", "", ""), ("team", "ann", ""), ("", "ann", ""), ("team", "ann", "order")]
    elsewhere = [("team", "ben", ""), ("den", "ann", ""), ("den", "", ""), ("", "ben", "")]
    with running(quiet):
        for chat, user, qualifier in here + elsewhere:
            await sessions().get(chat, user, qualifier).open()
        await sessions().get("team", "ann", "closed").open()
        await sessions().get("team", "ann", "closed").close()
        await sessions("other").get("team", "ann").open()
        await handle(message("hello", user="ann", chat="team"))
        for key in here:
            assert await rows(*key) == [("incoming", "hello")]
        assert await TrackedMessage.objects.acount() == len(here)


async def test_a_session_of_a_topic_tracks_that_topic_alone() -> None:
    """S65."""
    with running(quiet):
        await sessions().get("team", thread="7").open()
        for thread in ("7", "8", ""):
            said_there = message(f"in {thread}", chat="team")
            await handle(msgspec.structs.replace(said_there, thread=thread))
        assert await rows("team", "") == [("incoming", "in 7")]


async def test_a_message_without_a_sender_is_in_the_session_of_its_chat() -> None:
    """S65."""
    with running(quiet):
        await sessions().get("news").open()
        await sessions().get("news", "ann").open()
        await handle(message("posted", user="", chat="news", type="channel_post"))
        assert await rows("news", "") == [("incoming", "posted")]
        assert await rows("news", "ann") == []


async def test_the_handler_finds_the_message_in_its_slice() -> None:
    """S65: it is recorded before the handlers."""
    router = Router()
    found: list[list[str]] = []

    @router.message()
    async def look(session: Session) -> None:
        found.append(said(await session.messages()))
        await session.open()

    with running(router):
        await handle(message("first"))
        await handle(message("second"))
    assert found == [[], ["second"]]


async def test_a_slice_is_in_the_order_of_what_was_said() -> None:
    """S65, S71, S75."""
    router = Router()
    found: list[Tracked] = []

    @router.message()
    async def answer(update: Update, session: Session) -> None:
        await session.open()
        await session.send(f"{update.text} one")
        session.send(f"{update.text} two")
        if update.text == "c":
            found.extend(await session.messages())

    with running(router):
        for text in ("a", "b", "c"):
            await handle(message(text))
        assert said(found) == ["a one", "a two", "b", "b one", "b two", "c", "c one", "c two"]
        assert [each.direction for each in found[:3]] == [
            Direction.OUTGOING,
            Direction.OUTGOING,
            Direction.INCOMING,
        ]
        assert [each.id for each in found] == sorted(each.id for each in found)


@pytest.mark.parametrize(
    "type_",
    [
        "my_chat_member",
        "chat_member",
        "chat_join_request",
        "message_reaction",
        "message_reaction_count",
        "deleted_business_messages",
        "poll",
        "poll_answer",
    ],
)
async def test_what_is_no_message_is_not_tracked(type_: str) -> None:
    """S66: not even where it names a message."""
    with running(quiet):
        await sessions().get("ann", "ann").open()
        await sessions().get("", "ann").open()
        update = message(type=type_)
        await handle(update, message("a message"))
        assert await status(update) == "done"
        assert await rows() == [("incoming", "a message")]
        assert await rows("", "ann") == [("incoming", "a message")]


@pytest.mark.parametrize(
    "type_",
    [
        "message",
        "edited_message",
        "channel_post",
        "edited_channel_post",
        "business_message",
        "edited_business_message",
        "guest_message",
    ],
)
async def test_every_type_of_update_that_brings_a_message_is_tracked(type_: str) -> None:
    """S65."""
    with running(quiet):
        await sessions().get("ann", "ann").open()
        await handle(message("said", type=type_))
        assert await rows() == [("incoming", "said")]


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="Django sees the statements of SQLite")
def test_where_no_session_is_open_nothing_is_asked_about_messages() -> None:
    """S67."""
    router = Router()

    @router.message()
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    async def is_idle() -> bool:
        return await sessions().is_idle()

    with running(router):
        with CaptureQueriesContext(connection) as queries:
            async_to_sync(handle)(message(), message(chat="team"))
        assert not [each for each in queries if "botsessions_trackedmessage" in each["sql"]]
        assert async_to_sync(is_idle)()
        assert BotSession.objects.count() == 2


async def test_the_message_of_a_failing_handler_is_tracked() -> None:
    """S65: it was said, whatever becomes of it; once, however often it is tried."""
    router = Router()

    @router.message()
    async def fail(session: Session) -> None:
        session.track(Message("9", Chat("ann"), text="discarded"))
        raise RuntimeError("on purpose")

    with running(router, ATTEMPTS=3):
        await sessions().get("ann", "ann").open()
        update = message("said")
        await handle(update)
        assert await status(update) == "parked"
        assert await rows() == [("incoming", "said")]


async def test_a_message_that_has_no_lasting_id_is_tracked_once_for_each_update() -> None:
    """S65: such ids (Telegram's 0) are never unique, and trying again adds nothing."""
    router, tries = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("on purpose")

    with running(router, ATTEMPTS=3):
        await sessions().get("ann", "ann").open()
        for number in ("e1", "e2"):
            fleeting = Message("", Chat("ann"), ANN, text=number)
            await handle(Update("demo", number, "message", Chat("ann"), ANN, fleeting))
        assert await rows() == [("incoming", "e1"), ("incoming", "e2")]


# Changes to what is there


async def test_an_edit_changes_the_message_that_is_tracked() -> None:
    """S65, P26: one row for each message; who said it, and its place, stay."""
    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        await session.send("answer")

    with running(router):
        await sessions().get("ann", "ann").open()
        update = say("helo")
        await handle(update)
        assert update.message is not None
        await handle(arrived(network().amend("ann", ANN, update.message.id, "hello")))
        assert await rows() == [("incoming", "hello"), ("outgoing", "answer")]
        row = await TrackedMessage.objects.aget(direction="incoming")
        assert row.edited_at is not None
        assert row.update_id == update.id


async def test_an_edit_by_the_bot_changes_the_message_that_is_tracked() -> None:
    """P26."""
    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        sent = await session.send("wait")
        await session.call("edit", message_id=str(sent["message_id"]), text="done")

    with running(router):
        await handle(message())
        assert await rows() == [("outgoing", "done")]


async def test_a_press_leaves_the_message_of_the_bot_outgoing() -> None:
    """S65: also where the session was opened after that message was sent."""
    router = Router()

    @router.message()
    async def ask(session: Session, bot: Bot) -> None:
        await session.send("tracked?", buttons={"Yes": "yes"})
        await bot.send("ann", "untracked?", buttons={"Yes": "yes"})

    @router.action()
    async def pressed(update: Update, session: Session) -> None:
        assert await session.track(update) == 1

    with running(router):
        await handle(message())
        for shown in network().history("ann")["messages"]:
            await handle(arrived(network().press("ann", ANN, shown["message_id"], "yes")))
        assert await rows() == [("outgoing", "tracked?"), ("outgoing", "untracked?")]


async def test_business_and_guest_chats_share_no_session_with_the_chat_of_the_bot() -> None:
    router = Router()

    @router.message()
    async def count(update: Update, session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        await session.send(f"{update.type} {session.data['n']}")

    def update(type_: str, number: int, business: str = "", *, guest: bool = False) -> Update:
        chat, text = Chat("ann"), f"{type_} said {number}"
        said = Message(f"{number}", chat, ANN, text=text, business=business)
        return Update(
            "demo", f"{type_} {number}", type_, chat, ANN, said, text=text,
            business=business, guest=guest,
        )  # fmt: skip

    with running(router):
        for number in (1, 2):
            await handle(
                update("message", number),
                update("business_message", number, "b1"),
                update("guest_message", number, guest=True),
            )
        for chat, type_ in (
            ("ann", "message"),
            ("business/b1/ann", "business_message"),
            ("guest/ann", "guest_message"),
        ):
            assert (await BotSession.objects.aget(chat=chat)).data == {"n": 2}
            assert await rows(chat) == [
                ("outgoing", f"{type_} 1"),
                ("incoming", f"{type_} said 2"),
                ("outgoing", f"{type_} 2"),
            ]
        [incoming] = [
            each
            async for each in TrackedMessage.objects.filter(
                session__chat="business/b1/ann", direction="incoming"
            )
        ]
        assert incoming.business == "b1"
        assert incoming.chat == "ann"


async def test_what_the_platform_says_is_deleted_leaves_the_slice() -> None:
    """By whoever said it: the bot's clear() does not ask for it again."""
    router, seen = Router(), []

    @router.on("deleted_business_messages")
    async def deleted(update: Update) -> None:
        seen.append(update.deleted)

    @router.on("business_message")
    async def answer(session: Session) -> None:
        await session.send("hello")

    def said(id: str, text: str) -> Update:
        message = Message(id, Chat("ann"), ANN, text=text, business="b1")
        return Update(
            "demo", id, "business_message", Chat("ann"), ANN, message, text=text, business="b1"
        )

    gone = Update(
        "demo", "gone", "deleted_business_messages", Chat("ann"), business="b1",
        deleted=("m2", "m9"),
    )  # fmt: skip
    with running(router):
        for number in range(4):
            await handle(said(f"m{number}", f"secret {number}"))
        await handle(gone)
        assert seen == [("m2", "m9")]
        assert [text for direction, text in await rows("business/b1/ann")] == [
            "hello", "secret 1", "hello", "hello", "secret 3", "hello",
        ]  # fmt: skip
        row = await TrackedMessage.objects.aget(message_id="m2")
        assert (row.text, row.outcome, row.deleted_at is None) == ("", Deletion.GONE, False)
        cleared = await bots["demo"].sessions.get("business/b1/ann", "ann").clear()
        assert cleared == 6


# Recording by hand, and what goes out


async def test_an_update_is_tracked_as_incoming() -> None:
    """S68: it opens the session; without a message nothing happens."""
    router, counts = Router(), []

    @router.on()
    async def track(update: Update, session: Session) -> None:
        counts.append(await session.track(update))

    with running(router):
        await handle(Update("demo", "member", "my_chat_member", Chat("ann"), ANN))
        assert not await BotSession.objects.aexists()
        await handle(message("a message of a member", type="chat_member"))
        await handle(message("ben's", user="ben"))
        assert await rows() == [("incoming", "a message of a member")]
        assert await rows("ben", "ben") == [("incoming", "ben's")]
    assert counts == [0, 1, 1]


async def test_a_message_or_an_answer_is_tracked_as_outgoing_unless_said_otherwise() -> None:
    """S68, S71."""
    router, counts = Router(), []

    @router.message()
    async def track(update: Update, session: Session, bot: Bot) -> None:
        counts.append(await session.track(Message("m1", Chat("ann"), text="a message")))
        counts.append(
            await session.track(
                Message("m2", Chat("ann"), ANN, text="hers"), direction=Direction.INCOMING
            )
        )
        counts.append(await session.track(await bot.send("ann", "an answer")))
        counts.append(await session.track(await bot.call("album", chat="ann", texts=["x", "y"])))
        counts.append(await session.track(True))
        counts.append(await session.track(update, direction=Direction.OUTGOING))
        counts.append(await session.track(Message("m1", Chat("ann"), text="again")))

    with running(router):
        await handle(message("the update"))
        assert await rows() == [
            ("outgoing", "a message"),
            ("incoming", "hers"),
            ("outgoing", "an answer"),
            ("outgoing", "x"),
            ("outgoing", "y"),
            ("outgoing", "the update"),
        ]
    assert counts == [1, 1, 1, 2, 0, 1, 1]


async def test_what_is_tracked_outside_handlers_is_in_the_slice() -> None:
    """S68."""
    with running(quiet):
        handle_of_ann = sessions().get("ann", "ann")
        assert await handle_of_ann.track(message("said")) == 1
        assert await handle_of_ann.track(await bots["demo"].send("ann", "sent")) == 1
        assert await handle_of_ann.track(Update("demo", "1", "poll")) == 0
        assert await rows() == [("incoming", "said"), ("outgoing", "sent")]


async def test_each_message_of_an_answer_is_tracked() -> None:
    """S71: an album too."""
    router, results = Router(), []

    @router.message()
    async def answer(session: Session) -> None:
        results.append(await session.call("album", texts=["one", "two"]))
        results.append(await session.reply("three"))

    with running(router):
        await handle(message())
        stored = [each async for each in TrackedMessage.objects.order_by("id")]
    [one, two], three = results
    assert [each.text for each in stored] == ["one", "two", "three"]
    assert [each.message_id for each in stored] == [
        str(each["message_id"]) for each in (one, two, three)
    ]
    assert {each.direction for each in stored} == {"outgoing"}


async def test_what_is_no_message_or_has_failed_or_has_no_session_is_not_tracked() -> None:
    """S72."""
    router, results = Router(), []

    @router.message()
    async def answer(session: Session, bot: Bot) -> None:
        results.append(await session.call("typing"))
        sent = await bot.send("ann", "without a session")
        results.append(await session.call("delete", message_id=str(sent["message_id"])))
        await bot.send("ann", "this too")
        await bot.call("send", chat="ann", text="and this")
        with pytest.raises(InvalidRequest):
            await session.send("")

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert results == [True, True]
        assert texts() == ["this too", "and this"]
        assert not await TrackedMessage.objects.aexists()


async def test_a_tracked_message_says_all_that_is_known_of_it() -> None:
    """S69."""
    router = Router()
    found: list[Tracked] = []

    @router.message()
    async def answer(session: Session) -> None:
        await session.send("sent")
        found.extend(await session.messages())

    began = clock.now()
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with running(router):
        await sessions().get("ann", "ann").open()
        said_then = Message(
            "m7",
            Chat("ann"),
            ANN,
            kind="photo",
            text="look",
            date=when,
            business="b1",
            reply_to="m5",
        )
        await handle(Update("demo", "u7", "message", Chat("ann"), ANN, said_then))
    incoming, outgoing = found
    assert incoming == Tracked(
        id=incoming.id,
        chat="ann",
        message_id="m7",
        business="b1",
        direction=Direction.INCOMING,
        kind="photo",
        user="ann",
        text="look",
        sent_at=when,
        name="Ann",
        reply_to="m5",
    )
    assert outgoing.direction == Direction.OUTGOING
    assert (outgoing.chat, outgoing.user, outgoing.kind) == ("ann", "demo", "text")
    assert outgoing.sent_at is not None
    assert began - timedelta(seconds=2) <= outgoing.sent_at <= clock.now()


async def test_the_direction_of_a_tracked_message_is_a_direction() -> None:
    """S69."""
    with running(quiet):
        ann = sessions().get("ann", "ann")
        await ann.send("hi")
        [found] = await ann.messages()
        assert found.direction is Direction.OUTGOING


async def test_a_message_without_a_time_of_its_own_gets_that_of_its_recording() -> None:
    """S69."""
    with running(quiet):
        await sessions().get("ann", "ann").open()
        began = clock.now()
        await handle(message())
        [found] = await sessions().get("ann", "ann").messages()
        assert began <= found.sent_at <= clock.now()


async def test_within_a_block_of_the_session_the_bots_sends_are_in_its_slice() -> None:
    """S73."""
    router = Router()

    @router.message()
    async def answer(session: Session, bot: Bot) -> None:
        with session:
            await bot.send(None, "here")
            await bot.send("ben", "there")
            await bot.call("album", texts=["a", "b"])
            bot.send(None, "not awaited")
        await bot.send("ann", "outside")
        with pytest.raises(TypeError, match="chat"):
            bot.send(None, "nowhere")

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert texts() == ["here", "a", "b", "not awaited", "outside"]
        assert texts("ben") == ["there"]
        assert [text for _, text in await rows()] == ["here", "there", "a", "b", "not awaited"]
        assert (await TrackedMessage.objects.aget(text="there")).chat == "ben"


async def test_another_bot_sends_for_itself_within_a_block_of_the_session() -> None:
    """S73."""
    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        with session:
            await bots["other"].send("ann", "sent")
            await bots["other"].call("send", chat="ann", text="called")

    with running(router):
        await handle(message())
        assert texts(bot="other") == ["sent", "called"]
        assert texts() == []


async def test_of_blocks_within_each_other_the_inner_one_counts() -> None:
    """S73."""
    router = Router()

    @router.message()
    async def answer(
        session: Session, order: Annotated[Session, Qualifier("order")], bot: Bot
    ) -> None:
        with session:
            await bot.send(None, "outer")
            async with order:
                await bot.send(None, "inner")
            await bot.send(None, "outer again")

    with running(router):
        await handle(message())
        assert [text for _, text in await rows()] == ["outer", "outer again"]
        assert [text for _, text in await rows(qualifier="order")] == ["inner"]


async def test_an_answer_is_unchanged_and_recorded_when_the_handler_has_it() -> None:
    """S74."""
    router, seen = Router(), []

    @router.message()
    async def answer(session: Session) -> None:
        result = await session.send("hi")
        row = await TrackedMessage.objects.aget()
        seen.append((result, row.message_id, row.text))

    with running(router):
        await handle(message())
        [shown] = network().history("ann")["messages"]
    assert seen == [(shown, str(shown["message_id"]), "hi")]


async def test_a_session_is_open_once_it_has_sent_or_was_told_to() -> None:
    """S62."""
    router, seen = Router(), []

    @router.command("send")
    async def send(session: Session) -> None:
        seen.append(session.is_open)
        await session.send("hi")
        seen.append(session.is_open)

    @router.command("look")
    async def look(session: Session) -> None:
        seen.append(session.is_open)
        await session.close()
        seen.append(session.is_open)
        await session.open()
        seen.append(session.is_open)
        await session.messages()
        seen.append(session.is_open)

    with running(router):
        await handle(message("/send"))
        await handle(message("/look"))
        assert (await BotSession.objects.aget()).is_open
    assert seen == [False, True, True, False, True, True]


async def test_texts_are_kept_nowhere_where_the_bot_says_so() -> None:
    """The bot's STORE_TEXT."""
    router = Router()

    @router.message()
    async def answer(session: Session) -> None:
        await session.send("sent")
        await session.track(Message("m1", Chat("ann"), text="tracked"))

    with running(router, store_text=False):
        await sessions().get("ann", "ann").open()
        update = say("said")
        await handle(update)
        assert update.message is not None
        await handle(arrived(network().amend("ann", ANN, update.message.id, "edited")))
        await sessions().get("ann", "ann").send("from outside")
        assert await rows() == [
            ("incoming", ""),
            ("outgoing", ""),
            ("outgoing", ""),
            ("outgoing", ""),
        ]
        assert {each.kind async for each in TrackedMessage.objects.all()} == {"text"}
        assert {each.name async for each in TrackedMessage.objects.all()} == {""}


# Looking


async def test_messages_are_an_ordered_snapshot_that_cannot_be_changed() -> None:
    """S75."""
    with running(quiet):
        ann = sessions().get("ann", "ann")
        async with ann as session:
            for text in ("one", "two", "three"):
                await session.send(text)
            before = await session.messages()
            assert isinstance(before, tuple)
            assert said(before) == ["one", "two", "three"]
            assert said(await session.messages(lambda each: "t" in each.text)) == ["two", "three"]
            with pytest.raises(AttributeError):
                before[0].text = "changed"
            await session.forget()
            assert said(before) == ["one", "two", "three"]
            assert await session.messages() == ()


# Clearing, forgetting, closing


async def test_clear_deletes_what_is_wanted_and_returns_how_much() -> None:
    """S76."""
    with running(quiet, platform=Noting):
        async with sessions().get("ann", "ann") as session:
            for number in range(5):
                await session.send(f"{number}")
            await session.send("elsewhere", to="ben")
            cleared = await session.clear(lambda each: each.text != "3")
            assert cleared == 5
            assert isinstance(cleared, Cleared)
            assert cleared.outcomes == {
                "deleted": 5,
                "gone": 0,
                "too_old": 0,
                "forbidden": 0,
                "failed": 0,
            }
            assert said(await session.messages()) == ["3"]
        assert texts() == ["3"]
        assert texts("ben") == []
        assert [len(batch) for batch in noting().asked] == [2, 2, 1]


async def test_clear_counts_what_became_of_each_message() -> None:
    """S76: what the platform will not delete is forgotten all the same."""
    with running(quiet):
        async with sessions().get("ann", "ann") as session:
            ids = [
                str((await session.send(text))["message_id"])
                for text in ("fine", "old", "forbidden", "gone", "fine too")
            ]
            network().refuse(ids[1], Deletion.TOO_OLD)
            network().refuse(ids[2], Deletion.FORBIDDEN)
            network().delete("ann", [ids[3]])
            cleared = await session.clear()
            assert cleared == 5
            assert cleared.outcomes == {
                "deleted": 2,
                "gone": 1,
                "too_old": 1,
                "forbidden": 1,
                "failed": 0,
            }
            assert await session.messages() == ()
        assert texts() == ["old", "forbidden"]
        assert not await in_slices().aexists()


async def test_what_is_too_old_for_the_platform_is_not_asked() -> None:
    """S76."""

    class Forgetful(Noting):
        deletable_for = timedelta(hours=48)

    with running(quiet, platform=Forgetful):
        async with sessions().get("ann", "ann") as session:
            old = Message("1", Chat("ann"), date=clock.now() - timedelta(hours=49))
            new = Message("2", Chat("ann"), date=clock.now() - timedelta(hours=47))
            fleeting = Message("", Chat("ann"))
            for each in (old, new, fleeting):
                await session.track(each)
            cleared = await session.clear()
            assert cleared == 3
            assert cleared.outcomes["too_old"] == 1
            assert cleared.outcomes["gone"] == 2
        assert noting().asked == [["2"]]


async def test_nothing_is_asked_again_once_its_outcome_is_known() -> None:
    """S76: each batch is forgotten when it is done, whatever becomes of the handler."""

    class Breaking(Noting):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            found = await super().delete_messages(chat, ids, business)
            if len(self.asked) == 2:
                raise RuntimeError("as if the process had ended")
            return found

    router, counts = Router(), []

    @router.command("wipe")
    async def wipe(session: Session) -> None:
        counts.append(await session.clear(lambda each: each.direction == Direction.OUTGOING))

    @router.message()
    async def answer(session: Session) -> None:
        for number in range(6):
            await session.send(f"{number}")

    with running(router, platform=Breaking):
        await handle(message())
        ids = [each.message_id async for each in TrackedMessage.objects.order_by("id")]
        update = message("/wipe")
        await handle(update)
        assert await status(update) == "done"
        # What became of the second batch was never told.
        assert noting().asked == [ids[:2], ids[2:4], ids[2:4], ids[4:]]
        assert texts() == []
        assert counts == [4]
        assert await rows() == [("incoming", "/wipe")]


async def test_a_clear_is_not_repeated_when_its_handler_is_tried_again() -> None:
    """S76, P8: what it returned is remembered."""
    router, counts = Router(), []

    @router.message()
    async def answer(update: Update, session: Session) -> None:
        await session.send("wiped")
        counts.append(await session.clear(lambda each: each.direction == Direction.OUTGOING))
        await session.send("kept")
        if len(counts) < 3:
            raise RuntimeError("on purpose")

    with running(router, platform=Noting):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert texts() == ["kept"]
        assert counts == [1, 1, 1]
        assert [each.outcomes["deleted"] for each in counts] == [1, 1, 1]
        assert len(noting().asked) == 1


async def test_what_fails_for_the_moment_is_left_to_a_deletion_and_does_not_stop_the_others() -> (
    None
):
    """S76, S77: the slice is empty all the same."""
    stuck: list[str] = []

    class Halting(Noting):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            if list(ids) == stuck:
                self.asked.append(list(ids))
                raise PlatformUnavailable("no answer")
            return await super().delete_messages(chat, ids, business)

    with running(quiet, platform=Halting):
        async with sessions().get("ann", "ann") as session:
            sent = [str((await session.send(f"{each}"))["message_id"]) for each in range(6)]
            beside = await session.send("beside", to="ben")
            stuck += sent[2:4]
            cleared = await session.clear()
            assert cleared == 7
            assert cleared.outcomes["deleted"] == 3
            assert cleared.outcomes["failed"] == 0
            assert await session.messages() == ()
        assert texts() == ["2", "3", "4", "5"]
        assert noting().asked == [sent[:2], stuck, [str(beside["message_id"])]]
        assert not await in_slices().aexists()
        deletion = await MessageDeletion.objects.aget(pk=cleared.deletion)
        assert (deletion.total, deletion.done, deletion.status) == (4, 0, "running")
        chunks = DeletionChunk.objects.order_by("id").values_list("messages", flat=True)
        left = [[id for id, _ in messages] async for messages in chunks]
        assert left == [stuck, sent[4:]]


async def test_refused_messages_are_forgotten_and_reported() -> None:
    """S76: asking again would not help."""

    class Refusing(Noting):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            self.asked.append(list(ids))
            raise InvalidRequest("no")

    with running(quiet, platform=Refusing):
        async with sessions().get("ann", "ann") as session:
            for number in range(4):
                await session.send(f"{number}")
            cleared = await session.clear()
            assert (cleared, cleared.deletion) == (4, None)
            assert cleared.outcomes["failed"] == 4
            assert await session.messages() == ()
        assert len(noting().asked) == 2


async def test_a_clear_that_does_not_wait_leaves_everything_to_a_deletion() -> None:
    """S76, P27."""
    with running(quiet, platform=Noting):
        async with sessions().get("ann", "ann") as session:
            for number in range(5):
                await session.send(f"{number}")
            cleared = await session.clear(lambda each: each.text != "2", wait=False)
            assert cleared == 4
            assert sum(cleared.outcomes.values()) == 0
            assert said(await session.messages()) == ["2"]
        assert noting().asked == []
        deletion = await MessageDeletion.objects.aget(pk=cleared.deletion)
        assert (deletion.total, deletion.bot, deletion.through) == (4, "demo", "demo")
        nothing = await sessions().get("ben", "ben").clear(wait=False)
        assert (nothing, nothing.deletion) == (0, None)


async def test_250_messages_are_three_calls() -> None:
    """P27, S76."""

    class Hundreds(Noting):
        delete_batch_size = 100

    with running(quiet, platform=Hundreds):
        async with sessions().get("ann", "ann") as session:
            await session.call("album", texts=[f"{number}" for number in range(250)])
            cleared = await session.clear()
        assert cleared == cleared.outcomes["deleted"] == 250
        assert [len(ids) for ids in noting().asked] == [100, 100, 50]
        assert texts() == []


async def test_clearing_nothing_asks_nothing() -> None:
    """S77."""
    with running(quiet, platform=Noting):
        ann = sessions().get("ann", "ann")
        await ann.send("kept")
        cleared = await ann.clear(lambda each: each.text == "missing")
        assert cleared == 0
        assert set(cleared.outcomes.values()) == {0}
        assert await sessions().get("ben", "ben").clear() == 0
        assert noting().asked == []
        assert texts() == ["kept"]


async def test_clear_deletes_through_another_bot() -> None:
    """S78."""
    with running(quiet, platform=Noting):
        sent = await bots["other"].send("ann", "the other's")
        ann = sessions().get("ann", "ann")
        await ann.track(sent)
        cleared = await ann.clear(bot=bots["other"])
        assert cleared == cleared.outcomes["deleted"] == 1
        assert texts(bot="other") == []
        assert noting("other").asked == [[str(sent["message_id"])]]
        assert noting().asked == []
        assert await rows() == []


async def kept(user: str = "ann") -> list[tuple[str, str, str]]:
    """Return id, text and outcome of what is kept of deleted messages."""
    rows = TrackedMessage.objects.filter(deleted_at__isnull=False, session__user=user)
    return [(each.message_id or "", each.text, each.outcome) async for each in rows.order_by("id")]


async def test_what_was_cleared_is_known_to_have_been_said_and_not_what_it_was() -> None:
    class Strict(LocalPlatform):
        deletable_for = timedelta(hours=48)

        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            return {"2": Deletion.DELETED, "3": Deletion.FORBIDDEN}

    with running(quiet, platform=Strict):
        async with sessions().get("ann", "ann") as session:
            fields: dict[str, Any] = {
                "chat": Chat("ann"),
                "user": ANN,
                "text": "a secret",
                "reply_to": "7",
            }
            began = clock.now()
            for number, hours in ("1", 49), ("2", 1), ("3", 1), ("4", 1):
                date = began - timedelta(hours=hours)
                await session.track(Message(number, **fields, date=date), Direction.INCOMING)
            cleared = await session.clear()
            assert (cleared, await session.messages(), await session.clear()) == (4, (), 0)
        assert await kept() == [
            ("1", "", "too_old"), ("2", "", "deleted"), ("3", "", "forbidden"), ("4", "", "gone"),
        ]  # fmt: skip
        row = await TrackedMessage.objects.aget(message_id="2")
        assert (row.direction, row.user, row.name) == ("incoming", "ann", "Ann")
        assert (row.reply_to, row.sent_at) == ("7", began - timedelta(hours=1))
        assert row.deleted_at is not None
        assert began <= row.deleted_at <= clock.now()


async def test_what_is_kept_of_deleted_messages_goes_with_the_slice() -> None:
    """S79, S80: forgetting everything, or closing, leaves nothing; forgetting some does."""
    with running(quiet):
        for user in ("ann", "ben"):
            async with sessions().get(user, user) as session:
                await session.send("wiped")
                await session.clear(wait=user == "ann")
                await session.send("said")
                await session.send("said too")
                assert await session.forget(lambda each: each.text == "said") == 1
            assert [text for _, text, _ in await kept(user)] == [""]
        assert [outcome for _, _, outcome in await kept("ann")] == ["deleted"]
        assert [outcome for _, _, outcome in await kept("ben")] == [""]
        assert await sessions().get("ann", "ann").forget() == 1
        assert (await kept("ann"), len(await kept("ben"))) == ([], 1)
        await sessions().get("ben", "ben").close()
        assert not await TrackedMessage.objects.aexists()


async def test_forget_leaves_the_messages_on_the_platform() -> None:
    """S79, S81."""
    with running(quiet, platform=Noting):
        async with sessions().get("ann", "ann") as session:
            for text in ("one", "two", "three"):
                await session.send(text)
            assert await session.forget(lambda each: each.text != "two") == 2
            assert said(await session.messages()) == ["two"]
            assert await session.forget(lambda each: False) == 0
            assert await session.forget() == 1
            assert await session.messages() == ()
        assert texts() == ["one", "two", "three"]
        assert noting().asked == []


async def test_close_ends_the_tracking_and_empties_its_own_slice_alone() -> None:
    """S80: its data stays, and opened again it begins empty."""
    router = Router()

    @router.command("close")
    async def close(session: Session) -> None:
        await session.close()

    @router.command("open")
    async def reopen(session: Session) -> None:
        await session.open()

    @router.message()
    async def both(session: Session, order: Annotated[Session, Qualifier("order")]) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        if not session.is_open:
            return
        await session.send("for both")
        await order.send("of the order")

    with running(router):
        await handle(message("/open"))
        await handle(message("a"))
        await sessions().get("ben", "ann").send("to ben's chat")
        await handle(message("/close"))
        assert await rows() == []
        assert await rows(qualifier="order") == [
            ("outgoing", "of the order"),
            ("incoming", "/close"),
        ]
        assert await rows("ben", "ann") == [("outgoing", "to ben's chat")]
        assert texts() == ["for both", "of the order"]
        row = await BotSession.objects.aget(chat="ann", qualifier="")
        assert (row.is_open, row.data) == (False, {"n": 1})
        await handle(message("b"))
        assert await rows() == []
        assert (await data()) == {"n": 2}
        await handle(message("/open"))
        await handle(message("c"))
        assert [text for _, text in await rows()] == ["c", "for both"]


@pytest.mark.parametrize("reopened", [False, True])
async def test_nothing_from_before_a_close_comes_back(*, reopened: bool) -> None:
    """S80: opened again by the same handler it begins empty too."""
    router, found = Router(), []

    @router.command("close")
    async def close(session: Session) -> None:
        await session.track(Message("m0", Chat("ann"), text="tracked"))
        await session.close()
        if reopened:
            await session.open()

    @router.message()
    async def handler(session: Session) -> None:
        await session.track(Message("m1", Chat("ann"), text="tracked"))
        await session.send("sent")
        session.track(Message("m2", Chat("ann"), text="later"))
        await session.close()
        if reopened:
            await session.open()
        found.append(await session.messages())

    with running(router):
        for text in ("hello", "/close"):
            await sessions().get("ann", "ann").open()
            await handle(message(text))
            assert not await TrackedMessage.objects.aexists()
            assert await sessions().is_idle() is not reopened
    assert found == [()]


async def test_a_message_that_is_tracked_while_clear_deletes_stays() -> None:
    """S76."""

    class Talking(LocalPlatform):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            await handle(message("meanwhile", user="ben", chat="team"))
            return await super().delete_messages(chat, ids, business)

    with running(quiet, platform=Talking):
        team = sessions().get("team")
        await team.send("before")
        assert await team.clear() == 1
        assert texts("team") == []
        assert await rows("team", "") == [("incoming", "meanwhile")]


# Choosing what is tracked


def choosing() -> Router:
    """Return a router with three matchers."""
    router = Router()

    @router.matcher
    def shouted(update: Update) -> bool:
        return update.text.isupper()

    @router.matcher
    def short(update: Update) -> bool:
        return len(update.text) < 3

    @router.matcher
    def broken(update: Update) -> bool:
        raise LookupError("on purpose")

    @router.on()
    async def listening(update: Update) -> None: ...

    return router


async def test_a_matcher_chooses_what_is_tracked() -> None:
    """S64: a later one takes its place, and an opening without one keeps it."""
    router = choosing()
    shouted = router.find_matcher("shouted")
    with running(router):
        ann = sessions().get("ann", "ann")
        await ann.open(shouted)
        await handle(message("quiet"), message("LOUD"))
        assert await rows() == [("incoming", "LOUD")]
        await ann.open()
        await sessions().get("ann", "ann").send("SENT")
        await handle(message("still quiet"), message("STILL LOUD"))
        assert [text for _, text in await rows()] == ["LOUD", "SENT", "STILL LOUD"]
        await ann.open("short")
        await handle(message("LOUDER"), message("no"))
        assert [text for _, text in await rows()] == ["LOUD", "SENT", "STILL LOUD", "no"]
        await ann.open("")
        await handle(message("everything"))
        assert [text for _, text in await rows()][-1] == "everything"


async def test_a_matcher_is_given_up_with_the_session() -> None:
    """S64, S80."""
    with running(choosing()):
        ann = sessions().get("ann", "ann")
        await ann.open("shouted")
        await ann.close()
        await ann.open()
        await handle(message("quiet"))
        assert await rows() == [("incoming", "quiet")]


async def test_a_matcher_of_one_session_means_nothing_to_another() -> None:
    """S64."""
    with running(choosing()):
        await sessions().subscribe(SessionKey("demo", "ann", "ann"), "shouted")
        await sessions().get("ann").open()
        await handle(message("quiet"))
        assert await rows() == []
        assert await rows("ann", "") == [("incoming", "quiet")]


async def test_a_matcher_that_raises_or_is_gone_matches_nothing() -> None:
    """S64: the update is handled all the same."""
    router = choosing()
    with running(router):
        await sessions().get("ann", "ann").open("broken")
        update = message()
        await handle(update)
        assert await status(update) == "done"
        await BotSession.objects.aupdate(matcher="removed")
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert await rows() == []


async def test_a_matcher_that_the_router_does_not_know_is_refused() -> None:
    """S64."""

    def unknown(update: Update) -> bool:
        return True

    router = choosing()

    @router.command("open")
    async def opening(session: Session) -> None:
        with pytest.raises(ImproperlyConfigured, match="unknown"):
            session.open(unknown)
        session.data["refused"] = True

    with running(router):
        ann = sessions().get("ann", "ann")
        for wrong in (unknown, "unknown"):
            with pytest.raises(ImproperlyConfigured, match=r"'unknown'.*router\.matcher"):
                await ann.open(wrong)
        assert not await BotSession.objects.aexists()


async def test_a_matcher_of_an_included_router_is_found() -> None:
    """S64."""
    router, inner = Router(), choosing()
    router.include(inner)
    with running(router):
        await sessions().get("ann", "ann").open("shouted")
        await handle(message("quiet"), message("LOUD"))
        assert await rows() == [("incoming", "LOUD")]


async def test_a_handler_opens_its_session_with_a_matcher() -> None:
    """S64: not awaited, it happens when the handler returns."""
    router = Router()

    @router.matcher
    def shouted(update: Update) -> bool:
        return update.text.isupper()

    @router.command("open")
    async def opening(session: Session) -> None:
        session.open(shouted)
        session.send("open")

    with running(router):
        await handle(message("/open"))
        await handle(message("quiet"), message("LOUD"))
        assert [text for _, text in await rows()] == ["open", "LOUD"]


# Verbs that are not awaited, and handlers that run again


async def test_verbs_that_are_not_awaited_happen_in_order() -> None:
    """P8."""
    router = Router()

    @router.message()
    async def handler(session: Session) -> None:
        session.send("wiped")
        session.clear()
        session.send("forgotten")
        session.forget(lambda each: each.direction == Direction.OUTGOING)
        session.track(Message("m1", Chat("ann"), text="tracked"))
        session.send("kept")

    with running(router):
        await sessions().get("ann", "ann").open()
        await handle(say("hello"))
        assert texts() == ["forgotten", "kept"]
        assert [text for _, text in await rows()] == ["tracked", "kept"]


@pytest.mark.django_db(transaction=True)
def test_verbs_of_a_def_handler_happen_in_order() -> None:
    """P8."""
    router = Router()

    @router.message()
    def handler(update: Update, session: Session, bot: Bot) -> None:
        session.open()
        session.send(f"{update.text} wiped")
        session.clear(lambda each: each.direction == Direction.OUTGOING)
        with session:
            bot.send(None, f"{update.text} kept")
        session.track(Message(f"m {update.text}", Chat("ann"), text=f"{update.text} tracked"))

    async def run() -> list[tuple[str, str]]:
        await handle(message("a"))
        await handle(message("b"))
        return await rows()

    with running(router):
        found = async_to_sync(run)()
        assert texts() == ["b kept"]
    assert found == [("incoming", "b"), ("outgoing", "b kept"), ("outgoing", "b tracked")]


async def test_a_handler_that_runs_again_repeats_nothing() -> None:
    """P8, P12: somebody else has saved its session meanwhile."""
    router, runs = Router(), []
    found: list[list[int]] = []

    @router.message()
    async def handler(session: Session, bot: Bot) -> None:
        runs.append(1)
        session.data["n"] = session.data.get("n", 0) + 1
        await session.send("wiped")
        counts: list[int] = [await session.clear(lambda each: each.text == "wiped")]
        with session:
            await bot.send(None, "kept")
        await session.track(Message("m1", Chat("ann"), text="tracked"))
        counts.append(await session.forget(lambda each: each.text == "tracked before"))
        found.append(counts)
        session.send("last")
        if len(runs) == 1:
            await meddle()

    with running(router, platform=Noting):
        await sessions().get("ann", "ann").track(Message("m0", Chat("ann"), text="tracked before"))
        update = message("said")
        await handle(update)
        assert await status(update) == "done"
        assert len(runs) == 2
        assert found == [[1, 1]] * 2
        assert texts() == ["kept", "last"]
        assert len(noting().asked) == 1
        assert [text for _, text in await rows()] == ["said", "kept", "tracked", "last"]
        assert await data() == {"n": 1}


async def test_what_was_cleared_stays_cleared_when_the_handler_runs_again() -> None:
    """S76, P12."""
    router, runs = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        runs.append(1)
        session.data["n"] = len(runs)
        await session.track(Message("m1", Chat("ann"), text="tracked"))
        await session.clear()
        if len(runs) == 1:
            await meddle()

    with running(router):
        await sessions().get("ann", "ann").open()
        await handle(say("said"))
        assert len(runs) == 2
        assert await rows() == []


async def test_what_was_cleared_stays_cleared_when_the_handler_is_tried_again() -> None:
    """S76, P8."""
    router, runs = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        runs.append(1)
        await session.clear()
        if len(runs) == 1:
            raise RuntimeError("on purpose")

    with running(router):
        await sessions().get("ann", "ann").open()
        await handle(say("said"))
        assert len(runs) == 2
        assert await rows() == []


async def test_a_session_that_was_closed_stays_closed_when_the_handler_runs_again() -> None:
    """S80, P12."""
    router, runs = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        runs.append(1)
        session.data["n"] = len(runs)
        await session.open()
        await session.close()
        if len(runs) == 1:
            await meddle()

    with running(router):
        await sessions().get("ann", "ann").open()
        await handle(message())
        assert len(runs) == 2
        assert not (await BotSession.objects.aget()).is_open
        assert await rows() == []


async def test_what_was_opened_and_tracked_survives_a_handler_that_runs_again() -> None:
    """P12."""
    router, runs = Router(), []

    @router.matcher
    def shouted(update: Update) -> bool:
        return update.text.isupper()

    @router.command("open")
    async def handler(update: Update, session: Session) -> None:
        runs.append(1)
        session.data["n"] = len(runs)
        session.open(shouted)
        session.track(update)
        if len(runs) == 1:
            await BotSession.objects.acreate(
                bot="demo", chat="ann", user="ann", version=1, created_at=clock.now(),
                updated_at=clock.now(),
            )  # fmt: skip

    with running(router):
        await handle(message("/open"))
        assert len(runs) == 2
        await handle(message("quiet"), message("LOUD"))
        assert await rows() == [("incoming", "/open"), ("incoming", "LOUD")]
        assert await data() == {"n": 2}


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="Django sees the statements of SQLite")
async def test_a_large_slice_takes_one_statement_and_one_for_each_batch() -> None:
    """S75, S76: ten thousand messages, a hundred in a batch."""

    async def counted(verb: Any) -> tuple[Any, int]:
        """Return what a verb returns, and how many statements it took."""
        queries = CaptureQueriesContext(connection)
        await sync_to_async(queries.__enter__)()
        result = await verb()
        await sync_to_async(queries.__exit__)(None, None, None)
        sent = await sync_to_async(lambda: [each["sql"] for each in queries])()
        return result, len([sql for sql in sent if "SAVEPOINT" not in sql])

    with running(quiet):
        ann = sessions().get("ann", "ann")
        await ann.open()
        sent = network().post_album("ann", [f"{number}" for number in range(10_000)])
        session_id = (await BotSession.objects.aget()).pk
        await TrackedMessage.objects.abulk_create(
            TrackedMessage(
                session_id=session_id,
                chat="ann",
                message_id=str(each["message_id"]),
                direction="outgoing",
                text=each["text"],
                sent_at=clock.now(),
            )
            for each in sent
        )
        async with ann as session:
            assert len(await session.messages(lambda each: False)) == 0  # it is open from now on
            found, statements = await counted(session.messages)
            assert said(found) == [f"{number}" for number in range(10_000)]
            assert statements == 1
            cleared, statements = await counted(session.clear)
            assert cleared == cleared.outcomes["deleted"] == 10_000
            assert statements == 1 + 100
        assert not await in_slices().aexists()
        assert texts() == []
