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
from itertools import chain
from typing import Any, ClassVar, cast

import msgspec
import psycopg
from django.db import DatabaseError, InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions.mailboxes.statements.base import LeaseRow, SaveRow, Tuples, UpdateRow
from botsessions.mailboxes.statements.sql import (
    FINISH_EVERY,
    HOLD_EVERY,
    SAVE_EVERY,
    SAVE_SESSIONS,
    UPDATE_EVERY,
    UPDATE_SESSIONS,
    SqlStatements,
)
from botsessions.mailboxes.statements.wire import Rows, Wire, wire_of

#: deadlock_detected and serialization_failure.
RETRIED = frozenset({"40P01", "40001"})
DIVISION_BY_ZERO = "22012"

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
SET_LOCAL = "SELECT {}".format(
    ", ".join(f"set_config('{name}', '{value}', true)" for name, value in SETTINGS.items())
)
# A process that is stopped while its admission is unended holds others up no longer than this:
# then the server undoes it, and what it would have committed finds its lease lost.
UNENDED = "SET idle_in_transaction_session_timeout TO '2s'"
SET_FOR_GOOD = "; ".join(
    [*(f"SET {name} TO {value}" for name, value in SETTINGS.items()), UNENDED]
).encode()
# Where nothing was acknowledged the transaction need not survive a crash of the server: a lost
# lease is noticed.
RELAX = b"SET LOCAL synchronous_commit TO off"


@cache
def _columns(row: type[msgspec.Struct]) -> str:
    columns = []
    for field in msgspec.structs.fields(row):
        kind = TYPES.get(field.type)
        if kind is None:
            kind = "timestamptz" if "datetime" in str(field.type) else "jsonb"
        columns.append(f'"{field.encode_name}" {kind}')
    return ", ".join(columns)


def _new_and_stored(sessions: Sequence[SaveRow]) -> tuple[list[SaveRow], list[SaveRow]]:
    """Return those that may have no row yet, and those that have one."""
    new = [each for each in sessions if not each.version]
    return new, [each for each in sessions if each.version]


class _Promise:
    """The rows of a statement that is yet to be sent."""

    __slots__ = ("rows", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.rows: Rows = []

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)


class PostgreSQLStatements(SqlStatements):
    """The shared SQL, prepared."""

    can_write_every = True

    places: ClassVar[dict[str, str]] = {
        "clock": "clock_timestamp()",
        "later": "clock_timestamp() + make_interval(secs => %(seconds)s)",
        "binary": 'COLLATE "C"',
        "now": "%(now)s",
        # One that is moved meanwhile is not found: it would be inserted at its old place.
        "for_update": " FOR UPDATE",
        "in": "= ANY (ARRAY(",
        "end": "))",
        "joined": "COALESCE(botsessions_botupdate.journal, '[]') || excluded.journal",
    }

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        #: What is gathered to be sent together; None when statements are sent one by one.
        self._gathered: list[_Promise] | None = None
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
                    self._query(b"ROLLBACK")
            raise
        else:
            if self._begun and self._may_end_later:
                self.is_unended = True
            elif self._begun:
                self._query(b"COMMIT")
        finally:
            self._begun = None

    @contextmanager
    def together(self, *, last: bool = False) -> Iterator[None]:
        gathered: list[_Promise] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None
        # What follows has no settings of its own on somebody else's connection.
        self._send(gathered, ends=last and self.own and self._begun is not None)

    def begin(self, *, durable: bool) -> None:
        if self._begun is None:
            # The settings would last until the end of somebody else's transaction. A plan made
            # without them must not be kept.
            self._take(b"SET LOCAL plan_cache_mode TO force_custom_plan")
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
            self._query(b"COMMIT")

    def write_every(
        self,
        leases: Sequence[LeaseRow],
        updates: Sequence[UpdateRow],
        sessions: Sequence[SaveRow],
        now: datetime,
    ) -> None:
        self._run(HOLD_EVERY, leases)
        self._run(FINISH_EVERY, updates, now=now)
        new, stored = _new_and_stored(sessions)
        self._run(SAVE_EVERY, new, now=now)
        self._run(UPDATE_EVERY, stored, now=now)

    def save_sessions(self, sessions: Sequence[SaveRow], now: datetime) -> Tuples:
        # An upsert looks a row up and locks it three times, an update once.
        new, stored = _new_and_stored(sessions)
        saved = self._run(SAVE_SESSIONS, new, now=now)
        return chain(saved, self._run(UPDATE_SESSIONS, stored, now=now))

    def is_incomplete(self, error: DatabaseError) -> bool:
        return getattr(error.__cause__, "sqlstate", None) == DIVISION_BY_ZERO

    def make_durable(self) -> None:
        if self._begun is not None:
            self._take(b"SET LOCAL synchronous_commit TO DEFAULT")

    def table(self, row: type[msgspec.Struct]) -> str:
        return f"json_to_recordset(%(rows)s) AS r({_columns(row)})"

    def one(self, join: str, lock: str = "LIMIT 1") -> str:
        table, alias, _, condition = join.split(maxsplit=3)
        # What is limited, or locks, is done for each row on its own.
        found = f"SELECT * FROM {table} {alias} WHERE {condition} {lock}"  # noqa: S608
        return f"CROSS JOIN LATERAL ({found}) {alias}"

    def each(self, join: str) -> str:
        return self.one(join, "OFFSET 0")

    def has(self, names: str) -> str:
        array, text = names.split()
        return f"{array} ? {text}"

    def locked(self, join: str) -> str:
        # The limit keeps conditions on what was found from choosing how it is found.
        return self.one(join, "LIMIT 1 FOR UPDATE")

    def among(self, query: str) -> str:
        return f"= ANY (ARRAY({query}))"

    def json(self, column: str) -> str:
        return f"{column}::text"

    def moment(self, column: str) -> str:
        # Whatever the connection's DateStyle and time zone.
        return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"

    def time(self, moment: datetime) -> object:
        return moment.isoformat()

    def execute(self, sql: str, parameters: dict[str, Any]) -> Tuples:
        return self._take(b"EXECUTE " + self._call(sql, parameters))

    def may_retry(self, error: DatabaseError) -> bool:
        return getattr(error.__cause__, "sqlstate", None) in RETRIED

    def _take(self, text: bytes) -> Tuples:
        """Send a statement, or gather it."""
        promise = _Promise(text)
        if self._gathered is not None:
            self._gathered.append(promise)
        else:
            self._send([promise])
        return promise

    def _send(self, promises: list[_Promise], *, ends: bool = False) -> None:
        """Send statements as one text, the transaction's end with them, and keep each promise."""
        if not promises:
            return
        texts = [each.text for each in promises]
        skipped = 0
        if self._begun is False:
            # Each statement sees what was committed while it, or one before it, waited for a lock.
            texts.insert(0, b"BEGIN ISOLATION LEVEL READ COMMITTED")
            skipped = 1
            self._begun = True
            if self.is_unended:
                texts.insert(0, b"COMMIT")
                skipped = 2
                self.is_unended = False
        if ends:
            texts.append(b"COMMIT")
        results = self._query(b"; ".join(texts))
        if ends:
            self._begun = None
        for promise, rows in zip(promises, results[skipped:], strict=False):
            promise.rows = rows

    def _query(self, text: bytes) -> list[Rows]:
        with self.connection.wrap_database_errors:
            return self._wire.query(text)

    def _call(self, sql: str, parameters: dict[str, Any]) -> bytes:
        """Return the call of a statement; one that is new to the connection is prepared."""
        wire = self._wire
        name = wire.prepared.get(sql)
        if name is None:
            # Named by its text: behind a pooler that mixes connections an unknown name fails, where
            # a number could call another statement.
            name = f"botsessions_{blake2s(sql.encode(), digest_size=8).hexdigest()}".encode()
            kinds = ", ".join(PARAMETERS[each] for each in parameters)
            places = {each: f"${number}" for number, each in enumerate(parameters, 1)}
            head = f"({kinds})" if kinds else ""
            self._query(b"PREPARE %s%s AS %s" % (name, head.encode(), (sql % places).encode()))
            wire.prepared[sql] = name
        if not parameters:
            return name
        return b"%s(%s)" % (name, b", ".join(map(wire.literal, parameters.values())))

    @property
    def _wire(self) -> Wire:
        self.connection.ensure_connection()
        wire, is_new = wire_of(cast("psycopg.Connection[Any]", self.connection.connection))
        if is_new:
            self.is_unended = False  # with the connection that is gone
            if self.own:
                wire.query(SET_FOR_GOOD)
        return wire
