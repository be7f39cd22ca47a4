"""The statements of the database mailbox: SQL for PostgreSQL and SQLite, the ORM for the rest."""

from __future__ import annotations

from botsessions.mailboxes.statements.base import (
    LeaseRow,
    MessageRow,
    SessionRow,
    Statements,
    UpdateRow,
    statements_for,
)

__all__ = ["LeaseRow", "MessageRow", "SessionRow", "Statements", "UpdateRow", "statements_for"]
