"""What a started engine looks for by itself, now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from botsessions.exceptions import Unavailable

log = logging.getLogger("botsessions.engine")

#: Finds what is due, and returns how much there was.
Look = Callable[[], Awaitable[int]]


class Upkeep:
    """The looks of one engine; whatever goes wrong in one, the next comes."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]) -> None:
        self._spawn = spawn
        self._tasks: list[asyncio.Task[Any]] = []

    def every(self, seconds: float, look: Look) -> None:
        """Look at once, and again so many seconds after each look, until `cancel`."""
        self._tasks.append(self._spawn(self._repeat(seconds, look)))

    def once(self, look: Look) -> None:
        """Look now, beside whatever else is done."""
        self._spawn(self._look(look))

    def cancel(self) -> None:
        """Stop looking."""
        for task in self._tasks:
            task.cancel()

    async def _repeat(self, seconds: float, look: Look) -> None:
        is_away = False
        while True:
            is_away = await self._look(look, is_known=is_away)
            await asyncio.sleep(seconds)

    async def _look(self, look: Look, *, is_known: bool = False) -> bool:
        """Look; return whether the database is away, which is logged unless it `is_known`."""
        try:
            await look()
        except Unavailable as error:
            level = logging.DEBUG if is_known else logging.WARNING
            log.log(level, "What is due is not looked for: %s", error)
            return True
        except Exception:
            log.exception("A look for what is due failed; the next one comes all the same.")
        return False
