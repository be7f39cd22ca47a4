"""The system check of the API: E010, its rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register

from botsessions.api.throttling import read_rate
from botsessions.conf import settings


@register("botsessions")
def check_rate(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> Iterator[CheckMessage]:
    """E010: API_RATE is a rate."""
    try:
        read_rate(settings.API_RATE)
    except ValueError:
        yield Error(
            f'BOTSESSIONS["API_RATE"] is {settings.API_RATE!r}.',
            hint='It is a number of requests in a second, minute, hour or day, as "600/min" '
            "(/s, /min, /hour, /day), or None for no limit.",
            id="botsessions.E010",
        )
