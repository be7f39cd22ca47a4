"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from django.core.cache import caches
from django.test import override_settings

from botsessions import clock


@pytest.fixture
def memory() -> Iterator[None]:
    """A cache "sessions" in memory, as docs/stores.md sets it up."""
    sessions = {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "sessions",
        "OPTIONS": {"MAX_ENTRIES": 500, "CULL_FREQUENCY": 500},
    }
    other = sessions | {"LOCATION": "other"}
    with override_settings(CACHES={"default": other, "sessions": sessions}):
        yield
        for cache in caches.all():
            cache.clear()


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], datetime]:
    """Stop the clock, so long after now."""
    start = clock.now()

    def stop(later: timedelta) -> datetime:
        moment = start + later
        monkeypatch.setattr(clock, "now", lambda: moment)
        return moment

    stop(timedelta())
    return stop
