"""Time passes where a test says so, and nobody waits for it."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db.models import F

from botsessions import clock
from botsessions.models import BotSession, BotUpdate
from botsessions.testing import BotClient
from botsessions.testing.crashes import Process
from botsessions.testing.points import POINTS
from tests.testing.bots import attempts, configured

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 5


async def test_the_clock_stands_still_but_for_advance(client: BotClient) -> None:
    """P37."""
    began = client.now
    assert client.now == clock.now() == began
    await client.say("hi")
    assert (await BotSession.objects.aget()).created_at == began
    assert await client.advance(hours=1, seconds=5) == []
    assert client.now == began + timedelta(hours=1, seconds=5)
    await client.advance(timedelta(days=1), hours=1)
    assert client.now == began + timedelta(days=1, hours=2, seconds=5)
    with pytest.raises(ValueError, match="does not go back"):
        await client.advance(seconds=-1)


async def test_attempts_are_made_as_they_become_due(bot_client: Callable[..., BotClient]) -> None:
    with configured(RETRY_DELAY=10):
        client = bot_client("demo", raise_exceptions=False)
        assert await client.say("/flaky") == []
        assert len(attempts) == 1
        assert await client.advance(seconds=9) == []
        assert len(attempts) == 1
        assert await client.advance(seconds=1) == []
        assert len(attempts) == 2
        assert await client.advance(seconds=19) == []
        assert await client.advance(seconds=1) == ["Done at last."]
        assert (await BotUpdate.objects.aget()).status == "done"


async def test_every_attempt_has_its_own_time(bot_client: Callable[..., BotClient]) -> None:
    with configured(RETRY_DELAY=10):
        client = bot_client("demo", raise_exceptions=False)
        began = client.now
        await client.say("/flaky")
        assert await client.advance(hours=1) == ["Done at last."]
        assert (await BotUpdate.objects.aget()).finished_at == began + timedelta(seconds=30)
        assert client.now == began + timedelta(hours=1)


def test_time_passes_in_synchronous_code(bot_client: Callable[..., BotClient]) -> None:
    client = bot_client("demo", raise_exceptions=False)
    client.say("/flaky")
    assert client.advance(hours=1) == ["Done at last."]


async def test_errors_of_later_attempts_are_raised_when_time_has_passed(client: BotClient) -> None:
    began = client.now
    with pytest.raises(ValueError, match="attempt 1"):
        await client.say("/flaky")
    with pytest.raises(ValueError, match="attempt 2"):
        await client.advance(seconds=1)
    assert client.now == began + timedelta(seconds=1)
    assert await client.advance(seconds=2) == ["Done at last."]


async def test_sessions_end_when_they_expire(client: BotClient) -> None:
    await client.say("/brief")
    state = await client.session()
    assert state is not None
    assert state.expires_at == client.now + timedelta(minutes=1)
    await client.advance(seconds=60)
    assert await client.session() is not None
    await client.advance(timedelta(microseconds=1))
    assert await client.session() is None
    assert not await BotSession.objects.aexists()


async def test_every_session_ends_at_its_own_time(client: BotClient) -> None:
    await client.say("/brief")
    await client.advance(seconds=30)
    await client.say("/brief", user="ben")
    await client.advance(seconds=45)
    assert await client.session() is None
    assert await client.session("ben") is not None
    await client.advance(hours=1)
    assert await client.session("ben") is None


async def test_an_expired_session_is_none_before_it_is_swept(client: BotClient) -> None:
    await client.say("/brief")
    await BotSession.objects.aupdate(expires_at=F("expires_at") - timedelta(hours=1))
    assert await client.session() is None


async def test_what_is_due_already_happens_without_time(client: BotClient) -> None:
    await client.say("/brief")
    await BotSession.objects.aupdate(expires_at=F("expires_at") - timedelta(hours=1))
    await client.advance()
    assert not await BotSession.objects.aexists()


async def test_deadlines_of_flows_pass_one_after_another(client: BotClient) -> None:
    """P37."""
    assert await client.say("/idiom") == ["Please send an idiom."]
    assert await client.advance(seconds=59) == []
    assert await client.say("rain") == ["rain!"]
    state = await client.session()
    assert state is not None
    assert state.flow["name"] == "idiom"
    assert await client.advance(seconds=59) == []
    assert await client.advance(seconds=1) == ["Still there?"]
    assert await client.advance(minutes=5) == ["Still there?", "You timed out!"]
    state = await client.session()
    assert state is not None
    assert (state.flow, state.data) == (None, {"reminders": 3})


def test_deadlines_pass_in_synchronous_code(client: BotClient) -> None:
    client.say("/idiom")
    assert client.advance(hours=1) == ["Still there?", "Still there?", "You timed out!"]


@pytest.mark.parametrize("ack_after", [0, 1])
@pytest.mark.parametrize("point", POINTS)
async def test_a_deadline_survives_a_crash(
    bot_client: Callable[..., BotClient], point: str, ack_after: int
) -> None:
    with configured(ack_after=ack_after):
        client = bot_client("demo")
        await client.say("/idiom")
        with client.crash_at(point):
            replies = await client.advance(minutes=1)
        assert replies == ["Still there?"] * (2 if point == "sent" else 1)
        state = await client.session()
        assert state is not None
        assert state.data == {"reminders": 1}


async def test_what_is_due_again_and_again_is_an_error(
    client: BotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fire_deadlines(self: Process) -> int:
        return 1

    monkeypatch.setattr(Process, "fire_deadlines", fire_deadlines)
    monkeypatch.setattr("botsessions.testing.client.ROUNDS", 3)
    with pytest.raises(RuntimeError, match="due again and again"):
        await client.advance(minutes=1)
