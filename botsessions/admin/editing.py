"""The form in which an operator changes the data of a session."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from botsessions.admin.circumstances import contents
from botsessions.admin.visible import line, spelled
from botsessions.data import Misfit
from botsessions.mailboxes.slices import key_of
from botsessions.models import BotSession
from botsessions.operations import operators
from botsessions.operations.declared import type_of
from botsessions.versions import TooNew, name_of, upgrade


class DataForm(forms.Form):
    """JSON, and the version of the session that the operator saw."""

    json = forms.CharField(
        label=gettext_lazy("Data"),
        help_text=gettext_lazy("JSON. It is saved only where nobody has saved the session since."),
        widget=forms.Textarea(
            attrs={"rows": 18, "class": "bs-code", "spellcheck": "false", "dir": "ltr"}
        ),
        strip=False,
    )
    version = forms.IntegerField(widget=forms.HiddenInput, min_value=0)

    def clean_json(self) -> Any:
        """Return what the JSON says."""
        try:
            return msgspec.json.decode(self.cleaned_data["json"])
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise forms.ValidationError(
                _("This is no JSON: %(error)s"), params={"error": line(error)}, code="json"
            ) from error


def declared_type(session: BotSession) -> Any:
    """Return the type that the bot's code declares of a session, `Any` for none."""
    return type_of(operators.bot_of(session), key_of(session))


def type_name(type_: Any) -> str:
    """Return what a declared type is called, "" where there is none."""
    return "" if type_ is Any else line(name_of(type_))


def editable(session: BotSession, type_: Any) -> str:
    """Return the data as text to be edited: as its type has it now, where it can be so."""
    stored = contents(session)
    if stored is None:
        return "{}"
    try:
        fresh = upgrade(type_, stored) if type_ is not Any else stored
    except (TooNew, Misfit, ValueError):
        fresh = stored
    return spelled(json.dumps(msgspec.json.decode(fresh), ensure_ascii=False, indent=2))


def conflict() -> str:
    """Return what to do about somebody else's write."""
    return _(
        "Not saved: the session was saved by somebody else meanwhile. Your text is kept below; "
        "beside it is what is stored now. Saving once more replaces that."
    )
