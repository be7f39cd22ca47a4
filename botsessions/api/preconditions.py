"""Which version of a session a write is about (https://www.rfc-editor.org/rfc/rfc9110#section-13).

A session's entity tag is its version in quotation marks.
"""

from __future__ import annotations

import re
from typing import Final

from django.utils.translation import gettext as _
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from botsessions.api.problems import PreconditionFailed, PreconditionRequired
from botsessions.models import BotSession

TAGS: Final = re.compile(r'\s*((W/)?"[^"]*"\s*(,\s*|$))+', re.ASCII)
TAG: Final = re.compile(r'(W/)?"([^"]*)"', re.ASCII)


def etag(row: BotSession) -> str:
    """Return the entity tag of a session."""
    return f'"{row.version}"'


def expected_version(request: Request, row: BotSession) -> int:
    """Return the version that the session is to have when it is written.

    Raises `PreconditionRequired` without If-Match, `ValidationError` where that is none, and
    `PreconditionFailed` where the session is of another version already.
    """
    header = request.headers.get("If-Match", "").strip()
    if not header:
        raise PreconditionRequired(
            _('Send If-Match with the ETag of what you have read: If-Match: "7".')
        )
    if header == "*":
        return row.version
    if not TAGS.fullmatch(header):
        raise ValidationError({"If-Match": _('It is an ETag in quotation marks: "7".')}, "invalid")
    # A weak tag is of no use here, by the RFC.
    tags = {tag for weak, tag in TAG.findall(header) if not weak}
    if f"{row.version}" not in tags:
        raise PreconditionFailed(
            _("The session was saved meanwhile: it is of version %(version)d now.")
            % {"version": row.version}
        )
    return row.version
