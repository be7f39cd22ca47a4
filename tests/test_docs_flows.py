"""The examples of docs/flows.md run."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from botsessions import Router
from botsessions.models import BotSession
from botsessions.testing import BotClient
from tests.kit import running
from tests.test_docs import blocks, run

pytestmark = pytest.mark.django_db(transaction=True)

Guide = dict[str, Any]
MakeClient = Callable[..., BotClient]
PAGE = "docs/flows.md"
#: The tests that the page shows.
TESTS = re.findall(r"^def (test_\w+)", "\n".join(blocks(PAGE)), re.MULTILINE)


@pytest.fixture
def guide() -> Iterator[Guide]:
    """The page as one module, whose router is that of the bot "demo"."""
    page = run("flows_guide", *blocks(PAGE))
    assert isinstance(page["router"], Router)
    with running(page["router"]):
        yield page


@pytest.fixture
def client(guide: Guide, bot_client: MakeClient) -> BotClient:
    return bot_client("demo")


def last() -> dict[str, Any]:
    """Return how the last flow of ann's session ended."""
    row = BotSession.objects.get(user="ann", qualifier="")
    assert row.last_flow is not None
    found: dict[str, Any] = row.last_flow
    return found


def test_a_waiter(client: BotClient) -> None:
    assert client.say("/idioms") == ["Send an idiom."]
    assert client.say("/age") == ["Next one, please."]  # a command is no exception
    assert client.say("bird") == ["Next one, please."]
    assert client.say("lion") == ["Next one, please."]
    assert client.say("tiger") == ["An idiom has four characters."]
    assert client.say("exit") == ["You said /age, bird, lion, tiger."]
    assert client.say("bird") == []
    client.say("/idioms")
    client.advance(seconds=50)
    client.say("bird")
    client.advance(seconds=50)
    client.say("tiger")
    assert client.advance(seconds=9) == []
    assert client.advance(seconds=1) == ["Time is up."]
    assert last()["outcome"] == "timed_out"


def test_how_it_ends(client: BotClient) -> None:
    assert client.say("/subscribe") == ["What is your address?"]
    assert client.say("nonsense") == ["Sorry: nonsense is no address."]
    assert last()["outcome"] == "failed"
    client.say("/subscribe")
    assert client.say("/cancel") == ["As you like."]
    client.say("/subscribe")
    assert client.advance(seconds=60) == ["Are you still there?"]
    assert client.say("ann@example.org") == ["Thank you."]
    assert client.session().data["address"] == "ann@example.org"


def test_what_it_wants(client: BotClient) -> None:
    client.say("/age")
    assert client.say("old") == ["A number, please."]
    client.advance(days=1000)
    assert client.say("42") == []
    assert client.session().data == {"age": 42}
    for cause in (client.press, client.say):
        client.say("/size")
        assert cause("S") == ["S it is."]


def test_everybody_in_a_chat(client: BotClient) -> None:
    client.say("/quiz", user="ann", chat="room")
    client.say("Rome", user="ben", chat="room")
    client.say("Paris", user="ben")
    assert client.say("Paris", user="ben", chat="room") == ["Ben has it."]
    assert client.say("Paris", user="cid", chat="room") == []


def test_in_the_middle(client: BotClient) -> None:
    assert client.say("/cancel") == ["There is nothing to cancel."]
    assert client.say("/what") == ["In nothing."]
    client.say("/subscribe")
    assert client.say("/what") == ["You are in address."]
    client.advance(seconds=1)
    client.say("/ticket")
    assert client.session(qualifier="ticket").is_open
    assert client.say("#7") == ["Found it."]
    assert not client.session(qualifier="ticket").is_open
    client.advance(seconds=1)
    client.say("/ticket")
    assert client.say("ann@example.org") == ["Thank you."]


def test_called_by_its_name_alone(client: BotClient) -> None:
    """S61."""
    assert client.say("@shop_bot", chat="office") == ["Yes?"]
    assert client.say("open?", user="ben", chat="office") == []
    assert client.say("open?", chat="office") == ["You asked: open?"]
    assert client.say("open?", chat="office") == []
    client.say("@shop_bot", chat="office")
    assert client.advance(minutes=1) == ["Call me again."]


def test_from_outside(guide: Guide, client: BotClient) -> None:
    async_to_sync(guide["ask_for_address"])("ann")
    assert client.say("ann@example.org") == ["Thank you."]
    assert not guide["leave_alone"]("ann")
    async_to_sync(guide["ask_for_address"])("ann")
    assert guide["leave_alone"]("ann")
    assert client.replies[-1] == "As you like."


def test_conversation(guide: Guide, client: BotClient) -> None:
    assert client.say("/table") == ["A table for how many?"]
    assert client.say("us") == ["A number, please."]
    assert client.say("2") == ["When?"]
    assert client.advance(seconds=600) == ["Come back when you know."]
    assert last()["outcome"] == "ended"
    client.say("/table")
    client.advance(seconds=3600)
    assert last()["outcome"] == "timed_out"
    client.say("/table")
    client.say("3")
    client.say("noon")
    assert client.session().data == {"booking": 1}
    assert client.say("no dogs") == ["Booking 1: 3 at noon, no dogs."]
    assert guide["booked"] == [(3, "noon")]


def test_time_and_chance(client: BotClient) -> None:
    client.say("/dice")
    said: list[str] = []
    for number in range(1, 7):
        client.advance(seconds=10)
        said += [str(each) for each in client.say(f"{number}") if client.session().flow]
        if client.session().flow is None:
            break
    assert set(said) <= {"No."}
    assert client.replies[-1] == f"Yes, after {10 * (len(said) + 1)} s."


def test_back_and_forth(client: BotClient) -> None:
    client.say("/profile")
    assert client.say("Ann") == ["Your town?"]
    assert client.say("back") == ["Your name?"]
    assert client.session().data is None or client.session().data == {}
    client.say("Anna")
    client.say("Rome")
    assert client.say("anew") == ["Your name?"]
    for answer in ("An", "Oslo", "red"):
        client.say(answer)
    assert client.replies[-1] == "Thank you."
    assert client.session().data == {"name": "An", "town": "Oslo", "team": "red"}


def test_long_ones(client: BotClient) -> None:
    client.say("/sums")
    for number in range(30):
        assert client.say(f"{number}") == []
        assert "journal" not in client.session().flow
    assert client.say("done") == ["435 in all."]


def test_waiter_within(client: BotClient) -> None:
    assert client.say("/evening") == ["Let us begin with idioms."]
    client.say("bird")
    assert client.say("exit") == ["You said bird.", "Good night."]
    client.say("/evening")
    assert client.advance(seconds=30) == ["You are tired.", "Good night."]


def test_changed_code(client: BotClient) -> None:
    client.say("/apply")
    row = BotSession.objects.get(user="ann")
    assert row.flow is not None
    row.flow["version"] = 1
    row.save()
    assert client.say("Because.") == ["The form has changed. Please /apply again."]
    assert (last()["outcome"], last()["state"]["version"]) == ("diverged", 1)
    client.say("/apply")
    assert client.say("Because.") == ["Because.! And when?"]


def test_renamed_flow(client: BotClient) -> None:
    client.say("/age")
    row = BotSession.objects.get(user="ann")
    assert row.flow is not None
    row.flow["name"] = "years"
    row.save()
    assert client.say("/what") == ["You are in years."]
    assert client.say("/size") == ["I have lost the thread.", "Which size?"]
    assert (last()["outcome"], last()["name"]) == ("lost", "years")


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_of_the_page(name: str, guide: Guide, bot_client: MakeClient) -> None:
    guide[name](bot_client)
