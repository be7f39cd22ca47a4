"""Real servers on one database: started, spoken to, paused, killed, and stopped in any case."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from botsessions.platforms.local_chat import LocalChat
from tests.processes import notes
from tests.processes.database import Database

T = TypeVar("T")
R = TypeVar("R")

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
SECRET = "a secret of the tests"

LEASE = 1.0
RECOVER_EVERY = 0.25
ACK_AFTER = 0.3
#: What a machine under load may take longer, in seconds.
MARGIN = 5.0
#: How long a crash may hold a mailbox up.
RECOVERED_WITHIN = LEASE + RECOVER_EVERY + MARGIN
READY_WITHIN = 30.0
#: How long a stopped server may take to end.
ENDS_WITHIN = 10.0

ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "tests.processes.settings",
    "BOT_SECRET": SECRET,
    "LEASE": f"{LEASE}",
    "RENEW_EVERY": "0.25",
    "RECOVER_EVERY": f"{RECOVER_EVERY}",
    "ACK_AFTER": f"{ACK_AFTER}",
    "RETRY_DELAY": "0.1",
    "SHUTDOWN_TIMEOUT": "2",
    "PYTHONUNBUFFERED": "1",
}
UVICORN = [sys.executable, "-m", "uvicorn", "--http", "httptools", "--loop", "uvloop"]
UVICORN += ["--ws", "none", "--no-access-log", "--log-level", "warning", "--host", HOST]
UVICORN += ["--timeout-graceful-shutdown", "3", "tests.processes.asgi:application", "--port"]

#: The named points of the engine.
POINTS = ["admitted", "stored", "handling", "sent", "before_commit", "committed"]

#: What no server may ever log: an exception that nobody was there to take.
UNHANDLED = ("never retrieved", "Exception in callback", "Exception ignored", "never awaited")

numbers = count(1_000)


def said(person: str, text: str, number: int | None = None) -> dict[str, Any]:
    """Return the update that reports what somebody said; without a number it gets the next one."""
    number = next(numbers) if number is None else number
    chat, user = {"id": person, "type": "private"}, {"id": person, "name": person}
    message = {"message_id": number, "chat": chat, "from": user, "text": text}
    return {"update_id": number, "message": message}


def id_of(update: dict[str, Any]) -> str:
    return str(update["update_id"])


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after: str | None
    seconds: float


class Server:
    """A uvicorn of one process, in a group of its own."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with socket.create_server((HOST, 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.log = log
        #: May it end? A server that ends unasked fails its test.
        self.is_doomed = False
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*UVICORN, f"{self.port}"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while self.is_alive and time.monotonic() < deadline:
            try:
                self.request("GET", "/")
                return
            except OSError:
                time.sleep(0.05)
        pytest.fail(f"The server did not start.\n{self.logged()}")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def is_paused(self) -> bool:
        return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)

    def request(
        self, method: str, path: str, body: bytes = b"", secret: str = SECRET, timeout: float = 30
    ) -> Answer:
        """Return the answer. Raises `OSError` or `HTTPException` where the connection breaks."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        began = time.monotonic()
        try:
            connection.request(method, path, body, {"X-Local-Secret": secret})
            response = connection.getresponse()
            response.read()
            passed = time.monotonic() - began
            return Answer(response.status, response.getheader("Retry-After"), passed)
        finally:
            connection.close()

    def post(self, update: dict[str, Any], bot: str = "chat") -> Answer:
        """Deliver an update, once."""
        return self.request("POST", f"/webhooks/{bot}/", json.dumps(update).encode())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        self.is_doomed |= number == signal.SIGKILL
        if self.is_alive:
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to end, as a service manager does."""
        self.is_doomed = True
        self.process.terminate()

    def wait(self, seconds: float = ENDS_WITHIN) -> None:
        """Wait until it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"The server did not end within {seconds:g} s.\n{self.logged()}")

    def logged(self) -> str:
        return self.log.read_text(errors="replace")[-6_000:]


class Fleet:
    """Several servers on one database, as they stand behind a load balancer."""

    def __init__(self, database: Database, folder: Path, size: int) -> None:
        self.database = database
        self.folder = folder
        self.size = size
        self.servers: list[Server] = []
        #: Who is here for one test: servers with settings of its own, and those that were replaced.
        self.guests: list[Server] = []
        self.programs: list[subprocess.Popen[bytes]] = []
        self._started = count(1)

    def environment(self, **settings: str) -> dict[str, str]:
        fixed = {"DATABASE_URL": self.database.url, "PROCESSES_FOLDER": str(self.folder)}
        return os.environ | ENVIRONMENT | fixed | settings

    def run(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python -m module` in the servers' environment."""
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment())
        self.programs.append(process)
        return process

    def complete(self) -> None:
        """Start what is missing, and forget who was here for a test."""
        self.guests = []
        self.servers = [server for server in self.servers if server.is_alive]
        missing = [self._start() for _ in range(self.size - len(self.servers))]
        for server in missing:
            server.wait_until_ready()
        self.servers += missing

    def replace(self, server: Server) -> Server:
        """Start a new server in the place of one that has ended."""
        new = self._start()
        new.wait_until_ready()
        self.servers[self.servers.index(server)] = new
        self.guests.append(server)
        return new

    def guest(self, **settings: str) -> Server:
        """Start one more server for this test, with other settings."""
        server = self._start(**settings)
        self.guests.append(server)
        server.wait_until_ready()
        return server

    def _start(self, **settings: str) -> Server:
        log = self.folder / f"server-{next(self._started)}.log"
        return Server(self.environment(**settings), log)

    def stop(self) -> None:
        for server in (*self.servers, *self.guests):
            server.kill()

    def dismiss(self) -> None:
        """Let the test's guests and programs go, and whoever is paused go on."""
        for program in self.programs:
            program.kill()
            program.wait()
        self.programs = []
        for server in self.guests:
            server.kill()
        for server in self.servers:
            server.signal(signal.SIGCONT)

    def check(self) -> None:
        """Fail where a server ended by itself, or logged what none may."""
        for server in (*self.servers, *self.guests):
            if not (server.is_alive or server.is_doomed):
                pytest.fail(f"A server ended unasked.\n{server.logged()}")
            logged = server.log.read_text(errors="replace")
            if any(each in logged for each in UNHANDLED):
                pytest.fail(f"An exception was left unhandled.\n{server.logged()}")

    def logged(self) -> str:
        parts = (f"--- {each.log.name}\n{each.logged()}" for each in (*self.servers, *self.guests))
        return "\n".join(parts)

    # What platforms do

    def deliver(
        self, update: dict[str, Any], first: int = 0, bot: str = "chat", within: float = 20
    ) -> Answer:
        """Deliver an update until it is acknowledged, each time to the next server."""
        deadline = time.monotonic() + within
        for number in count(first):
            server = self.servers[number % len(self.servers)]
            try:
                answer = server.post(update, bot)
            except (OSError, http.client.HTTPException):
                pass
            else:
                if answer.status < 500:
                    assert answer.status == 200
                    return answer
            if time.monotonic() > deadline:
                pytest.fail(f"Update {update['update_id']} was not taken within {within:g} s.")
            time.sleep(0.05)
        raise AssertionError

    def deliver_all(self, updates: Sequence[dict[str, Any]], bot: str = "chat") -> None:
        """Deliver updates at once, over all servers."""
        at_once(lambda each: self.deliver(each[1], each[0], bot), list(enumerate(updates)))

    @contextmanager
    def traffic(self, people: Sequence[str]) -> Iterator[None]:
        """Let people talk while the block lasts, and then find everything handled once, in order.

        Each says one thing after another, once the one before is acknowledged.
        """
        is_over = threading.Event()

        def talk(person: str) -> list[str]:
            spoken = []
            while not is_over.is_set():
                update = said(person, random.choice(["/append", "/say"]))
                self.deliver(update, random.randrange(self.size))
                spoken.append(id_of(update))
                time.sleep(0.02)
            return spoken

        with ThreadPoolExecutor(len(people)) as pool:
            talks = [pool.submit(talk, person) for person in people]
            try:
                yield
            finally:
                is_over.set()
        for person, talking in zip(people, talks, strict=True):
            spoken = talking.result()
            self.until_count(person, len(spoken))
            assert self.database.data(person) == {"count": len(spoken), "order": spoken}

    def in_background(self, function: Callable[[], T]) -> Future[T]:
        """Run the function in a thread while the test goes on."""
        pool = ThreadPoolExecutor(1)
        future = pool.submit(function)
        pool.shutdown(wait=False)
        return future

    # What there is to see

    def until(
        self, condition: Callable[[], object], within: float = RECOVERED_WITHIN, what: str = ""
    ) -> float:
        """Wait until the condition holds; return how long that took, in seconds."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > within:
                pytest.fail(f"Not within {within:g} s: {what or 'what was waited for'}.")
            time.sleep(0.02)
        return time.monotonic() - began

    def until_count(self, chat: str, number: int, within: float = RECOVERED_WITHIN) -> float:
        """Wait until a session counts that many and nothing waits in its mailbox any more."""
        database = self.database

        def counted() -> bool:
            return database.count(chat) >= number and not database.pending(chat)

        return self.until(counted, within, f"{chat} counts {number}")

    def runs(self, update: dict[str, Any]) -> list[int]:
        """Return the processes that began to handle an update, in order."""
        return notes.runs(self.folder, id_of(update))

    def sent(self, chat: str, bot: str = "chat") -> list[str]:
        """Return what the bot said in a chat."""
        network = LocalChat(bot, self.folder / "chat.sqlite3")
        try:
            messages = network.history(chat, limit=100_000)["messages"]
        finally:
            network.close()
        return [message["text"] for message in messages if message["from"]["is_bot"]]


def at_once(function: Callable[[T], R], items: Sequence[T], threads: int = 50) -> list[R]:
    """Call the function for every item at the same time, in as many threads; return the results."""
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(function, items))


@contextmanager
def running(database: Database, folder: Path, size: int) -> Iterator[Fleet]:
    """Make the database and let a fleet run on it."""
    database.make()
    fleet = Fleet(database, folder, size)
    try:
        migrating = fleet.run("django", "migrate", "-v0")
        assert migrating.wait() == 0
        yield fleet
    finally:
        fleet.stop()
        database.drop()
