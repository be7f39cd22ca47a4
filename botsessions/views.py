"""The door that works under any server: a Django view."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from botsessions.bots import find_bot
from botsessions.conf import settings
from botsessions.engine import current_engine
from botsessions.exceptions import BodyTooLarge, MethodNotAllowed, RequestRefused
from botsessions.webhook import receive


async def deliver(
    request: HttpRequest, alias: str, headers: Mapping[bytes, bytes], body: bytes
) -> None:
    """Do what a webhook request to this bot does, within a Django request.

    Where the event loop ends with the request (WSGI, Django's test client) everything is handled
    before it returns.
    """
    engine = current_engine()
    if isinstance(request, ASGIRequest) and not hasattr(request, "_dont_enforce_csrf_checks"):
        engine.is_lasting = True  # the test client alone sets that attribute
    await receive(alias, headers, body, engine)


@csrf_exempt
async def webhook(request: HttpRequest, bot: str) -> HttpResponse:
    """Answer a platform's webhook: 200 once its updates are committed or stored."""
    try:
        find_bot(bot)
        if request.method != "POST":
            raise MethodNotAllowed("A webhook takes POST.")
        if int(request.headers.get("Content-Length") or 0) > settings.MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body is larger than {settings.MAX_BODY_BYTES:,} bytes.")
        try:
            body = request.body
        except RequestDataTooBig as error:
            raise BodyTooLarge(str(error)) from error
        headers = {
            name.lower().encode("latin-1"): value.encode("latin-1", "replace")
            for name, value in request.headers.items()
        }
        await deliver(request, bot, headers, body)
    except RequestRefused as error:
        response = HttpResponse(status=error.status)
        if error.retry_after is not None:
            response["Retry-After"] = str(error.retry_after)
        if error.status == MethodNotAllowed.status:
            response["Allow"] = "POST"
        return response
    return HttpResponse(b"{}", content_type="application/json")
