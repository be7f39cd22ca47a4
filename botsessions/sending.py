"""Calls of a platform as handlers and everybody else make them: in their turn, and counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from botsessions import metrics
from botsessions.exceptions import RateLimited

if TYPE_CHECKING:
    from botsessions.bots import Bot
    from botsessions.context import Context

Call = Callable[[], Awaitable[Any]]


def paced(bot: Bot, context: Context | None, chat: str, cost: int, call: Call) -> Call:
    """Return what makes a call that makes `cost` messages in `chat` when it is its turn.

    It returns and raises what `bot.pacer.run` does. In a handler, which may have waited for long,
    it raises `LeaseLost` where another process may have the mailbox by then, and the update with
    it.
    """

    async def called() -> Any:
        if context is not None:
            context.check_lease()
        return await metrics.sent(bot.alias, call())

    async def performed() -> Any:
        run = bot.pacer.run
        if context is not None:
            run = partial(run, wait=context.engine.send_wait, waiting=context.in_line)
        try:
            return await run(chat, cost, called)
        except RateLimited as error:
            if not error.was_asked:
                metrics.delayed(bot.alias)
            raise

    return performed
