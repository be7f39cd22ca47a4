"""The statements on PostgreSQL, through psycopg 3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, cast

import msgspec
import psycopg
from django.db import DatabaseError

from botsessions.mailboxes.statements.base import Tuples
from botsessions.mailboxes.statements.sql import SqlStatements

#: deadlock_detected and serialization_failure.
RETRIED = frozenset({"40P01", "40001"})

TYPES: dict[object, str] = {int: "bigint", str: "text", bool: "boolean"}

# A plan made while a table was small would read all of it long after it has grown: every access here is by index.
# A transaction in which nothing was acknowledged need not survive a crash of the server: a lost lease is noticed.
BEGIN = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true)"""
BEGIN_RELAXED = f"{BEGIN}, set_config('synchronous_commit', 'off', true)"


@cache
def _columns(row: type[msgspec.Struct]) -> str:
    columns = []
    for field in msgspec.structs.fields(row):
        kind = TYPES.get(field.type)
        if kind is None:
            kind = "timestamptz" if "datetime" in str(field.type) else "jsonb"
        columns.append(f'"{field.encode_name}" {kind}')
    return ", ".join(columns)


class PostgreSQLStatements(SqlStatements):
    """Sends raw psycopg statements on Django's connection: prepared once, several in one round trip."""

    places: ClassVar[dict[str, str]] = {
        "clock": "clock_timestamp()",
        "later": "clock_timestamp() + make_interval(secs => %(seconds)s)",
        "binary": 'COLLATE "C"',
        "for_update": "FOR UPDATE OF l",
        "now": "%(now)s::timestamptz",
        "joined": "COALESCE(botsessions_botupdate.journal, '[]') || excluded.journal",
    }

    @contextmanager
    def together(self) -> Iterator[None]:
        with self.connection.wrap_database_errors, self._connection.pipeline():
            yield

    def begin(self, *, durable: bool) -> None:
        self.execute(BEGIN if durable else BEGIN_RELAXED, {})

    def make_durable(self) -> None:
        self.execute("SET LOCAL synchronous_commit TO DEFAULT", {})

    def table(self, row: type[msgspec.Struct]) -> str:
        return f"json_to_recordset(%(rows)s::json) AS r({_columns(row)})"

    def json(self, column: str) -> str:
        return f"{column}::text"

    def time(self, moment: datetime) -> object:
        return moment

    def execute(self, sql: str, parameters: dict[str, Any]) -> Tuples:
        with self.connection.wrap_database_errors:
            cursor = psycopg.Cursor(self._connection)
            cursor.execute(sql, parameters or None, prepare=True)
        return cursor

    def may_retry(self, error: DatabaseError) -> bool:
        return getattr(error.__cause__, "sqlstate", None) in RETRIED

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        self.connection.ensure_connection()
        return cast("psycopg.Connection[Any]", self.connection.connection)
