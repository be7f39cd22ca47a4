"""What the tests of flows share: a clock that they move, and what is stored of a flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

from botsessions import clock
from botsessions.engine import current_engine
from botsessions.models import BotSession
from tests.kit import handle, message, texts


class Time:
    """The application's clock, which stands still until it is moved."""

    def __init__(self) -> None:
        self.now = clock.now()

    async def passes(self, seconds: float) -> int:
        """Let so much time pass; return how many deadlines came."""
        self.now += timedelta(seconds=seconds)
        return await fire()


@contextmanager
def stopped_clock() -> Iterator[Time]:
    time = Time()
    with mock.patch.object(clock, "now", side_effect=lambda: time.now):
        yield time


async def fire() -> int:
    """Let flows know that their deadlines have passed; return how many there were."""
    engine = current_engine()
    engine.is_lasting = True
    fired = await engine.fire_deadlines()
    await engine.drain()
    return fired


async def say(*texts_: str, user: str = "ann", chat: str = "", **more: Any) -> list[str]:
    """Say something, one after another; return what the bot has said in the chat since."""
    before = len(texts(chat or user))
    for text in texts_:
        for answer in await handle(message(text, user=user, chat=chat, **more)):
            assert answer is None
    return texts(chat or user)[before:]


async def flow(user: str = "ann", qualifier: str = "", **key: Any) -> Any:
    """Return what is stored of a session's flow, None where none waits."""
    row = await BotSession.objects.filter(user=user, qualifier=qualifier, **key).afirst()
    return None if row is None else row.flow


async def last(user: str = "ann", qualifier: str = "") -> tuple[str, str]:
    """Return the name of a session's last flow, and how it ended."""
    row = await BotSession.objects.aget(user=user, qualifier=qualifier)
    assert row.last_flow is not None
    return row.last_flow["name"], row.last_flow["outcome"]
