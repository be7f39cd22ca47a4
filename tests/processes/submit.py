"""`python -m tests.processes.submit BOT CHAT COUNT`: synthetic updates, from an engine of its own.

As a cron job has them: submitted in a process that serves nothing, and waited for.
"""

import asyncio
import sys
from uuid import uuid4

import django

django.setup()

from botsessions import Chat, Update, UpdateType, User  # noqa: E402  (Django is set up by now)
from botsessions.engine import current_engine  # noqa: E402


async def submit(bot: str, chat: str, count: int) -> None:
    engine = current_engine()
    updates = [
        Update(
            bot=bot,
            id=f"cron-{uuid4().hex}",
            type=UpdateType.MESSAGE.value,
            chat=Chat(chat),
            user=User(chat),
            text="/count",
        )
        for _ in range(count)
    ]
    await asyncio.gather(*[engine.submit(update) for update in updates])
    await engine.stop()  # whoever serves goes on with what else is in the mailbox


if __name__ == "__main__":
    asyncio.run(submit(sys.argv[1], sys.argv[2], int(sys.argv[3])))
