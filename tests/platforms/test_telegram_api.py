"""Telegram's Bot API, called over real HTTP: a stub answers as api.telegram.org does."""

import asyncio
import gc
import json
import logging
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import clearing
from botsessions.exceptions import (
    BatchRefused,
    Forbidden,
    InvalidRequest,
    NotFound,
    PlatformError,
    PlatformUnavailable,
    RateLimited,
)
from botsessions.platforms.base import Deletion, Platform
from botsessions.platforms.telegram import SECRET_HEADER, TelegramPlatform
from botsessions.platforms.telegram_updates import UPDATE_TYPES
from botsessions.testing import PlatformContract
from botsessions.updates import Message
from tests.platforms.bot_api import NOT_ALLOWED, TOO_OLD, Fault, StubBotApi

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
ANSWERS = FIXTURES / "telegram_api_responses"
SECRET = "a-secret-of-these-tests"
OPTIONS = {"token": "123456:stub-api-token_of-tests", "secret": SECRET}

T = TypeVar("T")


@pytest.fixture
def api() -> Iterator[StubBotApi]:
    with StubBotApi() as stub:
        yield stub


def bot(api: StubBotApi, **options: Any) -> TelegramPlatform:
    return TelegramPlatform("shop", {**OPTIONS, "api_url": api.url, **options})


def run(api: StubBotApi, action: Callable[[TelegramPlatform], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        async with bot(api, **options) as platform:
            return await action(platform)

    return asyncio.run(main())


def failure(
    api: StubBotApi, answer: dict[str, Any] | bytes | Fault, method: str = "getMe", **options: Any
) -> PlatformError:
    api.plan(method, answer)
    with pytest.raises(PlatformError) as error:
        run(api, lambda platform: platform.call(method), **options)
    return error.value


def refusal(code: Any, description: Any, **parameters: Any) -> dict[str, Any]:
    answer = {"ok": False, "error_code": code, "description": description}
    return answer | ({"parameters": parameters} if parameters else {})


class TestTelegramPlatform(PlatformContract):
    """What every platform keeps."""

    chat = "42"

    def platform(self) -> Platform:
        return TelegramPlatform("shop", OPTIONS)

    def headers(self, platform: Platform, body: bytes) -> dict[bytes, bytes]:
        return {SECRET_HEADER: SECRET.encode()}

    def bodies(self) -> Iterable[bytes]:
        said = {"message_id": 5, "date": 1_780_000_000, "chat": {"id": 42, "type": "private"}}
        ann = {"id": 42, "is_bot": False, "first_name": "Ann"}
        yield msgspec.json.encode({"update_id": 1, "message": said | {"from": ann, "text": "/ hi"}})
        yield msgspec.json.encode({"update_id": 2, "message": said | {"text": "\0", "from": ann}})
        press = {"id": "1", "from": ann, "message": said, "data": "buy"}
        yield msgspec.json.encode({"update_id": 3, "callback_query": press})
        yield msgspec.json.encode({"update_id": 4, "inline_query": {"id": "1", "from": ann}})

    def unknown(self) -> bytes:
        return b'{"update_id": 5, "brand_new": {"chat": {"id": 42, "type": "private"}}}'

    @contextmanager
    def online(self) -> Iterator[Platform]:
        with StubBotApi() as stub:
            yield bot(stub)


# Options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"secret": SECRET}, '"token" is missing'),
        ({"token": "1:x"}, '"secret" is missing'),
        ({"token": "", "secret": SECRET}, '"token" is missing'),
        ({"token": "1:hidden\n", "secret": SECRET}, '"token" is wrong'),
        ({"token": "1:hidden/getMe?", "secret": SECRET}, '"token" is wrong'),
        ({"token": "1:x", "secret": "hidden secret"}, '"secret" is wrong'),
        ({"token": "1:x", "secret": "é"}, '"secret" is wrong'),
        ({"token": "1:x", "secret": "hidden" * 50}, '"secret" is wrong'),
        ({**OPTIONS, "tokn": "hidden"}, 'no option "tokn"'),
        ({**OPTIONS, "api_url": "api.telegram.org"}, '"api_url"'),
        ({**OPTIONS, "api_url": "ftp://localhost"}, '"api_url"'),
        ({**OPTIONS, "api_url": "http://"}, '"api_url"'),
        ({**OPTIONS, "api_url": "http://localhost:port"}, '"api_url"'),
        ({**OPTIONS, "api_url": "http://a?b"}, '"api_url"'),
        ({**OPTIONS, "timeout": 0}, '"timeout"'),
        ({**OPTIONS, "timeout": "soon"}, '"timeout"'),
    ],
)
def test_wrong_option_is_named_and_not_quoted(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ImproperlyConfigured) as error:
        TelegramPlatform("shop", options)
    assert '"shop"' in str(error.value)
    assert named in str(error.value)
    assert "hidden" not in str(error.value)


def test_short_secret_is_warned_of() -> None:
    def warnings(secret: str) -> list[str | None]:
        platform = TelegramPlatform("shop", {"token": "1:x", "secret": secret})
        return [warning.id for warning in platform.check()]

    assert warnings("short") == ["botsessions.W010"]
    assert warnings("x" * 16) == []


# Calls


def test_message_goes_out_as_telegram_wants_it(api: StubBotApi) -> None:
    markup = {"inline_keyboard": [[{"text": "Yes", "callback_data": "yes"}]]}
    result = run(
        api,
        lambda platform: platform.send(
            "-1002233", "Hi ключ 😀", reply_markup=markup, message_thread_id=7, parse_mode=None
        ),
    )
    (call,) = api.calls
    assert (call.method, call.token) == ("sendMessage", OPTIONS["token"])
    assert call.parameters == {
        "chat_id": -1002233,
        "text": "Hi ключ 😀",
        "reply_markup": markup,
        "message_thread_id": 7,
    }
    (message,) = bot(api).messages(result)
    assert (message.id, message.chat.id, message.thread) == ("1", "-1002233", "7")
    assert message.user is not None
    assert message.user.is_bot


def test_reply_names_the_message_that_it_answers(api: StubBotApi) -> None:
    run(api, lambda platform: platform.send("42", "Hi", reply_to="7"))
    (call,) = api.calls
    assert call.parameters == {"chat_id": 42, "text": "Hi", "reply_parameters": {"message_id": 7}}


def test_chat_may_be_named(api: StubBotApi) -> None:
    for chat in ("@gardeners", "1_0", " 5", "5x"):
        run(api, lambda platform, chat=chat: platform.send(chat, "Hi"))  # type: ignore[misc]
    chats = [call.parameters["chat_id"] for call in api.calls]
    assert chats == ["@gardeners", "1_0", " 5", "5x"]


def test_any_method_returns_its_result_unchanged(api: StubBotApi) -> None:
    api.plan("getFutureThing", {"ok": True, "result": {"a": [1, None, 10**30]}})
    result = run(api, lambda platform: platform.call("getFutureThing", depth=2, left_out=None))
    assert result == {"a": [1, None, 10**30]}
    assert api.calls[0].parameters == {"depth": 2}


@pytest.mark.parametrize("method", ["", "get me", "../getMe", "getMe?x=1", "getMé", "get_me", "a1"])
def test_method_that_is_no_word_is_not_called(api: StubBotApi, method: str) -> None:
    with pytest.raises(InvalidRequest, match="letters"):
        run(api, lambda platform: platform.call(method))
    assert api.calls == []


@pytest.mark.parametrize("value", [object(), "\ud800", {1, object()}])
def test_parameter_that_is_no_json_is_an_invalid_request(api: StubBotApi, value: object) -> None:
    with pytest.raises(InvalidRequest, match="no JSON"):
        run(api, lambda platform: platform.call("getMe", value=value))
    assert api.calls == []


def test_calls_share_a_connection(api: StubBotApi) -> None:
    async def action(platform: TelegramPlatform) -> None:
        for _ in range(5):
            await platform.send("42", "Hi")

    run(api, action)
    assert len(api.calls) == 5
    assert api.connections == 1


def test_calls_run_side_by_side(api: StubBotApi) -> None:
    async def action(platform: TelegramPlatform) -> None:
        await asyncio.gather(*(platform.send("42", str(number)) for number in range(50)))

    run(api, action)
    assert {call.parameters["text"] for call in api.calls} == {str(n) for n in range(50)}


def test_loops_at_the_same_time_have_connections_of_their_own(api: StubBotApi) -> None:
    """Handlers in threads call as well."""
    platform = bot(api)
    together = threading.Barrier(3, timeout=10)

    async def action() -> None:
        await platform.send("42", "Hi")
        together.wait()
        await platform.close()
        together.wait()
        await platform.send("42", "Hi again")

    failures: list[BaseException] = []

    def thread() -> None:
        try:
            asyncio.run(action())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert len(api.calls) == 6


def test_loop_that_ends_leaves_no_connection_behind(api: StubBotApi) -> None:
    """Unclosed ones would be warned of, and warnings are errors here."""
    platform = bot(api)
    for _ in range(3):
        asyncio.run(platform.call("getMe"))
    gc.collect()
    assert platform._api._sessions == {}
    assert platform._api._keepers == {}


@pytest.mark.filterwarnings("ignore:unclosed", "ignore:Unclosed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loop_that_was_cut_off_is_forgotten(api: StubBotApi) -> None:
    platform = bot(api)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(platform.call("getMe"))
    loop.close()
    assert loop in platform._api._sessions
    asyncio.run(platform.call("getMe"))
    assert platform._api._sessions == {}
    gc.collect()


# Errors


@pytest.mark.parametrize(
    ("code", "description", "kind", "permanent"),
    [
        (400, "Bad Request: message text is empty", InvalidRequest, True),
        (400, "Bad Request: chat not found", NotFound, True),
        (400, "Bad Request: message to delete not found", NotFound, True),
        (401, "Unauthorized", Forbidden, True),
        (403, "Forbidden: bot was blocked by the user", Forbidden, True),
        (404, "Not Found", NotFound, True),
        (409, "Conflict: terminated by other getUpdates request", PlatformError, False),
        (413, "Request Entity Too Large", InvalidRequest, True),
        (429, "Too Many Requests: retry after 7", RateLimited, False),
        (500, "Internal Server Error", PlatformUnavailable, False),
        (502, "Bad Gateway", PlatformUnavailable, False),
    ],
)
def test_error_is_typed_by_its_code(
    api: StubBotApi, code: int, description: str, kind: type, permanent: bool
) -> None:
    error = failure(api, refusal(code, description))
    assert type(error) is kind
    assert (error.code, error.description, error.method) == (code, description, "getMe")
    assert error.permanent is permanent
    assert str(error) == f"getMe: {description}"


def test_error_within_http_200_is_typed_all_the_same(api: StubBotApi) -> None:
    error = failure(api, json.dumps(refusal(403, "Forbidden: user is deactivated")).encode())
    assert isinstance(error, Forbidden)


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({"retry_after": 7}, 7),
        ({"retry_after": 0.5}, 0.5),
        ({"retry_after": "7"}, 7),
        ({"retry_after": "soon"}, None),
        ({"retry_after": -1}, None),
        ({"retry_after": True}, None),
        ({"retry_after": [1]}, None),
        ({}, None),
    ],
)
def test_wait_is_what_telegram_asks_for(
    api: StubBotApi, parameters: dict[str, Any], seconds: float | None
) -> None:
    error = failure(api, refusal(429, "Too Many Requests", **parameters))
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_migrated_group_is_named_in_the_error(api: StubBotApi) -> None:
    description = "Bad Request: group chat was upgraded to a supergroup chat"
    error = failure(api, refusal(400, description, migrate_to_chat_id=-100777))
    assert error.parameters == {"migrate_to_chat_id": -100777}


@pytest.mark.parametrize("fault", [Fault.BAD_GATEWAY, Fault.GIBBERISH, Fault.RESET, Fault.SILENCE])
def test_broken_call_may_have_been_carried_out(api: StubBotApi, fault: Fault) -> None:
    error = failure(api, fault, timeout=1)
    assert isinstance(error, PlatformUnavailable)
    assert error.sent
    assert not error.permanent


def test_connection_that_cannot_be_made_sent_nothing(api: StubBotApi) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(PlatformUnavailable) as refused:
            run(
                api,
                lambda platform: platform.send("42", "Hi"),
                api_url=f"http://127.0.0.1:{port}",
            )
    assert not refused.value.sent
    with pytest.raises(PlatformUnavailable) as unknown:
        run(api, lambda platform: platform.call("getMe"), api_url="http://nowhere.invalid")
    assert not unknown.value.sent


def test_connection_that_takes_too_long_sent_nothing(api: StubBotApi) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        with pytest.raises(PlatformUnavailable) as error:
            run(
                api,
                lambda platform: platform.call("getMe"),
                api_url=f"http://127.0.0.1:{address[1]}",
                timeout=0.3,
            )
        for each in waiting:
            each.close()
    assert not error.value.sent


def test_platform_recovers_after_a_broken_connection(api: StubBotApi) -> None:
    async def action(platform: TelegramPlatform) -> None:
        for fault in (Fault.RESET, Fault.GIBBERISH):
            api.plan("getMe", fault)
            with pytest.raises(PlatformUnavailable):
                await platform.call("getMe")
            assert (await platform.call("getMe"))["is_bot"]

    run(api, action)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"ok": tru',
        b'{"ok": "yes"}',
        b'{"result": 1}',
        b'{"ok": false, "error_code": "x", "description": 3, "parameters": []}',
        b"[" * 100_000,
        b'{"ok": true, "result": "\xff"}',
    ],
)
def test_answer_that_makes_no_sense_counts_as_none(api: StubBotApi, body: bytes) -> None:
    assert isinstance(failure(api, body), PlatformUnavailable)


@pytest.mark.parametrize(
    "path",
    sorted(ANSWERS.glob("*.json"))
    or [pytest.param(None, marks=pytest.mark.skip("../shared/fixtures is not here"))],
    ids=lambda path: path.stem if path else "none",
)
def test_real_answer_is_a_result_or_a_typed_error(api: StubBotApi, path: Path) -> None:
    found = json.loads(path.read_bytes())
    api.plan("getChat", found)
    if found["ok"]:
        result = run(api, lambda platform: platform.call("getChat"))
        assert result == found["result"]
        messages = bot(api).messages(result)
        assert all(message.id and message.chat.id for message in messages)
        assert bool(messages) == path.stem.startswith(("ok_message", "ok_list_of_messages"))
        return
    with pytest.raises(PlatformError) as error:
        run(api, lambda platform: platform.call("getChat"))
    expected = {400: InvalidRequest, 403: Forbidden, 404: NotFound, 429: RateLimited}
    code = found["error_code"]
    if code in expected:
        assert isinstance(error.value, expected[code])
    if code == 429:
        assert error.value.retry_after == 8
    assert isinstance(error.value.description, str)


def test_token_is_in_no_error_log_or_repr(
    api: StubBotApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = OPTIONS["token"]
    secret_part = token.partition(":")[2]
    quoting = refusal(400, f"Bad Request: wrong path /bot{token}/getMe and {secret_part}")
    failures: list[tuple[Any, dict[str, Any]]] = [
        (quoting, {}),
        (Fault.BAD_GATEWAY, {}),
        (Fault.GIBBERISH, {}),
        (Fault.RESET, {}),
        (Fault.SILENCE, {"timeout": 0.2}),
        (None, {"api_url": "http://127.0.0.1:1"}),
        (None, {"api_url": "http://nowhere.invalid"}),
    ]
    shown = [repr(bot(api)), repr(bot(api)._api)]
    for fault, options in failures:
        api.plan("sendMessage", fault)
        with pytest.raises(PlatformError) as error:
            run(api, lambda platform: platform.send("42", "Hi"), **options)
        assert error.value.__cause__ is None
        assert error.value.__context__ is None
        lines = traceback.TracebackException.from_exception(error.value, capture_locals=True)
        frames = [frame for frame in lines.stack if "botsessions" in frame.filename]
        assert frames
        shown += [str(error.value), repr(error.value), repr(error.value.parameters)]
        shown += [str(frame.locals) for frame in frames]
        api._planned["sendMessage"].clear()
    shown.append(caplog.text)
    for text in shown:
        assert secret_part not in text


# Messages in answers


def test_messages_of_an_answer_are_found() -> None:
    platform = TelegramPlatform("shop", OPTIONS)
    first = {"message_id": 1, "date": 1, "chat": {"id": 42, "type": "private"}, "text": "a"}
    album = [first, first | {"message_id": 2, "photo": [], "media_group_id": "7"}]
    assert [message.id for message in platform.messages(first)] == ["1"]
    assert [message.id for message in platform.messages(album)] == ["1", "2"]
    assert [message.album for message in platform.messages(album)] == ["", "7"]


def test_ids_alone_are_messages_of_the_chat_that_was_called() -> None:
    """Copies and forwards are recorded too, with kind `other`."""
    platform = TelegramPlatform("shop", OPTIONS)
    ids = [{"message_id": 8}, {"message_id": 9}, {"message_id": 0}, {"message_id": None}]
    found = platform.messages(ids, chat="-1002233")
    assert [(message.id, message.chat.id, message.kind) for message in found] == [
        ("8", "-1002233", "other"),
        ("9", "-1002233", "other"),
    ]
    assert platform.messages(ids) == []
    assert [message.id for message in platform.messages({"message_id": 8}, "42")] == ["8"]


def called(
    api: StubBotApi, method: str, *, chat: str = "42", business: str = "", **parameters: Any
) -> list[Message]:
    """Call a method as a session of that chat does, and return the messages in the answer."""

    async def action(platform: TelegramPlatform) -> list[Message]:
        aimed = platform.aim(parameters, chat, business)
        result = await platform.call(method, **aimed)
        return [*platform.messages(result, platform.target(aimed), platform.business(aimed))]

    return run(api, action)


def test_album_is_as_many_messages(api: StubBotApi) -> None:
    media = [{"type": "photo", "media": "f1", "caption": "Look"}, {"type": "photo", "media": "f2"}]
    found = called(api, "sendMediaGroup", media=media)
    assert [(message.id, message.chat.id, message.kind) for message in found] == [
        ("1", "42", "photo"),
        ("2", "42", "photo"),
    ]
    assert [message.text for message in found] == ["Look", ""]
    assert len({message.album for message in found} - {""}) == 1


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("forwardMessage", ["text"]),
        ("copyMessage", ["other"]),
        ("copyMessages", ["other", "other"]),
        ("forwardMessages", ["other", "other"]),
    ],
)
def test_copies_and_forwards_are_messages_where_they_went(
    api: StubBotApi, method: str, kinds: list[str]
) -> None:
    """Missing ones are skipped, so there may be fewer than were asked for."""
    first, second = send(api, 2)
    which: dict[str, Any] = {"message_id": first}
    if method.endswith("s"):
        which = {"message_ids": [first, second, 77]}
    for parameters, chat in (({}, "-1002233"), ({"chat_id": "@gardeners"}, "@gardeners")):
        found = called(api, method, chat="-1002233", from_chat_id=42, **which, **parameters)
        assert [message.kind for message in found] == kinds
        assert {(message.chat.id, message.chat.type) for message in found} <= {
            (chat, "supergroup"),
            (chat, "private"),  # what the stub says of every chat
        }
        there = int(chat) if chat.startswith("-") else chat
        assert {(there, int(message.id)) for message in found} <= set(api.sent)


def test_message_edited_by_the_bot_is_in_the_answer(api: StubBotApi) -> None:
    (number,) = send(api, 1)
    (message,) = called(api, "editMessageText", message_id=number, text="Better")
    assert (message.id, message.text) == (str(number), "Better")
    assert message.edited is not None
    assert message.date is not None
    assert message.edited - message.date == timedelta(seconds=60)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("getMe", {}),
        ("answerCallbackQuery", {"callback_query_id": "1", "text": "Thanks"}),
        ("editMessageText", {"inline_message_id": "i1", "text": "Better"}),
    ],
)
def test_answer_without_messages_has_none(
    api: StubBotApi, method: str, parameters: dict[str, Any]
) -> None:
    assert called(api, method, **parameters) == []


def test_answer_names_its_messages_for_a_business(api: StubBotApi) -> None:
    (message,) = called(api, "sendMessage", business="b1", text="Hi")
    assert api.calls[-1].parameters == {
        "chat_id": 42,
        "business_connection_id": "b1",
        "text": "Hi",
    }
    assert (message.chat.id, message.business) == ("42", "b1")
    # Copies cannot be made for one, so far; an answer that does not say so was asked to.
    platform = bot(api)
    silent = {"message_id": 8, "chat": {"id": 42}, "text": "Hi"}
    for answer in (silent, {"message_id": 8}):
        (message,) = platform.messages(answer, "42", "b1")
        assert (message.id, message.chat.id, message.business) == ("8", "42", "b1")
    (message,) = platform.messages(silent | {"business_connection_id": "b2"}, "42", "b1")
    assert message.business == "b2"


# Where a call goes


@pytest.mark.parametrize(
    ("parameters", "chat"),
    [
        ({}, ""),
        ({"chat_id": None}, ""),
        ({"chat_id": 42}, "42"),
        ({"chat_id": -1002233}, "-1002233"),
        ({"chat_id": "42"}, "42"),
        ({"chat_id": "@gardeners"}, "@gardeners"),
        ({"chat_id": True}, ""),
        ({"chat_id": [42]}, ""),
        ({"chat": "42", "user_id": 42, "from_chat_id": 42}, ""),
    ],
)
def test_target_is_the_chat_id(parameters: dict[str, Any], chat: str) -> None:
    assert TelegramPlatform("shop", OPTIONS).target(parameters) == chat


@pytest.mark.parametrize(
    ("parameters", "aimed"),
    [
        ({}, {"chat_id": 42, "business_connection_id": "b1"}),
        ({"chat_id": None}, {"chat_id": 42, "business_connection_id": "b1"}),
        (
            {"text": "Hi", "business_connection_id": "b2"},
            {"text": "Hi", "business_connection_id": "b2", "chat_id": 42},
        ),
        ({"user_id": 7}, {"user_id": 7, "chat_id": 42, "business_connection_id": "b1"}),
        # What says where it goes is let be.
        ({"chat_id": 43}, {"chat_id": 43}),
        ({"inline_message_id": "i1"}, {"inline_message_id": "i1"}),
        ({"gift_id": "g", "user_id": 7}, {"gift_id": "g", "user_id": 7}),
    ],
)
def test_call_that_names_no_chat_is_aimed_at_one(
    parameters: dict[str, Any], aimed: dict[str, Any]
) -> None:
    assert TelegramPlatform("shop", OPTIONS).aim(parameters, "42", "b1") == aimed


# Deleting


def delete(
    api: StubBotApi, ids: Iterable[Any], *, chat: str = "42", business: str = ""
) -> dict[str, Deletion]:
    """Delete messages as whoever clears a slice does, and return what became of each."""
    found: dict[str, Deletion] = {}

    async def collect(platform: TelegramPlatform) -> dict[str, Deletion]:
        doomed = [(str(id), None) for id in ids]
        async for known in clearing.delete(platform, chat, business, doomed):
            assert not found.keys() & known.keys()
            found.update(known)
        return found

    return run(api, collect)


def send(api: StubBotApi, count: int, **options: Any) -> list[int]:
    found = [api._do_sendMessage(42, "Hi", **options) for _ in range(count)]
    return [message["message_id"] for message in found]


def test_hundred_messages_go_in_one_call(api: StubBotApi) -> None:
    ids = send(api, 100)
    assert set(delete(api, ids).values()) == {Deletion.DELETED}
    assert api.methods() == ["deleteMessages"]
    assert api.calls[0].parameters == {"chat_id": 42, "message_ids": ids}
    assert api.sent == {}


def test_more_than_a_batch_is_refused() -> None:
    platform = TelegramPlatform("shop", OPTIONS)
    with pytest.raises(ValueError, match="100"):
        asyncio.run(platform.delete_messages("42", [str(id) for id in range(1, 102)]))


def test_messages_can_be_deleted_for_two_days() -> None:
    assert TelegramPlatform.deletable_for == timedelta(days=2)


def test_id_given_twice_is_asked_for_once(api: StubBotApi) -> None:
    ids = send(api, 3)
    outcome = delete(api, [*ids, 0, "", *ids[:2]])
    assert outcome == dict.fromkeys(map(str, ids), Deletion.DELETED) | {
        "0": Deletion.GONE,
        "": Deletion.GONE,
    }
    assert [call.parameters["message_ids"] for call in api.calls] == [ids]


def test_missing_ids_are_skipped_by_a_batch_and_gone_alone(api: StubBotApi) -> None:
    ids = send(api, 2)
    assert set(delete(api, [*ids, 77, 78]).values()) == {Deletion.DELETED}
    assert delete(api, [77]) == {"77": Deletion.GONE}


def test_ids_that_no_message_has_are_not_asked_for(api: StubBotApi) -> None:
    odd = ["", "0", "-1", "x", "1.5", "٣", "9" * 30]
    assert delete(api, odd) == dict.fromkeys(odd, Deletion.GONE)
    assert api.calls == []


def test_undeletable_messages_are_found_and_the_others_deleted(api: StubBotApi) -> None:
    """One refusal refuses the whole batch, and deletes nothing."""
    ids = send(api, 40)
    api.protected = {(42, ids[3]): NOT_ALLOWED, (42, ids[30]): TOO_OLD}
    outcome = delete(api, [*ids, 99])
    assert outcome[str(ids[3])] == Deletion.FORBIDDEN
    assert outcome[str(ids[30])] == Deletion.TOO_OLD
    others = {outcome[str(id)] for id in ids if id not in (ids[3], ids[30])}
    assert others == {Deletion.DELETED}
    assert set(api.sent) == {(42, ids[3]), (42, ids[30])}
    assert len(api.calls) < 25
    assert api.methods().count("deleteMessage") >= 2


def test_single_missing_id_found_by_halving_is_gone(api: StubBotApi) -> None:
    ids = send(api, 1)
    api.protected = {(42, ids[0]): NOT_ALLOWED}
    assert delete(api, [ids[0], 99]) == {str(ids[0]): Deletion.FORBIDDEN, "99": Deletion.GONE}


def test_raw_refusal_of_the_server_is_halved_too(api: StubBotApi) -> None:
    ids = send(api, 2)
    api.protected = {(42, ids[1]): "Bad Request: MESSAGE_DELETE_FORBIDDEN"}
    assert list(delete(api, ids).values()) == [Deletion.DELETED, Deletion.FORBIDDEN]


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (NOT_ALLOWED, Deletion.FORBIDDEN),
        ("Bad Request: not enough rights", Deletion.FORBIDDEN),
        (TOO_OLD, Deletion.TOO_OLD),
        ("Bad Request: message to delete not found", Deletion.GONE),
        ("Bad Request: MESSAGE_ID_INVALID", Deletion.GONE),
    ],
)
def test_reason_says_what_becomes_of_the_culprit_alone(
    api: StubBotApi, reason: str, outcome: Deletion
) -> None:
    for business in ("", "b1"):
        options = {"business_connection_id": business} if business else {}
        ids = send(api, 7, **options)
        api.protected = {(42, ids[2]): reason}
        found = list(delete(api, ids, business=business).values())
        assert found == [*[Deletion.DELETED] * 2, outcome, *[Deletion.DELETED] * 4]


def test_batch_of_which_nothing_may_be_deleted_has_an_outcome_for_each(api: StubBotApi) -> None:
    ids = send(api, 9)
    api.protected = {(42, id): TOO_OLD for id in ids}
    assert delete(api, ids) == dict.fromkeys(map(str, ids), Deletion.TOO_OLD)
    assert len(api.calls) == 17
    assert len(api.sent) == 9


def test_group_that_became_a_supergroup_keeps_its_old_messages(api: StubBotApi) -> None:
    description = "Bad Request: group chat was upgraded to a supergroup chat"
    api.plan("deleteMessages", refusal(400, description, migrate_to_chat_id=-100777))
    assert set(delete(api, [1, 2], chat="-77").values()) == {Deletion.FORBIDDEN}
    assert len(api.calls) == 1


def test_business_that_left_the_bot_keeps_its_messages(api: StubBotApi) -> None:
    """The bot has no way to them any more, but they are not gone."""
    assert set(delete(api, [1, 2], business="b1").values()) == {Deletion.FORBIDDEN}
    assert api.methods() == ["deleteBusinessMessages"]


def test_chat_that_shut_the_bot_out_forbids_every_deletion(api: StubBotApi) -> None:
    ids = send(api, 4)
    api.plan("deleteMessages", refusal(403, "Forbidden: bot was kicked"))
    assert set(delete(api, ids).values()) == {Deletion.FORBIDDEN}
    assert len(api.calls) == 1


def test_chat_that_is_gone_has_no_messages(api: StubBotApi) -> None:
    api.plan("deleteMessages", refusal(400, "Bad Request: chat not found"))
    assert set(delete(api, [1, 2]).values()) == {Deletion.GONE}


def test_refusal_for_another_reason_is_final(api: StubBotApi) -> None:
    api.plan("deleteMessages", refusal(400, "Bad Request: something new"), refusal(404, "No"))
    assert set(delete(api, [1, 2]).values()) == {Deletion.FAILED}
    assert set(delete(api, [1, 2]).values()) == {Deletion.FAILED}
    assert len(api.calls) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (refusal(429, "Too Many Requests: retry after 7", retry_after=7), RateLimited),
        (refusal(500, "Internal Server Error"), PlatformUnavailable),
        (Fault.RESET, PlatformUnavailable),
    ],
)
def test_failure_is_raised_while_nothing_is_known(
    api: StubBotApi, fault: Any, kind: type[PlatformError]
) -> None:
    ids = send(api, 4)
    api.plan("deleteMessages", fault)
    with pytest.raises(kind):
        delete(api, ids)
    # The refusal of a batch tells nothing about any one of its messages.
    api.protected = {(42, ids[0]): NOT_ALLOWED}
    api.plan("deleteMessages", None, fault)
    with pytest.raises(kind):
        delete(api, ids)


def test_what_became_of_messages_is_known_after_each_call(api: StubBotApi) -> None:
    """S76: a failure midway takes nothing back."""
    ids = send(api, 8)
    api.protected = {(42, ids[7]): NOT_ALLOWED}
    api.plan("deleteMessages", None, None, refusal(429, "Too Many Requests", retry_after=7))
    known: list[dict[str, Deletion]] = []

    async def collect(platform: TelegramPlatform) -> None:
        async for found in clearing.delete(platform, "42", "", [(str(id), None) for id in ids]):
            known.append(found)

    with pytest.raises(RateLimited):
        run(api, collect)
    assert known == [dict.fromkeys(map(str, ids[:4]), Deletion.DELETED)]
    again = list(delete(api, ids[4:]).values())
    assert again == [Deletion.DELETED] * 3 + [Deletion.FORBIDDEN]


def test_batch_with_an_undeletable_message_is_refused_as_a_whole(api: StubBotApi) -> None:
    ids = send(api, 2)
    api.protected = {(42, ids[1]): NOT_ALLOWED}
    asked = [str(id) for id in ids]
    with pytest.raises(BatchRefused):
        run(api, lambda platform: platform.delete_messages("42", asked))
    assert len(api.calls) == 1
    assert len(api.sent) == 2


def test_business_messages_are_deleted_by_their_own_method(api: StubBotApi) -> None:
    ids = send(api, 4, business_connection_id="b1")
    api.protected = {(42, ids[1]): NOT_ALLOWED}
    outcome = delete(api, ids, business="b1")
    assert [outcome[str(id)] for id in ids] == [
        Deletion.DELETED,
        Deletion.FORBIDDEN,
        Deletion.DELETED,
        Deletion.DELETED,
    ]
    assert set(api.methods()) == {"deleteBusinessMessages"}
    assert api.calls[0].parameters == {"business_connection_id": "b1", "message_ids": ids}


# The webhook, and polling


def test_webhook_asks_for_every_type_with_the_secret(api: StubBotApi) -> None:
    run(api, lambda platform: platform.set_webhook("https://bots.example/x/", max_connections=9))
    assert api.webhook == {
        "url": "https://bots.example/x/",
        "secret_token": SECRET,
        "allowed_updates": list(UPDATE_TYPES),
        "max_connections": 9,
    }
    assert {"chat_member", "message_reaction", "message_reaction_count"} < set(UPDATE_TYPES)
    info = run(api, lambda platform: platform.webhook_info())
    assert info["url"] == "https://bots.example/x/"


def test_webhook_is_deleted_with_what_waits_only_on_request(api: StubBotApi) -> None:
    api.updates = [{"update_id": 5}]
    run(api, lambda platform: platform.delete_webhook())
    assert api.updates == [{"update_id": 5}]
    run(api, lambda platform: platform.delete_webhook(drop_pending=True))
    assert api.updates == []


def test_polled_updates_can_be_parsed_and_are_forgotten(api: StubBotApi) -> None:
    api.updates = [
        {"update_id": 5, "brand_new": {}},
        {"update_id": 6, "message": {"message_id": 1, "chat": {"id": 42}, "text": "Hi"}},
    ]

    async def action(platform: TelegramPlatform) -> None:
        polled = await platform.poll(timeout=1)
        parsed = [update for item in polled for update in platform.parse(msgspec.json.encode(item))]
        assert [(update.id, update.text) for update in parsed] == [("6", "Hi")]
        assert await platform.poll(polled[-1]["update_id"] + 1, timeout=0) == []

    run(api, action)
    assert api.calls[0].parameters["allowed_updates"] == list(UPDATE_TYPES)


def test_polling_may_take_longer_than_other_calls(api: StubBotApi) -> None:
    api.plan("getUpdates", Fault.SILENCE)

    async def action(platform: TelegramPlatform) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(platform.poll(timeout=30), 0.6)

    run(api, action, timeout=0.2)


def test_polling_beside_a_webhook_is_a_conflict_that_may_pass(api: StubBotApi) -> None:
    run(api, lambda platform: platform.set_webhook("https://bots.example/x/"))
    with pytest.raises(PlatformError, match="webhook is active") as error:
        run(api, lambda platform: platform.poll(timeout=0))
    assert (error.value.code, error.value.permanent) == (409, False)
