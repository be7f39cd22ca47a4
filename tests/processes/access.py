"""`python -m tests.processes.access BOT CHAT VERB COUNT`: a session from outside any handler.

As a view or a cron job has it, in a process that serves nothing.
"""

import sys

import django

django.setup()

from asgiref.sync import async_to_sync  # noqa: E402  (Django is set up by now)

from botsessions.bots import bots  # noqa: E402
from tests.processes.bots import Work  # noqa: E402


def main(bot: str, chat: str, verb: str, times: int) -> None:
    sessions = bots[bot].sessions
    for _ in range(times):
        if verb == "count":
            with sessions.get(chat, chat, type=Work) as session:
                session.data.count += 1
        else:
            async_to_sync(once)(sessions.get(chat, chat), verb)


async def once(handle: object, verb: str) -> None:
    await getattr(handle, verb)()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
