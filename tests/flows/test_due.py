"""What is due without anybody saying a word: deadlines, and sessions that expire."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.management import call_command

from botsessions import Bot, Router, Session, SessionController, Update
from botsessions.engine import current_engine
from botsessions.exceptions import Unavailable
from botsessions.flows.deadlines import passed
from botsessions.flows.state import read
from botsessions.models import BotSession, BotUpdate
from botsessions.operations import deadlines, sweep
from botsessions.operations.expiry import expiry_of
from botsessions.tasks import deadlines as deadlines_task
from botsessions.upkeep import Upkeep
from tests.flows.kit import flow, say, stopped_clock
from tests.kit import data, message, running, status, texts

pytestmark = pytest.mark.django_db(transaction=True)


def waiting(seconds: float = 10) -> Router:
    router = Router()

    @router.waiter(seconds)
    async def answer(control: SessionController) -> None:
        control.stop()

    @answer.timed_out
    async def late(session: Session) -> None:
        session.data["late"] = session.data.get("late", 0) + 1

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(answer)

    return router


def begin(*users: str) -> None:
    async def run() -> None:
        for user in users:
            await say("x", user=user)

    async_to_sync(run)()


def late() -> list[int]:
    return [(row.data or {}).get("late", 0) for row in BotSession.objects.order_by("user")]


def test_deadlines_are_a_function_a_task_and_a_command() -> None:
    with stopped_clock() as time, running(waiting()):
        begin("ann", "ben")
        assert deadlines() == 0
        time.now += timedelta(seconds=10)
        assert deadlines() == 2
        assert late() == [1, 1]
        begin("ann", "ben")
        time.now += timedelta(seconds=10)
        deadlines_task()
        assert late() == [2, 2]
        begin("ann")
        time.now += timedelta(seconds=10)
        out = StringIO()
        call_command("bots", "deadlines", stdout=out)
        assert out.getvalue() == "Deadlines that had passed: 1\n"
        assert late() == [3, 2]


def test_many_are_found_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botsessions.flows.deadlines.LIMIT", 7)
    with stopped_clock() as time, running(waiting()):
        begin(*[f"user{number:02}" for number in range(20)])
        time.now += timedelta(seconds=10)
        assert deadlines() == 20
        assert late() == [1] * 20


async def test_server_finds_them_by_itself() -> None:
    """P20: within half a second of the deadline, and never before."""
    with running(waiting(0.3)):
        engine = current_engine()
        await engine.start()
        try:
            await engine.submit(message("x"))
            begun = asyncio.get_running_loop().time()
            row = await BotSession.objects.aget()
            while (await data() or {}).get("late") is None:
                assert asyncio.get_running_loop().time() - begun < 5
                await asyncio.sleep(0.01)
            update = await BotUpdate.objects.aget(type="deadline")
            assert row.due_at is not None
            assert timedelta(0) <= update.received_at - row.due_at < timedelta(seconds=0.5)
        finally:
            await engine.stop()


async def test_who_was_told_and_killed_is_told_by_another() -> None:
    """A look that came to nothing is repeated after a while."""
    with stopped_clock() as time, running(waiting()):
        await say("x")
        time.now += timedelta(seconds=10)
        engine = current_engine()
        assert len(await engine.ask(lambda mailbox: mailbox.due(["demo"], 10))) == 1
        assert await time.passes(0) == 0
        assert await time.passes(9.9) == 0
        assert await time.passes(0.2) == 1
        assert await data() == {"late": 1}


async def test_deadline_of_a_flow_that_went_on_is_nothing() -> None:
    """It was kept between the look and its turn."""
    with stopped_clock() as time, running(waiting()):
        await say("x")
        time.now += timedelta(seconds=10)
        engine = current_engine()
        [(key, encoded)] = await engine.ask(lambda mailbox: mailbox.due(["demo"], 10))
        await say("stop", "x")
        await engine.submit(passed(key, read(encoded)))
        await engine.drain()
        assert await data() is None
        assert await flow() is not None
        assert await time.passes(10) == 1


async def test_database_that_is_away_is_logged_once(caplog: Any) -> None:
    """Looks come four times a second."""
    away = [True] * 5 + [False] + [True] * 5

    async def look() -> int:
        if away and away.pop():
            raise Unavailable("The database is away.")
        return 0

    upkeep = Upkeep(lambda work: asyncio.get_running_loop().create_task(work))
    upkeep.every(0.001, look)
    while away:
        await asyncio.sleep(0.005)
    upkeep.cancel()
    assert caplog.text.count("not looked for") == 2


# Sessions that expire


def expiring(**options: Any) -> Router:
    router = Router()

    @router.expired
    async def expired(data: Any, session: Session, bot: Bot) -> None:
        await bot.send(session.chat, f"You left {data['items']} in your basket.")
        if data["items"] == "keep":
            session.data["kept"] = True
        if data["items"] == "fail":
            raise RuntimeError("of the hook")

    @router.message()
    async def put(update: Update, session: Session) -> None:
        session.data["items"] = update.text

    return router


async def swept() -> int:
    return await sync_to_async(sweep)()


async def test_expired_session_is_told_once_and_deleted() -> None:
    """P18."""
    with stopped_clock() as time, running(expiring(), expires=60):
        await say("tea")
        await say("milk", user="ben")
        time.now += timedelta(seconds=59)
        assert await swept() == 0
        await say("rum", user="ben")
        time.now += timedelta(seconds=2)
        assert await swept() == 1
        assert await swept() == 0
        assert (texts(), texts("ben")) == (["You left tea in your basket."], [])
        assert [row.user async for row in BotSession.objects.all()] == ["ben"]


async def test_what_the_hook_writes_is_kept() -> None:
    with stopped_clock() as time, running(expiring(), expires=60):
        await say("keep")
        time.now += timedelta(seconds=61)
        assert await swept() == 1
        assert await data() == {"kept": True}
        assert await swept() == 0


async def test_session_that_was_written_meanwhile_has_not_expired() -> None:
    with stopped_clock() as time, running(expiring(), expires=60):
        await say("tea")
        time.now += timedelta(seconds=61)
        told = expiry_of(await BotSession.objects.aget(), {"items": "tea"})
        await say("rum")
        engine = current_engine()
        await engine.submit(told)
        await engine.drain()
        assert (texts(), await data()) == ([], {"items": "rum"})


async def test_session_whose_hook_fails_goes_all_the_same() -> None:
    with stopped_clock() as time, running(expiring(), expires=60, ATTEMPTS=1):
        await say("fail")
        time.now += timedelta(seconds=61)
        assert await swept() == 1
        assert not await BotSession.objects.aexists()
        assert await BotUpdate.objects.filter(type="expired", status="parked").aexists()


async def test_sweeps_at_once_tell_once() -> None:
    with stopped_clock() as time, running(expiring(), expires=60):
        for number in range(10):
            await say("tea", user=f"user{number}")
        time.now += timedelta(seconds=61)
        await asyncio.gather(*[swept() for _ in range(3)])
        assert [len(texts(f"user{number}")) for number in range(10)] == [1] * 10
        assert not await BotSession.objects.aexists()


async def test_flow_of_an_expired_session_is_gone_with_it() -> None:
    with stopped_clock() as time, running(waiting(1000), expires=60):
        await say("x")
        assert await flow() is not None
        time.now += timedelta(seconds=61)
        one = message("y")
        from tests.kit import handle

        await handle(one)
        assert await status(one) == "done"
        row = await BotSession.objects.aget()
        assert row.flow is not None  # which this message began
        time.now += timedelta(seconds=61)
        assert await swept() == 1
        assert await time.passes(10_000) == 0
