"""Run all tests, on SQLite and PostgreSQL: `python -m tests`; with `--coverage` report that too.

There are two lanes, side by side: what SQLite or no database does, and what PostgreSQL does. Where
PostgreSQL does not answer its lane is left out with a notice; with CI=true that is a failure. The
first run of pytest that fails is the last to be shown.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from tests.services import postgresql_url

#: The runs of pytest by lane. What starts processes of its own chooses its databases itself.
SQLITE: Final = {
    "sqlite": ("--database=sqlite", "-m", "not processes and not browser"),
    "browser": ("--database=sqlite", "-m", "browser"),
    "sqlite-processes": ("--database=sqlite", "-m", "processes and not browser and not postgresql"),
}
POSTGRESQL: Final = {
    "postgresql": ("--database=postgresql", "-m", "not processes and not browser"),
    "postgresql-processes": ("--database=sqlite", "-m", "processes and postgresql"),
}
COVERAGE: Final = Path("var/coverage")
#: It makes the suite half as slow again.
IS_COVERED: Final = "--coverage" in sys.argv
MORE: Final = [each for each in sys.argv[1:] if each != "--coverage"]
#: A Redis of its own for the lane that runs beside the other.
OTHER_REDIS: Final = "redis://127.0.0.1:6379/14"


async def run(lane: Mapping[str, tuple[str, ...]], output: IO[bytes] | None = None) -> int:
    """Run a lane until something fails and return its exit code, or 0.

    With an output it is in the background, where no Ctrl-C reaches it: it ends by being cancelled.
    """
    for name, arguments in lane.items():
        heading = output or sys.stdout.buffer
        heading.write(f"$ pytest {' '.join(arguments)}\n".encode())
        heading.flush()
        environment = {"COVERAGE_FILE": f"{COVERAGE}.{name}"}
        environment |= {"TEST_REDIS_URL": OTHER_REDIS} if output else {}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-ra"),
            *(("--cov", "--cov-report=") if IS_COVERED else ()),
            *arguments,
            *MORE,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            process_group=0 if output else None,
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            if output:
                process.send_signal(signal.SIGINT)
            await process.wait()
            raise
        if code:
            return code
    return 0


async def run_both() -> int:
    """Run both lanes side by side; what the second says is shown when the first is through."""
    with tempfile.TemporaryFile() as said:
        beside = asyncio.create_task(run(POSTGRESQL, said))
        if code := await run(SQLITE):
            beside.cancel()
            await asyncio.wait([beside])
            return code
        code = await beside
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
        return code


async def main() -> int:
    COVERAGE.parent.mkdir(parents=True, exist_ok=True)
    lanes = [SQLITE, POSTGRESQL]
    if postgresql_url() is None:
        notice = "PostgreSQL does not answer (TEST_DATABASE_URL, or port 5432 of this machine)"
        if os.environ.get("CI") == "true":
            sys.exit(f"{notice}, and CI=true allows no skip.")
        print(f"SKIPPED: the suite on PostgreSQL. {notice}.\n", flush=True)
        lanes.remove(POSTGRESQL)
    if len(lanes) == 1 or "TEST_REDIS_URL" in os.environ:
        code = 0
        for lane in lanes:
            code = code or await run(lane)
    else:
        code = await run_both()
    if IS_COVERED and not code:
        files = [f"{COVERAGE}.{name}" for lane in lanes for name in lane]
        coverage = [sys.executable, "-m", "coverage"]
        subprocess.run([*coverage, "combine", "-q", *files], check=True)
        subprocess.run([*coverage, "report"], check=True)
    return code


if __name__ == "__main__":
    # Where it was started in the background, SIGINT is ignored, by whatever it starts too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(asyncio.run(main()))
