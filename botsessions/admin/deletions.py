"""Deletions with their progress, and receipts of erasures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions import operations
from botsessions.admin.base import ReadOnlyAdmin
from botsessions.admin.deeds import counted
from botsessions.admin.desk import number
from botsessions.admin.failures import Refused
from botsessions.admin.filters import BotFilter
from botsessions.admin.verbs import Verb, VerbAdmin
from botsessions.admin.visible import indented, line
from botsessions.conf import settings
from botsessions.models import DeletionChunk, Erasure, MessageDeletion

GOING_ON = (MessageDeletion.Status.GATHERING, MessageDeletion.Status.RUNNING)
#: How many chunks, of at most a hundred messages each, a page shows; how many bars are asked for.
CHUNKS = 2
BARS = 100


def cancel(rows: Sequence[MessageDeletion], *, by: str) -> str:
    if not operations.cancel_deletion(rows[0]):
        raise Refused(_("it is over already."))
    return _("Cancelled the deletion.")


CANCEL = Verb(
    "cancel",
    "cancel_messagedeletion",
    gettext_lazy("Cancel deletion"),
    gettext_lazy(
        "No more messages are asked for. Those that are deleted stay so, and the others stay on "
        "the platform; what was taken out of the transcripts does not come back."
    ),
    cancel,
    partial(counted, "%(count)d deletion was cancelled.", "%(count)d deletions were cancelled."),
    is_grave=True,
)


def bar(deletion: MessageDeletion) -> SafeString:
    """Return how far a deletion is, which the page keeps up to date while it goes on."""
    context = {
        "deletion": deletion,
        "is_going_on": deletion.status in GOING_ON,
        "is_counted": deletion.status != MessageDeletion.Status.GATHERING,
    }
    return render_to_string("admin/botsessions/progress.html", context)


@admin.register(MessageDeletion)
class MessageDeletionAdmin(VerbAdmin):
    verbs = (CANCEL,)
    long_columns = ("selection", "busy")
    list_display = (
        "id", "bot", "progress", "deleted", "gone", "too_old", "forbidden", "failed",
        "requested_by", "created_at", "finished_at",
    )  # fmt: skip
    list_filter = ("status", BotFilter)
    fields = (
        "bot", "through", "progress", "deleted", "gone", "too_old", "forbidden", "failed",
        "readable_selection", "requested_by", "created_at", "finished_at",
    )  # fmt: skip
    readonly_fields = ("progress", "readable_selection")
    change_form_template = "admin/botsessions/deletion.html"

    def get_urls(self) -> list[URLPattern]:
        bars = path("progress/", self._wrapped(self.bars), name=self.address("progress"))
        return [bars, *super().get_urls()]

    def bars(self, request: HttpRequest) -> HttpResponse:
        """Answer how far deletions are, by `ids`, as a fragment of HTML."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        ids = [number(each) for each in request.GET.get("ids", "").split(",")[:BARS]]
        found = self.get_queryset(request).filter(pk__in=[each for each in ids if each])
        return HttpResponse("".join(bar(each) for each in found))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": _("Deletions of messages"), **(extra_context or {})}
        return super().changelist_view(request, context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        deletion = self.get_object(request, object_id)
        context: dict[str, Any] = {"links": []}
        if deletion is not None and self.has_view_permission(request):
            context |= self._outcomes(deletion, number(request.GET.get("after", "")) or 0)
            if deletion.status in GOING_ON:
                context["links"] = [
                    {"label": verb.label, "url": self.url_to(verb, [deletion]), "name": verb.name}
                    for verb in self.verbs_for(request)
                ]
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))

    @staticmethod
    def _outcomes(deletion: MessageDeletion, after: int) -> dict[str, Any]:
        """Return what became of each message, a few chunks at a time."""
        words = {
            "deleted": _("deleted"), "gone": _("gone"), "too_old": _("too old"),
            "forbidden": _("forbidden"), "failed": _("failed"),
        }  # fmt: skip
        rows = DeletionChunk.objects.using(settings.DATABASE).filter(deletion=deletion.pk)
        chunks = list(rows.filter(pk__gt=after).order_by("pk")[: CHUNKS + 1])
        outcomes = []
        for chunk in chunks[:CHUNKS]:
            for id, *_rest in chunk.messages:
                outcome = chunk.outcomes.get(id, "")
                shown = words.get(outcome, outcome) or _("not yet")
                error = line(chunk.error) if outcome in ("", "failed") else ""
                outcomes.append((line(chunk.chat), line(id), shown, error))
        next_ = chunks[CHUNKS - 1].pk if len(chunks) > CHUNKS else None
        return {"outcomes": outcomes, "next": next_, "is_first": not after}

    @admin.display(description=gettext_lazy("progress"))
    def progress(self, deletion: MessageDeletion) -> SafeString:
        return bar(deletion)

    @admin.display(description=gettext_lazy("selection"))
    def readable_selection(self, deletion: MessageDeletion) -> SafeString:
        return indented(deletion.selection)


@admin.register(Erasure)
class ErasureAdmin(ReadOnlyAdmin):
    list_display = ("id", "bot", "kind", "subject", "requested_by", "created_at", "finished_at")
    list_filter = (BotFilter,)
    search_fields = ("subject__exact",)
    search_help_text = gettext_lazy("The pseudonym of whom was erased, whole.")
    fields = (
        "bot", "kind", "subject", "readable_counts", "deletion", "requested_by", "created_at",
        "finished_at",
    )  # fmt: skip
    readonly_fields = ("readable_counts",)

    @admin.display(description=gettext_lazy("rows by table"))
    def readable_counts(self, erasure: Erasure) -> SafeString:
        return indented(erasure.counts)
