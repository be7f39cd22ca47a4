"""Pages of a list that rows may join and leave meanwhile: a cursor says after which id to go on."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

#: Rows on a page, unless asked for others, and at most.
PAGE: Final = 50
MOST: Final = 200
#: The longest id, in digits, that every database takes.
DIGITS: Final = 18


class IdPagination(CursorPagination):
    """From the newest row to the oldest, by id.

    A page costs the same wherever it is. No row is shown twice or left out because others came or
    went. Raises `ValidationError` for a cursor or a size that is none.
    """

    ordering = "-id"
    page_size = PAGE
    max_page_size = MOST
    page_size_query_param = "page_size"
    page_size_query_description = _("Rows on the page, 50 unless you say: 1 to 200.")
    cursor_query_description = _("Where the page begins: take it from `next` or `previous`.")
    template = None

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: Any = None
    ) -> list[Any]:
        found: list[Any] = super().paginate_queryset(queryset, request, view)
        return found

    def get_page_size(self, request: Request) -> int:
        size = request.query_params.get(self.page_size_query_param)
        if size is None:
            return PAGE
        if not _is_number(size) or int(size) == 0:
            raise ValidationError({"page_size": _("A number, 1 to 200.")}, "invalid")
        return min(int(size), MOST)

    def decode_cursor(self, request: Request) -> Cursor | None:
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            cursor = Cursor(0, False, "")
        # Ids are unique: our own cursors have a position and no offset.
        if cursor is not None and (not _is_number(cursor.position or "") or cursor.offset):
            raise ValidationError({"cursor": _("There is no such cursor.")}, "invalid")
        return cursor

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        example = "https://bots.example.org/api/sessions/?cursor=cD0xMg%3D%3D"
        link = {"type": ["string", "null"], "format": "uri", "example": example}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {"next": link, "previous": link, "results": schema},
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for each in parameters:
            if each["name"] == self.page_size_query_param:
                each["schema"] = {"type": "integer", "minimum": 1, "default": PAGE}
        return parameters


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS
