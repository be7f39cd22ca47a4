"""Secrets that the project makes for itself."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from project.secretfile import read_or_create


def test_a_secret_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    assert read_or_create(path, lambda: "first") == "first"
    assert read_or_create(path, lambda: "second") == "first"
    assert path.stat().st_mode & 0o777 == 0o600


def test_those_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    with ThreadPoolExecutor(16) as threads:
        started = [threads.submit(read_or_create, path, secrets.token_hex) for _ in range(64)]

    assert {thread.result() for thread in started} == {path.read_text().strip()}
    assert list(tmp_path.iterdir()) == [path]
