"""Tracked messages of all sessions, for reading; one session's are on its page."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions.admin.base import ReadOnlyAdmin
from botsessions.admin.filters import SessionBotFilter
from botsessions.admin.searching import FindsIds
from botsessions.admin.visible import line, prose
from botsessions.conf import settings
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations.looking import ids_of, lately, of_chat_or_user

#: The beginning of a message's text, in characters, that a list shows.
EXCERPT = 60


@admin.register(TrackedMessage)
class TrackedMessageAdmin(FindsIds, ReadOnlyAdmin):
    long_columns = (
        "session__data", "session__quarantined", "session__flow", "session__last_flow"
    )  # fmt: skip
    list_display = (
        "id", "of_session", "chat", "message_id", "direction", "kind", "user", "excerpt", "sent_at",
    )  # fmt: skip
    list_filter = (SessionBotFilter, "direction", "is_service")
    list_select_related = ("session",)
    search_fields = ("chat__exact", "message_id__exact", "user__exact", "update_id__exact")
    # What is searched is said in `found`.
    search_help_text = gettext_lazy(
        "A chat or a user: the whole id, for up to 1,000 messages. A message or an update: the "
        "whole id, among the newest."
    )
    fields = (
        "of_session", "chat", "message_id", "direction", "kind", "is_service", "user", "business",
        "whole_text", "sent_at", "edited_at", "deleted_at", "outcome", "update_id", "ordinal",
    )  # fmt: skip
    readonly_fields = ("of_session", "whole_text")

    def found(self, request: HttpRequest, term: str) -> set[int]:
        """Find messages of the sessions of a chat or a user, and by any id among the newest."""
        sessions = BotSession.objects.using(settings.DATABASE).order_by("-pk")
        here = ids_of(sessions.filter(of_chat_or_user(term)))
        rows = TrackedMessage.objects.using(settings.DATABASE)
        ids = Q(chat=term) | Q(message_id=term) | Q(user=term) | Q(update_id=term)
        return ids_of(
            rows.filter(session__in=here).order_by("-session_id", "-pk"),
            lately(rows).filter(ids).order_by("-pk"),
        )

    @admin.display(description=gettext_lazy("session"))
    def of_session(self, message: TrackedMessage) -> str:
        return line(message.session)

    @admin.display(description=gettext_lazy("text"))
    def excerpt(self, message: TrackedMessage) -> str:
        if message.deleted_at is not None:
            return _("(cleared)")
        text = message.text
        return line(text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…")

    @admin.display(description=gettext_lazy("text"))
    def whole_text(self, message: TrackedMessage) -> SafeString:
        return prose(message.text)
