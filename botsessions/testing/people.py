"""What people do on the chat network of a test, as the updates that it delivers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botsessions.platforms.local_chat import LocalChat
from botsessions.testing.messages import ChatMessage
from botsessions.updates import Chat, User

#: Who speaks where nobody is named.
ANN = "ann"


class People:
    """The people on a chat network; each method returns the update that is to be delivered."""

    def __init__(self, network: LocalChat) -> None:
        self.network = network

    def say(
        self,
        text: str,
        *,
        user: str | User = ANN,
        chat: str | Chat | None = None,
        thread: str = "",
        reply_to: str | ChatMessage = "",
        kind: str = "text",
        **more: Any,
    ) -> dict[str, Any]:
        """Say something, in private or in a chat; what `more` there is stands in the message."""
        person, place = who(user, chat)
        update = self.network.say(place, person, text, kind=kind, reply_to=_id(reply_to))
        if thread:
            more["thread"] = thread
        return {**update, "message": {**update["message"], **more}}

    def press(
        self,
        button: str,
        *,
        user: str | User = ANN,
        chat: str | Chat | None = None,
        message: str | ChatMessage | None = None,
    ) -> dict[str, Any]:
        """Press a button, by its action or its label, under the last message that has it.

        Raises `LookupError`, which names the buttons that there are.
        """
        person, place = who(user, chat)
        found = self.network.history(place.id, limit=2**31)["messages"]
        shown = [each for each in map(ChatMessage.of, found) if each.buttons]
        if message is not None:
            shown = [each for each in shown if each.id == _id(message)]
        for each in reversed(shown):
            if button in (*each.buttons.values(), *each.buttons):
                is_action = button in each.buttons.values()
                action = button if is_action else each.buttons[button]
                return self.network.press(place.id, person, each.id, action)
        there = [f"{label} ({action})" for each in shown for label, action in each.buttons.items()]
        raise LookupError(
            f"Chat '{place.id}' shows no button {button!r}; there are {', '.join(there) or 'none'}."
        )

    def call(self, call: tuple[str, str] | Mapping[str, Any]) -> dict[str, Any]:
        """Do what a user and a text say, or the arguments of `say` or `press`."""
        if isinstance(call, Mapping):
            return self.press(**call) if "button" in call else self.say(**call)
        user, text = call
        return self.say(text, user=user)


def who(user: str | User, chat: str | Chat | None) -> tuple[User, Chat]:
    """Return somebody, and where they are: in a group of that name, or alone with the bot."""
    person = user if isinstance(user, User) else User(user, user.title())
    if chat is None:
        return person, Chat(person.id, title=person.name)
    return person, chat if isinstance(chat, Chat) else Chat(chat, "group", chat)


def _id(message: str | ChatMessage) -> str:
    return message.id if isinstance(message, ChatMessage) else message
