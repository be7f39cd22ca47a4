"""What lists can be narrowed down by.

Ids are compared as a whole. On tables of many millions of rows an index finds some of what is
asked for wherever it is (`Narrowing`). For anything else rows are looked at, newest first, until a
page is full or enough were looked at for one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import django_filters
from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _
from django_filters.rest_framework import DjangoFilterBackend
from django_filters.utils import translate_validation
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from botsessions import clock
from botsessions.api import scope
from botsessions.models import BotSession, BotUpdate, Erasure, MessageDeletion, TrackedMessage
from botsessions.operations.looking import (
    LOOKED,
    LOOKED_APART,
    Among,
    few,
    of_chat_or_user,
    of_status,
)


class KnownFilters(DjangoFilterBackend):
    """Refuses parameters that there are not, which would let through what was not meant.

    Tells the view `among` which rows a page looks for what it shows; None where an index has it.
    """

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> Any:
        filters = self.get_filterset_class(view, queryset)
        known = set(filters.base_filters if filters else ()) | {"cursor", "page_size"}
        unknown = sorted(set(request.query_params) - known)
        if unknown:
            raise ValidationError(
                {name: _("There is no such parameter.") for name in unknown}, "unknown"
            )
        view.among = None
        filterset = self.get_filterset(request, queryset, view)
        if filterset is None:
            return queryset
        if not filterset.is_valid():
            raise translate_validation(filterset.errors)
        if not isinstance(filterset, Narrowing):
            return filterset.qs
        rows, view.among = filterset.narrowed(filterset.qs, scope.limited_to(request))
        return rows


@extend_schema_field(OpenApiTypes.BOOL)
class Flag(django_filters.TypedChoiceFilter):
    """`true` or `false`, and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        choices = (("true", "true"), ("false", "false"))
        super().__init__(*args, choices=choices, coerce=lambda text: text == "true", **kwargs)


@extend_schema_field(OpenApiTypes.DATETIME)
class Moment(django_filters.IsoDateTimeFilter):
    """A moment by ISO 8601, in the years that every database can reckon with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        span = (
            MinValueValidator(datetime(1900, 1, 1, tzinfo=UTC)),
            MaxValueValidator(datetime(9000, 1, 1, tzinfo=UTC)),
        )
        super().__init__(*args, validators=span, **kwargs)


class TextField(forms.CharField):
    """Tells a parameter that is empty from one that is absent."""

    empty_values = [None]


class Text(django_filters.CharFilter):
    """An id as a whole, as it is; `""` finds what has none."""

    field_class = TextField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, strip=False, empty_value=None, **kwargs)

    def filter(self, qs: QuerySet[Any], value: str | None) -> QuerySet[Any]:
        return qs if value is None else qs.filter(**{self.field_name: value})


class Narrowing(django_filters.FilterSet):
    """Filters of a large table."""

    #: Parameters of which an index finds whatever there is.
    indexed: ClassVar[frozenset[str]] = frozenset()

    def served(self, asked: dict[str, Any], rows: QuerySet[Any]) -> Iterable[QuerySet[Any]]:
        """Yield rows that are asked for, of which there may be few, in the order of an index."""
        return ()

    def among(self, rows: QuerySet[Any], bots: Sequence[str]) -> Among:
        """Return the rows among which others are looked for."""
        return Among(rows, LOOKED)

    def narrowed(
        self, rows: QuerySet[Any], bots: Sequence[str]
    ) -> tuple[QuerySet[Any], Among | None]:
        """Return what is asked for, and among what it is looked for; None where an index has it.

        `bots` are those that a token is limited to.
        """
        given = self.form.cleaned_data
        asked = {name: given[name] for name in self.data if given.get(name) is not None}
        if not (asked or bots) or any(asked.get(name) for name in self.indexed):
            return rows, None
        everything = rows.model._default_manager.using(rows.db).all()
        for each in self.served(asked, everything):
            ids = few(each)
            if ids is not None:
                return rows.filter(pk__in=ids), None
        return rows, self.among(everything, [asked["bot"]] if "bot" in asked else bots)


class BotText(Text):
    """The alias of a bot, whose sessions an index has in the order of their ids."""

    def filter(self, qs: QuerySet[Any], value: str | None) -> QuerySet[Any]:
        # The index is for statements that say so; see BotSession.
        return super().filter(qs if value is None else qs.filter(pk__gt=0), value)


class UserText(Text):
    """The id of a user, whose sessions an index has; it has none of those without a user."""

    def filter(self, qs: QuerySet[Any], value: str | None) -> QuerySet[Any]:
        return super().filter(qs.filter(user__gt="") if value else qs, value)


class SessionFilters(Narrowing):
    indexed = frozenset({"chat", "user", "search"})

    bot = BotText()
    chat = Text()
    user = UserText()
    thread = Text()
    qualifier = Text()
    is_open = Flag()
    has_flow = Flag(method="with_flow", help_text=_("Does a flow wait there, or an operator talk?"))
    expired = Flag(method="with_expiry", help_text=_("Has it expired, and not been swept yet?"))
    quarantined = Flag(method="with_quarantine", help_text=_("Has it data that fitted no type?"))
    updated_before = Moment(field_name="updated_at", lookup_expr="lt")
    updated_after = Moment(field_name="updated_at", lookup_expr="gte")
    search = django_filters.CharFilter(
        method="of_somebody",
        help_text=_(
            "The whole id of a chat, or of a user: sessions of that chat, and of that user in "
            "whatever chat. Found through an index, however many there are."
        ),
    )

    class Meta:
        model = BotSession
        fields: tuple[str, ...] = ()

    def with_flow(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        return rows.filter(flow__isnull=not value)

    def with_quarantine(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        return rows.filter(quarantined__isnull=not value)

    def with_expiry(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        now = clock.now()
        if value:
            return rows.filter(expires_at__lt=now)
        return rows.filter(Q(expires_at=None) | Q(expires_at__gte=now))

    def of_somebody(self, rows: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        return rows.filter(of_chat_or_user(value))

    def served(self, asked: dict[str, Any], rows: QuerySet[Any]) -> Iterable[QuerySet[Any]]:
        if asked.get("quarantined"):
            yield rows.filter(quarantined__isnull=False).order_by("pk")
        if asked.get("expired"):
            yield rows.filter(expires_at__lt=clock.now()).order_by("expires_at")
        if asked.get("is_open"):
            yield rows.filter(is_open=True).order_by("bot")

    def among(self, rows: QuerySet[Any], bots: Sequence[str]) -> Among:
        return Among(rows.filter(bot=bots[0], pk__gt=0) if len(bots) == 1 else rows, LOOKED)


class MessageFilters(Narrowing):
    direction = django_filters.ChoiceFilter(choices=TrackedMessage.Direction.choices)
    kind = Text()
    sent_before = Moment(field_name="sent_at", lookup_expr="lt")
    sent_after = Moment(field_name="sent_at", lookup_expr="gte")
    q = django_filters.CharFilter(
        field_name="text",
        lookup_expr="icontains",
        max_length=200,
        help_text=_(
            "Text that is in the message, in whatever case. Only this session is searched."
        ),
    )

    with_deleted = Flag(
        method="as_they_are",
        help_text=_("Are messages listed too that were deleted? Their texts are gone."),
    )

    class Meta:
        model = TrackedMessage
        fields: tuple[str, ...] = ()

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        found: QuerySet[Any] = super().filter_queryset(queryset)
        return found if self.form.cleaned_data["with_deleted"] else found.filter(deleted_at=None)

    def as_they_are(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        return rows

    def narrowed(
        self, rows: QuerySet[Any], bots: Sequence[str]
    ) -> tuple[QuerySet[Any], Among | None]:
        others = set(self.data) - {"with_deleted"}
        is_asked = any(self.form.cleaned_data.get(name) for name in others)
        return rows, Among(self.queryset, LOOKED_APART) if is_asked else None


class UpdateFilters(Narrowing):
    indexed = frozenset({"update_id"})

    status = django_filters.ChoiceFilter(choices=BotUpdate.Status.choices)
    bot = Text()
    mailbox = Text()
    type = Text()
    update_id = Text(help_text=_("The platform's id of the update."))

    class Meta:
        model = BotUpdate
        fields: tuple[str, ...] = ()

    def served(self, asked: dict[str, Any], rows: QuerySet[Any]) -> Iterable[QuerySet[Any]]:
        served = of_status(rows, asked.get("status", ""))
        if served is not None:
            yield served


class DeletionFilters(django_filters.FilterSet):
    bot = Text()
    status = django_filters.ChoiceFilter(choices=MessageDeletion.Status.choices)

    class Meta:
        model = MessageDeletion
        fields: tuple[str, ...] = ()


class ErasureFilters(django_filters.FilterSet):
    bot = Text()
    subject = Text(help_text=_("The pseudonym of whom was erased, from a receipt."))

    class Meta:
        model = Erasure
        fields: tuple[str, ...] = ()
