"""A platform that needs no account and no network: the playground's, the demo's and the test kit's.

A request carries one update, or several as `{"updates": [...]}`:

    {"update_id": 7, "message": {
        "message_id": 7, "chat": {"id": "ann", "type": "private", "title": "Ann"},
        "from": {"id": "ann", "name": "Ann"}, "date": 1700000000, "text": "/hi", "reply_to": "5"}}

or with `edited_message` in place of `message`, or with a pressed button:

    {"update_id": 8, "callback_query": {
        "id": "8", "from": {...}, "message": {...}, "data": "the button's action"}}

Any other update is of a type that this platform does not know, and is left out. Messages may also
name their `kind`, their `thread`, the time at which they were `edited`, and the chat that theirs
`migrated_to` or `migrated_from`, as groups do.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions.exceptions import InvalidRequest, MalformedBody, NotFound, Unauthorized
from botsessions.platforms.base import Deletion, Platform
from botsessions.platforms.body import decode
from botsessions.platforms.local_chat import MAX_ID, Buttons, LocalChat
from botsessions.updates import Chat, Message, MessageKind, Update, UpdateType, User

SECRET_HEADER = b"x-local-secret"


class LocalPlatform(Platform):
    """A chat network within the process or, with the option `path`, in a file that processes share.

    Options: `secret` (required) is what a request has to carry in the header `X-Local-Secret`;
    `path` names the file of the network, which outlives restarts. `network` is the network itself,
    where people's messages come from.
    """

    name = "local"
    # Whoever said something has seen it go, and will not say it again by itself: store first.
    redelivers: ClassVar[bool] = False

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        secret, path = options.get("secret"), options.get("path")
        if not isinstance(secret, str) or not secret:
            raise ImproperlyConfigured(
                f'Bot "{alias}": the option "secret" of LocalPlatform must be a non-empty string;'
                " requests carry it in the header X-Local-Secret."
            )
        if path is not None and not (isinstance(path, str | Path) and str(path)):
            raise ImproperlyConfigured(
                f'Bot "{alias}": the option "path" of LocalPlatform must name a file;'
                " leave it out to keep the chats in memory."
            )
        if unknown := sorted(set(options) - {"secret", "path"}):
            raise ImproperlyConfigured(
                f'Bot "{alias}": LocalPlatform has no option "{unknown[0]}";'
                ' its options are "secret" and "path".'
            )
        self._secret = secret.encode()
        self.network = LocalChat(alias, path)

    def request(self, *updates: Mapping[str, Any]) -> tuple[dict[bytes, bytes], bytes]:
        """Return the headers and the body with which the network delivers these updates."""
        return {SECRET_HEADER: self._secret}, msgspec.json.encode({"updates": updates})

    # Receiving

    def private_chat(self, user: str) -> str:
        """Return the user's own id, which the private chat has too."""
        return user

    def authenticate(self, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Raise `Unauthorized` unless `X-Local-Secret` is the bot's secret."""
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
            raise Unauthorized(f'Bot "{self.alias}": X-Local-Secret is missing or wrong.')

    def parse(self, body: bytes) -> list[Update]:
        """Return the updates of a request, or raise `MalformedBody`."""
        request = decode(body)
        if not isinstance(request, dict):
            raise MalformedBody("A request is a JSON object.")
        payloads = request.get("updates", [request])
        if not isinstance(payloads, list):
            raise MalformedBody('"updates" is a list.')
        return [update for payload in payloads if (update := self._parse_update(payload))]

    def _parse_update(self, payload: Any) -> Update | None:
        if not isinstance(payload, dict):
            raise MalformedBody("An update is a JSON object.")
        update_id = _id(payload.get("update_id"))
        if not update_id:
            raise MalformedBody('An update has an "update_id".')
        for kind in (UpdateType.MESSAGE, UpdateType.EDITED_MESSAGE):
            if (said := payload.get(kind)) is not None:
                message = _message(said)
                return Update(
                    bot=self.alias,
                    id=update_id,
                    type=kind.value,
                    chat=message.chat,
                    user=message.user,
                    message=message,
                    thread=message.thread,
                    text=message.text,
                    payload=payload,
                )
        if (pressed := payload.get(UpdateType.CALLBACK_QUERY)) is not None:
            query = _object(pressed)
            shown = None if query.get("message") is None else _message(query["message"])
            return Update(
                bot=self.alias,
                id=update_id,
                type=UpdateType.CALLBACK_QUERY.value,
                chat=shown.chat if shown else None,
                user=_user(query.get("from")),
                message=shown,
                thread=shown.thread if shown else "",
                text=shown.text if shown else "",
                action=_text(query.get("data")),
                payload=payload,
            )
        return None

    # Sending: a short piece of work for SQLite, done at once.

    async def send(self, chat: str, text: str, **options: Any) -> dict[str, Any]:
        """Record a message of the bot and return it.

        `buttons` maps labels to actions, `reply_to` is the id of a message. Options of other
        platforms mean nothing here, so that a bot written for one can be tried.
        """
        return self.network.post(
            chat, text, buttons=options.get("buttons"), reply_to=options.get("reply_to") or ""
        )

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call `send`, `album`, `edit`, `delete` or `typing`.

        `album` takes `texts` and returns a message for each.
        """
        methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "send": self.send,
            "album": self._album,
            "edit": self._edit,
            "delete": self._delete,
            "typing": self._typing,
        }
        function = methods.get(method)
        if function is None:
            raise NotFound("there is no such method", method=method, code=404)
        try:
            inspect.signature(function).bind(**parameters)
        except TypeError as error:
            raise InvalidRequest(str(error), method=method, code=400) from error
        return await function(**parameters)

    async def _album(self, chat: str, texts: Sequence[str]) -> list[dict[str, Any]]:
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
            raise InvalidRequest("an album is a list of texts", method="album", code=400)
        return self.network.post_album(chat, texts)

    async def _edit(
        self, chat: str, message_id: str, text: str, buttons: Buttons | None = None
    ) -> dict[str, Any]:
        return self.network.edit(chat, message_id, text, buttons=buttons)

    async def _delete(self, chat: str, message_id: str) -> bool:
        if not self.network.delete(chat, [message_id]):
            if str(message_id) in self.network.refused:
                raise InvalidRequest("the message can't be deleted", method="delete", code=400)
            raise NotFound("there is no such message in the chat", method="delete", code=404)
        return True

    async def _typing(self, chat: str) -> bool:
        return True

    def target(self, parameters: Mapping[str, Any]) -> str:
        """Return the parameter `chat`."""
        chat = parameters.get("chat")
        return chat if isinstance(chat, str) else ""

    def messages_in(self, method: str, parameters: Mapping[str, Any]) -> int:
        """Return 1 for `send` and `edit`, and for an `album` how many texts it has."""
        texts = parameters.get("texts") if method == "album" else None
        several = len(texts) if isinstance(texts, list | tuple) else 0
        return several or int(method in ("send", "edit", "album"))

    def aim(self, parameters: Mapping[str, Any], chat: str, business: str = "") -> dict[str, Any]:
        """Return the parameters with `chat` where none was given."""
        aimed = dict(parameters)
        if chat and aimed.get("chat") is None:
            aimed["chat"] = chat
        return aimed

    def messages(self, result: Any, chat: str = "", business: str = "") -> Sequence[Message]:
        """Return the messages in an API answer: a message, or a list of them."""
        found = result if isinstance(result, list) else [result]
        try:
            return [_message(item) for item in found if isinstance(item, dict) and "chat" in item]
        except MalformedBody:
            return []

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        """Delete messages of a chat; those that are not there are `GONE`."""
        deleted = dict.fromkeys(self.network.delete(chat, ids), Deletion.DELETED)
        outcome = self.network.refused | deleted
        return {message_id: outcome.get(message_id, Deletion.GONE) for message_id in ids}

    async def close(self) -> None:
        """Let go of the file; a network in memory stays."""
        self.network.close()


# What stands in a payload. Parts that are missing or of a wrong type count as absent; only what
# must be an object, or an id that no column could hold, refuses the request.


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedBody("A message, chat, user or callback query is a JSON object.")
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _id(value: Any) -> str:
    """Return an id as a string, `""` for none."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return str(value)
    if len(text := _text(value)) > MAX_ID:
        raise MalformedBody(f"An id has up to {MAX_ID} characters.")
    return text


def _time(value: Any) -> datetime | None:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, OSError, ValueError):
            return None
    return None


def _user(value: Any) -> User | None:
    if value is None:
        return None
    person = _object(value)
    identity = _id(person.get("id"))
    if not identity:
        return None
    return User(identity, name=_text(person.get("name")), is_bot=person.get("is_bot") is True)


def _message(value: Any) -> Message:
    message = _object(value)
    chat = _object(message.get("chat"))
    chat_id = _id(chat.get("id"))
    if not chat_id:
        raise MalformedBody("A chat has an id.")
    migrated_to, migrated_from = _id(message.get("migrated_to")), _id(message.get("migrated_from"))
    is_service = bool(migrated_to or migrated_from)
    kind = MessageKind.OTHER if is_service else MessageKind.TEXT
    return Message(
        id=_id(message.get("message_id")),
        chat=Chat(chat_id, _text(chat.get("type")) or "private", _text(chat.get("title"))),
        user=_user(message.get("from")),
        kind=_id(message.get("kind")) or kind.value,
        is_service=is_service,
        text=_text(message.get("text")),
        date=_time(message.get("date")),
        edited=_time(message.get("edited")),
        thread=_id(message.get("thread")),
        reply_to=_id(message.get("reply_to")),
        album=_id(message.get("album")),
        migrated_to=migrated_to,
        migrated_from=migrated_from,
    )
