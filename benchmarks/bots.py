"""The work every row does: count the messages of a user, with or without telling the count."""

from dataclasses import dataclass

from botsessions import Router, Session, Update


@dataclass
class Counter:
    count: int = 0


router = Router()
replying_router = Router()


@router.message()
async def count(session: Session[Counter]) -> None:
    session.data.count += 1


@replying_router.message()
async def count_and_reply(update: Update, session: Session[Counter]) -> None:
    session.data.count += 1
    await session.send(f"{session.data.count}")
