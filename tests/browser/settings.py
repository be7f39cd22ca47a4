"""Settings of the server that is looked at: the project's, in a hurry, with a bot that fails."""

from botsessions.schedule import beat_schedule
from project.settings import *  # noqa: F403
from project.settings import BOTSESSIONS

BOTSESSIONS["BOTS"]["demo"]["ROUTER"] = "tests.browser.bots.router"
BOTSESSIONS |= {
    "DELETE_EVERY": 0.5,
    "ERASE_EVERY": 0.5,
    "RECOVER_EVERY": 0.5,
    "RETRY_DELAY": 0.05,
}
CELERY_BEAT_SCHEDULE = beat_schedule(BOTSESSIONS)
