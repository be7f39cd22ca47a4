"""What a program shows to be let in."""

from __future__ import annotations

from django.conf import settings as django_settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from botsessions import clock


class ApiToken(models.Model):
    """A key that acts as a user, for some bots or for all that the user may see.

    Of the key only a hash is stored: it is shown once, when it is made (`tokens.issue`). `prefix`
    is its beginning, by which people know it again.
    """

    name = models.CharField(_("name"), max_length=100)
    user = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="botsessions_tokens",
        verbose_name=_("user"),
    )
    digest = models.CharField(_("digest"), max_length=64, unique=True, editable=False)
    prefix = models.CharField(_("prefix"), max_length=16, editable=False)
    bots = models.JSONField(
        _("bots"),
        default=list,
        blank=True,
        help_text=_("The aliases of the bots that it is for; none of them: all."),
    )
    created_at = models.DateTimeField(_("created at"), editable=False)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= clock.now()
