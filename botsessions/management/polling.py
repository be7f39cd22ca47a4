"""Long polling: a bot's updates without a webhook, for machines that have no public address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import msgspec
from django.core.management import CommandError

from botsessions.bots import Bot
from botsessions.engine import current_engine
from botsessions.exceptions import MalformedBody, PlatformError, Unavailable
from botsessions.management.webhooks import HasWebhook
from botsessions.updates import Update

#: Seconds to wait after a first failure, doubled after each further one up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: How often in a row another poller is put up with: one that has ended can linger for a moment.
CONFLICTS = 3


@runtime_checkable
class CanPoll(Protocol):
    """A platform that can be asked for updates."""

    async def poll(self, offset: int | None = None, timeout: int = 30) -> list[dict[str, Any]]:
        """Wait for updates from `offset` on; each has its `update_id` and is a body for `parse`."""


def require(bot: Bot) -> CanPoll:
    """Return the bot's platform, if it can be asked for updates."""
    if isinstance(bot.platform, CanPoll):
        return bot.platform
    raise CommandError(
        f"Bot '{bot.alias}' is on the platform '{bot.platform.name}', which cannot be polled."
    )


class Poller:
    """Fetches a bot's updates and hands them to the engine of the running event loop.

    The platform forgets updates once later ones are asked for, and that happens only when each is
    committed or stored: whatever ends this process, what was not comes again. What comes twice has
    one effect, as ever. `tell` takes lines for the person in front, `detail` those for a curious
    one.
    """

    def __init__(
        self, bot: Bot, tell: Callable[[str], object], detail: Callable[[str], object]
    ) -> None:
        self.bot = bot
        self.platform = require(bot)
        self.tell = tell
        self.detail = detail
        self._offset: int | None = None
        self._is_allowed = False
        self._failures = 0
        self._conflicts = 0

    async def run(self) -> None:
        """Go on until cancelled. Raises `CommandError` for what will not get better by waiting."""
        try:
            while True:
                try:
                    if not self._is_allowed:
                        await self._refuse_webhook()
                    await self._fetch()
                except (PlatformError, Unavailable) as error:
                    await self._wait_after(error)
                else:
                    self._failures = self._conflicts = 0
        finally:
            await self.bot.platform.close()

    async def _refuse_webhook(self) -> None:
        if isinstance(self.platform, HasWebhook) and (await self.platform.webhook_info()).get(
            "url"
        ):
            raise CommandError(self._has_webhook())
        self._is_allowed = True
        self.tell(f"Polling for bot '{self.bot.alias}'. Ctrl-C stops.")

    async def _fetch(self) -> None:
        """Take one batch of updates, the answer to one question, to its end."""
        payloads = await self.platform.poll(self._offset)
        engine = current_engine()
        updates = [update for payload in payloads for update in self._parse(payload)]
        # In one go, so that they enter their mailboxes in the platform's order.
        outcomes = [engine.submit(update) for update in updates]
        for outcome in await asyncio.gather(*outcomes, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        if payloads:
            self._offset = payloads[-1]["update_id"] + 1
            self.detail(f"{len(payloads)} updates, up to {payloads[-1]['update_id']}.")

    def _parse(self, payload: dict[str, Any]) -> list[Update]:
        try:
            return self.bot.platform.parse(msgspec.json.encode(payload))
        except MalformedBody as error:
            # Asking for it once more would bring the same.
            self.tell(f"Update {payload.get('update_id')} is left out. {error}")
            return []

    async def _wait_after(self, error: PlatformError | Unavailable) -> None:
        self._failures += 1
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE)
        if isinstance(error, PlatformError):
            self._give_up_after(error)
            pause = max(pause, error.retry_after or 0)
        self.tell(f"{error}; trying again in {pause:g} s.")
        await asyncio.sleep(pause)

    def _give_up_after(self, error: PlatformError) -> None:
        """Raise `CommandError` where another attempt would only fail again."""
        alias = self.bot.alias
        if error.permanent:
            raise CommandError(
                f"The platform refuses bot '{alias}': {error}. Are its OPTIONS right?"
            )
        if error.code == 409:
            if "webhook" in error.description.lower():
                raise CommandError(self._has_webhook())
            self._conflicts += 1
            if self._conflicts > CONFLICTS:
                raise CommandError(
                    f"Another process polls for bot '{alias}', here or elsewhere: {error}. "
                    "Stop it, or give this one a bot (a token) of its own."
                )

    def _has_webhook(self) -> str:
        return (
            f"Bot '{self.bot.alias}' has a webhook: its updates are delivered there and cannot be "
            f"polled for. `manage.py bots webhook info {self.bot.alias}` shows it, "
            f"`manage.py bots webhook delete {self.bot.alias}` deletes it."
        )
