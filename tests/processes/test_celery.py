"""Worker and beat: what is due is done although hints are lost and workers killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis

from tests.processes.database import Database, PostgreSQL, SQLite
from tests.processes.operate import BATCH, MESSAGES
from tests.services import postgresql_url, redis_url

ROOT = Path(__file__).parents[2]
WORKER = ["worker", "--pool", "threads", "--concurrency", "2", "--loglevel", "WARNING"]
WORKER += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
BEAT = ["beat", "--loglevel", "WARNING"]
#: How many chunks a task asks for at a time (`asking.AT_ONCE`).
AT_ONCE = 32
#: Seconds in which everything is done, of which two periods are one second; the platform's own
#: time for the messages, a kill's lease and slow machines are the rest.
DONE_WITHIN = 60.0


class Crew:
    """Workers and beats on one database and broker."""

    def __init__(self, folder: Path, database: Database, broker: str) -> None:
        self.folder, self.database, self.broker = folder, database, broker
        self.environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.processes.celery_settings",
            "VAR_DIR": str(folder),
            "DATABASE_URL": database.url,
            "REDIS_URL": broker,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def celery(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "--quiet", "-A", "project", *arguments]
        with (self.folder / f"log-{len(self.processes)}").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def operate(self, verb: str) -> str:
        command = [sys.executable, "-m", "tests.processes.operate", verb]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, check=True, text=True
        )
        return done.stdout

    def left(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.operate("left").splitlines()[-1])
        return found

    def outcomes(self) -> dict[str, str]:
        """Return what is known of which message."""
        known: dict[str, str] = {}
        for (outcomes,) in self.database.query("SELECT outcomes FROM botsessions_deletionchunk"):
            known |= json.loads(outcomes) if isinstance(outcomes, str) else outcomes
        return known

    def noted(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def empty_broker(self) -> None:
        """Lose every hint that was sent and not received."""
        if self.broker:
            Redis.from_url(self.broker).flushdb()
        else:
            for path in (self.folder / "broker").glob("*.msg"):
                path.unlink(missing_ok=True)

    def logged(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("log-*")))[-8000:]

    def wait_for(self, condition: Callable[[], object], seconds: float = DONE_WITHIN) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"Left after {seconds:g} s: {self.left()}\n{self.logged()}")
            time.sleep(0.1)

    def stop(self) -> None:
        for each in self.processes:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crew]:
    """On SQLite with a broker of files, on PostgreSQL with Redis."""
    database: Database = SQLite(tmp_path / "db.sqlite3")
    broker = ""
    if request.param == "postgresql":
        request.getfixturevalue("redis")
        database = PostgreSQL(postgresql_url() or "")
        database.name = f"test_botsessions_celery_{uuid4().hex[:8]}"
        database.url = database.url.rpartition("/")[0] + f"/{database.name}"
        broker = f"{(redis_url() or '').rpartition('/')[0]}/11"
        Redis.from_url(broker).flushdb()
    database.make()
    found = Crew(tmp_path, database, broker)
    try:
        yield found
    finally:
        found.stop()
        database.drop()
        if broker:
            Redis.from_url(broker).flushdb()


@pytest.mark.processes
def test_everything_due_is_done_whatever_happens_to_hints_and_workers(crew: Crew) -> None:
    """P18, P27, P29: two beats, a broker that is emptied, a worker that is killed."""
    crew.operate("prepare")
    crew.celery(*BEAT, "--schedule", str(crew.folder / "beat-1"))
    crew.celery(*BEAT, "--schedule", str(crew.folder / "beat-2"))
    worker = crew.celery(*WORKER)
    crew.wait_for(lambda: len(crew.noted("answered")) > MESSAGES // 4)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert len(crew.noted("asked")) < MESSAGES, "all was asked for before the kill"
    known = crew.outcomes()
    assert known
    crew.empty_broker()
    crew.celery(*WORKER)
    emptied = time.monotonic()
    while time.monotonic() < emptied + 3:
        crew.empty_broker()
        time.sleep(0.05)
    crew.wait_for(lambda: not crew.left())
    times = Counter(crew.noted("asked"))
    assert len(times) == MESSAGES
    assert {times[id] for id in known} == {1}
    # What was under way in the worker's two threads when it was killed.
    assert sum(number > 1 for number in times.values()) <= 2 * AT_ONCE * BATCH
    assert crew.outcomes() == dict.fromkeys(times, "deleted")
    [(late,)] = crew.database.query(
        "SELECT data FROM botsessions_botsession WHERE chat = ?", "asked"
    )
    late = json.loads(late) if isinstance(late, str) else late
    assert late == {"n": 1, "late": 1}
    assert crew.database.data("waiting")["n"] == 5
    assert "Traceback" not in crew.logged()
