"""The project with a worker and beat that are in a hurry, for tests that kill them."""

import os

# What the project itself reads.
os.environ.setdefault("PLAYGROUND", "false")

from botsessions.schedule import beat_schedule
from project import settings as configured
from project.settings import *  # noqa: F403

#: Seconds between the calls of each operation.
PERIOD = 0.5

BOTSESSIONS = {
    **configured.BOTSESSIONS,
    "BOTS": {
        "demo": {
            "PLATFORM": "tests.processes.operate.Slow",
            "ROUTER": "tests.processes.operate.router",
            "OPTIONS": {"secret": "s", "path": str(configured.VAR_DIR / "chat.sqlite3")},
        }
    },
    "LEASE": 2.0,
    "RENEW_EVERY": 0.5,
    "RECOVER_EVERY": PERIOD,
    "SWEEP_EVERY": PERIOD,
    "DEADLINES_EVERY": PERIOD,
    "DELETE_EVERY": PERIOD,
    "ERASE_EVERY": PERIOD,
    "PRUNE_EVERY": PERIOD,
}
CELERY_BEAT_SCHEDULE = beat_schedule(BOTSESSIONS)
CELERY_BEAT_MAX_LOOP_INTERVAL = 0.2
