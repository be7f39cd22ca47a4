"""Bots, and what is erased and exported of somebody who talks with one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from botsessions.api import examples, scope
from botsessions.api.documented import documented
from botsessions.api.endpoint import Endpoint, who
from botsessions.api.serializers import (
    BotSerializer,
    EraseSerializer,
    ErasureSerializer,
    ExportSerializer,
)
from botsessions.conf import settings
from botsessions.operations import begin_erasure, export

JSON_LINES = "application/x-ndjson"
#: How many lines of an export go out at a time.
LINES = 100


class Bots(Endpoint):
    noun = "bots"
    serializer_class = BotSerializer
    filter_backends = ()
    pagination_class = None
    lookup_field = "alias"
    lookup_value_regex = "[^/]+"
    needs = {
        "list": "view_botsession",
        "retrieve": "view_botsession",
        "erasures": "erase_botsession",
        "export": "export_botsession",
    }

    @documented(responses=BotSerializer(many=True), examples=[examples.BOT])
    def list(self, request: Request) -> Response:
        """List the bots that the request may see: there are few, and no pages."""
        return Response([described(alias) for alias in scope.aliases(request)])

    @documented(examples=[examples.BOT])
    def retrieve(self, request: Request, alias: str) -> Response:
        """Read how a bot is configured."""
        return Response(described(scope.require(request, alias)))

    @documented(
        request=EraseSerializer,
        responses={202: ErasureSerializer},
        examples=[examples.ERASE, examples.ERASURE],
    )
    @action(detail=True, methods=["post"])
    def erasures(self, request: Request, alias: str) -> Response:
        """Begin to erase what is stored of a user or a chat, and answer with the receipt.

        It is done, by Celery, when the receipt has a `finished_at`.
        """
        scope.working(scope.require(request, alias))
        body = EraseSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        erasure = begin_erasure(alias, requested_by=who(request), **body.validated_data)
        place = reverse("botsessions_api:erasure-detail", args=[erasure.pk])
        return Response(ErasureSerializer(erasure).data, 202, headers={"Location": place})

    @documented(parameters=[ExportSerializer], responses={(200, JSON_LINES): OpenApiTypes.STR})
    @action(detail=True, methods=["get"])
    def export(self, request: Request, alias: str) -> StreamingHttpResponse:
        """Read what is stored of a user or a chat, as JSON lines: the same that is erased."""
        scope.working(scope.require(request, alias))
        subject = ExportSerializer(data=request.query_params.dict())
        subject.is_valid(raise_exception=True)
        parts = _chunks(export(alias, **subject.validated_data))
        is_asynchronous = isinstance(request._request, ASGIRequest)
        return StreamingHttpResponse(
            _awaited(parts) if is_asynchronous else parts, content_type=JSON_LINES
        )


def described(alias: str) -> dict[str, str | None]:
    """Return what there is to say of a bot; of one that cannot be made its alias alone."""
    configured = settings.BOTS[alias]
    bot = scope.find(alias)
    if bot is None:
        return {"alias": alias, "platform": None, "key": None, "store": None}
    key: Any = configured.get("KEY", "chat_user")
    return {
        "alias": alias,
        "platform": bot.platform.name,
        "key": key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}",
        "store": bot.store.alias if bot.store is not None else None,
    }


def _chunks(lines: Iterator[str]) -> Iterator[bytes]:
    while batch := list(islice(lines, LINES)):
        yield "".join(f"{line}\n" for line in batch).encode()


async def _awaited(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the same from the thread where Django's database connections are."""
    following = sync_to_async(lambda: next(parts, b""))
    while part := await following():
        yield part
