"""What a client changes in its process, and how that is put back."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.testing.clock import virtual
from botsessions.testing.platform import ScriptedPlatform


class Takeover:
    """A bot of the project on a platform of ours, in the place of the real one, until `end`.

    Settings that change meanwhile make the bot anew, on the same platform. When those under which
    it began are changed back, the takeover has ended: the bot that it took the place of is gone.
    """

    #: By alias the takeovers that have not ended, the last one in place.
    _open: dict[str, list[Takeover]] = {}
    #: By alias the bot that was there before the first of them, None where none was made yet.
    _before: dict[str, Bot | None] = {}

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.is_over = False
        self._depth = 0
        self.bot = self._make()
        platform = self.bot.platform
        assert isinstance(platform, ScriptedPlatform)  # noqa: S101 - as `_make` says
        self.platform = platform
        if not self._open.setdefault(alias, []):
            self._before[alias] = self._made.get(alias)
        self._open[alias].append(self)
        self._made[alias] = self.bot
        virtual.start()
        setting_changed.connect(self._changed)  # which keeps no takeover alive

    def end(self) -> None:
        """Put the bot and the time of day back, unless that was done before."""
        if self.is_over:
            return
        self.is_over = True
        setting_changed.disconnect(self._changed)
        virtual.stop()
        others = self._open[self.alias]
        others.remove(self)
        if self._made.get(self.alias) is self.bot:
            bot = others[-1].bot if others else self._before[self.alias]
            if bot is None:
                del self._made[self.alias]
            else:
                self._made[self.alias] = bot
        if not others:
            del self._open[self.alias], self._before[self.alias]

    @property
    def _made(self) -> dict[str, Bot]:
        return bots._made

    def _make(self) -> Bot:
        """Return the bot as the settings describe it, but for its platform."""
        configured = settings.BOTS.get(self.alias)
        if not isinstance(configured, Mapping):
            raise ImproperlyConfigured(
                f"There is no bot '{self.alias}' in BOTSESSIONS['BOTS']; "
                f"there are {', '.join(sorted(settings.BOTS)) or 'none'}."
            )
        changes: dict[str, Any] = {
            "PLATFORM": ScriptedPlatform,
            "OPTIONS": {"secret": token_hex(8)},
            # Its default is that of the real platform, whose options may be wrong here.
            "ACK_AFTER": settings.ACK_AFTER if self._redelivers(configured) else 0,
        }
        if "ACK_AFTER" in configured:
            del changes["ACK_AFTER"]
        return Bot(self.alias, {**configured, **changes})

    def _redelivers(self, configured: Mapping[str, Any]) -> bool:
        platform = configured.get("PLATFORM")
        if isinstance(platform, str):
            try:
                platform = import_string(platform)
            except ImportError as error:
                raise ImproperlyConfigured(
                    f"Bot '{self.alias}': PLATFORM {platform!r}: {error}"
                ) from error
        return bool(getattr(platform, "redelivers", True))

    def _changed(self, *, setting: str, enter: bool, **_: Any) -> None:
        """Follow the settings; the registry has forgotten its bots before this is called."""
        if setting != "BOTSESSIONS":
            return
        self._before[self.alias] = None
        self._depth += 1 if enter else -1
        if self._depth < 0:
            self.end()
        elif self.alias in settings.BOTS:
            self.bot = self._make()
            self.bot.platform = self.platform
            self._made[self.alias] = self._open[self.alias][-1].bot
