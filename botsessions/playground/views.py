"""The playground's page, and what it asks for: what changed, say something, press a button."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect, ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from botsessions.conf import settings
from botsessions.exceptions import (
    InvalidRequest,
    NotFound,
    PlatformUnavailable,
    RequestRefused,
    Unavailable,
)
from botsessions.platforms.local import LocalPlatform
from botsessions.playground.people import PEOPLE, chats
from botsessions.playground.requests import (
    BadRequest,
    local_bots,
    read,
    read_fields,
    read_place,
    read_platform,
    read_revision,
    read_text,
)
from botsessions.views import deliver

AsyncView = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]

#: Seconds to wait before delivering again what the engine could not take; then the person is told.
DELIVER_AGAIN_AFTER = (0.2, 0.6)


def for_operators(view: AsyncView) -> AsyncView:
    """Answer 404 unless `DEBUG` or the setting `PLAYGROUND` is on, or the user is staff."""

    @wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponse:
        if not (django_settings.DEBUG or settings.PLAYGROUND):
            user = await request.auser() if hasattr(request, "auser") else None
            if user is None or not user.is_staff:
                raise Http404
        return await view(request)

    return guarded


def answers_json(view: AsyncView) -> AsyncView:
    """Answer what goes wrong with `{"error": "a sentence for people"}` and the fitting status."""

    @wraps(view)
    async def guarded(request: HttpRequest) -> HttpResponse:
        try:
            return await view(request)
        except BadRequest as error:
            return _error(str(error), error.status)
        except NotFound:
            return _error(_("That message or button is no longer there."), 404)
        except InvalidRequest as error:
            return _error(_("The chat refuses this: %(why)s.") % {"why": error.description}, 400)
        except (Unavailable, PlatformUnavailable):
            return _error(_("Not delivered: the bot cannot be reached. Send it once more."), 503)
        except RequestRefused as error:
            return _error(_("Not delivered: the bot refuses it."), error.status)

    return guarded


@require_GET
@never_cache
@ensure_csrf_cookie
@for_operators
async def page(request: HttpRequest) -> HttpResponse:
    """Serve the page."""
    context = {
        "bots": local_bots(),
        "people": list(PEOPLE.values()),
        "words": {
            "reconnecting": _("Reconnecting…"),
            "failed": _("Not sent: the server does not answer. Send it once more."),
            "reload": _("Reload the page."),
            "undelivered": _("not delivered"),
            "edited": _("edited"),
            "you": _("You"),
        },
    }
    # In a thread: a project's context processors may read the database.
    return await sync_to_async(render)(request, "botsessions/playground.html", context)


@require_GET
@never_cache
@for_operators
@answers_json
async def messages(request: HttpRequest) -> HttpResponse:
    """Answer what changed in `chat` of `bot` after `since`, as `LocalChat.history` gives it."""
    platform = read_platform(request.GET)
    chat = read(request.GET, "chat", _("chat"))
    if not any(chat in chats(user) for user in PEOPLE.values()):
        raise BadRequest(_("There is no such chat in the playground."), status=404)
    return JsonResponse(platform.network.history(chat, read_revision(request.GET)))


@require_POST
@csrf_protect
@for_operators
@answers_json
async def say(request: HttpRequest) -> HttpResponse:
    """Say `text` as `user` in `chat`; answer once the bot's engine has the update.

    What could not be delivered stays in the chat, marked as such. Sent again with the same `nonce`
    it is the same message and the same update, so the bot takes it once whatever became of the
    first attempt.
    """
    fields = read_fields(request)
    platform = read_platform(fields)
    chat, user = read_place(fields)
    nonce = read(fields, "nonce", _("nonce")) if fields.get("nonce") else ""
    update = platform.network.say(chat, user, read_text(fields), nonce=nonce)
    await _deliver(request, platform, update)
    platform.network.delivered(update)
    return JsonResponse({"message_id": update["message"]["message_id"]})


@require_POST
@csrf_protect
@for_operators
@answers_json
async def press(request: HttpRequest) -> HttpResponse:
    """Press the button with that `action` under `message_id`; answer as `say` does."""
    fields = read_fields(request)
    platform = read_platform(fields)
    chat, user = read_place(fields)
    message_id = read(fields, "message_id", _("message"))
    update = platform.network.press(chat.id, user, message_id, read(fields, "action", _("action")))
    await _deliver(request, platform, update)
    return JsonResponse({"message_id": message_id})


async def _deliver(
    request: HttpRequest, platform: LocalPlatform, update: Mapping[str, Any]
) -> None:
    """Deliver an update through the webhook's door, a few times if it has to be."""
    headers, body = platform.request(update)
    for pause in (*DELIVER_AGAIN_AFTER, None):
        try:
            await deliver(request, platform.alias, headers, body)
        except Unavailable:
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            return


def _error(sentence: str, status: int) -> JsonResponse:
    return JsonResponse({"error": sentence}, status=status)
