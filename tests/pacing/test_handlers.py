"""Rates as handlers, sessions and flows meet them: they wait, and do not fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from botsessions import Bot, Router, Session, Talk, Update, clock
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.exceptions import Forbidden, RateLimited
from botsessions.models import BotUpdate, RateWindow
from botsessions.testing import BotClient
from tests.kit import handle, message, running, status, texts
from tests.pacing.kit import Noting, limited, most_in, platform

pytestmark = pytest.mark.django_db

RATES = {"chat": (2, 0.2), "group": (3, 0.4), "bot": (4, 0.2)}

chatty = Router()


@chatty.command("album")
async def album(session: Session) -> None:
    await session.call("album", texts=["one", "two", "three"])
    await session.send("four")


@chatty.command("plain")
def plain(session: Session) -> None:
    for number in range(4):
        session.send(f"{number}")


@chatty.conversation()
async def talk(talk: Talk, session: Session) -> None:
    for number in range(3):
        await talk.send(f"{number}")


@chatty.command("talk")
async def begin(session: Session) -> None:
    await session.begin(talk)


@chatty.message()
async def answer(update: Update, session: Session, bot: Bot) -> None:
    """Say something in each way in which that can be done."""
    await session.send(f"{update.text} 0")
    await session.reply(f"{update.text} 1")
    assert update.chat is not None
    await bot.send(update.chat.id, f"{update.text} 2")
    await session.call("send", chat=update.chat.id, text=f"{update.text} 3")
    with session:
        await bot.send(None, f"{update.text} 4")
    session.send(f"{update.text} 5")


async def test_handlers_wait_and_do_not_fail() -> None:
    """P28: in order within each chat, however they send."""
    chats = ["ann", "ben", "-team"]
    with running(chatty, platform=Noting, rates=RATES):
        updates = [message(chat, chat=chat) for chat in chats]
        assert await handle(*updates) == [None] * 3
        for chat, update in zip(chats, updates, strict=True):
            assert await status(update) == "done"
            assert texts(chat) == [f"{chat} {number}" for number in range(6)]
            assert most_in(platform().times(chat), 0.2) <= 2
        assert most_in(platform().times("-team"), 0.4) <= 3
        assert most_in(platform().times(), 0.2) <= 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/album", ["one", "two", "three", "four"]), ("/plain", [*"0123"]), ("/talk", [*"012"])],
)
async def test_albums_def_handlers_and_flows_are_paced_too(text: str, expected: list[str]) -> None:
    """P28."""
    with running(chatty, platform=Noting, rates={"chat": (3, 0.2)}):
        await handle(message(text))
        assert texts() == expected
        assert most_in(platform().times(), 0.2) <= 3


async def test_sessions_outside_handlers_are_paced_too() -> None:
    """P28."""
    with running(chatty, platform=Noting, rates={"chat": (2, 0.2)}):
        handle = bots["demo"].sessions.get("ann", "ann")
        async with handle as session:
            for number in range(3):
                await session.send(f"{number}")
        await handle.send("3")

        def shell() -> None:
            with bots["demo"].sessions.get("ann", "ann") as session:
                session.send("4")

        await sync_to_async(shell)()
        assert texts() == [*"01234"]
        assert most_in(platform().times(), 0.2) <= 2


async def test_a_429_is_waited_for_within_the_handler() -> None:
    """P28: nobody else waits, and the handler does not notice."""
    with running(chatty, platform=Noting):
        platform().refuse("ann", limited(2.5))
        began = time.monotonic()
        first, other = message("ann"), message("ben", user="ben")
        assert await handle(first, other) == [None, None]
        assert max(platform().times("ben")) < min(platform().times("ann"))
        assert min(platform().times("ann")) - began >= 2.5
        assert texts() == [f"ann {number}" for number in range(6)]
        assert await status(first) == "done"
        assert (await BotUpdate.objects.aget(update_id=first.id)).attempts <= 1


async def test_a_long_429_is_tried_again_later_and_not_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P28: it is no attempt of the handler's, and what was sent before is not sent again."""
    router, tries = Router(), []

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        tries.append(update.text)
        await session.send(f"{update.text} a")
        await session.send(f"{update.text} b")

    class Flooded(Noting):
        async def send(self, chat: str, text: str, **options: Any) -> dict[str, Any]:
            if text == "first b" and len(tries) < 5:
                raise limited(3600)
            return await super().send(chat, text, **options)

    with running(router, platform=Flooded, ATTEMPTS=2):
        update, later = message("first"), message("second")
        engine = current_engine()
        await engine.submit(update)
        await engine.submit(later)
        await engine.drain()
        assert texts() == ["first a"]
        for number in range(1, 5):
            row = await BotUpdate.objects.aget(update_id=update.id)
            assert (row.status, row.attempts) == ("pending", 1)
            assert len(tries) == number
            assert row.due_at is not None
            left = (row.due_at - clock.now()).total_seconds()
            assert 3500 < left <= 3600
            await BotUpdate.objects.filter(pk=row.pk).aupdate(due_at=clock.now())
            bots["demo"].pacer._pauses.clear()  # an hour later
            await engine.recover()
            await engine.drain()
        assert tries == ["first"] * 5 + ["second"]
        assert texts() == ["first a", "first b", "second a", "second b"]
        assert await status(update) == await status(later) == "done"


async def test_an_update_that_is_held_up_can_still_fail() -> None:
    router, tries = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RateLimited("not now", retry_after=0.01)
        raise RuntimeError("on purpose")

    with running(router, platform=Noting, ATTEMPTS=3):
        update = message()
        await handle(update)
        row = await BotUpdate.objects.aget(update_id=update.id)
        assert (row.status, row.attempts, len(tries)) == ("parked", 3, 3)


async def test_an_update_that_fails_for_good_is_parked_all_the_same() -> None:
    with running(chatty, platform=Noting, rates=RATES):
        platform().refuse("ann", Forbidden("blocked"))
        update = message()
        await handle(update)
        assert await status(update) == "parked"


async def test_who_lost_the_mailbox_while_it_waited_sends_nothing() -> None:
    """P3, P28: whoever has it now sends it."""
    router, contexts = Router(), []

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        contexts.append(session._context)
        await session.send(f"{len(contexts)}")

    with running(router, platform=Noting, rates={"chat": (1, 0.3)}):
        await bots["demo"].send("ann", "before")
        handled = asyncio.create_task(handle(message()))
        while not contexts:
            await asyncio.sleep(0.01)
        contexts[0]._delivery.lease.lost = True
        await handled
        assert texts() == ["before", "2"]


async def test_in_the_test_kit_nothing_waits(bot_client: Callable[..., BotClient]) -> None:
    """P28: its clock stands still; a 429 is what the handler meets, and is tried again."""
    with running(chatty, rates={"chat": (1, 3600), "bot": (1, 3600)}):
        client = bot_client("demo", raise_exceptions=False)
        began = time.monotonic()
        assert len(await client.say("hi")) == 6
        client.platform.fail_next(429, retry_after=30)
        assert await client.say("ho") == []
        assert await client.advance(seconds=29) == []
        assert len(await client.advance(seconds=1)) == 6
        assert time.monotonic() - began < 5


async def test_what_was_paced_is_idle_after_a_while() -> None:
    """The rows say when they were last of use, for whoever clears them away."""
    with running(chatty, platform=Noting, rates=RATES):
        await handle(message(chat="-team"))
    keys = {"demo:chat:-team", "demo:group:-team", "demo:bot"}
    soon = clock.now() + timedelta(minutes=5)
    assert {row.key async for row in RateWindow.objects.filter(updated_at__lt=soon)} == keys
