"""What the tests of the pipeline share: a bot on the local platform, and updates for it."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.test import override_settings

from botsessions import Chat, Message, Router, Update, User
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.models import BotSession, BotUpdate, TrackedMessage
from botsessions.platforms.local import LocalPlatform

LOCAL = "botsessions.platforms.local.LocalPlatform"
_ids = itertools.count(1)


class Moment:
    """The time of day, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def configured(router: Router, **changes: Any) -> dict[str, Any]:
    """Return BOTSESSIONS with a bot "demo" of this router; lower-case changes are the bot's."""
    bot = {"PLATFORM": LOCAL, "ROUTER": router, "OPTIONS": {"secret": "s"}, "ACK_AFTER": 1}
    settings = {name: value for name, value in changes.items() if name.isupper()}
    bot |= {name.upper(): value for name, value in changes.items() if not name.isupper()}
    return {"BOTS": {"demo": bot, "other": bot}, "RETRY_DELAY": 0.01} | settings


def running(router: Router, **changes: Any) -> override_settings:
    return override_settings(BOTSESSIONS=configured(router, **changes))


def message(
    text: str = "hello",
    *,
    user: str = "ann",
    chat: str = "",
    id: str = "",
    bot: str = "demo",
    type: str = "message",
) -> Update:
    """Return an update in which somebody says something; `user=""` for nobody."""
    person = User(user, user.title()) if user else None
    place = Chat(chat or user, "group" if chat else "private")
    number = id or f"{next(_ids)}"
    said = Message(number, place, person, text=text)
    return Update(bot, number, type, chat=place, user=person, message=said, text=text)


def keyless(type: str = "inline_query", **changes: Any) -> Update:
    """Return an update that belongs to no chat."""
    return Update("demo", f"{next(_ids)}", type, user=User("ann"), **changes)


async def handle(*updates: Update) -> list[BaseException | None]:
    """Submit updates at once, let everything settle, and return how each was answered."""
    engine = current_engine()
    engine.is_lasting = True  # retries are waited for, as in a server
    try:
        answers = [engine.submit(update) for update in updates]
        return list(await asyncio.gather(*answers, return_exceptions=True))
    finally:
        await engine.drain()


def texts(chat: str = "ann", bot: str = "demo") -> list[str]:
    """Return what a bot has said in a chat and not deleted, in order."""
    platform = bots[bot].platform
    assert isinstance(platform, LocalPlatform)
    said = platform.network.history(chat)["messages"]
    return [each["text"] for each in said if each["from"]["is_bot"]]


def in_slices() -> QuerySet[TrackedMessage]:
    """Return what is in somebody's slice, without what was deleted."""
    return TrackedMessage.objects.filter(deleted_at=None)


async def data(user: str = "ann", qualifier: str = "", bot: str = "demo") -> Any:
    """Return the stored data of a user's private session, None where there is no row."""
    row = await BotSession.objects.filter(bot=bot, user=user, qualifier=qualifier).afirst()
    return None if row is None else row.data


async def status(update: Update) -> str:
    """Return the status of a stored update, "" where it is not stored."""
    row = await BotUpdate.objects.filter(bot=update.bot, update_id=update.id).afirst()
    return "" if row is None else row.status
