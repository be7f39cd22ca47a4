"""The work every row does: count the messages of a user, with or without telling the count."""

from dataclasses import dataclass

from botsessions import Message, Router, Session, Update


@dataclass
class Counter:
    count: int = 0


router = Router()
replying_router = Router()
tracking_router = Router()


@router.message()
async def count(session: Session[Counter]) -> None:
    session.data.count += 1


@replying_router.message()
async def count_and_reply(update: Update, session: Session[Counter]) -> None:
    session.data.count += 1
    await session.send(f"{session.data.count}")


@tracking_router.message()
async def count_and_track(update: Update, session: Session[Counter]) -> None:
    """Three messages an update: what came in, which an open session tracks by itself, and two."""
    session.data.count += 1
    assert update.chat is not None
    for number in range(2):
        await session.track(Message(f"{update.id}-{number}", update.chat, text="tracked"))
