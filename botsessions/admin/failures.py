"""Why something was not done, as people are told."""

from __future__ import annotations

from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from botsessions.admin.visible import line
from botsessions.exceptions import (
    BotsessionsError,
    LeaseLost,
    MailboxBusy,
    PlatformError,
    SessionConflict,
    SessionsDisabled,
    SessionTakenOver,
    Unavailable,
    UnknownBot,
)


class Refused(Exception):
    """There is nothing to be done of the kind; the message says why, to people."""


#: What an action may fail with; anything else is a defect, and is to be seen as one.
FAILURES: Final = (BotsessionsError, ImproperlyConfigured, Refused)

SENTENCES: Final[dict[type[BaseException], str]] = {
    MailboxBusy: gettext_noop("a handler is still at work there. Nothing was done; try again."),
    LeaseLost: gettext_noop("it took too long, and nothing was saved. Try again."),
    Unavailable: gettext_noop("the server is stopping or its database does not answer. Try again."),
    UnknownBot: gettext_noop("its bot is not configured (any more)."),
    SessionTakenOver: gettext_noop("an operator is talking there. Hand back to the bot first."),
    SessionConflict: gettext_noop("it was saved meanwhile."),
    SessionsDisabled: gettext_noop("its bot keeps no sessions (STORE is None)."),
}


def why(error: BaseException) -> str:
    """Return why something failed, as the end of a sentence."""
    for kind, sentence in SENTENCES.items():
        if isinstance(error, kind):
            return _(sentence)
    if isinstance(error, PlatformError):
        return _("the platform refuses: %(error)s") % {"error": line(error)}
    return line(error)
