"""What waits and is not worked on: updates of crashed processes, deadlines that have passed."""

from __future__ import annotations

from asgiref.sync import async_to_sync

from botsessions.engine import current_engine
from botsessions.turns import RECOVERED

#: The most looks for abandoned updates in one call; what is left is for the next.
LOOKS = 100


def recover() -> int:
    """Handle acknowledged updates that nobody works on, in this process, to their end.

    Those are updates whose process was killed, or that wait for another attempt which is due.
    Returns how many mailboxes were taken up; calling it at any time, in any number of processes, is
    safe. It runs on an event loop of its own, and so does every handler that it calls.
    """
    taken: int = async_to_sync(_recover, force_new_loop=True)()
    return taken


async def _recover() -> int:
    engine = current_engine()
    for _ in range(LOOKS):
        found = await engine.recover()
        await engine.drain()
        if found < RECOVERED:  # a look that found fewer has found them all
            break
    return engine.recovered


def deadlines() -> int:
    """Let flows know that their deadlines have passed, and return how many.

    Safe at any time, in any number of processes: each deadline is told of once. A running web
    process does the same by itself.
    """
    fired: int = async_to_sync(_deadlines, force_new_loop=True)()
    return fired


async def _deadlines() -> int:
    engine = current_engine()
    fired = 0
    for _ in range(LOOKS):
        found = await engine.fire_deadlines()
        await engine.drain()
        fired += found
        if not found:
            break
    return fired
