"""What lists can be narrowed down by.

Ids are compared as a whole. On tables of many millions of rows a filter costs what its column says:
sessions are found by `chat` and by `search` through an index, and updates by the statuses that are
searched for. By anything else rows are read, newest first, until a page is full.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import django_filters
from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from botsessions import clock
from botsessions.models import BotSession, BotUpdate, Erasure, MessageDeletion, TrackedMessage


class KnownFilters(DjangoFilterBackend):
    """Refuses parameters that there are not, which would let through what was not meant."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> Any:
        filters = self.get_filterset_class(view, queryset)
        known = set(filters.base_filters if filters else ()) | {"cursor", "page_size"}
        unknown = sorted(set(request.query_params) - known)
        if unknown:
            raise ValidationError(
                {name: _("There is no such parameter.") for name in unknown}, "unknown"
            )
        return super().filter_queryset(request, queryset, view)


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


class SessionFilters(django_filters.FilterSet):
    bot = Text()
    chat = Text()
    user = Text(help_text=_("With `chat` it is found through the index, alone it is looked for."))
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
            "The whole id of a chat, or of a user: sessions of that chat, of the user's private "
            "chat, and of the user outside chats. Found through the index, however many there are."
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
        return rows.filter(Q(chat=value) | Q(chat="", user=value))


class MessageFilters(django_filters.FilterSet):
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

    class Meta:
        model = TrackedMessage
        fields: tuple[str, ...] = ()


class UpdateFilters(django_filters.FilterSet):
    status = django_filters.ChoiceFilter(choices=BotUpdate.Status.choices)
    bot = Text()
    mailbox = Text()
    type = Text()
    update_id = Text(help_text=_("The platform's id of the update."))

    class Meta:
        model = BotUpdate
        fields: tuple[str, ...] = ()


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
