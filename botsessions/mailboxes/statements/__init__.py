"""The database mailbox's statements: SQL for PostgreSQL and SQLite, the ORM for every other."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions.mailboxes.statements.base import (
    LeaseRow,
    MessageRow,
    PlaceRow,
    SaveRow,
    SessionRow,
    Statements,
    UpdateRow,
)

__all__ = [
    "LeaseRow",
    "MessageRow",
    "PlaceRow",
    "SaveRow",
    "SessionRow",
    "Statements",
    "UpdateRow",
    "statements_for",
]


def statements_for(connection: BaseDatabaseWrapper) -> Statements:
    """Return the statements for a connection, by its vendor."""
    if connection.vendor == "postgresql":
        from botsessions.mailboxes.statements.postgresql import PostgreSQLStatements

        return PostgreSQLStatements(connection)
    if connection.vendor == "sqlite":
        from botsessions.mailboxes.statements.sqlite import SQLiteStatements

        return SQLiteStatements(connection)
    from botsessions.mailboxes.statements.orm import OrmStatements

    return OrmStatements(connection)
