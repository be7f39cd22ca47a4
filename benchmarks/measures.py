"""The four measurements of a running row; `report` makes tables of what they return."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.load import USERS, Load, LoadError, Result
from benchmarks.rows import Row
from benchmarks.servers import Server, running
from benchmarks.storages import Storage, Unavailable

Measured = TypeVar("Measured")
Measure = Callable[[Row, Server, Load], Measured]

WARM_UP = 2.0
STUB = Path(__file__).with_name("stub_api.py")


@dataclass(frozen=True)
class Run:
    """One run of the load on one row; `lost` is None where nothing counts."""

    row: Row
    connections: int
    result: Result
    lost: int | None


class Bench:
    """The two cores of this machine, the stub API if handlers reply, and what cannot run here."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("The server and its load need a core each; this machine gives one.")
        self.core, self.load_core = cores[:2]
        self.api_url = ""
        self.skipped: dict[Row, str] = {}

    @contextmanager
    def replying(self) -> Iterator[None]:
        """Run the stub of the Bot API beside the load; this block's handlers reply to it."""
        command = [sys.executable, f"{STUB}", "{port}"]
        with running("stub", command, {}, core=self.load_core) as stub:
            self.api_url = f"http://127.0.0.1:{stub.port}"
            yield
            self.api_url = ""

    def on(self, row: Row, measure: Measure[Measured]) -> Measured | None:
        """Return what is measured on this row's server, or None where it cannot run."""
        if row in self.skipped:
            return None
        try:
            with row.started(self.core, self.load_core, self.api_url) as (server, load):
                return measure(row, server, load)
        except Unavailable as reason:
            self.skipped[row] = " ".join(f"{reason}".split())
            say(f"  ({row.letter}) not run: {self.skipped[row]}")
            return None

    def rounds(
        self, rows: Sequence[Row], number: int, connections: Sequence[int], seconds: float
    ) -> Iterator[list[Run]]:
        """Yield the runs of each round; in a round every row has its turn."""

        def loaded(row: Row, server: Server, load: Load) -> list[Run]:
            warm_up(server, load, max(connections))
            return [run(row, load, wanted, seconds=seconds) for wanted in connections]

        for done in range(number):
            say(f"round {done + 1} of {number}")
            yield [one for row in rows for one in self.on(row, loaded) or ()]


def warm_up(server: Server, load: Load, connections: int) -> None:
    """Load the server for a moment, and refuse to measure one that answers with errors alone."""
    if not load.run(connections, seconds=WARM_UP).acknowledged:
        raise SystemExit(f"Every answer to {load.path} was an error.\n{server.end_of_log()}")


def run(
    row: Row,
    load: Load,
    connections: int,
    *,
    seconds: float = 0,
    updates: int = 0,
    users: int = USERS,
) -> Run:
    """Load the row, and compare what was acknowledged with what its storage counted meanwhile."""
    before = row.storage.total() if row.storage else 0
    result = load.run(connections, seconds=seconds, updates=updates, users=users)
    say(f"  ({row.letter}) {connections:>4} connections: {result.rate:9,.0f} updates/s")
    lost = None
    if row.storage:
        lost = before + result.acknowledged - settled(row.storage, before + result.acknowledged)
    return Run(row, connections, result, lost)


def settled(storage: Storage, expected: int) -> int:
    """Return the storage's total once it is as expected, or has stood still for a second.

    What was acknowledged may still wait in a mailbox.
    """
    total, since = storage.total(), time.monotonic()
    while total < expected and time.monotonic() - since < 1:
        time.sleep(0.1)
        if (found := storage.total()) != total:
            total, since = found, time.monotonic()
    return total


def race(row: Row, server: Server, load: Load) -> Run:
    """Send 2,000 updates of one user over 16 connections."""
    return run(row, load, 16, updates=2_000, users=1)


def single(row: Row, server: Server, load: Load) -> tuple[Row, float, float]:
    """Return the median and the 99th percentile of one update alone, in milliseconds."""
    load.one_by_one(100, pause=0)
    took = load.one_by_one(500, pause=0.01)
    return row, statistics.median(took), statistics.quantiles(took, n=100)[-1]


def memory(row: Row, server: Server, load: Load) -> tuple[Row, float, float]:
    """Return the server's resident MiB after 1,000, and after 100,000 distinct sessions."""
    sizes = []
    for updates in (1_000, 99_000):
        if load.run(64, updates=updates, users=0).acknowledged != updates:
            raise LoadError(f"({row.letter}) did not acknowledge all of {updates:,} updates.")
        sizes.append(server.memory())
    return row, sizes[0], sizes[1]


def say(line: str) -> None:
    """Tell whoever waits; the tables alone go to standard output."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
