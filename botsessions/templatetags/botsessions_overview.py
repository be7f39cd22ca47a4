"""The panel of the admin's front page, for any template of the admin.

`{% load botsessions_overview %}{% botsessions_overview %}`
"""

from __future__ import annotations

from typing import Any

from django import template
from django.template.context import RequestContext

from botsessions.admin.overview import overview

register = template.Library()


@register.inclusion_tag("admin/botsessions/overview.html", takes_context=True)
def botsessions_overview(context: RequestContext) -> dict[str, Any]:
    """Show how much goes on, what waits and what failed, as far as the user may see it."""
    request = context.get("request")
    return {} if request is None else {"overview": overview(request)}
