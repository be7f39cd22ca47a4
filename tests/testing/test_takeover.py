"""What a client changes in its process, and that nothing of it is left."""

import asyncio
import gc
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core.signals import setting_changed
from django.test import override_settings

from botsessions import clock
from botsessions.bots import bots
from botsessions.exceptions import PlatformUnavailable, UnknownBot
from botsessions.models import BotUpdate
from botsessions.platforms.local import LocalPlatform
from botsessions.testing import BotClient, ScriptedPlatform
from botsessions.testing.takeover import Takeover
from tests.testing.bots import configured

pytestmark = pytest.mark.django_db


def receivers() -> int:
    return len([each for each in setting_changed.receivers if each[1]() is not None])


def test_closing_puts_everything_back() -> None:
    now, real, listening = clock.now, bots["other"], receivers()
    handlers = list(logging.getLogger("botsessions.engine").handlers)
    with BotClient("other") as client:
        assert bots["other"] is client.bot is not real
        assert isinstance(client.platform, ScriptedPlatform)
        assert clock.now is not now
        client.say("hi")
    assert bots["other"] is real
    assert clock.now is now
    assert receivers() == listening
    assert logging.getLogger("botsessions.engine").handlers == handlers
    assert not Takeover._open
    assert not Takeover._before
    client.close()  # does nothing more
    assert client.replies == ["HI"]
    with pytest.raises(RuntimeError, match="is closed"):
        client.say("hi")


def test_a_bot_that_nobody_had_asked_for_is_made_anew() -> None:
    BotClient("other").close()
    assert "other" not in bots._made
    assert isinstance(bots["other"].platform, LocalPlatform)


async def test_asynchronous_code_closes_it_too() -> None:
    now = clock.now
    async with BotClient("other") as client:
        assert await client.say("hi") == ["HI"]
    assert clock.now is now
    assert "other" not in bots._made


def test_a_forgotten_client_goes_with_its_test() -> None:
    now, real = clock.now, bots["other"]

    def careless() -> None:
        client = BotClient("other")
        client.say("hi")
        with pytest.raises(LookupError):
            client.press("nothing")

    careless()
    gc.collect()
    assert bots["other"] is real
    assert clock.now is now


def test_a_client_ends_with_the_settings_that_it_was_made_under() -> None:
    now = clock.now
    with configured(key="chat"):
        client = BotClient("demo")
    assert clock.now is now
    assert "demo" not in bots._made
    with pytest.raises(RuntimeError, match="is closed"):
        client.say("hi")
    with BotClient("demo") as new:
        client.close()
        assert bots["demo"] is new.bot


def test_settings_may_change_within_its_life() -> None:
    with BotClient("demo") as client:
        client.say("hi", chat="room")
        with configured(key="chat"):
            assert bots["demo"] is client.bot
            assert client.say("hi", chat="room", user="ben") == ["hi 1"]
            assert client.say("hi", chat="room", user="ann") == ["hi 2"]
        assert bots["demo"] is client.bot
        assert client.say("hi", chat="room") == ["hi 2"]
        assert len(client.history("room")) == 8
    assert "demo" not in bots._made


def test_a_bot_may_be_gone_from_the_settings_for_a_while() -> None:
    with BotClient("demo") as client:
        client.say("hi")
        with override_settings(BOTSESSIONS={"BOTS": {}}), pytest.raises(UnknownBot):
            client.say("hi")
        with override_settings(DEBUG=True):
            assert client.say("hi") == ["hi 2"]
    assert "demo" not in bots._made


def test_the_last_of_several_clients_of_a_bot_has_its_place() -> None:
    real, now = bots["other"], clock.now
    first, second = BotClient("other"), BotClient("other")
    assert bots["other"] is second.bot
    first.close()
    assert bots["other"] is second.bot
    third = BotClient("other")
    third.close()
    assert bots["other"] is second.bot
    assert clock.now is not now
    second.close()
    assert bots["other"] is real
    assert clock.now is now


def test_a_clock_that_somebody_else_has_set_is_gone_on_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: moment)
    stopped = clock.now
    with BotClient("demo") as client:
        assert client.now == moment
        client.advance(hours=1)
        assert clock.now() == moment + timedelta(hours=1)
    assert clock.now is stopped


async def test_a_verb_that_is_not_awaited_is_noticed() -> None:
    async with BotClient("demo") as client:
        with pytest.warns(RuntimeWarning, match="was never awaited"):
            client.say("hi")
        assert not await BotUpdate.objects.aexists()


def test_acknowledgement_is_that_of_the_real_platform() -> None:
    with BotClient("demo") as demo, BotClient("other") as other:
        assert demo.bot.ack_after == 1
        assert other.bot.ack_after == 0
    with configured(ack_after=7), BotClient("demo") as client:
        assert client.bot.ack_after == 7


async def test_nothing_goes_over_a_network(
    bot_client: Callable[..., BotClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PlatformUnavailable("no network here")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    assert await bot_client("demo").say("hi") == ["hi 1"]
