"""How often somebody may ask: API_RATE, for each token and each user who is signed in."""

from __future__ import annotations

import logging
import math
import re
import time
from typing import Any, Final, NamedTuple

from django.core.cache import cache
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from botsessions.api.models import ApiToken
from botsessions.conf import settings

log = logging.getLogger("botsessions.api")

SECONDS: Final = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
RATE: Final = re.compile(rf"([1-9][0-9]{{0,8}})/({'|'.join(SECONDS)})", re.ASCII)


class ApiRate(NamedTuple):
    """So many requests in so many seconds."""

    requests: int
    seconds: int


def read_rate(value: object) -> ApiRate | None:
    """Return the rate that a text as "600/min" names, None for None.

    Raises `ValueError` for anything else.
    """
    if value is None:
        return None
    found = RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no rate.")
    return ApiRate(int(found[1]), SECONDS[found[2]])


class RateThrottle(BaseThrottle):
    """Counts requests in windows of a second, a minute, an hour or a day, in the default cache.

    Processes share the count where they share the cache. While that is away nobody is refused.
    """

    def allow_request(self, request: Request, view: Any) -> bool:
        rate = read_rate(settings.API_RATE)
        if rate is None:
            return True
        now = time.time()
        window = int(now // rate.seconds)
        self._left = (window + 1) * rate.seconds - now
        key = f"botsessions:api:{_who(request)}:{rate.seconds}:{window}"
        try:
            cache.add(key, 0, rate.seconds * 2)
            return bool(cache.incr(key) <= rate.requests)
        except Exception:  # each cache has errors of its own
            log.warning("The cache does not count requests: nobody is refused.", exc_info=True)
            return True

    def wait(self) -> float:
        """Return how many seconds are left of the window."""
        return max(1.0, math.ceil(self._left))


def _who(request: Request) -> str:
    return f"t{request.auth.pk}" if isinstance(request.auth, ApiToken) else f"u{request.user.pk}"
