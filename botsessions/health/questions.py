"""What is asked of the database and the caches to know how it is, in threads that may hang."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.db import connections, transaction
from django.db.models import Count, Min

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import told
from botsessions.models import BotUpdate

R = TypeVar("R")

log = logging.getLogger("botsessions.health")

#: Seconds after which what has not answered counts as away.
WITHIN: Final = 2.0
#: Seconds after which one that hangs is left to itself and asked anew.
LOST: Final = 30.0
#: What a cache is given to keep.
KEPT: Final = "botsessions-health"


class Question(Generic[R]):
    """Something that is asked in a thread, and with connections, of its own.

    So what hangs holds up nobody for longer than `WITHIN`, whatever time limits the project has
    set, and a connection that died between two requests is never met. In a process there is one
    question of a name at a time: see `asked`.
    """

    def __init__(self, name: str, ask: Callable[[], R]) -> None:
        self.name = name
        self.seconds: float | None = None
        #: How many of that name before it were left to themselves.
        self.losses = 0
        self._ask = ask
        self._begun = monotonic()
        self._is_told = False
        self._answer: Future[R] = Future()
        Thread(target=self._run, name="botsessions-health", daemon=True).start()

    @property
    def is_open(self) -> bool:
        """Is its answer still to come? One that hangs is left to itself after a while, each longer
        than the last: it may never end, and what it asks may be well again.
        """
        return self.hangs and monotonic() - self._begun < LOST * 2**self.losses

    @property
    def hangs(self) -> bool:
        """Is there neither an answer yet nor an error?"""
        return not self._answer.done()

    def _run(self) -> None:
        try:
            try:
                answer = self._ask()
                self.seconds = round(monotonic() - self._begun, 4)
            finally:
                connections.close_all()
                caches.close_all()
        except Exception as error:
            self._answer.set_exception(error)
        else:
            self._answer.set_result(answer)

    def answer(self) -> R | None:
        """Return the answer, None where there is none in time; why is told to the log alone."""
        try:
            return self._answer.result(max(0.0, self._begun + WITHIN - monotonic()))
        except Exception as error:
            if not self._is_told:
                self._is_told = True
                log.warning("The %s does not answer: %s", self.name, told(error))
            return None


_open: dict[str, Question[Any]] = {}
_opening = Lock()


def asked(name: str, ask: Callable[[], R]) -> Question[R]:
    """Return the question of that name that is being asked, or ask it.

    Whoever comes meanwhile shares its answer: however many look, and however long something hangs,
    nothing waits for anything but what it is about.
    """
    with _opening:
        before = _open.get(name)
        if before is not None and before.is_open:
            return before
        question = _open[name] = Question(name, ask)
        if before is not None and before.hangs:
            question.losses = before.losses + 1
        return question


def in_database(read: Callable[[], R]) -> Callable[[], R]:
    """Return what reads from the database, whose server stops working on it in time as well."""

    def reads() -> R:
        connection = connections[settings.DATABASE]
        if connection.vendor != "postgresql":
            return read()
        with transaction.atomic(settings.DATABASE), connection.cursor() as cursor:
            limit = f"{WITHIN * 1000:.0f}"
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [limit])
            return read()

    return reads


def keeps(alias: str) -> Callable[[], bool]:
    """Return what finds out whether a cache keeps what it is given, as all but the dummy do."""

    def asks() -> bool:
        cache = caches[alias]
        cache.set(KEPT, KEPT, 60)
        return isinstance(cache, DummyCache) or cache.get(KEPT) == KEPT

    return asks


def waiting() -> dict[str, tuple[int, float]]:
    """Return by bot how many updates wait, and for how many seconds the oldest has."""
    rows = BotUpdate.objects.using(settings.DATABASE).filter(status=BotUpdate.Status.PENDING)
    found = rows.values_list("bot").annotate(Count("pk"), Min("received_at"))
    now = clock.now()
    return {bot: (number, max(0.0, (now - at).total_seconds())) for bot, number, at in found}


def parked() -> dict[str, int]:
    """Return by bot how many updates failed for good."""
    rows = BotUpdate.objects.using(settings.DATABASE).filter(status=BotUpdate.Status.PARKED)
    return dict(rows.values_list("bot").annotate(Count("pk")))
