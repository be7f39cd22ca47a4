"""The bots of this project: what their settings say, and the verbs that need no session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from botsessions import injection
from botsessions.conf import settings
from botsessions.context import Action, current
from botsessions.keys import STRATEGIES, KeyStrategy, SessionKey
from botsessions.platforms.base import Platform
from botsessions.routing import Router
from botsessions.stores.base import Store
from botsessions.updates import Update

OPTIONS = frozenset({"PLATFORM", "ROUTER", "OPTIONS", "KEY", "STORE", "ACK_AFTER", "STORE_TEXT"})


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
        self.key_of: KeyStrategy = self._key_strategy(configured.get("KEY", "chat_user"))
        self.store = self._store(configured.get("STORE", "default"))
        self.ack_after = float(
            configured.get("ACK_AFTER", settings.ACK_AFTER if platform.redelivers else 0)
        )
        self.store_text = bool(configured.get("STORE_TEXT", True))

    def __repr__(self) -> str:
        return f"<Bot {self.alias}>"

    @property
    def has_sessions(self) -> bool:
        """Does the bot keep sessions at all? Not with `STORE: None`."""
        return self.store is not None

    def session_keys(self, update: Update) -> tuple[list[Any], SessionKey | None, list[SessionKey]]:
        """Return the routes that may handle an update, its key, and the sessions they declare."""
        base = self.key_of(update)
        candidates = self.router.candidates(update)
        if base is None or self.store is None:
            return candidates, base, []
        keys: list[SessionKey] = []
        for route in candidates:
            for qualifier in route.qualifiers:
                key = base.qualified(qualifier)
                if key not in keys:
                    keys.append(key)
        return candidates, base, keys

    def send(self, chat: str, text: str, **options: Any) -> Action[Any]:
        """Send a message that is in no session's slice, and return the platform's answer.

        Within a handler it is journaled like a session's send: not repeated when the update is
        handled again.
        """
        return Action(
            current.get(),
            lambda: self.platform.send(chat, text, **options),
            lambda result: self.platform.messages(result, chat),
        )

    def call(self, method: str, **parameters: Any) -> Action[Any]:
        """Call a method of the platform's API and return its result, unchanged."""
        return Action(
            current.get(), lambda: self.platform.call(method, **parameters), self.platform.messages
        )

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
            return STRATEGIES[key]
        if isinstance(key, str) and "." not in key:
            raise ImproperlyConfigured(
                f"Bot '{self.alias}': KEY {key!r} is none of {', '.join(STRATEGIES)} "
                "and no dotted path."
            )
        strategy = self._import("KEY", key)
        if not callable(strategy):
            raise ImproperlyConfigured(f"Bot '{self.alias}': KEY {key!r} cannot be called.")
        return partial(self._checked_key, cast(KeyStrategy, strategy))

    def _checked_key(self, strategy: KeyStrategy, update: Update) -> SessionKey | None:
        """Ask a strategy of the project's own. Raises `ValueError` for what is no key."""
        key = strategy(update)
        if key is None:
            return None
        if not isinstance(key, SessionKey) or key.bot != self.alias:
            raise ValueError(
                f"KEY of bot '{self.alias}' returned {key!r}; it is to return "
                f"SessionKey({self.alias!r}, ...) or None."
            )
        key.check()
        return key

    def _store(self, alias: str | None) -> Store | None:
        if alias is None:
            return None
        stores = settings.STORES
        if alias not in stores:
            raise ImproperlyConfigured(
                f"Bot '{self.alias}': STORE {alias!r} is not in BOTSESSIONS['STORES'] "
                f"({', '.join(sorted(stores))})."
            )
        configured = stores[alias]
        backend = self._import(f"STORES['{alias}']['BACKEND']", configured.get("BACKEND"))
        if not (isinstance(backend, type) and issubclass(backend, Store)):
            raise ImproperlyConfigured(
                f"STORES['{alias}']['BACKEND'] {configured.get('BACKEND')!r} is no subclass of "
                "botsessions.stores.Store."
            )
        return backend(alias, configured.get("OPTIONS", {}))


class Bots(Mapping[str, Bot]):
    """The bots by alias, each made when it is first asked for. An unknown alias is a `KeyError`."""

    def __init__(self) -> None:
        self._made: dict[str, Bot] = {}

    def __getitem__(self, alias: str) -> Bot:
        bot = self._made.get(alias)
        if bot is None:
            bot = self._made[alias] = Bot(alias, settings.BOTS[alias])
        return bot

    def __iter__(self) -> Iterator[str]:
        return iter(settings.BOTS)

    def __len__(self) -> int:
        return len(settings.BOTS)

    async def close(self) -> None:
        """Close the platforms of the bots that were made."""
        for bot in self._made.values():
            await bot.platform.close()

    def forget(self, **changed: Any) -> None:
        """Make the bots anew when they are next asked for: their settings have changed."""
        if changed.get("setting") in (None, "BOTSESSIONS"):
            self._made.clear()


bots = Bots()
setting_changed.connect(bots.forget)
injection.provided[Bot] = lambda context: context.bot
