"""What goes wrong, as problem details (https://www.rfc-editor.org/rfc/rfc9457) with a stable code.

    {"type": "about:blank", "title": "Conflict", "status": 409,
     "code": "mailbox_busy", "detail": "…"}

`code` is for programs and stays as it is; `detail` is for people. A refused field or parameter is
named in `errors`. What nobody has foreseen is left to Django: it is a 500, and reported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework import exceptions as rest
from rest_framework.response import Response
from rest_framework.views import set_rollback

from botsessions import exceptions as ours

log = logging.getLogger("botsessions.api")

MEDIA_TYPE: Final = "application/problem+json"
#: Seconds after which it is worth to ask again, where nobody says.
AGAIN_AFTER: Final = 5


class PreconditionRequired(rest.APIException):
    """A write that has to say which version it is about."""

    status_code = 428
    default_code = "precondition_required"


class PreconditionFailed(rest.APIException):
    """It is of another version by now."""

    status_code = 412
    default_code = "session_conflict"


class BotNotConfigured(rest.APIException):
    """A row whose bot is not configured any more: it can be read, and nothing else."""

    status_code = 409
    default_code = "bot_not_configured"


class Kind(NamedTuple):
    """How an error is answered."""

    status: int
    code: str
    #: Is it worth to ask again, after a while?
    passes: bool = False


#: The errors of the package; of several that fit the first counts.
KINDS: Final[dict[type[Exception], Kind]] = {
    ours.UnknownBot: Kind(404, "unknown_bot"),
    ours.MalformedBody: Kind(400, "parse_error"),
    ours.BodyTooLarge: Kind(413, "body_too_large"),
    ours.Unavailable: Kind(503, "unavailable", passes=True),
    ours.MailboxBusy: Kind(409, "mailbox_busy", passes=True),
    ours.LeaseLost: Kind(503, "lease_lost", passes=True),
    ours.SessionConflict: Kind(409, "session_conflict"),
    ours.SessionTakenOver: Kind(409, "session_taken_over"),
    ours.SessionsDisabled: Kind(409, "sessions_disabled"),
    ours.NewerData: Kind(503, "newer_data", passes=True),
    ours.InvalidSessionData: Kind(422, "invalid_session_data"),
    ours.RateLimited: Kind(503, "platform_rate_limited", passes=True),
    ours.Forbidden: Kind(409, "platform_forbidden"),
    ours.InvalidRequest: Kind(422, "platform_refused"),
    ours.PlatformUnavailable: Kind(502, "platform_unavailable"),
    ours.PlatformError: Kind(502, "platform_error"),
    OperationalError: Kind(503, "unavailable", passes=True),
    InterfaceError: Kind(503, "unavailable", passes=True),
}


def answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the answer to an error in a view, None where it is for Django to answer."""
    if isinstance(error, Http404):
        error = rest.NotFound()
    elif isinstance(error, PermissionDenied):
        error = rest.PermissionDenied()
    if isinstance(error, rest.APIException):
        response = _of_framework(error)
    else:
        kind = next((kind for type_, kind in KINDS.items() if isinstance(error, type_)), None)
        if kind is None:
            return None
        response = _of_package(error, kind)
    set_rollback()
    return response


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return an answer that is a problem."""
    said = described(status, code, detail)
    if errors:
        said["errors"] = errors
    return Response(said, status, headers=headers, content_type=MEDIA_TYPE)


def described(status: int, code: str, detail: str) -> dict[str, Any]:
    """Return the members that every problem has."""
    return {
        "type": "about:blank",
        "title": phrase(status),
        "status": status,
        "code": code,
        "detail": detail,
    }


def phrase(status: int) -> str:
    """Return what a status is called."""
    return HTTPStatus(status).phrase


def _of_framework(error: rest.APIException) -> Response:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = f"{math.ceil(wait)}"
    if isinstance(error, rest.ValidationError):
        errors = list(_fields("", error.detail))
        return problem(
            400, "invalid", _("Some of what was sent is not valid."), errors=errors, headers=headers
        )
    code = error.get_codes()
    return problem(error.status_code, f"{code}", f"{error.detail}", headers=headers)


def _of_package(error: Exception, kind: Kind) -> Response:
    headers = {}
    if kind.passes:
        wait = getattr(error, "retry_after", None) or AGAIN_AFTER
        headers["Retry-After"] = f"{math.ceil(wait)}"
    if isinstance(error, OperationalError | InterfaceError):
        # What the database says is for the log.
        log.error("The database does not answer.", exc_info=error)
        detail = _("The database does not answer.")
    elif isinstance(error, ours.PlatformUnavailable) and error.sent:
        detail = _("%(error)s It may have been done all the same.") % {"error": _sentence(error)}
    else:
        detail = _sentence(error)
    return problem(kind.status, kind.code, detail, headers=headers)


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _fields(path: str, detail: Any) -> Iterator[dict[str, str]]:
    """Yield each refused field with why, by its path as "messages.0.text"."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            yield from _fields(f"{path}.{name}".strip("."), inner)
    elif isinstance(detail, list):
        for number, inner in enumerate(detail):
            is_deep = isinstance(inner, dict | list)
            yield from _fields(f"{path}.{number}".strip(".") if is_deep else path, inner)
    else:
        yield {"field": path, "code": getattr(detail, "code", "invalid"), "detail": f"{detail}"}
