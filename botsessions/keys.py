"""What a session belongs to: its key, and the strategies that find the key of an update."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from botsessions.updates import Update

#: The longest parts that the database keeps, in characters.
LONGEST = {"bot": 64, "chat": 160, "user": 64, "thread": 64, "qualifier": 64}

PARTS = len(LONGEST)


class SessionKey(msgspec.Struct, frozen=True, order=True, gc=False, omit_defaults=True):
    """The identity of a session: bot, chat, user, topic and qualifier; an absent part is `""`.

    Two keys are equal when every part is, and a key goes to JSON and back unchanged.
    """

    bot: str
    chat: str = ""
    user: str = ""
    thread: str = ""
    qualifier: str = ""

    def __str__(self) -> str:
        """The key as one readable string, in which no two different keys agree."""
        text = f"{self.bot}:{self.chat}:{self.user}:{self.thread}:{self.qualifier}"
        if "%" in text or text.count(":") != PARTS - 1:
            parts = (self.bot, self.chat, self.user, self.thread, self.qualifier)
            text = ":".join(part.replace("%", "%25").replace(":", "%3A") for part in parts)
        return text.rstrip(":")

    def check(self) -> None:
        """Raise `ValueError` where a part is no string, or longer than the database keeps."""
        for part, longest in LONGEST.items():
            value = getattr(self, part)
            if not isinstance(value, str) or len(value) > longest:
                raise ValueError(
                    f"The {part} of a session key is a string of at most {longest} characters, "
                    f"not {value!r:.80}."
                )

    def qualified(self, qualifier: str) -> SessionKey:
        """Return the key of the parallel session of that qualifier."""
        if qualifier == self.qualifier:
            return self
        return SessionKey(self.bot, self.chat, self.user, self.thread, qualifier)


KeyStrategy = Callable[[Update], SessionKey | None]
#: One that has to look something up first.
SlowKeyStrategy = Callable[[Update], Awaitable[SessionKey | None]]


def chat_user(update: Update) -> SessionKey | None:
    """A person in a chat; the chat alone where nobody is named; None without a chat."""
    if update.chat is None:
        return None
    return SessionKey(update.bot, update.conversation, update.user.id if update.user else "")


def chat(update: Update) -> SessionKey | None:
    """Everybody in a chat together; None without a chat."""
    return None if update.chat is None else SessionKey(update.bot, update.conversation)


def user(update: Update) -> SessionKey | None:
    """A person, in whatever chat; None where nobody is named."""
    return None if update.user is None else SessionKey(update.bot, user=update.user.id)


def auto(update: Update) -> SessionKey | None:
    """The chat where it is private, else the person in the chat, else the chat."""
    if update.chat is not None and update.chat.type == "private":
        return chat(update)
    return chat_user(update)


def thread(update: Update) -> SessionKey | None:
    """A topic of a chat, or the chat outside topics; None without a chat."""
    if update.chat is None:
        return None
    return SessionKey(update.bot, update.conversation, thread=update.thread)


#: The strategies that a bot's `KEY` may name.
STRATEGIES: dict[str, KeyStrategy] = {
    "chat_user": chat_user,
    "chat": chat,
    "user": user,
    "auto": auto,
    "thread": thread,
}
#: The strategies whose keys lie within a chat.
WITHIN_CHAT = frozenset({"chat_user", "chat", "auto", "thread"})


def mailbox_of(update: Update, key: SessionKey | None) -> str:
    """Return the mailbox of an update: its session's, whatever the qualifier.

    An update without a session has a mailbox to itself: nothing waits for it.
    """
    if key is None:
        return f"{SessionKey(update.bot)}:~{update.id}"
    return str(key.qualified(""))
