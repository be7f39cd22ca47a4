"""Transactions that are run again where the database asks for it, or where the connection died."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError

from botsessions.exceptions import Unavailable
from botsessions.mailboxes.statements import Statements

Result = TypeVar("Result")

#: How often a transaction is run in all when the database asks to run it again.
ATTEMPTS: Final = 4
#: The longest pause before it is run again, in seconds.
PAUSE: Final = 0.05


def rerun(statements: Statements, transaction: Callable[[], Result]) -> Result:
    """Run a transaction: again after a deadlock, once more on a new connection.

    Raises `Unavailable` where that does not help. Within somebody's transaction it raises what the
    database raises: only who began that can begin it again.
    """
    connection = statements.connection
    nested, healed, attempts = connection.in_atomic_block, False, ATTEMPTS
    while True:
        used = connection.connection
        try:
            return transaction()
        except (DatabaseError, InterfaceError) as error:
            if nested:
                raise
            attempts -= 1
            if attempts and isinstance(error, DatabaseError) and statements.may_retry(error):
                # Not in step with those whom it met.
                time.sleep(random.uniform(0, PAUSE))  # noqa: S311
                continue
            # An InternalError is how PostgreSQL ends a transaction that was idle for too long.
            if not isinstance(error, OperationalError | InterfaceError | InternalError):
                raise
            # Django replaces a connection that fails to roll back.
            if connection.connection is used and not statements.connection_lost(error):
                raise Unavailable(f"The database is too busy: {error}") from error
            connection.close()
            if healed:
                raise Unavailable(f"The database is away: {error}") from error
            healed = True
