"""What an engine does with handlers that only wait for the turn of a send."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from botsessions import Router, Session, Update, clock, handling, operations
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.exceptions import RateLimited
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Arrival
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotUpdate
from botsessions.pacing.line import LAG
from botsessions.pacing.pacer import Pacer
from tests.kit import handle, message, running
from tests.pacing.kit import Noting, limited, platform

pytestmark = pytest.mark.usefixtures("transactional_db")

router = Router()


@router.message()
async def say(update: Update, session: Session) -> None:
    to = "channel" if update.text == "post" else None
    await session.send(update.text, to=to)


async def settled(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def stored(update: Update) -> BotUpdate:
    return await BotUpdate.objects.aget(bot=update.bot, update_id=update.id)


# Room


async def test_sends_that_wait_keep_no_room_from_other_updates() -> None:
    """P28: one busy group does not stop every bot of the process."""
    with running(router, platform=Noting, rates={"chat": (1, 30)}, MAX_IN_FLIGHT=4):
        engine = current_engine()
        await engine.start()
        try:
            crowd = [message(f"{n}", user=f"u{n}", chat="-team") for n in range(8)]
            await asyncio.gather(*(engine.submit(each) for each in crowd))
            await settled(lambda: len(engine._handling) >= 4)
            await engine.submit(message("hi", user="ben", bot="other"))
            await settled(lambda: platform("other").texts("ben") == ["hi"], 5)
        finally:
            await engine.stop(0)


async def test_there_is_an_end_to_that_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "WAITING", 2)
    with running(router, platform=Noting, rates={"chat": (1, 30)}, MAX_IN_FLIGHT=2):
        engine = current_engine()
        await engine.start()
        try:
            crowd = [message(f"{n}", user=f"u{n}", chat="-team") for n in range(9)]
            for each in crowd:
                await engine.submit(each)
            assert len(engine._handling) <= 4
            assert engine._handling.room <= 0
            assert platform().texts() == ["0"]
        finally:
            await engine.stop(0)


async def test_what_was_stored_for_want_of_room_is_taken_up_when_others_begin_to_wait() -> None:
    with running(router, platform=Noting, rates={"chat": (1, 30)}, MAX_IN_FLIGHT=1):
        engine = current_engine()
        await engine.start()
        try:
            crowd = [message(f"{n}", user=f"u{n}", chat=f"-{n}") for n in range(6)]
            crowd.insert(1, message("once more", user="x", chat="-0"))
            await asyncio.gather(*(engine.submit(each) for each in crowd))
            await settled(lambda: len(platform().texts()) >= 6, 8)  # RECOVER_EVERY is 10
        finally:
            await engine.stop(0)


# The end


@pytest.mark.parametrize("rates", [{"chat": (1, 60)}, {"bot": (1, 60)}, None])
async def test_a_process_that_stops_waits_for_no_turn_that_comes_later(rates: Any) -> None:
    """P28: another one goes on with it."""
    with running(router, platform=Noting, rates=rates, RATE_WAIT=100):
        engine = current_engine()
        await engine.start()
        if rates:
            await bots["demo"].send("ann", "before")
        else:
            platform().refuse("ann", limited(50))
        update = message("a", user="ann")
        await engine.submit(update)
        await settled(lambda: engine._handling and engine._handling.room > 999)
        began = time.monotonic()
        await engine.stop()
        assert time.monotonic() - began < 4
        row = await stored(update)
        assert (row.status, row.attempts) == ("pending", 1)
        assert row.due_at is not None
        assert (row.due_at - clock.now()).total_seconds() < 5


async def test_a_process_that_stops_still_waits_for_a_turn_that_comes_before() -> None:
    with running(router, platform=Noting, rates={"chat": (1, 1.0)}):
        engine = current_engine()
        await engine.start()
        await bots["demo"].send("ann", "before")
        await engine.submit(message("a", user="ann"))
        await engine.stop()
        assert platform().texts() == ["before", "a"]


def test_recovery_is_not_held_up_by_sends_that_wait() -> None:
    """P28: a worker that was asked to recover has other things to do."""
    with running(router, platform=Noting, rates={"chat": (1, 30)}):
        async_to_sync(bots["demo"].send("ann", "before")._alone)()
        update = message("a", user="ann")
        DatabaseMailbox().store([Arrival(update, "demo:ann:ann", [])])
        began = time.monotonic()
        operations.recover()
        assert time.monotonic() - began < 8
        assert platform().texts() == ["before"]
        row = BotUpdate.objects.get(update_id=update.id)
        assert (row.status, row.attempts) == ("pending", 1)
        assert row.due_at is not None
        assert 20 < (row.due_at - clock.now()).total_seconds() < 31


# What it says


async def test_that_a_chat_takes_no_more_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with running(router, platform=Noting), caplog.at_level(logging.INFO, "botsessions.engine"):
        platform().refuse("ann", limited(3600))
        await current_engine().submit(message("a"))
        await current_engine().drain()
    [said] = [each for each in caplog.records if "is tried again in" in each.getMessage()]
    assert (said.levelname, said.exc_info) == ("INFO", None)
    assert vars(said)["mailbox"]
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


async def test_another_chat_that_takes_no_more_holds_up_nobody_for_ever() -> None:
    """P28: the sender's own chat is not the one that is paused."""
    with running(router, platform=Noting):
        platform().refuse("channel", limited(3600))
        platform().refuse("eve", limited(3600))
        posted, own = message("post", user="ann"), message("hi", user="eve")
        await current_engine().submit(posted)
        await current_engine().submit(own)
        await current_engine().drain()
        for update, longest in ((posted, 300), (own, 3600)):
            due_at = (await stored(update)).due_at
            assert due_at is not None
            assert longest - 60 < (due_at - clock.now()).total_seconds() <= longest


async def test_a_refusal_names_its_chat_and_whether_the_platform_was_asked() -> None:
    with running(router, platform=Noting, rates={"chat": (1, 60)}, RATE_WAIT=0):
        platform().refuse("ann", limited(30))
        for asked in (True, False):
            with pytest.raises(RateLimited) as raised:
                await bots["demo"].send("ann", "a")
            assert (raised.value.chat, raised.value.was_asked) == ("ann", asked)


# Outside handlers


def test_a_session_in_synchronous_code_keeps_its_lease_while_its_sends_wait() -> None:
    with running(router, platform=Noting, rates={"chat": (1, 0.6)}, LEASE=2, RENEW_EVERY=0.4):
        with bots["demo"].sessions.get("ann", "ann") as session:
            for text in "abcde":
                session.send(text)
            session.data["n"] = 1
        assert platform().texts("ann") == list("abcde")
        row = DatabaseMailbox().load([[SessionKey("demo", "ann", "ann")]])[0][0]
        assert row is not None
        assert json.loads(row.data or b"") == {"n": 1}


# The way from here to there


async def test_a_call_that_arrives_late_is_counted_where_it_ended() -> None:
    """P28: as the first one, which has to connect."""

    class Cold(Noting):
        async def send(self, chat: str, text: str, **options: Any) -> dict[str, Any]:
            if not self.went:
                await asyncio.sleep(4 * LAG)
            return await super().send(chat, text, **options)

    with running(router, platform=Cold, rates={"chat": (1, 0.6)}):
        await asyncio.gather(*(bots["demo"].send("ann", text)._alone() for text in "ab"))
        first, second = platform().times("ann")
        assert second - first >= 0.6


async def test_that_it_cannot_be_counted_does_not_fail_what_was_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def call() -> str:
        await asyncio.sleep(2 * LAG)
        monkeypatch.setattr("botsessions.pacing.database.DatabaseWindows.acquire", None)
        return "sent"

    with running(router, platform=Noting, rates={"chat": (1, 5)}):
        assert await bots["demo"].pacer.run("ann", 1, call) == "sent"
    assert "A send that took long is not counted where it ended: TypeError" in caplog.messages


async def test_an_album_does_not_starve_while_another_process_chatters() -> None:
    """P28: room is kept for it at the moment at which it is told to come again."""
    with running(router, platform=Noting, rates={"bot": (4, 0.4)}, RATE_WAIT=20):
        one, two, is_over = Pacer(bots["demo"]), Pacer(bots["demo"]), False

        async def call() -> str:
            return "went"

        async def chatter(number: int) -> None:
            while not is_over:
                await two.run(f"c{number}", 1, call)

        chatting = [asyncio.create_task(chatter(number)) for number in range(6)]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        assert await one.run("ann", 4, call) == "went"
        assert time.monotonic() - began < 5
        is_over = True
        await asyncio.gather(*chatting)


async def test_what_cannot_wait_for_the_bots_own_window_says_so_at_once() -> None:
    with running(router, platform=Noting, rates={"bot": (1, 60)}, RATE_WAIT=5):
        await bots["demo"].send("ann", "a")
        began = time.monotonic()
        for _ in range(2):
            results = await asyncio.gather(
                *(bots["demo"].send(f"c{n}", "b")._alone() for n in range(5)),
                return_exceptions=True,
            )
            assert all(isinstance(each, RateLimited) for each in results)
        assert time.monotonic() - began < 5


async def test_handlers_that_wait_are_handled_all_the_same() -> None:
    with running(router, platform=Noting, rates={"chat": (1, 0.2)}):
        updates = [message(f"{n}", user=f"u{n}", chat="-team") for n in range(3)]
        assert await handle(*updates) == [None] * 3
        assert sorted(platform().texts()) == ["0", "1", "2"]
