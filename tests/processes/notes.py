"""What processes tell each other and the test, in files: it outlives any of them."""

import os
from pathlib import Path


def folder() -> Path:
    return Path(os.environ["PROCESSES_FOLDER"])


def first_time(name: str) -> bool:
    """Return True to the first process that asks for this name, and to it alone."""
    try:
        (folder() / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def note_run(update: str) -> None:
    """Note that this process begins to handle an update."""
    with (folder() / "runs").open("a") as file:
        file.write(f"{update} {os.getpid()}\n")


def runs(directory: Path, update: str) -> list[int]:
    """Return the processes that began to handle an update, in order."""
    try:
        lines = (directory / "runs").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [int(pid) for each, pid in map(str.split, lines) if each == update]
