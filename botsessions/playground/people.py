"""Who can be played, and where they talk."""

from __future__ import annotations

from django.utils.translation import gettext as _

from botsessions.updates import Chat, User

PEOPLE = {user.id: user for user in (User("ann", "Ann"), User("ben", "Ben"), User("cleo", "Cleo"))}


def chats(user: User) -> dict[str, Chat]:
    """Return the chats a person is in, by id: one with the bot alone, and everybody's group."""
    private = Chat(user.id, "private", user.name)
    group = Chat("group", "group", _("Group"))
    return {chat.id: chat for chat in (private, group)}
