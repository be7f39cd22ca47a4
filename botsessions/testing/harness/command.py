"""The command line."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Sequence

from botsessions.testing.harness import preflight
from botsessions.testing.harness.history import MOST_OF_A_CHAT, Options
from botsessions.testing.points import POINTS

DESCRIPTION = """\
Find out whether the promises hold with this project's settings, on this machine: updates are
delivered to real processes, many of them twice and at once, while the processes are killed and
paused. Every update must then have been handled once, and in order."""
EPILOG = f"""\
Processes are killed where the engine reaches one of these points:
{", ".join(POINTS)}. With six kills or more
that is each of them at least once. Halfway all processes are killed at once.

The database of BOTSESSIONS["DATABASE"] is used, with a bot that nobody else has. What belongs to it
is deleted in the end, and your own bots' updates are left alone. Stop servers and Celery workers
that use the same database: they would park updates of a bot that they do not know.

The exit status is 0 where all went well, 1 where something was lost, doubled, misordered or left
over, 2 where nothing could be tried."""

REFUSED = 2


def main(arguments: Sequence[str]) -> int:
    options, settings = parse(arguments[1:])
    if settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = settings
    try:
        preflight.set_up()
        preflight.check(options)
    except preflight.Refused as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    from botsessions.testing.harness.run import Run  # which needs Django set up

    return Run(options).main()


def parse(arguments: Sequence[str]) -> tuple[Options, str]:
    """Return the options, and the settings module where one is named."""
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m botsessions.testing.harness",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def add(name: str, kind: Callable[[str], object], metavar: str, help: str) -> None:
        of_default = getattr(default, name)
        help = f"{help} (default: {of_default})"
        parser.add_argument(f"--{name}", type=kind, default=of_default, metavar=metavar, help=help)

    parser.add_argument(
        "--settings", default="", metavar="MODULE", help="instead of DJANGO_SETTINGS_MODULE"
    )
    add("processes", at_least(1), "N", "processes that handle updates")
    add("updates", at_least(1), "N", "updates in all")
    add("chats", at_least(1), "N", "chats that they are spread over")
    add("duplicates", share, "SHARE", "share of the updates with which a copy is delivered")
    add("kills", at_least(0), "N", "processes killed, one after another")
    add("pauses", at_least(0), "N", "processes paused for longer than a lease lasts")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="chooses the history (default: a random one)"
    )
    add("timeout", seconds, "SECONDS", "after which the run is given up")
    add("store", str, "ALIAS", 'store in BOTSESSIONS["STORES"] that the bot keeps its data in')
    add("mailbox", str, "PATH", "subclass of DatabaseMailbox to be tried in its place")
    found = vars(parser.parse_args(arguments))
    settings = found.pop("settings")
    if found["seed"] is None:
        found["seed"] = secrets.randbelow(10**6)
    if found["updates"] > MOST_OF_A_CHAT * found["chats"]:
        parser.error(f"at most {MOST_OF_A_CHAT:,} updates a chat: give more --chats")
    return Options(**found), settings


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return number


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
