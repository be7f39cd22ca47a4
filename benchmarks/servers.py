"""Processes under test: pinned to a core, reached on a free port, stopped whatever happens."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.storages import WORK

ROOT = Path(__file__).parents[1]
READY_WITHIN = 30


class ServerError(Exception):
    """A server did not start or died; the message carries the end of its log."""


class Server:
    """A running process group that listens on `port`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def wait_until_ready(self) -> None:
        """Return once any HTTP request is answered, with whatever status."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            self.check()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_WITHIN)
            try:
                connection.request("GET", "/")
                connection.getresponse()
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
            else:
                return
            finally:
                connection.close()
        raise ServerError(f"No answer within {READY_WITHIN} s.\n{self.end_of_log()}")

    def check(self) -> None:
        if (status := self.process.poll()) is not None:
            raise ServerError(f"The server ended with status {status}.\n{self.end_of_log()}")

    def end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2_000:]

    def memory(self) -> float:
        """Return the resident memory of the process and its children, in MiB."""
        pids = [self.process.pid]
        for pid in pids:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        """Ask the group to end, and after five seconds make it."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(5)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], *, core: int
) -> Iterator[Server]:
    """Run the command on one core while the block lasts.

    `{port}` in the command, and `PORT` in its environment, are a port that was free a moment ago.
    The output goes to `.work/<name>.log`. The process leads a group of its own, so that a Ctrl-C
    reaches it through us, after the load, and its children end with it.
    """
    WORK.mkdir(exist_ok=True)
    log = WORK / f"{name}.log"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    pinned = ["taskset", "-c", f"{core}", *(part.format(port=port) for part in command)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned,
            cwd=ROOT,
            env=os.environ | environment | {"PORT": f"{port}"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        server.wait_until_ready()
        yield server
        server.check()
    finally:
        server.stop()
