"""What an operator may do to rows: each verb with a permission, a page to confirm it, and a record.

A verb is done to one row from its page, or to those selected in a list, by the same page: a GET
says what will happen and to how many, the POST does it, tells what became of each and writes it to
the admin log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from botsessions.admin.base import ReadOnlyAdmin, may
from botsessions.admin.failures import FAILURES, why
from botsessions.admin.visible import line

Words = str | Promise
#: Does it to these rows, for whom, with what the form says; returns what is recorded of it.
Do = Callable[..., str]

#: How many rows a verb is done to that takes a turn of each one's mailbox.
AT_ONCE = 100
#: Seconds for which one request goes on to further rows.
SECONDS = 30.0
#: How many rows, and how many failures, are named.
NAMED = 20


def each_alone(rows: Sequence[Any]) -> Iterable[list[Any]]:
    """Let rows be dealt with one after another."""
    return ([row] for row in rows)


def by_bot(rows: Sequence[Any]) -> Iterable[list[Any]]:
    """Let all rows of a bot be dealt with at once."""
    bots: dict[str, list[Any]] = {}
    for row in rows:
        bots.setdefault(row.bot, []).append(row)
    return bots.values()


@dataclass(frozen=True)
class Verb:
    """One thing that may be done.

    `says` is what will happen, before it does; `told` how many it was done to, by `count`.
    """

    name: str
    permission: str
    label: Words
    says: Words
    do: Do
    #: None: what is recorded is told.
    told: Callable[[int], str] | None = None
    batches: Callable[[Sequence[Any]], Iterable[list[Any]]] = each_alone
    most: int = AT_ONCE
    #: Is it done to one row only, so that no list offers it?
    is_single: bool = False
    #: Can it not be taken back?
    is_grave: bool = False
    form: type[forms.Form] | None = None

    @property
    def action(self) -> str:
        """Its name among the actions of a list."""
        return self.name.replace("-", "_")


class VerbAdmin(ReadOnlyAdmin):
    """Rows to which something can be done."""

    # Not None, which would be no actions; they are the verbs.
    actions = ()
    verbs: ClassVar[tuple[Verb, ...]] = ()

    def verbs_for(self, request: HttpRequest) -> list[Verb]:
        """Return what whoever asks may do."""
        return [verb for verb in self.verbs if may(request, verb.permission)]

    def consequences(self, verb: Verb, rows: Sequence[Any]) -> list[str]:
        """Return what else there is to know before a verb is done to rows, a sentence each."""
        return []

    # Where it is done

    def get_urls(self) -> list[URLPattern]:
        act = path("act/<slug:name>/", self._wrapped(self.act), name=self.address("act"))
        return [act, *super().get_urls()]

    def _wrapped(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        wrapped: Callable[..., HttpResponse] = self.admin_site.admin_view(view)
        return wrapped

    def address(self, name: str) -> str:
        """Return what a view of these rows is called among the addresses."""
        return f"{self.opts.app_label}_{self.opts.model_name}_{name}"

    def url(self, name: str, *args: Any) -> str:
        """Return the address of such a view."""
        return reverse(f"admin:{self.address(name)}", args=args, current_app=self.admin_site.name)

    def url_to(self, verb: Verb, rows: Sequence[Model]) -> str:
        """Return the address of the page that confirms a verb."""
        return f"{self.url('act', verb.name)}?ids={','.join(str(row.pk) for row in rows)}"

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        if "_popup" in request.GET:
            return {}
        offered = [verb for verb in self.verbs_for(request) if not verb.is_single]
        return {verb.action: (partial(_choose, verb), verb.action, verb.label) for verb in offered}

    # Doing it

    def act(self, request: HttpRequest, name: str) -> HttpResponse:
        """Confirm a verb, or do it."""
        verb = next((verb for verb in self.verbs if verb.name == name), None)
        if verb is None:
            raise Http404
        if not (may(request, verb.permission) and self.has_view_permission(request)):
            raise PermissionDenied
        rows = self._rows(request, verb)
        if not rows:
            messages.warning(request, _("What was chosen is not there any more."))
            return HttpResponseRedirect(self.url("changelist"))
        data = request.POST if request.method == "POST" else None
        form = (verb.form or forms.Form)(data)
        if request.method == "POST" and form.is_valid():
            self._carry_out(request, verb, rows, form.cleaned_data)
            return HttpResponseRedirect(self._back(rows))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": verb.label,
            "verb": verb,
            "ids": ",".join(str(row.pk) for row in rows),
            "rows": [(line(row), self.url("change", row.pk)) for row in rows[:NAMED]],
            "unnamed": max(len(rows) - NAMED, 0),
            "consequences": self.consequences(verb, rows),
            "form": form,
            "media": self.media,
            "back": self._back(rows),
            "how_many": ngettext(
                "This is done to one %(row)s:", "This is done to %(count)d %(rows)s:", len(rows)
            )
            % {
                "count": len(rows),
                "row": self.opts.verbose_name,
                "rows": self.opts.verbose_name_plural,
            },
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/botsessions/confirm.html", context)

    def _rows(self, request: HttpRequest, verb: Verb) -> list[Any]:
        """Return the rows that a request names, in the list's order."""
        named = request.POST if request.method == "POST" else request.GET
        ids = [each for each in named.get("ids", "").split(",") if each.isdecimal()]
        most = 1 if verb.is_single else verb.most
        known = [int(each) for each in ids[:most] if len(each) < 19]
        return list(self.get_queryset(request).filter(pk__in=known).order_by(*self.ordering))

    def _back(self, rows: Sequence[Model]) -> str:
        if len(rows) == 1:
            return self.url("change", rows[0].pk)
        return self.url("changelist")

    def _carry_out(
        self, request: HttpRequest, verb: Verb, rows: Sequence[Any], options: dict[str, Any]
    ) -> None:
        """Do a verb to rows; tell what became of each, and record it."""
        by, until = request.user.get_username(), monotonic() + SECONDS
        done: list[Any] = []
        failed: list[str] = []
        left, note = 0, ""
        for batch in verb.batches(rows):
            if monotonic() > until:
                left += len(batch)
                continue
            try:
                note = verb.do(batch, by=by, **options)
            except FAILURES as error:
                failed += [_named(row, error) for row in batch]
            else:
                done += batch
                self.record(request, batch, note)
        if done:
            messages.success(request, verb.told(len(done)) if verb.told else note)
        for each in failed[:NAMED]:
            messages.error(request, each)
        if len(failed) > NAMED:
            more = len(failed) - NAMED
            messages.error(
                request,
                ngettext("%(count)d more failed.", "%(count)d more failed.", more)
                % {"count": more},
            )
        if left:
            messages.warning(
                request,
                ngettext(
                    "It took too long: %(count)d was left as it was.",
                    "It took too long: %(count)d were left as they were.",
                    left,
                )
                % {"count": left},
            )

    def record(self, request: HttpRequest, rows: Sequence[Model], note: str) -> None:
        """Write to the admin log what was done."""
        LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, note)  # type: ignore[arg-type]


def _named(row: Any, error: BaseException) -> str:
    return _("%(row)s: %(why)s") % {"row": line(row), "why": why(error)}


def _choose(
    verb: Verb, admin: VerbAdmin, request: HttpRequest, chosen: QuerySet[Any]
) -> HttpResponse | None:
    """Lead from a list to the page that confirms a verb for what was selected there."""
    if not may(request, verb.permission):
        raise PermissionDenied
    rows = list(chosen.order_by(*admin.ordering).only("pk")[: verb.most + 1])
    if len(rows) > verb.most:
        text = _("Choose at most %(most)d at a time. Nothing was done.") % {"most": verb.most}
        messages.error(request, text)
        return None
    return HttpResponseRedirect(admin.url_to(verb, rows))
