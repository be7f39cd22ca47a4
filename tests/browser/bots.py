"""The demo bot with a mistake in it, which an operator can do something about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from botsessions import Qualifier, Router, Session, Update
from project.bots import router as demo


@dataclass
class Meal:
    """What a table has to pay, and how many sit there."""

    coins: int = 0
    people: int = 0


Table = Annotated[Session[Meal], Qualifier("meal")]

router = Router()


@router.command("eat")
async def eat(update: Update, table: Table) -> None:
    table.data.coins += 12
    await table.track(update)
    await table.send("Enjoy your meal. /bill tells what everybody pays.")


@router.command("bill")
async def divide(table: Table) -> None:
    """Fail until somebody has said how many people there are."""
    await table.send(f"{table.data.coins // table.data.people} coins each.")


router.include(demo)
