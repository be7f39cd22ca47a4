"""What an operator does from a session's page: edit, answer, export, erase, read on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions import operations
from botsessions.admin import editing, transcript
from botsessions.admin.base import bounded, may
from botsessions.admin.failures import FAILURES, why
from botsessions.admin.transcript import Transcript
from botsessions.admin.verbs import VerbAdmin
from botsessions.admin.visible import line
from botsessions.conf import settings
from botsessions.exceptions import InvalidSessionData, SessionConflict
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations import operators

#: The longest message that an operator sends, in characters; platforms allow less.
LONGEST = 10_000


class SendForm(forms.Form):
    """A message to send as the bot."""

    text = forms.CharField(
        label=gettext_lazy("Message as the bot"),
        max_length=LONGEST,
        widget=forms.Textarea(attrs={"rows": 3, "dir": "auto"}),
    )

    def clean_text(self) -> str:
        """Return it with line breaks as chats have them, not as browsers send them."""
        return str(self.cleaned_data["text"]).replace("\r\n", "\n")


class ExportForm(forms.Form):
    """What to export, and how."""

    what = forms.ChoiceField(label=gettext_lazy("What"), widget=forms.RadioSelect)

    def __init__(self, session: BotSession, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [
            ("json", _("The transcript, as JSON")),
            ("csv", _("The transcript, as CSV for spreadsheets")),
            *(
                (kind, _("Everything stored of %(who)s, as JSON lines") % {"who": who})
                for kind, who in people(session)
            ),
        ]
        self.fields["what"].choices = choices  # type: ignore[attr-defined]
        self.fields["what"].initial = "json"


class EraseForm(forms.Form):
    """Whom to erase, and where."""

    whom = forms.ChoiceField(label=gettext_lazy("Whom"), widget=forms.RadioSelect)
    on_platform = forms.BooleanField(
        label=gettext_lazy("Delete their tracked messages on the platform too"), required=False
    )

    def __init__(self, session: BotSession, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = people(session)
        self.fields["whom"].choices = choices  # type: ignore[attr-defined]
        self.fields["whom"].initial = next((kind for kind, _ in choices), None)


def people(session: BotSession) -> list[tuple[str, str]]:
    """Return whom a session is about: the user and the chat, as far as it names them."""
    chat = session.chat.rpartition("/")[2]  # of a business or guest chat it is the last part
    found = [
        ("user", _("user %(id)s") % {"id": line(session.user)} if session.user else ""),
        ("chat", _("chat %(id)s, everybody in it") % {"id": line(chat)} if chat else ""),
    ]
    return [(kind, words) for kind, words in found if words]


def named(session: BotSession, kind: str) -> dict[str, str]:
    """Return the id of whom a choice of `people` means."""
    id = session.user if kind == "user" else session.chat.rpartition("/")[2]
    return {kind: id}


class DeskAdmin(VerbAdmin):
    """The pages beside a session's own."""

    def get_urls(self) -> list[URLPattern]:
        views = {
            "messages": self.messages_view,
            "data": self.data_view,
            "send": self.send_view,
            "export": self.export_view,
            "erase": self.erase_view,
        }
        own = [
            path(f"<int:pk>/{name}/", self._wrapped(view), name=self.address(name))
            for name, view in views.items()
        ]
        return [*own, *super().get_urls()]

    def _session(self, request: HttpRequest, pk: int, *codenames: str) -> BotSession:
        """Return a session for whoever may see it, and has these permissions too."""
        allowed = all(may(request, each) for each in codenames)
        if not (allowed and self.has_view_permission(request)):
            raise PermissionDenied
        session: BotSession = get_object_or_404(self.get_queryset(request), pk=pk)
        return session

    def _page(
        self, request: HttpRequest, template: str, session: BotSession, **context: Any
    ) -> TemplateResponse:
        request.current_app = self.admin_site.name
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "session": session,
            "name": line(session),
            "back": self.url("change", session.pk),
        }
        return TemplateResponse(request, f"admin/botsessions/{template}.html", shared | context)

    def _there(self, session: BotSession) -> HttpResponseRedirect:
        return HttpResponseRedirect(self.url("change", session.pk))

    # The transcript

    def messages_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the part of the transcript after or before a message, as a fragment of HTML."""
        session = self._session(request, pk, "view_trackedmessage")
        context = {"transcript": self.read(request, session), "session": session}
        return TemplateResponse(request, "admin/botsessions/messages.html", context)

    def read(self, request: HttpRequest, session: BotSession) -> Transcript:
        """Return the part of the transcript that a request asks for."""
        before, after = (number(request.GET.get(name, "")) for name in ("before", "after"))
        return Transcript(session.pk, before=before, after=after or 0)

    # What changes something

    def data_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the data in a form; save it, unless it does not fit or was saved meanwhile."""
        session = self._session(request, pk, "change_botsession")
        try:
            type_ = editing.declared_type(session)
            stored = editing.editable(session, type_)
        except FAILURES as error:
            self._tell(request, _("The data cannot be edited: %(why)s"), error)
            return self._there(session)
        form = editing.DataForm(initial={"json": stored, "version": session.version})
        meanwhile = None
        if request.method == "POST":
            form = editing.DataForm(request.POST.copy())
            if form.is_valid() and self._save(request, session, form):
                messages.success(request, _("The data was saved."))
                return self._there(session)
            if form.has_error("__all__", "conflict"):
                # Whoever saves once more has seen what is shown now.
                session = self._session(request, pk)
                meanwhile = editing.editable(session, type_)
                form.data["version"] = f"{session.version}"  # type: ignore[index]
        return self._page(
            request,
            "data",
            session,
            title=_("Edit data"),
            form=form,
            stored=meanwhile,
            type_name=editing.type_name(type_),
        )

    def _save(self, request: HttpRequest, session: BotSession, form: editing.DataForm) -> bool:
        try:
            operators.edit(session, form.cleaned_data["json"], form.cleaned_data["version"])
        except SessionConflict:
            form.add_error(None, forms.ValidationError(editing.conflict(), code="conflict"))
        except InvalidSessionData as error:
            form.add_error("json", line(error))
        except FAILURES as error:
            form.add_error(None, _("Not saved: %(why)s") % {"why": why(error)})
        else:
            self.record(request, [session], _("Edited the data."))
            return True
        return False

    def send_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Send a message as the bot."""
        session = self._session(request, pk, "send_botsession")
        form = SendForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                operators.send(session, form.cleaned_data["text"])
            except FAILURES as error:
                form.add_error(None, _("Not sent: %(why)s") % {"why": why(error)})
            else:
                size = len(form.cleaned_data["text"])
                self.record(
                    request, [session], _("Sent a message of %(n)d characters.") % {"n": size}
                )
                messages.success(request, _("Sent."))
                return self._there(session)
        title = _("Send a message")
        says = _("The message is sent in the bot's name, recorded, and the session is open then.")
        return self._form(request, session, form, title=title, says=says, submit=_("Send"))

    def export_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Hand out a transcript, or what is stored of somebody; that it was done is recorded."""
        session = self._session(request, pk, "export_botsession", "view_trackedmessage")
        form = ExportForm(session, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            what = form.cleaned_data["what"]
            try:
                content, ending, kind = self._exported(session, what)
            except FAILURES as error:
                form.add_error(None, _("Not exported: %(why)s") % {"why": why(error)})
            else:
                self.record(request, [session], _("Exported: %(what)s.") % {"what": what})
                name = f"session-{session.pk}.{ending}"
                disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
                return HttpResponse(content, content_type=kind, headers=disposition)
        title, says = _("Export"), _("A file is made for you to keep; nothing is changed.")
        return self._form(request, session, form, title=title, says=says, submit=_("Export"))

    def _exported(self, session: BotSession, what: str) -> tuple[Any, str, str]:
        """Return a file, its ending and its type. It is whole: an answer begun cannot fail."""
        match what:
            case "json":
                return transcript.as_json(session), "json", "application/json"
            case "csv":
                return transcript.as_csv(session), "csv", "text/csv; charset=utf-8"
        lines: Iterator[str] = operations.export(session.bot, **named(session, what))
        return "".join(f"{each}\n" for each in lines), "jsonl", "application/jsonl; charset=utf-8"

    def erase_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Begin to erase the user or the chat of a session."""
        session = self._session(request, pk, "erase_botsession")
        form = EraseForm(session, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                erasure = operations.begin_erasure(
                    session.bot,
                    **named(session, form.cleaned_data["whom"]),
                    delete_messages=form.cleaned_data["on_platform"],
                    requested_by=request.user.get_username(),
                )
            except FAILURES as error:
                form.add_error(None, _("Not erased: %(why)s") % {"why": why(error)})
            else:
                # Of the receipt, which names nobody.
                self.record(request, [erasure], _("Began to erase somebody."))
                messages.success(request, _("The erasure has begun, and goes on by itself."))
                return HttpResponseRedirect(self._receipt(request, erasure.pk))
        says = _(
            "Sessions with data, flows and transcripts, what they said elsewhere, and updates that "
            "wait are removed for good. A receipt stays that does not name them."
        )
        return self._form(
            request,
            session,
            form,
            title=_("Erase"),
            says=says,
            submit=_("Erase"),
            is_grave=True,
            consequences=self._affected(session),
        )

    def _receipt(self, request: HttpRequest, pk: int) -> str:
        if not may(request, "view_erasure"):
            return self.url("changelist")
        return reverse("admin:botsessions_erasure_change", args=[pk])

    def _affected(self, session: BotSession) -> list[str]:
        """Return how many sessions there are of each whom an erasure may be about."""
        rows, found = BotSession.objects.using(settings.DATABASE).filter(bot=session.bot), []
        if session.user:
            theirs = bounded(rows.filter(Q(user=session.user) | Q(chat=session.user)))
            found.append(_("Sessions of the user: %(count)s") % {"count": theirs})
        if session.chat:
            theirs = bounded(rows.filter(chat=session.chat))
            found.append(_("Sessions of the chat: %(count)s") % {"count": theirs})
        said = TrackedMessage.objects.using(settings.DATABASE).filter(session=session.pk)
        found.append(_("Messages in this session: %(count)s") % {"count": bounded(said)})
        return found

    def _form(
        self, request: HttpRequest, session: BotSession, form: forms.Form, **context: Any
    ) -> HttpResponse:
        return self._page(request, "form", session, form=form, **context)

    def _tell(self, request: HttpRequest, text: str, error: Exception) -> None:
        messages.error(request, text % {"why": why(error)})


def number(text: str) -> int | None:
    """Return an id that was asked for, None for what is none."""
    return int(text) if text.isdecimal() and len(text) < 19 else None
