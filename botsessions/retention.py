"""How long a bot keeps what it stores: its setting `RETENTION`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
from django.core.exceptions import ImproperlyConfigured

#: What may have a term of its own, and how long it is kept where nothing is said.
TERMS: Final[Mapping[str, timedelta | None]] = {
    "TEXT": None,
    "MESSAGES": None,
    "SESSIONS": None,
    "UPDATES": timedelta(days=7),
    "PARKED": None,
}
#: What can be kept without the people in it.
ANONYMISED: Final = frozenset({"MESSAGES", "SESSIONS", "UPDATES"})


class Term(msgspec.Struct, frozen=True):
    """What becomes of something so long after it was written; None keeps it for ever."""

    after: timedelta | None
    #: Is it kept without whom it is about, rather than deleted?
    anonymises: bool = False


def terms(alias: str, configured: Any) -> dict[str, Term]:
    """Return the term of each of TERMS.

    `configured` maps their names to a timedelta or seconds, to None, or to
    `{"AFTER": …, "ANONYMISE": True}`. Raises `ImproperlyConfigured`, naming the bot, for anything
    else.
    """
    if not isinstance(configured, Mapping):
        raise ImproperlyConfigured(f"Bot '{alias}': RETENTION {configured!r} is no dict.")
    found = {name: Term(after) for name, after in TERMS.items()}
    for name, value in configured.items():
        if name not in TERMS:
            raise ImproperlyConfigured(
                f"Bot '{alias}': RETENTION has no {name!r}; there are {', '.join(TERMS)}."
            )
        found[name] = _term(f"Bot '{alias}': RETENTION[{name!r}]", name, value)
    return found


def _term(label: str, name: str, value: Any) -> Term:
    anonymises = False
    if isinstance(value, Mapping):
        if set(value) - {"AFTER", "ANONYMISE"} or "AFTER" not in value:
            raise ImproperlyConfigured(f"{label} has AFTER and, if so, ANONYMISE: {value!r}.")
        anonymises, value = value.get("ANONYMISE", False) is True, value["AFTER"]
        if anonymises and name not in ANONYMISED:
            raise ImproperlyConfigured(
                f"{label} cannot be anonymised: it is deleted. {', '.join(sorted(ANONYMISED))} can."
            )
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = timedelta(seconds=value)
    if value is not None and not (isinstance(value, timedelta) and value > timedelta(0)):
        raise ImproperlyConfigured(
            f"{label} is {value!r}: no timedelta, number of seconds or None, or not above zero."
        )
    return Term(value, anonymises)
