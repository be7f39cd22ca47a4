"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BotsessionsConfig(AppConfig):
    name = "botsessions"
    verbose_name = _("Bot sessions")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Read the settings and register the system checks."""
        from botsessions import checks  # noqa: F401
        from botsessions.conf import settings

        settings.read()
