"""Pages of a list that rows may join and leave meanwhile: a cursor says from which id to go on."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

from botsessions.operations.looking import Among, newest, next_newer

#: Rows on a page, unless asked for others, and at most.
PAGE: Final = 50
MOST: Final = 200
#: The longest id, in digits, that every database takes.
DIGITS: Final = 18


class IdPagination(CursorPagination):
    """From the newest row to the oldest, by id.

    A page costs the same wherever it is. No row is shown twice or left out because others came or
    went. Where no index finds what is asked for (`view.among`) a page may have fewer rows than were
    asked for, or none, and lead on all the same. Raises `ValidationError` for a cursor or a size
    that is none.
    """

    ordering = "-id"
    page_size = PAGE
    max_page_size = MOST
    page_size_query_param = "page_size"
    page_size_query_description = _("Rows on the page, 50 unless you say: 1 to 200.")
    cursor_query_description = _("Where the page begins: take it from `next` or `previous`.")
    template = None

    _next: Cursor | None = None
    _previous: Cursor | None = None

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: Any = None
    ) -> list[Any]:
        self.base_url = request.build_absolute_uri()
        size, cursor = self.get_page_size(request), self.decode_cursor(request)
        among: Among | None = getattr(view, "among", None)
        at = None if cursor is None else int(cursor.position)
        if cursor is not None and cursor.reverse:
            found = next_newer(queryset, size, after=int(cursor.position), among=among)
            self._previous = _cursor(found.further, is_reverse=True)
            last = found.rows[-1].pk if found.rows else int(cursor.position) + 1
            self._next = _cursor(last)
        else:
            found = newest(queryset, size, before=at, among=among)
            self._next = _cursor(found.further)
            if at is not None:
                first = found.rows[0].pk if found.rows else at - 1
                self._previous = _cursor(first, is_reverse=True)
        return found.rows

    def get_next_link(self) -> str | None:
        return None if self._next is None else str(self.encode_cursor(self._next))

    def get_previous_link(self) -> str | None:
        return None if self._previous is None else str(self.encode_cursor(self._previous))

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


def _cursor(position: int | None, *, is_reverse: bool = False) -> Cursor | None:
    return None if position is None else Cursor(0, is_reverse, f"{position}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS
