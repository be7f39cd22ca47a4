"""Every error that botsessions raises on purpose.

    BotsessionsError
    ├── RequestRefused              a webhook request answered with an error; `status` says which
    │   ├── Unauthorized            401  no secret, or a wrong one
    │   ├── UnknownBot              404  no bot of that name
    │   ├── MethodNotAllowed        405  not a POST
    │   ├── BodyTooLarge            413
    │   ├── MalformedBody           400  not JSON, too deep, not an update
    │   └── Unavailable             503  the database is away, or the process is stopping
    ├── LeaseLost                   another process has taken the mailbox over
    ├── MailboxBusy                 an access from outside did not get its turn in time
    ├── FlowFailed                  a waiter that a conversation had begun failed
    ├── Diverged                    a conversation's code fits its journal no longer
    ├── SessionError
    │   ├── SessionConflict         somebody else saved the session meanwhile
    │   ├── SessionTakenOver        an operator is talking in the session
    │   ├── SessionsDisabled        the bot has no session store
    │   ├── NoSessionKey            the update belongs to no session
    │   └── InvalidSessionData      not JSON, or larger than MAX_DATA_BYTES
    │       └── NewerData           stored by newer code than this
    └── PlatformError               what a chat platform answered to a call
        ├── RateLimited             429; `retry_after` in seconds
        ├── Forbidden               blocked, kicked, no right: never again
        ├── InvalidRequest          the platform will never accept this call
        │   ├── NotFound            … because the chat or message is not there
        │   └── BatchRefused        … because of one of several messages: ask for fewer
        └── PlatformUnavailable     no answer, or a 5xx; `sent`: it may have acted all the same

Wrong settings raise Django's `ImproperlyConfigured`.

An error with `permanent = True` says that trying again cannot help: the update is parked at once.
"""

from __future__ import annotations

from typing import ClassVar


class BotsessionsError(Exception):
    """The base of every error of this package."""

    permanent: ClassVar[bool] = False


class RequestRefused(BotsessionsError):
    """A webhook request that is answered with `status` and nothing done."""

    status: ClassVar[int] = 400
    #: Seconds after which the platform may come again, for the `Retry-After` header.
    retry_after: ClassVar[int | None] = None


class Unauthorized(RequestRefused):
    """The request does not carry the bot's secret."""

    status = 401


class UnknownBot(RequestRefused):
    """No bot of that alias is configured."""

    status = 404


class MethodNotAllowed(RequestRefused):
    """A webhook takes POST alone."""

    status = 405


class MalformedBody(RequestRefused):
    """The body is not JSON, is nested too deeply, or is no update of the platform."""

    status = 400


class BodyTooLarge(RequestRefused):
    """The body is larger than MAX_BODY_BYTES."""

    status = 413


class Unavailable(RequestRefused):
    """The update could be neither committed nor stored; the platform is to deliver it again."""

    status = 503
    retry_after = 5


class LeaseLost(BotsessionsError):
    """The mailbox's lease ran out and another process took it over; nothing was written."""


class MailboxBusy(BotsessionsError):
    """The mailbox of a session that was wanted outside a handler was not free in time."""


class FlowFailed(BotsessionsError):
    """A waiter that a conversation had begun has raised, or stopped with an error."""


class Diverged(BotsessionsError):
    """The code of a conversation has changed so that it fits what was journaled no longer."""

    permanent = True


class SessionError(BotsessionsError):
    """The base of what can be wrong with a session."""


class SessionConflict(SessionError):
    """A session of another scope was saved by somebody else while the handler ran."""


class SessionTakenOver(SessionError):
    """An operator is talking in the session: no flow can begin or end there until they are done."""


class SessionsDisabled(SessionError):
    """The bot is configured with `STORE: None`."""

    permanent = True


class NoSessionKey(SessionError):
    """A handler requires a session where the update has no chat or user to keep it for."""

    permanent = True


class InvalidSessionData(SessionError):
    """The session's data is not JSON, or exceeds MAX_DATA_BYTES; the stored value stays."""

    permanent = True


class NewerData(InvalidSessionData):
    """The stored data is of a later version than its type here; it stays as it is.

    So it is while a deploy is rolling: the update is tried again, when a newer process may have
    taken over from this one.
    """

    permanent = False
    #: Seconds after which the update is tried again, at least: as long as a process takes to stop.
    retry_after: ClassVar[float] = 10


class PlatformError(BotsessionsError):
    """What a chat platform answered to a call, or that it did not.

    `permanent` says that the same call can never succeed; `retry_after` is the number of seconds
    the platform asks to wait, or None. The message never holds a token.
    """

    def __init__(
        self,
        description: str,
        *,
        method: str = "",
        code: int = 0,
        retry_after: float | None = None,
        parameters: dict[str, object] | None = None,
    ) -> None:
        super().__init__(f"{method}: {description}" if method else description)
        self.description = description
        self.method = method
        self.code = code
        self.retry_after = retry_after
        #: What the platform said beside the description, as Telegram's `migrate_to_chat_id`.
        self.parameters = parameters or {}


class RateLimited(PlatformError):
    """Too many calls; `retry_after` says for how long to wait.

    `chat` is the one that can take no more, `""` where the call names none, and None where it was
    no call that said so. Where not `was_asked`, there was no call: its turn was too far off.
    """

    chat: str | None = None
    was_asked = True


class Forbidden(PlatformError):
    """The bot may not: it was blocked, kicked, or lacks a right."""

    permanent = True


class InvalidRequest(PlatformError):
    """The platform will not accept this call however often it is made."""

    permanent = True


class NotFound(InvalidRequest):
    """The chat, message or method that the call names does not exist."""


class BatchRefused(InvalidRequest):
    """One of several messages may not be deleted, so that none of them was."""


class PlatformUnavailable(PlatformError):
    """No answer, or a server error. `sent` is False when the request certainly never left."""

    def __init__(self, description: str, *, sent: bool = True, **details: object) -> None:
        super().__init__(description, **details)  # type: ignore[arg-type]
        self.sent = sent


def error_of(status: int, description: str) -> type[PlatformError]:
    """Return the class of the error with which a platform answers by an HTTP status above 399."""
    if status == 429:
        return RateLimited
    if status in (401, 403):
        return Forbidden
    if status == 404 or (status == 400 and "not found" in description.lower()):
        return NotFound
    if status == 409:
        # Telegram: another getUpdates, or a webhook beside it. That can be over the next time.
        return PlatformError
    return InvalidRequest if status < 500 else PlatformUnavailable


#: The libraries whose errors say nothing that must not stand in a log.
TELLING = frozenset({"django.db.utils", "redis.exceptions"})


def told(error: BaseException) -> str:
    """Return what a log may say of an error that a server's client has raised.

    That is its type; and its text only where it is known to hold no address, for a password may be
    a part of that.
    """
    telling = isinstance(error, TimeoutError) or any(
        each.__module__ in TELLING for each in type(error).__mro__
    )
    name = type(error).__name__
    return f"{name}: {error}" if telling and f"{error}" else name
