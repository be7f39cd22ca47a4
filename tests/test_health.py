"""The addresses that tell how it is, through Django and through the ASGI door."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from botsessions import Router, clock
from botsessions.asgi import get_asgi_application
from botsessions.health import questions, views
from botsessions.models import BotUpdate, Heartbeat
from botsessions.operations import heartbeat
from botsessions.operations.heartbeat import beat, heartbeats
from botsessions.schedule import PERIODS
from tests.kit import Moment, configured
from tests.mailboxes.test_database_errors import database_away, kill_connection

#: What asks in threads of its own does not see what a test has not committed.
commits = pytest.mark.usefixtures("transactional_db")

router = Router()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine that answers stands still for as long as that."""
    monkeypatch.setattr(questions, "WITHIN", 10.0)


class Away(LocMemCache):
    """A cache whose server does not answer, and whose error tells too much."""

    def set(self, *arguments: Any, **options: Any) -> None:
        raise ConnectionError("redis://:password@cache.internal:6379 does not answer")


class Hanging(LocMemCache):
    """A cache whose server takes everything and answers nothing."""


class Forgetful(LocMemCache):
    """A cache that takes everything and keeps nothing, as memcached's clients do without one."""

    def get(self, key: Any, default: Any = None, version: Any = None) -> Any:
        return default


def cache(name: str) -> dict[str, dict[str, str]]:
    return {"default": {"BACKEND": f"{__name__}.{name}"}}


def ready(query: str = "") -> tuple[int, dict[str, Any]]:
    response = Client().get(f"/readyz{query}")
    assert response["Cache-Control"] == "no-store"
    return response.status_code, response.json()


def beat_all() -> None:
    for name in PERIODS:
        beat(name)


def stored(status: str = "pending", age: float = 0, bot: str = "demo") -> BotUpdate:
    return BotUpdate.objects.create(
        bot=bot, update_id=f"{time.perf_counter_ns()}", type="message", mailbox="demo:ann",
        status=status, received_at=clock.now() - timedelta(seconds=age),
    )  # fmt: skip


@contextmanager
def silent_server() -> Iterator[int]:
    """Listen on a port where connections are made and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# /healthz


def test_healthz_answers_without_a_database() -> None:
    """The test has no mark: pytest-django lets nothing through to the database."""
    response = Client().get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert response["Cache-Control"] == "no-store"


def test_no_login_is_asked_for() -> None:
    """Where the project's middleware asks for one everywhere else."""
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, required]):
        assert Client().get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_nothing_is_changed_by_a_look(path: str) -> None:
    for method in ("post", "put", "delete", "patch"):
        assert getattr(Client(), method)(path).status_code == 405


@commits
def test_a_head_request_has_the_status_alone() -> None:
    for path in ("/healthz", "/readyz"):
        response = Client().head(path)
        assert (response.status_code, response.content) == (200, b"")


# /readyz


@commits
def test_where_all_is_well_it_says_so_with_figures() -> None:
    beat_all()
    stored()
    stored("done", age=1000)
    stored("parked", age=1000)
    status, said = ready("?strict=1")
    checks = said["checks"]
    assert (status, said["status"]) == (200, "ok")
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(
        ["database", "cache", "pending", "beat"], "ok"
    )
    assert 0 < checks["database"]["seconds"] < 2
    assert 0 <= checks["cache"]["seconds"]["default"] < 2
    assert checks["pending"]["updates"] == 1
    assert 0 <= checks["pending"]["oldest_seconds"] < 60
    assert checks["beat"]["late"] == []
    assert set(checks["beat"]["seconds"]) == set(PERIODS)


@commits
def test_an_update_that_waits_for_too_long_is_degraded() -> None:
    beat_all()
    stored(age=50)
    stored(age=400, bot="other")
    status, said = ready()
    assert (status, said["status"]) == (200, "degraded")
    assert said["checks"]["pending"] | {"oldest_seconds": 0} == {
        "status": "degraded", "updates": 2, "oldest_seconds": 0,
    }  # fmt: skip
    assert 400 <= said["checks"]["pending"]["oldest_seconds"] < 460
    assert ready("?strict=1")[0] == 503
    with override_settings(BOTSESSIONS=configured(router, OLDEST_PENDING=1000)):
        assert ready("?strict=1")[0] == 200


@commits
def test_an_operation_that_is_late_or_was_never_done_is_degraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = Moment()
    monkeypatch.setattr(clock, "now", moment)
    beat_all()
    assert ready()[1]["status"] == "ok"
    moment.advance(179)
    for name in ("recover", "deadlines", "delete_messages", "erase"):
        beat(name)
    assert ready()[1]["status"] == "ok"
    moment.advance(2)
    status, said = ready()
    assert (status, said["status"]) == (200, "degraded")
    assert said["checks"]["beat"]["late"] == ["sweep"]
    assert said["checks"]["beat"]["seconds"]["sweep"] == 181
    beat("sweep")
    Heartbeat.objects.filter(name="prune").delete()
    status, said = ready("?strict=1")
    assert (status, said["checks"]["beat"]["late"]) == (200, [])  # it is new, and not known yet
    assert said["checks"]["beat"]["seconds"]["prune"] is None
    Heartbeat.objects.all().delete()
    status, said = ready("?strict=1")
    assert (status, said["checks"]["beat"]["late"]) == (503, list(PERIODS))


@commits
@pytest.mark.parametrize("is_new", [True, False])
def test_an_operation_that_never_succeeds_is_late_in_the_end(
    monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """It counts from the first beat of any; one that is new, from that of the next process."""
    moment = Moment()
    monkeypatch.setattr(clock, "now", moment)
    beat("sweep")
    if is_new:
        Heartbeat.objects.filter(name="prune").delete()
        heartbeat._begun.clear()
        beat("sweep")
    assert ready("?strict=1")[0] == 200
    for seconds, late in ((3 * 3600 - 1, []), (2, ["prune"])):
        moment.advance(seconds)
        for name in set(PERIODS) - {"prune"}:
            beat(name)
        assert ready()[1]["checks"]["beat"]["late"] == late


@commits
@pytest.mark.parametrize("name", ["Away", "Forgetful"])
def test_a_cache_that_is_away_is_degraded_and_its_address_stays_here(name: str) -> None:
    beat_all()
    with override_settings(CACHES=cache(name)):
        response = Client().get("/readyz")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["checks"]["cache"]["status"] == "degraded"
        assert response.json()["checks"]["database"]["status"] == "ok"
        assert b"password" not in response.content
        assert b"internal" not in response.content
        assert ready("?strict=1")[0] == 503
    with override_settings(CACHES={"default": {"BACKEND": caches.settings["default"]["BACKEND"]}}):
        assert ready("?strict=1")[0] == 200
    with override_settings(
        CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    ):
        assert ready("?strict=1")[0] == 200


@commits
def test_a_database_that_is_away_is_unavailable_and_one_that_is_back_is_ready(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beat_all()
    with database_away(monkeypatch):
        begun = time.monotonic()
        response = Client().get("/readyz")
        assert time.monotonic() - begun < 5
        assert (response.status_code, response.json()["status"]) == (503, "unavailable")
        checks = response.json()["checks"]
        assert checks["database"] == {"status": "unavailable", "seconds": None}
        assert checks["pending"]["updates"] is None
        assert checks["beat"]["late"] is None
        assert checks["cache"]["status"] == "ok"
        assert caplog.text.count("The database does not answer: ") == 1
        for secret in (b"127.0.0.1", b"nowhere", b"postgres", b"sqlite3"):
            assert secret not in response.content
        assert Client().get("/healthz").status_code == 200
    assert ready("?strict=1")[0] == 200


@commits
@pytest.mark.postgresql
def test_a_database_that_never_answers_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that drops everything: libpq waits for minutes."""
    if connection.vendor != "postgresql":
        pytest.skip("a file is there or not")
    connection.close()
    with silent_server() as port, monkeypatch.context() as patch:
        patch.setattr(questions, "WITHIN", 0.3)
        patch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        patch.setitem(connection.settings_dict, "PORT", str(port))
        begun = time.monotonic()
        assert ready()[0] == 503
        assert time.monotonic() - begun < 10
    beat_all()
    assert ready("?strict=1")[0] == 200


@commits
@pytest.mark.postgresql
def test_a_table_that_is_locked_is_given_up_by_the_server_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL locks a table against readers")
    monkeypatch.setattr(questions, "WITHIN", 2.0)
    beat_all()
    connection.set_autocommit(False)
    try:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE botsessions_botupdate IN ACCESS EXCLUSIVE MODE")
        status, said = ready()
        assert (status, said["status"]) == (200, "degraded")
        assert said["checks"]["database"]["status"] == "ok"
        assert said["checks"]["pending"]["status"] == "degraded"
        deadline = time.monotonic() + 10
        waiting = (
            "SELECT 1 FROM pg_locks"
            " WHERE NOT granted AND relation = 'botsessions_botupdate'::regclass"
        )
        with connection.cursor() as cursor:
            while cursor.execute(waiting).fetchone():
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        connection.rollback()
        connection.set_autocommit(True)


@commits
def test_a_connection_that_died_is_not_met() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL ends a single connection")
    beat_all()
    kill_connection()  # this thread's, as one that was left over from an earlier request
    try:
        assert ready("?strict=1")[0] == 200
    finally:
        connection.close()


@commits
def test_what_hangs_is_asked_once_and_holds_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each question keeps a thread: of each name there is one."""
    monkeypatch.setattr(questions, "WITHIN", 2.0)
    beat_all()
    free, asked = Event(), list[int]()

    def hang(*_: Any) -> None:
        asked.append(1)
        free.wait(20)

    monkeypatch.setattr(Hanging, "get", hang)
    try:
        with override_settings(CACHES=cache("Hanging")):
            for _ in range(30):
                status, said = ready()
                assert (status, said["status"]) == (200, "degraded")
                assert said["checks"]["database"]["status"] == "ok"
                assert said["checks"]["cache"]["status"] == "degraded"
            assert len(asked) == 1
            assert caplog.text.count("The cache 'default' does not answer: TimeoutError") == 1
    finally:
        free.set()
    ended(*questions._open)
    assert ready("?strict=1")[0] == 200


@commits
def test_many_who_look_at_once_share_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    beat_all()
    asked: list[int] = []

    def slow() -> dict[str, float | None]:
        asked.append(1)
        time.sleep(0.5)
        return heartbeats()

    def look(_: int) -> int:
        try:
            return ready("?strict=1")[0]
        finally:
            connections.close_all()

    monkeypatch.setattr(views, "heartbeats", slow)
    with ThreadPoolExecutor(30) as pool:
        assert set(pool.map(look, range(30))) == {200}
    assert len(asked) < 10


@commits
def test_a_question_that_never_ends_is_asked_anew_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it asks may be well again: each that is left to itself is waited for twice as long."""
    now = 1000.0
    monkeypatch.setattr(questions, "monotonic", lambda: now)
    monkeypatch.setattr(questions, "WITHIN", 0.01)
    free = Event()
    try:
        first = questions.asked("wall", lambda: free.wait(20))
        for seconds in (questions.LOST, 2 * questions.LOST, 4 * questions.LOST):
            now += seconds - 1
            before = questions.asked("wall", lambda: free.wait(20))
            assert before.answer() is None
            now += 1
            assert questions.asked("wall", lambda: free.wait(20)) is not before
        assert before is not first
    finally:
        free.set()
    ended("wall")


@commits
def test_a_password_in_an_error_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(CACHES=cache("Away")):
        assert ready()[1]["status"] == "degraded"
    assert "The cache 'default' does not answer: ConnectionError" in caplog.text
    assert "password" not in caplog.text


def ended(*names: str) -> None:
    """Wait until these questions have their answers."""
    deadline = time.monotonic() + 10
    while any(questions._open[name].hangs for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@commits
def test_a_question_is_a_few_statements_that_go_by_index() -> None:
    for number in range(30):
        stored("done" if number else "pending")
    with CaptureQueriesContext(connection) as queries:
        assert questions.waiting()["demo"][0] == 1
        assert questions.parked() == {}
        assert len(heartbeats()) == len(PERIODS)
    assert len(queries) == 3
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            plans = [
                cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}").fetchall()
                for query in queries.captured_queries[:2]
            ]
        assert "botsessions_pending" in f"{plans[0]}"
        assert "botsessions_parked" in f"{plans[1]}"


@commits
def test_a_beat_is_one_statement() -> None:
    beat("sweep")
    with CaptureQueriesContext(connection) as queries:
        beat("sweep")
    assert [query["sql"].split()[0] for query in queries] == ["UPDATE"]
    assert set(Heartbeat.objects.values_list("name", flat=True)) == set(PERIODS)


# Through the ASGI door


@commits
def test_the_asgi_door_hands_them_to_django() -> None:
    beat_all()
    door = get_asgi_application()

    async def get(path: str) -> tuple[int, dict[str, Any]]:
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "GET", "path": path, "query_string": b"strict=1",
            "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
            "server": ("localhost", 80), "client": ("127.0.0.1", 1), "root_path": "",
        }  # fmt: skip
        messages = [{"type": "http.request", "body": b""}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            return await asyncio.Future()

        async def send(message: Any) -> None:
            sent.append(message)

        await door(scope, receive, send)
        body = b"".join(each.get("body", b"") for each in sent[1:])
        return sent[0]["status"], json.loads(body)

    async def both() -> list[tuple[int, dict[str, Any]]]:
        return [await get("/healthz"), await get("/readyz")]

    (alive, _), (status, said) = async_to_sync(both)()
    assert (alive, status, said["status"]) == (200, 200, "ok")
