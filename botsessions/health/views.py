"""The answers to those who watch the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from django.conf import settings as django_settings
from django.contrib.auth.decorators import login_not_required
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from botsessions import metrics
from botsessions.conf import settings
from botsessions.health.questions import Question, asked, in_database, keeps, parked, waiting
from botsessions.metrics import Figure
from botsessions.operations.heartbeat import heartbeats, late

Check = dict[str, Any]
View = Callable[[HttpRequest], HttpResponse]

OK: Final = "ok"
#: It goes on, but somebody should look.
DEGRADED: Final = "degraded"
#: This process can serve nothing.
UNAVAILABLE: Final = "unavailable"

PLAIN: Final = "text/plain; charset=utf-8"


def watched(view: View) -> View:
    """Let a view be looked at without a login, and its answer never be kept."""
    return login_not_required(cache_control(no_store=True)(require_safe(view)))


@watched
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process serves requests. No database and no cache is asked."""
    return JsonResponse({"status": OK})


@watched
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200, or 503 where the database does not answer, with what each check has found.

    Whatever else is wrong is `degraded`, and a 200 still: another process would do no better. With
    `?strict=1`, for an alarm rather than a load balancer, that is a 503 too.
    """
    # Begun together, so that what hangs is waited for together.
    beats = asked("database", in_database(heartbeats))
    pending = asked("table of updates", in_database(waiting))
    stores = {alias: asked(f"cache '{alias}'", keeps(alias)) for alias in caches}
    checks = {
        "database": check_database(beats),
        "cache": check_caches(stores),
        "pending": check_pending(pending),
        "beat": check_beat(beats),
    }
    found = {check["status"] for check in checks.values()}
    status = next(each for each in (UNAVAILABLE, DEGRADED, OK) if each in found)
    is_strict = request.GET.get("strict") == "1"
    is_refused = status == UNAVAILABLE or (is_strict and status != OK)
    return JsonResponse({"status": status, "checks": checks}, status=503 if is_refused else 200)


@watched
def metrics_page(request: HttpRequest) -> HttpResponse:
    """Answer what Prometheus reads to whoever has METRICS_TOKEN; without one, with `DEBUG` only."""
    if not metrics.IS_INSTALLED:
        text = _("There are no metrics here: install django-botsessions[metrics].")
        return HttpResponse(text, PLAIN, status=404)
    if not may_read(request):
        text = _("Set METRICS_TOKEN, and send it as: Authorization: Bearer <token>.")
        return HttpResponse(text, PLAIN, status=403)
    content, content_type = metrics.page(figures())
    return HttpResponse(content, content_type)


def may_read(request: HttpRequest) -> bool:
    """Does the request bring the token? Where none is set, is this a developer's machine?"""
    if not settings.METRICS_TOKEN:
        return bool(django_settings.DEBUG)
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and constant_time_compare(token, settings.METRICS_TOKEN)


def check_database(question: Question[Any]) -> Check:
    status = UNAVAILABLE if question.answer() is None else OK
    return {"status": status, "seconds": question.seconds}


def check_caches(questions: dict[str, Question[bool]]) -> Check:
    keep = [each.answer() for each in questions.values()]
    seconds = {alias: each.seconds for alias, each in questions.items()}
    return {"status": OK if all(keep) else DEGRADED, "seconds": seconds}


def check_pending(question: Question[dict[str, tuple[int, float]]]) -> Check:
    found = question.answer()
    if found is None:
        return {"status": DEGRADED, "updates": None, "oldest_seconds": None}
    oldest = max((seconds for _, seconds in found.values()), default=0.0)
    return {
        "status": DEGRADED if oldest > settings.OLDEST_PENDING else OK,
        "updates": sum(number for number, _ in found.values()),
        "oldest_seconds": round(oldest, 3),
    }


def check_beat(question: Question[dict[str, float | None]]) -> Check:
    found = question.answer()
    if found is None:
        return {"status": DEGRADED, "late": None, "seconds": None}
    overdue = late(found)
    seconds = {name: age and round(age, 3) for name, age in found.items()}
    return {"status": DEGRADED if overdue else OK, "late": overdue, "seconds": seconds}


def figures() -> Iterator[Figure]:
    """Yield what the tables know; where the database is away, that."""
    known = in_database(lambda: (waiting(), parked(), heartbeats()))
    found = asked("database (its figures)", known).answer()
    up = 0.0 if found is None else 1.0
    yield Figure("database_up", "Did the database answer?", (), {(): up})
    if found is None:
        return
    pending, failed, beats = found
    every = dict.fromkeys(settings.BOTS, (0, 0.0)) | pending
    yield Figure(
        "pending_updates",
        "Updates that are stored and not done.",
        ("bot",),
        {(bot,): number for bot, (number, _) in every.items()},
    )
    yield Figure(
        "oldest_pending_seconds",
        "How long the oldest of them has waited.",
        ("bot",),
        {(bot,): seconds for bot, (_, seconds) in every.items()},
    )
    yield Figure(
        "parked_updates",
        "Updates that failed for good.",
        ("bot",),
        {(bot,): failed.get(bot, 0) for bot in every | failed},
    )
    yield Figure(
        "heartbeat_seconds",
        "How long ago each operation was done.",
        ("operation",),
        {(name,): seconds for name, seconds in beats.items() if seconds is not None},
    )
