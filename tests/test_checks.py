"""The system checks: each finds its mistake, says what to do, and quotes no secret."""

import math
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, run_checks
from django.db.utils import ConnectionHandler
from django.test import override_settings

from botsessions import Router, checks
from botsessions.checks import NUMBERS, is_public_address
from botsessions.conf import Settings
from tests.kit import LOCAL, configured

TELEGRAM = "botsessions.platforms.telegram.TelegramPlatform"
TOKEN = "123456:token-that-nobody-may-see"

router = Router()
#: A URLconf without webhooks.
urlpatterns: list[Any] = []


def found(**changes: Any) -> list[CheckMessage]:
    with override_settings(BOTSESSIONS=configured(router) | changes):
        return run_checks(tags=[checks.TAG])


def found_in(bot: object, alias: str = "shop") -> list[CheckMessage]:
    return found(BOTS={alias: bot})


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id).removeprefix("botsessions.") for message in messages]


def test_sound_settings_are_not_complained_about() -> None:
    assert found() == []
    assert found(BOTS={}) == []
    with override_settings():
        del django_settings.BOTSESSIONS
        assert run_checks(tags=[checks.TAG]) == []


# E001: bots


@pytest.mark.parametrize(
    ("bot", "words"),
    [
        ({"ROUTER": router}, "PLATFORM"),
        ({"PLATFORM": "no.such.Platform", "ROUTER": router}, "no.such.Platform"),
        ({"PLATFORM": "botsessions.Router", "ROUTER": router}, "no subclass"),
        ({"PLATFORM": LOCAL, "ROUTER": router}, "secret"),
        ({"PLATFORM": LOCAL, "OPTIONS": {"secret": "s"}}, "ROUTER"),
        ({"PLATFORM": LOCAL, "ROUTER": LOCAL, "OPTIONS": {"secret": "s"}}, "Router"),
        ({"PLATFROM": LOCAL}, "PLATFROM"),
        ({"PLATFORM": LOCAL, "ROUTER": router, "OPTIONS": {"secret": "s"}, "KEY": "x"}, "KEY"),
        ({"PLATFORM": LOCAL, "ROUTER": router, "OPTIONS": {"secret": "s"}, "STORE": "x"}, "STORE"),
        (None, "TypeError"),
        ({"PLATFORM": LOCAL, "ROUTER": router, "OPTIONS": 7}, "AttributeError"),
    ],
)
def test_bot_with_wrong_settings_is_one_error_that_names_it(bot: object, words: str) -> None:
    [message] = found_in(bot)
    assert message.id == "botsessions.E001"
    assert "shop" in message.msg
    assert words in message.msg
    assert "shop" in (message.hint or "")


def test_one_wrong_bot_does_not_hide_another() -> None:
    messages = found(BOTS={"one": {}, "two": {}, **configured(router)["BOTS"]})
    assert ids(messages) == ["E001", "E001"]
    assert "one" in messages[0].msg
    assert "two" in messages[1].msg


def test_wrong_option_is_told_without_the_token() -> None:
    options = {"token": TOKEN, "secret": "not a secret: blanks"}
    [message] = found_in({"PLATFORM": TELEGRAM, "ROUTER": router, "OPTIONS": options})
    assert message.id == "botsessions.E001"
    options = {"token": f"{TOKEN} with blanks", "secret": "s" * 20}
    [wrong] = found_in({"PLATFORM": TELEGRAM, "ROUTER": router, "OPTIONS": options})
    for each in (message, wrong):
        assert TOKEN not in str(each)
        assert "blanks" not in str(each)


def test_router_module_that_fails_is_told_by_its_place_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bots_that_fail.py").write_text(f"\nraise ValueError('{TOKEN}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    [message] = found_in(
        {"PLATFORM": LOCAL, "ROUTER": "bots_that_fail.router", "OPTIONS": {"secret": "s"}}
    )
    assert "ValueError" in message.msg
    assert "bots_that_fail.py, line 2" in message.msg
    assert TOKEN not in str(message)


def test_platform_has_its_say() -> None:
    options = {"token": TOKEN, "secret": "short"}
    messages = found_in({"PLATFORM": TELEGRAM, "ROUTER": router, "OPTIONS": options})
    assert ids(messages) == ["W010"]


def test_bots_that_are_no_dict() -> None:
    assert ids(found(BOTS=["shop"])) == ["E001"]


# E002: keys


@pytest.mark.parametrize(
    ("key", "hint"),
    [("ACK_AFTR", "ACK_AFTER"), ("lease", "LEASE"), ("COLOUR", "There are"), (7, "There are")],
)
def test_unknown_setting_is_told_with_the_nearest(key: Any, hint: str) -> None:
    with override_settings(BOTSESSIONS={key: 1}):
        [message] = run_checks(tags=[checks.TAG])
    assert message.id == "botsessions.E002"
    assert repr(key) in message.msg
    assert hint in (message.hint or "")


@pytest.mark.parametrize("value", [None, [], "BOTS"])
def test_settings_that_are_no_dict(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "BOTSESSIONS", value)
    assert ids(run_checks(tags=[checks.TAG])) == ["E002"]


# E003: numbers


def test_every_number_has_a_range() -> None:
    numbers = {name for name, type in Settings.__annotations__.items() if type in ("int", "float")}
    assert numbers == set(NUMBERS)
    with override_settings(BOTSESSIONS={}):
        assert run_checks(tags=[checks.TAG]) == []


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, None, "1", True, math.nan, math.inf, -math.inf])
def test_number_out_of_range_is_told(name: str, value: object) -> None:
    [message] = found(**{name: value})
    assert message.id == "botsessions.E003"
    assert name in message.msg
    assert repr(value) in message.msg
    assert "at least" in (message.hint or "") or "to" in (message.hint or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATTEMPTS", 0), ("ATTEMPTS", 2.5), ("ATTEMPTS", 32768), ("MAX_IN_FLIGHT", 0), ("LEASE", 0),
        ("HANDLER_THREADS", 0), ("MAX_BODY_BYTES", 1.5), ("RENEW_EVERY", 0),
    ],
)  # fmt: skip
def test_number_that_makes_no_sense_is_told(name: str, value: object) -> None:
    assert ids(found(**{name: value})) == ["E003"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("ACK_AFTER", 0), ("RETRY_DELAY", 0), ("SHUTDOWN_TIMEOUT", 0.5), ("MAX_DATA_BYTES", 10**400)],
)
def test_number_at_the_edge_is_fine(name: str, value: object) -> None:
    assert found(**{name: value}) == []


@pytest.mark.parametrize(("lease", "renew"), [(10, 10), (5, 10)])
def test_lease_outlives_its_renewal(lease: float, renew: float) -> None:
    [message] = found(LEASE=lease, RENEW_EVERY=renew)
    assert message.id == "botsessions.E003"
    assert "RENEW_EVERY" in message.msg


def test_number_of_a_bot_is_looked_at_too() -> None:
    bot = {"PLATFORM": LOCAL, "ROUTER": router, "OPTIONS": {"secret": "s"}, "ACK_AFTER": -1}
    [message] = found_in(bot)
    assert message.id == "botsessions.E003"
    assert "shop" in message.msg


# E004: aliases


@pytest.mark.parametrize("alias", ["", "a b", "a/b", "ключ", "a\n", ".", "..", "a" * 65, 7, "a%"])
def test_alias_that_no_address_can_hold_is_told(alias: Any) -> None:
    bot = configured(router)["BOTS"]["demo"]
    assert "E004" in ids(found_in(bot, alias))


@pytest.mark.parametrize("alias", ["a", "shop-2", "Shop_2.b~", "a" * 64])
def test_alias_is_fine(alias: str) -> None:
    assert found_in(configured(router)["BOTS"]["demo"], alias) == []


# E005, W001: the database


@pytest.mark.parametrize("alias", ["elsewhere", None, 7])
def test_unknown_database_is_told(alias: object) -> None:
    [message] = found(DATABASE=alias)
    assert message.id == "botsessions.E005"
    assert "default" in (message.hint or "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["W001"]),
        ({"transaction_mode": None}, ["W001"]),
        ({"transaction_mode": "deferred"}, ["W001"]),
        ({"transaction_mode": "IMMEDIATE"}, []),
        ({"transaction_mode": "exclusive"}, []),
    ],
)
def test_sqlite_that_does_not_wait_for_its_lock_is_told(
    options: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "x.sqlite3", "OPTIONS": options}
    monkeypatch.setattr(checks, "connections", ConnectionHandler({"default": database}))
    messages = found()
    assert ids(messages) == expected
    assert all("database is locked" in message.msg for message in messages)


# E006, W002: webhooks


@pytest.mark.parametrize(
    "url",
    [
        "https://bots.example.org", "https://bots.example.org/", "https://bots.example.org:8443",
        "https://example.org/bots", "https://[2001:db8::1]",
    ],
)  # fmt: skip
def test_public_address(url: str) -> None:
    assert is_public_address(url)
    assert found(WEBHOOK_URL=url) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org", "example.org", "https://", "https:///path", "ftp://example.org",
        "https://user:secret@example.org", "https://example.org?a=1", "https://example.org#a",
        "https://example.org:port", "https://exa mple.org", "https://[::1", "https://:443", 7,
    ],
)  # fmt: skip
def test_no_public_address(url: Any) -> None:
    assert not is_public_address(url)
    messages = found(WEBHOOK_URL=url)
    assert ids(messages) == ["E006"]
    assert "secret" not in str(messages)


def test_missing_webhooks_are_told_where_there_are_bots() -> None:
    with override_settings(ROOT_URLCONF="tests.test_checks"):
        assert ids(found()) == ["W002"]
        assert found(BOTS={}) == []


# E007, W003: stores


DATABASE_STORE = "botsessions.stores.DatabaseStore"
CACHE_STORE = "botsessions.stores.CacheStore"


def found_in_stores(**stores: Any) -> list[CheckMessage]:
    return found(STORES={"default": {"BACKEND": DATABASE_STORE}} | stores)


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ({}, "None"),
        ({"BACKEND": "no.such.Store"}, "no.such.Store"),
        ({"BACKEND": "botsessions.Router"}, "no subclass"),
        ({"BACKEND": Router}, "no subclass"),
        (None, "no dict"),
        (CACHE_STORE, "no dict"),
        ({"BACKEND": DATABASE_STORE, "OPTIONS": {"CACHE": "default"}}, "CACHE"),
        ({"BACKEND": DATABASE_STORE, "OPTIONS": None}, "no dict"),
        ({"BACKEND": CACHE_STORE, "OPTIONS": {"CACHE": "elsewhere"}}, "elsewhere"),
        ({"BACKEND": CACHE_STORE, "OPTIONS": {"cache": "default"}}, "cache"),
        ({"BACKEND": CACHE_STORE, "OPTIONS": 7}, "no dict"),
        ({"BACKEND": "botsessions.stores.FileStore", "OPTIONS": {"DIRECTORY": 7}}, "DIRECTORY"),
        ({"BACKEND": "botsessions.stores.FileStore", "OPTIONS": 7}, "no dict"),
        ({"BACKEND": "botsessions.stores.CachedDatabaseStore", "OPTIONS": {"TTL": -1}}, "TTL"),
        ({"BACKEND": "botsessions.stores.CachedDatabaseStore", "OPTIONS": 7}, "no dict"),
    ],
)
def test_store_with_wrong_settings_is_one_error_that_names_it(store: object, words: str) -> None:
    [message] = found_in_stores(fast=store)
    assert message.id == "botsessions.E007"
    assert "fast" in message.msg
    assert words in message.msg
    assert message.hint


def test_misspelt_option_is_told_with_the_nearest() -> None:
    [message] = found_in_stores(fast={"BACKEND": CACHE_STORE, "OPTIONS": {"PREFXI": "a"}})
    assert "'PREFIX'" in (message.hint or "")
    [message] = found_in_stores(default={"BACKEND": DATABASE_STORE, "OPTIONS": {"COLOUR": "red"}})
    assert "no options" in (message.hint or "")


def test_broken_store_that_a_bot_uses_is_told_once() -> None:
    messages = found(
        BOTS={"demo": configured(router)["BOTS"]["demo"]},
        STORES={"default": {"BACKEND": "no.such.Store"}},
    )
    assert ids(messages) == ["E001"]
    assert "no.such.Store" in messages[0].msg


def test_sound_stores_are_not_complained_about(tmp_path: Path) -> None:
    files = {"BACKEND": "botsessions.stores.FileStore", "OPTIONS": {"DIRECTORY": tmp_path}}
    cached = {"BACKEND": "botsessions.stores.CachedDatabaseStore", "OPTIONS": {"PREFIX": "a"}}
    assert found_in_stores(fast={"BACKEND": CACHE_STORE}, files=files, cached=cached) == []


def test_cache_that_runs_code_when_it_is_read_is_told_where_a_store_uses_it() -> None:
    unsafe = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1"}
    safe = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    with override_settings(CACHES={"default": safe, "pages": unsafe}):
        assert found_in_stores(fast={"BACKEND": CACHE_STORE}) == []
        for name in ("CacheStore", "CachedDatabaseStore"):
            store = {"BACKEND": f"botsessions.stores.{name}", "OPTIONS": {"CACHE": "pages"}}
            [message] = found_in_stores(fast=store)
            assert message.id == "botsessions.W003"
            assert "fast" in message.msg
            assert "pages" in message.msg
            assert "JSONSerializer" in (message.hint or "")


@pytest.mark.parametrize("stores", [None, ["default"], "default"])
def test_stores_that_are_no_dict(stores: object) -> None:
    assert ids(found(BOTS={}, STORES=stores)) == ["E007"]
