"""The bots whose settings are right, which is all that an operation can work with."""

from __future__ import annotations

import logging

from django.core.exceptions import ImproperlyConfigured

from botsessions.bots import Bot, bots

log = logging.getLogger("botsessions.operations")


def known_bots() -> dict[str, Bot]:
    """Return the bots by alias; what is wrong with the others is for the checks to say."""
    known = {}
    for alias in bots:
        try:
            known[alias] = bots[alias]
        except ImproperlyConfigured as error:
            log.warning("Bot '%s' is left out: %s", alias, error)
    return known
