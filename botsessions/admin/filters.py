"""What lists are filtered by: each choice is known beforehand, none is looked for in a table."""

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

Choices = Iterable[tuple[Any, Any]]


class BotFilter(admin.SimpleListFilter):
    """By the configured bots, rather than by a look through the whole column."""

    title = _("bot")
    parameter_name = "bot"
    column = "bot"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Choices:
        return [(alias, alias) for alias in settings.BOTS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.column: self.value()}) if self.value() else queryset


class SessionBotFilter(BotFilter):
    """By the bot of the session that a row belongs to."""

    column = "session__bot"


class PlatformFilter(admin.SimpleListFilter):
    """By the platform that a bot is configured with."""

    title = _("platform")
    parameter_name = "platform"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> Choices:
        return [(name, name) for name in sorted({platform_of(each) for each in settings.BOTS})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        ours = [each for each in settings.BOTS if platform_of(each) == self.value()]
        return queryset.filter(bot__in=ours)


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


class InFlowFilter(admin.EmptyFieldListFilter):
    """By whether a flow waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = _("in a flow")

    def choices(self, changelist: Any) -> Iterator[Any]:
        words = (None, _("No"), _("Yes"))
        for choice, said in zip(super().choices(changelist), words, strict=True):
            yield {**choice, "display": said or choice["display"]}


class ExpiredFilter(YesNoFilter):
    """By whether a session's time is over, swept or not."""

    title = _("expired")
    parameter_name = "expired"

    def those(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.filter(expires_at__lt=clock.now())

    def others(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.exclude(expires_at__lt=clock.now())


class QuarantinedFilter(YesNoFilter):
    """By whether a value was put aside that did not fit the session's type."""

    title = _("quarantined data")
    parameter_name = "quarantined"

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
