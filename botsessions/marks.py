"""What a handler may say about a session that it declares, in `Annotated[Session[T], …]`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions.data import POLICIES
from botsessions.keys import STRATEGIES
from botsessions.versions import versions_of


class Qualifier(msgspec.Struct, frozen=True):
    """Marks a parallel session: `Annotated[Session[Cart], Qualifier("order")]`."""

    name: str


class Initial(msgspec.Struct, frozen=True):
    """Marks how a session's data begins: `Annotated[Session[Cart], Initial(new_cart)]`.

    `factory` takes the update and returns the data; it may be `async def`. It is called where
    nothing is stored.
    """

    factory: Callable[[Any], Any]


class Scope(msgspec.Struct, frozen=True):
    """Marks whose session it is: `Annotated[Session, Scope("chat")]` is that of the whole chat.

    `name` is one of `chat_user`, `chat`, `user`, `auto` and `thread`; without one it is what the
    bot's `KEY` says.
    """

    name: str = ""

    def __post_init__(self) -> None:
        if self.name and self.name not in STRATEGIES:
            raise ImproperlyConfigured(f"Scope {self.name!r} is none of {', '.join(STRATEGIES)}.")


class Expires(msgspec.Struct, frozen=True):
    """Marks how long after its last write a session is empty again: a timedelta or seconds."""

    after: timedelta | float


class OnMisfit(msgspec.Struct, frozen=True):
    """Marks what becomes of stored data that does not fit the session's type.

    `"quarantine"` (the default) puts it aside for the operator and begins anew, `"reset"` begins
    anew, `"raise"` fails the update; a function takes the stored value and returns one that fits.
    """

    policy: str | Callable[[Any], Any]

    def __post_init__(self) -> None:
        if self.policy not in POLICIES and not callable(self.policy):
            raise ImproperlyConfigured(
                f"OnMisfit({self.policy!r}) is none of {', '.join(POLICIES)} and no function."
            )


class SessionSpec(msgspec.Struct, frozen=True):
    """What a handler declares about a session parameter.

    Raises `ImproperlyConfigured` where the type's version and its steps do not fit together.
    """

    type: Any = dict
    qualifier: str = ""
    scope: Scope = Scope()
    optional: bool = False
    initial: Callable[[Any], Any] | None = None
    misfit: str | Callable[[Any], Any] | None = None
    expires: timedelta | float | None = None

    def __post_init__(self) -> None:
        if self.type is not dict:
            versions_of(self.type)
