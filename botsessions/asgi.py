"""The fast door: an ASGI application that answers webhooks itself and hands everything else to
Django.

Django's handler costs a request more than the engine does. This door reads the path, the headers
and the body, and nothing else; what it answers is what `views.webhook` answers.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.core import asgi
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, reverse

from botsessions.bots import bots, find_bot
from botsessions.conf import settings
from botsessions.engine import current_engine
from botsessions.exceptions import BodyTooLarge, MethodNotAllowed, RequestRefused
from botsessions.webhook import receive

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("botsessions.asgi")

OK = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
BODY = {"type": "http.response.body", "body": b"{}"}


def get_asgi_application() -> Application:
    """Return Django's ASGI application with the fast door in front of it.

    It follows the ASGI lifespan: the engine starts with the server and stops with it.
    """
    return Door(asgi.get_asgi_application())


class Door:
    """Answers the webhook path of `botsessions.urls`; everything else is `django`'s."""

    def __init__(self, django: Any) -> None:
        self.django = django
        self._aliases: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            alias = self._aliases.get(scope["path"])
            if alias is not None:
                await self._webhook(alias, scope, receive, send)
                return
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self.django(scope, receive, send)

    async def _webhook(self, alias: str, scope: Scope, receive_: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("A webhook takes POST.")
            message = await receive_()
            body = message.get("body", b"")
            while message.get("more_body"):
                if len(body) > settings.MAX_BODY_BYTES:
                    raise BodyTooLarge("The body is too large.")
                message = await receive_()
                body += message.get("body", b"")
            await receive(alias, dict(scope["headers"]), body)
        except RequestRefused as error:
            await send(
                {"type": "http.response.start", "status": error.status, "headers": _headers(error)}
            )
            await send({"type": "http.response.body", "body": b""})
        else:
            await send(OK)
            await send(BODY)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._find_paths()
                await current_engine().start()
                # What was loaded so far stays: the collector need not look at it again.
                gc.collect()
                gc.freeze()
                await send({"type": "lifespan.startup.complete"})
            else:
                await current_engine().stop()
                await bots.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _find_paths(self) -> None:
        """Learn where the webhooks are; a bot whose settings are wrong is logged and has none."""
        for alias in settings.BOTS:
            try:
                find_bot(alias)
                self._aliases[reverse("botsessions:webhook", args=[alias])] = alias
            except NoReverseMatch:
                log.warning("include('botsessions.urls') is in no URLconf: there are no webhooks.")
                return
            except ImproperlyConfigured as error:
                log.error("%s Its webhook is not served.", error)


def _headers(error: RequestRefused) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-length", b"0")]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == MethodNotAllowed.status:
        headers.append((b"allow", b"POST"))
    return headers
