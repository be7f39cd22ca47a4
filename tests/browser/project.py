"""The running project: web, worker and beat as `make run` starts them, with data of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import psutil

from project.run import HOST

ROOT = Path(__file__).parents[2]
STARTS_WITHIN = 60.0
STOPS_WITHIN = 20.0
#: What would make it another project than the one on SQLite with nothing set.
UNSET = {"DATABASE_URL", "HTTPS", "REDIS_URL", "TELEGRAM_TOKEN"}

numbers = count(100_000)


#: What its processes never say: a page that failed, a task that did.
WRONG = ("Internal Server Error", "raised unexpected", "never retrieved")


@dataclass(frozen=True)
class Project:
    """Where the project is found, and who may operate it."""

    url: str
    folder: Path

    @property
    def operator(self) -> tuple[str, str]:
        """The operator's name and password."""
        name, password = (self.folder / "operator-login").read_text().split()
        return name, password

    def said(self, person: str, text: str, *, name: str = "", title: str = "") -> None:
        """Deliver what somebody said to the bot, over its webhook.

        This way names may be anything, as they may on a platform.
        """
        number = next(numbers)
        name = name or person.title()
        chat = {"id": person, "type": "private", "title": title or name}
        user = {"id": person, "name": name}
        message = {
            "message_id": number, "chat": chat, "from": user, "text": text, "date": int(time.time())
        }  # fmt: skip
        self.deliver({"update_id": number, "message": message})

    def deliver(self, *updates: dict[str, Any]) -> None:
        """Deliver updates over the bot's webhook, in one request."""
        secret = (self.folder / "demo-secret").read_text().strip()
        request = urllib.request.Request(
            f"{self.url}/webhooks/demo/",
            msgspec.json.encode({"updates": updates}),
            {"X-Local-Secret": secret, "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=30).close()

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    def check(self) -> None:
        """Raise `AssertionError` where one of its processes told of a defect."""
        output = self.output()
        if any(each in output for each in WRONG):
            raise AssertionError(f"Something went wrong in the project.\n{output[-20_000:]}")


@contextmanager
def running(folder: Path, settings: str = "tests.browser.settings") -> Iterator[Project]:
    """Let the project run on a free port, with what it writes in a folder."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= {"VAR_DIR": str(folder), "DJANGO_SETTINGS_MODULE": settings}
    with (folder / "output").open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "project.run", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    project = Project(f"http://{HOST}:{port}", folder)
    try:
        wait_until_served(process, project)
        yield project
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOPS_WITHIN)
        except psutil.TimeoutExpired:
            for remaining in [*process.children(recursive=True), process]:
                remaining.kill()
            process.wait()


def wait_until_served(process: psutil.Popen, project: Project) -> None:
    """Wait for an answer. Raises `RuntimeError` with what the project said where none comes."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{project.url}/admin/login/", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"The project did not start.\n{project.output()}")
