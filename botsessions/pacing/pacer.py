"""The sends of one bot: when each may go, and what a 429 does to those of its chat."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, TypeVar

from botsessions.conf import settings
from botsessions.exceptions import PlatformError, RateLimited, Unavailable, told
from botsessions.pacing.line import ASKED_WITHIN, LAG, ROUND, Line, Ticket
from botsessions.pacing.shared import shared
from botsessions.pacing.window import Request
from botsessions.platforms.base import Rate

if TYPE_CHECKING:
    from botsessions.bots import Bot

R = TypeVar("R")

log = logging.getLogger("botsessions.pacing")

#: The pause after a 429 that names none: the first, doubled with each, and the longest.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
#: The id of a chat where it can be a part of a key unchanged; others are hashed.
PLAIN: Final = re.compile(r"[\x21-\x7e]{1,100}")


class Pacer:
    """Lets the calls of one bot go when its rates allow it, whichever process makes them.

    The bot's own RATES take the place of its platform's. Where there are none, no call waits for
    anything, nobody is asked anything, and a 429 pauses its chat in this process.
    """

    def __init__(self, bot: Bot) -> None:
        self._bot = bot
        #: Until when a 429 pauses a chat, by `time.monotonic`.
        self._pauses: dict[str, float] = {}
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}

    async def run(
        self,
        chat: str,
        cost: int,
        call: Callable[[], Awaitable[R]],
        *,
        wait: float | None = None,
        waiting: Callable[[Ticket], AbstractContextManager[object]] = nullcontext,
    ) -> R:
        """Make a call when it is its turn, and return its result.

        It makes `cost` messages in `chat` (`""` for none). Calls in a chat are made one after
        another, in the order in which they came here; where the bot has no rates, from when one of
        them has met a 429. One of no cost is beside the rates and that order: it waits for the
        pause of its chat alone.

        Where the platform answers 429, which is certain not to have done anything, the chat is
        paused, for every process, and the call is then made again, before those that came after it.
        `call` is therefore a function, and may be called several times. Whatever else it raises is
        raised here.

        All that takes `wait` seconds, by default RATE_WAIT. Raises `RateLimited` as soon as it is
        known to take longer; `retry_after` is when to come again, and `chat` this one. Raises
        `Unavailable` where the database that keeps the rates is away for so long. Nothing was sent
        then. It is in the context of `waiting` while it is not its turn.
        """
        if not self._bot.platform.is_paced:
            return await call()
        patience = settings.RATE_WAIT if wait is None else wait
        ticket = Ticket(chat, cost, self._windows(chat, cost), time.monotonic() + patience)
        waits = bool(ticket.windows) or self._is_held(chat, cost)
        refusals = 0
        try:
            while True:
                if waits:
                    line = self._in_line(ticket)
                    with waiting(ticket):
                        await line.turn_of(ticket)
                try:
                    result = await call()
                except RateLimited as error:
                    refusals += 1
                    waits = True
                    self._in_line(ticket)  # before those that come while it is noted
                    await self._refused(ticket, error, refusals)
                except PlatformError:
                    await self._arrived(ticket)  # it may have, for all that
                    raise
                else:
                    await self._arrived(ticket)
                    return result
        except RateLimited as error:
            error.chat = chat
            raise
        finally:
            ticket.leave()

    async def pause(self, chat: str, seconds: float) -> None:
        """Let nothing more go to a chat for so long: here, and where rates are shared everywhere.

        Never raises.
        """
        now = time.monotonic()
        # Threads may be here at once, with event loops of their own.
        for other in [each for each, until in list(self._pauses.items()) if until <= now]:
            self._pauses.pop(other, None)
        self._pauses[chat] = max(now + seconds, self.paused_until(chat))
        if not self._bot.rates:
            return
        try:
            await shared.pause(self._key("chat", chat), seconds)
        except Unavailable as error:
            log.warning("Other processes do not know that a chat is paused: %s", error)

    def paused_until(self, chat: str) -> float:
        """Return until when this process knows a chat to be paused, by `time.monotonic`."""
        return self._pauses.get(chat, 0.0)

    async def _refused(self, ticket: Ticket, error: RateLimited, refusals: int) -> None:
        """Pause the chat of a call that met a 429; raise it where it cannot wait for so long."""
        seconds = error.retry_after or min(FIRST_PAUSE * 2 ** (refusals - 1), LONGEST_PAUSE)
        ticket.queue.due = time.monotonic() + seconds
        if ticket.chat:
            await self.pause(ticket.chat, seconds)
        if time.monotonic() + seconds > ticket.deadline:
            error.retry_after = seconds
            raise error
        log.info("Bot '%s' pauses a chat for %g s: %s", self._bot.alias, seconds, error)

    async def _arrived(self, ticket: Ticket) -> None:
        """Book anew what may have arrived later than its room was for. Never raises.

        What was sent is not recorded yet, so this is not waited for for long.
        """
        if not ticket.granted or time.monotonic() <= ticket.arrives_by:
            return
        made = Request(ticket.windows, ticket.cost, ticket.granted, is_made=True)
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                await shared.acquire([made], LAG)
        except Exception as error:
            log.warning("A send that took long is not counted where it ended: %s", told(error))

    def _is_held(self, chat: str, cost: int) -> bool:
        """Is a call to wait though it needs no room: for a pause, or behind others of its chat?"""
        if not self._pauses and not self._lines:
            return False
        if self.paused_until(chat) > time.monotonic():
            return True
        line = self._lines.get(asyncio.get_running_loop())
        return bool(cost and line is not None and line.has(chat))

    def _windows(self, chat: str, cost: int) -> tuple[tuple[str, Rate | None], ...]:
        """Return the windows in which a call needs room."""
        rates = self._bot.rates
        if not rates:
            return ()
        windows: list[tuple[str, Rate | None]] = []
        if chat:
            windows.append((self._key("chat", chat), rates.get("chat") if cost else None))
        if chat and cost and "group" in rates and self._bot.platform.is_group(chat):
            windows.append((self._key("group", chat), rates["group"]))
        if cost and "bot" in rates:
            windows.append((self._key("bot"), rates["bot"]))
        return tuple(windows)

    def keys(self, chat: str) -> list[str]:
        """Return the keys of the windows of a chat, which name it."""
        return [self._key("chat", chat), self._key("group", chat)]

    def _key(self, kind: str, chat: str = "") -> str:
        if chat and not PLAIN.fullmatch(chat):
            chat = f"%~{blake2s(chat.encode(errors='surrogatepass')).hexdigest()}"
        return f"{self._bot.alias}:{kind}" + (f":{chat}" if chat else "")

    def _in_line(self, ticket: Ticket) -> Line:
        """Return the line in which a call waits, that of the event loop: it joins it, once.

        A line is there while somebody waits in it.
        """
        if ticket.line is not None:
            return ticket.line
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            for other in [each for each in list(self._lines) if each.is_closed()]:
                self._lines.pop(other, None)
            bot = self._bot.rates.get("bot")
            ended = partial(self._lines.pop, loop, None)
            count = ROUND if bot is None else bot.count
            line = Line(self._key("bot"), count, self.paused_until, ended)
            self._lines[loop] = line
        line.join(ticket)
        return line
