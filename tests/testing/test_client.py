"""The test client in asynchronous and synchronous tests, with pytest."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import Chat, SessionKey, Update, User
from botsessions.bots import bots
from botsessions.models import BotSession, BotUpdate, MailboxLease
from botsessions.testing import BotClient, Call
from tests.testing.bots import configured

pytestmark = pytest.mark.django_db


async def test_what_is_said_is_answered(client: BotClient) -> None:
    """P36."""
    [reply] = await client.say("hi")
    assert reply == "hi 1"
    assert reply.text == "hi 1"
    assert (reply.chat, reply.user, reply.is_bot) == ("ann", "demo", True)
    assert await client.say("hi") == ["hi 2"]
    assert await client.say("hi", user="ben") == ["hi 1"]
    assert client.replies == ["hi 1", "hi 2", "hi 1"]
    assert client.history() == ["hi", "hi 1", "hi", "hi 2"]
    assert client.history("ben") == ["hi", "hi 1"]


def test_verbs_return_their_result_in_synchronous_code(client: BotClient) -> None:
    assert client.say("hi") == ["hi 1"]
    assert client.say("hi") == ["hi 2"]
    assert BotSession.objects.get().data == {"count": 2}
    session = client.session()
    assert session.data == {"count": 2}
    assert client.session("ben") is None


async def test_the_update_is_stored_like_any_other(client: BotClient) -> None:
    await client.say("hi")
    update = await BotUpdate.objects.aget()
    assert (update.bot, update.status, update.type) == ("demo", "done", "message")
    assert not await MailboxLease.objects.aexists()


async def test_the_bot_has_its_own_key_strategy(bot_client: Callable[..., BotClient]) -> None:
    with configured(key="chat"):
        client = bot_client("demo")
        assert await client.say("hi", chat="tea room") == ["hi 1"]
        assert await client.say("hi", user="ben", chat="tea room") == ["hi 2"]
        found = await client.session(user="eve", chat="tea room")
        assert found is not None
        assert found.key == SessionKey("demo", "tea room")
        assert await client.session(user="eve", chat="tea room", scope="chat_user") is None


async def test_the_key_strategy_may_be_asynchronous(bot_client: Callable[..., BotClient]) -> None:
    with configured(key="tests.testing.bots.slow_key"):
        client = bot_client("demo")
        assert await client.say("/brief") == []
        state = await client.session()
        assert state is not None
        assert state.key == SessionKey("demo", user="of ann")
        assert await client.session("ben") is None


async def test_people_talk_in_groups_topics_and_replies(client: BotClient) -> None:
    first = await client.say("hi", chat="room")
    assert first[0].chat == "room"
    assert first[0].reply_to == client.history("room")[0].id
    await client.say("again", chat="room", reply_to=first[0])
    assert client.history("room")[2].reply_to == first[0].id
    assert await client.say("/thread", thread="7") == ["In thread 7: 1"]
    eve = User("eve", "Eve of the hill")
    assert await client.say("hi", user=eve, chat=Chat("c1", "supergroup", "Club")) == ["hi 1"]
    message = client.history("c1")[0]
    assert (message.user, message.is_bot) == ("eve", False)


async def test_what_more_there_is_stands_in_the_message(client: BotClient) -> None:
    await client.say("look", kind="photo", album="9")
    state = await client.session()
    assert state is not None
    row = await BotUpdate.objects.aget()
    assert row.status == "done"


async def test_session_tells_what_is_stored(client: BotClient) -> None:
    assert await client.session() is None
    await client.say("hi")
    await client.say("hi")
    state = await client.session()
    assert state is not None
    assert state.key == SessionKey("demo", "ann", "ann")
    assert (state.data, state.version, state.is_open) == ({"count": 2}, 2, True)
    assert state.expires_at is None
    assert state.flow is None
    assert [each.text for each in state.messages] == ["hi 1", "hi", "hi 2"]
    assert await client.session(qualifier="order") is None


async def test_buttons_are_pressed_by_action_or_by_label(client: BotClient) -> None:
    [asked] = await client.say("/tea", chat="room")
    assert asked.buttons == {"Yes": "with milk", "No": "without"}
    assert asked.options == {"buttons": asked.buttons}
    assert await client.press("with milk", chat="room", user="ben") == ["One moment."]
    assert client.replies == ["Tea with milk", "One moment."]
    await client.say("/tea", chat="room")
    assert await client.press("No", chat="room") == ["One moment."]
    assert client.replies == ["Tea with milk", "One moment.", "Tea without", "One moment."]


async def test_the_last_message_with_the_button_counts(client: BotClient) -> None:
    [first], [second] = await client.say("/tea"), await client.say("/tea")
    await client.say("hi")
    await client.press("Yes")
    assert [each.text for each in client.history() if each.is_bot][:2] == ["Milk?", "Tea with milk"]
    await client.press("Yes", message=first)
    assert client.history()[1] == "Tea with milk"
    with pytest.raises(LookupError, match="shows no button 'Yes'; there are none"):
        await client.press("Yes", message=second.id)


async def test_a_button_that_is_not_there_names_those_that_are(client: BotClient) -> None:
    await client.say("/tea")
    with pytest.raises(LookupError, match=r"there are Yes \(with milk\), No \(without\)\."):
        await client.press("Perhaps")


async def test_telegram_keyboards_are_buttons(client: BotClient) -> None:
    [asked] = await client.say("/keyboard")
    assert asked.buttons == {"Yes": "with milk"}
    assert await client.press("Yes") == ["One moment."]


async def test_methods_of_the_real_platform_are_responded_to(client: BotClient) -> None:
    client.platform.respond("answerCallbackQuery")
    assert await client.say("/answered") == ["Answered."]
    call, _ = client.platform.calls
    assert call == Call("answerCallbackQuery", {"callback_query_id": "7", "chat": "ann"})
    client.platform.respond("answerCallbackQuery", lambda callback_query_id, chat: chat)
    assert await client.say("/answered") == ["Answered."]


async def test_sends_by_name_and_albums_are_replies(client: BotClient) -> None:
    assert await client.say("/call") == ["By name."]
    assert client.platform.calls == [Call("send", {"chat": "ann", "text": "By name."})]
    assert await client.say("/album") == ["one", "two"]
    assert client.replies == ["By name.", "one", "two"]
    assert await client.deliver() == []


async def test_replies_are_what_was_sent_and_not_deleted(client: BotClient) -> None:
    await client.say("hi")
    assert await client.say("/clear") == []
    assert client.replies == []
    assert [each.text for each in client.platform.sent] == ["hi 1"]
    assert client.history() == ["hi"]  # said before the session was open


async def test_any_update_is_delivered(client: BotClient) -> None:
    await client.say("hi")
    change = client.platform.network.amend(
        "ann", User("ann", "Ann"), client.history()[0].id, "hello"
    )
    assert await client.deliver(change) == []
    assert client.history()[0] == "hello"
    query = Update("demo", "q1", "inline_query", user=User("ann"))
    assert await client.deliver(query, query) == []
    assert await BotUpdate.objects.filter(type="inline_query").acount() == 1


async def test_errors_of_handlers_are_raised(client: BotClient) -> None:
    with pytest.raises(ValueError, match="boom") as raised:
        await client.say("/boom")
    assert any(entry.name == "boom" for entry in raised.traceback)
    assert (await BotUpdate.objects.aget()).attempts == 1
    assert await client.session() is None


def test_errors_are_raised_in_synchronous_code(client: BotClient) -> None:
    with pytest.raises(ValueError, match="boom"):
        client.say("/boom")


async def test_errors_are_raised_where_logging_is_switched_off(client: BotClient) -> None:
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(RuntimeError, match="ValueError: boom"):
            await client.say("/boom")
    finally:
        logging.disable(logging.NOTSET)


async def test_errors_stay_with_the_bot_if_that_is_asked_for(
    bot_client: Callable[..., BotClient],
) -> None:
    client = bot_client("demo", raise_exceptions=False)
    assert await client.say("/boom") == []
    assert (await BotUpdate.objects.aget()).status == "pending"
    client.raise_exceptions = True
    with pytest.raises(ValueError, match="boom"):
        await client.advance(seconds=1)


async def test_two_clients_are_two_bots(bot_client: Callable[..., BotClient]) -> None:
    demo, other = bot_client("demo"), bot_client("other")
    assert await other.say("hi") == ["HI"]
    assert await demo.say("hi") == ["hi 1"]
    first, second = await asyncio.gather(demo.say("a"), other.say("b"))
    assert (first, second) == (["a 2"], ["B"])
    assert demo.replies == ["hi 1", "a 2"]
    assert other.replies == ["HI", "B"]
    assert demo.now == other.now


async def test_handlers_in_threads_see_the_transaction_of_the_test(client: BotClient) -> None:
    assert await client.say("/thread") == ["In thread none: 1"]
    assert await client.say("/thread") == ["In thread none: 2"]


async def test_the_session_is_used_outside_a_handler(client: BotClient) -> None:
    async with client.bot.sessions.get("ann", "ann") as session:
        session.data["count"] = 10
    assert await client.say("hi") == ["hi 11"]
    async with bots["demo"].sessions.get("ann", "ann") as session:
        await session.send("From a view.")
    assert client.replies == ["hi 11", "From a view."]


def test_a_bot_that_is_not_configured_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no bot 'shop'.*there are demo, other"):
        BotClient("shop")
    with (
        configured(platform="no.such.Platform"),
        pytest.raises(ImproperlyConfigured, match=r"Bot 'demo': PLATFORM 'no\.such\.Platform'"),
    ):
        BotClient("demo")
