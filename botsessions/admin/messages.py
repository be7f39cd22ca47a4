"""Tracked messages of all sessions, for reading; one session's are on its page."""

from __future__ import annotations

from django.contrib import admin
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from botsessions.admin.base import ReadOnlyAdmin
from botsessions.admin.filters import SessionBotFilter
from botsessions.admin.visible import line, prose
from botsessions.models import TrackedMessage

#: The beginning of a message's text, in characters, that a list shows.
EXCERPT = 60


@admin.register(TrackedMessage)
class TrackedMessageAdmin(ReadOnlyAdmin):
    long_columns = (
        "session__data", "session__quarantined", "session__flow", "session__last_flow"
    )  # fmt: skip
    list_display = (
        "id", "of_session", "chat", "message_id", "direction", "kind", "user", "excerpt", "sent_at",
    )  # fmt: skip
    list_filter = (SessionBotFilter, "direction", "is_service")
    list_select_related = ("session",)
    search_fields = ("chat__exact", "message_id__exact", "user__exact", "update_id__exact")
    search_help_text = _("A chat, a message, a user or an update: the whole id.")
    fields = (
        "of_session", "chat", "message_id", "direction", "kind", "is_service", "user", "business",
        "whole_text", "sent_at", "edited_at", "update_id", "ordinal",
    )  # fmt: skip
    readonly_fields = ("of_session", "whole_text")

    @admin.display(description=_("session"))
    def of_session(self, message: TrackedMessage) -> str:
        return line(message.session)

    @admin.display(description=_("text"))
    def excerpt(self, message: TrackedMessage) -> str:
        text = message.text
        return line(text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…")

    @admin.display(description=_("text"))
    def whole_text(self, message: TrackedMessage) -> SafeString:
        return prose(message.text)
