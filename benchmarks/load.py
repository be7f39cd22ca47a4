"""The load: `wrk` with `load.lua`, and a single patient client."""

import http.client
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SECRET = "benchmark-secret"
TOKEN = "1000001:" + "A" * 35
USERS = 1_000
SCRIPT = Path(__file__).with_name("load.lua")


class LoadError(Exception):
    """The load could not be made; the message tells the fix."""


@dataclass(frozen=True)
class Result:
    """What one run saw: `acknowledged` answers were below 400; p50 and p99 are milliseconds."""

    acknowledged: int
    seconds: float
    p50: float
    p99: float
    errors: int

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds


class Load:
    """Sends updates to one server from one core; no two updates of a `Load` have the same id."""

    def __init__(self, port: int, path: str, core: int) -> None:
        self.port, self.path, self.core = port, path, core
        self.next_update = 100_000_000

    def run(
        self,
        connections: int,
        *,
        seconds: float = 0,
        updates: int = 0,
        users: int = USERS,
    ) -> Result:
        """Send for so many seconds, or so many updates, and wait for every answer.

        With `users=0` every update comes from a user who was never seen before.
        """
        if shutil.which("wrk") is None:
            raise LoadError("The load is made by wrk, which is not installed: apt-get install wrk")
        environment = {
            "BENCH_CONNECTIONS": connections,
            "BENCH_SECONDS": seconds,
            "BENCH_UPDATES": updates,
            "BENCH_USERS": users,
            "BENCH_FIRST_UPDATE": self.next_update,
            "BENCH_PATH": self.path,
            "BENCH_SECRET": SECRET,
        }
        limit = int(seconds) + 30 if seconds else 600
        command = ["taskset", "-c", f"{self.core}", "wrk", "-t1", f"-c{connections}", f"-d{limit}s"]
        command += ["--timeout", "30s", "-s", f"{SCRIPT}", f"http://127.0.0.1:{self.port}"]
        done = subprocess.run(
            command,
            env=os.environ | {name: f"{value}" for name, value in environment.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        line = next((x for x in done.stdout.splitlines() if x.startswith("result ")), None)
        if line is None:
            raise LoadError(f"wrk gave no result:\n{done.stdout}")
        seen = json.loads(line.removeprefix("result "))
        self.next_update += seen["sent"] + 1
        if seen["seconds"] <= 0:
            raise LoadError(f"The server did not answer everything within {limit} s: {line}")
        return Result(
            acknowledged=seen["answered"] - seen["refused"],
            seconds=seen["seconds"],
            p50=seen["p50"],
            p99=seen["p99"],
            errors=seen["refused"] + seen["broken"],
        )

    def one_by_one(self, times: int, pause: float) -> list[float]:
        """Return the milliseconds of so many updates, each sent alone and after a pause."""
        return list(itertools.islice(self._latencies(pause), times))

    def while_going_on(self, going_on: Callable[[], bool], pause: float) -> list[float]:
        """Return the milliseconds of updates sent alone, with pauses, for as long as that is so."""
        return list(itertools.takewhile(lambda _: going_on(), self._latencies(pause)))

    def _latencies(self, pause: float) -> Iterator[float]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": SECRET}
        while True:
            self.next_update += 1
            body = json.dumps(private_message(self.next_update)).encode()
            time.sleep(pause)
            start = time.perf_counter()
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            answer.read()
            took = time.perf_counter() - start
            if answer.status >= 400:
                raise LoadError(f"{self.path} answered {answer.status} instead of 200.")
            yield took * 1000


def private_message(update: int) -> dict[str, object]:
    """Return the update that `load.lua` sends, from one of the same users."""
    user = 100_000_001 + update % USERS
    person = {"id": user, "first_name": "Ann", "last_name": "Lee", "username": f"annlee{user}"}
    message = {
        "message_id": update,
        "from": person | {"is_bot": False, "language_code": "en"},
        "chat": person | {"type": "private"},
        "date": 1781234567,
        "text": f"hello there {update}",
    }
    return {"update_id": update, "message": message}
