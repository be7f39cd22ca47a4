"""The statements on SQLite.

Its single writer does the locking: transactions are to begin IMMEDIATE.
"""

# ruff: noqa: S608 - what is put together is this module's own

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar

import msgspec
from django.db import DatabaseError

from botsessions.mailboxes.statements.base import Tuples
from botsessions.mailboxes.statements.sql import SqlStatements


@cache
def _columns(row: type[msgspec.Struct]) -> str:
    columns = []
    for field in msgspec.structs.fields(row):
        name, kind = field.encode_name, str(field.type)
        if field.type in (int, str, bool):
            value = f"value->>'{name}'"
        elif "datetime" in kind:
            value = f"replace(rtrim(value->>'{name}', 'Z'), 'T', ' ')"
        else:
            value = f"nullif(value->'{name}', 'null')"
        columns.append(f'{value} AS "{name}"')
    return ", ".join(columns)


class SQLiteStatements(SqlStatements):
    """Runs the shared SQL with SQLite's JSON functions (3.38 and up)."""

    places: ClassVar[dict[str, str]] = {
        "clock": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
        "later": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %(seconds)s || ' seconds')",
        "binary": "COLLATE BINARY",
        "now": "%(now)s",
        "for_update": "",
        "in": "IN (",
        "end": ")",
        "joined": """(
    SELECT json_group_array(json(value)) FROM (
        SELECT value FROM json_each(coalesce(botsessions_botupdate.journal, '[]'))
        UNION ALL SELECT value FROM json_each(excluded.journal)
    )
)""",
    }

    def table(self, row: type[msgspec.Struct]) -> str:
        return f"(SELECT {_columns(row)} FROM json_each(%(rows)s)) AS r"

    def one(self, join: str) -> str:
        # Written so, it keeps the order of the tables.
        return f"CROSS JOIN {join}"

    def each(self, join: str) -> str:
        return f"CROSS JOIN {join}"

    def has(self, names: str) -> str:
        array, text = names.split()
        return f"{text} IN (SELECT value FROM json_each({array}))"

    def among(self, query: str) -> str:
        return f"IN ({query})"

    def json(self, column: str) -> str:
        return column

    def moment(self, column: str) -> str:
        return column

    def time(self, moment: datetime) -> object:
        # Without a fraction where there is none, as Django and the rows' JSON write it: times are
        # compared as text.
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")

    def execute(self, sql: str, parameters: dict[str, Any]) -> Tuples:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else ()

    def may_retry(self, error: DatabaseError) -> bool:
        return "database is locked" in str(error)
