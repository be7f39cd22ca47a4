"""The settings of `BOTSESSIONS`, each with its one default and a row in `docs/settings.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed


class Settings:
    """Typed access to `settings.BOTSESSIONS`, over the defaults below.

    It is read when the app is ready and whenever it changes, so that `override_settings` works.
    """

    #: The bots, by alias: PLATFORM, ROUTER, OPTIONS, KEY, STORE, ACK_AFTER.
    BOTS: dict[str, dict[str, Any]] = {}
    #: The session stores, by alias: BACKEND, OPTIONS.
    STORES: dict[str, dict[str, Any]] = {"default": {"BACKEND": "botsessions.stores.DatabaseStore"}}
    #: The database alias that holds mailboxes and sessions.
    DATABASE: str = "default"

    #: Seconds after which an update that is still being handled is stored and acknowledged.
    ACK_AFTER: float = 1.0
    #: How often a failing update is tried before it is parked.
    ATTEMPTS: int = 3
    #: Seconds before the second attempt; doubled before each further one.
    RETRY_DELAY: float = 1.0
    #: Updates that one process handles at a time.
    MAX_IN_FLIGHT: int = 1000
    #: Threads in which `def` handlers run.
    HANDLER_THREADS: int = 16
    #: Seconds for which a mailbox belongs to the process that took it, unless renewed.
    LEASE: float = 30.0
    #: Seconds between renewals of the leases that a process holds.
    RENEW_EVERY: float = 10.0
    #: Seconds between looks for acknowledged updates that a crashed process left behind.
    RECOVER_EVERY: float = 10.0
    #: Seconds that a stopping process gives its running handlers.
    SHUTDOWN_TIMEOUT: float = 10.0

    #: Seconds between the calls of each operation by Celery beat, beside RECOVER_EVERY.
    SWEEP_EVERY: float = 60.0
    DEADLINES_EVERY: float = 5.0
    DELETE_EVERY: float = 2.0
    ERASE_EVERY: float = 10.0
    PRUNE_EVERY: float = 3600.0
    #: How often the platform is asked for the deletion of messages that fails for the moment.
    DELETE_ATTEMPTS: int = 8
    #: The cache alias whose Redis keeps the rates of sends; any other cache leaves them to the
    #: database.
    RATE_CACHE: str = "default"
    #: Seconds that a send waits in its handler for its turn by the platform's rates.
    RATE_WAIT: float = 60.0

    MAX_BODY_BYTES: int = 1024 * 1024
    MAX_DATA_BYTES: int = 64 * 1024

    #: The https address under which platforms reach this server, for `bots webhook set`.
    WEBHOOK_URL: str = ""
    #: Seconds that the oldest pending update may have waited where all is well, to /readyz.
    OLDEST_PENDING: float = 300.0
    #: What a request for /metrics must bring as its bearer token; without one nobody may see them.
    METRICS_TOKEN: str = ""
    #: Requests to the API for each token and user, as "600/min"; None for no limit.
    API_RATE: str | None = "600/min"
    #: Serve the playground to everybody, not to staff alone.
    PLAYGROUND: bool = False

    def read(self, **changed: Any) -> None:
        """Take over what the project says; a receiver of Django's `setting_changed`."""
        if changed.get("setting", "BOTSESSIONS") == "BOTSESSIONS":
            vars(self).clear()
            configured = getattr(django_settings, "BOTSESSIONS", {})
            # What is no mapping is for the system check to say.
            vars(self).update(configured if isinstance(configured, Mapping) else {})


settings = Settings()
setting_changed.connect(settings.read)
