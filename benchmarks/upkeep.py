"""What a worker does beside a running server, on a database as years fill it."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load import Load
from benchmarks.measures import WARM_UP, Bench, say
from benchmarks.rows import Row
from benchmarks.servers import ROOT, Server, ServerError

#: How many updates, and with which pause between them in seconds, tell what idle is.
IDLE, PAUSE = 2_000, 0.005


@dataclass(frozen=True)
class Worked:
    """What one process did: rows, seconds, its longest transaction; and the webhooks' p99 in ms."""

    number: int
    seconds: float
    longest: float
    p99: float


@dataclass(frozen=True)
class Kept:
    """What a row's server answered like while nobody worked (p99 in ms), and while somebody did."""

    row: Row
    idle: float
    swept: Worked
    deleted: Worked


def kept(bench: Bench) -> Callable[[Row, Server, Load], Kept]:
    """Return the measurement; the workers are on the core of the load."""

    def measure(row: Row, server: Server, load: Load) -> Kept:
        environment = os.environ | row.surroundings(bench.api_url)

        def operate(verb: str) -> subprocess.Popen[str]:
            command = ["taskset", "-c", f"{bench.load_core}", sys.executable]
            return subprocess.Popen(
                [*command, "-m", "benchmarks.operate", verb],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )

        def worked(verb: str) -> Worked:
            say(f"  ({row.letter}) {verb}")
            process = operate(verb)
            took = load.while_going_on(lambda: process.poll() is None, PAUSE)
            out = process.communicate()[0]
            if process.returncode:
                raise ServerError(f"benchmarks.operate {verb} failed.")
            return Worked(**json.loads(out.splitlines()[-1]), p99=p99(took))

        say(f"  ({row.letter}) prepare")
        if operate("prepare").wait():
            raise ServerError("benchmarks.operate prepare failed.")
        load.run(16, seconds=WARM_UP)
        idle = p99(load.one_by_one(IDLE, PAUSE))
        return Kept(row, idle, worked("sweep"), worked("delete"))

    return measure


def p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[-1]
