"""Heartbeats: when each operation that is to be done regularly was last done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.db import connections

from botsessions import clock
from botsessions.conf import settings
from botsessions.models import Heartbeat
from botsessions.schedule import PERIODS

#: After so many periods without it, an operation is late.
LATE_AFTER: Final = 3
#: … and so many seconds: a worker may be busy.
PATIENCE: Final = 60.0


def beat(name: str) -> None:
    """Note that an operation was done just now, in one statement. Raises Django's `DatabaseError`.

    It may be called in any number of processes.
    """
    features = connections[settings.DATABASE].features
    Heartbeat.objects.using(settings.DATABASE).bulk_create(
        [Heartbeat(name=name, at=clock.now())],
        update_conflicts=True,
        update_fields=["at"],
        # MySQL looks at every unique column by itself, and will not be told of one.
        unique_fields=["name"] if features.supports_update_conflicts_with_target else None,
    )


def heartbeats() -> dict[str, float | None]:
    """Return for each of `PERIODS` how many seconds ago it was done, None where it never was."""
    beaten = dict(Heartbeat.objects.using(settings.DATABASE).values_list("name", "at"))
    now = clock.now()
    return {
        name: max(0.0, (now - beaten[name]).total_seconds()) if name in beaten else None
        for name in PERIODS
    }


def late(beaten: Mapping[str, float | None]) -> list[str]:
    """Return which operations were last done too long ago, of what `heartbeats` found.

    Those that were never done are too, where none was: there is no beat. Otherwise their first time
    has not come yet.
    """
    if all(seconds is None for seconds in beaten.values()):
        return list(beaten)
    return [
        name
        for name, seconds in beaten.items()
        if seconds is not None
        and seconds > max(LATE_AFTER * getattr(settings, PERIODS[name]), PATIENCE)
    ]
