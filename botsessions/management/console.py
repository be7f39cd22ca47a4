"""A chat in the terminal with a bot on `LocalPlatform`, in the same network as the playground."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TextIO

from django.core.management import CommandError

from botsessions.bots import Bot
from botsessions.conf import settings
from botsessions.exceptions import NotFound, PlatformError, RequestRefused
from botsessions.models import BotUpdate
from botsessions.platforms.local import LocalPlatform
from botsessions.playground.people import PEOPLE, chats
from botsessions.updates import Chat, User
from botsessions.webhook import receive

#: Seconds between looks at the chat.
TICK = 0.05
#: Control characters, with which a text could move the cursor or worse.
CONTROLS = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}") | {
    ord("\n"): "\n",
    ord("\t"): "\t",
}


class Console:
    """One person's end of a chat: lines go out as messages, what happens in the chat is told.

    Somebody who types need not wait for answers; lines from a pipe or a file are said one after the
    other, each when the bot is done with the one before. At the end of the input the console waits
    for what the bot has to say still.
    """

    def __init__(self, bot: Bot, user: str, kind: str, tell: Callable[[str], object]) -> None:
        self.bot = bot
        self.platform = platform_of(bot)
        self.user = PEOPLE.get(user) or User(user, user)
        self.chat = place(self.user, kind)
        self.tell = tell
        self._network = 0
        self._revision = 0
        #: What was shown of each message.
        self._shown: dict[int, str] = {}
        #: The message and the action behind each button.
        self._buttons: dict[str, tuple[int, str]] = {}
        #: Ids of updates that the bot may still be working on.
        self._open: list[str] = []

    async def run(self, stdin: TextIO) -> None:
        """Go on to the end of the input. Raises a `PlatformError` if the chat cannot be read."""
        self._remember()
        is_typed = stdin.isatty()
        if is_typed:
            where = "alone with it" if self.chat.type == "private" else "in the group"
            self.tell(
                f"You are {self.user.name}, talking to '{self.bot.alias}' {where}. "
                "[Label] presses a button, Ctrl-D ends."
            )
        lines = reading(stdin)
        while (line := await self._next(lines)) is not None:
            await self._say(line.strip())
            if not is_typed:
                await self._answered()
        await self._answered()

    async def _next(self, lines: asyncio.Queue[str | None]) -> str | None:
        """Return the next line, None at the end; until then tell what happens."""
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(lines.get(), TICK)
            self._tell_changes()

    async def _say(self, line: str) -> None:
        """Deliver what was typed, through the webhook's door."""
        if not line:
            return
        try:
            if line in self._buttons:
                message_id, action = self._buttons[line]
                update = self.platform.network.press(self.chat.id, self.user, message_id, action)
            else:
                update = self.platform.network.say(self.chat, self.user, line)
                self._shown[update["message"]["message_id"]] = self._line(update["message"])
            headers, body = self.platform.request(update)
            await receive(self.bot.alias, headers, body)
            self.platform.network.delivered(update)
        except NotFound:
            self.tell("(That button is no longer there.)")
        except (PlatformError, RequestRefused) as error:
            self.tell(f"(Not delivered: {error})")
        else:
            self._open.append(str(update["update_id"]))

    async def _answered(self) -> None:
        """Wait until the bot is done with what was said, and tell what it did.

        Asked of the database: the mailbox may be another process's, as a running server's.
        """
        said = BotUpdate.objects.using(settings.DATABASE).filter(
            bot=self.bot.alias, update_id__in=self._open
        )
        while await said.filter(status=BotUpdate.Status.PENDING).aexists():
            self._tell_changes()
            await asyncio.sleep(TICK)
        while self._tell_changes():
            pass
        if await said.filter(status=BotUpdate.Status.PARKED).aexists():
            self.tell("(The bot failed; its log and the admin say why.)")
        self._open.clear()

    # What happens in the chat

    def _remember(self) -> None:
        """Take note of what was said before."""
        for message in self._changes():
            self._shown[message["message_id"]] = self._line(message)

    def _tell_changes(self) -> bool:
        """Tell what is new, edited or deleted; return whether anything was."""
        changes = self._changes()
        for message in changes:
            before = self._shown.pop(message["message_id"], None)
            if message.get("deleted"):
                self.tell(f"(deleted) {before or 'a message, at once'}")
                continue
            line = self._shown[message["message_id"]] = self._line(message)
            author = message["from"]
            if before is None:
                if author["id"] != self.user.id or author["is_bot"]:
                    self.tell(line)
            elif line != before:
                self.tell(f"(edited) {line}")
        return bool(changes)

    def _changes(self) -> list[dict[str, Any]]:
        changes = self.platform.network.history(self.chat.id, self._revision)
        if self._revision and changes["network"] != self._network:
            self._shown.clear()  # its file was deleted, and it began anew
            changes = self.platform.network.history(self.chat.id)
        self._network, self._revision = changes["network"], changes["revision"]
        messages: list[dict[str, Any]] = changes["messages"]
        return messages

    def _line(self, message: dict[str, Any]) -> str:
        """Return a message as it is shown, and note its buttons."""
        labels = []
        for button in message.get("buttons", ()):
            label = f"[{button['text']}]"
            self._buttons[label] = message["message_id"], button["action"]
            labels.append(label)
        author = message["from"]["name"] or message["from"]["id"]
        line = " ".join([f"{author}: {message['text']}", *labels])
        return line.translate(CONTROLS).replace("\n", "\n    ")


def platform_of(bot: Bot) -> LocalPlatform:
    """Return the bot's platform, if a console can chat there."""
    if isinstance(bot.platform, LocalPlatform):
        return bot.platform
    raise CommandError(
        f"Bot '{bot.alias}' is on the platform '{bot.platform.name}': talk to it there. A console "
        "chat needs a bot on botsessions.platforms.local.LocalPlatform."
    )


def place(user: User, kind: str) -> Chat:
    """Return the chat of that kind that a person is in, as in the playground."""
    for chat in chats(user).values():
        if chat.type == kind:
            return chat
    raise CommandError(f"{user.id!r} is the name of the group, and cannot be a person's.")


def reading(stdin: TextIO) -> asyncio.Queue[str | None]:
    """Return a queue of the lines to come, None behind the last; a thread waits for them."""
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(RuntimeError):  # the loop is over, and nobody waits any more
            for line in _lines(stdin):
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines


def _lines(stdin: TextIO) -> Iterator[str]:
    """Read past the buffer where there is a file: a thread that waits in one holds its lock.

    The process could not end then.
    """
    try:
        descriptor = stdin.fileno()
    except OSError:
        yield from stdin
        return
    encoding = stdin.encoding or "utf-8"
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        source: Iterable[bytes] = file
        for line in source:
            yield line.decode(encoding, "replace")
