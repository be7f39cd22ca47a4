"""The harness's own bot: its sessions note what they heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from django.conf import settings as django_settings
from django.test import override_settings

from botsessions.routing import Router
from botsessions.session import Session
from botsessions.updates import Update

#: How every alias of the harness begins; what follows is random.
PREFIX = "botsessions-harness-"
#: Seconds of a lease, and between renewals of it: short, so that a crash is over soon.
LEASE, RENEW_EVERY = 2.0, 0.5
#: Seconds that a slow handler takes.
SLOW = 0.4
#: ACK_AFTER of one process after another: one handles first, as for platforms that deliver again,
#: the next stores first. Both are less than a slow handler takes.
ACK_AFTER = (0.15, 0.0)


@dataclass
class Heard:
    """The numbers that a session heard, in order, as runs `[first, last]` of successive ones.

    Nothing is left out by that, and what goes well is one run, however long.
    """

    runs: list[list[int]] = field(default_factory=list)

    def add(self, number: int) -> None:
        if self.runs and self.runs[-1][1] == number - 1:
            self.runs[-1][1] = number
        else:
            self.runs.append([number, number])


def numbers(runs: Iterable[Iterable[int]]) -> list[int]:
    """Return the numbers of these runs, in order."""
    return [number for first, last in runs for number in range(first, last + 1)]


router = Router()


def number_of(update: Update) -> int:
    return int(update.arguments)


@router.command("hear")
async def hear(update: Update, session: Session[Heard]) -> None:
    session.data.add(number_of(update))


@router.command("say")
async def say(update: Update, session: Session[Heard]) -> None:
    """Send something too, in the middle of the work."""
    session.data.add(number_of(update))
    await session.send(f"{number_of(update)}")


@router.command("slow")
async def slow(update: Update, session: Session[Heard]) -> None:
    """Take long enough to be stored, so that others wait in the mailbox."""
    session.data.add(number_of(update))
    await asyncio.sleep(SLOW)


@router.command("block")
def block(update: Update, session: Session[Heard]) -> None:
    """Take as long in a thread."""
    session.data.add(number_of(update))
    time.sleep(SLOW)


def configure(alias: str, store: str, ack_after: float = 0.0) -> None:
    """Make it the only bot in the settings of this process, for good.

    What an engine does for all bots by itself is then done for none of the project's. Times that a
    run would wait for are shortened; the rest of the settings stays the project's.
    """
    configured = getattr(django_settings, "BOTSESSIONS", {})
    bot = {
        "PLATFORM": "botsessions.platforms.local.LocalPlatform",
        "ROUTER": router,
        "OPTIONS": {"secret": alias},
        "STORE": store,
        "ACK_AFTER": ack_after,
    }
    changes = {
        "BOTS": {alias: bot},
        "LEASE": LEASE,
        "RENEW_EVERY": RENEW_EVERY,
        "RECOVER_EVERY": 0.3,
        "RETRY_DELAY": 0.1,
    }
    override_settings(BOTSESSIONS={**configured, **changes}).enable()
