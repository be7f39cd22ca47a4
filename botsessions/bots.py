"""The bots of this project: what their settings say, and the verbs that need no session."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from botsessions import clock, injection
from botsessions.conf import settings
from botsessions.context import Action, running
from botsessions.data import POLICIES, QUARANTINE
from botsessions.exceptions import UnknownBot
from botsessions.keys import (
    STRATEGIES,
    WITHIN_CHAT,
    KeyStrategy,
    SessionKey,
    SlowKeyStrategy,
    chat,
)
from botsessions.marks import Scope
from botsessions.pacing import Pacer
from botsessions.platforms.base import Platform, Rate
from botsessions.retention import terms
from botsessions.routing import Router
from botsessions.sending import paced
from botsessions.session import Session, speaking
from botsessions.sessions import SessionManager
from botsessions.stores.base import Store, make_store
from botsessions.updates import Update

log = logging.getLogger("botsessions.bots")

OPTIONS = frozenset(
    {
        "PLATFORM",
        "ROUTER",
        "OPTIONS",
        "KEY",
        "STORE",
        "ACK_AFTER",
        "STORE_TEXT",
        "EXPIRES",
        "ON_MISFIT",
        "RETENTION",
        "RATES",
    }
)
#: What a bot may have rates for.
RATES = ("chat", "group", "bot")
#: The most messages that a rate may count, for each is remembered.
MOST_IN_WINDOW = 1000


class Bot:
    """One bot: its platform, its router, and how it keeps sessions.

    Raises `ImproperlyConfigured`, naming bot and setting, where `BOTSESSIONS["BOTS"][alias]` is
    wrong.
    """

    def __init__(self, alias: str, configured: Mapping[str, Any]) -> None:
        self.alias = alias
        unknown = sorted(set(configured) - OPTIONS)
        if unknown:
            raise ImproperlyConfigured(
                f"Bot '{alias}': unknown setting {', '.join(unknown)}; "
                f"there are {', '.join(sorted(OPTIONS))}."
            )
        platform = self._import("PLATFORM", configured.get("PLATFORM"))
        if not (isinstance(platform, type) and issubclass(platform, Platform)):
            raise ImproperlyConfigured(
                f"Bot '{alias}': PLATFORM {configured.get('PLATFORM')!r} is no subclass of "
                "botsessions.platforms.Platform."
            )
        self.platform: Platform = platform(alias, configured.get("OPTIONS", {}))
        self.router = cast(Router, self._import("ROUTER", configured.get("ROUTER")))
        if not isinstance(self.router, Router):
            raise ImproperlyConfigured(
                f"Bot '{alias}': ROUTER {configured.get('ROUTER')!r} is no botsessions.Router."
            )
        #: The named strategy of its keys, "" for a function of the project.
        self.strategy = ""
        #: Is that function asynchronous? Then it is `key_later`.
        self.finds_keys_slowly = False
        self.key_of: KeyStrategy = self._key_strategy(configured.get("KEY", "chat_user"))
        self.store = self._store(configured.get("STORE", "default"))
        self.ack_after = float(
            configured.get("ACK_AFTER", settings.ACK_AFTER if platform.redelivers else 0)
        )
        self.store_text = bool(configured.get("STORE_TEXT", True))
        self.expires = self._expires(configured.get("EXPIRES"))
        self.on_misfit = configured.get("ON_MISFIT", QUARANTINE)
        if self.on_misfit not in POLICIES and not callable(self.on_misfit):
            raise ImproperlyConfigured(
                f"Bot '{alias}': ON_MISFIT {self.on_misfit!r} is none of {', '.join(POLICIES)} "
                "and no function."
            )
        #: How many messages it may send, by "chat", "group" and "bot".
        self.rates: Mapping[str, Rate] = self._rates(configured)
        #: Lets its calls go when these allow it.
        self.pacer = Pacer(self)
        #: How long it keeps what, by the names of `retention.TERMS`.
        self.retention = terms(alias, configured.get("RETENTION", {}))
        self.sessions = SessionManager(self)

    def __repr__(self) -> str:
        return f"<Bot {self.alias}>"

    @property
    def has_sessions(self) -> bool:
        """Does the bot keep sessions at all? Not with `STORE: None`."""
        return self.store is not None

    def session_keys(
        self, update: Update, base: SessionKey | None
    ) -> tuple[list[Any], list[SessionKey]]:
        """Return the routes that may handle an update of that key, and the sessions they name."""
        candidates = self.router.candidates(update)
        if self.store is None:
            return candidates, []
        keys: list[SessionKey] = []
        for route in candidates:
            for key in self.keys_in(route.fragments, update, base):
                if key not in keys:
                    keys.append(key)
        return candidates, keys

    def keys_in(
        self, fragments: Iterable[tuple[Scope, str]], update: Update, base: SessionKey | None
    ) -> list[SessionKey]:
        """Return the sessions of an update of that key, by their scopes and qualifiers."""
        keys = []
        for scope, qualifier in fragments:
            within = self.key_in(scope, update, base)
            if within is not None:
                keys.append(within.qualified(qualifier or within.qualifier))
        return keys

    def key_in(self, scope: Scope, update: Update, base: SessionKey | None) -> SessionKey | None:
        """Return the key of an update in a scope; `base` is that of the bot's own strategy."""
        return base if not scope.name else STRATEGIES[scope.name](update)

    def unit_of(self, update: Update, base: SessionKey | None) -> SessionKey | None:
        """Return the key whose mailbox an update enters: what is worked on by one at a time.

        It is the update's own, or the chat's where a session of everybody in it is declared, or
        sessions of several scopes lie within a chat. What lies outside is protected by its version.
        """
        return (chat(update) if self._mixes_scopes else None) or base

    @cached_property
    def _mixes_scopes(self) -> bool:
        """Is the chat the unit of a bot whose own keys are others?"""
        within = {self.strategy, *(scope.name for scope in self.router.scopes)} & WITHIN_CHAT
        several = self.strategy in WITHIN_CHAT and len(within) > 1
        return several or (self.strategy != "chat" and "chat" in within)

    def unit_of_key(self, key: SessionKey) -> SessionKey:
        """Return the same for a key without an update."""
        return SessionKey(key.bot, key.chat) if self._mixes_scopes and key.chat else key

    def matches(self, matcher: str, update: Update) -> bool:
        """Does a session with that matcher track the message of an update?

        A matcher that raises, or that is not there any more, matches nothing.
        """
        if not matcher:
            return True
        function = self.router.find_matcher(matcher)
        if function is None:
            log.warning("Bot '%s' has no matcher %r (any more).", self.alias, matcher)
            return False
        try:
            return bool(function(update))
        except Exception:
            log.exception("Matcher %r of bot '%s' failed.", matcher, self.alias)
            return False

    def expiry(self) -> datetime | None:
        """Return when a session expires that is written now, None for never."""
        return None if self.expires is None else clock.now() + self.expires

    def send(self, chat: str | None, text: str, **options: Any) -> Action[Any]:
        """Send a message and return the platform's answer.

        It is in no session's slice, but for within `with session:`, where it is in that session's;
        there `chat` may be None, for the session's chat. Within a handler it is journaled like a
        session's send: not repeated when the update is handled again.
        """
        session = self._speaking()
        if session is not None:
            return session.send(text, to=chat, **options)
        if chat is None:
            raise TypeError("bot.send() needs a chat, but for within `with session:`.")
        context, platform = running(), self.platform
        return Action(
            context,
            paced(self, context, chat, 1, lambda: platform.send(chat, text, **options)),
            lambda result: platform.messages(result, chat),
            name="send",
        )

    def call(self, method: str, **parameters: Any) -> Action[Any]:
        """Call a method of the platform's API and return its result, unchanged.

        Within `with session:` the messages that it returns are in the session's slice.
        """
        session = self._speaking()
        if session is not None:
            return session.call(method, **parameters)
        context, platform = running(), self.platform
        chat, cost = platform.target(parameters), platform.messages_in(method, parameters)
        calling = paced(self, context, chat, cost, lambda: platform.call(method, **parameters))
        return Action(context, calling, name=method)

    def _speaking(self) -> Session[Any] | None:
        """Return the session of this bot in whose `with` block the caller is."""
        blocks = speaking.get()
        return blocks[-1] if blocks and blocks[-1].speaks_for(self) else None

    def _import(self, name: str, path: object) -> object:
        """Return what a dotted path names; what is no string is taken as it is."""
        if not isinstance(path, str):
            if path is None:
                raise ImproperlyConfigured(f"Bot '{self.alias}' needs {name}: a dotted path.")
            return path
        try:
            return import_string(path)
        except ImportError as error:
            raise ImproperlyConfigured(f"Bot '{self.alias}': {name} {path!r}: {error}") from error

    def _key_strategy(self, key: object) -> KeyStrategy:
        if isinstance(key, str) and key in STRATEGIES:
            self.strategy = key
            return STRATEGIES[key]
        if isinstance(key, str) and "." not in key:
            raise ImproperlyConfigured(
                f"Bot '{self.alias}': KEY {key!r} is none of {', '.join(STRATEGIES)} "
                "and no dotted path."
            )
        strategy = self._import("KEY", key)
        if not callable(strategy):
            raise ImproperlyConfigured(f"Bot '{self.alias}': KEY {key!r} cannot be called.")
        if injection.is_asynchronous(strategy):
            self.finds_keys_slowly = True
            self.key_later: SlowKeyStrategy = partial(
                self._slow_key, cast(SlowKeyStrategy, strategy)
            )
        return partial(self._key, cast(KeyStrategy, strategy))

    def _key(self, strategy: KeyStrategy, update: Update) -> SessionKey | None:
        """Ask a strategy of the project's own. Raises `ValueError` for what is no key."""
        return self._checked_key(strategy(update))

    async def _slow_key(self, strategy: SlowKeyStrategy, update: Update) -> SessionKey | None:
        """Ask an asynchronous one."""
        return self._checked_key(await strategy(update))

    def _checked_key(self, key: SessionKey | None) -> SessionKey | None:
        if key is None:
            return None
        if not isinstance(key, SessionKey) or key.bot != self.alias:
            raise ValueError(
                f"KEY of bot '{self.alias}' returned {key!r}; it is to return "
                f"SessionKey({self.alias!r}, ...) or None."
            )
        key.check()
        return key

    def _expires(self, after: object) -> timedelta | None:
        if isinstance(after, int | float) and not isinstance(after, bool):
            after = timedelta(seconds=after)
        if after is None or (isinstance(after, timedelta) and after > timedelta(0)):
            return after
        raise ImproperlyConfigured(
            f"Bot '{self.alias}': EXPIRES {after!r} is no timedelta, number of seconds or None, "
            "or not above zero."
        )

    def _rates(self, configured: Mapping[str, Any]) -> Mapping[str, Rate]:
        """Return the platform's rates with those of the bot in their place."""
        changes = configured.get("RATES", ...)
        if changes is ...:
            return self.platform.rates
        if not changes and (changes is None or isinstance(changes, Mapping)):
            return {}
        if not isinstance(changes, Mapping) or not set(changes) <= set(RATES):
            raise ImproperlyConfigured(
                f"Bot '{self.alias}': RATES {changes!r} is no dict with the keys "
                f"{', '.join(RATES)}, and not None."
            )
        rates = dict(self.platform.rates)
        for kind, rate in changes.items():
            rates.pop(kind, None)
            if rate is not None:
                rates[kind] = self._rate(kind, rate)
        return rates

    def _rate(self, kind: str, rate: object) -> Rate:
        match (rate.count, rate.seconds) if isinstance(rate, Rate) else rate:
            case (int(count), int() | float() as seconds):
                is_whole = not isinstance(count, bool) and not isinstance(seconds, bool)
                if is_whole and 0 < count <= MOST_IN_WINDOW and 0 < seconds < math.inf:
                    return Rate(count, float(seconds))
        raise ImproperlyConfigured(
            f"Bot '{self.alias}': RATES['{kind}'] {rate!r} is no (count, seconds) of a whole "
            f"number from 1 to {MOST_IN_WINDOW} and a number above 0, and not None."
        )

    def _store(self, alias: str | Store | None) -> Store | None:
        if alias is None or isinstance(alias, Store):
            return alias
        stores = settings.STORES
        if alias not in stores:
            raise ImproperlyConfigured(
                f"Bot '{self.alias}': STORE {alias!r} is not in BOTSESSIONS['STORES'] "
                f"({', '.join(sorted(stores))})."
            )
        return bots.store(alias)


class Bots(Mapping[str, Bot]):
    """The bots by alias, each made when it is first asked for. An unknown alias is a `KeyError`."""

    def __init__(self) -> None:
        self._made: dict[str, Bot] = {}
        self._stores: dict[str, Store] = {}

    def __getitem__(self, alias: str) -> Bot:
        bot = self._made.get(alias)
        if bot is None:
            bot = self._made[alias] = Bot(alias, settings.BOTS[alias])
        return bot

    def __contains__(self, alias: object) -> bool:
        return alias in settings.BOTS  # one that cannot be made is there all the same

    def __iter__(self) -> Iterator[str]:
        return iter(settings.BOTS)

    def __len__(self) -> int:
        return len(settings.BOTS)

    def store(self, alias: str) -> Store:
        """Return the store of that alias, which all bots share; made when first asked for."""
        store = self._stores.get(alias)
        if store is None:
            store = self._stores[alias] = make_store(alias, settings.STORES[alias])
        return store

    async def close(self) -> None:
        """Close the platforms of the bots that were made."""
        for bot in self._made.values():
            await bot.platform.close()

    def forget(self, **changed: Any) -> None:
        """Make the bots anew when they are next asked for: their settings have changed."""
        if changed.get("setting") in (None, "BOTSESSIONS"):
            self._made.clear()
            self._stores.clear()


bots = Bots()


def find_bot(alias: str) -> Bot:
    """Return the bot of that alias. Raises `UnknownBot`."""
    if alias not in bots:
        raise UnknownBot(f"There is no bot '{alias}'.")
    return bots[alias]


setting_changed.connect(bots.forget)
injection.provided[Bot] = lambda context: context.bot
