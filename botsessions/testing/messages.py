"""A message as a test sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class ChatMessage(str):
    """A message in a chat: its text, which knows where it stands and what goes with it.

    It compares as its text does: `client.say("hi") == ["Hello!"]`.
    """

    #: The platform's id of the message, and those of its chat and of who said it.
    id: str
    chat: str
    user: str
    #: Did the bot say it?
    is_bot: bool
    #: The actions of the buttons under it, by label.
    buttons: dict[str, str]
    #: The id of the message that it answers, `""` for none.
    reply_to: str
    #: The options with which the bot sent it, as the handler gave them.
    options: Mapping[str, Any]

    @classmethod
    def of(cls, message: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Self:
        """Return a message of the local chat network."""
        said = cls(message["text"])
        said.id = str(message["message_id"])
        said.chat = message["chat"]["id"]
        said.user = message["from"]["id"]
        said.is_bot = message["from"]["is_bot"]
        said.buttons = {each["text"]: each["action"] for each in message.get("buttons", ())}
        said.reply_to = message.get("reply_to", "")
        said.options = options or {}
        return said

    @property
    def text(self) -> str:
        """The text alone."""
        return str(self)
