"""What a worker does, in a process of its own: `python -m benchmarks.operate sweep|delete`.

Prints a line of JSON: how many rows it worked off, in how many seconds, and the seconds of its
longest transaction. `prepare` fills the database first.
"""

import json
import sys
import threading
import time
from typing import Any

import django

SESSIONS, DUE = 1_000_000, 100_000
SPEAKERS, MESSAGES = 1_000, 100

#: Sessions as a year leaves them: each with a little data, one in ten expired.
STORE_SESSIONS = f"""
INSERT INTO botsessions_botsession
    (bot, chat, "user", thread, qualifier, data, version, is_open, matcher, expires_at,
     created_at, updated_at)
SELECT 'bench', 'c' || n, 'u' || n, '', '', '{{"count": 1}}', 1, false, '',
       now() + CASE WHEN n % {SESSIONS // DUE} = 0
           THEN -interval '1 hour' ELSE interval '1 year' END,
       now(), now()
FROM generate_series(1, {SESSIONS}) n
"""
STORE_SPEAKERS = f"""
INSERT INTO botsessions_botsession
    (bot, chat, "user", thread, qualifier, version, is_open, matcher, created_at, updated_at)
SELECT 'bench', '' || n, '' || n, '', 'said', 1, true, '', now(), now()
FROM generate_series(1, {SPEAKERS}) n
"""
STORE_MESSAGES = f"""
INSERT INTO botsessions_trackedmessage
    (session_id, chat, message_id, direction, kind, is_service, "user", business, text, sent_at,
     update_id, ordinal)
SELECT id, chat, '' || n, 'outgoing', 'text', false, '', '', 'hello', now(), '', 0
FROM botsessions_botsession, generate_series(1, {MESSAGES}) n WHERE qualifier = 'said'
"""


class Longest:
    """The longest transaction of this process, as the server sees it, looked at every few ms."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Longest":
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            self.pid = cursor.fetchone()[0]
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        from django.db import connection

        asked = (
            "SELECT extract(epoch FROM clock_timestamp() - xact_start) FROM pg_stat_activity"
            " WHERE pid = %s AND xact_start IS NOT NULL"
        )
        while not self._over.wait(0.005):
            with connection.cursor() as cursor:
                cursor.execute(asked, [self.pid])
                for (seconds,) in cursor.fetchall():
                    self.seconds = max(self.seconds, float(seconds))
        connection.close()


def prepare() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        for statement in (STORE_SESSIONS, STORE_SPEAKERS, STORE_MESSAGES):
            cursor.execute(statement)
        cursor.execute("VACUUM ANALYZE")


def sweep() -> dict[str, Any]:
    from botsessions import operations

    began = time.perf_counter()
    with Longest() as longest:
        ended = operations.sweep(DUE + 1)
    return {"number": ended, "seconds": time.perf_counter() - began, "longest": longest.seconds}


def delete() -> dict[str, Any]:
    """Delete every message through the Bot API that the environment names."""
    from botsessions import operations
    from botsessions.operations.selection import Selection

    deletion = operations.begin_deletion(Selection("bench", qualifier="said"))
    began = time.perf_counter()
    with Longest() as longest:
        operations.follow_deletion(deletion, lambda: None)
    seconds = time.perf_counter() - began
    return {"number": deletion.deleted, "seconds": seconds, "longest": longest.seconds}


def main() -> None:
    django.setup()
    found = {"prepare": prepare, "sweep": sweep, "delete": delete}[sys.argv[1]]()
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
