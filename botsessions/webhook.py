"""A webhook request, whatever door it came in by: authenticated, parsed, admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from botsessions.bots import find_bot
from botsessions.conf import settings
from botsessions.engine import Engine, current_engine
from botsessions.exceptions import BodyTooLarge


async def receive(
    alias: str, headers: Mapping[bytes, bytes], body: bytes, engine: Engine | None = None
) -> None:
    """Return when every update in a request is committed or stored.

    Header names are lower-case. Raises `RequestRefused`, whose `status` is to be answered: nothing
    was done then, or (`Unavailable`) not everything, and the platform is to deliver the request
    again.
    """
    bot = find_bot(alias)
    if len(body) > settings.MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body is larger than {settings.MAX_BODY_BYTES:,} bytes.")
    bot.platform.authenticate(headers, body)
    updates = bot.platform.parse(body)
    if not updates:
        return
    engine = engine or current_engine()
    if len(updates) == 1:
        await engine.submit(updates[0])
    else:
        await asyncio.gather(*[engine.submit(update) for update in updates])
    if not engine.is_lasting:
        await engine.drain()
