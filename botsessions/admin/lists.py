"""Lists that go from the newest row to the oldest, however many there are.

There are no numbers of pages: the address of a page says after which row it begins, and a link at
its end leads on. What an index finds is found wherever it is. For anything else a page looks at the
next `LOOKED` rows (`operations.looking`), and says so where that is not enough to fill it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from botsessions.admin.filters import IndexedBotFilter, Served
from botsessions.admin.searching import words_of
from botsessions.conf import settings
from botsessions.operations.looking import LOOKED, Among, few, newest

_place = re.compile(r"(?:(\d)\.)?(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


class Place(NamedTuple):
    """Where a page begins: in which part of a list, and before which row of it.

    `upto` is the message before which a search looks for what was said.
    """

    part: int = 0
    before: int | None = None
    upto: int | None = None

    @classmethod
    def of(cls, request: HttpRequest) -> Place:
        """Return the place that a request asks for: what is none is the beginning."""
        found = _place.fullmatch(request.GET.get(PAGE_VAR, ""))
        if found is None:
            return cls()
        part, before, upto = (int(each or 0) for each in found.groups())
        # A first page is number 1 elsewhere in the admin.
        return cls(part, before if before > 1 else None, upto or None)

    def __str__(self) -> str:
        text = f"{self.before or 1}"
        text = f"{self.part}.{text}" if self.part else text
        return f"{text}-{self.upto}" if self.upto else text


class NewestList(ChangeList):
    """A list in one part, or in several of which each is in this order."""

    #: What the page's end tells.
    older: str = ""
    newest: str = ""
    is_cut = False
    is_newest_first = True

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Return the one order: any other would read and sort the table."""
        return ["-pk"]

    def parts(self) -> list[tuple[QuerySet[Any], Among | None]]:
        """Return the rows that are listed, and those among which they are looked for."""
        return [self.narrowed(self.queryset)]

    def narrowed(self, rows: QuerySet[Any]) -> tuple[QuerySet[Any], Among | None]:
        """Return the rows, and those among which they are looked for; None where an index has them.

        Where an index finds few for one of the filters, those are all that the others are tried on.
        """
        everything = self.model._default_manager.using(settings.DATABASE).all()
        if words_of(self.query) or not self.get_filters_params():
            return rows, None
        among = everything
        for spec in self.filter_specs:
            if isinstance(spec, IndexedBotFilter):
                among = spec.among(among)
            elif isinstance(spec, Served):
                served = spec.served(everything)
                ids = None if served is None else few(served)
                if ids is not None:
                    return rows.filter(pk__in=ids), None
        return rows, Among(among, LOOKED)

    def get_results(self, request: HttpRequest) -> None:
        """Find the rows of the page, and where the next begins."""
        place = Place.of(request)
        rows: list[Any] = []
        following: Place | None = None
        parts = list(enumerate(self.parts()))
        for number, (part, among) in parts[place.part :]:
            if len(rows) == self.list_per_page:
                following = Place(number)
                break
            before = place.before if number == place.part else None
            found = newest(part, self.list_per_page - len(rows), before=before, among=among)
            rows += found.rows
            if found.further is not None:
                following, self.is_cut = Place(number, found.further, place.upto), found.is_cut
                break
        self.older = self.at(following) if following is not None else ""
        self.newest = "" if place == Place() else self.at(Place())
        self.result_list = rows
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count, self.show_admin_actions = False, True
        self.can_show_all, self.multi_page = False, False
        self.paginator = Paginator(rows, self.list_per_page)

    def at(self, place: Place) -> str:
        """Return the address of this list at a place."""
        return self.get_query_string({PAGE_VAR: f"{place}"})
