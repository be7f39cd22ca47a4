"""A broker for one machine without a server: messages are files in a folder.

Kombu's file-system transport with its weak moments removed. Stock, a reader can see a message or an
exchange table that is only half written, one empty file kills the worker, and a message is taken by
moving it to the system's temporary folder, which across file systems is neither atomic nor private.
Here

- a file is written under a temporary name and renamed: it is visible complete or not at all;
- a message is read and then unlinked, and belongs to the reader whose unlink succeeds;
- a file that is not a message is removed with a warning;
- the folders are created when they are first needed.

Used by class path: `broker_transport = "project.broker:Transport"`, `broker_url = "filesystem://"`.
"""

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.transport.virtual import BrokerState
from kombu.utils.json import dumps, loads

logger = logging.getLogger(__name__)

Row = filesystem.exchange_queue_t


class Channel(filesystem.Channel):
    """A channel whose files are whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for folder in (self.data_folder_in, self.data_folder_out, self.control_folder):
            Path(folder).mkdir(parents=True, exist_ok=True)

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        # Names sort by time, so messages leave a queue about as they entered it.
        name = f"{time.time_ns():020}_{uuid.uuid4()}.{queue}.msg"
        write(Path(self.data_folder_out) / name, dumps(payload))

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        suffix = f"{queue}.msg"
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != suffix:
                continue
            path = Path(self.data_folder_in) / name
            try:
                content = path.read_bytes()
                path.unlink()
            except FileNotFoundError:
                continue  # another reader has it
            message = decode(content)
            if isinstance(message, dict):
                return message
            logger.warning("Removed %s: it is not a message.", path)
        raise Empty

    def get_table(self, exchange: str) -> list[Row]:
        """Return the bindings of `exchange`; an unreadable table is empty until the next bind."""
        try:
            rows = decode(self._table_path(exchange).read_bytes())
        except FileNotFoundError:
            return []
        return [Row(*row) for row in rows] if isinstance(rows, list) else []

    def _queue_bind(
        self, exchange: str, routing_key: str | None, pattern: str | None, queue: str | None
    ) -> None:
        row = Row(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda rows: rows if row in rows else [row, *rows])

    def _delete(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None,
        pattern: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._purge(queue)
        row = Row(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda rows: [other for other in rows if other != row])

    def _table_path(self, exchange: str) -> Path:
        path: Path = self._exchange_file(exchange)  # type: ignore[attr-defined]  # the stubs are older
        return path

    def _change_table(self, exchange: str, change: Callable[[list[Row]], list[Row]]) -> None:
        path = self._table_path(exchange)
        with locked(path.with_suffix(".lock")):
            before = self.get_table(exchange)
            after = change(before)
            if after != before:
                write(path, dumps(after))


class Transport(filesystem.Transport):
    """The transport to name in `broker_transport`."""

    Channel = Channel
    polling_interval = 0.1

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        # Not the state that all connections share: they may be in different folders.
        self.state = BrokerState()


def write(path: Path, content: str) -> None:
    """Create or replace the file at `path`, in one step for whoever looks."""
    temporary = path.with_name(f".{uuid.uuid4()}.tmp")
    try:
        temporary.write_text(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def decode(content: bytes) -> Any:
    """Return what `content` says in JSON, or None where it says nothing."""
    try:
        return loads(content.decode())
    except ValueError:
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` against other threads and processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
