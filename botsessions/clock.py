"""The one source of the time of day, so that a test can move it.

Lease times alone are the database's own (see `mailboxes`), because machines whose clocks differ
must agree on them.
"""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
