"""Updates: what failed comes first, with its traceback, to be replayed or dropped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions.admin.deeds import counted
from botsessions.admin.failures import Refused
from botsessions.admin.filters import BotFilter, StatusFilter
from botsessions.admin.lists import NewestList
from botsessions.admin.moments import about
from botsessions.admin.searching import FindsIds
from botsessions.admin.verbs import Verb, VerbAdmin
from botsessions.admin.visible import indented, line, preformatted
from botsessions.conf import settings
from botsessions.models import BotUpdate
from botsessions.operations import operators
from botsessions.operations.looking import Among, ids_of, lately

Status = BotUpdate.Status


def replay(rows: Sequence[BotUpdate], *, by: str) -> str:
    operators.bot_of(rows[0])
    if not operators.replay(rows[0]):
        raise Refused(_("it is neither parked nor held (any more)."))
    return _("Replayed the update.")


def drop(rows: Sequence[BotUpdate], *, by: str) -> str:
    if not operators.drop(rows[0]):
        raise Refused(_("it is neither parked nor held (any more)."))
    return _("Dropped the update.")


REPLAY = Verb(
    "replay",
    "replay_botupdate",
    gettext_lazy("Replay"),
    gettext_lazy(
        "The update is handled once more, as if it had never been tried, within seconds. What its "
        "handler had sent is not sent again."
    ),
    replay,
    partial(counted, "%(count)d update will be handled.", "%(count)d updates will be handled."),
)
DROP = Verb(
    "drop",
    "drop_botupdate",
    gettext_lazy("Drop"),
    gettext_lazy(
        "The update is done, and no handler sees it again. Payload and journal are deleted. This "
        "cannot be taken back."
    ),
    drop,
    partial(counted, "%(count)d update was dropped.", "%(count)d updates were dropped."),
    is_grave=True,
)


class ParkedFirst(NewestList):
    """What failed, then everything else: a query over both would sort the table."""

    def parts(self) -> list[tuple[QuerySet[Any], Among | None]]:
        rows, among = self.narrowed(self.queryset)
        return [
            (rows.filter(status=Status.PARKED), None),
            (rows.exclude(status=Status.PARKED), among),
        ]


@admin.register(BotUpdate)
class BotUpdateAdmin(FindsIds, VerbAdmin):
    verbs = (REPLAY, DROP)
    long_columns = ("payload", "journal", "error")
    list_display = (
        "id", "bot", "identity", "kind", "in_mailbox", "badge", "attempts", "due", "received",
        "finished",
    )  # fmt: skip
    list_filter = (("status", StatusFilter), BotFilter)
    # What is searched is said in `found`.
    search_fields = ("update_id__exact", "mailbox__exact")
    search_help_text = gettext_lazy(
        "An update or a mailbox: the whole id. Of a mailbox what waits, failed, or came lately."
    )
    fields = (
        "bot", "identity", "kind", "in_mailbox", "badge", "attempts", "due_at", "received_at",
        "finished_at", "traceback", "readable_payload", "readable_journal",
    )  # fmt: skip
    readonly_fields = (
        "identity", "kind", "in_mailbox", "badge", "traceback", "readable_payload",
        "readable_journal",
    )  # fmt: skip
    change_form_template = "admin/botsessions/acted_on.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        return ParkedFirst

    def found(self, request: HttpRequest, term: str) -> set[int]:
        """Find updates by their ids, and those of a mailbox that an index has or that are new."""
        rows = BotUpdate.objects.using(settings.DATABASE)
        theirs = rows.filter(mailbox=term)
        return ids_of(
            rows.filter(update_id=term),
            theirs.filter(Q(status=Status.PENDING) | Q(status=Status.HELD)),
            theirs.filter(status=Status.PARKED),
            lately(rows).filter(mailbox=term).order_by("-pk"),
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        update = self.get_object(request, object_id)
        links = []
        if update is not None and update.status in (Status.PARKED, Status.HELD):
            links = [
                {"label": verb.label, "url": self.url_to(verb, [update]), "name": verb.name}
                for verb in self.verbs_for(request)
            ]
        context = {"links": links, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    @admin.display(description=gettext_lazy("update id"))
    def identity(self, update: BotUpdate) -> str:
        return line(update.update_id)

    @admin.display(description=gettext_lazy("type"))
    def kind(self, update: BotUpdate) -> str:
        return line(update.type)

    @admin.display(description=gettext_lazy("mailbox"))
    def in_mailbox(self, update: BotUpdate) -> str:
        return line(update.mailbox)

    @admin.display(description=gettext_lazy("status"))
    def badge(self, update: BotUpdate) -> SafeString:
        return format_html(
            '<span class="bs-badge bs-{}">{}</span>', update.status, update.get_status_display()
        )

    @admin.display(description=gettext_lazy("due"))
    def due(self, update: BotUpdate) -> str:
        return about(update.due_at)

    @admin.display(description=gettext_lazy("received"))
    def received(self, update: BotUpdate) -> str:
        return about(update.received_at)

    @admin.display(description=gettext_lazy("finished"))
    def finished(self, update: BotUpdate) -> str:
        return about(update.finished_at)

    @admin.display(description=gettext_lazy("traceback"))
    def traceback(self, update: BotUpdate) -> SafeString:
        return preformatted(update.error)

    @admin.display(description=gettext_lazy("payload"))
    def readable_payload(self, update: BotUpdate) -> SafeString:
        return indented(update.payload)

    @admin.display(description=gettext_lazy("journal"))
    def readable_journal(self, update: BotUpdate) -> SafeString:
        return indented(update.journal)
