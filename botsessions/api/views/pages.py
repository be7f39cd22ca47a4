"""The schema, the page to try it on, and the answer to every other address."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt, ensure_csrf_cookie
from django.views.decorators.http import require_safe

from botsessions.api import problems
from botsessions.api.schema import document


@login_not_required
@require_safe
def schema(request: HttpRequest) -> HttpResponse:
    """Answer the OpenAPI schema, to everybody: it says nothing of this installation."""
    return JsonResponse(document())


@login_not_required
@require_safe
@ensure_csrf_cookie
def docs(request: HttpRequest) -> HttpResponse:
    """Serve the page on which the API can be read and tried, from our own static files alone."""
    return render(request, "botsessions_api/docs.html")


@login_not_required
@csrf_exempt
def nowhere(request: HttpRequest, rest: str = "") -> HttpResponse:
    """Answer that there is nothing at this address, as everything here says it."""
    said = problems.problem(404, "not_found", _("There is nothing at this address."))
    return JsonResponse(said.data, status=404, content_type=problems.MEDIA_TYPE)
