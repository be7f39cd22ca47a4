"""What a view says of itself in the schema."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from django.utils.translation import gettext_lazy as _
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import extend_schema

View = TypeVar("View", bound=Callable[..., Any])

#: Is it the API's own schema that is being made?
is_ours: ContextVar[bool] = ContextVar("is_ours", default=False)
#: What is said of the actions that need no words of their own.
USUAL: Final = {"list": _("List them, newest first."), "retrieve": _("Read one.")}


class NounSchema(AutoSchema):
    """Names each operation by its view's noun and what it does: `sessions_close`."""

    def is_excluded(self) -> bool:
        """Stay out of the project's own schema, whose settings are not ours."""
        return not is_ours.get()

    def get_operation_id(self) -> str:
        return f"{self.view.noun}_{self.view.action}"

    def get_description(self) -> str:
        said: str = super().get_description()
        return said or str(USUAL.get(self.view.action, ""))

    def get_tags(self) -> list[str]:
        return [self.view.noun]


def documented(**said: Any) -> Callable[[View], View]:
    """Return drf-spectacular's `extend_schema`, whatever schema class the project has chosen."""

    def decorate(view: View) -> View:
        view.kwargs = {"schema": NounSchema, **getattr(view, "kwargs", {})}  # type: ignore[attr-defined]
        return extend_schema(**said)(view)

    return decorate
