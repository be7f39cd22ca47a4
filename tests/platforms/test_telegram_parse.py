"""Telegram's updates: real payloads against two independent readers, and anything else at all.

`telegram_expected.json` holds what python-telegram-bot and aiogram make of each payload. Where they
agree, we agree. Where they do not, or cannot read it, `DECIDED` says what it is and why; "the
documentation" is https://core.telegram.org/bots/api.
"""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from botsessions.exceptions import MalformedBody
from botsessions.platforms.telegram import TelegramPlatform
from botsessions.platforms.telegram_kinds import CONTENT_KINDS, SERVICE_KINDS
from botsessions.platforms.telegram_updates import UPDATE_TYPES
from botsessions.testing import check_update
from botsessions.updates import Update, UpdateType

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
PAYLOADS = sorted((FIXTURES / "telegram").glob("*.json"))

platform = TelegramPlatform("shop", {"token": "1:x", "secret": "a-secret-of-tests"})

#: The parts where the two readers differ or fail, by payload.
DECIDED: dict[str, dict[str, Any]] = {
    # A business connection's own id is the connection; one reader looks at messages alone.
    "business_connection__nutgram": {"business": "123456"},
    "business_connection__tg_rs": {"business": "id"},
    "deleted_business_messages__nutgram": {"business": "123"},
    # "from: may be empty for messages sent to channels": a post speaks for its channel, so its
    # session is the chat's, signed or not. The message still names its author.
    "channel_post__text__nutgram": {"user": ""},
    "edited_channel_post__text__nutgram": {"user": ""},
    # An artificial payload with everything in it. "is_topic_message: True, if the message is sent
    # to a topic": without it the thread is none; a non-empty business_connection_id always makes
    # the chat "independent from any potential bot chat which might share the same identifier".
    "edited_channel_post__text_command_topic_viabot_bizid_senderchat__zhyu": {
        "user": "",
        "thread": "",
        "business": "business-connection-1",
    },
    # A reply in the General topic has a message_thread_id and no is_topic_message.
    "message__text_reply_topic__nutgram__3": {"thread": ""},
    # ChatBoostSourcePremium.user: "User that boosted the chat".
    "chat_boost__nutgram": {"user": "123"},
    "chat_boost__teloxide": {"user": "1459074222"},
    # PollAnswer.voter_chat is "the chat that changed the answer", a voter and no place.
    "poll_answer__zhyu": {"chat": ""},
    # Newer than one of the readers.
    "subscription__nutgram": {"user": "12345"},
    # Payloads that neither reader accepts, as a field is missing, of a wrong type, or required only
    # since a later Bot API: read by hand.
    "chat_member__left_to_kicked__telegrambots": {"chat": "1234567", "user": "1234567"},
    "message__none__teloxide": {"kind": ""},
    "message__audio__nonebot": {
        "chat": "1111111",
        "user": "1111111",
        "id": "1365",
        "kind": "audio",
    },
    "message__left_chat_member__opsdroid": {
        "chat": "6399348",
        "user": "6399348",
        "id": "1247",
        "kind": "left_chat_member",
    },
    "message__pinned_message__opsdroid": {
        "chat": "6399348",
        "user": "6399348",
        "id": "1247",
        "kind": "pinned_message",
    },
    "message__poll__nutgram": {"chat": "12345", "user": "12345", "id": "123456", "kind": "poll"},
    "message__refunded_payment__nutgram": {"kind": "refunded_payment"},
    "message__sticker__rubenlagus": {
        "chat": "-10011869112345",
        "user": "12345678",
        "id": "2",
        "kind": "sticker",
    },
    "message__text_command__wagtail": {
        "chat": "100",
        "user": "100",
        "id": "11",
        "text": "/get_chat_id",
        "kind": "text",
    },
    "poll__luzrain": {},
    "poll__nutgram": {},
    # "At most one of the optional parameters can be present in any given update": five are, and
    # the first counts. Its message has a text, audio, voice and document.
    "multi_type__message_edited_message_inline_query_chosen_inline_result_callback_query"
    "__rubenlagus": {
        "type": "message",
        "chat": "1111111",
        "user": "1111111",
        "id": "1365",
        "text": "Bold and italics",
        "kind": "audio",
    },
}


@cache
def expectations() -> dict[str, dict[str, Any]]:
    if not PAYLOADS:
        pytest.skip("the payloads of ../shared/fixtures are not here")
    expected: dict[str, dict[str, Any]] = json.loads(
        (FIXTURES / "telegram_expected.json").read_text()
    )
    return expected


def opinions(expected: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what each reader says about each part, as we write it."""

    def word(value: Any) -> str:
        return "" if value is None else str(value)

    yield "type", expected["update_type"]
    if ptb := expected.get("ptb"):
        yield "chat", word(ptb["chat_id"])
        yield "user", word(ptb["user_id"])
        yield "thread", word(ptb["message_thread_id"])
        yield "id", word(ptb["message_id"])
        yield "text", word(ptb["text"] or ptb["caption"])
        yield "business", word(ptb["business_connection_id"])
    if aiogram := expected.get("aiogram"):
        yield "chat", word(aiogram["chat_id"])
        yield "user", word(aiogram["user_id"])
        yield "thread", word(aiogram["thread_id"])
        yield "business", word(aiogram["business_connection_id"])
        if aiogram["content_type"]:
            yield "kind", word(aiogram["content_type"])


def parts(update: Update) -> dict[str, str]:
    return {
        "type": update.type,
        "chat": update.chat.id if update.chat else "",
        "user": update.user.id if update.user else "",
        "thread": update.thread,
        "id": update.message.id if update.message else "",
        "text": update.text,
        "business": update.business,
        "kind": update.message.kind if update.message else "",
    }


@pytest.mark.parametrize(
    "path",
    PAYLOADS or [pytest.param(None, marks=pytest.mark.skip("../shared/fixtures is not here"))],
    ids=lambda path: path.stem if path else "none",
)
def test_real_payload_is_read_as_two_readers_agree(path: Path) -> None:
    """S10: the chat, user, thread, message id and text of every type of update."""
    expected = expectations()[path.name]
    updates = platform.parse(path.read_bytes())
    if expected["update_type"] == "unknown_type":
        assert updates == []
        return
    (update,) = updates
    check_update(update, platform)
    assert update.payload == json.loads(path.read_bytes())
    said: dict[str, set[str]] = {}
    for part, value in opinions(expected):
        said.setdefault(part, set()).add(value)
    decided = DECIDED.get(path.stem, {})
    found = parts(update)
    for part, values in said.items():
        if part == "type" and values == {"multi_type"}:
            continue
        if len(values) == 1:
            assert {found[part]} == values, part
            assert part not in decided, f"{part}: nothing to decide"
        else:
            assert part in decided, f"{part}: the readers differ, {values}"
    assert "ptb" in expected or "aiogram" in expected or path.stem in DECIDED
    assert {part: found[part] for part in decided} == decided


def test_every_payload_has_an_expectation() -> None:
    assert {path.name for path in PAYLOADS} == set(expectations())
    assert set(DECIDED) <= {path.stem for path in PAYLOADS}


# Types of update


def parse(**payload: Any) -> Update | None:
    updates = platform.parse(msgspec.json.encode({"update_id": 7, **payload}))
    for update in updates:
        check_update(update, platform)
    return updates[0] if updates else None


def parsed(**payload: Any) -> Update:
    update = parse(**payload)
    assert update is not None
    return update


ANN = {"id": 11, "is_bot": False, "first_name": "Ann", "last_name": "Bee", "username": "annbee"}
GROUP = {"id": -1002233, "type": "supergroup", "title": "Gardeners"}
SAID = {"message_id": 5, "date": 1_780_000_000, "chat": GROUP, "from": ANN, "text": "hello"}


def test_every_type_of_the_bot_api_is_known() -> None:
    assert set(UPDATE_TYPES) == {kind.value for kind in UpdateType}
    assert len(UPDATE_TYPES) == 27


@pytest.mark.parametrize("type_", UPDATE_TYPES)
@pytest.mark.parametrize(
    "data", ["a string", 17, True, [], [{}], {}, {"chat": [], "from": 3, "message": "x"}]
)
def test_type_with_a_senseless_object_is_accepted(type_: str, data: object) -> None:
    update = parsed(**{type_: data})
    assert (update.type, update.id, update.chat, update.user) == (type_, "7", None, None)


@pytest.mark.parametrize(
    "type_",
    [
        "message",
        "edited_message",
        "channel_post",
        "edited_channel_post",
        "business_message",
        "edited_business_message",
        "deleted_business_messages",
        "message_reaction",
        "message_reaction_count",
        "my_chat_member",
        "chat_member",
        "chat_join_request",
        "chat_boost",
        "removed_chat_boost",
        "guest_message",
        "stopped_message_generation",
    ],
)
def test_type_that_happens_in_a_chat_has_it(type_: str) -> None:
    chat = parsed(**{type_: SAID}).chat
    assert chat is not None
    assert (chat.id, chat.type, chat.title) == ("-1002233", "supergroup", "Gardeners")


@pytest.mark.parametrize(
    "type_",
    [
        "business_connection",
        "inline_query",
        "chosen_inline_result",
        "shipping_query",
        "pre_checkout_query",
        "purchased_paid_media",
        "poll",
        "poll_answer",
        "managed_bot",
        "subscription",
    ],
)
def test_type_that_happens_outside_of_a_chat_has_none(type_: str) -> None:
    data = {"id": "x", "from": ANN, "user": ANN, "chat": GROUP, "voter_chat": GROUP}
    update = parsed(**{type_: data | {"user_chat_id": 11}})
    assert update.chat is None
    assert update.conversation == ""
    assert (update.user is None) == (type_ == "poll")


def test_anonymous_reaction_and_vote_have_no_user() -> None:
    reaction = {"chat": GROUP, "message_id": 5, "actor_chat": GROUP}
    assert parsed(message_reaction=reaction).user is None
    assert parsed(poll_answer={"poll_id": "1", "voter_chat": GROUP, "option_ids": []}).user is None


def test_boost_names_its_booster_only_when_that_is_the_source() -> None:
    """Gift codes and giveaways name who received them."""
    for source, user in [("premium", "11"), ("gift_code", ""), ("giveaway", "")]:
        boost = {"chat": GROUP, "boost": {"source": {"source": source, "user": ANN}}}
        update = parsed(chat_boost=boost)
        assert (update.user.id if update.user else "") == user


def test_post_speaks_for_its_channel_and_names_its_author() -> None:
    update = parsed(channel_post=SAID)
    assert update.user is None
    assert update.message is not None
    assert update.message.user is not None
    assert update.message.user.name == "Ann Bee"


def test_unknown_type_is_ignored_and_a_null_is_no_type() -> None:
    assert parse(brand_new={"chat": GROUP}) is None
    assert parse() is None
    assert parse(message=None) is None
    assert parsed(message=None, poll={"id": "1"}).type == "poll"
    assert parsed(brand_new={}, message=SAID).type == "message"


def test_several_types_give_the_first() -> None:
    assert parsed(edited_message=SAID, message=SAID).type == "edited_message"


def test_business_and_guest_chats_are_conversations_of_their_own() -> None:
    """They never share a session with the bot's own chat of the same id."""
    own = parsed(message=SAID)
    business = parsed(business_message=SAID | {"business_connection_id": "b1"})
    guest = parsed(guest_message=SAID | {"guest_query_id": "g1"})
    pressed = parsed(callback_query={"from": ANN, "message": SAID | {"guest_query_id": "g1"}})
    assert own.conversation == "-1002233"
    assert business.conversation == "business/b1/-1002233"
    assert business.message is not None
    assert business.message.business == "b1"
    assert guest.conversation == pressed.conversation == "guest/-1002233"


def test_messages_deleted_for_a_business_are_named() -> None:
    for ids, kept in (
        ([7, 321, 0, 2**52, None, True, {}, [8], "9" * 500], ("7", "321", f"{2**52}")),
        ([], ()),
        ("78", ()),
        (None, ()),
    ):
        gone: dict[str, Any] = {"business_connection_id": "b1", "chat": GROUP, "message_ids": ids}
        assert parsed(deleted_business_messages=gone).deleted == kept


@pytest.mark.parametrize(
    ("type_", "fields", "conversation"),
    [
        ("message", {}, "-1002233"),
        ("edited_message", {}, "-1002233"),
        ("channel_post", {}, "-1002233"),
        ("edited_channel_post", {}, "-1002233"),
        ("business_message", {"business_connection_id": "b1"}, "business/b1/-1002233"),
        ("edited_business_message", {"business_connection_id": "b1"}, "business/b1/-1002233"),
        ("guest_message", {}, "guest/-1002233"),
    ],
)
def test_message_of_every_type_has_what_it_is_tracked_by(
    type_: str, fields: dict[str, Any], conversation: str
) -> None:
    """S69: message, chat, user, kind, business connection, time; and when it was edited."""
    if type_.startswith("edited_"):
        fields = fields | {"edit_date": 1_780_000_060}
    update = parsed(**{type_: SAID | fields})
    message = update.message
    assert message is not None
    assert update.conversation == conversation
    assert (message.id, message.kind, message.text) == ("5", "text", "hello")
    assert update.chat == message.chat
    assert (message.chat.id, message.chat.type) == ("-1002233", "supergroup")
    assert message.user is not None
    assert message.user.id == "11"
    business = "b1" if "business" in type_ else ""
    assert (message.business, update.business) == (business, business)
    assert update.guest is (type_ == "guest_message")
    assert message.date is not None
    assert message.date.timestamp() == 1_780_000_000
    assert (message.edited is not None) == type_.startswith("edited_")
    if message.edited is not None:
        assert message.edited.timestamp() == 1_780_000_060


@pytest.mark.parametrize(
    ("field", "to", "from_"),
    [("migrate_to_chat_id", "-1002233", ""), ("migrate_from_chat_id", "", "-1002233")],
)
def test_group_that_becomes_a_supergroup_names_the_other(field: str, to: str, from_: str) -> None:
    """P17."""
    chat = {"id": -7, "type": "group"}
    said = {"message_id": 5, "date": 1, "chat": chat, "from": ANN}
    message = parsed(message=said | {field: -1002233}).message
    assert message is not None
    assert (message.migrated_to, message.migrated_from) == (to, from_)
    assert (message.kind, message.is_service) == (field, True)
    values: tuple[Any, ...] = (None, True, [], "x" * 65)
    for senseless in values:
        message = parsed(message=said | {field: senseless}).message
        assert message is not None
        assert (message.migrated_to, message.migrated_from) == ("", "")


def test_what_the_bot_said_for_a_business_is_not_taken_for_an_update() -> None:
    """A bot that answers every message would answer itself."""
    bot = {"id": 1, "is_bot": True, "first_name": "Bot"}
    assert parse(business_message=SAID | {"sender_business_bot": bot}) is None
    assert parse(edited_business_message=SAID | {"sender_business_bot": bot}) is None


def test_topic_is_a_thread_and_a_reply_is_none() -> None:
    def thread(**fields: Any) -> str:
        return parsed(message=SAID | fields).thread

    assert thread(message_thread_id=66) == ""
    assert thread(message_thread_id=66, is_topic_message=False) == ""
    assert thread(message_thread_id=66, is_topic_message=True) == "66"
    assert thread(direct_messages_topic={"topic_id": 9, "user": ANN}) == "9"
    stopped = {"chat": GROUP, "message_thread_id": 66, "draft_id": 1}
    assert parsed(stopped_message_generation=stopped).thread == "66"


def test_button_press_carries_its_action_and_the_bots_message() -> None:
    shown = SAID | {"from": {"id": 1, "is_bot": True, "first_name": "Bot"}, "text": "/menu"}
    update = parsed(callback_query={"id": "1", "from": ANN, "message": shown, "data": "buy:1"})
    assert update.action == "buy:1"
    assert update.user is not None
    assert update.user.id == "11"
    assert update.message is not None
    assert update.message.user is not None
    assert update.message.user.is_bot
    assert update.text == "/menu"
    assert (update.command, update.arguments) == ("", "")


def test_button_press_without_data_is_a_press_all_the_same() -> None:
    assert parsed(callback_query={"from": ANN, "game_short_name": "chess"}).action == "chess"
    assert parsed(callback_query={"from": ANN}).action == ""
    assert parsed(message=SAID).action is None


def test_press_under_a_message_out_of_reach_keeps_its_chat_and_id() -> None:
    gone = {"chat": GROUP, "message_id": 5, "date": 0}
    update = parsed(callback_query={"from": ANN, "message": gone, "data": "x"})
    assert update.message is not None
    assert (update.message.id, update.message.date) == ("5", None)
    assert (update.message.kind, update.text) == ("other", "")


# Messages


@pytest.mark.parametrize("kind", [*CONTENT_KINDS, *SERVICE_KINDS])
def test_message_kind_is_the_field_it_has(kind: str) -> None:
    """S70."""
    message = parsed(message={"message_id": 5, "chat": GROUP, "date": 1, kind: {}}).message
    assert message is not None
    assert (message.kind, message.is_service) == (kind, kind in SERVICE_KINDS)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (["text", "photo"], "photo"),
        (["document", "animation"], "animation"),
        (["location", "venue"], "venue"),
        (["photo", "live_photo"], "live_photo"),
        (["text", "rich_message"], "rich_message"),
        (["new_chat_members", "text"], "text"),
        (["brand_new"], "other"),
        ([], "other"),
    ],
)
def test_message_of_several_kinds_is_the_first_of_them(fields: list[str], kind: str) -> None:
    """S70: media before text, animation before document, venue before location."""
    for order in (fields, fields[::-1]):
        message = parsed(message={"chat": GROUP, **{field: {} for field in order}}).message
        assert message is not None
        assert message.kind == kind


def test_field_that_is_null_or_false_makes_no_kind() -> None:
    fields = {"photo": None, "delete_chat_photo": False}
    message = parsed(message=SAID | fields).message
    assert message is not None
    assert message.kind == "text"


def test_kinds_are_those_that_aiogram_knows() -> None:
    enums = pytest.importorskip("aiogram.enums", reason="aiogram is not installed")
    known = {kind.value for kind in enums.ContentType} - {"any", "unknown"}
    assert known <= {*CONTENT_KINDS, *SERVICE_KINDS}


def test_message_says_what_it_answers_and_belongs_to() -> None:
    fields = {
        "edit_date": 1_780_000_060,
        "caption": "Look!",
        "text": None,
        "photo": [],
        "media_group_id": "98765",
        "reply_to_message": {"message_id": 4},
    }
    message = parsed(message=SAID | fields).message
    assert message is not None
    assert message.date is not None
    assert message.edited is not None
    assert (message.edited - message.date).total_seconds() == 60
    assert (message.text, message.album, message.reply_to) == ("Look!", "98765", "4")


def test_message_id_zero_is_no_id() -> None:
    """Ephemeral and scheduled messages share it."""
    message = parsed(message=SAID | {"message_id": 0, "ephemeral_message_id": 3}).message
    assert message is not None
    assert message.id == ""


@pytest.mark.parametrize(
    ("id", "kept"),
    [
        (1, "1"),
        (0, "0"),
        (-1002233, "-1002233"),
        (2**64, str(2**64)),
        ("@ann", "@ann"),
        ("x" * 64, "x" * 64),
        ("x" * 65, None),
        ("7" * 10_000, None),
        (10**64, None),
        ("", None),
        (True, None),
        (1.0, None),
        (None, None),
        ([1], None),
        ({}, None),
    ],
)
def test_ids_are_short_strings_or_absent(id: object, kept: str | None) -> None:
    update = parsed(message=SAID | {"chat": {"id": id}, "from": {"id": id}})
    assert (update.chat and update.chat.id) == kept
    assert (update.user and update.user.id) == kept


@pytest.mark.parametrize(
    ("id", "type_"), [(5, "private"), (-5, "group"), (-1005, "supergroup"), ("@x", "supergroup")]
)
def test_chat_without_a_type_has_the_one_of_its_id(id: object, type_: str) -> None:
    for given_type in (None, 3, "planet"):
        chat = parsed(message=SAID | {"chat": {"id": id, "type": given_type}}).chat
        assert chat is not None
        assert chat.type == type_


@pytest.mark.parametrize("date", [-1, 0, 2**40, 10**30, 1.5, "2026-01-01", None, True, []])
def test_senseless_date_is_absent(date: object) -> None:
    message = parsed(message=SAID | {"date": date, "edit_date": date}).message
    assert message is not None
    assert (message.date, message.edited) == (None, None)


@pytest.mark.parametrize(
    ("text", "command", "arguments"),
    [
        ("/start", "start", ""),
        ("/start@shop_bot  a  b ", "start", "a  b"),
        ("/start\na b", "start", "a b"),
        ("/", "", ""),
        ("/ ", "", ""),
        ("/ start", "", ""),
        ("/@shop_bot", "", ""),
        (" /start", "", ""),
        ("start", "", ""),
        ("", "", ""),
    ],
)
def test_command_is_the_first_word_behind_a_slash(text: str, command: str, arguments: str) -> None:
    update = parsed(message=SAID | {"text": text})
    assert (update.command, update.arguments) == (command, arguments)


# What is no update


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"null",
        b'"update"',
        b'{"message": {}}',
        b'{"update_id": null, "message": {}}',
        b'{"update_id": true, "message": {}}',
        b'{"update_id": "1", "message": {}}',
        b'{"update_id": 1.0, "message": {}}',
        b'{"update_id": 1' + b"0" * 64 + b', "message": {}}',
    ],
)
def test_body_without_an_integer_update_id_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="update"):
        platform.parse(body)


def test_update_id_stays_exact() -> None:
    """It is what a duplicate is known by."""
    for number in (0, 1, 2**53 + 1, 2**63, 10**30):
        (update,) = platform.parse(b'{"update_id": %d, "poll": {}}' % number)
        assert update.id == str(number)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(deadline=None)  # the machine may be busy
@given(st.data())
def test_real_payload_with_anything_in_any_place_does_no_harm(data: st.DataObject) -> None:
    expectations()
    payload = json.loads(data.draw(st.sampled_from(PAYLOADS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        target = payload
        *way, last = data.draw(st.sampled_from([*places(payload), ("x",)]))
        for key in way:
            target = target[key]
        target[last] = data.draw(JSON)
    try:
        updates = platform.parse(msgspec.json.encode(payload))
    except MalformedBody:
        assert type(payload.get("update_id")) is not int or abs(payload["update_id"]) >= 10**63
        return
    for update in updates:
        check_update(update, platform)


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(UPDATE_TYPES), JSON)
def test_known_type_with_anything_in_it_does_no_harm(type_: str, value: Any) -> None:
    parse(**{type_: value})
