"""The SQLite database of a local chat network: one connection, short transactions, one clock.

Everything that happens takes the next tick of the clock, and a tick is the identity of what
happened: the id of a message or an update, and the revision at which a message last changed. The
clock begins at the microsecond in which the database was made, so a network that starts anew
repeats no id that a bot has seen from an earlier one.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from botsessions.exceptions import PlatformUnavailable

#: Seconds to wait for another process to finish its transaction.
BUSY_TIMEOUT = 5.0

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS clock (tick INTEGER NOT NULL, began INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS chat (
        bot TEXT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, title TEXT NOT NULL,
        PRIMARY KEY (bot, id))""",
    """CREATE TABLE IF NOT EXISTS message (
        id INTEGER PRIMARY KEY, bot TEXT NOT NULL, chat TEXT NOT NULL,
        sender TEXT NOT NULL, sender_name TEXT NOT NULL, from_bot INTEGER NOT NULL,
        kind TEXT NOT NULL, text TEXT NOT NULL, reply_to TEXT NOT NULL, buttons TEXT NOT NULL,
        date INTEGER NOT NULL, edited INTEGER, deleted INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL, nonce TEXT, revision INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS message_changes ON message (bot, chat, revision)",
    "CREATE UNIQUE INDEX IF NOT EXISTS message_nonce ON message (bot, chat, sender, nonce)",
    """CREATE VIEW IF NOT EXISTS entry AS
        SELECT message.*, chat.type AS chat_type, chat.title AS chat_title
        FROM message LEFT JOIN chat ON chat.bot = message.bot AND chat.id = message.chat""",
)


class ChatDatabase:
    """A database in memory, or in the file `path` that several processes may share; thread-safe."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize[..., ChatDatabase] | None = None
        self._owner = 0

    @contextmanager
    def transaction(
        self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
    ) -> Iterator[sqlite3.Connection]:
        """Run the block in one transaction, or not at all; `DEFERRED` is for reading alone.

        Raises `PlatformUnavailable` when the database cannot be used.
        """
        try:
            with self._lock:
                connection = self._connect()
                connection.execute(f"BEGIN {kind}")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise PlatformUnavailable(f"the local chat network: {error}", sent=False) from error

    def tick(self, connection: sqlite3.Connection) -> int:
        """Return the next tick of the clock, within a transaction."""
        [(tick,)] = connection.execute("UPDATE clock SET tick = tick + 1 RETURNING tick").fetchall()
        return int(tick)

    def close(self) -> None:
        """Let go of the file; the next transaction opens it again. A database in memory stays."""
        with self._lock:
            if self.path is not None and self._finalizer is not None:
                self._finalizer()
                self._connection = self._finalizer = None

    def _connect(self) -> sqlite3.Connection:
        # A connection to a file belongs to the process that opened it: a forked one opens its own.
        if self._connection is not None and (self.path is None or self._owner == os.getpid()):
            return self._connection
        try:
            if self.path is not None:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlatformUnavailable(f"the local chat network: {error}", sent=False) from error
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode a killed process loses nothing; a power cut may cost the last messages,
            # not the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                connection.execute(statement)
            began = time.time_ns() // 1000
            connection.execute(
                "INSERT INTO clock SELECT ?, ? WHERE NOT EXISTS (SELECT * FROM clock)",
                (began, began),
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._connection, self._owner = connection, os.getpid()
        self._finalizer = weakref.finalize(self, connection.close)
        self._finalizer.atexit = False  # a forked process must not close its parent's connection
        return connection
