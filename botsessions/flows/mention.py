"""What a bot does when it is called by its name and nothing else: it waits for the rest."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from botsessions.context import Context
from botsessions.flows.control import SessionController
from botsessions.routing import Router
from botsessions.session import Session
from botsessions.updates import Update


def empty_mention(
    name: str,
    *,
    prompt: str = "What would you like to ask?",
    late: str = "",
    timeout: timedelta | float | None = 60,
) -> Router:
    """Return a router for messages that are `@name` alone; include it before others.

    It answers with the `prompt`, and hands the sender's next message to the handlers as if it had
    begun with the mention. Commands go to the handlers as they are. When nothing comes in
    `timeout` seconds it says `late`, if there is anything to say.
    """
    mention = f"@{name.removeprefix('@')}"
    router = Router()

    def is_bare(update: Update) -> bool:
        return update.text.strip().lower() == mention.lower()

    def is_no_command(update: Update) -> bool:
        return not update.command

    @router.waiter(timeout, name=f"empty_mention {name}", where=is_no_command)
    async def rest(control: SessionController, update: Update, context: Context) -> None:
        control.stop()
        context.again = msgspec.structs.replace(update, text=f"{mention} {update.text}")

    @rest.timed_out
    async def nothing(session: Session) -> None:
        if late:
            await session.send(late)

    @router.message(is_bare)
    async def ask(session: Session) -> None:
        await session.begin(rest)
        await session.send(prompt)

    return router
