"""Sliding windows: at most so many messages in any span of so many seconds, exactly.

A window is the times of the last messages, as many as its rate counts. What is asked for is granted
at a moment and used a little later, when the answer has come and the call is made: it is booked at
the latest moment at which it will be used, `lag` seconds from now, so that no span of the times at
which messages *arrive* has more of them than the rate allows. The scripts of `redis` do the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from botsessions.platforms.base import Rate

#: Moments that differ by less, in seconds, are one: they have gone through texts.
EXACT: Final = 1e-5
#: The most messages that a call makes, which says how far ahead of now anything can be booked.
MOST_IN_CALL: Final = 100


class Request(NamedTuple):
    """Room for a call that makes `cost` messages, in all of these windows or in none.

    One without a rate has pauses alone; so has every window where the cost is 0. `booked` is the
    moment for which it has room already, which is given back first: that came too late to be used,
    or was kept for it. Who waits for `patience` seconds has room kept where it makes several
    messages. One that `is_made` has been made by now, and is booked for now whatever room there is.
    """

    windows: Sequence[tuple[str, Rate | None]]
    cost: int
    booked: float = 0.0
    patience: float = 0.0
    is_made: bool = False


class Verdict(NamedTuple):
    """What became of a request: granted and booked, or to be made again after `wait` seconds.

    `key` is the window that stands longest in its way, `""` where it was granted. `booked` is the
    moment for which it was, or for which room is kept for it; 0 for none.
    """

    wait: float
    key: str
    booked: float = 0.0


class Windows(Protocol):
    """Where processes share their windows. The time is its own, so that they agree on it.

    Synchronous, for any thread. Both raise `Unavailable` where it cannot be reached.
    """

    def acquire(self, requests: Sequence[Request], lag: float) -> list[Verdict]:
        """Grant what there is room for, in order: see `decide`."""

    def pause(self, key: str, seconds: float) -> None:
        """Grant nothing in a window for so long from now; a longer pause stays as it is."""


class Window:
    """One window as it stands; `is_changed` once something was booked."""

    __slots__ = ("is_changed", "paused_until", "times")

    def __init__(self, times: Sequence[float] = (), paused_until: float = 0.0) -> None:
        self.times = list(times)
        self.paused_until = paused_until
        self.is_changed = False

    def due(self, rate: Rate | None, cost: int) -> float:
        """Return the moment from which it has room for so many messages.

        For more than the rate counts that is when the window is empty.
        """
        due = self.paused_until
        if rate is not None and cost:
            # All but the last of these must have left the window by then.
            oldest = len(self.times) - rate.count + min(cost, rate.count) - 1
            if oldest >= 0:
                due = max(due, self.times[oldest] + rate.seconds)
        return due

    def set_right(self, latest: float, now: float) -> None:
        """Take what is booked for after `latest` as booked for now.

        Nobody books so far ahead: the clock of the server was put back.
        """
        if self.times and self.times[-1] > latest:
            self.times = sorted(now if at > latest else at for at in self.times)
            self.is_changed = True

    def book(self, rate: Rate | None, cost: int, at: float) -> None:
        """Note so many messages; those beyond what the rate counts as if they followed."""
        if rate is not None and cost:
            self.times = sorted([*self.times, *_times(rate, cost, at)])[-rate.count :]
            self.is_changed = True

    def give_back(self, rate: Rate | None, cost: int, at: float) -> None:
        """Take back what was booked so, as far as it has not left the window."""
        for booked in _times(rate, cost, at) if rate is not None else ():
            nearest = min(self.times, key=lambda each: abs(each - booked), default=math.inf)
            if abs(nearest - booked) < EXACT:
                self.times.remove(nearest)
                self.is_changed = True


def _times(rate: Rate, cost: int, at: float) -> list[float]:
    return [at + number // rate.count * rate.seconds for number in range(cost)]


def decide(
    requests: Sequence[Request], windows: Mapping[str, Window], now: float, lag: float
) -> list[Verdict]:
    """Return what becomes of each request, and book those that are granted.

    Where one waits for a window, those after it wait for that too: or many small ones would never
    leave room for a large one. Those of other processes are kept from it by what is booked: room
    for a large one is, at the moment at which it is told to come again.
    """
    waited: dict[str, float] = {}
    verdicts = []
    for request in requests:
        for name, rate in request.windows:
            if rate is not None and request.cost:
                windows[name].set_right(now + lag + farthest(rate), now)
        for name, rate in request.windows if request.booked else ():
            windows[name].give_back(rate, request.cost, request.booked)
        late, key = now, ""
        for name, rate in () if request.is_made else request.windows:
            due = max(windows[name].due(rate, request.cost), waited.get(name, 0.0))
            if due > late:
                late, key = due, name
        if key:
            waited[key] = late
            at = 0.0
            keeps = request.cost > 1 and late - now <= request.patience
            for name, rate in request.windows if keeps else ():
                # What is farther off than the window is long needs nothing kept in it yet.
                if rate is not None and late - now <= rate.seconds + lag + EXACT:
                    at = late + lag
                    windows[name].book(rate, request.cost, at)
            verdicts.append(Verdict(late - now, key, at))
            continue
        at = now if request.is_made else now + lag
        for name, rate in request.windows:
            windows[name].book(rate, request.cost, at)
        verdicts.append(Verdict(0.0, "", at))
    return verdicts


def farthest(rate: Rate) -> float:
    """Return for how many seconds ahead there can be messages in a window of that rate."""
    return (MOST_IN_CALL // rate.count + 2) * rate.seconds + 1.0
