"""The demo bot, talked to as on the playground."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from botsessions import operations
from botsessions.models import BotSession
from botsessions.testing import BotClient
from project.settings import BOTSESSIONS

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Iterator[BotClient]:
    with override_settings(BOTSESSIONS=BOTSESSIONS), BotClient("demo") as client:
        yield client


def test_word_chain(client: BotClient) -> None:
    assert client.say("/chain") == ["A word of four letters, please; exit ends the chain."]
    assert client.say("Tree") == ["Now one that begins with E."]
    assert client.say("moon") == client.say("eagles") == ["That does not fit. The time goes on."]
    assert client.say("echo") == ["Now one that begins with O."]
    assert client.say("exit") == ["The chain ends."]
    assert client.say("oven") == []


def test_word_chain_times_out_by_itself(client: BotClient) -> None:
    client.say("/chain")
    assert client.advance(seconds=59) == []
    client.say("tree")
    assert client.advance(seconds=59) == []
    assert client.advance(seconds=1) == ["You took too long. /chain begins again."]


def test_nickname(client: BotClient) -> None:
    assert client.say("/hi") == ["Hi! What shall I call you?"]
    assert client.say("x" * 41) == ["In up to 40 letters, please."]
    assert client.say("Ann") == ["Nice to meet you, Ann."]
    assert client.say("/hi") == ["Hi again, Ann!"]


def test_nickname_that_nobody_tells(client: BotClient) -> None:
    client.say("/hi")
    assert client.advance(minutes=2) == ["Never mind. /hi, whenever you like."]


def test_table_with_a_change_of_mind(client: BotClient) -> None:
    client.say("/table")
    assert client.say("many") == ["A number, please."]
    assert client.say("3") == ["At what time?"]
    assert client.say("back")[0].startswith("Tea for how many?")
    client.say("4")
    assert client.press("Five") == ["A table for 4 at five: 16 coins. yes?"]
    assert client.say("back") == ["At what time?"]
    assert client.press("Four") == ["A table for 4 at four: 16 coins. yes?"]
    assert client.say("yes") == ["See you then."]


def test_cancel_from_any_step(client: BotClient) -> None:
    assert client.say("/cancel") == ["There is nothing to cancel."]
    for steps in (["/table"], ["/table", "3"], ["/chain", "tree"], ["/hi"]):
        for step in steps:
            client.say(step)
        assert client.say("/cancel") == ["Cancelled."]
        assert client.say("3") == []


def test_order_wipes_its_own_slice(client: BotClient) -> None:
    client.say("hello")
    for text in ("/order", "tea", "milk"):
        client.say(text)
    assert client.say("/done") == ["Ordered: tea, milk. I have wiped our 7 messages about it."]
    assert [each.text for each in client.history("ann")] == [
        "hello", "Ordered: tea, milk. I have wiped our 7 messages about it."
    ]  # fmt: skip


def test_note_that_expires(client: BotClient) -> None:
    assert client.say("/note buy milk") == ["I keep that for a minute."]
    assert client.advance(seconds=59) == []
    operations.sweep()
    assert client.history()[-1].text == "I keep that for a minute."
    assert client.advance(seconds=2) == ["I have forgotten your note: buy milk"]


def test_what_was_said_too_much_is_wiped_in_bulk(client: BotClient) -> None:
    assert len(client.say("/flood")) == 250
    assert client.say("/wipe") == ["251 messages are deleted as soon as a worker has time."]
    assert operations.delete_messages() == 251
    assert [each.text for each in client.history()][-1].startswith("251 messages")
    assert len(client.history()) == 2  # with the command that began it


def test_who_wants_to_be_forgotten_is(client: BotClient) -> None:
    client.say("hello")
    client.say("/note secret")
    assert client.say("/forgetme") == ["In a few seconds I have never heard of you."]
    assert operations.finish_erasures() == 1
    assert not BotSession.objects.exists()
    assert client.say("/count") == ["You: 0 messages so far."]
