"""The chat network behind `LocalPlatform`: what people and one bot said to each other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from botsessions import clock
from botsessions.exceptions import InvalidRequest, NotFound
from botsessions.platforms.base import Deletion
from botsessions.platforms.local_database import ChatDatabase
from botsessions.updates import Chat, User

#: The longest text of a message, in characters.
MAX_TEXT = 4096
#: The longest id, in characters.
MAX_ID = 64

#: Buttons under a message: label to action, or pairs of them.
Buttons = Mapping[str, str] | Iterable[tuple[str, str]]


class LocalChat:
    """One bot's chats with people: in memory, or in the file `path`, which several may share.

    Messages are dicts as the network's API gives them: `message_id`, `chat`, `from`, `date` (Unix
    time) and `text`; where they apply `kind`, `reply_to`, `buttons` and `edited`. Methods are
    thread-safe, and each is one short transaction. They raise `NotFound`, `InvalidRequest`, or
    `PlatformUnavailable` when the file cannot be used.
    """

    def __init__(self, bot: str, path: str | Path | None = None) -> None:
        self.bot = bot
        self.database = ChatDatabase(path)
        #: What becomes of a message that is not deleted, whoever asks; see `refuse`.
        self.refused: dict[str, Deletion] = {}

    # What people do. Each returns the update that is to be delivered to the bot.

    def say(
        self,
        chat: Chat,
        user: User,
        text: str,
        *,
        kind: str = "text",
        reply_to: str = "",
        nonce: str = "",
    ) -> dict[str, Any]:
        """Record what a person says and return the update.

        The same `nonce` of the same person in the same chat records nothing new and returns the
        first update again, so saying it once more after a failure is safe. The message counts as
        undelivered until `delivered(update)`.
        """
        _check_text(text)
        _check_ids(chat.id, user.id, kind, reply_to or "-", nonce or "-")
        _check_characters(chat.title, user.name)
        with self.database.transaction() as connection:
            said = connection.execute(
                "SELECT * FROM entry WHERE (bot, chat, sender, nonce) = (?, ?, ?, ?)",
                (self.bot, chat.id, user.id, nonce),
            ).fetchone()
            if said is None:
                connection.execute(
                    "INSERT INTO chat (bot, id, type, title) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (bot, id)"
                    " DO UPDATE SET type = excluded.type, title = excluded.title",
                    (self.bot, chat.id, chat.type, chat.title),
                )
                number = self._insert(
                    connection, chat.id, user, text, kind=kind, reply_to=reply_to, nonce=nonce
                )
                said = self._entry(connection, chat.id, number)
        message = _message(said)
        if said["deleted"]:  # by the bot, which took it the first time
            message["text"] = text
        return {"update_id": message["message_id"], "message": message}

    def amend(self, chat: str, user: User, message_id: str | int, text: str) -> dict[str, Any]:
        """Change what a person said before and return the update."""
        _check_text(text)
        with self.database.transaction() as connection:
            entry = self._entry(connection, chat, message_id)
            if entry["from_bot"] or entry["sender"] != user.id:
                raise InvalidRequest("people can change only what they said themselves")
            tick = self._change(connection, entry, text, entry["buttons"])
            message = _message(self._entry(connection, chat, message_id))
        return {"update_id": tick, "edited_message": message}

    def press(self, chat: str, user: User, message_id: str | int, action: str) -> dict[str, Any]:
        """Press the button with that `action` under a message and return the update."""
        with self.database.transaction() as connection:
            message = _message(self._entry(connection, chat, message_id))
            if action not in [button["action"] for button in message.get("buttons", ())]:
                raise NotFound("the message has no such button")
            tick = self.database.tick(connection)
        query = {"id": str(tick), "from": _person(user), "message": message, "data": action}
        return {"update_id": tick, "callback_query": query}

    def delivered(self, update: Mapping[str, Any]) -> None:
        """Note that the bot has taken the update that `say` returned."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE message SET delivered = 1, revision = ?"
                " WHERE id = ? AND bot = ? AND NOT delivered",
                (self.database.tick(connection), update["update_id"], self.bot),
            )

    # What the bot does.

    def post(
        self, chat: str, text: str, *, buttons: Buttons | None = None, reply_to: str | int = ""
    ) -> dict[str, Any]:
        """Record a message of the bot and return it. A chat that nobody wrote in is private."""
        _check_text(text)
        _check_ids(chat, str(reply_to) or "-")
        labels = _encode_buttons(buttons)
        with self.database.transaction() as connection:
            number = self._insert(
                connection, chat, None, text, reply_to=str(reply_to), buttons=labels
            )
            return _message(self._entry(connection, chat, number))

    def post_album(self, chat: str, texts: Iterable[str]) -> list[dict[str, Any]]:
        """Record several messages of the bot, or none of them, and return them.

        Each names as its `album` the first one's id; the history does not keep that.
        """
        texts = list(texts)
        for text in texts:
            _check_text(text)
        _check_ids(chat)
        with self.database.transaction() as connection:
            numbers = [self._insert(connection, chat, None, text) for text in texts]
            found = [_message(self._entry(connection, chat, number)) for number in numbers]
        return [{**message, "album": str(numbers[0])} for message in found]

    def edit(
        self, chat: str, message_id: str | int, text: str, *, buttons: Buttons | None = None
    ) -> dict[str, Any]:
        """Change a message of the bot and return it; without `buttons` it has none afterwards."""
        _check_text(text)
        labels = _encode_buttons(buttons)
        with self.database.transaction() as connection:
            entry = self._entry(connection, chat, message_id)
            if not entry["from_bot"]:
                raise InvalidRequest("a bot can edit only its own messages")
            self._change(connection, entry, text, labels)
            return _message(self._entry(connection, chat, message_id))

    def delete(self, chat: str, ids: Iterable[str | int]) -> set[str]:
        """Delete messages of a chat, whoever wrote them; return the ids of those that were there.

        Their texts are removed; that there was a message stays known, so that `history` can tell.
        Those that are refused stay.
        """
        deleted = set()
        with self.database.transaction() as connection:
            for message_id in ids:
                if str(message_id) in self.refused:
                    continue
                try:
                    entry = self._entry(connection, chat, message_id)
                except NotFound:
                    continue
                connection.execute(
                    "UPDATE message SET deleted = 1, text = '', buttons = '',"
                    " revision = ? WHERE id = ?",
                    (self.database.tick(connection), entry["id"]),
                )
                deleted.add(str(message_id))
        return deleted

    def refuse(self, message_id: str | int, outcome: Deletion | None) -> None:
        """Let this object not delete a message, with that outcome; None takes it back.

        The network itself deletes whatever is there: this is for tests of what a bot does when a
        platform does not.
        """
        if outcome is None:
            self.refused.pop(str(message_id), None)
        else:
            self.refused[str(message_id)] = outcome

    # What a reader sees.

    def history(self, chat: str, after: int = 0, limit: int = 200) -> dict[str, Any]:
        """Return what changed in a chat: `{"network", "revision", "messages"}`.

        `after` is the revision that is known already. With 0: the newest `limit` messages.
        Otherwise up to `limit` messages that are new, edited, delivered or deleted since, in the
        order of their changes; a deleted one is only its `message_id` and `deleted`. What is not
        yet delivered carries `delivered: False`. Asking again with the answer's `revision` goes on
        without a gap. A reader that sees another `network` than before has to begin again with
        `after` 0.
        """
        with self.database.transaction("DEFERRED") as connection:
            revision, network = connection.execute("SELECT tick, began FROM clock").fetchone()
            if after <= 0:
                entries = connection.execute(
                    "SELECT * FROM entry WHERE bot = ? AND chat = ? AND NOT deleted"
                    " ORDER BY id DESC LIMIT ?",
                    (self.bot, chat, limit),
                ).fetchall()[::-1]
            else:
                entries = connection.execute(
                    "SELECT * FROM entry WHERE bot = ? AND chat = ? AND revision > ?"
                    " ORDER BY revision LIMIT ?",
                    (self.bot, chat, after, limit),
                ).fetchall()
                if len(entries) == limit:
                    revision = entries[-1]["revision"]
        return {
            "network": network,
            "revision": revision,
            "messages": [_as_read(entry) for entry in entries],
        }

    def close(self) -> None:
        """Let go of the file; the next call opens it again. A network in memory stays."""
        self.database.close()

    # Rows

    def _entry(
        self, connection: sqlite3.Connection, chat: str, message_id: str | int
    ) -> sqlite3.Row:
        """Return the row of a message that is there, or raise `NotFound`."""
        entry: sqlite3.Row | None = None
        digits = str(message_id)
        if digits.isdecimal() and len(digits) < 19:  # SQLite's integers go no further
            _check_ids(chat)
            entry = connection.execute(
                "SELECT * FROM entry WHERE bot = ? AND chat = ? AND id = ? AND NOT deleted",
                (self.bot, chat, int(digits)),
            ).fetchone()
        if entry is None:
            raise NotFound("there is no such message in the chat")
        return entry

    def _insert(
        self,
        connection: sqlite3.Connection,
        chat: str,
        sender: User | None,
        text: str,
        *,
        kind: str = "text",
        reply_to: str = "",
        buttons: str = "",
        nonce: str = "",
    ) -> int:
        """Insert a message, the bot's own where there is no sender, and return its id."""
        tick = self.database.tick(connection)
        author = sender or User(self.bot, self.bot)
        connection.execute(
            "INSERT INTO message (id, revision, bot, chat, sender, sender_name, from_bot,"
            " delivered, kind, text, reply_to, buttons, nonce, date)"
            " VALUES (:tick, :tick, :bot, :chat, :sender, :name, :of_bot,"
            " :of_bot, :kind, :text, :reply_to, :buttons, :nonce, :date)",
            {
                "tick": tick,
                "bot": self.bot,
                "chat": chat,
                "sender": author.id,
                "name": author.name,
                "of_bot": sender is None,
                "kind": kind,
                "text": text,
                "reply_to": reply_to,
                "buttons": buttons,
                "nonce": nonce or None,
                "date": _unix_time(),
            },
        )
        return tick

    def _change(
        self, connection: sqlite3.Connection, entry: sqlite3.Row, text: str, buttons: str
    ) -> int:
        tick = self.database.tick(connection)
        connection.execute(
            "UPDATE message SET text = ?, buttons = ?, edited = ?, revision = ? WHERE id = ?",
            (text, buttons, _unix_time(), tick, entry["id"]),
        )
        return tick


def _message(entry: sqlite3.Row) -> dict[str, Any]:
    """Return a message as the API and the updates show it."""
    author = User(entry["sender"], entry["sender_name"], is_bot=bool(entry["from_bot"]))
    message: dict[str, Any] = {
        "message_id": entry["id"],
        "chat": {
            "id": entry["chat"],
            "type": entry["chat_type"] or "private",
            "title": entry["chat_title"] or "",
        },
        "from": _person(author),
        "date": entry["date"],
        "text": entry["text"],
    }
    if entry["kind"] != "text":
        message["kind"] = entry["kind"]
    if entry["reply_to"]:
        message["reply_to"] = entry["reply_to"]
    if entry["buttons"]:
        message["buttons"] = msgspec.json.decode(entry["buttons"])
    if entry["edited"] is not None:
        message["edited"] = entry["edited"]
    return message


def _as_read(entry: sqlite3.Row) -> dict[str, Any]:
    """Return a message as a reader of the history sees it."""
    if entry["deleted"]:
        return {"message_id": entry["id"], "deleted": True}
    return _message(entry) if entry["delivered"] else {**_message(entry), "delivered": False}


def _person(user: User) -> dict[str, Any]:
    return {"id": user.id, "name": user.name, "is_bot": user.is_bot}


def _unix_time() -> int:
    return int(clock.now().timestamp())


def _encode_buttons(buttons: Buttons | None) -> str:
    """Return buttons as they are stored: a JSON list of `{"text", "action"}`, `""` for none."""
    if not buttons:
        return ""
    pairs = buttons.items() if isinstance(buttons, Mapping) else buttons
    try:
        labels = [{"text": str(text), "action": str(action)} for text, action in pairs]
    except (TypeError, ValueError) as error:
        raise InvalidRequest("buttons are pairs of a label and an action") from error
    for label in labels:
        _check_characters(*label.values())
    return msgspec.json.encode(labels).decode()


def _check_text(text: str) -> None:
    _check_characters(text)
    if not text.strip():
        raise InvalidRequest("the text is empty")
    if len(text) > MAX_TEXT:
        raise InvalidRequest(f"the text is longer than {MAX_TEXT} characters")


def _check_ids(*ids: str) -> None:
    _check_characters(*ids)
    if not all(0 < len(identity) <= MAX_ID for identity in ids):
        raise InvalidRequest(f"an id has 1 to {MAX_ID} characters")


def _check_characters(*texts: str) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise InvalidRequest(f"a text is a string, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("a text holds no lone surrogate") from error
        if "\0" in text:
            raise InvalidRequest("a text holds no NUL character")
