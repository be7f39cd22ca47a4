"""How Telegram's updates are read.

Nothing here raises, whatever JSON arrives: a part that is missing or of a wrong type is absent. The
typed models of Bot API libraries refuse every eighth update of older servers, and an update that is
refused would block its chat for a day.

Telegram's documentation: https://core.telegram.org/bots/api#update and …#message (Bot API 10.3).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import structs

from botsessions.platforms.telegram_kinds import kind_of
from botsessions.updates import Chat, Message, Update, UpdateType, User

#: Ids are integers of up to 64 bits, or short words; what is longer is not Telegram's.
MAX_ID_LENGTH: Final = 64

_CHAT_TYPES: Final = frozenset({"private", "group", "supergroup", "channel"})
#: The year 9999 ends here; later dates are none.
_LAST_DATE: Final = 253_402_300_800


def identifier(value: Any) -> str:
    """Return an id as we keep it: an integer's digits or a short string; `""` for anything else."""
    if type(value) is int:  # and no bool
        value = str(value)
    elif not isinstance(value, str):
        return ""
    return value if len(value) <= MAX_ID_LENGTH else ""


def message_identifier(value: Any) -> str:
    """Return a message's id; 0 is shared by ephemeral and scheduled messages, so it is none."""
    found = identifier(value)
    return found if found != "0" else ""


def chat_type(chat: str) -> str:
    """Tell a chat's type by its id alone, as well as that goes.

    Groups have negative ids, those of supergroups and channels begin with -100
    (https://core.telegram.org/api/bots/ids), and only public supergroups and channels are named.
    """
    if chat.startswith(("-100", "@")):
        return "supergroup"
    return "group" if chat.startswith("-") else "private"


def chat(data: Any) -> Chat | None:
    """Read a Chat (https://core.telegram.org/bots/api#chat)."""
    if not isinstance(data, dict):
        return None
    found = identifier(data.get("id"))
    if not found:
        return None
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in _CHAT_TYPES:
        kind = chat_type(found)
    return Chat(found, kind, _text(data.get("title")))


def user(data: Any) -> User | None:
    """Read a User (https://core.telegram.org/bots/api#user)."""
    if not isinstance(data, dict):
        return None
    found = identifier(data.get("id"))
    if not found:
        return None
    name = _text(data.get("first_name"))
    last_name = data.get("last_name")
    if last_name and isinstance(last_name, str):
        name = f"{name} {last_name}" if name else last_name
    return User(
        found,
        name,
        _text(data.get("username")),
        _text(data.get("language_code")),
        data.get("is_bot") is True,
    )


def message(data: Any) -> Message | None:
    """Read a Message (https://core.telegram.org/bots/api#message); None without a chat.

    One that the bot cannot see any more (…#inaccessiblemessage) has chat and id alone.
    """
    if not isinstance(data, dict):
        return None
    where = chat(data.get("chat"))
    if where is None:
        return None
    kind, is_service = kind_of(data)
    text = data.get("text")
    if not isinstance(text, str):
        text = _text(data.get("caption"))
    reply = data.get("reply_to_message")
    return Message(
        message_identifier(data.get("message_id")),
        where,
        user(data.get("from")),
        kind,
        is_service,
        text,
        _date(data.get("date")),
        _date(data.get("edit_date")),
        _thread(data),
        message_identifier(reply.get("message_id")) if isinstance(reply, dict) else "",
        identifier(data.get("media_group_id")),
        identifier(data.get("business_connection_id")),
        identifier(data.get("migrate_to_chat_id")),
        identifier(data.get("migrate_from_chat_id")),
    )


def update(bot: str, id: str, payload: dict[str, Any]) -> Update | None:
    """Read an Update (https://core.telegram.org/bots/api#update); None when it is to be ignored.

    That is one of no known type, and a business account's message that this bot itself sent. Of
    several types, which Telegram never sends, the first in the payload counts.
    """
    for type_, data in payload.items():
        reader = _READERS.get(type_)
        if reader is not None and data is not None:
            if not isinstance(data, dict):
                data = {}
            return reader(bot, id, type_, data, payload)
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _date(value: Any) -> datetime | None:
    if type(value) is int and 0 < value < _LAST_DATE:
        return datetime.fromtimestamp(value, UTC)
    return None


def _thread(data: dict[str, Any]) -> str:
    """Return the topic of a message.

    `message_thread_id` alone is no topic: replies in ordinary supergroups have one, and sending it
    back is refused. In a channel's direct messages the topic is its own object.
    """
    if data.get("is_topic_message") is True:
        return identifier(data.get("message_thread_id"))
    topic = data.get("direct_messages_topic")
    return identifier(topic.get("topic_id")) if isinstance(topic, dict) else ""


# How each type of update is read: (bot, id, type, its object, the whole payload) -> Update

_Reader = Callable[[str, str, str, dict[str, Any], dict[str, Any]], Update | None]


def _said(
    bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
) -> Update | None:
    """Read an update that is a message.

    One with a `guest_query_id` belongs to a chat where the bot is a guest, and that is not the
    bot's own chat of the same id.
    """
    found = message(data)
    guest = type_ == "guest_message" or isinstance(data.get("guest_query_id"), str)
    if found is None:
        sender = user(data.get("from"))
        return Update(bot, id, type_, None, sender, guest=guest, payload=payload)
    return Update(
        bot,
        id,
        type_,
        found.chat,
        found.user,
        found,
        found.thread,
        found.text,
        None,
        found.business,
        guest,
        payload,
    )


def _posted(
    bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
) -> Update | None:
    """Read a channel's post: it speaks for the channel, even when its author is named."""
    found = _said(bot, id, type_, data, payload)
    return None if found is None else structs.replace(found, user=None)


def _said_in_business(
    bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
) -> Update | None:
    """Read a message of a business account; what the bot said in its name is an echo."""
    if isinstance(data.get("sender_business_bot"), dict):
        return None
    return _said(bot, id, type_, data, payload)


def _pressed(
    bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
) -> Update | None:
    """Read a CallbackQuery (https://core.telegram.org/bots/api#callbackquery).

    The message is the bot's own, the user who pressed; one of an inline message has no chat.
    """
    shown = data.get("message")
    found = message(shown)
    return Update(
        bot,
        id,
        type_,
        chat=found.chat if found else None,
        user=user(data.get("from")),
        message=found,
        thread=found.thread if found else "",
        text=found.text if found else "",
        action=_text(data.get("data")) or _text(data.get("game_short_name")),
        business=found.business if found else "",
        guest=isinstance(shown, dict) and isinstance(shown.get("guest_query_id"), str),
        payload=payload,
    )


def _reader(who: str = "", *, where: str = "", business: str = "", thread: str = "") -> _Reader:
    """Return a reader for objects that name their user, chat and so on in these fields."""

    def read(
        bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
    ) -> Update | None:
        return Update(
            bot,
            id,
            type_,
            chat=chat(data.get(where)),
            user=user(data.get(who)),
            thread=identifier(data.get(thread)),
            business=identifier(data.get(business)),
            payload=payload,
        )

    return read


def _boosted(
    bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
) -> Update | None:
    """Read a ChatBoostUpdated (https://core.telegram.org/bots/api#chatboostsource).

    Only a premium boost names who boosted; the other sources name who received a gift or prize.
    """
    boost = data.get("boost")
    source = boost.get("source") if isinstance(boost, dict) else None
    booster = None
    if isinstance(source, dict) and source.get("source") == "premium":
        booster = user(source.get("user"))
    return Update(bot, id, type_, chat(data.get("chat")), booster, payload=payload)


def _deleted(
    bot: str, id: str, type_: str, data: dict[str, Any], payload: dict[str, Any]
) -> Update | None:
    """Read a BusinessMessagesDeleted (https://core.telegram.org/bots/api#businessmessagesdeleted).

    It does not tell who deleted them.
    """
    ids = data.get("message_ids")
    found = [message_identifier(each) for each in ids] if isinstance(ids, list) else []
    return Update(
        bot,
        id,
        type_,
        chat=chat(data.get("chat")),
        business=identifier(data.get("business_connection_id")),
        payload=payload,
        deleted=tuple(each for each in found if each),
    )


#: Every type of update. Those whose users act outside of any chat have none: a business connection
#: names the chat to write to, and an anonymous voter's chat is the voter.
_READERS: Final[dict[str, _Reader]] = {
    UpdateType.MESSAGE.value: _said,
    UpdateType.EDITED_MESSAGE.value: _said,
    UpdateType.CHANNEL_POST.value: _posted,
    UpdateType.EDITED_CHANNEL_POST.value: _posted,
    UpdateType.BUSINESS_CONNECTION.value: _reader("user", business="id"),
    UpdateType.BUSINESS_MESSAGE.value: _said_in_business,
    UpdateType.EDITED_BUSINESS_MESSAGE.value: _said_in_business,
    UpdateType.DELETED_BUSINESS_MESSAGES.value: _deleted,
    UpdateType.GUEST_MESSAGE.value: _said,
    UpdateType.MESSAGE_REACTION.value: _reader("user", where="chat"),
    UpdateType.MESSAGE_REACTION_COUNT.value: _reader(where="chat"),
    UpdateType.INLINE_QUERY.value: _reader("from"),
    UpdateType.CHOSEN_INLINE_RESULT.value: _reader("from"),
    UpdateType.CALLBACK_QUERY.value: _pressed,
    UpdateType.SHIPPING_QUERY.value: _reader("from"),
    UpdateType.PRE_CHECKOUT_QUERY.value: _reader("from"),
    UpdateType.PURCHASED_PAID_MEDIA.value: _reader("from"),
    UpdateType.POLL.value: _reader(),
    UpdateType.POLL_ANSWER.value: _reader("user"),
    UpdateType.MY_CHAT_MEMBER.value: _reader("from", where="chat"),
    UpdateType.CHAT_MEMBER.value: _reader("from", where="chat"),
    UpdateType.CHAT_JOIN_REQUEST.value: _reader("from", where="chat"),
    UpdateType.CHAT_BOOST.value: _boosted,
    UpdateType.REMOVED_CHAT_BOOST.value: _reader(where="chat"),
    UpdateType.MANAGED_BOT.value: _reader("user"),
    UpdateType.SUBSCRIPTION.value: _reader("user"),
    UpdateType.STOPPED_MESSAGE_GENERATION.value: _reader(where="chat", thread="message_thread_id"),
}

#: What to ask Telegram for: without a list it leaves out chat_member and both reactions.
UPDATE_TYPES: Final = tuple(_READERS)
