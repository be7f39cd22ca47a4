"""Run the suite on SQLite and PostgreSQL: `python -m tests`; with `--coverage` report that of both.

The two run side by side; what drives a browser begins when the first is done. What starts processes
of its own comes last, by itself: it is sensitive to time, and chooses its databases itself. Where
PostgreSQL does not answer its run is left out with a notice; with CI=true that is a failure. The
first suite that fails is the last to be shown.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.services import postgresql_url

WITHOUT_PROCESSES = ["-m", "not processes and not browser"]
SQLITE = ["--database=sqlite", *WITHOUT_PROCESSES]
POSTGRESQL = ["--database=postgresql", *WITHOUT_PROCESSES]
PROCESSES = ["--database=sqlite", "-m", "processes and not browser"]
BROWSER = ["--database=sqlite", "-m", "browser"]
COVERAGE = Path("var/coverage")
#: It makes the suite half as slow again.
IS_COVERED = "--coverage" in sys.argv
MORE = [each for each in sys.argv[1:] if each != "--coverage"]
#: A Redis of its own for the suite that runs beside the other.
OTHER_REDIS = "redis://127.0.0.1:6379/14"


def start(
    name: str, arguments: Sequence[str], output: IO[bytes] | None = None, **environment: str
) -> subprocess.Popen[bytes]:
    """Start one run of the suite; its coverage, if asked for, goes to a file of its own."""
    pytest = [sys.executable, "-m", "pytest", "-ra"]
    pytest += ["--cov", "--cov-report="] if IS_COVERED else []
    return subprocess.Popen(
        [*pytest, *arguments, *MORE],
        env=os.environ | {"COVERAGE_FILE": f"{COVERAGE}.{name}"} | environment,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
    )


def main() -> int:
    COVERAGE.parent.mkdir(exist_ok=True)
    has_postgresql = postgresql_url() is not None
    if not has_postgresql:
        notice = "PostgreSQL does not answer (TEST_DATABASE_URL, or port 5432 of this machine)"
        if os.environ.get("CI") == "true":
            sys.exit(f"{notice}, and CI=true allows no skip.")
        print(f"SKIPPED: the suite on PostgreSQL. {notice}.\n", flush=True)
    names = ["sqlite", *(["postgresql"] if has_postgresql else []), "processes", "browser"]
    with tempfile.TemporaryFile() as said:
        beside = None
        if has_postgresql and "TEST_REDIS_URL" not in os.environ:
            beside = start("postgresql", POSTGRESQL, said, TEST_REDIS_URL=OTHER_REDIS)
        try:
            print(f"$ pytest {' '.join(SQLITE)}", flush=True)
            code = start("sqlite", SQLITE).wait()
            if not code:
                print(f"$ pytest {' '.join(BROWSER)}", flush=True)
                code = start("browser", BROWSER).wait()
            if has_postgresql and not code:
                print(f"$ pytest {' '.join(POSTGRESQL)}", flush=True)
                code = (beside or start("postgresql", POSTGRESQL)).wait()
                said.seek(0)
                print(said.read().decode(errors="replace"), flush=True)
        finally:
            if beside is not None:
                beside.kill()
    if not code:
        print(f"$ pytest {' '.join(PROCESSES)}", flush=True)
        code = start("processes", PROCESSES).wait()
    if IS_COVERED and not code:
        files = [f"{COVERAGE}.{name}" for name in names]
        coverage = [sys.executable, "-m", "coverage"]
        subprocess.run([*coverage, "combine", "-q", *files], check=True)
        subprocess.run([*coverage, "report"], check=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
