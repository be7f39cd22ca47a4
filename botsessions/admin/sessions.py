"""Sessions: the list that operators search, and the page of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import (
    BooleanField,
    Case,
    CharField,
    ExpressionWrapper,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
    When,
)
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce, Length
from django.db.models.lookups import IsNull
from django.forms import Media
from django.forms.widgets import Script
from django.http import Http404, HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions import clock
from botsessions.admin import deeds
from botsessions.admin.base import bounded, may
from botsessions.admin.circumstances import (
    Waiting,
    answered_updates,
    contents,
    lease_of,
    mailbox_of,
    waiting_updates,
)
from botsessions.admin.desk import DeskAdmin, SendForm, number
from botsessions.admin.failures import FAILURES, why
from botsessions.admin.filters import (
    ActivityFilter,
    ExpiredFilter,
    IndexedBotFilter,
    InFlowFilter,
    OpenFilter,
    PlatformFilter,
    QuarantinedFilter,
    platform_of,
)
from botsessions.admin.lists import NewestList, Place
from botsessions.admin.moments import about, time_left
from botsessions.admin.searching import FindsIds, Searched, search, words_of
from botsessions.admin.verbs import Verb
from botsessions.admin.visible import indented, line, preformatted
from botsessions.conf import settings
from botsessions.flows import takeover
from botsessions.models import BotSession, BotUpdate, TrackedMessage

#: How many messages of each session a list counts.
MESSAGES = 99
#: In how many of a session's messages its user's name is looked for.
NAMED = 50

SCRIPT = Media(js=[Script("botsessions/admin/transcript.js", type="module")])  # type: ignore[list-item]


class Named(Subquery):
    """A name among the rows of a query, which the database reads no further than its limit."""

    template = "(SELECT MAX(bounded.name) FROM (%(subquery)s) AS bounded WHERE bounded.is_theirs)"
    output_field = CharField()


class Counted(Subquery):
    """How many rows a query has, which the database counts no further than the query's limit."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS bounded)"
    output_field = IntegerField()


class SessionList(NewestList):
    """A list that a search of what was said goes on with, to older messages."""

    model_admin: BotSessionAdmin
    #: Since when messages were searched, where there are older ones.
    said_since: datetime | None = None
    #: Does the link at the end lead to what is found in those?
    is_further = False

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not words_of(self.query):
            return
        searched = self.model_admin.searched(request, self.query)
        self.said_since = searched.since
        if not self.older and searched.further is not None:
            self.older, self.is_further = self.at(Place(upto=searched.further)), True


@admin.register(BotSession)
class BotSessionAdmin(FindsIds, DeskAdmin):
    verbs = (
        deeds.CLEAR, deeds.FORGET, deeds.CLOSE, deeds.RESET, deeds.END_FLOW, deeds.TAKE_OVER,
        deeds.HAND_BACK,
    )  # fmt: skip
    long_columns = ("data", "quarantined", "flow", "last_flow")
    list_display = (
        "who", "bot", "qualified", "is_open", "waits_in", "messages_counted", "active",
        "expires", "size",
    )  # fmt: skip
    list_filter = (
        IndexedBotFilter, PlatformFilter, ("is_open", OpenFilter), ("flow", InFlowFilter),
        ExpiredFilter, QuarantinedFilter, ActivityFilter,
    )  # fmt: skip
    # What is searched is said in `found`.
    search_fields = ("chat__exact", "user__exact")
    search_help_text = gettext_lazy(
        "A chat or a user, the whole id; or a part of what was said, or of the name of who said "
        "it: in the newest messages, and further back by the link at the end."
    )

    # The list

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"title": _("Sessions"), **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[NewestList]:
        return SessionList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        said = TrackedMessage.objects.filter(session=OuterRef("pk")).order_by()
        deleted = said.filter(deleted_at__isnull=False).values("session")
        theirs = ExpressionWrapper(Q(user=OuterRef("user")) & ~Q(name=""), BooleanField())
        named = said.annotate(is_theirs=theirs).values("name", "is_theirs")
        rows: QuerySet[Any] = super().get_queryset(request)
        rows = rows.annotate(
            flow_name=KT("flow__name"),
            # Where nothing was deleted, an index alone tells how many there are. No EXISTS asks
            # that: a planner may go through all that was ever deleted for it.
            message_count=Case(
                When(
                    IsNull(Subquery(deleted[:1]), True),
                    then=Counted(said.values("pk")[: MESSAGES + 1]),
                ),
                default=Counted(said.filter(deleted_at=None).values("pk")[: MESSAGES + 1]),
            ),
            data_size=Coalesce(Length(Cast("data", TextField())), Value(0)),
            said_by=Named(named[:NAMED]),
        )
        return rows

    def found(self, request: HttpRequest, term: str) -> set[int]:
        """Find sessions by whole ids, all of which they have, or by what was said."""
        return self.searched(request, term).sessions

    def searched(self, request: HttpRequest, term: str) -> Searched:
        """Return what a request's search finds. It is done once."""
        found: Searched | None = getattr(request, "_botsessions_searched", None)
        if found is None:
            upto = Place.of(request).upto
            found = search(words_of(term), upto, says=may(request, "view_trackedmessage"))
            request._botsessions_searched = found  # type: ignore[attr-defined]
        return found

    @admin.display(description=gettext_lazy("who"))
    def who(self, session: BotSession) -> SafeString:
        """The user's name, where it stands in the slice, and the ids of user and chat."""
        user, chat = line(session.user), line(session.chat)
        name = line(getattr(session, "said_by", None) or "") if user else ""
        if name and name != user:
            return format_html(
                '<bdi class="bs-who">{}</bdi> <span class="bs-quiet">{}{}</span>',
                name, user, "" if chat in ("", user) else f" {_('in')} {chat}",
            )  # fmt: skip
        if session.thread:
            chat = f"{chat} #{line(session.thread)}"
        if not user or user == chat:
            return format_html('<bdi class="bs-who">{}</bdi>', user or chat or "-")
        if not chat:
            return format_html('<bdi class="bs-who">{}</bdi>', user)
        return format_html(
            '<bdi class="bs-who">{}</bdi> <span class="bs-quiet">{} <bdi>{}</bdi></span>',
            user, _("in"), chat,
        )  # fmt: skip

    @admin.display(description=gettext_lazy("qualifier"), empty_value="")
    def qualified(self, session: BotSession) -> str:
        return line(session.qualifier)

    @admin.display(description=gettext_lazy("flow"))
    def waits_in(self, session: BotSession) -> str:
        name = getattr(session, "flow_name", None)
        if not name:
            return ""
        left = time_left(session.due_at)
        shown = _("operator") if name == takeover.NAME else line(name)
        return format_html(
            '<span class="bs-flow">{}</span> <span class="bs-quiet">{}</span>', shown, left
        )

    @admin.display(description=gettext_lazy("messages"))
    def messages_counted(self, session: Any) -> str:
        count = session.message_count
        return f"{MESSAGES}+" if count > MESSAGES else f"{count}"

    @admin.display(description=gettext_lazy("last active"))
    def active(self, session: BotSession) -> str:
        """When it was last saved."""
        return about(session.updated_at)

    @admin.display(description=gettext_lazy("expires"))
    def expires(self, session: BotSession) -> str:
        return about(session.expires_at)

    @admin.display(description=gettext_lazy("size"))
    def size(self, session: Any) -> str:
        """How much data is kept in the row; what another store keeps is not looked for."""
        return filesizeformat(session.data_size) if session.data_size else "-"

    # The page of one

    def consequences(self, verb: Verb, rows: Sequence[Any]) -> list[str]:
        told = []
        if verb in (deeds.CLEAR, deeds.FORGET, deeds.CLOSE):
            said = TrackedMessage.objects.using(settings.DATABASE).filter(deleted_at=None)
            count = bounded(said.filter(session__in=[row.pk for row in rows]))
            told.append(_("Messages in their transcripts: %(count)s") % {"count": count})
        if verb is deeds.END_FLOW:
            waiting = sum(bool(row.flow_name) for row in rows)
            told.append(_("With a flow that waits: %(count)d") % {"count": waiting})
        if verb is deeds.HAND_BACK:
            held = BotUpdate.objects.using(settings.DATABASE).filter(
                bot=rows[0].bot, mailbox=mailbox_of(rows[0]), status=BotUpdate.Status.HELD
            )
            told.append(_("Updates that came meanwhile: %(count)s") % {"count": bounded(held)})
        return told

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a session; what changes it has pages of its own."""
        if request.method not in ("GET", "HEAD") or not self.has_view_permission(request):
            raise PermissionDenied
        whole = self.get_queryset(request).defer(None)
        session: Any = whole.filter(pk=number(object_id) or 0).first()
        if session is None:
            raise Http404
        flow = None if session.flow is None else Waiting(session.flow, session.due_at)
        context = {
            "title": line(session),
            "shown": {
                each: line(getattr(session, each))
                for each in ("chat", "user", "thread", "qualifier")
            }
            | {"mailbox": line(mailbox_of(session))},
            "media": self.media + SCRIPT,
            "platform": platform_of(session.bot),
            "is_known": session.bot in settings.BOTS,
            "is_expired": session.expires_at is not None and session.expires_at < clock.now(),
            "flow": flow,
            "flow_stored": indented(session.flow),
            "last_flow": None if session.last_flow is None else indented(session.last_flow),
            "quarantined": None if session.quarantined is None else indented(session.quarantined),
            "data": self._data(session),
            "size": self.size(session),
            "links": self._links(request, session, flow),
            "send_form": SendForm() if may(request, "send_botsession") else None,
            "can_edit": may(request, "change_botsession") and session.bot in settings.BOTS,
            **self._around(request, session),
        }
        return self._page(request, "session", session, **context, **(extra_context or {}))

    def _around(self, request: HttpRequest, session: BotSession) -> dict[str, Any]:
        """Return what of other tables whoever asks may see beside a session."""
        found: dict[str, Any] = {"transcript": None, "mailbox": mailbox_of(session)}
        if may(request, "view_trackedmessage"):
            found["transcript"] = self.read(request, session)
        if may(request, "view_mailboxlease"):
            found["lease"] = lease_of(found["mailbox"])
            found["sees_lease"] = True
        if may(request, "view_botupdate"):
            waiting = waiting_updates(session, found["mailbox"])
            shown = found["transcript"]
            found["updates"] = waiting + answered_updates(
                session, shown.updates if shown else set()
            )
            found["held"] = sum(each.status == BotUpdate.Status.HELD for each in waiting)
            found["sees_updates"] = True
        return found

    def _data(self, session: BotSession) -> SafeString:
        try:
            stored = contents(session)
        except FAILURES as error:
            return preformatted(_("The data cannot be read: %(why)s") % {"why": why(error)})
        return indented(None if stored is None else msgspec.json.decode(stored))

    def _links(
        self, request: HttpRequest, session: BotSession, flow: Waiting | None
    ) -> list[dict[str, Any]]:
        """Return what may be done here, as links to the pages that confirm it."""
        links = []
        is_talking = flow is not None and flow.is_operator
        for verb in self.verbs_for(request):
            fits = {
                deeds.TAKE_OVER: not is_talking,
                deeds.HAND_BACK: is_talking,
                deeds.END_FLOW: flow is not None and not is_talking,
                deeds.CLOSE: session.is_open,
            }
            if fits.get(verb, True):
                url = self.url_to(verb, [session])
                links.append({"label": verb.label, "url": url, "name": verb.name})
        if may(request, "export_botsession") and may(request, "view_trackedmessage"):
            url = self.url("export", session.pk)
            links.append({"label": _("Export"), "url": url, "name": "export"})
        if may(request, "erase_botsession"):
            url = self.url("erase", session.pk)
            links.append({"label": _("Erase"), "url": url, "name": "erase"})
        url = self.url("history", session.pk)
        links.append({"label": _("History"), "url": url, "name": "history"})
        return links
