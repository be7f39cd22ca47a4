"""`python -m project.run`: one command starts everything and stops it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from django.contrib.auth import authenticate
from pytest_django import Settings

from project import run

STARTS_WITHIN = 30
STOPS_WITHIN = 20


@pytest.mark.django_db
def test_the_operator_is_made_once_and_the_password_shown_once(
    settings: Settings, tmp_path: Path
) -> None:
    settings.VAR_DIR = tmp_path

    first = run.ensure_operator()
    second = run.ensure_operator()

    username, password = (tmp_path / "operator-login").read_text().split()
    operator = authenticate(username=username, password=password)
    assert operator is not None
    assert operator.is_superuser
    assert password in first
    assert password not in second
    assert str(tmp_path) in second


def test_a_port_in_use_is_reported_with_the_cure() -> None:
    with socket.create_server((run.HOST, 0)) as taken, pytest.raises(SystemExit) as exit:
        run.require_free(taken.getsockname()[1])

    assert "make run PORT=" in str(exit.value.code)


@pytest.fixture
def port() -> int:
    with socket.create_server((run.HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture
def project(tmp_path: Path, port: int) -> Iterator[psutil.Popen]:
    """The running project, on SQLite and in a folder of its own."""
    unset = {"DATABASE_URL", "DJANGO_SETTINGS_MODULE", "REDIS_URL", "TELEGRAM_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PORT": str(port), "VAR_DIR": str(tmp_path / "var")}
    with (tmp_path / "output").open("w") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "project.run"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_served(port)
        yield process
    finally:
        for remaining in (
            [*process.children(recursive=True), process] if process.is_running() else []
        ):
            remaining.kill()
        process.wait()


def wait_until_served(port: int) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            urllib.request.urlopen(f"http://{run.HOST}:{port}/admin/login/").close()
            return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.processes
def test_an_interrupt_stops_everything_cleanly(project: psutil.Popen, tmp_path: Path) -> None:
    children = project.children(recursive=True)
    project.send_signal(signal.SIGINT)

    assert project.wait(STOPS_WITHIN) == 0
    assert not [child for child in children if child.is_running()]
    assert "Traceback" not in (tmp_path / "output").read_text()


@pytest.mark.processes
@pytest.mark.parametrize("name", ["uvicorn", "worker", "beat"])
def test_a_process_that_dies_takes_the_others_with_it(project: psutil.Popen, name: str) -> None:
    children = project.children(recursive=True)
    victim = [child for child in children if name in child.cmdline()][-1]
    victim.kill()

    assert project.wait(STOPS_WITHIN) != 0
    assert not [child for child in children if child.is_running()]
