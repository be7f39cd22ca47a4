"""What lists are filtered by: each choice is known beforehand, none is looked for in a table.

A filter says whether an index finds what is chosen; a list (`lists.NewestList`) looks for the rest
among the newest rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from botsessions import clock
from botsessions.conf import settings
from botsessions.models import BotSession
from botsessions.operations.looking import few, of_status

Choices = Iterable[tuple[Any, Any]]


class Served:
    """A filter of whose choices an index finds some."""

    def served(self, rows: QuerySet[Any]) -> QuerySet[Any] | None:
        """Return those of all rows that are chosen, in the index's order; None without one."""
        raise NotImplementedError


class BotFilter(admin.SimpleListFilter):
    """By the configured bots, rather than by a look through the whole column."""

    title = _("bot")
    parameter_name = "bot"
    column = "bot"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Choices:
        return [(alias, alias) for alias in settings.BOTS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.column: self.value()}) if self.value() else queryset


class IndexedBotFilter(BotFilter):
    """By the bot of a session: an index has each bot's in the order of their ids."""

    @property
    def alias(self) -> str | None:
        """The one bot whose sessions are chosen."""
        return self.value()

    def among(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows among which others are looked for."""
        return self.queryset(None, rows) if self.alias else rows  # type: ignore[arg-type]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        # The index is for statements that say so; see BotSession.
        return queryset.filter(bot=self.alias, pk__gt=0) if self.alias else queryset


class SessionBotFilter(Served, BotFilter):
    """By the bot of the session that a row belongs to."""

    column = "session__bot"

    def served(self, rows: QuerySet[Any]) -> QuerySet[Any] | None:
        sessions = BotSession.objects.using(rows.db).filter(bot=self.value(), pk__gt=0)
        ids = few(sessions.order_by("pk")) if self.value() else None
        return None if ids is None else rows.filter(session__in=ids).order_by("session_id")


class PlatformFilter(IndexedBotFilter):
    """By the platform that a bot is configured with."""

    title = _("platform")
    parameter_name = "platform"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Choices:
        return [(name, name) for name in sorted({platform_of(each) for each in settings.BOTS})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value() or self.alias:
            return super().queryset(request, queryset)
        return queryset.filter(bot__in=self._bots)

    @property
    def alias(self) -> str | None:
        return self._bots[0] if len(self._bots) == 1 else None

    @property
    def _bots(self) -> list[str]:
        return [each for each in settings.BOTS if platform_of(each) == self.value()]


def platform_of(alias: str) -> str:
    """Return the platform of a bot, whose settings may be wrong or gone."""
    configured = settings.BOTS.get(alias, {}).get("PLATFORM", "")
    name = configured if isinstance(configured, str) else getattr(configured, "__name__", "")
    return name.rpartition(".")[2].removesuffix("Platform").lower() or "-"


class YesNoFilter(admin.SimpleListFilter):
    """By something that is so or not."""

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Choices:
        return [("1", _("Yes")), ("0", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "1":
                return self.those(queryset)
            case "0":
                return self.others(queryset)
        return queryset

    def those(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows of which it is so."""
        raise NotImplementedError

    def others(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows of which it is not so."""
        raise NotImplementedError


class OpenFilter(Served, admin.BooleanFieldListFilter):
    """By whether a session tracks."""

    def served(self, rows: QuerySet[Any]) -> QuerySet[Any] | None:
        return rows.filter(is_open=True).order_by("bot") if self.lookup_val == "1" else None


class InFlowFilter(admin.EmptyFieldListFilter):
    """By whether a flow waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = _("in a flow")

    def choices(self, changelist: Any) -> Iterator[Any]:
        words = (None, _("No"), _("Yes"))
        for choice, said in zip(super().choices(changelist), words, strict=True):
            yield {**choice, "display": said or choice["display"]}


class ExpiredFilter(Served, YesNoFilter):
    """By whether a session's time is over, swept or not."""

    title = _("expired")
    parameter_name = "expired"

    def served(self, rows: QuerySet[Any]) -> QuerySet[Any] | None:
        return self.those(rows).order_by("expires_at") if self.value() == "1" else None

    def those(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.filter(expires_at__lt=clock.now())

    def others(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.exclude(expires_at__lt=clock.now())


class QuarantinedFilter(Served, YesNoFilter):
    """By whether a value was put aside that did not fit the session's type."""

    title = _("quarantined data")
    parameter_name = "quarantined"

    def served(self, rows: QuerySet[Any]) -> QuerySet[Any] | None:
        return self.those(rows).order_by("pk") if self.value() == "1" else None

    def those(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.filter(quarantined__isnull=False)

    def others(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.filter(quarantined__isnull=True)


class ActivityFilter(admin.SimpleListFilter):
    """By when a session was last saved."""

    title = _("last active")
    parameter_name = "active"
    within = {
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(days=7),
        "month": timedelta(days=30),
    }

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Choices:
        return [
            ("hour", _("Within an hour")),
            ("day", _("Within a day")),
            ("week", _("Within a week")),
            ("month", _("Within 30 days")),
            ("older", _("Longer ago")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value == "older":
            return queryset.filter(updated_at__lt=clock.now() - self.within["month"])
        if value in self.within:
            return queryset.filter(updated_at__gte=clock.now() - self.within[value])
        return queryset


class StatusFilter(Served, admin.ChoicesFieldListFilter):
    """By the status of an update."""

    def served(self, rows: QuerySet[Any]) -> QuerySet[Any] | None:
        status = (self.lookup_val or [""])[-1]
        # What is parked is a part of the list by itself.
        return None if status == "parked" else of_status(rows, status)
