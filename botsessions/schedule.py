"""When Celery beat sends each task: `CELERY_BEAT_SCHEDULE = beat_schedule(BOTSESSIONS)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botsessions.conf import Settings

#: The setting that has each operation's period, in seconds.
PERIODS: Final[Mapping[str, str]] = {
    "recover": "RECOVER_EVERY",
    "deadlines": "DEADLINES_EVERY",
    "sweep": "SWEEP_EVERY",
    "delete_messages": "DELETE_EVERY",
    "erase": "ERASE_EVERY",
    "prune": "PRUNE_EVERY",
}


def beat_schedule(configured: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Return Celery's `beat_schedule` for the operations of this app, to be merged with others.

    `configured` is `BOTSESSIONS`, as far as it is known where this is called: Django's settings are
    not read yet when their module runs. A hint that waited for longer than its period has been
    overtaken by the next, and expires.
    """
    schedule = {}
    for operation, setting in PERIODS.items():
        period = float((configured or {}).get(setting, getattr(Settings, setting)))
        schedule[f"botsessions.{operation}"] = {
            "task": f"botsessions.{operation}",
            "schedule": period,
            "options": {"expires": period},
        }
    return schedule
