"""The handlers of the servers under test: each counts its update in the session."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from botsessions import Bot, Router, Session, SessionController, Talk, Update
from tests.processes.notes import first_time, note_run


@dataclass
class Work:
    count: int = 0
    order: list[str] = field(default_factory=list)


router = Router()


@router.middleware
async def note(update: Update, call_next: Callable[[], Awaitable[None]]) -> None:
    note_run(update.id)
    await call_next()


def seconds(update: Update) -> float:
    return float(update.arguments.split()[0])


@router.waiter(None)
async def answer(update: Update, session: Session[Work], control: SessionController) -> None:
    session.data.count += 1
    session.data.order.append("answer")
    control.stop()


@answer.timed_out
async def no_answer(session: Session[Work]) -> None:
    session.data.count += 1
    session.data.order.append("timeout")
    await session.send("too late")


@router.conversation()
async def form(talk: Talk, session: Session[Work]) -> None:
    """Ask three questions, and append the answers."""
    for number in range(3):
        await talk.send(f"question {number}")
        said = await talk.wait()
        session.data.count += 1
        session.data.order.append(said.text.split()[0])
    await talk.send("done")


@router.command("wait")
async def begin_waiter(update: Update, session: Session[Work]) -> None:
    """Wait for an answer for the given seconds."""
    await session.begin(answer, timeout=seconds(update))


@router.command("form")
async def begin_form(session: Session[Work]) -> None:
    await session.begin(form)


@router.command("count")
async def count(session: Session[Work]) -> None:
    session.data.count += 1


@router.command("append")
async def append(update: Update, session: Session[Work]) -> None:
    session.data.count += 1
    session.data.order.append(update.id)


@router.command("say")
async def say(update: Update, session: Session[Work]) -> None:
    """Append, and send twice: at once, and when the handler returns."""
    session.data.count += 1
    session.data.order.append(update.id)
    await session.send(f"{update.id} a")
    session.send(f"{update.id} b")


@router.command("slow")
async def slow(update: Update, session: Session[Work]) -> None:
    """Take the given seconds."""
    await asyncio.sleep(seconds(update))
    session.data.count += 1


@router.command("hang")
async def hang(update: Update, session: Session[Work]) -> None:
    """Take the given seconds, the first time."""
    if first_time(f"hung-{update.id}"):
        await asyncio.sleep(seconds(update))
    session.data.count += 1


@router.command("block")
def block(update: Update, session: Session[Work]) -> None:
    """Take the given seconds of a thread, the first time."""
    if first_time(f"hung-{update.id}"):
        time.sleep(seconds(update))
    session.data.count += 1


@router.command("sign")
async def sign(update: Update, session: Session[Work]) -> None:
    """Write down which process this is, at once the first time; after the given seconds later."""
    if not first_time(f"signed-{update.id}"):
        await asyncio.sleep(seconds(update))
    session.data.count += 1
    session.data.order.append(str(os.getpid()))


@router.command("send")
async def send(update: Update, session: Session[Work]) -> None:
    session.data.count += 1
    await session.send(update.id)


@router.command("fail")
async def fail(update: Update, session: Session[Work]) -> None:
    """Say that it begins, and fail."""
    session.data.count += 1
    await session.send(update.id)
    await session.send(f"{update.id} goes on")
    raise RuntimeError("This handler fails.")


paced = Router()


@paced.command("tell")
async def tell(update: Update, session: Session[Work], bot: Bot) -> None:
    """Say several things: here, and in the chats that are named."""
    for number in range(2):
        await session.send(f"{update.id} {number}")
        for chat in update.arguments.split():
            await bot.send(chat, f"{update.id} {number}")
    session.data.count += 1
