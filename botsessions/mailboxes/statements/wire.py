"""One round trip to PostgreSQL, through libpq, on a connection of psycopg.

psycopg's cursors adapt every parameter and result to whatever types a project may have registered.
Here there are a few texts, numbers and flags, and a cursor would be the larger part of the work.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import ConnStatus, Escaping, ExecStatus

Rows = list[tuple[Any, ...]]

#: What psycopg itself waits with where there is one; it has no descriptor of its own to be closed.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

#: How a value is read, by the object id of its type; anything else is text.
READERS: dict[int, Callable[[bytes], Any]] = {16: b"t".__eq__, 20: int, 21: int, 23: int}


class Wire:
    """What is known about one connection: what it has prepared, and how to speak through it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.libpq = connection.pgconn
        #: The call of each statement that was prepared on the connection.
        self.prepared: dict[str, bytes] = {}
        self._escape = Escaping(self.libpq).escape_literal
        self._selector = Selector()
        self._selector.register(self.libpq.socket, selectors.EVENT_READ)

    def literal(self, value: str | float) -> bytes:
        """Return the SQL of a value."""
        if isinstance(value, str):
            return bytes(self._escape(value.encode()))
        return repr(value).encode()

    def query(self, text: bytes) -> list[Rows]:
        """Send statements as one text and return the rows of each.

        Raises what psycopg raises, when all is read that there was to read.
        """
        libpq = self.libpq
        libpq.send_query(text)
        # What is larger than the socket's buffer goes as the server takes it, which it may only do
        # while it is read from.
        while libpq.flush():
            self._selector.modify(libpq.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            try:
                ready = self._selector.select()
            finally:
                self._selector.modify(libpq.socket, selectors.EVENT_READ)
            if any(events & selectors.EVENT_READ for _, events in ready):
                libpq.consume_input()
        results: list[Rows] = []
        failed = None
        while True:
            while libpq.is_busy():
                self._selector.select()
                libpq.consume_input()
            result = libpq.get_result()
            if result is None:
                break
            if result.status == ExecStatus.TUPLES_OK:
                results.append(_rows(result))
            elif result.status == ExecStatus.COMMAND_OK:
                results.append([])
            else:
                failed = failed or result
        if failed is not None:
            if libpq.status == ConnStatus.BAD:
                raise psycopg.OperationalError(failed.get_error_message())
            raise psycopg.errors.error_from_result(failed)
        return results


def _rows(result: psycopg.pq.abc.PGresult) -> Rows:
    columns = [
        (column, READERS.get(result.ftype(column), bytes.decode))
        for column in range(result.nfields)
    ]
    get = result.get_value
    return [
        tuple(
            [
                None if (value := get(row, column)) is None else read(value)
                for column, read in columns
            ]
        )
        for row in range(result.ntuples)
    ]


_wires: WeakKeyDictionary[psycopg.Connection[Any], Wire] = WeakKeyDictionary()


def wire_of(connection: psycopg.Connection[Any]) -> tuple[Wire, bool]:
    """Return the connection's wire, and whether it is new."""
    wire = _wires.get(connection)
    if wire is not None:
        return wire, False
    wire = _wires[connection] = Wire(connection)
    return wire, True
