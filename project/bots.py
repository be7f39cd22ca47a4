"""The demo bot: what it remembers outlives a restart, and two messages at once lose nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from botsessions import (
    Bot,
    Expires,
    Qualifier,
    Router,
    Session,
    SessionController,
    Talk,
    Update,
    operations,
)

router = Router()


@dataclass
class Visitor:
    """What the bot knows of somebody in a chat."""

    messages: int = 0
    nickname: str = ""
    word: str = ""  # the last one of the word chain


@dataclass
class Basket:
    """What somebody is ordering."""

    items: list[str] = field(default_factory=list)
    open: bool = False


Order = Annotated[Session[Basket], Qualifier("order")]


def is_ordering(update: Update, order: Order) -> bool:
    return order.data.open


@router.command("start", "help")
async def start(session: Session[Visitor]) -> None:
    await session.send(
        "/count tells how many messages you have sent, /hi asks for your nickname, "
        "/order takes an order until /done, /table books a table, /chain plays the word chain, "
        "/cancel ends what I am asking. /note keeps a note for a minute, /flood says 250 things, "
        "/wipe deletes what we have said, /forgetme erases all that I know of you."
    )


@router.command("count")
async def count(session: Session[Visitor]) -> None:
    who = session.data.nickname or "You"
    number = session.data.messages
    await session.send(f"{who}: {number} message{'' if number == 1 else 's'} so far.")


# A slice of the conversation, which is wiped when it is over.


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


# A waiter: what the player says next comes here, until it stops or a minute has passed.


@router.waiter(timeout=60)
async def chain(control: SessionController, update: Update, session: Session[Visitor]) -> None:
    word, before = update.text.lower(), session.data.word
    if word == "exit":
        await session.send("The chain ends.")
        control.stop()
    elif len(word) != 4 or not word.isalpha() or not word.startswith(before[-1:]):
        await session.send("That does not fit. The time goes on.")
    else:
        session.data.word = word
        await session.send(f"Now one that begins with {word[-1].upper()}.")
        control.keep(timeout=60, reset_timeout=True)


@chain.timed_out
async def chain_timed_out(session: Session[Visitor]) -> None:
    await session.send("You took too long. /chain begins again.")


@router.command("chain")
async def begin_chain(session: Session[Visitor]) -> None:
    session.data.word = ""
    await session.begin(chain)
    await session.send("A word of four letters, please; exit ends the chain.")


# Conversations: one line of thought, in which hours may pass and the server may be restarted.


@router.conversation(timeout=120)
async def nickname(talk: Talk, session: Session[Visitor]) -> None:
    await talk.send("Hi! What shall I call you?")
    answer = await talk.wait(
        where=lambda update: 0 < len(update.text) <= 40, otherwise="In up to 40 letters, please."
    )
    session.data.nickname = answer.text
    await talk.send(f"Nice to meet you, {answer.text}.")


@nickname.timed_out
async def nickname_timed_out(session: Session[Visitor]) -> None:
    await session.send("Never mind. /hi, whenever you like.")


@router.command("hi")
async def hi(session: Session[Visitor]) -> None:
    if session.data.nickname:
        await session.send(f"Hi again, {session.data.nickname}!")
    else:
        await session.begin(nickname)


def price(people: int) -> int:
    return 4 * people  # as if somebody had to be asked


@router.conversation(timeout=300)
async def table(talk: Talk) -> None:
    await talk.send("Tea for how many? (back takes back an answer, /cancel ends this.)")
    people = await talk.wait(
        where=lambda update: update.text.isdigit(), otherwise="A number, please."
    )
    await talk.send("At what time?", buttons={"Four": "four", "Five": "five"})
    time = await talk.wait(types=["message", "callback_query"])
    if time.text == "back":
        await talk.back()
    total = await talk.run(price, int(people.text))
    await talk.send(f"A table for {people.text} at {time.action or time.text}: {total} coins. yes?")
    answer = await talk.wait()
    if answer.text == "back":
        await talk.back()
    await talk.send("See you then." if answer.text.lower() == "yes" else "Then not.")


@table.timed_out
async def table_timed_out(session: Session[Visitor]) -> None:
    await session.send("I have given your table away. /table books another.")


@router.command("table")
async def begin_table(session: Session[Visitor]) -> None:
    await session.begin(table)


@router.command("cancel", during_flows=True)
async def cancel(session: Session[Visitor]) -> None:
    await session.send("Cancelled." if await session.end() else "There is nothing to cancel.")


# What is kept for a while only, what is deleted in bulk, and who is forgotten.

Note = Annotated[Session[dict[str, Any]], Qualifier("note"), Expires(60)]


@router.command("note")
async def keep_note(update: Update, note: Note, bot: Bot) -> None:
    note.data["text"] = update.arguments
    await bot.send(note.chat, "I keep that for a minute.")


@router.expired
async def note_expired(data: Any, session: Session, bot: Bot) -> None:
    if data and "text" in data:
        await bot.send(session.chat, f"I have forgotten your note: {data['text']}")


@router.command("flood")
async def flood(session: Session[Visitor]) -> None:
    for number in range(1, 251):
        session.send(f"{number} of 250")  # not awaited: they go in order when this returns


@router.command("wipe")
async def wipe(session: Session[Visitor], bot: Bot) -> None:
    cleared = await session.clear(wait=False)
    await bot.send(session.chat, f"{cleared} messages are deleted as soon as a worker has time.")


@router.command("forgetme")
def forget_me(update: Update, bot: Bot) -> None:
    if update.user is not None and update.chat is not None:
        bot.send(update.chat.id, "In a few seconds I have never heard of you.")
        operations.begin_erasure(bot.alias, user=update.user.id)


@router.message()
async def listen(session: Session[Visitor]) -> None:
    session.data.messages += 1
