"""The admin: what is stored, for reading.

Everything that changes a session goes through its mailbox, so nothing is added, changed or deleted
here. The tables are large: a list takes a few queries whatever their size, counts no further than
`MAX_COUNT`, leaves long columns alone and searches whole ids.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.db.models.fields.json import KT
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from botsessions.conf import settings
from botsessions.models import (
    BotSession,
    BotUpdate,
    Erasure,
    MailboxLease,
    MessageDeletion,
    TrackedMessage,
)

#: The rows that a list counts and leads to; for others there are search and filters.
MAX_COUNT = 10_000
#: The beginning of a message's text, in characters, that a list shows.
EXCERPT = 60


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts up to `MAX_COUNT` rows, because the database would read every row to count them."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[:MAX_COUNT].count()


class BotFilter(admin.SimpleListFilter):
    """By the configured bots, rather than by a look through the whole column."""

    title = _("bot")
    parameter_name = "bot"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]
    ) -> list[tuple[str, str]]:
        return [(alias, alias) for alias in settings.BOTS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(bot=self.value()) if self.value() else queryset


class SessionBotFilter(BotFilter):
    """By the bot of the session that a row belongs to."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(session__bot=self.value()) if self.value() else queryset


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that machines write: to be seen by whoever has the permission to view them."""

    actions = None
    list_per_page = 50
    ordering = ("-id",)
    paginator = BoundedPaginator
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    #: Columns that a list does not need, and that may be long.
    long_columns: ClassVar[tuple[str, ...]] = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer(*self.long_columns)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(BotSession)
class BotSessionAdmin(ReadOnlyAdmin):
    long_columns = ("data", "quarantined", "flow", "last_flow")
    list_display = (
        "id", "bot", "chat", "user", "thread", "qualifier", "is_open", "waits_in", "due_at",
        "version", "expires_at", "updated_at",
    )  # fmt: skip
    list_filter = (BotFilter, "is_open", ("flow", admin.EmptyFieldListFilter))
    search_fields = ("chat__exact", "user__exact")
    search_help_text = _("A chat or a user: the whole id.")
    fields = (
        "bot", "chat", "user", "thread", "qualifier", "is_open", "matcher", "version", "expires_at",
        "created_at", "updated_at", "readable_data", "readable_quarantined", "due_at",
        "readable_flow", "readable_last_flow",
    )  # fmt: skip
    readonly_fields = (
        "readable_data", "readable_quarantined", "readable_flow", "readable_last_flow"
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(flow_name=KT("flow__name"))
        return rows

    @admin.display(description=_("flow"))
    def waits_in(self, session: BotSession) -> str:
        return getattr(session, "flow_name", None) or ""

    @admin.display(description=_("flow"))
    def readable_flow(self, session: BotSession) -> SafeString:
        return indented(session.flow)

    @admin.display(description=_("last flow"))
    def readable_last_flow(self, session: BotSession) -> SafeString:
        return indented(session.last_flow)

    @admin.display(description=_("data"))
    def readable_data(self, session: BotSession) -> SafeString:
        return indented(session.data)

    @admin.display(description=_("quarantined data"))
    def readable_quarantined(self, session: BotSession) -> SafeString:
        return indented(session.quarantined)


@admin.register(TrackedMessage)
class TrackedMessageAdmin(ReadOnlyAdmin):
    long_columns = (
        "session__data", "session__quarantined", "session__flow", "session__last_flow"
    )  # fmt: skip
    list_display = (
        "id", "session", "chat", "message_id", "direction", "kind", "user", "excerpt", "sent_at",
    )  # fmt: skip
    list_filter = (SessionBotFilter, "direction", "is_service")
    list_select_related = ("session",)
    search_fields = ("chat__exact", "message_id__exact", "user__exact", "update_id__exact")
    search_help_text = _("A chat, a message, a user or an update: the whole id.")

    @admin.display(description=_("text"))
    def excerpt(self, message: TrackedMessage) -> str:
        text = message.text
        return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


@admin.register(BotUpdate)
class BotUpdateAdmin(ReadOnlyAdmin):
    long_columns = ("payload", "journal", "error")
    list_display = (
        "id", "bot", "update_id", "type", "mailbox", "status", "attempts", "due_at", "received_at",
        "finished_at",
    )  # fmt: skip
    list_filter = ("status", BotFilter)
    search_fields = ("update_id__exact", "mailbox__exact")
    search_help_text = _("An update or a mailbox: the whole id.")
    fields = (
        "bot", "update_id", "type", "mailbox", "status", "attempts", "due_at", "received_at",
        "finished_at", "traceback", "readable_payload", "readable_journal",
    )  # fmt: skip
    readonly_fields = ("traceback", "readable_payload", "readable_journal")

    @admin.display(description=_("traceback"))
    def traceback(self, update: BotUpdate) -> SafeString:
        return preformatted(update.error)

    @admin.display(description=_("payload"))
    def readable_payload(self, update: BotUpdate) -> SafeString:
        return indented(update.payload)

    @admin.display(description=_("journal"))
    def readable_journal(self, update: BotUpdate) -> SafeString:
        return indented(update.journal)


@admin.register(MailboxLease)
class MailboxLeaseAdmin(ReadOnlyAdmin):
    # No ids here, and few rows: those that are being worked on.
    ordering = ("key",)
    list_display = ("key", "holder", "acquired_at", "expires_at")
    search_fields = ("key__exact",)
    search_help_text = _("A mailbox: the whole id.")
    fields = ("key", "holder", "acquired_at", "expires_at")
    readonly_fields = ("holder",)

    @admin.display(description=_("holder"), ordering="token")
    def holder(self, lease: MailboxLease) -> str:
        return lease.token


@admin.register(MessageDeletion)
class MessageDeletionAdmin(ReadOnlyAdmin):
    list_display = (
        "id", "bot", "status", "progress", "deleted", "gone", "too_old", "forbidden", "failed",
        "requested_by", "created_at", "finished_at",
    )  # fmt: skip
    list_filter = ("status", BotFilter)

    @admin.display(description=_("progress"))
    def progress(self, deletion: MessageDeletion) -> str:
        return f"{deletion.done:,} / {deletion.total:,}"


@admin.register(Erasure)
class ErasureAdmin(ReadOnlyAdmin):
    list_display = ("id", "bot", "kind", "subject", "requested_by", "created_at", "finished_at")
    list_filter = (BotFilter,)
    search_fields = ("subject__exact",)
    search_help_text = _("The pseudonym of whom was erased, whole.")
    fields = (
        "bot", "kind", "subject", "readable_counts", "deletion", "requested_by", "created_at",
        "finished_at",
    )  # fmt: skip
    readonly_fields = ("readable_counts",)

    @admin.display(description=_("rows by table"))
    def readable_counts(self, erasure: Erasure) -> SafeString:
        return indented(erasure.counts)


def indented(value: Any) -> SafeString:
    """Return JSON to be read by people."""
    if value is None:
        return preformatted("")
    return preformatted(json.dumps(value, ensure_ascii=False, indent=2))


def preformatted(text: str) -> SafeString:
    """Return a text whose line breaks and indentation are kept."""
    return format_html("<pre>{}</pre>", text or "-")
