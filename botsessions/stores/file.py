"""The store that is a directory of JSON files."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from hashlib import blake2s
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import msgspec
from django.core.checks import CheckMessage
from django.core.files import locks

from botsessions import clock
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores.base import Store, Value

log = logging.getLogger("botsessions.stores")

#: The keys that name their file themselves: nothing that a file system reads as something else, or
#: as equal to another name. The rest is hashed.
PLAIN: Final = re.compile(r"[a-z0-9_-]{1,64}(?::[a-z0-9_-]*){1,4}")
LONGEST: Final = 120
SUFFIX: Final = ".json"
UNFINISHED: Final = ".tmp"
LOCK: Final = ".lock"
#: Seconds after which an unfinished file was certainly left by a process that died.
ABANDONED: Final = 3600


class Record(msgspec.Struct):
    """What a file holds. The key stands in it too, so that no other session can read it."""

    key: str
    data: msgspec.Raw
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at < clock.now()


class FileStore(Store):
    """Keeps each value in a file of its own, below a directory that processes may share.

    OPTIONS: DIRECTORY (`".sessions"`, below the working directory of the process).

    A file is written beside the old one, brought to the disk and put in its place: whoever reads,
    and whatever crashes, sees the old value or the new one. A file that cannot be read as a record
    counts as no value and is logged. Only the user of the process may read the files.
    """

    known_options: ClassVar[frozenset[str]] = frozenset({"DIRECTORY"})

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        self._started_in = Path.cwd()

    @property
    def directory(self) -> Path:
        return Path(self._started_in, self.options.get("DIRECTORY", ".sessions"))

    def path(self, key: SessionKey) -> Path:
        """Return the file of a session, whether it is there or not."""
        text = str(key)
        if len(text) <= LONGEST and PLAIN.fullmatch(text):
            name = text.replace(":", "+")
        else:
            # The sign stands in no plain name. A custom key strategy may let a lone surrogate
            # through.
            name = f"~{blake2s(text.encode(errors='surrogatepass')).hexdigest()}"
        return self.directory / f"{name}{SUFFIX}"

    def load(self, keys: Sequence[SessionKey]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for key in keys:
            record = self._read(self.path(key))
            is_there = record is not None and record.key == str(key) and not record.has_expired
            values.append(bytes(record.data) if record is not None and is_there else None)
        return values

    def save(self, values: Sequence[Value]) -> None:
        now = clock.now()
        for key, data, seconds in values:
            expires_at = None if seconds is None else now + timedelta(seconds=seconds)
            record = Record(str(key), msgspec.Raw(data), expires_at)
            self._write(self.path(key), msgspec.json.encode(record))
        if values:
            with self._available():
                _sync(self.directory)

    def delete(self, keys: Sequence[SessionKey]) -> int:
        deleted = 0
        for key in dict.fromkeys(keys):
            path = self.path(key)
            # Nobody may put a new value there between the look at the old one and its end.
            with self._available(), self._locked(locks.LOCK_EX) as is_there:
                record = self._read(path) if is_there else None
                if record is not None:
                    path.unlink(missing_ok=True)
                    deleted += not record.has_expired
        return deleted

    def clear_expired(self) -> int:
        """Delete the files of what has expired, and what crashed processes left half-written."""
        cleared = 0
        for path in self._files(SUFFIX):
            record = self._read(path)
            if record is None or not record.has_expired:
                continue
            with self._available(), self._locked(locks.LOCK_EX):
                record = self._read(path)  # it may have been saved meanwhile
                if record is not None and record.has_expired:
                    path.unlink(missing_ok=True)
                    cleared += 1
        for path in self._files(UNFINISHED):
            with self._available(), suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED:
                    path.unlink()
        return cleared

    def clear(self) -> int:
        cleared = 0
        for path in [*self._files(SUFFIX), *self._files(UNFINISHED)]:
            with self._available():
                path.unlink(missing_ok=True)
                cleared += path.suffix == SUFFIX
        return cleared

    def check(self) -> Iterator[CheckMessage]:
        yield from super().check()
        if not isinstance(self.options, Mapping):
            return
        configured = self.options.get("DIRECTORY", ".sessions")
        if not isinstance(configured, str | Path) or not str(configured):
            yield self.wrong(f"DIRECTORY is {configured!r}.", "It is the path of a directory.")
            return
        # It is made when the first value is saved, in the nearest of its parents that is there.
        path = self.directory
        nearest = next(each for each in [path, *path.parents] if each.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            yield self.wrong(
                f"DIRECTORY {str(configured)!r} cannot be written: see {nearest}.",
                "Name a directory that belongs to the user of this process.",
            )

    def _files(self, suffix: str) -> list[Path]:
        with self._available():
            try:
                return [path for path in self.directory.iterdir() if path.suffix == suffix]
            except FileNotFoundError:
                return []

    def _read(self, path: Path) -> Record | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, PermissionError, IsADirectoryError) as error:
            log.warning("%r: %s cannot be read and counts as no value: %s", self, path, error)
            return None
        except OSError as error:
            # The value may be there all the same: taken for none, it would be overwritten.
            raise Unavailable(f"{self!r} cannot read {path}: {error}") from error

    def _write(self, path: Path, content: bytes) -> None:
        with self._available():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(suffix=UNFINISHED, dir=self.directory)
            try:
                with open(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                with self._locked(locks.LOCK_SH):
                    os.replace(name, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(name)
                raise

    @contextmanager
    def _locked(self, kind: int) -> Iterator[bool]:
        """Hold the directory's lock: those who save share it, those who delete have it alone.

        Yields False, without a lock, where there is no directory.
        """
        try:
            file = open(self.directory / LOCK, "ab")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            yield False
            return
        with file:
            locks.lock(file, kind)
            yield True

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"{self!r}: {self.directory} cannot be used: {error}") from error


def _sync(directory: Path) -> None:
    """Bring the names in a directory to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
