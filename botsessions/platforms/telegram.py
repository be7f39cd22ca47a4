"""Telegram bots, through the Bot API (https://core.telegram.org/bots/api)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final

from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from msgspec import structs
from yarl import URL

from botsessions.exceptions import (
    BatchRefused,
    InvalidRequest,
    MalformedBody,
    NotFound,
    Unauthorized,
)
from botsessions.platforms.base import Deletion, Platform, Rate
from botsessions.platforms.body import decode
from botsessions.platforms.telegram_api import BotApi
from botsessions.platforms.telegram_updates import (
    UPDATE_TYPES,
    chat_type,
    identifier,
    message,
    message_identifier,
    update,
)
from botsessions.updates import Chat, Message, MessageKind, Update

TELEGRAM: Final = "https://api.telegram.org"
SECRET_HEADER: Final = b"x-telegram-bot-api-secret-token"
_OPTIONS: Final = ("token", "secret", "api_url", "timeout")
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_SHORT_SECRET: Final = 16
#: The methods that make messages, or change one: the beginnings of their names, in lower case, ...
_SPEAKING: Final = ("send", "copymessage", "forwardmessage", "editmessage")
#: ... what those that make none are called, or end with, ...
_SILENT: Final = ("sendchataction", "draft")
#: ... and which parameter lists the messages of those that make several.
_SEVERAL: Final = {
    "sendmediagroup": "media",
    "copymessages": "message_ids",
    "forwardmessages": "message_ids",
}
#: Parameters that, together, say where a call goes, so that no chat may stand beside them.
_ELSEWHERE: Final = (frozenset({"inline_message_id"}), frozenset({"gift_id", "user_id"}))
#: Why one message cannot be deleted, by what the error says; the first that fits counts. Which of
#: age and lacking rights it is Telegram tells in private chats and basic groups alone.
_REFUSALS: Final = (
    ("can't be deleted for everyone", Deletion.TOO_OLD),
    ("can't be deleted", Deletion.FORBIDDEN),
    ("delete_forbidden", Deletion.FORBIDDEN),
    ("not enough rights", Deletion.FORBIDDEN),
    ("message to delete not found", Deletion.GONE),
    ("message_id_invalid", Deletion.GONE),
)
#: What the error says where none of a chat's messages is within the bot's reach any more.
_OUT_OF_REACH: Final = ("business connection not found", "upgraded to a supergroup")


class TelegramPlatform(Platform):
    """A Telegram bot.

    Options: `token` and `secret` (required), `api_url` (a local Bot API server instead of
    Telegram's), `timeout` (20 s, for connecting and again for the answer). The secret is what
    `set_webhook` tells Telegram to send back with every request: 1 to 256 of `A-Za-z0-9_-`
    (https://core.telegram.org/bots/api#setwebhook).
    """

    name: ClassVar[str] = "telegram"
    redelivers: ClassVar[bool] = True
    delete_batch_size: ClassVar[int] = 100
    deletable_for: ClassVar[timedelta | None] = timedelta(hours=48)
    #: https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this
    rates: ClassVar[Mapping[str, Rate]] = {
        "chat": Rate(1, 1.0),
        "group": Rate(20, 60.0),
        "bot": Rate(30, 1.0),
    }

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise ImproperlyConfigured(
                f'Bot "{alias}": TelegramPlatform has no option "{unknown[0]}", '
                f"only {', '.join(_OPTIONS)}."
            )
        # The token becomes part of an address; no message may quote it.
        token = self._option("token", r"[A-Za-z0-9:_-]+", "the token that @BotFather gave")
        secret = self._option("secret", r"[A-Za-z0-9_-]{1,256}", "1 to 256 of A-Z a-z 0-9 _ -")
        self._secret = secret.encode()
        self._api = BotApi(token, self._api_url(), self._timeout())

    def private_chat(self, user: str) -> str:
        """Return the user's own id, which the private chat has too."""
        return user

    # Receiving

    def authenticate(self, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Raise `Unauthorized` unless the header carries the bot's secret.

        Telegram signs nothing: `X-Telegram-Bot-Api-Secret-Token` is all there is.
        """
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self._secret):
            raise Unauthorized(
                f'Bot "{self.alias}": the header X-Telegram-Bot-Api-Secret-Token is missing or'
                " wrong; it has to carry the bot's secret."
            )

    def parse(self, body: bytes) -> list[Update]:
        """Return the update in a request, or nothing when its type is unknown.

        Raises `MalformedBody` unless the body is a JSON object with an integer `update_id`;
        whatever else is wrong with it is left out of the update.
        """
        payload = decode(body)
        if type(payload) is not dict:
            raise MalformedBody("An update is a JSON object.")
        number = payload.get("update_id")
        update_id = identifier(number) if type(number) is int else ""
        if not update_id:
            raise MalformedBody('An update has an integer "update_id".')
        found = update(self.alias, update_id, payload)
        return [] if found is None else [found]

    # Sending

    async def send(self, chat: str, text: str, **options: Any) -> Any:
        """Send a text message (https://core.telegram.org/bots/api#sendmessage); return it.

        Options are the method's own, as `reply_markup`, `parse_mode`, `message_thread_id`,
        `business_connection_id`; `reply_to` becomes its `reply_parameters`. There is no way to tell
        Telegram that a call is a repetition.
        """
        if reply_to := options.pop("reply_to", ""):
            options.setdefault("reply_parameters", {"message_id": int(reply_to)})
        return await self._api.call(
            "sendMessage", {"chat_id": _chat_id(chat), "text": text, **options}
        )

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call any method of the Bot API and return its result.

        Parameters are sent as JSON; files go by `file_id` or URL.
        """
        return await self._api.call(method, parameters)

    def target(self, parameters: Mapping[str, Any]) -> str:
        """Return the `chat_id`; a public chat may be named as `@name`."""
        return identifier(parameters.get("chat_id"))

    def messages_in(self, method: str, parameters: Mapping[str, Any]) -> int:
        """Return how many messages a method sends, copies, forwards or edits.

        Albums, and copies and forwards of several, count each of theirs. Methods are named in
        either case (https://core.telegram.org/bots/api#making-requests).
        """
        name = method.lower()
        if not name.startswith(_SPEAKING) or name.endswith(_SILENT):
            return 0
        several = parameters.get(_SEVERAL.get(name, ""))
        return max(len(several), 1) if isinstance(several, list | tuple) else 1

    def is_group(self, chat: str) -> bool:
        """Is it a group or a channel? Their ids are negative; a public one has a name."""
        return chat.startswith(("-", "@"))

    def business(self, parameters: Mapping[str, Any]) -> str:
        """Return the `business_connection_id`."""
        return identifier(parameters.get("business_connection_id"))

    def aim(self, parameters: Mapping[str, Any], chat: str, business: str = "") -> dict[str, Any]:
        """Return the parameters with `chat_id` and `business_connection_id` where none was given.

        Methods that take no chat ignore it. Calls that change an inline message or send a gift to a
        user stay as they are.
        """
        given = {name for name, value in parameters.items() if value is not None}
        aimed = dict(parameters)
        if chat and "chat_id" not in given and not any(names <= given for names in _ELSEWHERE):
            aimed["chat_id"] = _chat_id(chat)
            if business and "business_connection_id" not in given:
                aimed["business_connection_id"] = business
        return aimed

    def messages(self, result: Any, chat: str = "", business: str = "") -> Sequence[Message]:
        """Return the messages in an answer: a Message, a MessageId, or a list of either.

        A MessageId, which copies and forwards answer, does not name its chat: it becomes a message
        of kind `other` in `chat`, or nothing without one.
        """
        found = []
        for item in result if isinstance(result, list) else [result]:
            if not isinstance(item, dict) or "message_id" not in item:
                continue
            whole = message(item)
            if whole is not None:
                if business and not whole.business:
                    whole = structs.replace(whole, business=business)
                found.append(whole)
            elif chat and (id := message_identifier(item["message_id"])):
                where = Chat(chat, chat_type(chat))
                kind = MessageKind.OTHER.value
                found.append(Message(id, where, kind=kind, business=business))
        return found

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        """Delete up to 100 messages (https://core.telegram.org/bots/api#deletemessages).

        Telegram skips ids that are not there, but refuses the whole batch, and deletes nothing,
        when one may not be deleted. An id that is no number names no message.
        """
        if len(ids) > self.delete_batch_size:
            raise ValueError(
                f"{len(ids)} messages to delete: {self.delete_batch_size} at most in one call."
            )
        outcome = dict.fromkeys(ids, Deletion.GONE)
        asked = [id for id in outcome if _is_message_id(id)]
        if asked:
            outcome |= dict.fromkeys(asked, await self._delete(chat, asked, business))
        return outcome

    async def _delete(self, chat: str, ids: list[str], business: str) -> Deletion:
        """Delete messages and return what became of all of them."""
        numbers = [int(id) for id in ids]
        try:
            if business:
                await self.call(
                    "deleteBusinessMessages", business_connection_id=business, message_ids=numbers
                )
            elif len(ids) == 1:
                await self.call("deleteMessage", chat_id=_chat_id(chat), message_id=numbers[0])
            else:
                await self.call("deleteMessages", chat_id=_chat_id(chat), message_ids=numbers)
        except InvalidRequest as error:
            reason = error.description.lower()
            for words, outcome in _REFUSALS:
                if words not in reason:
                    continue
                if len(ids) == 1:
                    return outcome
                raise BatchRefused(
                    error.description, method=error.method, code=error.code
                ) from error
            if any(words in reason for words in _OUT_OF_REACH):
                return Deletion.FORBIDDEN
            # 404 is the method's absence, on a server of an older Bot API.
            gone = isinstance(error, NotFound) and error.code != 404
            return Deletion.GONE if gone else Deletion.FAILED
        return Deletion.DELETED

    async def close(self) -> None:
        """Close the running loop's connections to Telegram."""
        await self._api.close()

    # The webhook, and doing without one

    async def set_webhook(self, url: str, **options: Any) -> None:
        """Have updates of every type delivered to `url`, with the bot's secret.

        Options are those of https://core.telegram.org/bots/api#setwebhook.
        """
        defaults = {"secret_token": self._secret.decode(), "allowed_updates": UPDATE_TYPES}
        await self.call("setWebhook", url=url, **(defaults | options))

    async def webhook_info(self) -> dict[str, Any]:
        """Return Telegram's WebhookInfo (https://core.telegram.org/bots/api#webhookinfo)."""
        info: dict[str, Any] = await self.call("getWebhookInfo")
        return info

    async def delete_webhook(self, *, drop_pending: bool = False) -> None:
        """Stop deliveries; updates that wait at Telegram are kept unless `drop_pending`."""
        await self.call("deleteWebhook", drop_pending_updates=drop_pending)

    async def poll(self, offset: int | None = None, timeout: int = 30) -> list[dict[str, Any]]:
        """Wait up to `timeout` seconds for updates from `offset` on and return their payloads.

        Each, as JSON, is a body for `parse`. The next offset is the last one's `update_id` plus 1,
        and tells Telegram to forget those before it. Does not work beside a webhook
        (https://core.telegram.org/bots/api#getupdates).
        """
        parameters = {"offset": offset, "timeout": timeout, "allowed_updates": UPDATE_TYPES}
        updates: list[dict[str, Any]] = await self._api.call("getUpdates", parameters, wait=timeout)
        return updates

    # Settings

    def check(self) -> Iterable[CheckMessage]:
        """Warn of a secret that could be guessed."""
        if len(self._secret) < _SHORT_SECRET:
            yield CheckWarning(
                f'The secret of bot "{self.alias}" has {len(self._secret)} characters.',
                hint=f"Whoever guesses it can send updates in Telegram's name: use at least"
                f" {_SHORT_SECRET}, by chance (python -c 'import secrets;"
                " print(secrets.token_urlsafe(32))').",
                id="botsessions.W010",
            )

    def _option(self, name: str, pattern: str, meaning: str) -> str:
        # No local variable holds the value: error pages show those.
        if not re.fullmatch(pattern, str(self.options.get(name) or "")):
            problem = "is wrong" if self.options.get(name) else "is missing"
            raise ImproperlyConfigured(
                f'Bot "{self.alias}": the option "{name}" {problem}; it is {meaning}.'
            )
        return str(self.options[name])

    def _api_url(self) -> str:
        url = str(self.options.get("api_url") or TELEGRAM)
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url) or not _is_url(url):
            raise ImproperlyConfigured(
                f'Bot "{self.alias}": the option "api_url" is wrong;'
                f" it is the address of a Bot API server, as {TELEGRAM}."
            )
        return url

    def _timeout(self) -> float:
        timeout = self.options.get("timeout", 20)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise ImproperlyConfigured(
                f'Bot "{self.alias}": the option "timeout" is wrong;'
                " it is a number of seconds above 0."
            )
        return timeout


def _is_url(url: str) -> bool:
    try:
        return bool(URL(url).host)
    except ValueError:
        return False


def _chat_id(chat: str) -> int | str:
    """Return a chat's id as Telegram has it; a public one may be named as `@name`."""
    return int(chat) if _INTEGER.fullmatch(chat) else chat


def _is_message_id(id: str) -> bool:
    return len(id) < 20 and id.isascii() and id.isdigit() and int(id) > 0
