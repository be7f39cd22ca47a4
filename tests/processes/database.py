"""The servers' database, read past the app: a throwaway one, made before and dropped after."""

import json
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import psycopg


class Database(ABC):
    """A database and its address, `url`."""

    url: str
    #: The condition that a lease has not run out.
    not_expired: ClassVar[str]

    @abstractmethod
    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query whose parameters are written `?`."""

    @abstractmethod
    def make(self) -> None: ...

    @abstractmethod
    def drop(self) -> None: ...

    @abstractmethod
    def away(self) -> Any:
        """Return a context in which no server can use the database."""

    def data(self, chat: str) -> dict[str, Any]:
        """Return the stored data of a chat's session, of whichever bot, or what it begins with."""
        rows = self.query("SELECT data FROM botsessions_botsession WHERE chat = ?", chat)
        data = rows[0][0] if rows else None
        if isinstance(data, str):
            data = json.loads(data)
        return {"count": 0, "order": [], **(data or {})}

    def count(self, chat: str) -> int:
        count: int = self.data(chat)["count"]
        return count

    def status(self, update: str) -> str:
        """Return the status of an update, `""` where it is not stored."""
        rows = self.query("SELECT status FROM botsessions_botupdate WHERE update_id = ?", update)
        return str(rows[0][0]) if rows else ""

    def attempts(self, update: str) -> int:
        """Return how often an update was tried and failed."""
        rows = self.query("SELECT attempts FROM botsessions_botupdate WHERE update_id = ?", update)
        return int(rows[0][0]) if rows else 0

    def pending(self, chat: str) -> int:
        """Return how many updates wait in a chat's mailbox."""
        [(pending,)] = self.query(
            "SELECT count(*) FROM botsessions_botupdate"
            " WHERE status = 'pending' AND mailbox LIKE ?",
            f"%:{chat}:{chat}",
        )
        return int(pending)

    def leases(self, chat: str, *, live: bool = False) -> int:
        """Return how many leases there are of a chat's mailbox, or how many have not run out."""
        [(leases,)] = self.query(
            f"SELECT count(*) FROM botsessions_mailboxlease"  # noqa: S608
            f" WHERE key LIKE ? AND {self.not_expired if live else 'true'}",
            f"%:{chat}:{chat}",
        )
        return int(leases)

    def tracked(self, chat: str) -> list[str]:
        """Return what the bot said, as it stands in the session's slice, in order."""
        rows = self.query(
            "SELECT text FROM botsessions_trackedmessage"
            " WHERE chat = ? AND direction = 'outgoing' AND deleted_at IS NULL ORDER BY id",
            chat,
        )
        return [text for (text,) in rows]


class SQLite(Database):
    not_expired = "expires_at > strftime('%Y-%m-%d %H:%M:%f', 'now')"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file, timeout=20)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def make(self) -> None:
        """Leave it to the migrations, which make the file."""

    def drop(self) -> None:
        """Leave it to pytest, whose folder it is in."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Hold the lock that every writer needs."""
        with closing(sqlite3.connect(self.file, timeout=20, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")


class PostgreSQL(Database):
    not_expired = "expires_at > clock_timestamp()"

    def __init__(self, server: str) -> None:
        self.server = server
        self.name = f"test_botsessions_processes_{os.getpid()}"
        self.url = urlsplit(server)._replace(path=f"/{self.name}").geturl()

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(sql.replace("?", "%s").encode(), parameters).fetchall()

    def make(self) -> None:
        self.drop()
        self._execute(f"CREATE DATABASE {self.name}")

    def drop(self) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let nobody in, and throw out who is in."""
        self._execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        try:
            self._execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                self.name,
            )
            yield
        finally:
            self._execute(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")

    def _execute(self, sql: str, *parameters: object) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(sql.encode(), parameters)
