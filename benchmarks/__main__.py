"""Measure, and print one Markdown table. The README tells what is measured, and how."""

import argparse
import contextlib
import signal
import sys

from benchmarks import admin, crowd, measures, report, upkeep
from benchmarks.load import LoadError
from benchmarks.measures import Bench
from benchmarks.rows import ROWS, Row
from benchmarks.servers import ServerError
from benchmarks.storages import Unavailable

DEFAULT_ROWS = {
    "throughput": "abcdefghij",
    "tracking": "bicj",
    "race": "bcdefgh",
    "single": "bc",
    "memory": "bc",
    "upkeep": "b",
    "admin": "b",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        help="throughput (default), tracking, race, single, memory, upkeep, admin; letters of rows",
    )
    parser.add_argument("--seconds", type=float, default=4, help="how long a run lasts (default 4)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of which medians are taken (default 3)"
    )
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--reply", action="store_true", help="handlers also send a message")
    crowd.sizes(parser)
    parser.add_argument("--write", action="store_true", help="put the table into the README too")
    options = parser.parse_args()
    named = bool(options.what) and options.what[0] in DEFAULT_ROWS
    options.measure = options.what.pop(0) if named else "throughput"
    letters = "".join(options.what) or DEFAULT_ROWS[options.measure]
    if unknown := ", ".join(sorted(set(letters) - set(ROWS))):
        parser.error(f"no row {unknown}: give {', '.join(DEFAULT_ROWS)}, then of {''.join(ROWS)}")
    options.rows = [ROWS[letter] for letter in letters]
    return options


def measure(bench: Bench, options: argparse.Namespace) -> str:
    rows: list[Row] = options.rows
    if options.measure == "race":
        return report.races([one for row in rows if (one := bench.on(row, measures.race))])
    if options.measure == "single":
        return report.singles([took for row in rows if (took := bench.on(row, measures.single))])
    if options.measure == "upkeep":
        with bench.replying():
            found = [kept for row in rows if (kept := bench.on(row, upkeep.kept(bench)))]
        return report.upkeep(found)
    if options.measure == "admin":
        return report.admin(admin.pages(options.sessions, options.messages, options.updates))
    if options.measure == "memory":
        return report.memory([size for row in rows if (size := bench.on(row, measures.memory))])
    rounds = bench.rounds(rows, options.rounds, options.connections, options.seconds)
    if options.measure == "tracking":
        return report.throughput(list(rounds), "bc")
    return report.throughput(list(rounds))


def main() -> None:
    options = arguments()
    # A plain `kill` ends like a Ctrl-C: through every `finally`, which stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench = Bench()
    try:
        with bench.replying() if options.reply else contextlib.nullcontext():
            text = f"{measure(bench, options)}\n\n{report.machine(bench.skipped)}"
    except (LoadError, ServerError, Unavailable) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
    sys.stdout.write(f"{text}\n")
    if options.write:
        report.write(f"{options.measure} with reply" if options.reply else options.measure, text)


if __name__ == "__main__":
    main()
