"""The SQL that PostgreSQL and SQLite share.

A statement's rows travel as one JSON parameter, whatever their number, so a batch is one statement.
`{rows}` stands for that parameter as the table `r`, `{json}` for a column read as JSON text,
`{clock}` for the database's own time and `{later}` for a number of seconds after it; `{now}` is the
time of day that the application gives.
"""

# ruff: noqa: S608 - what is put together is this module's own

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions.mailboxes.statements.base import (
    LeaseRow,
    MessageRow,
    PlaceRow,
    SaveRow,
    SessionRow,
    Statements,
    Tuples,
    UpdateRow,
    without_nul,
)

LEASES = "botsessions_mailboxlease"
UPDATES = "botsessions_botupdate"
SESSIONS = "botsessions_botsession"
MESSAGES = "botsessions_trackedmessage"

TAKE = f"""
INSERT INTO {LEASES} (key, token, acquired_at, expires_at)
SELECT r.key, r.token, {{clock}}, {{later}} FROM {{rows}} WHERE true ORDER BY r.key {{binary}}
ON CONFLICT (key) DO UPDATE
SET token = excluded.token, acquired_at = {{clock}}, expires_at = {{later}}
WHERE {LEASES}.expires_at <= {{clock}}
RETURNING key"""

LOCK = f"""
SELECT l.key, l.token FROM {{rows}} {{locked:{LEASES} l ON l.key = r.key}}"""

HOLD = f"""
SELECT 1 FROM {{rows}} {{locked:{LEASES} l ON l.key = r.key AND l.token = r.token}}"""

RENEW = f"""
UPDATE {LEASES} SET expires_at = {{later}}
WHERE key {{among:SELECT r.key FROM}}
AND (key, token) IN (SELECT r.key, r.token FROM {{rows}})
RETURNING key"""

RELEASE = f"""
DELETE FROM {LEASES} WHERE key {{among:SELECT r.key FROM}}
AND (key, token) IN (SELECT r.key, r.token FROM {{rows}})"""

RELEASE_IDLE = f"""{RELEASE}
AND NOT EXISTS (
    SELECT 1 FROM {UPDATES} u WHERE u.mailbox = {LEASES}.key AND u.status = 'pending'
)
RETURNING key"""

ABANDONED = f"""
SELECT u.mailbox FROM {UPDATES} u
WHERE u.status = 'pending'
AND NOT EXISTS (SELECT 1 FROM {LEASES} l WHERE l.key = u.mailbox AND l.expires_at > {{clock}})
GROUP BY u.mailbox HAVING coalesce(max(u.due_at), {{now}}) <= {{now}}
ORDER BY min(u.id) LIMIT %(limit)s"""

KNOWN = f"""
SELECT r.update_id, r.bot FROM {{rows}}
{{one:{UPDATES} u ON u.update_id = r.update_id AND u.bot = r.bot}}"""

NEXT = f"""
SELECT
    l.key, l.token, {{json:u.payload}}, u.attempts, {{json:u.journal}}, {{moment:u.due_at}},
    {{moment:u.received_at}}
FROM {{rows}}
{{one:{LEASES} l ON l.key = r.key AND l.token = r.token}}
{{one:{UPDATES} u ON u.id = (
    SELECT p.id FROM {UPDATES} p
    WHERE p.mailbox = r.key AND p.status = 'pending' ORDER BY p.attempts DESC, p.id LIMIT 1
)}}"""

STORE = f"""
INSERT INTO {UPDATES} (
    bot, update_id, type, mailbox, status, attempts, payload, journal, error, due_at,
    received_at, finished_at
)
SELECT
    r.bot, r.update_id, r.type, r.mailbox, r.status, r.attempts, r.payload, r.journal, r.error,
    r.due_at, {{now}}, CASE r.status WHEN 'pending' THEN NULL ELSE {{now}} END
FROM {{rows}} WHERE true ORDER BY r.number
ON CONFLICT (update_id, bot)"""

INSERT_PENDING = f"{STORE} DO NOTHING"

APPEND_JOURNAL = f"""{STORE} DO UPDATE
SET journal = {{joined}} WHERE {UPDATES}.status = 'pending'"""

FINISH = f"""{STORE} DO UPDATE
SET status = excluded.status, attempts = excluded.attempts, payload = excluded.payload,
    error = excluded.error, due_at = excluded.due_at, finished_at = excluded.finished_at,
    journal = CASE excluded.status WHEN 'done' THEN NULL ELSE {UPDATES}.journal END
WHERE {UPDATES}.status = 'pending'
RETURNING update_id, bot"""

SESSION_KEY = 'bot, chat, "user", thread, qualifier'
#: Whatever entry of a batch they belong to, sessions are touched in one order.
SESSION_ORDER = 'r.bot, r.chat, r."user", r.thread, r.qualifier'
SESSION_MATCH = """s.chat = r.chat AND s."user" = r."user" AND s.thread = r.thread
    AND s.qualifier = r.qualifier AND s.bot = r.bot"""

#: Is a session's qualifier among those of its place?
HAS = "{has:r.qualifiers s.qualifier}"

#: What is read of a session; one that has expired reads as empty and not open.
EXPIRED = "s.expires_at IS NOT NULL AND s.expires_at < {now}"
LIVE = f"""
    s.id, s.version, s.is_open,
    CASE WHEN {EXPIRED} THEN '' ELSE {{json:s.data}} END, s.matcher, {{moment:s.expires_at}},
    CASE WHEN {EXPIRED} THEN NULL ELSE {{json:s.flow}} END"""

SELECT_SESSIONS = f"""
SELECT r.number, {LIVE} FROM {{rows}}
{{one:{SESSIONS} s ON {SESSION_MATCH}}}"""

#: The keys of a place, as bits: without its chat, without its user, with its thread.
NUMBERS = " UNION ALL ".join(f"SELECT {number} AS n" for number in (0, 1, 2, 4, 5, 6))
# Each key of a place is looked up by itself. A plan for lists of parts, made while the table was
# small, would look for one part of three.
SELECT_PLACES = f"""
SELECT r.number, {LIVE}, s.chat, s."user", s.thread, s.qualifier
FROM {{rows}}
JOIN ({NUMBERS}) p ON p.n < 4 OR r.thread <> ''
{{each:{SESSIONS} s ON s.chat = CASE (p.n & 1) WHEN 0 THEN r.chat ELSE '' END
    AND s."user" = CASE (p.n & 2) WHEN 0 THEN r."user" ELSE '' END
    AND s.thread = CASE (p.n & 4) WHEN 4 THEN r.thread ELSE '' END AND s.bot = r.bot}}
WHERE (s.is_open OR s.flow IS NOT NULL OR {HAS})
AND (s.chat <> '' OR s."user" <> '' OR (r.chat = '' AND r."user" = ''))"""

#: What is left in the slices of those that are not open: opened again they begin empty.
CLEAR_CLOSED = f"""
DELETE FROM {MESSAGES} WHERE session_id {{in}}
    SELECT s.id FROM {{rows}}
    {{one:{SESSIONS} s ON {SESSION_MATCH}}}
    WHERE {EXPIRED} OR NOT s.is_open
{{end}}"""

OPEN_SESSIONS = f"""
INSERT INTO {SESSIONS} (
    {SESSION_KEY}, version, is_open, matcher, expires_at, created_at, updated_at
)
SELECT
    r.bot, r.chat, r."user", r.thread, r.qualifier, 0, true, '', r.expires_at, {{now}}, {{now}}
FROM {{rows}} WHERE true ORDER BY {SESSION_ORDER}
ON CONFLICT (chat, "user", thread, qualifier, bot) DO UPDATE SET
    is_open = true,
    version = {SESSIONS}.version
        + CASE WHEN {SESSIONS}.expires_at < {{now}} THEN 1 ELSE 0 END,
    matcher = CASE WHEN {SESSIONS}.expires_at < {{now}} THEN '' ELSE {SESSIONS}.matcher END,
    data = CASE WHEN {SESSIONS}.expires_at < {{now}} THEN NULL ELSE {SESSIONS}.data END,
    flow = CASE WHEN {SESSIONS}.expires_at < {{now}} THEN NULL ELSE {SESSIONS}.flow END,
    due_at = CASE WHEN {SESSIONS}.expires_at < {{now}} THEN NULL ELSE {SESSIONS}.due_at END,
    expires_at = CASE WHEN {SESSIONS}.expires_at < {{now}} THEN excluded.expires_at
        ELSE coalesce(excluded.expires_at, {SESSIONS}.expires_at) END"""

EMPTY = f"""
FROM {SESSIONS}
WHERE chat {{among:SELECT r.chat FROM}} AND "user" {{among:SELECT r."user" FROM}}
AND ({SESSION_KEY}) IN (SELECT {SESSION_ORDER} FROM {{rows}})
AND data IS NULL AND flow IS NULL AND NOT is_open"""

DELETE_EMPTY = f"DELETE {EMPTY}"

#: What an expired session has left in its slice.
DELETE_LEFT = f"DELETE FROM {MESSAGES} WHERE session_id {{in}} SELECT id {EMPTY} {{end}}"

SAVE_SESSIONS = f"""
INSERT INTO {SESSIONS} (
    {SESSION_KEY}, data, version, is_open, matcher, expires_at, quarantined,
    flow, due_at, last_flow, created_at, updated_at
)
SELECT
    r.bot, r.chat, r."user", r.thread, r.qualifier, r.data, r.version + 1, false, '', r.expires_at,
    r.quarantined, r.flow, r.due_at, r.last_flow, {{now}}, {{now}}
FROM {{rows}}
WHERE r.version = 0
OR r.version = (SELECT s.version FROM {SESSIONS} s WHERE {SESSION_MATCH}{{for_update}})
ORDER BY {SESSION_ORDER}
ON CONFLICT (chat, "user", thread, qualifier, bot) DO UPDATE
SET data = excluded.data, version = excluded.version, updated_at = excluded.updated_at,
    is_open = {SESSIONS}.is_open AND NOT coalesce({SESSIONS}.expires_at < {{now}}, false),
    matcher = CASE WHEN {SESSIONS}.expires_at < {{now}} THEN '' ELSE {SESSIONS}.matcher END,
    expires_at = excluded.expires_at,
    quarantined = coalesce(excluded.quarantined, {SESSIONS}.quarantined),
    flow = excluded.flow, due_at = excluded.due_at,
    last_flow = coalesce(excluded.last_flow, {SESSIONS}.last_flow)
WHERE {SESSIONS}.version = excluded.version - 1
RETURNING {SESSION_KEY}"""

#: The same for those that are stored, of which nothing is to be inserted.
UPDATE_SESSIONS = f"""
UPDATE {SESSIONS} s
SET data = r.data, version = r.version + 1, updated_at = {{now}},
    is_open = s.is_open AND NOT coalesce({EXPIRED}, false),
    matcher = CASE WHEN {EXPIRED} THEN '' ELSE s.matcher END,
    expires_at = r.expires_at, quarantined = coalesce(r.quarantined, s.quarantined),
    flow = r.flow, due_at = r.due_at, last_flow = coalesce(r.last_flow, s.last_flow)
FROM {{rows}}
WHERE {SESSION_MATCH} AND s.version = r.version
RETURNING s.bot, s.chat, s."user", s.thread, s.qualifier"""

INSERT_MESSAGES = f"""
INSERT INTO {MESSAGES} (
    session_id, chat, message_id, direction, kind, is_service, "user", name, reply_to, business,
    text, sent_at, edited_at, update_id, ordinal
)
SELECT
    s.id, r.chat, nullif(r.message_id, ''), r.direction, r.kind, r.is_service, r."user", r.name,
    r.reply_to, r.business, r.text, r.sent_at, r.edited_at, r.update_id, r.ordinal
FROM {{rows}}
{{locked:{SESSIONS} s ON s.chat = r.session_chat AND s."user" = r.session_user
    AND s.thread = r.session_thread AND s.qualifier = r.session_qualifier
    AND s.bot = r.session_bot}}
WHERE s.is_open AND NOT ({EXPIRED})
ON CONFLICT (session_id, chat, message_id) DO UPDATE
SET text = excluded.text, kind = excluded.kind, edited_at = excluded.edited_at,
    deleted_at = NULL, outcome = ''
WHERE (excluded.edited_at IS NOT NULL) = ({MESSAGES}.deleted_at IS NULL)"""

#: Divides by zero unless the statement gives a row for each of those it was given.
EVERY = """
WITH written AS ({}
)
SELECT 1 / (count(*) = (SELECT count(*) FROM {{rows}}))::int FROM written"""
HOLD_EVERY, FINISH_EVERY = EVERY.format(HOLD), EVERY.format(FINISH)
SAVE_EVERY, UPDATE_EVERY = EVERY.format(SAVE_SESSIONS), EVERY.format(UPDATE_SESSIONS)

PLACE = re.compile(r"\{(\w+)(?::([^{}]*))?\}")


class SqlStatements(Statements):
    """The statements as SQL; a subclass gives what differs between its database and the other."""

    #: What the places in a statement stand for.
    places: ClassVar[dict[str, str]]

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        self._rendered: dict[tuple[str, type], str] = {}

    def table(self, row: type[msgspec.Struct]) -> str:
        """Return the SQL that reads the parameter `rows` as the table `r`."""
        raise NotImplementedError

    def json(self, column: str) -> str:
        """Return the SQL that reads a JSON column as text."""
        raise NotImplementedError

    def one(self, join: str) -> str:
        """Return the SQL that joins to each row of `r` the one row of `TABLE alias ON condition`.

        It is looked up for each: a plan that goes through the table for all of them at once may
        have been made while the table was empty.
        """
        raise NotImplementedError

    def each(self, join: str) -> str:
        """Return the SQL that joins to each row of `r` all such rows, looked up in the same way."""
        raise NotImplementedError

    def has(self, names: str) -> str:
        """Return the SQL of a condition that `ARRAY TEXT`, a JSON array, holds the text."""
        raise NotImplementedError

    def locked(self, join: str) -> str:
        """Return the same, locking what is joined, in the order of `r`."""
        return self.one(join)

    def moment(self, column: str) -> str:
        """Return the SQL that reads a time as text in ISO 8601, in UTC."""
        raise NotImplementedError

    def among(self, query: str) -> str:
        """Return the SQL of a condition that a column is among the results of a query."""
        raise NotImplementedError

    def time(self, moment: datetime) -> object:
        """Return a time as a parameter."""
        raise NotImplementedError

    def execute(self, sql: str, parameters: dict[str, Any]) -> Tuples:
        """Run a statement and return its rows."""
        raise NotImplementedError

    def take(self, leases: Sequence[LeaseRow], seconds: float) -> Tuples:
        return self._run(TAKE, leases, seconds=seconds)

    def lock(self, leases: Sequence[LeaseRow]) -> Tuples:
        return self._run(LOCK, leases)

    def renew(self, leases: Sequence[LeaseRow], seconds: float) -> Tuples:
        return self._run(RENEW, leases, seconds=seconds)

    def release(self, leases: Sequence[LeaseRow]) -> None:
        self._run(RELEASE, leases)

    def release_idle(self, leases: Sequence[LeaseRow]) -> Tuples:
        return self._run(RELEASE_IDLE, leases)

    def abandoned(self, limit: int, now: datetime) -> Tuples:
        parameters = {"limit": limit, "now": self.time(now)}
        return self.execute(self._sql(ABANDONED, LeaseRow), parameters)

    def known(self, updates: Sequence[UpdateRow]) -> Tuples:
        return self._run(KNOWN, updates)

    def next(self, leases: Sequence[LeaseRow]) -> Tuples:
        return self._run(NEXT, leases)

    def insert_pending(self, updates: Sequence[UpdateRow], now: datetime) -> None:
        self._run(INSERT_PENDING, updates, now=now)

    def append_journal(self, updates: Sequence[UpdateRow], now: datetime) -> None:
        self._run(APPEND_JOURNAL, updates, now=now)

    def finish(self, updates: Sequence[UpdateRow], now: datetime) -> Tuples:
        return self._run(FINISH, updates, now=now)

    def sessions(self, sessions: Sequence[SessionRow], now: datetime) -> Tuples:
        return self._run(SELECT_SESSIONS, sessions, now=now)

    def sessions_at(self, places: Sequence[PlaceRow], now: datetime) -> Tuples:
        return self._run(SELECT_PLACES, places, now=now)

    def open_sessions(self, sessions: Sequence[SessionRow], now: datetime) -> None:
        self._run(CLEAR_CLOSED, sessions, now=now)
        self._run(OPEN_SESSIONS, sessions, now=now)

    def delete_empty(self, sessions: Sequence[SessionRow]) -> None:
        self._run(DELETE_LEFT, sessions)
        self._run(DELETE_EMPTY, sessions)

    def save_sessions(self, sessions: Sequence[SaveRow], now: datetime) -> Tuples:
        return self._run(SAVE_SESSIONS, sessions, now=now)

    def insert_messages(self, messages: Sequence[MessageRow], now: datetime) -> None:
        self._run(INSERT_MESSAGES, messages, now=now)

    def _run(
        self,
        template: str,
        rows: Sequence[msgspec.Struct],
        *,
        seconds: float | None = None,
        now: datetime | None = None,
    ) -> Tuples:
        if not rows:
            return ()
        encoded = without_nul(msgspec.json.encode(rows))
        parameters: dict[str, Any] = {"rows": encoded.decode()}
        if seconds is not None:
            parameters["seconds"] = seconds
        if now is not None:
            parameters["now"] = self.time(now)
        return self.execute(self._sql(template, type(rows[0])), parameters)

    def _sql(self, template: str, row: type[msgspec.Struct]) -> str:
        sql = self._rendered.get((template, row))
        if sql is None:

            def fill(place: re.Match[str]) -> str:
                name, text = place.groups()
                if text is None:
                    return self.table(row) if name == "rows" else self.places[name]
                if name == "among":
                    return self.among(f"{text} {self.table(row)}")
                rendered: str = getattr(self, name)(text)
                return rendered

            sql = self._rendered[template, row] = PLACE.sub(fill, template)
        return sql
