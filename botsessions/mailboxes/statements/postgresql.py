"""The statements on PostgreSQL, through psycopg 3 on Django's connection.

Each statement is prepared once for a connection. What is executed together goes out as one text of
`EXECUTE`s, which costs one round trip and one hand-over of the interpreter's lock instead of one
for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from hashlib import blake2s
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

import msgspec
import psycopg
from django.db import DatabaseError, InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions.mailboxes.statements.base import Tuples
from botsessions.mailboxes.statements.sql import SqlStatements

#: deadlock_detected and serialization_failure.
RETRIED = frozenset({"40P01", "40001"})

TYPES: dict[object, str] = {int: "bigint", str: "text", bool: "boolean"}
PARAMETERS = {
    "rows": "json",
    "seconds": "double precision",
    "now": "timestamptz",
    "limit": "bigint",
}

# A plan made while a table was small would read all of it long after it has grown: every access
# here is by index.
SETTINGS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    # To it what is switched off above looks dear enough to be compiled, at 10 ms a statement.
    "jit": "off",
}
SET_LOCAL = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', true)" for name, value in SETTINGS.items()
)
# A process that is stopped while its admission is unended holds others up no longer than this:
# then the server undoes it, and what it would have committed finds its lease lost.
UNENDED = "SET idle_in_transaction_session_timeout TO '2s'"
SET_FOR_GOOD = "; ".join([*(f"SET {name} TO {value}" for name, value in SETTINGS.items()), UNENDED])
# Where nothing was acknowledged the transaction need not survive a crash of the server: a lost
# lease is noticed.
RELAX = "SET LOCAL synchronous_commit TO off"


@cache
def _columns(row: type[msgspec.Struct]) -> str:
    columns = []
    for field in msgspec.structs.fields(row):
        kind = TYPES.get(field.type)
        if kind is None:
            kind = "timestamptz" if "datetime" in str(field.type) else "jsonb"
        columns.append(f'"{field.encode_name}" {kind}')
    return ", ".join(columns)


class _Promise:
    """The rows of a statement that is yet to be sent."""

    def __init__(self, parameters: tuple[Any, ...]) -> None:
        self.parameters = parameters
        self.rows: list[tuple[Any, ...]] = []

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)


class PostgreSQLStatements(SqlStatements):
    """The shared SQL, prepared."""

    places: ClassVar[dict[str, str]] = {
        "clock": "clock_timestamp()",
        "later": "clock_timestamp() + make_interval(secs => %(seconds)s)",
        "binary": 'COLLATE "C"',
        "now": "%(now)s",
        "joined": "COALESCE(botsessions_botupdate.journal, '[]') || excluded.journal",
    }

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        #: What is gathered to be sent together; None when statements are sent one by one.
        self._gathered: list[tuple[str, _Promise]] | None = None
        #: Is a transaction of our own to be begun with the next statement (False), or begun (True)?
        self._begun: bool | None = None
        self._may_end_later = False

    @contextmanager
    def atomic(self) -> Iterator[None]:
        if self.connection.in_atomic_block or not self.connection.get_autocommit():
            with super().atomic():
                yield
            return
        # BEGIN goes out with the first statement: Django's own way costs a round trip more.
        self._begun = self._may_end_later = False
        try:
            yield
        except BaseException:
            if self._begun:
                with suppress(DatabaseError, InterfaceError):
                    self._query("ROLLBACK")
            raise
        else:
            if self._begun and self._may_end_later:
                self.is_unended = True
            elif self._begun:
                self._query("COMMIT")
        finally:
            self._begun = None

    @contextmanager
    def together(self) -> Iterator[None]:
        gathered: list[tuple[str, _Promise]] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None
        self._send(gathered)

    def begin(self, *, durable: bool) -> None:
        if self._begun is None:
            # The settings would last until the end of somebody else's transaction. A plan made
            # without them must not be kept.
            self._take("SET LOCAL plan_cache_mode TO force_custom_plan")
            return
        if not self.own:
            self.execute(SET_LOCAL, {})
        if not durable:
            self._take(RELAX)

    def may_end_later(self) -> None:
        self._may_end_later = self.own

    def end(self) -> None:
        if self.is_unended:
            self.is_unended = False
            self._query("COMMIT")

    def make_durable(self) -> None:
        if self._begun is not None:
            self._take("SET LOCAL synchronous_commit TO DEFAULT")

    def table(self, row: type[msgspec.Struct]) -> str:
        return f"json_to_recordset(%(rows)s) AS r({_columns(row)})"

    def one(self, join: str, lock: str = "LIMIT 1") -> str:
        table, alias, _, condition = join.split(maxsplit=3)
        # What is limited, or locks, is done for each row on its own.
        found = f"SELECT * FROM {table} {alias} WHERE {condition} {lock}"  # noqa: S608
        return f"CROSS JOIN LATERAL ({found}) {alias}"

    def locked(self, join: str) -> str:
        return self.one(join, "FOR UPDATE")

    def among(self, query: str) -> str:
        return f"= ANY (ARRAY({query}))"

    def json(self, column: str) -> str:
        return f"{column}::text"

    def time(self, moment: datetime) -> object:
        return moment.isoformat()

    def execute(self, sql: str, parameters: dict[str, Any]) -> Tuples:
        return self._take(f"EXECUTE {self._prepare(sql, parameters)}", tuple(parameters.values()))

    def may_retry(self, error: DatabaseError) -> bool:
        return getattr(error.__cause__, "sqlstate", None) in RETRIED

    def _take(self, text: str, parameters: tuple[Any, ...] = ()) -> Tuples:
        """Send a statement, or gather it."""
        promise = _Promise(parameters)
        if self._gathered is not None:
            self._gathered.append((text, promise))
        else:
            self._send([(text, promise)])
        return promise

    def _send(self, statements: list[tuple[str, _Promise]]) -> None:
        """Send statements as one text and keep each promise."""
        if not statements:
            return
        text = "; ".join(text for text, _ in statements)
        skipped = 0
        if self._begun is False:
            # Each statement sees what was committed while it, or one before it, waited for a lock.
            text = f"BEGIN ISOLATION LEVEL READ COMMITTED; {text}"
            skipped = 1
            self._begun = True
            if self.is_unended:
                text = f"COMMIT; {text}"
                skipped = 2
                self.is_unended = False
        cursor = self._query(text, [value for _, each in statements for value in each.parameters])
        for _ in range(skipped):
            cursor.nextset()
        for _, promise in statements:
            if cursor.rownumber is not None:  # it has rows; cheaper to ask than its description
                promise.rows = cursor.fetchall()
            cursor.nextset()

    def _query(self, text: str, parameters: Sequence[Any] = ()) -> psycopg.ClientCursor[Any]:
        with self.connection.wrap_database_errors:
            cursor = psycopg.ClientCursor(self._raw)
            cursor.execute(text, parameters or None)
        return cursor

    def _prepare(self, sql: str, parameters: dict[str, Any]) -> str:
        """Return the call of a statement, with a place for each parameter.

        A statement that is new to the connection is prepared.
        """
        prepared = _prepared.get(self._raw)
        if prepared is None:
            prepared = _prepared[self._raw] = {}
            self.is_unended = False  # with the connection that is gone
            if self.own:
                self._query(SET_FOR_GOOD)
        call = prepared.get(sql)
        if call is None:
            # Named by its text: behind a pooler that mixes connections an unknown name fails, where
            # a number could call another statement.
            name = f"botsessions_{blake2s(sql.encode(), digest_size=8).hexdigest()}"
            head = call = name
            if parameters:
                head = f"{name} ({', '.join(PARAMETERS[each] for each in parameters)})"
                call = f"{name} ({', '.join('%s' for _ in parameters)})"
            places = {each: f"${number}" for number, each in enumerate(parameters, 1)}
            self._query(f"PREPARE {head} AS {sql % places}")
            prepared[sql] = call
        return call

    @property
    def _raw(self) -> psycopg.Connection[Any]:
        self.connection.ensure_connection()
        return cast("psycopg.Connection[Any]", self.connection.connection)


#: What each connection has prepared: the call of each statement.
_prepared: WeakKeyDictionary[psycopg.Connection[Any], dict[str, str]] = WeakKeyDictionary()
