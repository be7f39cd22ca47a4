"""Lists and pages of rows that machines write, at a cost that does not grow with their number."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.forms.widgets import Script
from django.http import HttpRequest

from botsessions.admin.lists import NewestList
from botsessions.conf import settings

#: How far rows are counted.
MAX_COUNT = 10_000

CSS = "botsessions/admin/admin.css"
#: Moves the progress bars of deletions that are going on.
PROGRESS = "botsessions/admin/progress.js"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts up to `MAX_COUNT` rows, because the database would read every row to count them."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        # What a list computes of each row it shows is not computed of those that are counted.
        return rows.order_by().values("pk")[:MAX_COUNT].count()


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that machines write: to be seen by whoever has the permission to view them."""

    actions: Any = None
    list_per_page = 50
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    # Any other order than that of an index would read and sort the whole table.
    sortable_by = ()
    #: Columns that a list does not need, and that may be long.
    long_columns: ClassVar[tuple[str, ...]] = ()

    class Media:
        css = {"all": [CSS]}
        js = [Script(PROGRESS, type="module")]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request).using(settings.DATABASE)
        return rows.defer(*self.long_columns)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NewestList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def may(request: HttpRequest, codename: str) -> bool:
    """Has whoever asks this permission of the app?"""
    return request.user.has_perm(f"botsessions.{codename}")


def bounded(rows: QuerySet[Any], most: int = MAX_COUNT) -> str:
    """Return how many rows there are, "10,000+" where there are more than are counted."""
    found = rows.order_by().values("pk")[: most + 1].count()
    return f"{most:,}+" if found > most else f"{found:,}"
