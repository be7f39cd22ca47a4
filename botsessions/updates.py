"""What a platform tells a bot: the update, and the message, chat and user in it.

Platforms parse their payloads into these; everything after them reads nothing else. Ids are
strings, an absent one is `""`. An `Update` goes to JSON and back unchanged, which is how it waits
in a mailbox.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class UpdateType(StrEnum):
    """The kinds of update, named as Telegram names them (https://core.telegram.org/bots/api#update).

    A platform that knows a further kind gives it a name of its own; `Update.type` is any string.
    """

    MESSAGE = "message"
    EDITED_MESSAGE = "edited_message"
    CHANNEL_POST = "channel_post"
    EDITED_CHANNEL_POST = "edited_channel_post"
    BUSINESS_CONNECTION = "business_connection"
    BUSINESS_MESSAGE = "business_message"
    EDITED_BUSINESS_MESSAGE = "edited_business_message"
    DELETED_BUSINESS_MESSAGES = "deleted_business_messages"
    GUEST_MESSAGE = "guest_message"
    MESSAGE_REACTION = "message_reaction"
    MESSAGE_REACTION_COUNT = "message_reaction_count"
    INLINE_QUERY = "inline_query"
    CHOSEN_INLINE_RESULT = "chosen_inline_result"
    CALLBACK_QUERY = "callback_query"
    SHIPPING_QUERY = "shipping_query"
    PRE_CHECKOUT_QUERY = "pre_checkout_query"
    PURCHASED_PAID_MEDIA = "purchased_paid_media"
    POLL = "poll"
    POLL_ANSWER = "poll_answer"
    MY_CHAT_MEMBER = "my_chat_member"
    CHAT_MEMBER = "chat_member"
    CHAT_JOIN_REQUEST = "chat_join_request"
    CHAT_BOOST = "chat_boost"
    REMOVED_CHAT_BOOST = "removed_chat_boost"
    MANAGED_BOT = "managed_bot"
    SUBSCRIPTION = "subscription"
    STOPPED_MESSAGE_GENERATION = "stopped_message_generation"


class Direction(StrEnum):
    """Who said it: a person, or the bot."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class Chat(msgspec.Struct, frozen=True, gc=False):
    """Where something was said. `type` is `private`, `group`, `supergroup` or `channel`."""

    id: str
    type: str = "private"
    title: str = ""


class User(msgspec.Struct, frozen=True, gc=False):
    """Who said it."""

    id: str
    name: str = ""
    username: str = ""
    language: str = ""
    is_bot: bool = False


class Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One message in a chat; `kind` is a `MessageKind` or the platform's own word.

    `id` is `""` where the platform gives none that lasts (Telegram's ephemeral messages carry 0).
    """

    id: str
    chat: Chat
    user: User | None = None
    kind: str = "text"
    is_service: bool = False
    text: str = ""
    date: datetime | None = None
    edited: datetime | None = None
    thread: str = ""
    reply_to: str = ""
    #: The album that the message is part of.
    album: str = ""
    #: The business connection in whose name it was said.
    business: str = ""
    #: The chat that this one, a group, became, and the group that this one was before.
    migrated_to: str = ""
    migrated_from: str = ""


class Update(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One thing that happened, as a platform (or this app itself) reports it.

    `id` is the platform's own and identifies the update for ever within its bot: the same id again
    is a duplicate. `payload` is what the platform sent, decoded and otherwise untouched.
    """

    bot: str
    id: str
    type: str
    chat: Chat | None = None
    user: User | None = None
    message: Message | None = None
    #: The topic within the chat, `""` for none.
    thread: str = ""
    #: What was said: a message's text or caption.
    text: str = ""
    #: What a pressed button carries; None when no button was pressed.
    action: str | None = None
    #: Business chats and guest chats are conversations of their own.
    business: str = ""
    guest: bool = False
    payload: dict[str, Any] = {}
    #: The ids of messages of the chat that it says are deleted, by whoever said them.
    deleted: tuple[str, ...] = ()

    @property
    def conversation(self) -> str:
        """The chat's part of a session key, `""` for no chat.

        It is the chat's id, marked where the chat is not the bot's own.
        """
        if self.chat is None:
            return ""
        if self.business:
            return f"business/{self.business}/{self.chat.id}"
        return f"guest/{self.chat.id}" if self.guest else self.chat.id

    @property
    def followed(self) -> Update:
        """The update as of the chat that its group became, where it says that it became one."""
        if self.message is None or not self.message.migrated_to or self.chat is None:
            return self
        chat = Chat(self.message.migrated_to, "supergroup", self.chat.title)
        return msgspec.structs.replace(self, chat=chat)

    @property
    def command(self) -> str:
        """The command that the text begins with, without slash and `@botname`; `""` for none.

        A pressed button is no command, whatever the message says that it stands under.
        """
        if self.action is not None or not self.text.startswith("/"):
            return ""
        return self.text.split(maxsplit=1)[0][1:].partition("@")[0]

    @property
    def arguments(self) -> str:
        """What follows the command."""
        if not self.command:
            return ""
        return "".join(self.text.split(maxsplit=1)[1:]).strip()


def place(conversation: str) -> dict[str, Any]:
    """Return chat, business connection and guest mark of an update that is about a conversation.

    It is what `Update.conversation` makes of them, read backwards.
    """
    kind, _, rest = conversation.partition("/")
    if kind == "business" and rest:
        business, _, chat = rest.rpartition("/")
        return {"chat": Chat(chat), "business": business}
    if kind == "guest" and rest:
        return {"chat": Chat(rest), "guest": True}
    return {"chat": Chat(conversation)} if conversation else {}


#: The type of an update that is a session's use from outside a handler: it only waits its turn.
ACCESS = "access"
#: The types of updates about a session: the deadline of its flow has passed, or it has expired.
DEADLINE, EXPIRED = "deadline", "expired"
ABOUT_SESSIONS = frozenset({DEADLINE, EXPIRED})


class MessageKind(StrEnum):
    """The kinds of message that every platform shares; a platform's own table names the rest."""

    TEXT = "text"
    OTHER = "other"
