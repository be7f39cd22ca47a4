"""What the page asks of the server, checked: a mistake is a `BadRequest` that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParserError
from django.utils.translation import gettext as _

from botsessions.bots import bots
from botsessions.exceptions import MalformedBody
from botsessions.platforms.body import decode
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.local_chat import MAX_TEXT
from botsessions.playground.people import PEOPLE, chats
from botsessions.updates import Chat, User


class BadRequest(Exception):
    """The request cannot be served; the message is for people, `status` for the answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def local_bots() -> list[str]:
    """Return the aliases of the bots that can be played with."""
    return [alias for alias in bots if isinstance(bots[alias].platform, LocalPlatform)]


def read_fields(request: HttpRequest) -> dict[str, Any]:
    """Return the fields of a form or of a JSON object."""
    try:
        if request.content_type != "application/json":
            return dict(request.POST.items())
        fields = decode(request.body)
    except (MalformedBody, MultiPartParserError, SuspiciousOperation) as error:
        raise BadRequest(_("The request cannot be read, or is too large.")) from error
    if not isinstance(fields, dict):
        raise BadRequest(_("The request is not a JSON object."))
    return fields


def read_platform(fields: Mapping[str, Any]) -> LocalPlatform:
    """Return the platform of the bot that is named."""
    alias = read(fields, "bot", _("bot"))
    platform = bots[alias].platform if alias in local_bots() else None
    if not isinstance(platform, LocalPlatform):
        raise BadRequest(_("There is no such bot in the playground."), status=404)
    return platform


def read_place(fields: Mapping[str, Any]) -> tuple[Chat, User]:
    """Return the chat and the person in it that are named."""
    user = PEOPLE.get(read(fields, "user", _("user")))
    if user is None:
        raise BadRequest(_("There is no such person in the playground."))
    chat = chats(user).get(read(fields, "chat", _("chat")))
    if chat is None:
        raise BadRequest(_("%(name)s is not in that chat.") % {"name": user.name})
    return chat, user


def read_text(fields: Mapping[str, Any]) -> str:
    """Return what is said."""
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(_("Write something first."))
    if len(text) > MAX_TEXT:
        raise BadRequest(
            _("That is too long: %(length)d characters, and %(limit)d are allowed.")
            % {"length": len(text), "limit": MAX_TEXT}
        )
    return text


def read_revision(fields: Mapping[str, Any]) -> int:
    """Return the revision after which changes are asked for; 0 where there is none."""
    since = fields.get("since") or "0"
    if not (since.isdecimal() and len(since) < 19):  # what SQLite's integers hold
        raise BadRequest(_("“since” is not a number."))
    return int(since)


def read(fields: Mapping[str, Any], name: str, label: str) -> str:
    """Return a field that has to be there."""
    value = fields.get(name)
    if isinstance(value, int) and abs(value) < 2**63:
        value = str(value)
    if not isinstance(value, str) or not value:
        raise BadRequest(_("The request names no %(field)s.") % {"field": label})
    return value
