"""The contract of a chat platform.

A platform knows nothing of models, settings or the engine: it is given its options, turns a
request's raw bytes into updates, and makes calls. `botsessions.testing.PlatformContract` is the
suite that a new one starts from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self

from django.core.checks import CheckMessage

from botsessions.updates import Message, Update


class Deletion(StrEnum):
    """What became of one message that was to be deleted."""

    DELETED = "deleted"
    GONE = "gone"
    TOO_OLD = "too_old"
    FORBIDDEN = "forbidden"
    FAILED = "failed"


@dataclass(frozen=True)
class Rate:
    """At most `count` messages in any span of `seconds`."""

    count: int
    seconds: float


class Platform:
    """One bot's connection to its chat platform.

    `alias` is the bot's name in `BOTSESSIONS["BOTS"]`, `options` its `OPTIONS`. An option that is
    missing or wrong raises `ImproperlyConfigured` that names both.
    """

    #: The platform's name, as it stands in the database.
    name: ClassVar[str]
    #: Does the platform deliver an update again when it got no 2xx? Where it does not, updates are
    #: stored first.
    redelivers: ClassVar[bool] = True
    #: How many messages one call may delete.
    delete_batch_size: ClassVar[int] = 100
    #: For how long after it was sent a message can be deleted; None where age does not matter.
    deletable_for: ClassVar[timedelta | None] = None

    #: How many messages a bot may send: to a "chat", to a chat that is a "group" besides, and as a
    #: "bot" to all of them. Each is optional, and a bot's setting RATES overrides them.
    rates: ClassVar[Mapping[str, Rate]] = {}
    #: Does a send wait for its turn, and after a 429 for as long as that says? Where it does not,
    #: as where a test's clock stands still, a 429 is the caller's.
    is_paced: ClassVar[bool] = True

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias = alias
        self.options = options

    def private_chat(self, user: str) -> str:
        """Return the id of the chat of the bot and that user alone, `""` where it says nothing of
        whose it is.
        """
        return ""

    # Receiving: synchronous, no I/O.

    def authenticate(self, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Raise `Unauthorized` unless the request comes from the platform.

        Header names are lower-case. Secrets are compared in constant time. Runs before anything is
        parsed.
        """
        raise NotImplementedError

    def parse(self, body: bytes) -> list[Update]:
        """Return the updates in a request's body, in order; those of an unknown type are left out.

        Raises `MalformedBody` for what is no JSON or no request of this platform, and nothing else
        whatever the bytes.
        """
        raise NotImplementedError

    # Sending: on the event loop; each raises a `PlatformError`.

    async def send(self, chat: str, text: str, **options: Any) -> Any:
        """Send a text message and return the platform's answer, unchanged.

        The option `reply_to` is the id of a message that this one answers; others are its own.
        """
        raise NotImplementedError

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call any method of the platform's API and return its result, unchanged."""
        raise NotImplementedError

    def target(self, parameters: Mapping[str, Any]) -> str:
        """Return the id of the chat that a call's parameters name, `""` for none."""
        raise NotImplementedError

    def business(self, parameters: Mapping[str, Any]) -> str:
        """Return the business connection in whose name a call is made, `""` for none."""
        return ""

    def aim(self, parameters: Mapping[str, Any], chat: str, business: str = "") -> dict[str, Any]:
        """Return a call's parameters with the chat filled in, and the business connection.

        Parameters that say by themselves where the call goes are returned as they are: it may well
        go elsewhere. So they are for a `chat` of `""`.
        """
        raise NotImplementedError

    def messages_in(self, method: str, parameters: Mapping[str, Any]) -> int:
        """Return how many messages a call makes, which its rates count; 0 for none.

        Whatever the parameters are it raises nothing.
        """
        return 0

    def is_group(self, chat: str) -> bool:
        """Is the chat one of those that the rate of groups is for, as its id tells?"""
        return False

    def messages(self, result: Any, chat: str = "", business: str = "") -> Sequence[Message]:
        """Return the messages that an API answer holds: one, several, or none.

        `chat` is where the call went (`target`), for answers that name their messages by id alone;
        `business` is in whose name (`business`), for those that do not say.
        """
        raise NotImplementedError

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        """Delete up to `delete_batch_size` messages of a chat, in one call; say what became of
        each.

        `business` is the connection in whose name they were said, where platforms have such. Raises
        `BatchRefused` where one of several may not be deleted and none was: ask for fewer
        (`botsessions.clearing.delete` does). Raises another `PlatformError` where nothing is known
        of them; one that is not `permanent` may be asked again, and `Forbidden` is true of every
        message of the chat. `FAILED` is final.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of connections.

        The platform can be used again afterwards, from another event loop too.
        """

    def check(self) -> Iterable[CheckMessage]:
        """Yield what Django's system checks are to say about this bot."""
        return ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
