"""The demo bot: what it remembers outlives a restart, and two messages at once lose nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from botsessions import Bot, Qualifier, Router, Session, Update

router = Router()


@dataclass
class Visitor:
    """What the bot knows of somebody in a chat."""

    messages: int = 0
    nickname: str = ""
    asked: bool = False


@dataclass
class Basket:
    """What somebody is ordering."""

    items: list[str] = field(default_factory=list)
    open: bool = False


Order = Annotated[Session[Basket], Qualifier("order")]


def is_ordering(update: Update, order: Order) -> bool:
    return order.data.open


def is_asked(session: Session[Visitor]) -> bool:
    return session.data.asked


@router.command("start", "help")
async def start(session: Session[Visitor]) -> None:
    await session.send(
        "/count tells how many messages you have sent, /hi asks for your nickname, "
        "/order takes an order until /done."
    )


@router.command("count")
async def count(session: Session[Visitor]) -> None:
    who = session.data.nickname or "You"
    number = session.data.messages
    await session.send(f"{who}: {number} message{'' if number == 1 else 's'} so far.")


@router.command("hi")
async def hi(session: Session[Visitor]) -> None:
    if session.data.nickname:
        await session.send(f"Hi again, {session.data.nickname}!")
    else:
        session.data.asked = True
        await session.send("Hi! What shall I call you?")


@router.command("order")
async def begin_order(update: Update, order: Order) -> None:
    order.data = Basket(open=True)
    await order.track(update)  # from here on what is said is tracked by itself
    await order.send("What would you like? One thing a message, then /done.")


@router.command("done", filters=[is_ordering])
async def end_order(order: Order, bot: Bot) -> None:
    items = ", ".join(order.data.items) or "nothing"
    order.reset()
    wiped = await order.clear()
    await order.close()
    # Sent by the bot, not by the session: it is in no slice, and stays.
    await bot.send(order.chat, f"Ordered: {items}. I have wiped our {wiped} messages about it.")


@router.message(is_ordering)
async def add(update: Update, order: Order) -> None:
    order.data.items.append(update.text)
    await order.reply(f"Noted, that makes {len(order.data.items)}.")


@router.message(is_asked)
async def remember(update: Update, session: Session[Visitor]) -> None:
    session.data.nickname, session.data.asked = update.text[:40], False
    await session.send(f"Nice to meet you, {session.data.nickname}.")


@router.message()
async def listen(session: Session[Visitor]) -> None:
    session.data.messages += 1
