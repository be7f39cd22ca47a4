"""The demo bot, talked to as on the playground."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

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
