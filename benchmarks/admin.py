"""What the pages of the admin and the API take on a database as years fill it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.browse import Took
from benchmarks.measures import say
from benchmarks.rows import MIGRATE, OURS, Row, run
from benchmarks.servers import ROOT, ServerError

#: No row of the comparison: nothing is served here but Django's test client.
ROW = Row(
    "b", "the admin", "/admin/", (), OURS, {"DJANGO_SETTINGS_MODULE": "benchmarks.admin_settings"}
)


@dataclass(frozen=True)
class Page:
    """A page, and what it took a superuser and an operator with a few permissions."""

    title: str
    superuser: Took
    operator: Took


def pages(sessions: int, messages: int, updates: int) -> list[Page]:
    """Return the pages, each asked for several times, on a database with so many rows."""
    environment = ROW.surroundings()
    sizes = ("--sessions", f"{sessions}", "--messages", f"{messages}", "--updates", f"{updates}")
    with filled(environment, sizes):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.browse"],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            page = json.loads(line)
            found.append(Page(page["title"], *(Took(**each) for each in page["took"])))
            say(f"  {found[-1].superuser.median:7.0f} ms  {page['title']}")
        if process.wait():
            raise ServerError("benchmarks.browse failed.")
    return found


@contextmanager
def filled(environment: dict[str, str], sizes: tuple[str, ...]) -> Iterator[None]:
    """Let there be a database with so many rows while the block lasts."""
    try:
        OURS.empty()
        run(MIGRATE, ROOT, environment, ServerError)
        say("  filling the database")
        run([sys.executable, "-m", "benchmarks.crowd", *sizes], ROOT, environment, ServerError)
        yield
    finally:
        OURS.remove()
