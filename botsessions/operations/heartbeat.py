"""Heartbeats: when each operation that is to be done regularly was last done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from botsessions import clock
from botsessions.conf import settings
from botsessions.models import Heartbeat
from botsessions.schedule import PERIODS

#: After so many periods without it, an operation is late.
LATE_AFTER: Final = 3
#: … and so many seconds: a worker may be busy.
PATIENCE: Final = 60.0


#: Whether this process has noted, by database, from when on operations are to be done.
_begun: set[str] = set()


def beat(name: str) -> None:
    """Note that an operation was done just now, in one statement. Raises Django's `DatabaseError`.

    It may be called in any number of processes. The first beat of each counts as one of every
    operation that never had any: from then on one that does not come is late.
    """
    rows = Heartbeat.objects.using(settings.DATABASE)
    if settings.DATABASE not in _begun:
        _begin(name)
        _begun.add(settings.DATABASE)
    if not rows.filter(name=name).update(at=clock.now()):
        _begin(name)


def _begin(name: str) -> None:
    now = clock.now()
    new = [Heartbeat(name=each, at=now) for each in sorted({*PERIODS, name})]
    Heartbeat.objects.using(settings.DATABASE).bulk_create(new, ignore_conflicts=True)


def heartbeats() -> dict[str, float | None]:
    """Return for each of `PERIODS` how many seconds ago it was done, or the first beat was; None
    where there was none yet.
    """
    beaten = dict(Heartbeat.objects.using(settings.DATABASE).values_list("name", "at"))
    now = clock.now()
    return {
        name: max(0.0, (now - beaten[name]).total_seconds()) if name in beaten else None
        for name in PERIODS
    }


def late(beaten: Mapping[str, float | None]) -> list[str]:
    """Return which operations were last done too long ago, of what `heartbeats` found.

    Those that are not known are too, where none is: there was no beat. Otherwise they are new, and
    known with the next process.
    """
    if all(seconds is None for seconds in beaten.values()):
        return list(beaten)
    return [
        name
        for name, seconds in beaten.items()
        if seconds is not None
        and seconds > max(LATE_AFTER * getattr(settings, PERIODS[name]), PATIENCE)
    ]
