"""Tokens of the API: how they are made, found and noted as used."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.db.models import Q
from django.utils.crypto import constant_time_compare

from botsessions import clock
from botsessions.api.models import ApiToken
from botsessions.conf import settings

#: What every key begins with, so that those who look for leaked secrets find it.
BEGINNING: Final = "bs_"
#: How much of a key is shown afterwards, in characters.
SHOWN: Final = 9
#: How often a use is noted, at most: reading is not to write each time.
NOTED_EVERY: Final = timedelta(minutes=1)


def issue(
    user: AbstractBaseUser,
    *,
    name: str,
    bots: Iterable[str] = (),
    expires_in: timedelta | None = None,
) -> tuple[ApiToken, str]:
    """Make a token of a user for some bots, or for all, and return it with its key.

    The key is 256 random bits and stored nowhere. Raises `ValueError` for a bot that is not
    configured.
    """
    token = ApiToken(user_id=user.pk, name=name, bots=sorted(set(bots)))
    for alias in token.bots:
        if alias not in settings.BOTS:
            raise ValueError(f"There is no bot '{alias}' in BOTSESSIONS['BOTS'].")
    if expires_in is not None:
        token.expires_at = clock.now() + expires_in
    return token, seal(token)


def issue_for(username: str, *, bots: Iterable[str] = (), days: float | None = None) -> str:
    """Make a token for `manage.py bots token`, and return its key.

    Raises `ValueError` for a user or a bot that is not there, and for days that have passed.
    """
    users: Any = get_user_model()
    try:
        user = users._default_manager.get_by_natural_key(username)
    except users.DoesNotExist:
        raise ValueError(f"There is no user '{username}'.") from None
    if days is not None and not 0 < days < 36_500:
        raise ValueError("A token expires after a number of days, more than 0.")
    expires_in = None if days is None else timedelta(days=days)
    _, key = issue(user, name="manage.py", bots=bots, expires_in=expires_in)
    return key


def seal(token: ApiToken) -> str:
    """Give a new token its key, store it, and return the key."""
    key = BEGINNING + secrets.token_urlsafe(32)
    token.digest, token.prefix = _digest(key), key[:SHOWN]
    token.created_at = clock.now()
    token.save()
    return key


def find(key: str) -> ApiToken | None:
    """Return the token of a key with its user, whether or not it is still good."""
    digest = _digest(key)
    token = ApiToken.objects.select_related("user").filter(digest=digest).first()
    return token if token is not None and constant_time_compare(token.digest, digest) else None


def note_use(token: ApiToken) -> None:
    """Note that a token is used, at most once a minute."""
    now = clock.now()
    since = now - NOTED_EVERY
    if token.last_used_at is not None and token.last_used_at > since:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lte=since)
    ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)


def _digest(key: str) -> str:
    # A plain hash will do: nobody guesses 256 random bits, however fast.
    return sha256(key.encode()).hexdigest()
