"""A bot that is called by its name alone waits for the rest."""

from __future__ import annotations

import pytest

from botsessions import Router, Session, Update
from botsessions.flows.mention import empty_mention
from tests.flows.kit import say, stopped_clock
from tests.kit import running, texts

pytestmark = pytest.mark.django_db(transaction=True)


def bot() -> Router:
    router = Router()
    router.include(empty_mention("shop_bot", prompt="Yes?", late="Call me again.", timeout=60))

    @router.command("help", during_flows=True)
    async def help(session: Session) -> None:
        await session.send("help")

    @router.message(lambda update: update.text.startswith("@shop_bot "))
    async def mentioned(update: Update, session: Session) -> None:
        await session.send(f"You said {update.text}")

    return router


async def test_next_message_counts_as_mentioned() -> None:
    """S61."""
    with running(bot()):
        assert await say("open", "@Shop_Bot", "open?", "open") == [
            "Yes?", "You said @shop_bot open?"
        ]  # fmt: skip


async def test_it_is_for_the_sender_and_for_a_minute() -> None:
    """S61, S49."""
    with stopped_clock() as time, running(bot()):
        await say("@shop_bot", chat="-1")
        assert await say("open?", user="ben", chat="-1") == []
        assert await time.passes(60) == 1
        assert texts("-1") == ["Yes?", "Call me again."]
        assert await say("open?", chat="-1") == []


async def test_command_is_none_of_it() -> None:
    with running(bot()):
        assert await say("@shop_bot", "/help", "open?") == [
            "Yes?", "help", "You said @shop_bot open?"
        ]  # fmt: skip
