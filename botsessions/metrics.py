"""What happens, counted for Prometheus where its client library is installed, else not at all.

The engine's work is counted a batch at a time, when those who wait for the batch have their answer.
What the tables know (what waits, what is parked) is no metric of a process: it is read when the
page is asked for, and handed over as a `Figure`.

    pip install "django-botsessions[metrics]"

With PROMETHEUS_MULTIPROC_DIR in the environment, several processes of one machine count into the
files of that folder, and each tells the sum:
https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botsessions import clock
from botsessions.exceptions import (
    Forbidden,
    InvalidRequest,
    PlatformError,
    RateLimited,
)
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Outcome,
    Waiting,
)
from botsessions.updates import ACCESS

try:
    import prometheus_client as library
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

if TYPE_CHECKING:
    from botsessions.delivery import Delivery

R = TypeVar("R")
#: One of the library's, or `Nothing`.
Metric = Any

log = logging.getLogger("botsessions.metrics")

#: The folder in which the processes of one machine count together; "" where each is by itself.
SHARED: Final = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "") if IS_INSTALLED else ""
if SHARED:
    os.makedirs(SHARED, exist_ok=True)

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
WAITS: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
UPDATES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
#: What an attempt that is not done yet counts as; any other is a retry.
OUTCOMES: Final = {Effect.PARKED: "parked", Effect.HELD: "held"}
BYTES: Final = (64, 256, 1024, 4096, 16384, 65536)


class Nothing:
    """A metric where the library is not installed."""

    def labels(self, *values: str) -> Nothing:
        return self

    def inc(self, amount: float = 1) -> None: ...

    def observe(self, amount: float) -> None: ...


def _counter(name: str, says: str, *labels: str) -> Metric:
    return library.Counter(f"botsessions_{name}", says, labels) if IS_INSTALLED else Nothing()


def _histogram(name: str, says: str, *labels: str, buckets: Sequence[float]) -> Metric:
    if not IS_INSTALLED:
        return Nothing()
    return library.Histogram(f"botsessions_{name}", says, labels, buckets=buckets)


RECEIVED: Final = _counter(
    "updates_received", "Updates that came in, by what was decided.", "bot", "decision"
)
HANDLED: Final = _counter(
    "updates_handled", "Attempts that ended, by what became of the update.", "bot", "outcome"
)
LEASE_LOSSES: Final = _counter(
    "lease_losses", "Updates that could not be committed because their lease was lost.", "bot"
)
CONFLICTS: Final = _counter(
    "conflicts", "Updates handled anew because a session was saved meanwhile.", "bot"
)
SENDS: Final = _counter("sends", "Sends and calls, by the answer to each.", "bot", "status")
DELETIONS: Final = _counter(
    "deletions", "Messages of bulk deletions, by what became of them.", "bot", "outcome"
)
BATCH_UPDATES: Final = _histogram(
    "batch_updates", "Updates that went to the database together.", "verb", buckets=UPDATES
)
BATCH_SECONDS: Final = _histogram(
    "batch_seconds", "Seconds that a batch was in the database.", "verb", buckets=SECONDS
)
QUEUE_SECONDS: Final = _histogram(
    "queue_seconds", "Seconds that updates waited for their turn.", "bot", buckets=WAITS
)
STATE_BYTES: Final = _histogram(
    "state_bytes", "Sizes of the session data that was saved.", "bot", buckets=BYTES
)


def count(part: str, items: Sequence[Any], answer: object, seconds: float) -> None:
    """Count a part of the engine's turn and what the database answered; never raises."""
    counting = _PARTS.get(part)
    if counting is None or isinstance(answer, Exception):
        return
    try:
        counting(items, answer, seconds)
    except Exception:
        log.exception("The %s of a turn were not counted.", part)


def _admits(items: Sequence[tuple[Delivery, Arrival]], answer: Admitted, seconds: float) -> None:
    """Add the decisions up, so that each counter is touched but once."""
    handle, stored, duplicate = Admission.HANDLE, Admission.STORED, Admission.DUPLICATE
    decisions: dict[tuple[str, str], int] = {}
    for (delivery, _), decision in zip(items, answer.decisions, strict=True):
        if decision is handle:
            key = delivery.update.bot, "admitted"
        elif decision is stored:
            key = delivery.update.bot, "stored"
        else:
            key = delivery.update.bot, "duplicate" if decision is duplicate else "admitted"
        decisions[key] = decisions.get(key, 0) + 1
    _sum_up(RECEIVED, decisions)
    _batch("admit", len(items), seconds)
    _turns(answer.waiting)


def _commits(
    items: Sequence[tuple[Commit, Delivery | None]], answer: Committed, seconds: float
) -> None:
    """Add the outcomes up; what merely gives a mailbox back, or is an access, is no update."""
    committed, done = Outcome.COMMITTED, Effect.DONE
    outcomes: dict[tuple[str, str], int] = {}
    others: dict[tuple[Outcome, str], int] = {}
    sizes: dict[str, list[int]] = {}
    updates = 0
    for (commit, _), outcome in zip(items, answer.outcomes, strict=True):
        update = commit.update
        if update is None or update.type == ACCESS:
            continue
        updates += 1
        bot = update.bot
        if outcome is not committed:
            others[outcome, bot] = others.get((outcome, bot), 0) + 1
            continue
        if commit.effect is done:
            key = bot, "done"
        else:
            key = bot, OUTCOMES.get(commit.effect, "retry")
        outcomes[key] = outcomes.get(key, 0) + 1
        for save in commit.saves:
            if save.data is not None:
                sizes.setdefault(bot, []).append(len(save.data))
    _sum_up(HANDLED, outcomes)
    for (outcome, bot), number in others.items():
        if outcome in _FAILURES:
            _FAILURES[outcome].labels(bot).inc(number)
    for bot, found in sizes.items():
        observe = STATE_BYTES.labels(bot).observe
        for size in found:
            observe(size)
    if updates:
        _batch("commit", updates, seconds)
    _turns(answer.waiting)


def _recovers(items: Sequence[Any], answer: Sequence[Waiting], seconds: float) -> None:
    _turns(answer)


def _turns(waiting: Sequence[Waiting]) -> None:
    """Note how long these have waited for their turn; a further attempt waits as it is told to."""
    now = clock.now() if waiting else None
    for each in waiting:
        if now and each.received_at and not each.attempts and each.update.type != ACCESS:
            waited = (now - each.received_at).total_seconds()
            QUEUE_SECONDS.labels(each.update.bot).observe(max(0.0, waited))


def _sum_up(counter: Metric, numbers: Mapping[tuple[str, str], int]) -> None:
    for labels, number in numbers.items():
        counter.labels(*labels).inc(number)


def _batch(verb: str, updates: int, seconds: float) -> None:
    BATCH_UPDATES.labels(verb).observe(updates)
    BATCH_SECONDS.labels(verb).observe(seconds)


#: What counts updates that were not committed.
_FAILURES: Final = {Outcome.LEASE_LOST: LEASE_LOSSES, Outcome.CONFLICT: CONFLICTS}
#: How the parts of a turn are counted; those that are not here are not.
_PARTS: Final[Mapping[str, Callable[[Any, Any, float], None]]] = (
    {"admits": _admits, "commits": _commits, "recovers": _recovers} if IS_INSTALLED else {}
)


async def sent(bot: str, call: Awaitable[R]) -> R:
    """Wait for a call of the platform, return what it returns, and count how it was answered."""
    try:
        result = await call
    except PlatformError as error:
        _add(SENDS, 1, bot, _status(error))
        raise
    _add(SENDS, 1, bot, "ok")
    return result


def _status(error: PlatformError) -> str:
    if isinstance(error, RateLimited):
        return "rate_limited"
    if isinstance(error, Forbidden):
        return "forbidden"
    return "invalid" if isinstance(error, InvalidRequest) else "unavailable"


def delayed(bot: str) -> None:
    """Count a call that was not made, for its turn was too far off; never raises."""
    _add(SENDS, 1, bot, "delayed")


def deletions(bot: str, outcome: str, number: int = 1) -> None:
    """Count messages of a bulk deletion that came to this outcome; never raises."""
    _add(DELETIONS, number, bot, outcome)


def _add(metric: Metric, number: int, *labels: str) -> None:
    """Count more; what has happened is not to fail for it, as where the shared folder is full."""
    try:
        metric.labels(*labels).inc(number)
    except Exception:
        log.exception("%s was not counted.", labels)


@dataclass(frozen=True)
class Figure:
    """Something that is true at the moment, for every process alike.

    `values` are by the values of its labels.
    """

    name: str
    says: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


class _Figures:
    """Figures as the library collects them."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self.figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for each in self.figures:
            family = GaugeMetricFamily(f"botsessions_{each.name}", each.says, labels=each.labels)
            for labels, value in each.values.items():
                family.add_metric(labels, value)
            yield family


def page(figures: Iterable[Figure]) -> tuple[bytes, str]:
    """Return the page that Prometheus reads and its content type: every metric, and these figures.

    The other metrics of the process are on it too, as the library's own page has them.
    """
    registry = library.CollectorRegistry()
    registry.register(_Figures(figures))
    if SHARED:
        MultiProcessCollector(registry, SHARED)  # type: ignore[no-untyped-call]
        return library.generate_latest(registry), library.CONTENT_TYPE_LATEST
    pages = (library.generate_latest(each) for each in (library.REGISTRY, registry))
    return b"".join(pages), library.CONTENT_TYPE_LATEST
