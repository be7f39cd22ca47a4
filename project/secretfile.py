"""Secrets made on the first start and kept in a file that only its owner reads."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """Return the secret kept at `path`, making it with `make()` where there is none.

    The file appears complete or not at all and is never replaced, so processes that start at the
    same moment agree on one secret.
    """
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}-"
        )  # mode 600
        try:
            with open(descriptor, "w") as file:
                file.write(make() + "\n")
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was first: its secret counts
        finally:
            os.unlink(temporary)
    return path.read_text().strip()
