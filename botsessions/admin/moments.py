"""Moments as people say them: how long ago, how long yet."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _

from botsessions import clock


def age(at: datetime) -> str:
    """Return how long ago something was."""
    return timesince(at, clock.now(), depth=1)


def time_left(deadline: datetime | None) -> str:
    """Return how long it is until a deadline; "" for none."""
    if deadline is None:
        return ""
    now = clock.now()
    if deadline <= now:
        return _("overdue")
    return _("%(time)s left") % {"time": timeuntil(deadline, now, depth=1)}


def about(at: datetime | None) -> SafeString | str:
    """Return how far away a moment is, as a `<time>` that has the whole of it; "" for none."""
    if at is None:
        return ""
    now = clock.now()
    if at <= now:
        words = _("%(time)s ago") % {"time": age(at)}
    else:
        words = _("in %(time)s") % {"time": timeuntil(at, now, depth=1)}
    whole = date_format(timezone.localtime(at), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), whole, words)
