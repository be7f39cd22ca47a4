"""System checks: what is wrong with the settings, before an update finds out.

Ids are never reused. Platforms have checks of their own, which are shown here too.

    E001  the settings of a bot           W001  SQLite that does not wait for its write lock
    E002  an unknown key                  W002  no URLconf has the webhooks
    E003  a number out of its range       W003  a store's cache that runs code when it is read
    E004  a bot's alias
    E005  the database
    E006  the address for webhooks
    E007  the settings of a store
    E008  the token for metrics
    E009  the cache of the rates
    E010  the rate of the API, in `botsessions.api`
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.urls import NoReverseMatch, reverse
from django.utils.connection import ConnectionDoesNotExist

from botsessions.bots import Bot, bots
from botsessions.conf import Settings, settings
from botsessions.stores.base import make_store

Configs = Sequence[AppConfig] | None

TAG: Final = "botsessions"
SEE: Final = "docs/settings.md has every setting."
#: The longest alias, as it stands in the database.
MAX_ALIAS: Final = 64
ALIAS: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*", re.ASCII)
#: What may stand behind "Bearer" (https://www.rfc-editor.org/rfc/rfc6750#section-2.1).
METRICS_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,}", re.ASCII)

#: The numbers among the settings: the least value, whether it must be whole, and its unit.
NUMBERS: Final[Mapping[str, tuple[float, bool, str]]] = {
    "ACK_AFTER": (0, False, "seconds"),
    "ATTEMPTS": (1, True, ""),
    "RETRY_DELAY": (0, False, "seconds"),
    "MAX_IN_FLIGHT": (1, True, "updates"),
    "HANDLER_THREADS": (1, True, "threads"),
    "LEASE": (0.1, False, "seconds"),
    "RENEW_EVERY": (0.1, False, "seconds"),
    "RECOVER_EVERY": (0.1, False, "seconds"),
    "SHUTDOWN_TIMEOUT": (0, False, "seconds"),
    "SWEEP_EVERY": (0.1, False, "seconds"),
    "DEADLINES_EVERY": (0.1, False, "seconds"),
    "DELETE_EVERY": (0.1, False, "seconds"),
    "ERASE_EVERY": (0.1, False, "seconds"),
    "PRUNE_EVERY": (0.1, False, "seconds"),
    "DELETE_ATTEMPTS": (1, True, ""),
    "RATE_WAIT": (0, False, "seconds"),
    "OLDEST_PENDING": (0, False, "seconds"),
    "MAX_BODY_BYTES": (1, True, "bytes"),
    "MAX_DATA_BYTES": (2, True, "bytes"),
}
#: The largest values, where a column or a promise has an end.
MOST: Final[Mapping[str, float]] = {"ATTEMPTS": 32767, "DELETE_ATTEMPTS": 32767}


@register(TAG)
def check_settings(app_configs: Configs, **kwargs: Any) -> Iterator[CheckMessage]:
    """Run every check of this module."""
    if not isinstance(getattr(django_settings, "BOTSESSIONS", {}), Mapping):
        yield Error("BOTSESSIONS is no dict.", hint=SEE, id="botsessions.E002")
        return
    yield from check_keys()
    yield from check_numbers()
    yield from check_database()
    yield from check_stores()
    yield from check_metrics()
    yield from check_rates()
    if not isinstance(settings.BOTS, Mapping):
        yield Error(
            'BOTSESSIONS["BOTS"] is no dict.',
            hint="It has each bot's settings under the bot's alias.",
            id="botsessions.E001",
        )
        return
    yield from check_aliases()
    yield from check_bots()
    yield from check_webhooks()


def check_bots() -> Iterator[CheckMessage]:
    """E001, E003: make each bot, and ask its platform what it thinks of its options."""
    for alias in settings.BOTS:
        configured = settings.BOTS[alias]
        if isinstance(configured, Mapping) and "ACK_AFTER" in configured:
            label = f"Bot '{alias}': ACK_AFTER"
            yield from _check_number("ACK_AFTER", label, configured["ACK_AFTER"])
        made = _make(alias)
        if isinstance(made, Bot):
            yield from made.platform.check()
        else:
            yield made


def check_keys() -> Iterator[CheckMessage]:
    """E002: find misspelt settings."""
    known = sorted(Settings.__annotations__)
    for key in getattr(django_settings, "BOTSESSIONS", {}):
        if key in known:
            continue
        nearest = get_close_matches(str(key).upper(), known, n=1)
        yield Error(
            f"BOTSESSIONS has no setting {key!r}.",
            hint=f"Did you mean {nearest[0]!r}?" if nearest else f"There are {', '.join(known)}.",
            id="botsessions.E002",
        )


def check_numbers() -> Iterator[CheckMessage]:
    """E003: hold the numbers against their ranges, and the renewal against the lease."""
    wrong = False
    for name in NUMBERS:
        for message in _check_number(name, f'BOTSESSIONS["{name}"]', getattr(settings, name)):
            wrong = True
            yield message
    if not wrong and settings.RENEW_EVERY >= settings.LEASE:
        yield Error(
            f'BOTSESSIONS["RENEW_EVERY"] is {settings.RENEW_EVERY!r}, and leases last '
            f"{settings.LEASE!r} s: they run out before they are renewed.",
            hint="Let RENEW_EVERY be a third of LEASE, so that a renewal may fail once.",
            id="botsessions.E003",
        )


def check_aliases() -> Iterator[CheckMessage]:
    """E004: an alias is a column of every table, and a part of an address."""
    for alias in settings.BOTS:
        if not isinstance(alias, str) or not ALIAS.fullmatch(alias) or len(alias) > MAX_ALIAS:
            yield Error(
                f"{alias!r} cannot be the alias of a bot.",
                hint=f"It has 1 to {MAX_ALIAS} of A-Z a-z 0-9 - _ . ~ and does not begin with a "
                "full stop: it stands in the address of the bot's webhook.",
                id="botsessions.E004",
            )


def check_database() -> Iterator[CheckMessage]:
    """E005, W001: the database is there, and waits for its lock where it is SQLite."""
    alias = settings.DATABASE
    try:
        connection = connections[alias]
    except (ConnectionDoesNotExist, TypeError):
        yield Error(
            f'BOTSESSIONS["DATABASE"] is {alias!r}, which is not in DATABASES.',
            hint=f"There is {', '.join(connections)}.",
            id="botsessions.E005",
        )
        return
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or "DEFERRED"
    if connection.vendor == "sqlite" and mode.upper() == "DEFERRED":
        yield Warning(
            f"The SQLite database '{alias}' begins its transactions without the write lock: "
            'updates that arrive at the same time fail with "database is locked".',
            hint=f'Set DATABASES["{alias}"]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE", '
            '"timeout": 20, "init_command": "PRAGMA journal_mode=WAL"}.',
            id="botsessions.W001",
        )


def check_stores() -> Iterator[CheckMessage]:
    """E007, W003: make each store, and ask it what it thinks of its options."""
    if not isinstance(settings.STORES, Mapping):
        yield Error(
            'BOTSESSIONS["STORES"] is no dict.',
            hint="It has each store's settings under the store's alias.",
            id="botsessions.E007",
        )
        return
    configured = settings.BOTS.values() if isinstance(settings.BOTS, Mapping) else ()
    used = [each.get("STORE", "default") for each in configured if isinstance(each, Mapping)]
    for alias, entry in settings.STORES.items():
        try:
            store = make_store(alias, entry)
        except ImproperlyConfigured as error:
            # A bot that uses it cannot be made, and says so in its E001.
            if alias not in used:
                yield Error(
                    str(error),
                    hint=f"Correct BOTSESSIONS['STORES'][{alias!r}], or remove it.",
                    id="botsessions.E007",
                )
        else:
            yield from store.check()


def check_webhooks() -> Iterator[CheckMessage]:
    """E006, W002: the address for webhooks is one, and leads to them."""
    address = settings.WEBHOOK_URL
    if address and not is_public_address(address):
        yield Error(
            'BOTSESSIONS["WEBHOOK_URL"] is no address for webhooks.',
            hint="It is where this project is reached, as https://bots.example.org.",
            id="botsessions.E006",
        )
    if not settings.BOTS or not getattr(django_settings, "ROOT_URLCONF", None):
        return
    try:
        reverse("botsessions:webhook", args=["bot"])
    except NoReverseMatch:
        yield Warning(
            "No URLconf includes botsessions.urls: no platform can deliver updates here.",
            hint='Add path("webhooks/", include("botsessions.urls")) to urls.py. If you poll for '
            'updates, silence this with SILENCED_SYSTEM_CHECKS = ["botsessions.W002"].',
            id="botsessions.W002",
        )


def check_metrics() -> Iterator[CheckMessage]:
    """E008: the token for metrics can stand in a header, and nobody guesses it."""
    token = settings.METRICS_TOKEN
    if token != "" and not (isinstance(token, str) and METRICS_TOKEN.fullmatch(token)):
        yield Error(
            'BOTSESSIONS["METRICS_TOKEN"] is no token for a header.',
            hint="It has 16 or more of A-Z a-z 0-9 - . _ ~ + / =, as of secrets.token_urlsafe().",
            id="botsessions.E008",
        )


def check_rates() -> Iterator[CheckMessage]:
    """E009: the cache whose Redis is to keep the rates is there."""
    if settings.RATE_CACHE not in django_settings.CACHES:
        yield Error(
            f'BOTSESSIONS["RATE_CACHE"] is {settings.RATE_CACHE!r}, which is not in CACHES.',
            hint=f"There is {', '.join(sorted(django_settings.CACHES))}. One that is none of "
            "django-redis leaves the rates to the database.",
            id="botsessions.E009",
        )


def is_public_address(url: object) -> bool:
    """Can a platform deliver below this address? It takes https and a host, and may have a path."""
    try:
        parts = urlsplit(str(url))
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and bool(parts.hostname)
        and port_is_sound
        and "@" not in parts.netloc
        and not parts.query
        and not parts.fragment
        and not re.search(r"[\s\x00-\x20\x7f]", str(url))
    )


def _make(alias: str) -> Bot | CheckMessage:
    """Return the bot, or what is wrong with its settings.

    What a project's own modules raise is told by its type and place alone: its text may quote a
    token.
    """
    try:
        return bots[alias]
    except ImproperlyConfigured as error:
        problem = str(error)
    except Exception as error:
        *_, frame = traceback.extract_tb(error.__traceback__)
        problem = (
            f"Bot '{alias}' cannot be made: {type(error).__name__} in {frame.filename}, "
            f"line {frame.lineno}."
        )
    return Error(
        problem,
        hint=f"Correct BOTSESSIONS['BOTS'][{alias!r}], or what it names.",
        id="botsessions.E001",
    )


def _check_number(name: str, label: str, value: object) -> Iterator[CheckMessage]:
    least, is_whole, unit = NUMBERS[name]
    most = MOST.get(name, math.inf)
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    # NaN is not between any two numbers, and infinity is never meant.
    if is_number and least <= value <= most and value != math.inf:  # type: ignore[operator]
        return
    kind = "a whole number" if is_whole else "a number"
    bounds = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
    yield Error(
        f"{label} is {value!r}.",
        hint=f"It is {kind}{f' of {unit}' if unit else ''}, {bounds}.",
        id="botsessions.E003",
    )
