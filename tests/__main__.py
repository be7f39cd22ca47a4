"""Run the suite on SQLite, then on PostgreSQL, and report the coverage of both: `python -m tests`.

Where PostgreSQL does not answer its run is left out with a notice; with CI=true that is a failure.
The first suite that fails is the last to run, so the last lines are those of the decisive one.
"""

import os
import subprocess
import sys

from tests.services import postgresql_url

SQLITE = ["--database=sqlite"]
POSTGRESQL = [
    "--database=postgresql",
    "-m",
    "not processes",
]  # those choose their databases themselves


def main() -> int:
    runs = [SQLITE, POSTGRESQL]
    if postgresql_url() is None:
        notice = "PostgreSQL does not answer (TEST_DATABASE_URL, or port 5432 of this machine)"
        if os.environ.get("CI") == "true":
            sys.exit(f"{notice}, and CI=true allows no skip.")
        print(f"SKIPPED: the suite on PostgreSQL. {notice}.\n", flush=True)
        runs = [SQLITE]
    for number, arguments in enumerate(runs, start=1):
        coverage = ["--cov", "--cov-report=term" if number == len(runs) else "--cov-report="]
        if number > 1:
            coverage.append("--cov-append")
        command = [sys.executable, "-m", "pytest", "-ra", *coverage, *arguments, *sys.argv[1:]]
        print(f"$ pytest {' '.join(arguments)}", flush=True)
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
