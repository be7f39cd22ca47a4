"""Where the rows keep their counts: throwaway databases, empty at first and removed at last."""

import json
import os
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import psycopg
import redis

WORK = Path(__file__).with_name(".work")
DATABASE = "botsessions_bench"
REDIS_DATABASE = 15


class Unavailable(Exception):
    """A row cannot run on this machine; the message says why, and what would change it."""


class Storage(ABC):
    """One row's storage.

    `empty()` raises `Unavailable` where the server does not answer. `remove()` leaves nothing
    behind, and may be called twice.
    """

    variable: ClassVar[str]
    url: str

    @abstractmethod
    def empty(self) -> None: ...

    @abstractmethod
    def total(self) -> int:
        """Return the sum of all users' counts."""

    @abstractmethod
    def remove(self) -> None: ...


class PostgreSQL(Storage):
    """The database `botsessions_bench` on the server of `TEST_DATABASE_URL` (default: local)."""

    variable = "DATABASE_URL"

    def __init__(self, total: str) -> None:
        default = "postgres://postgres:postgres@127.0.0.1:5432/postgres"
        self.server = os.environ.get("TEST_DATABASE_URL", default)
        self.url = urlsplit(self.server)._replace(path=f"/{DATABASE}").geturl()
        self.total_sql = total

    def execute(self, url: str, *statements: str) -> list[tuple[int | str, ...]]:
        """Run the statements, each by itself, and return the rows of the last one."""
        try:
            connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError as error:
            reason = f"PostgreSQL does not answer (set TEST_DATABASE_URL): {error}"
            raise Unavailable(reason) from error
        with connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> None:
        self.remove()
        self.execute(self.server, f"CREATE DATABASE {DATABASE}")

    def total(self) -> int:
        return int(self.execute(self.url, self.total_sql)[0][0] or 0)

    def remove(self) -> None:
        self.execute(self.server, f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")

    def describe(self) -> str:
        names = ("server_version", "fsync", "synchronous_commit")
        version, fsync, commit = (self.execute(self.server, f"SHOW {x}")[0][0] for x in names)
        return f"PostgreSQL {f'{version}'.split()[0]} (fsync {fsync}, synchronous_commit {commit})"


class SQLite(Storage):
    """A file beside the benchmarks: on a disk, not in a temporary file system in memory."""

    variable = "DATABASE_URL"

    def __init__(self, total: str) -> None:
        self.file = WORK / "bench.sqlite3"
        self.url = f"sqlite:///{self.file}"
        self.total_sql = total

    def empty(self) -> None:
        WORK.mkdir(exist_ok=True)
        self.remove()

    def total(self) -> int:
        connection = sqlite3.connect(self.file, timeout=30)
        try:
            return int(connection.execute(self.total_sql).fetchone()[0] or 0)
        finally:
            connection.close()

    def remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)


class Redis(Storage):
    """Database 15 of the server of `TEST_REDIS_URL`, by default the local one.

    It is flushed, hence taken only when nobody else has keys in it.
    """

    variable = "REDIS_URL"

    def __init__(self, keys: str) -> None:
        server = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
        self.url = urlsplit(server)._replace(path=f"/{REDIS_DATABASE}").geturl()
        self.keys = keys
        self.client = redis.Redis.from_url(self.url, socket_timeout=10)
        self.ours = False

    def empty(self) -> None:
        self.version()
        if not self.ours and self.client.dbsize():
            reason = f"Redis database {REDIS_DATABASE} is in use"
            raise Unavailable(f"{reason}; if not: redis-cli -n {REDIS_DATABASE} flushdb")
        self.ours = True
        self.remove()

    def total(self) -> int:
        keys = list(set(self.client.scan_iter(self.keys, count=1_000)))  # a scan may repeat itself
        values = self.client.mget(keys) if keys else []
        return sum(json.loads(value)["count"] for value in values if value)

    def remove(self) -> None:
        if self.ours:
            self.client.flushdb()

    def version(self) -> str:
        try:
            return f"{self.client.info('server')['redis_version']}"
        except redis.RedisError as error:
            reason = f"Redis does not answer (set TEST_REDIS_URL): {error}"
            raise Unavailable(reason) from error

    def describe(self) -> str:
        return f"Redis {self.version()}"
