"""The Django app of the API."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ApiConfig(AppConfig):
    name = "botsessions.api"
    label = "botsessions_api"
    verbose_name = _("Bot sessions: API")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system check, and how the schema names our authentication."""
        from botsessions.api import checks, schema  # noqa: F401
