"""Duplicates, updates at once, and processes that die."""

import asyncio
from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings

from botsessions import Router, Session, SessionKey, Update
from botsessions.engine import Engine
from botsessions.models import BotSession, BotUpdate, MailboxLease
from botsessions.testing import BotClient
from botsessions.testing.crashes import Crash, Process, ProcessKilled
from botsessions.testing.points import POINTS
from tests.testing.bots import configured, settings

pytestmark = pytest.mark.django_db


async def test_a_duplicate_has_no_effect(client: BotClient) -> None:
    with pytest.raises(RuntimeError, match="no update yet"):
        client.duplicate()
    await client.say("hi")
    assert await client.duplicate() == []
    assert await client.duplicate(times=5) == []
    await client.say("/tea")
    await client.press("Yes")
    assert await client.duplicate() == []
    assert client.platform.sent == ["hi 1", "Milk?", "One moment."]


async def test_updates_race_and_none_is_lost(client: BotClient) -> None:
    many = [("ann", "hi")] * 10
    replies = await client.interleave(*many, ("ben", "hi"))
    assert sorted(replies) == sorted([f"hi {number}" for number in range(1, 11)] + ["hi 1"])
    assert client.history("ann")[-10:] == [f"hi {number}" for number in range(1, 11)]
    assert await client.duplicate() == []


async def test_presses_and_groups_race_too(client: BotClient) -> None:
    await client.say("/tea", chat="room")
    replies = await client.interleave(
        {"button": "Yes", "user": "ann", "chat": "room"},
        {"button": "No", "user": "ben", "chat": "room"},
        {"text": "hi", "user": "eve", "chat": "room"},
    )
    assert sorted(replies) == ["One moment.", "One moment.", "hi 1"]


def test_updates_race_in_synchronous_code(client: BotClient) -> None:
    assert sorted(client.interleave(("ann", "hi"), ("ben", "hi"))) == ["hi 1", "hi 1"]
    assert client.duplicate() == []


async def test_verbs_may_run_at_once(client: BotClient) -> None:
    await asyncio.gather(*[client.say("hi") for _ in range(5)])
    await client.advance()
    assert sorted(client.replies) == [f"hi {number}" for number in range(1, 6)]


#: Of a bot whose updates are stored first, and of one whose updates are stored when it sends.
@pytest.mark.parametrize("ack_after", [0, 1])
@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_leaves_one_effect(
    bot_client: Callable[..., BotClient], point: str, ack_after: int
) -> None:
    with configured(ack_after=ack_after):
        client = bot_client("demo")
        await client.say("hi")
        with client.crash_at(point):
            replies = await client.say("hi")
        # Between the answer of the platform and its record nobody knows what was sent.
        assert replies == (["hi 2", "hi 2"] if point == "sent" else ["hi 2"])
        state = await client.session()
        assert state is not None
        assert (state.data, state.version) == ({"count": 2}, 2)
        assert await BotUpdate.objects.filter(status="done").acount() == 2
        assert not await MailboxLease.objects.aexists()
        assert Engine.at_point is None
        assert await client.say("hi") == ["hi 3"]


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_leaves_one_effect_in_synchronous_code(
    bot_client: Callable[..., BotClient], point: str
) -> None:
    with configured(ack_after=0):
        client = bot_client("demo")
        with client.crash_at(point):
            client.say("hi")
        assert BotSession.objects.get().data == {"count": 1}
        assert client.say("hi") == ["hi 2"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_among_many_updates_loses_none(
    bot_client: Callable[..., BotClient], point: str
) -> None:
    with configured(ack_after=0):
        client = bot_client("demo")
        with client.crash_at(point):
            await client.interleave(*[("ann", "hi")] * 5, ("ben", "hi"), ("eve", "hi"))
        states = [await client.session(user) for user in ("ann", "ben", "eve")]
        assert [state and state.data for state in states] == [
            {"count": 5}, {"count": 1}, {"count": 1}
        ]  # fmt: skip
        assert await BotUpdate.objects.filter(status="done").acount() == 7


async def test_a_button_and_an_attempt_survive_a_crash(
    bot_client: Callable[..., BotClient],
) -> None:
    client = bot_client("demo", raise_exceptions=False)
    await client.say("/tea")
    with client.crash_at("before_commit"):
        assert await client.press("Yes") == ["One moment."]
    await client.say("/flaky")
    await client.advance(seconds=1)
    with client.crash_at("before_commit"):
        assert await client.advance(seconds=2) == ["Done at last."]


async def test_nothing_of_the_dead_process_goes_on() -> None:
    router, happened = Router(), []

    @router.command("die")
    async def die(session: Session) -> None:
        happened.append("begun")
        try:
            await session.send("Dying.")
        finally:
            happened.append("cleaned up")
            await session.send("Too late.")

    @router.command("slow")
    async def slow(update: Update, session: Session) -> None:
        try:
            await asyncio.sleep(0.05)
        finally:
            await session.send("Slow.")

    with override_settings(BOTSESSIONS=settings(router=router)):
        async with BotClient("demo") as client:
            with client.crash_at("sent"):
                await client.interleave(("ann", "/die"), ("ben", "/slow"))
            assert happened == ["begun", "cleaned up", "begun", "cleaned up"]
            assert client.history("ann")[1:] == ["Dying.", "Dying.", "Too late."]
            assert client.history("ben")[1:] == ["Slow."]


async def test_a_point_that_is_not_reached_is_an_error(client: BotClient) -> None:
    with (
        pytest.raises(AssertionError, match="No update of bot 'demo' reached \"sent\""),
        client.crash_at("sent"),
    ):
        await client.say("/brief")
    with pytest.raises(AssertionError, match="ACK_AFTER 0"), client.crash_at("stored"):
        await client.say("/brief")
    with pytest.raises(ValueError, match="boom"), client.crash_at("committed"):
        raise ValueError("boom")
    assert await client.say("hi") == ["hi 1"]


async def test_a_crash_happens_once(client: BotClient) -> None:
    with client.crash_at("handling"):
        await client.say("hi")
        await client.say("hi")
        with pytest.raises(RuntimeError, match="dies once"), client.crash_at("sent"):
            pass
    assert client.replies == ["hi 1", "hi 2"]
    with pytest.raises(ValueError, match="no point 'later'"), client.crash_at("later"):
        pass


async def test_only_the_bot_of_the_client_dies(bot_client: Callable[..., BotClient]) -> None:
    demo, other = bot_client("demo"), bot_client("other")
    with demo.crash_at("handling"):
        assert await other.say("hi") == ["HI"]
        assert await demo.say("hi") == ["hi 1"]


async def test_points_are_still_told_to_others(
    client: BotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    monkeypatch.setattr(Engine, "at_point", staticmethod(lambda point, _: reached.append(point)))
    with client.crash_at("before_commit"):
        await client.say("hi")
    first = ["admitted", "handling", "sent", "stored", "before_commit"]
    assert reached == [*first, "handling", "before_commit", "committed"]


async def test_a_dead_process_has_no_database() -> None:
    process = Process(Crash("demo", "handling"))
    process.check_alive()
    load = sync_to_async(process.mailbox.load)
    assert await load([[SessionKey("demo", "ann")]]) == [[None]]

    async def die(process: Process) -> None:
        with BotClient("demo") as client:
            await client._submit([client._people.say("hi")], process)

    assert not await process.outlives(die)
    with pytest.raises(ProcessKilled):
        process.check_alive()
    with pytest.raises(ProcessKilled):
        await load([[SessionKey("demo", "ann")]])
