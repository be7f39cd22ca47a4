"""The clock of the test kit: it stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from botsessions import clock


class VirtualClock:
    """Takes the place of `clock.now` while somebody uses it, and begins at the time of day then.

    All clients of a process share one: their bots live in one world.
    """

    def __init__(self) -> None:
        self._users = 0
        self._moment = clock.now()
        self._before: Callable[[], datetime] = clock.now

    def now(self) -> datetime:
        """Return the time that the test has come to, aware, in UTC."""
        return self._moment

    def move_to(self, moment: datetime) -> None:
        """Let it be that time; the clock never goes back."""
        self._moment = max(self._moment, moment)

    def start(self) -> None:
        """Take the place of the time of day, unless somebody else has let it do so before."""
        if not self._users:
            self._before, self._moment = clock.now, clock.now()
            clock.now = self.now
        self._users += 1

    def stop(self) -> None:
        """Put the time of day back, unless somebody else still uses this one."""
        self._users -= 1
        if not self._users and clock.now == self.now:
            clock.now = self._before


virtual = VirtualClock()
