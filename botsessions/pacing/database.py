"""The windows in the project's database: the rows of `RateWindow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from django.db import connections, transaction

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.pacing.window import Request, Verdict, Window, decide

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from botsessions.models import RateWindow

T = TypeVar("T")

#: Milliseconds that a transaction waits for a lock, and for what is to come of it: the process may
#: have been stopped in it.
LOCKED_FOR: Final = 500
IDLE_FOR: Final = 2_000
LIMITS: Final = (
    "SELECT set_config('lock_timeout', %s, true),"
    " set_config('idle_in_transaction_session_timeout', %s, true)"
)
#: Somebody clears away rows that have not been of use for long: who asks again makes new ones.
VANISHED: Final = "A row of RateWindow was just cleared away."


class DatabaseWindows:
    """The windows as rows, locked in the order of their keys while it is decided.

    Each verb is one short transaction, which is run again after a deadlock, and once more on a new
    connection where the old one has died. PostgreSQL ends one that waits for a lock, or for us, for
    too long: that is `Unavailable`. Within a transaction it is a part of that, and so is asked over
    a connection of its own, but for tests: see `shared`.
    """

    def acquire(self, requests: Sequence[Request], lag: float) -> list[Verdict]:
        keys = {key for request in requests for key, _ in request.windows}
        limited = {
            key for request in requests if request.cost for key, rate in request.windows if rate
        }
        if not limited:
            return self._run(lambda: self._read(requests, keys, lag))
        return self._transaction(lambda: self._decide(requests, keys, limited, lag))

    def pause(self, key: str, seconds: float) -> None:
        self._transaction(lambda: self._pause(key, seconds))

    def _read(self, requests: Sequence[Request], keys: set[str], lag: float) -> list[Verdict]:
        """Nothing is to be booked: look for pauses, and lock nothing."""
        windows = self._windows(self._rows.filter(key__in=keys, paused_until__gt=0), keys)
        paused = [key for key, window in windows.items() if window.paused_until]
        return decide(requests, windows, self._now(paused[0]) if paused else 0.0, lag)

    def _decide(
        self, requests: Sequence[Request], keys: set[str], limited: set[str], lag: float
    ) -> list[Verdict]:
        rows = self._lock(limited)
        others = self._rows.filter(key__in=keys - limited) if keys - limited else ()
        windows = self._windows([*rows.values(), *others], keys)
        # Asked now: while this waited for the locks others were granted what they booked.
        now = self._now(next(iter(rows)))
        verdicts = decide(requests, windows, now, lag)
        changed = []
        for key, row in rows.items():
            if windows[key].is_changed:
                row.times = windows[key].times
                row.updated_at = datetime.fromtimestamp(now, UTC)
                changed.append(row)
        if len(changed) == 1:
            changed[0].save(using=settings.DATABASE, update_fields=["times", "updated_at"])
        elif changed:
            self._rows.bulk_update(changed, ["times", "updated_at"])
        return verdicts

    def _pause(self, key: str, seconds: float) -> None:
        row = self._lock({key})[key]
        now = self._now(key)
        if row.paused_until < now + seconds:
            row.paused_until = now + seconds
            row.updated_at = datetime.fromtimestamp(row.paused_until, UTC)
            row.save(using=settings.DATABASE, update_fields=["paused_until", "updated_at"])

    @property
    def _rows(self) -> QuerySet[RateWindow]:
        # Models cannot be imported before the apps are ready.
        from botsessions.models import RateWindow

        return RateWindow.objects.using(settings.DATABASE)

    def _lock(self, keys: set[str]) -> dict[str, RateWindow]:
        """Lock the rows of these windows; those that are not there yet are inserted before."""
        from botsessions.models import RateWindow

        rows = self._rows.select_for_update().filter(key__in=keys).order_by("key")
        found = {row.key: row for row in rows}
        missing = sorted(keys - found.keys())
        if missing:
            new = [RateWindow(key=key, updated_at=clock.now()) for key in missing]
            # Where somebody else inserts one this waits for it, and finds it.
            self._rows.bulk_create(new, ignore_conflicts=True)
            rows = self._rows.select_for_update().filter(key__in=missing).order_by("key")
            found |= {row.key: row for row in rows}
            if keys - found.keys():
                raise Unavailable(VANISHED)
        return found

    def _windows(self, rows: Iterable[RateWindow], keys: Iterable[str]) -> Mapping[str, Window]:
        windows = {key: Window() for key in keys}
        windows |= {row.key: Window(row.times, row.paused_until) for row in rows}
        return windows

    def _now(self, key: str) -> float:
        """Return the time of the database, in seconds of the epoch; the row is to be there."""
        from botsessions.mailboxes.statements.orm import DatabaseClock

        found: datetime | None = (
            self._rows.filter(key=key).values_list(DatabaseClock(), flat=True).first()
        )
        if found is None:
            raise Unavailable(VANISHED)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()

    def _transaction(self, work: Callable[[], T]) -> T:
        def atomic() -> T:
            is_own = not connections[settings.DATABASE].in_atomic_block
            with transaction.atomic(using=settings.DATABASE):
                if is_own:
                    self._limit()
                return work()

        return self._run(atomic)

    def _limit(self) -> None:
        """Let the server wait for nobody for long: neither this for others, nor others for this."""
        connection = connections[settings.DATABASE]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(LIMITS, [f"{LOCKED_FOR}", f"{IDLE_FOR}"])

    def _run(self, work: Callable[[], T]) -> T:
        from botsessions.mailboxes.rerunning import rerun
        from botsessions.mailboxes.statements import statements_for

        return rerun(statements_for(connections[settings.DATABASE]), work)
