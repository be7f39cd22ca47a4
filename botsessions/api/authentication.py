"""Who is asking: a program with a token, or somebody who is signed in with the browser."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from botsessions.api import tokens
from botsessions.api.models import ApiToken


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer bs_…`. What is wrong with a token is a 401, whatever else is sent."""

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        scheme, _space, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        # A header is latin-1, and what is no ASCII has no token.
        token = tokens.find(key.strip()) if key.isascii() else None
        if token is None:
            raise AuthenticationFailed(_("There is no such token."), "token_unknown")
        if token.is_expired:
            raise AuthenticationFailed(_("The token has expired."), "token_expired")
        if not token.user.is_active:
            raise AuthenticationFailed(_("The token's user is not active."), "user_inactive")
        tokens.note_use(token)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        """Return what a 401 asks for."""
        return 'Bearer realm="botsessions"'


class SessionAuthentication(authentication.SessionAuthentication):
    """Django's login, with its protection against forged requests."""
