"""The pacer of a bot: who goes when, in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from botsessions import Router
from botsessions.bots import Bot, bots
from botsessions.checks import check_rates
from botsessions.exceptions import Forbidden, RateLimited, Unavailable
from botsessions.models import RateWindow
from botsessions.pacing import line, shared
from botsessions.pacing.database import DatabaseWindows
from botsessions.pacing.line import LAG
from botsessions.pacing.pacer import Pacer
from botsessions.platforms import Rate
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.telegram import TelegramPlatform
from tests.kit import configured, running
from tests.pacing.kit import Noting, limited, most_in, platform, redis_cache

pytestmark = pytest.mark.django_db

quiet = Router()
#: What a moment is for an event loop that has other things to do too.
SOON = 5.0


def paced(rates: dict[str, Any] | None = None, **changes: Any) -> override_settings:
    return running(quiet, platform=Noting, rates=rates or {"chat": (1, 0.2)}, **changes)


def pacer() -> Pacer:
    return bots["demo"].pacer


async def send(chat: str, *messages: str) -> list[Any]:
    """Send to a chat, all at once."""
    return await asyncio.gather(*(bots["demo"].send(chat, text)._alone() for text in messages))


@pytest.fixture(params=["database", pytest.param("redis", marks=pytest.mark.redis)])
def rate_cache(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the rates are kept: the setting RATE_CACHE."""
    if request.param == "database":
        yield "default"
        return
    with redis_cache(request.getfixturevalue("redis")):
        yield "rates"


# Rates


async def test_no_chat_no_group_and_no_bot_is_above_its_rate(rate_cache: str) -> None:
    """P28."""
    rates = {"chat": (2, 0.2), "group": (3, 0.5), "bot": (5, 0.2)}
    with paced(rates, RATE_CACHE=rate_cache):
        chats = ["ann", "ben", "-team"]
        await asyncio.gather(*(send(chat, *"abcde") for chat in chats))
        for chat in chats:
            assert platform().texts(chat) == list("abcde")
            assert most_in(platform().times(chat), 0.2) <= 2
        assert most_in(platform().times("-team"), 0.5) <= 3
        assert most_in(platform().times(), 0.2) <= 5


async def test_an_album_counts_every_message_of_it() -> None:
    """P28."""
    with paced({"chat": (4, 0.3)}):
        began = time.monotonic()
        await bots["demo"].call("album", chat="ann", texts=["a", "b", "c"])
        await bots["demo"].call("album", chat="ann", texts=["d", "e"])
        await send("ann", "f", "g")
        assert platform().texts() == list("abcdefg")
        assert most_in(platform().times(), 0.3) <= 4
        assert time.monotonic() - began < 0.3 + LAG + SOON


async def test_what_is_no_message_waits_for_nothing() -> None:
    with paced({"chat": (1, 60), "bot": (1, 60)}):
        await send("ann", "a")
        began = time.monotonic()
        for _ in range(5):
            await bots["demo"].call("typing", chat="ann")
        assert time.monotonic() - began < SOON


async def test_a_chat_waits_for_nobody_but_itself() -> None:
    with paced({"chat": (1, 60)}):
        await send("ann", "a")
        began = time.monotonic()
        held = asyncio.create_task(send("ann", "b"))
        for number in range(10):
            await send(f"{number}", "hello")
        assert time.monotonic() - began < SOON
        held.cancel()


def test_a_thousand_chats_that_wait_are_one_question_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P28."""
    acquire, asked = DatabaseWindows.acquire, []

    def counting(windows: DatabaseWindows, requests: Any, lag: float) -> Any:
        asked.append(len(requests))
        return acquire(windows, requests, lag)

    async def work() -> float:
        sends = [asyncio.create_task(send(f"{number}", "hi")) for number in range(1_000)]
        await asyncio.sleep(0.1)
        used = time.process_time()
        await asyncio.sleep(1)
        used = time.process_time() - used
        for each in sends:
            each.cancel()
        await asyncio.gather(*sends, return_exceptions=True)
        return used

    monkeypatch.setattr(DatabaseWindows, "acquire", counting)
    with paced({"chat": (1, 1), "bot": (20, 0.4)}):
        used = async_to_sync(work)()
        went = len(platform().went)
        assert 20 <= went <= 200
        assert most_in(platform().times(), 0.4) <= 20
    assert len(asked) <= 20, asked
    assert max(asked) <= 20
    assert used < 1.0


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="Django sees the statements of SQLite")
def test_without_rates_nobody_is_asked_anything() -> None:
    """P28: a platform that has none is as fast as before."""

    async def work() -> None:
        await send("ann", *"abc")
        await bots["demo"].call("typing", chat="ann")

    with running(quiet, platform=Noting), CaptureQueriesContext(connection) as queries:
        async_to_sync(work)()
        assert platform().texts() == list("abc")
    assert not queries.captured_queries


# Order


async def test_what_is_sent_to_a_chat_goes_in_order(rate_cache: str) -> None:
    """P28."""
    with paced({"chat": (3, 0.1)}, RATE_CACHE=rate_cache):
        await asyncio.gather(send("ann", *"abcdef"), send("ben", *"abcdef"))
        assert platform().texts("ann") == platform().texts("ben") == list("abcdef")


async def test_chats_take_turns() -> None:
    """P28: a chat with much to say does not hold up the others."""
    with paced({"bot": (2, 0.1)}):
        many = asyncio.create_task(send("ann", *"abcdef"))
        await asyncio.sleep(0)
        await send("ben", "hi")
        assert len(platform().texts("ann")) <= 4
        await many
        assert platform().texts("ann") == list("abcdef")


async def test_a_send_that_is_cancelled_leaves_its_queue() -> None:
    """P28: wherever it stands."""
    with paced({"chat": (1, 0.3)}):
        await send("ann", "a")
        waiting = [asyncio.create_task(send("ann", text)) for text in "bcdef"]
        await asyncio.sleep(0.05)
        for each in (waiting[0], waiting[2], waiting[4]):
            each.cancel()
        await asyncio.wait(waiting)
        assert platform().texts() == list("ace")
        assert not pacer()._lines


async def test_a_call_that_fails_lets_the_next_one_go() -> None:
    with paced({"chat": (1, 0.1)}):
        platform().refuse("ann", Forbidden("blocked"))
        results = await asyncio.gather(
            *(bots["demo"].send("ann", text)._alone() for text in "ab"), return_exceptions=True
        )
        assert [isinstance(each, Forbidden) for each in results] == [True, False]
        assert platform().texts() == ["b"]


# A 429


@pytest.mark.parametrize("rates", [{"chat": (5, 0.1)}, None])
async def test_a_429_pauses_that_chat_only_and_order_is_kept(
    rates: dict[str, Any] | None, rate_cache: str
) -> None:
    """P28: with rates and without."""
    with running(quiet, platform=Noting, rates=rates, RATE_CACHE=rate_cache):
        platform().refuse("ann", limited(1.5))
        began = time.monotonic()
        held = asyncio.create_task(send("ann", "a"))
        await asyncio.sleep(0.05)
        later = asyncio.create_task(send("ann", *"bcd"))
        await send("ben", "hi")
        await asyncio.gather(held, later)
        assert platform().texts() == ["hi", *"abcd"]
        assert min(platform().times("ann")) - began >= 1.5


async def test_a_429_is_met_by_other_processes_too(rate_cache: str) -> None:
    """P28: a pacer of another process asks the same windows."""
    with paced({"chat": (5, 0.1)}, RATE_CACHE=rate_cache):
        platform().refuse("ann", limited(1.5))
        other, began = Pacer(bots["demo"]), time.monotonic()
        held = asyncio.create_task(send("ann", "a"))
        await asyncio.sleep(0.3)

        async def call() -> float:
            return time.monotonic() - began

        assert await other.run("ben", 1, call) < 1.4
        assert await other.run("ann", 0, call) > 1.4
        await held


async def test_a_429_pauses_what_costs_nothing_too() -> None:
    with running(quiet, platform=Noting):
        platform().refuse("ann", limited(0.3))
        began = time.monotonic()
        held = asyncio.create_task(send("ann", "a"))
        await asyncio.sleep(0.02)
        await bots["demo"].call("typing", chat="ann")
        assert time.monotonic() - began >= 0.3
        await held


async def test_a_429_of_what_names_no_chat_pauses_that_call_alone() -> None:
    with running(quiet, platform=Noting):
        platform().refuse("album", limited(1.0))
        answer = pacer().run("", 0, lambda: platform().call("album", chat="ann", texts=["a"]))
        held = asyncio.create_task(answer)
        await asyncio.sleep(0)
        await send("ann", "hi")
        await held
        assert platform().texts() == ["hi", "a"]


async def test_a_429_that_names_no_pause_makes_it_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botsessions.pacing.pacer.FIRST_PAUSE", 0.1)
    with running(quiet, platform=Noting):
        platform().refuse("ann", *(limited() for _ in range(3)))
        began = time.monotonic()
        await send("ann", "a")
        assert 0.7 <= time.monotonic() - began < 0.7 + SOON
        assert platform().texts() == ["a"]


async def test_a_pause_lasts_from_one_event_loop_to_the_next() -> None:
    """Without a server each request may have its own."""
    with running(quiet, platform=Noting):
        platform().refuse("ann", limited(0.3))
        began = time.monotonic()

        def elsewhere(text: str) -> None:
            with pytest.raises(RateLimited):
                asyncio.run(pacer().run("ann", 1, lambda: platform().send("ann", text), wait=0))

        await sync_to_async(elsewhere, thread_sensitive=False)("a")
        await sync_to_async(elsewhere, thread_sensitive=False)("b")
        await send("ann", "c")
        assert time.monotonic() - began >= 0.3
        assert platform().texts() == ["c"]


# For how long


async def test_what_would_wait_for_too_long_says_so_at_once() -> None:
    """P28: and when to come again."""
    with paced({"chat": (1, 60)}, RATE_WAIT=5):
        await send("ann", "a")
        began = time.monotonic()
        results = await asyncio.gather(
            *(bots["demo"].send("ann", text)._alone() for text in "bcd"), return_exceptions=True
        )
        assert time.monotonic() - began < SOON
        for error in results:
            assert isinstance(error, RateLimited)
            assert 59 < (error.retry_after or 0) < 61
        assert platform().texts() == ["a"]
        assert not pacer()._lines


async def test_a_429_for_longer_than_that_is_the_callers() -> None:
    with paced({"chat": (1, 0.1)}, RATE_WAIT=5):
        platform().refuse("ann", limited(3600))
        held = asyncio.create_task(send("ann", "a"))
        later = asyncio.create_task(send("ann", "b"))
        for each in (held, later):
            with pytest.raises(RateLimited) as raised:
                await each
            assert 3590 < (raised.value.retry_after or 0) <= 3600.1
        await send("ben", "hi")
        assert platform().texts() == ["hi"]


async def test_who_stands_behind_others_waits_no_longer_either() -> None:
    with paced({"chat": (1, 2.0)}, RATE_WAIT=3.5):
        began = time.monotonic()
        results = await asyncio.gather(
            *(bots["demo"].send("ann", text)._alone() for text in "abcd"), return_exceptions=True
        )
        assert time.monotonic() - began < 3.5 + SOON
        assert platform().texts() == ["a", "b"]
        for error in results[2:]:
            assert isinstance(error, RateLimited)
            assert (error.retry_after or 0) >= 0.5


async def test_a_call_may_wait_for_as_long_as_it_says() -> None:
    with paced({"chat": (1, 0.3)}, RATE_WAIT=0):

        async def call() -> str:
            return "done"

        assert await pacer().run("ann", 1, call) == "done"
        with pytest.raises(RateLimited):
            await pacer().run("ann", 1, call)
        assert await pacer().run("ann", 1, call, wait=1) == "done"


async def test_a_grant_that_comes_late_is_asked_for_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P28: it was booked for a moment that has passed, and others count on that."""
    acquire, lags = DatabaseWindows.acquire, []

    def slow(windows: DatabaseWindows, requests: Any, lag: float) -> Any:
        lags.append(lag)
        time.sleep(0.15 if len(lags) == 1 else 0)
        return acquire(windows, requests, lag)

    monkeypatch.setattr(DatabaseWindows, "acquire", slow)
    with paced({"chat": (2, 60)}):
        await send("ann", "a")
        assert lags == [LAG, 2 * LAG]
        await send("ann", "b")  # the room that came too late was given back
        assert platform().texts() == ["a", "b"]
        with pytest.raises(RateLimited):
            await send("ann", "c")


# Where the rates are kept


@pytest.mark.usefixtures("caplog")
async def test_while_redis_is_away_the_database_serves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P28: no send fails because of it, and it is said once."""
    monkeypatch.setattr(shared, "shared", None)
    monkeypatch.setattr(line, "shared", fresh := shared.SharedWindows())
    monkeypatch.setattr("botsessions.pacing.pacer.shared", fresh)
    monkeypatch.setattr(shared, "COMEBACK", 0.0)
    with redis_cache("redis://127.0.0.1:1/0", clear=False), paced(RATE_CACHE="rates"):
        await send("ann", "a", "b")
        assert platform().texts() == ["a", "b"]
        assert most_in(platform().times(), 0.2) == 1
        assert await RateWindow.objects.acount() == 1
        said = [each.getMessage() for each in caplog.records if "meanwhile" in each.getMessage()]
        assert len(said) == 1


@pytest.mark.redis
async def test_redis_serves_again_when_it_is_back(
    redis: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "shared", fresh := shared.SharedWindows())
    monkeypatch.setattr(shared, "COMEBACK", 0.0)
    with redis_cache("redis://127.0.0.1:1/0", clear=False), paced(RATE_CACHE="rates"):
        await send("ann", "a")
    assert await RateWindow.objects.acount() == 1
    with redis_cache(redis), paced(RATE_CACHE="rates"):
        await send("ben", "b")
        assert await RateWindow.objects.acount() == 1
    assert "Redis keeps the rates of sends again." in caplog.messages
    assert fresh._hosts.keys() == {"rates"}


async def test_a_redis_that_does_not_answer_holds_up_no_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P28."""
    monkeypatch.setattr(line, "shared", shared.SharedWindows())
    monkeypatch.setattr(shared, "ANSWERS_WITHIN", 1.0)
    taken: list[asyncio.StreamWriter] = []

    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    with redis_cache(f"redis://127.0.0.1:{port}/0", clear=False), paced(RATE_CACHE="rates"):
        await send("ann", "a")
        first = time.monotonic() - began
        await send("ben", "b")
        assert 1 <= first < SOON
        assert ticks > 20
        assert time.monotonic() - began - first < SOON
        assert platform().texts() == ["a", "b"]
    ticking.cancel()
    for each in taken:
        each.transport.abort()
    server.close()


async def test_while_the_database_is_away_sends_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    acquire, errors = DatabaseWindows.acquire, [Unavailable("The database is away.")]

    def away(windows: DatabaseWindows, requests: Any, lag: float) -> Any:
        if errors:
            raise errors[-1] if len(errors) > 1 else errors.pop()
        return acquire(windows, requests, lag)

    monkeypatch.setattr(DatabaseWindows, "acquire", away)
    monkeypatch.setattr(line, "COMEBACK", 0.05)
    monkeypatch.setattr(line, "ASKED_WITHIN", 0.2)
    with paced():
        await send("ann", "a")
        errors += [Unavailable("gone"), Unavailable("gone")]
        for cost in (1, 0):
            with pytest.raises(Unavailable, match="gone"):
                await pacer().run("ben", cost, lambda: platform().send("ben", "b"), wait=0)
        assert platform().texts() == ["a"]


async def test_what_else_goes_wrong_is_raised_where_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with paced(), monkeypatch.context() as patch:
        patch.setattr(DatabaseWindows, "acquire", broken)
        with pytest.raises(ZeroDivisionError):
            await send("ann", "a")
        patch.undo()
        await send("ann", "b")
        assert platform().texts() == ["b"]


async def test_odd_chats_have_windows_too() -> None:
    with paced():
        for chat in ("x" * 500, "a b", "ä", "nul\0", "%~", "\ud800"):
            await pacer().run(chat, 1, lambda: asyncio.sleep(0))
        assert await RateWindow.objects.acount() == 6


# The setting


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"chat": (2, 1.5)}, {"chat": Rate(2, 1.5), "bot": Rate(30, 1.0)}),
        ({"chat": None}, {"bot": Rate(30, 1.0)}),
        ({"chat": None, "bot": None}, {}),
        (
            {"group": [20, 60]},
            {"chat": Rate(1, 1.0), "group": Rate(20, 60.0), "bot": Rate(30, 1.0)},
        ),
        ({"bot": Rate(5, 1)}, {"chat": Rate(1, 1.0), "bot": Rate(5, 1.0)}),
    ],
)
def test_a_bots_rates_take_the_place_of_its_platforms(
    rates: Any, expected: dict[str, Rate]
) -> None:
    class Limited(LocalPlatform):
        rates = {"chat": Rate(1, 1.0), "bot": Rate(30, 1.0)}

    bot = configured(quiet, platform=Limited)["BOTS"]["demo"]
    assert Bot("demo", bot).rates == Limited.rates
    assert Bot("demo", bot | {"RATES": rates}).rates == expected


@pytest.mark.parametrize(
    "rates",
    [
        7,
        True,
        (),
        [("chat", (1, 1))],
        {"user": (1, 1)},
        {"chat": 1},
        {"chat": (1,)},
        {"chat": (1, 1, 1)},
        {"chat": "11"},
        {"chat": (0, 1)},
        {"chat": (-1, 1)},
        {"chat": (1.5, 1)},
        {"chat": (True, 1)},
        {"chat": (1, True)},
        {"chat": (1, 0)},
        {"chat": (1, float("nan"))},
        {"chat": (1, float("inf"))},
        {"chat": (1_001, 1)},
        {"chat": ("1", 1)},
    ],
)
def test_wrong_rates_are_named(rates: Any) -> None:
    bot = configured(quiet)["BOTS"]["demo"]
    with pytest.raises(ImproperlyConfigured, match="Bot 'demo': RATES") as raised:
        Bot("demo", bot | {"RATES": rates})
    wrong = next(iter(rates.values())) if isinstance(rates, dict) else rates
    assert repr(wrong) in str(raised.value)


def test_rates_of_telegram() -> None:
    telegram = TelegramPlatform("demo", {"token": "1:a", "secret": "s" * 16})
    assert telegram.rates == {"chat": Rate(1, 1), "group": Rate(20, 60), "bot": Rate(30, 1)}
    assert [telegram.is_group(chat) for chat in ("7", "-7", "@news", "")] == [
        False, True, True, False,
    ]  # fmt: skip
    expected: list[tuple[str, dict[str, Any], int]] = [
        ("sendMessage", {}, 1),
        ("SENDMESSAGE", {}, 1),
        ("sendPhoto", {}, 1),
        ("sendMediaGroup", {"media": [{}, {}, {}]}, 3),
        ("sendMediaGroup", {"media": "[]"}, 1),
        ("sendMediaGroup", {}, 1),
        ("copyMessage", {}, 1),
        ("copyMessages", {"message_ids": [1, 2]}, 2),
        ("forwardMessages", {"message_ids": (1, 2)}, 2),
        ("editMessageText", {}, 1),
        ("sendChatAction", {}, 0),
        ("sendMessageDraft", {}, 0),
        ("editForumTopic", {}, 0),
        ("deleteMessages", {"message_ids": [1, 2]}, 0),
        ("answerCallbackQuery", {}, 0),
        ("getMe", {}, 0),
    ]
    for method, parameters, messages in expected:
        assert telegram.messages_in(method, parameters) == messages, method


def test_a_cache_that_is_not_there_is_found_by_the_checks() -> None:
    with running(quiet, RATE_CACHE="nowhere"):
        [message] = check_rates()
        assert message.id == "botsessions.E009"
        assert "'nowhere'" in message.msg
        assert "default" in (message.hint or "")
    with running(quiet):
        assert not list(check_rates())


async def test_a_pause_that_nobody_can_be_told_of_still_holds_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(DatabaseWindows, "pause", away)
    with paced():
        platform().refuse("ann", limited(0.3))
        began = time.monotonic()
        await send("ann", "a")
        assert time.monotonic() - began >= 0.3
        await pacer().pause("ben", 0.01)
        assert "Other processes do not know that a chat is paused: gone" in caplog.messages
        await asyncio.sleep(0.02)
        await pacer().pause("eve", 0.01)
        assert pacer()._pauses.keys() == {"eve"}


def test_sends_that_wait_end_with_their_event_loop() -> None:
    with paced({"chat": (1, 30)}):

        async def work() -> list[asyncio.Task[Any]]:
            await send("ann", "a")
            waiting = [asyncio.create_task(send("ann", "b")) for _ in range(3)]
            await asyncio.sleep(0.05)
            return waiting

        waiting = async_to_sync(work)()
        assert all(each.cancelled() for each in waiting)
        assert platform().texts() == ["a"]
        assert not pacer()._lines
