"""Who may do what: Django's permissions on the models, and the actions' own beside them."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class MayDo(BasePermission):
    """Asks for the permission that the view's `needs` names for its action.

    That is asked before any row is looked for, so that nobody finds out what there is.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        user = request.user
        if user is None or not user.is_authenticated:
            return False
        if view.action in (None, "metadata"):
            return True  # there is no such method, which is for the view to say
        needed: str = view.needs[view.action]
        return bool(user.has_perm(f"botsessions.{needed}"))
