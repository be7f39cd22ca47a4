"""Who works on which mailbox, for reading."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from botsessions.admin import moments
from botsessions.admin.base import ReadOnlyAdmin
from botsessions.admin.visible import line
from botsessions.models import MailboxLease


@admin.register(MailboxLease)
class MailboxLeaseAdmin(ReadOnlyAdmin):
    # No ids here, and few rows: those that are being worked on.
    ordering = ("key",)
    list_display = ("mailbox", "holder", "age", "acquired_at", "expires_at")
    search_fields = ("key__exact",)
    search_help_text = _("A mailbox: the whole id.")
    fields = ("mailbox", "holder", "age", "acquired_at", "expires_at")
    readonly_fields = ("mailbox", "holder", "age")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    @admin.display(description=_("mailbox"))
    def mailbox(self, lease: MailboxLease) -> str:
        return line(lease.key)

    @admin.display(description=_("holder"))
    def holder(self, lease: MailboxLease) -> str:
        return line(lease.token)

    @admin.display(description=_("age"))
    def age(self, lease: MailboxLease) -> str:
        return moments.age(lease.acquired_at)
