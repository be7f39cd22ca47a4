"""Which bots a request is about: those of its token, or all of them.

What is of another bot is not there, for reading as for writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model, QuerySet
from django.utils.translation import gettext as _
from rest_framework.request import Request

from botsessions.api.models import ApiToken
from botsessions.api.problems import BotNotConfigured
from botsessions.bots import Bot, bots
from botsessions.conf import settings
from botsessions.exceptions import UnknownBot

M = TypeVar("M", bound=Model)


def covers(request: Request, alias: str) -> bool:
    """Is the bot of that alias among those of the request's token?"""
    token = request.auth
    return not (isinstance(token, ApiToken) and token.bots) or alias in token.bots


def limited_to(request: Request) -> Sequence[str]:
    """Return the bots that a request is limited to; none where it may see all."""
    token = request.auth
    return token.bots if isinstance(token, ApiToken) else ()


def aliases(request: Request) -> list[str]:
    """Return the configured bots that a request may see."""
    return [alias for alias in settings.BOTS if covers(request, alias)]


def require(request: Request, alias: str) -> str:
    """Return the alias of a bot. Raises `UnknownBot` where the request may not see it."""
    if alias not in settings.BOTS or not covers(request, alias):
        raise UnknownBot(f"There is no bot '{alias}'.")
    return alias


def find(alias: str) -> Bot | None:
    """Return the bot of an alias, None where there is none, or its settings are wrong."""
    try:
        return bots[alias] if alias in settings.BOTS else None
    except ImproperlyConfigured:
        return None


def working(alias: str) -> Bot:
    """Return the bot of an alias, with which something is to be done. Raises `BotNotConfigured`."""
    bot = find(alias)
    if bot is None:
        raise BotNotConfigured(_("Bot '%(bot)s' is not configured (any more).") % {"bot": alias})
    return bot


def within(request: Request, rows: QuerySet[M], column: str = "bot") -> QuerySet[M]:
    """Return the rows that a request may see."""
    token: Any = request.auth
    if isinstance(token, ApiToken) and token.bots:
        return rows.filter(**{f"{column}__in": token.bots})
    return rows
