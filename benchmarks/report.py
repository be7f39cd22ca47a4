"""Numbers into Markdown, for the terminal and for the README."""

import json
import platform
import re
import sqlite3
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.admin import Page
from benchmarks.measures import Run
from benchmarks.rows import OURS, ROWS, Row
from benchmarks.storages import Redis, Unavailable
from benchmarks.upkeep import Kept

HERE = Path(__file__).parent
OK, FORBIDDEN = 200, 403


def throughput(rounds: Sequence[Sequence[Run]], against: str = "eg") -> str:
    """Return medians over the rounds; errors and losses are summed.

    Ratios, to the rows `against`, are taken within a round.
    """
    runs = [run for one in rounds for run in one]
    lines = []
    for connections in sorted({run.connections for run in runs}):
        for row in ROWS.values():
            own = [run for run in runs if (run.row, run.connections) == (row, connections)]
            if not own:
                continue
            results = [run.result for run in own]
            lines.append(
                [
                    title(row),
                    f"{connections}",
                    f"{statistics.median(x.rate for x in results):,.0f}",
                    *(ratio(rounds, row, connections, other) for other in against),
                    f"{statistics.median(x.p50 for x in results):.1f}",
                    f"{statistics.median(x.p99 for x in results):.1f}",
                    f"{sum(x.errors for x in results):,}",
                    losses(own),
                ]
            )
    ratios = [f"#of ({other})" for other in against]
    heads = ["Row", "#Connections", "#Updates/s", *ratios, "#p50 ms", "#p99 ms"]
    return table([*heads, "#Errors", "#Lost"], lines)


def races(runs: Iterable[Run]) -> str:
    return table(
        ["Row", "#Updates/s", "#Acknowledged", "#Errors", "#Lost"],
        [
            [
                title(run.row),
                f"{run.result.rate:,.0f}",
                f"{run.result.acknowledged:,}",
                f"{run.result.errors:,}",
                losses([run]),
            ]
            for run in runs
        ],
    )


def singles(took: Iterable[tuple[Row, float, float]]) -> str:
    return table(
        ["Row", "#Median ms", "#p99 ms"],
        [[title(row), f"{median:.2f}", f"{p99:.2f}"] for row, median, p99 in took],
    )


def memory(sizes: Iterable[tuple[Row, float, float]]) -> str:
    return table(
        ["Row", "#MiB after 1,000 sessions", "#After 100,000", "#Growth"],
        [
            [title(row), f"{few:.1f}", f"{many:.1f}", f"{many - few:.1f}"]
            for row, few, many in sizes
        ],
    )


def upkeep(found: Iterable[Kept]) -> str:
    """Return what a worker did beside a server, and what that cost the server's webhooks."""
    lines = []
    for kept in found:
        for name, worked in (("sweep", kept.swept), ("bulk deletion", kept.deleted)):
            lines.append(
                [
                    f"{title(kept.row)}: {name}",
                    f"{worked.number:,}",
                    f"{worked.number / worked.seconds:,.0f}",
                    f"{worked.longest * 1000:.0f}",
                    f"{kept.idle:.1f}",
                    f"{worked.p99:.1f}",
                    f"{worked.p99 / kept.idle:.2f}",
                ]
            )
    heads = ["#Rows", "#Rows/s", "#Longest transaction ms", "#Idle p99 ms", "#p99 ms", "#of idle"]
    return table(["Work", *heads], lines)


def admin(pages: Iterable[Page]) -> str:
    """Return what each page took a superuser, and an operator with a few permissions."""
    lines = []
    for page in pages:
        cells = [page.title]
        for took in (page.superuser, page.operator):
            if took.status == FORBIDDEN:
                cells += ["", "", ""]
            elif took.status != OK:
                raise SystemExit(f"{page.title}: answered with status {took.status}.")
            else:
                cells += [f"{took.queries}", f"{took.median:.0f}", f"{took.worst:.0f}"]
        lines.append(cells)
    heads = ["#Queries", "#Median ms", "#Worst ms"]
    operator = [f"{head}, operator" for head in heads]
    return table(["Page", *heads, *operator], lines)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; `#` before a head makes it a column of numbers."""
    rules = ["---:" if head.startswith("#") else "---" for head in heads]
    cells = [[head.removeprefix("#") for head in heads], rules, *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def title(row: Row) -> str:
    return f"({row.letter}) {row.title}"


def ratio(rounds: Sequence[Sequence[Run]], row: Row, connections: int, other: str) -> str:
    found = []
    for runs in rounds:
        rates = {run.row.letter: run.result.rate for run in runs if run.connections == connections}
        if row.letter in rates and rates.get(other):
            found.append(rates[row.letter] / rates[other])
    return f"{statistics.median(found):.2f}" if found else ""


def losses(runs: Sequence[Run]) -> str:
    lost = [run.lost for run in runs if run.lost is not None]
    if not lost:
        return ""
    acknowledged = sum(run.result.acknowledged for run in runs)
    share = f" ({sum(lost) / acknowledged:.1%})" if sum(lost) and acknowledged else ""
    return f"{sum(lost):,}{share}"


def machine(skipped: Mapping[Row, str]) -> str:
    """Return the lines under a table: what ran on what, and what did not run."""
    information = Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"model name\s*: (.*)", information)
    cores = information.count("processor\t")
    pinned = (HERE / "requirements.txt").read_text().splitlines()
    parts = [
        f"{cpu[1] if cpu else platform.processor()}, {cores} cores",
        f"Python {platform.python_version()} with {installed()}",
        *known(OURS.describe),
        f"SQLite {sqlite3.sqlite_version}",
        *known(Redis("*").describe),
        *known(node),
        ", ".join(line.replace("==", " ") for line in pinned if "aiogram==" in line),
    ]
    notes = [f"Not run: {title(row)}. {reason}" for row, reason in skipped.items()]
    return "\n\n".join([f"Measured on {'; '.join(parts)}.", *notes])


def installed() -> str:
    names = ("uvicorn", "httptools", "uvloop", "Django", "psycopg", "msgspec")
    found = []
    for name in names:
        with suppress(PackageNotFoundError):  # the admin is measured without a server
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def known(describe: Callable[[], str]) -> list[str]:
    """Return the description in a list, which is empty where there is nothing to describe."""
    try:
        return [describe()]
    except (Unavailable, OSError):
        return []


def node() -> str:
    packages = json.loads((HERE / "package.json").read_text())["dependencies"]
    command = ["node", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    pinned = ", ".join(f"{name} {number}" for name, number in packages.items())
    return f"node {found.stdout.strip().removeprefix('v')} with {pinned}"


def write(name: str, text: str) -> None:
    """Put the text between the README's `<!-- name -->` and `<!-- /name -->`."""
    readme = HERE / "README.md"
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = readme.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"benchmarks/README.md has no place for this table: {begin} … {end}")
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}")
