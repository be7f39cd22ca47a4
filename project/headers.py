"""Headers that Django's own middleware does not set: a content security policy, and permissions.

The other ones, on sniffing, referrers, openers and frames, are Django's `SecurityMiddleware`'s and
`XFrameOptionsMiddleware`'s. Django 6.0 has a policy of its own (`SECURE_CSP`), 5.2 has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

Sync = Callable[[HttpRequest], HttpResponseBase]
Async = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

#: Everything comes from this server, and nothing that runs stands in a page itself.
POLICY: Final = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
    ]
)
#: What no page here asks a browser for.
PERMISSIONS: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def put(response: HttpResponseBase) -> HttpResponseBase:
    """Set the headers, but for what a view has set itself."""
    response.headers.setdefault("Permissions-Policy", PERMISSIONS)
    # With DEBUG, Django's pages about errors have their styles and scripts in themselves.
    if not (settings.DEBUG and response.status_code in (404, 500)):
        response.headers.setdefault("Content-Security-Policy", POLICY)
    return response


@sync_and_async_middleware
def middleware(get_response: Sync | Async) -> Sync | Async:
    if iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponseBase:
            return put(await get_response(request))

        return later

    def now(request: HttpRequest) -> HttpResponseBase:
        return put(cast("Sync", get_response)(request))

    return now
