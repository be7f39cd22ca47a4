"""Faults of a platform are what the handler meets."""

from collections.abc import Callable

import msgspec
import pytest

from botsessions.exceptions import (
    Forbidden,
    InvalidRequest,
    NotFound,
    PlatformError,
    PlatformUnavailable,
    RateLimited,
)
from botsessions.models import BotUpdate
from botsessions.platforms.telegram_api import BotApi, _Answer
from botsessions.testing import BotClient, Call
from botsessions.testing.faults import Status, platform_error

pytestmark = pytest.mark.django_db


async def test_a_handler_meets_the_typed_error(client: BotClient) -> None:
    client.platform.fail_next(429, retry_after=3)
    assert await client.say("/patient") == ["Later: 3 s."]
    assert await client.say("/patient") == ["First."]
    assert [call.method for call in client.platform.calls] == ["send", "send", "send"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (429, RateLimited),
        (500, PlatformUnavailable),
        ("timeout", PlatformUnavailable),
        ("unreachable", PlatformUnavailable),
    ],
)
async def test_what_the_handler_does_not_catch_is_raised(
    client: BotClient, status: Status, kind: type[PlatformError]
) -> None:
    client.platform.fail_next(status)
    with pytest.raises(kind) as raised:
        await client.say("hi")
    error = raised.value
    assert error.method == "send"
    parked = (await BotUpdate.objects.aget()).status == "parked"
    assert parked == error.permanent == (kind not in (RateLimited, PlatformUnavailable))
    if isinstance(error, PlatformUnavailable):
        assert error.sent == (status != "unreachable")
    assert client.replies == []


async def test_the_update_is_tried_again_when_the_platform_wants(
    bot_client: Callable[..., BotClient],
) -> None:
    client = bot_client("demo", raise_exceptions=False)
    client.platform.fail_next(429, retry_after=30)
    assert await client.say("hi") == []
    assert await client.advance(seconds=29) == []
    assert await client.advance(seconds=1) == ["hi 1"]


async def test_several_calls_fail_or_those_of_a_method(
    bot_client: Callable[..., BotClient],
) -> None:
    client = bot_client("demo", raise_exceptions=False)
    client.platform.fail_next(500, times=2)
    assert await client.say("hi") == []
    assert await client.advance(seconds=1) == []
    assert await client.advance(seconds=2) == ["hi 1"]
    client.platform.fail_next(403, method="album", description="no albums here")
    assert await client.say("hi") == ["hi 2"]
    assert await client.say("/album") == []
    assert (await BotUpdate.objects.aget(status="parked")).error.endswith(
        "Forbidden: album: no albums here\n"
    )
    assert await client.say("/album") == ["one", "two"]
    client.platform.fail_next(403, method="delete_messages")
    await client.say("/clear")
    assert client.platform.calls[-1].method == "delete_messages"
    assert len(client.replies) == 4


async def test_failed_calls_are_noted(client: BotClient) -> None:
    client.platform.fail_next("timeout")
    with pytest.raises(PlatformUnavailable, match="send: no answer came in time"):
        await client.say("hi")
    reply_to = client.history()[0].id
    sent = {"chat": "ann", "text": "hi 1", "reply_to": reply_to}
    assert client.platform.calls == [Call("send", sent)]


@pytest.mark.parametrize("status", [*range(400, 430), 451, 499, 500, 502, 503, 504])
@pytest.mark.parametrize("description", ["", "Bad Request: chat not found"])
def test_errors_are_those_of_telegram(status: int, description: str) -> None:
    text = description or f"error {status}"
    answer = _Answer(False, None, status, text, {"retry_after": 3})
    real = BotApi("", "https://api.telegram.org", 1)._failure("send", status, None, answer)
    ours = platform_error(status, method="send", retry_after=3, description=description)
    assert type(ours) is type(real)
    assert vars(ours) == vars(real)
    assert str(ours) == str(real)
    assert msgspec.json.encode(ours.parameters) == b'{"retry_after":3}'


def test_other_statuses_are_no_errors(client: BotClient) -> None:
    with pytest.raises(ValueError, match="not 200"):
        client.platform.fail_next(200)
