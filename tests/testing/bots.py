"""The bots that the tests of the test kit talk to."""

from __future__ import annotations

import asyncio
from typing import Any

from django.test import override_settings

from botsessions import Bot, Router, Session, SessionController, SessionKey, Update
from botsessions.exceptions import RateLimited

router = Router()


@router.command("boom")
async def boom(session: Session[dict[str, Any]]) -> None:
    session.data["boom"] = True
    raise ValueError("boom")


@router.command("flaky")
async def flaky(update: Update, session: Session[dict[str, Any]], bot: Bot) -> None:
    attempts.append(update.id)
    if len(attempts) < 3:
        raise ValueError(f"attempt {len(attempts)}")
    await session.send("Done at last.")


#: The updates of "/flaky", once for each attempt.
attempts: list[str] = []


@router.command("tea")
async def tea(session: Session[dict[str, Any]]) -> None:
    await session.send("Milk?", buttons={"Yes": "with milk", "No": "without"})


@router.command("keyboard")
async def keyboard(session: Session[dict[str, Any]]) -> None:
    rows = [
        [{"text": "Yes", "callback_data": "with milk"}, {"text": "Docs", "url": "https://e.org"}]
    ]
    await session.send("Milk?", reply_markup={"inline_keyboard": rows})


@router.command("answered")
async def answered(session: Session[dict[str, Any]]) -> None:
    await session.call("answerCallbackQuery", callback_query_id="7")
    await session.send("Answered.")


@router.action()
async def chosen(update: Update, bot: Bot) -> None:
    assert update.chat is not None
    assert update.message is not None
    text = f"Tea {update.action}"
    await bot.call("edit", chat=update.chat.id, message_id=update.message.id, text=text)
    await bot.send(update.chat.id, "One moment.")


@router.command("album")
async def album(session: Session[dict[str, Any]]) -> None:
    await session.call("album", texts=["one", "two"])


@router.command("call")
async def call(session: Session[dict[str, Any]]) -> None:
    await session.call("send", text="By name.")


@router.command("clear")
async def clear(session: Session[dict[str, Any]]) -> None:
    await session.clear()


@router.command("patient")
async def patient(session: Session[dict[str, Any]]) -> None:
    try:
        await session.send("First.")
    except RateLimited as error:
        await session.send(f"Later: {error.retry_after:g} s.")


@router.command("brief")
async def brief(session: Session[dict[str, Any]]) -> None:
    session.data["brief"] = True
    session.expire_in(60)


@router.command("thread")
def thread(update: Update, session: Session[dict[str, Any]]) -> None:
    session.data["count"] = session.data.get("count", 0) + 1
    session.send(f"In thread {update.thread or 'none'}: {session.data['count']}")


@router.waiter(timeout=60)
async def idiom(control: SessionController, update: Update, session: Session) -> None:
    await session.send(f"{update.text}!")
    control.keep(timeout=60, reset_timeout=True)


@idiom.timed_out
async def idiom_timed_out(control: SessionController, session: Session) -> None:
    session.data["reminders"] = session.data.get("reminders", 0) + 1
    if session.data["reminders"] == 3:
        await session.send("You timed out!")
    else:
        await session.send("Still there?")
        control.keep(timeout=60, reset_timeout=True)


@router.command("idiom")
async def begin_idiom(session: Session) -> None:
    await session.send("Please send an idiom.")
    await session.begin(idiom)


@router.message()
async def count(update: Update, session: Session[dict[str, Any]]) -> None:
    session.data["count"] = session.data.get("count", 0) + 1
    await session.reply(f"{update.text} {session.data['count']}")


other = Router()


@other.message()
async def echo(update: Update, session: Session[dict[str, Any]]) -> None:
    session.data["said"] = update.text
    await session.send(update.text.upper())


async def slow_key(update: Update) -> SessionKey | None:
    """The key strategy of a bot that knows nobody but Ann."""
    await asyncio.sleep(0)
    known = update.user is not None and update.user.id == "ann"
    return SessionKey(update.bot, user="of ann") if known else None


#: A bot whose token is nowhere: it works all the same.
TELEGRAM = {
    "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
    "ROUTER": "tests.testing.bots.router",
    "OPTIONS": {},
}
LOCAL = {
    "PLATFORM": "botsessions.platforms.local.LocalPlatform",
    "ROUTER": "tests.testing.bots.other",
    "OPTIONS": {"secret": "s"},
}


def settings(**changes: Any) -> dict[str, Any]:
    """Return BOTSESSIONS with the bots "demo" and "other"; lower-case changes are demo's."""
    bot = TELEGRAM | {name.upper(): value for name, value in changes.items() if name.islower()}
    rest = {name: value for name, value in changes.items() if name.isupper()}
    return {"BOTS": {"demo": bot, "other": LOCAL}, **rest}


def configured(**changes: Any) -> override_settings:
    return override_settings(BOTSESSIONS=settings(**changes))
