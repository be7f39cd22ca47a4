"""Tokens of the API in the admin: made, shown once, narrowed and taken back."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers
from django.utils.translation import gettext_lazy as _

from botsessions.api import tokens
from botsessions.api.models import ApiToken
from botsessions.conf import settings


class TokenForm(forms.ModelForm):
    """A token, with the configured bots to choose from."""

    bots = forms.MultipleChoiceField(required=False, widget=forms.CheckboxSelectMultiple)

    class Meta:
        model = ApiToken
        fields = ("name", "user", "bots", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = ApiToken._meta.get_field("bots")
        bots = self.fields["bots"]
        bots.label, bots.help_text = field.verbose_name, field.help_text
        # One that is configured no more can stay.
        known = dict.fromkeys([*settings.BOTS, *(self.instance.bots or ())])
        bots.choices = [(alias, alias) for alias in known]  # type: ignore[attr-defined]


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):
    """A token acts as its user. So only superusers make and see those of others."""

    form = TokenForm
    list_display = ("name", "prefix", "user", "shown_bots", "expires_at", "last_used_at")
    list_select_related = ("user",)
    ordering = ("-id",)
    search_fields = ("name__icontains", "prefix__startswith")
    readonly_fields = ("prefix", "created_at", "last_used_at")
    raw_id_fields = ("user",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        return rows if request.user.is_superuser else rows.filter(user=request.user.pk)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        user = ("user",) if request.user.is_superuser or obj is not None else ()
        written = ("name", *user, "bots", "expires_at")
        return (*written, *self.readonly_fields) if obj is not None else written

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "user") if obj is not None else self.readonly_fields

    @admin.display(description=_("bots"))
    def shown_bots(self, token: ApiToken) -> str:
        return ", ".join(token.bots) or str(_("all"))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        if not request.user.is_superuser:
            obj.user = request.user
        # Only the answer to this request has it: no message, no log, no session.
        request.botsessions_key = tokens.seal(obj)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the key, this once."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("The token is made"),
            "token": obj,
            "key": request.botsessions_key,  # type: ignore[attr-defined]
        }
        response = TemplateResponse(request, "botsessions_api/token.html", context)
        add_never_cache_headers(response)
        return response
