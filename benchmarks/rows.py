"""What is compared: each row a server, the storage it counts in, and what it needs here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import SECRET, TOKEN, Load
from benchmarks.servers import ROOT, Server, ServerError, running
from benchmarks.storages import PostgreSQL, Redis, SQLite, Storage, Unavailable

HERE = Path(__file__).parent
MIGRATE = [sys.executable, "-m", "django", "migrate", "-v0"]
PEERS_PYTHON = HERE / ".venv" / "bin" / "python"


@dataclass(frozen=True, eq=False)
class Row:
    letter: str
    title: str
    path: str
    command: Sequence[str]
    storage: Storage | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    migrates: bool = False
    needs: str = ""  # a file whose content, once installed, the row can run with

    @contextmanager
    def started(
        self, core: int, load_core: int, api_url: str = ""
    ) -> Iterator[tuple[Server, Load]]:
        """Run this row's server on an empty storage; with `api_url`, its handler replies there.

        Raises `Unavailable` where this machine lacks what the row needs.
        """
        if self.needs:
            install(self.needs)
        environment = self.surroundings(api_url)
        try:
            if self.storage:
                self.storage.empty()
            if self.migrates:
                run(MIGRATE, ROOT, environment, ServerError)
            with running(self.letter, self.command, environment, core=core) as server:
                yield server, Load(server.port, self.path, load_core)
        finally:
            if self.storage:
                self.storage.remove()

    def surroundings(self, api_url: str = "") -> dict[str, str]:
        """Return the environment of the row's processes."""
        environment = {
            "BENCH_TOKEN": TOKEN,
            "BENCH_SECRET": SECRET,
            "BENCH_API_URL": api_url or "http://127.0.0.1:9",  # nobody listens there
            "BENCH_REPLY": "1" if api_url else "0",
            "BENCH_ROUTER": f"benchmarks.bots.{'replying_router' if api_url else 'router'}",
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "PYTHONPATH": f"{ROOT}",
            # An empty URL, not none: a row must not find the storage of whoever runs it.
            "DATABASE_URL": "",
            "REDIS_URL": "",
            **self.environment,
        }
        if self.storage:
            environment[self.storage.variable] = self.storage.url
        return environment


def install(needs: str) -> None:
    """Install what `benchmarks/<needs>` pins, unless exactly that was installed before."""
    source = HERE / needs
    if needs == "package.json":
        if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
            raise Unavailable(f"{' and '.join(missing)} not installed: apt-get install nodejs npm")
        mark = HERE / "node_modules" / ".installed"
        commands = [["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]]
    else:
        mark = HERE / ".venv" / ".installed"
        commands = [
            [sys.executable, "-m", "venv", "--clear", f"{HERE / '.venv'}"],
            [f"{PEERS_PYTHON}", "-m", "pip", "install", "--quiet", "-r", f"{source}"],
        ]
    if mark.exists() and mark.read_text() == source.read_text():
        return
    for command in commands:
        run(command, HERE, {}, Unavailable)
    mark.write_text(source.read_text())


def run(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    failure: type[Exception],
) -> None:
    """Run the command to its end; if it fails, raise `failure` with its last words."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join([Path(command[0]).name, *command[1:]])
        raise failure(f"`{words}` failed: {(done.stdout.strip().splitlines() or ['?'])[-1]}")


def uvicorn(application: str) -> list[str]:
    """Return the command of one process, by the interpreter that runs this."""
    command = [sys.executable, "-m", "uvicorn", "--http", "httptools", "--loop", "uvloop"]
    command += ["--ws", "none", "--backlog", "1024", "--no-access-log", "--log-level", "warning"]
    command += ["--no-server-header", "--no-proxy-headers"]
    return [*command, "--host", "127.0.0.1", "--port", "{port}", application]


ON_POSTGRESQL = "SELECT sum((data->>'count')::int) FROM botsessions_botsession"
ON_SQLITE = "SELECT sum(json_extract(data, '$.count')) FROM botsessions_botsession"
GRAMMY_ON_POSTGRESQL = "SELECT sum((value::json->>'count')::int) FROM grammy_sessions"

WEBHOOK = "/webhooks/bench/"
FAST, PLAIN = uvicorn("benchmarks.asgi:application"), uvicorn("benchmarks.asgi:plain")
AIOGRAM = [f"{PEERS_PYTHON}", "benchmarks/peers/aiogram_bot.py"]
GRAMMY = ["node", "benchmarks/peers/grammy.mjs"]

OURS = PostgreSQL(ON_POSTGRESQL)
TRACKS = {"BENCH_ROUTER": "benchmarks.bots.tracking_router"}
FSM = Redis("fsm:*:data")

ROWS = {
    row.letter: row
    for row in (
        Row("a", "empty ASGI application", WEBHOOK, uvicorn("benchmarks.empty:application")),
        Row("b", "botsessions, PostgreSQL", WEBHOOK, FAST, OURS, migrates=True),
        Row("c", "botsessions, SQLite", WEBHOOK, FAST, SQLite(ON_SQLITE), migrates=True),
        Row("d", "botsessions, PostgreSQL, Django's own door", WEBHOOK, PLAIN, OURS, migrates=True),
        Row(
            "e",
            "aiogram, Redis, with isolation",
            "/webhook",
            AIOGRAM,
            FSM,
            {"BENCH_ISOLATION": "1"},
            needs="requirements.txt",
        ),
        Row("f", "aiogram, Redis", "/webhook", AIOGRAM, FSM, needs="requirements.txt"),
        Row(
            "g",
            "grammY, PostgreSQL",
            "/webhook",
            GRAMMY,
            PostgreSQL(GRAMMY_ON_POSTGRESQL),
            needs="package.json",
        ),
        Row("h", "grammY, Redis", "/webhook", GRAMMY, Redis("*"), needs="package.json"),
        Row("i", "(b), tracking 3 messages an update", WEBHOOK, FAST, OURS, TRACKS, migrates=True),
        Row(
            "j",
            "(c), tracking 3 messages an update",
            WEBHOOK,
            FAST,
            SQLite(ON_SQLITE),
            TRACKS,
            migrates=True,
        ),
    )
}
