"""Webhooks: where a platform is to deliver a bot's updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from django.core.management import CommandError
from django.urls import NoReverseMatch, reverse

from botsessions.bots import Bot
from botsessions.checks import is_public_address
from botsessions.conf import settings

#: Options of a platform whose values are shown to nobody.
SECRETS = ("token", "secret")
#: What is shorter is no secret, and would be found in innocent words.
SECRET_LENGTH = 8


@runtime_checkable
class HasWebhook(Protocol):
    """A platform that is told where to deliver."""

    async def set_webhook(self, url: str, **options: Any) -> None:
        """Have every type of update delivered to `url`, with the bot's secret."""

    async def webhook_info(self) -> dict[str, Any]:
        """Return what the platform says of the webhook; `url` is empty where there is none."""

    async def delete_webhook(self, *, drop_pending: bool = False) -> None:
        """Stop deliveries."""


def require(bot: Bot) -> HasWebhook:
    """Return the bot's platform, if it has webhooks."""
    if isinstance(bot.platform, HasWebhook):
        return bot.platform
    raise CommandError(
        f"Bot '{bot.alias}' is on the platform '{bot.platform.name}', which has no webhook to set: "
        "whoever holds its secret posts to the path that `bots list` shows."
    )


def path(alias: str) -> str:
    """Return the path at which this project takes the bot's updates, `""` if it does not."""
    try:
        return reverse("botsessions:webhook", args=[alias])
    except NoReverseMatch:
        return ""


def address(alias: str, base: str | None) -> str:
    """Return the URL to which the bot's updates are to be delivered."""
    base = base or settings.WEBHOOK_URL
    if not base:
        raise CommandError(
            'Say where this project is reached: --url https://bots.example.org, or "WEBHOOK_URL" '
            "in BOTSESSIONS."
        )
    if not is_public_address(base):
        raise CommandError(
            f"{base!r} is no address for webhooks: it begins with https:// and names a host, as in "
            "https://bots.example.org."
        )
    if not path(alias):
        raise CommandError(
            "include('botsessions.urls') is in no URLconf, so there is no path for webhooks. Add "
            'path("webhooks/", include("botsessions.urls")) to urls.py.'
        )
    return base.rstrip("/") + path(alias)


def described(bot: Bot, info: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that say what is in a WebhookInfo."""
    if not info.get("url"):
        yield f"Bot '{bot.alias}' has no webhook."
    for name, value in info.items():
        if name.endswith("_date") and isinstance(value, int):
            value = datetime.fromtimestamp(value, UTC).isoformat(sep=" ")
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in ("", None):
            yield f"{name}: {_without_secrets(bot, str(value))}"


def _without_secrets(bot: Bot, text: str) -> str:
    """Return a text without the bot's token, which webhook addresses often carry."""
    for name in SECRETS:
        secret = str(bot.platform.options.get(name) or "")
        for part in (secret, secret.rpartition(":")[2]):
            if len(part) >= SECRET_LENGTH:
                text = text.replace(part, "***")
    return text
