"""Run the suite on SQLite and PostgreSQL, and report the coverage of both: `python -m tests`.

The two run side by side, then what starts processes of its own by itself: it is sensitive to time,
and chooses its databases itself. Last comes what drives a browser. Where PostgreSQL does not answer
its run is left out with a notice; with CI=true that is a failure. The first suite that fails is the
last to be shown.
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
#: A Redis of its own for the suite that runs beside the other.
OTHER_REDIS = "redis://127.0.0.1:6379/14"


def start(
    name: str, arguments: Sequence[str], output: IO[bytes] | None = None, **environment: str
) -> subprocess.Popen[bytes]:
    """Start one run of the suite, whose coverage goes to a file of its own."""
    pytest = [sys.executable, "-m", "pytest", "-ra", "--cov", "--cov-report="]
    return subprocess.Popen(
        [*pytest, *arguments, *sys.argv[1:]],
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
            if has_postgresql and not code:
                print(f"$ pytest {' '.join(POSTGRESQL)}", flush=True)
                code = (beside or start("postgresql", POSTGRESQL)).wait()
                said.seek(0)
                print(said.read().decode(errors="replace"), flush=True)
        finally:
            if beside is not None:
                beside.kill()
    for name, arguments in ("processes", PROCESSES), ("browser", BROWSER):
        if not code:
            print(f"$ pytest {' '.join(arguments)}", flush=True)
            code = start(name, arguments).wait()
    if not code:
        files = [f"{COVERAGE}.{name}" for name in names]
        coverage = [sys.executable, "-m", "coverage"]
        subprocess.run([*coverage, "combine", "-q", *files], check=True)
        subprocess.run([*coverage, "report"], check=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
