"""What all views of the API have in common, whatever REST_FRAMEWORK says in the settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from botsessions.api import problems, scope
from botsessions.api.authentication import SessionAuthentication, TokenAuthentication
from botsessions.api.documented import NounSchema
from botsessions.api.filters import KnownFilters
from botsessions.api.pagination import DIGITS, IdPagination
from botsessions.api.permissions import MayDo
from botsessions.api.throttling import RateThrottle
from botsessions.conf import settings
from botsessions.exceptions import BodyTooLarge
from botsessions.platforms.body import decode

M = TypeVar("M", bound=Model)

ID: Final = re.compile(rf"[0-9]{{1,{DIGITS}}}", re.ASCII)


class JsonAlways(BaseContentNegotiation):
    """There is one form of answer, whatever is asked for."""

    def select_parser(self, request: Request, parsers: list[Any]) -> Any:
        kind = request.content_type.partition(";")[0].strip().lower()
        return next((each for each in parsers if each.media_type == kind), None)

    def select_renderer(
        self, request: Request, renderers: list[Any], format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class JsonBody(BaseParser):
    """The same JSON that a webhook takes: strict, not too deep, and clean."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, context: Any = None) -> Any:
        """Return the value. Raises `MalformedBody`, `BodyTooLarge`."""
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        if len(body) > settings.MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body is larger than {settings.MAX_BODY_BYTES:,} bytes.")
        return decode(body)


class JsonAnswer(JSONRenderer):
    """JSON as it is meant to be: UTF-8, without NaN."""

    ensure_ascii = False
    strict = True
    compact = True


class Endpoint(GenericViewSet):
    """A view of the API, of what its `noun` says.

    `needs` names for each of its actions the permission that it takes.
    """

    noun: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}

    authentication_classes = (TokenAuthentication, SessionAuthentication)
    permission_classes = (MayDo,)
    throttle_classes = (RateThrottle,)
    content_negotiation_class = JsonAlways
    parser_classes = (JsonBody,)
    renderer_classes = (JsonAnswer,)
    filter_backends: tuple[Any, ...] = (KnownFilters,)
    pagination_class: Any = IdPagination
    versioning_class = None
    metadata_class = None
    schema = NounSchema()

    request: Request
    action: str | None

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return problems.answer


class Rows(Endpoint, Generic[M]):
    """A view of the rows of one model, of the bots that the request may see.

    `long_columns` are left out of lists.
    """

    queryset: QuerySet[M]
    lookup_value_regex = "[^/]+"
    long_columns: ClassVar[tuple[str, ...]] = ()

    def get_queryset(self) -> QuerySet[M]:
        rows = scope.within(self.request, self.queryset.using(settings.DATABASE).all())
        return rows.defer(*self.long_columns) if self.action == "list" else rows

    def get_object(self) -> M:
        """Return the row that the address names. Raises `NotFound`."""
        return find(self.get_queryset(), self.kwargs[self.lookup_field])


def find(rows: QuerySet[M], id: str) -> M:
    """Return the row of an id that somebody has written. Raises `NotFound`."""
    row = rows.filter(pk=int(id)).first() if ID.fullmatch(id) else None
    if row is None:
        raise NotFound
    return row


def who(request: Request) -> str:
    """Return who asks, as it is kept with what they have begun."""
    return f"{request.user.get_username()}"[:150]
