"""The front page: how much goes on, what waits, what failed.

It reads the newest rows of the large tables and no more. Where those do not reach back a day, the
hours are estimated from when rows spread over the ids were written: ids and times rise together.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Min, QuerySet, Subquery
from django.db.models.functions import TruncHour
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.timesince import timesince

from botsessions import clock
from botsessions.admin.base import bounded, may
from botsessions.admin.deletions import GOING_ON, bar
from botsessions.conf import settings
from botsessions.models import BotSession, BotUpdate, MessageDeletion, TrackedMessage

HOURS = 24
#: How many of the newest ids are counted exactly.
EXACT = 30_000
#: By how much each row that is asked for its time lies further back than the one before.
FURTHER = 1.04
#: How many open sessions are counted, and how many deletions shown.
OPEN = 100_000
DELETIONS = 5
#: The chart's height, and the room of an hour in it.
HEIGHT, STEP = 80, 20


class Bar(NamedTuple):
    """An hour of a chart. The numbers of the drawing are texts: they are in no language."""

    hour: datetime
    number: int
    x: str
    y: str
    height: str


class Chart(NamedTuple):
    """What came in each of the last hours."""

    bars: list[Bar]
    most: int
    total: int
    is_estimated: bool

    @classmethod
    def of(cls, counts: dict[datetime, int], *, is_estimated: bool) -> Chart:
        most = max(counts.values(), default=0)
        bars = []
        for place, (hour, count) in enumerate(sorted(counts.items())):
            height = max(round(HEIGHT * count / most), 2) if count else 0
            x, y = place * STEP + 2, HEIGHT - height
            bars.append(Bar(hour, count, f"{x}", f"{y}", f"{height}"))
        return cls(bars, most, sum(counts.values()), is_estimated)


def hourly(rows: QuerySet[Any], column: str) -> Chart:
    """Return how many rows there are of each of the last hours, the present one included."""
    this = timezone.localtime(clock.now()).replace(minute=0, second=0, microsecond=0)
    hours = [this - timedelta(hours=back) for back in reversed(range(HOURS))]
    newest = Subquery(rows.order_by("-pk").values("pk")[:1])
    # Where there is no upper end a planner expects a third of the table, and prepares for that.
    latest = rows.filter(pk__gt=newest - EXACT, pk__lte=newest).order_by()
    found = list(
        latest.annotate(hour=TruncHour(column))
        .values_list("hour")
        .annotate(count=Count("pk"), first=Min("pk"))
    )
    counts = dict.fromkeys(hours, 0)
    for hour, count, _first in found:
        if hour in counts:
            counts[hour] = count
    if not found or sum(count for _, count, _ in found) < EXACT // 2:
        return Chart.of(counts, is_estimated=False)
    if min(hour for hour, _, _ in found) < hours[0]:
        return Chart.of(counts, is_estimated=False)
    return Chart.of(_estimate(rows, column, hours), is_estimated=True)


def _estimate(rows: QuerySet[Any], column: str, hours: list[datetime]) -> dict[datetime, int]:
    newest = rows.order_by("-pk").values_list("pk", flat=True).first() or 0
    ids, back = [newest], 100.0
    while back < newest:
        ids.append(newest - int(back))
        back *= FURTHER
    probes = rows.filter(pk__in=ids).order_by("pk").values_list(column, "pk")
    points = [(at.timestamp(), pk) for at, pk in probes]
    edges = [hour.timestamp() for hour in hours] + [points[-1][0] + 1]
    places = [_at(points, edge) for edge in edges]
    return {
        hour: max(round(later - earlier), 0)
        for hour, earlier, later in zip(hours, places, places[1:], strict=False)
    }


def _at(points: list[tuple[float, int]], moment: float) -> float:
    """Return the id that was written at a moment, between the two that are known."""
    place = bisect_left(points, (moment, 0))
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (before, low), (after, high) = points[place - 1], points[place]
    return low + (high - low) * (moment - before) / ((after - before) or 1)


def overview(request: HttpRequest) -> dict[str, Any]:
    """Return what the front page shows to whoever asks: of each table, who may view it."""
    found: dict[str, Any] = {}
    using = settings.DATABASE
    if may(request, "view_botsession"):
        is_open = BotSession.objects.using(using).filter(is_open=True)
        found["open"] = bounded(is_open, OPEN)
        found["sessions_url"] = reverse("admin:botsessions_botsession_changelist")
    if may(request, "view_trackedmessage"):
        found["messages"] = hourly(TrackedMessage.objects.using(using), "sent_at")
    if may(request, "view_botupdate"):
        updates = BotUpdate.objects.using(using)
        found["updates"] = hourly(updates, "received_at")
        found["parked"] = bounded(updates.filter(status=BotUpdate.Status.PARKED))
        oldest = updates.filter(status=BotUpdate.Status.PENDING).aggregate(at=Min("received_at"))
        found["pending"] = timesince(oldest["at"], clock.now()) if oldest["at"] else ""
        found["updates_url"] = reverse("admin:botsessions_botupdate_changelist")
    if may(request, "view_messagedeletion"):
        going_on = MessageDeletion.objects.using(using).filter(status__in=GOING_ON).order_by("-pk")
        found["deletions"] = [(each, bar(each)) for each in going_on[:DELETIONS]]
        found["deletions_url"] = reverse("admin:botsessions_messagedeletion_changelist")
    return found
