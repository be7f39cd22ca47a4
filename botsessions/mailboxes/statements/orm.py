"""The statements through Django's ORM, for every database that has no SQL of its own here.

Correct before fast: a statement is two or three queries for a batch, never one for each row where
the ORM knows how to do without. What replaces the upserts of the SQL: lock the rows that are there,
insert the others all together, and where somebody else was first, look again.

A verb begins by locking lease rows and reads nothing before, so the snapshot that MySQL's
REPEATABLE READ takes at the first plain read is as good as READ COMMITTED (Django's default there):
it is taken when the lock has been got.

MySQL and MariaDB must compare text character by character (collation `utf8mb4_0900_bin` on the one,
`utf8mb4_nopad_bin` on the other), or ids that differ in case or in trailing spaces are one id.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import msgspec
from django.db import DatabaseError, IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, Max, Min, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.db.models.sql.compiler import SQLCompiler

from botsessions.mailboxes.statements.base import (
    EXPIRED,
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
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")
Entity = TypeVar("Entity", bound=Model)
Struct = TypeVar("Struct", bound=msgspec.Struct)

PENDING = BotUpdate.Status.PENDING
DONE = BotUpdate.Status.DONE
SESSION_KEY = ("bot", "chat", "user", "thread", "qualifier")

#: How many rows a query names at most.
BATCH = 100
#: How often rows that vanish and reappear are looked for before the database is given up.
ROUNDS = 10
#: Deadlock, lock wait timeout and "changed since last read" of MySQL and MariaDB; deadlock and
#: serialization failure as Oracle numbers them and as the SQL standard does.
RETRIED = frozenset({1213, 1205, 1020, 60, 8177, "40001", "40P01"})


class DatabaseClock(Now):
    """The database's time, in UTC: MySQL's own `Now` is the server's local time, which may jump."""

    def as_mysql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any
    ) -> tuple[str, tuple[str | int, ...]]:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)


class OrmStatements(Statements):
    """The statements as querysets."""

    # Leases

    def take(self, leases: Sequence[LeaseRow], seconds: float) -> Tuples:
        later = DatabaseClock() + timedelta(seconds=seconds)
        tokens = {lease.key: lease.token for lease in leases}
        expired = Q(expires_at__lte=DatabaseClock())

        def find(keys: Sequence[str]) -> dict[str, bool]:
            rows = self._leases(keys).annotate(has_expired=expired)
            return dict(rows.values_list("key", "has_expired"))

        def make(key: str) -> MailboxLease:
            return MailboxLease(
                key=key, token=tokens[key], acquired_at=DatabaseClock(), expires_at=later
            )

        if self.connection.features.supports_update_conflicts:
            found = find(sorted(tokens))
            new = [make(key) for key in sorted(tokens) if key not in found]
            taken = self._insert_or_lock(new)
        else:
            found, taken = self._add(sorted(tokens), find, make)
        free = [key for key, has_expired in found.items() if has_expired]
        for token in {tokens[key] for key in free}:
            self._leases([key for key in free if tokens[key] == token]).update(
                token=token, acquired_at=DatabaseClock(), expires_at=later
            )
        return [(key,) for key in (*taken, *free)]

    def _insert_or_lock(self, leases: Sequence[MailboxLease]) -> list[str]:
        """Insert these leases, and return the keys of those that nobody inserted meanwhile.

        MySQL answers an insert that fails with a shared lock, and many who hold one and then want
        to write end in a deadlock. One that updates waits for its turn. What it updates is as good
        as what was there: somebody else took the mailbox at this very moment.
        """
        if not leases:
            return []
        has_target = self.connection.features.supports_update_conflicts_with_target
        self._rows(MailboxLease).bulk_create(
            leases,
            batch_size=BATCH,
            update_conflicts=True,
            update_fields=["acquired_at"],
            unique_fields=["key"] if has_target else None,
        )
        return self._held([LeaseRow(lease.key, lease.token) for lease in leases])

    def lock(self, leases: Sequence[LeaseRow]) -> Tuples:
        return list(self._leases([lease.key for lease in leases]).values_list("key", "token"))

    def renew(self, leases: Sequence[LeaseRow], seconds: float) -> Tuples:
        held = self._held(leases)
        later = DatabaseClock() + timedelta(seconds=seconds)
        self._leases(held).update(expires_at=later)
        return [(key,) for key in held]

    def release(self, leases: Sequence[LeaseRow]) -> None:
        self._leases(self._held(leases)).delete()

    def release_idle(self, leases: Sequence[LeaseRow]) -> Tuples:
        held = self._held(leases)
        busy = set(self._pending(held).values_list("mailbox", flat=True).distinct())
        idle = [key for key in held if key not in busy]
        self._leases(idle).delete()
        return [(key,) for key in idle]

    def abandoned(self, limit: int, now: datetime) -> Tuples:
        live = MailboxLease.objects.filter(key=OuterRef("mailbox"), expires_at__gt=DatabaseClock())
        rows = self._rows(BotUpdate).filter(~Exists(live), status=PENDING)
        oldest = rows.values("mailbox").annotate(first=Min("id"), due=Max("due_at"))
        due = oldest.filter(Q(due=None) | Q(due__lte=now)).order_by("first")
        return list(due.values_list("mailbox")[:limit])

    # Updates

    def known(self, updates: Sequence[UpdateRow]) -> Tuples:
        names = sorted({_identity(row) for row in updates})
        rows = self._rows(BotUpdate).values_list("update_id", "bot")
        return list(_matching(rows, ("update_id", "bot"), names))

    def next(self, leases: Sequence[LeaseRow]) -> Tuples:
        tokens = {lease.key: lease.token for lease in leases}
        pending = BotUpdate.objects.filter(mailbox=OuterRef("key"), status=PENDING)
        first = Subquery(pending.order_by("-attempts", "id").values("id")[:1])
        held = self._rows(MailboxLease).filter(key__in=self._held(leases))
        ids = [id for (id,) in held.annotate(first=first).values_list("first") if id is not None]
        rows = (
            self._rows(BotUpdate)
            .filter(pk__in=ids)
            .values_list("mailbox", "payload", "attempts", "journal", "due_at", "received_at")
        )
        return [
            (mailbox, tokens[mailbox], _text(payload), attempts, _text(journal), *moments)
            for mailbox, payload, attempts, journal, *moments in rows
        ]

    def insert_pending(self, updates: Sequence[UpdateRow], now: datetime) -> None:
        self._add_updates(_clean(updates), now)

    def append_journal(self, updates: Sequence[UpdateRow], now: datetime) -> None:
        updates = _clean(updates)
        found, _ = self._add_updates(updates, now)
        for row in updates:
            stored = found.get(_identity(row))
            if stored is not None and stored.status == PENDING:
                stored.journal = [*(stored.journal or []), *(row.journal or [])]
                stored.save(using=self.connection.alias, update_fields=["journal"])

    def finish(self, updates: Sequence[UpdateRow], now: datetime) -> Tuples:
        updates = _clean(updates)
        found, added = self._add_updates(updates, now)
        written = set(added)
        done: dict[int, list[int]] = {}
        for row in updates:
            stored = found.get(_identity(row))
            if stored is None or stored.status != PENDING:
                continue
            written.add(_identity(row))
            if row.status == DONE:
                done.setdefault(row.attempts, []).append(stored.pk)
                continue
            made = _update(row, now)
            made.pk, made.journal = stored.pk, stored.journal
            made.save(
                using=self.connection.alias,
                update_fields=["status", "attempts", "payload", "error", "due_at", "finished_at"],
            )
        for attempts, ids in done.items():
            self._rows(BotUpdate).filter(pk__in=ids).update(
                status=DONE,
                attempts=attempts,
                payload=None,
                journal=None,
                error="",
                due_at=None,
                finished_at=now,
            )
        return list(written)

    # Sessions and messages

    def sessions(self, sessions: Sequence[SessionRow], now: datetime) -> Tuples:
        keys = sorted({_session_key(row) for row in sessions})
        rows = _matching(self._rows(BotSession), SESSION_KEY, keys)
        stored = {_key_of(each): _live(each, now) for each in rows}
        return [
            (row.number, *stored[_session_key(row)])
            for row in sessions
            if _session_key(row) in stored
        ]

    def sessions_at(self, places: Sequence[PlaceRow], now: datetime) -> Tuples:
        found = []
        for row in places:
            wanted = Q(is_open=True) | Q(flow__isnull=False) | Q(qualifier__in=row.qualifiers)
            rows = self._rows(BotSession).filter(wanted, bot=row.bot)
            for each in _matching(rows, ("chat", "user", "thread"), sorted(row.keys)):
                place = (each.chat, each.user, each.thread, each.qualifier)
                found.append((row.number, *_live(each, now), *place))
        return found

    def open_sessions(self, sessions: Sequence[SessionRow], now: datetime) -> None:
        rows = {_session_key(row): row for row in sessions}

        def make(key: tuple[str, ...]) -> BotSession:
            return _session(key, now, is_open=True, expires_at=rows[key].expires_at)

        found, _ = self._add(list(rows), self._find_sessions, make)
        begun = [each.pk for each in found.values() if not each.is_open or _is_expired(each, now)]
        self._rows(TrackedMessage).filter(session__in=begun).delete()
        for key, stored in found.items():
            if _is_expired(stored, now):
                stored.data, stored.expires_at, stored.matcher = None, rows[key].expires_at, ""
                stored.flow = stored.due_at = None
                stored.version += 1
                fields = ["data", "version", "expires_at", "matcher", "flow", "due_at"]
                stored.save(using=self.connection.alias, update_fields=fields)
            elif rows[key].expires_at is not None:
                stored.expires_at = rows[key].expires_at
                stored.save(using=self.connection.alias, update_fields=["expires_at"])
        closed = [stored.pk for stored in found.values() if not stored.is_open]
        self._rows(BotSession).filter(pk__in=closed).update(is_open=True)

    def save_sessions(self, sessions: Sequence[SaveRow], now: datetime) -> Tuples:
        rows = {_session_key(row): row for row in _clean(sessions)}

        def make(key: tuple[str, ...]) -> BotSession:
            row = rows[key]
            return _session(
                key,
                now,
                version=1,
                data=_value(row.data),
                expires_at=row.expires_at,
                quarantined=_value(row.quarantined),
                flow=_value(row.flow),
                due_at=row.due_at,
                last_flow=_value(row.last_flow),
            )

        found = self._find_sessions(list(rows))
        new = [key for key, row in rows.items() if key not in found and row.version == 0]
        others, added = self._add(new, self._find_sessions, make)
        found |= others
        saved = {
            key: stored for key, stored in found.items() if stored.version == rows[key].version
        }
        for key, stored in saved.items():
            if _is_expired(stored, now):
                stored.is_open, stored.matcher = False, ""
            stored.version += 1
            stored.updated_at = now
            stored.data = _value(rows[key].data)
            stored.expires_at = rows[key].expires_at
            if rows[key].quarantined is not None:
                stored.quarantined = _value(rows[key].quarantined)
            stored.flow, stored.due_at = _value(rows[key].flow), rows[key].due_at
            if rows[key].last_flow is not None:
                stored.last_flow = _value(rows[key].last_flow)
        written = [
            "data", "version", "updated_at", "is_open", "matcher", "expires_at", "quarantined",
            "flow", "due_at", "last_flow",
        ]  # fmt: skip
        self._rows(BotSession).bulk_update(saved.values(), written, batch_size=BATCH)
        return [*added, *saved]

    def delete_empty(self, sessions: Sequence[SessionRow]) -> None:
        found = self._find_sessions([_session_key(row) for row in sessions])
        closed = [each.pk for each in found.values() if not each.is_open]
        empty = self._rows(BotSession).filter(data__isnull=True, flow__isnull=True)
        empty.filter(pk__in=closed).delete()

    def insert_messages(self, messages: Sequence[MessageRow], now: datetime) -> None:
        # The rows of their sessions are locked: nobody adds the same ones meanwhile.
        messages = _clean(messages)
        slices = self._find_sessions(sorted({_slice_key(row) for row in messages}))
        slices = {
            key: each for key, each in slices.items() if each.is_open and not _is_expired(each, now)
        }
        messages = [row for row in messages if _slice_key(row) in slices]
        names = sorted({_message_key(row, slices) for row in messages if row.message_id})
        columns = ("session_id", "chat", "message_id")
        stored = {
            (each.session_id, each.chat, each.message_id): each
            for each in _matching(self._rows(TrackedMessage), columns, names)
        }
        new = []
        for row in messages:
            there = stored.get(_message_key(row, slices)) if row.message_id else None
            if there is None:
                fields = msgspec.structs.asdict(row)
                fields = {k: v for k, v in fields.items() if not k.startswith("session_")}
                fields["message_id"] = row.message_id or None
                new.append(TrackedMessage(session=slices[_slice_key(row)], **fields))
            elif (row.edited_at is not None) == (there.deleted_at is None):
                there.text, there.kind, there.edited_at = row.text, row.kind, row.edited_at
                there.deleted_at, there.outcome = None, ""
                changed = ["text", "kind", "edited_at", "deleted_at", "outcome"]
                there.save(using=self.connection.alias, update_fields=changed)
        self._rows(TrackedMessage).bulk_create(new, batch_size=BATCH)

    # What went wrong

    def may_retry(self, error: DatabaseError) -> bool:
        cause = error.__cause__
        # Oracle's driver wraps the number in an object.
        first = next(iter(error.args), None)
        codes = {getattr(cause, "sqlstate", None), getattr(first, "code", first)}
        return not RETRIED.isdisjoint(codes) or "database is locked" in str(error)

    # How the above is done

    def _rows(self, model: type[Entity]) -> QuerySet[Entity]:
        return model._default_manager.using(self.connection.alias)

    def _leases(self, keys: Sequence[str]) -> QuerySet[MailboxLease]:
        """Return these leases, to be locked in key order when they are read."""
        return self._rows(MailboxLease).filter(key__in=keys).order_by("key").select_for_update()

    def _held(self, leases: Sequence[LeaseRow]) -> list[str]:
        """Lock these leases and return the keys of those still held with their token."""
        pairs = {(lease.key, lease.token) for lease in leases}
        return [key for key, token in self.lock(leases) if (key, token) in pairs] if pairs else []

    def _pending(self, mailboxes: Sequence[str]) -> QuerySet[BotUpdate]:
        return self._rows(BotUpdate).filter(mailbox__in=mailboxes, status=PENDING)

    def _add(
        self,
        keys: Sequence[Key],
        find: Callable[[Sequence[Key]], dict[Key, Found]],
        make: Callable[[Key], Model],
    ) -> tuple[dict[Key, Found], list[Key]]:
        """Find and lock what is stored under these keys, and insert the rest in this order.

        Returns what was found, and the keys of what was inserted. An insert that ignores conflicts
        would not say which rows are its own, and on MySQL cuts what does not fit.
        """
        found: dict[Key, Found] = {}
        keys = list(dict.fromkeys(keys))
        for rounds_left in reversed(range(ROUNDS)):
            found |= find([key for key in keys if key not in found])
            new = [key for key in keys if key not in found]
            if not new:
                break
            rows = [make(key) for key in new]
            try:
                with transaction.atomic(using=self.connection.alias):
                    self._rows(type(rows[0])).bulk_create(rows, batch_size=BATCH)
                return found, new
            except IntegrityError:
                # Somebody else was first. His row is there now, or already gone again.
                if not rounds_left:
                    raise
        return found, []

    def _add_updates(
        self, updates: Sequence[UpdateRow], now: datetime
    ) -> tuple[dict[tuple[str, ...], BotUpdate], list[tuple[str, ...]]]:
        rows: dict[tuple[str, ...], UpdateRow] = {}
        for row in updates:
            rows.setdefault(_identity(row), row)

        def find(names: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], BotUpdate]:
            stored = self._rows(BotUpdate).defer("payload").order_by("id").select_for_update()
            return {
                (each.update_id, each.bot): each
                for each in _matching(stored, ("update_id", "bot"), names)
            }

        return self._add(list(rows), find, lambda name: _update(rows[name], now))

    def _find_sessions(self, keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], BotSession]:
        rows = self._rows(BotSession).defer("data").order_by(*SESSION_KEY).select_for_update()
        return {_key_of(each): each for each in _matching(rows, SESSION_KEY, keys)}


def _matching(
    rows: QuerySet[Any, Found], columns: Sequence[str], keys: Sequence[tuple[Any, ...]]
) -> Iterator[Found]:
    """Yield the rows with these keys, in batches."""
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        yield from rows.filter(
            reduce(or_, (Q(**dict(zip(columns, key, strict=True))) for key in batch))
        )


def _identity(row: UpdateRow) -> tuple[str, ...]:
    return (row.update_id, row.bot)


def _session_key(row: SessionRow) -> tuple[str, ...]:
    return (row.bot, row.chat, row.user, row.thread, row.qualifier)


def _slice_key(row: MessageRow) -> tuple[str, ...]:
    """The key of the session whose slice the message is for."""
    return tuple(getattr(row, f"session_{part}") for part in SESSION_KEY)


def _message_key(row: MessageRow, slices: dict[tuple[str, ...], BotSession]) -> tuple[Any, ...]:
    return (slices[_slice_key(row)].pk, row.chat, row.message_id)


def _key_of(stored: BotSession) -> tuple[str, ...]:
    return tuple(getattr(stored, part) for part in SESSION_KEY)


def _is_expired(stored: BotSession, now: datetime) -> bool:
    return stored.expires_at is not None and stored.expires_at < now


def _live(stored: BotSession, now: datetime) -> tuple[Any, ...]:
    """What is read of a session."""
    if _is_expired(stored, now):
        return (stored.pk, stored.version, False, EXPIRED, "", None, None)
    data, expires_at, flow = _text(stored.data), stored.expires_at, _text(stored.flow)
    return (stored.pk, stored.version, stored.is_open, data, stored.matcher, expires_at, flow)


def _update(row: UpdateRow, now: datetime) -> BotUpdate:
    return BotUpdate(
        bot=row.bot,
        update_id=row.update_id,
        type=row.type,
        mailbox=row.mailbox,
        status=row.status,
        attempts=row.attempts,
        payload=_value(row.payload),
        journal=row.journal,
        error=row.error,
        due_at=row.due_at,
        received_at=now,
        finished_at=None if row.status == PENDING else now,
    )


def _session(key: tuple[str, ...], now: datetime, **fields: Any) -> BotSession:
    named = dict(zip(SESSION_KEY, key, strict=True))
    return BotSession(**named, created_at=now, updated_at=now, **fields)


def _clean(rows: Sequence[Struct]) -> Sequence[Struct]:
    """Return the rows without NUL characters, which no database stores."""
    if b"\\u0000" not in msgspec.json.encode(rows):
        return rows
    return [
        msgspec.structs.replace(
            row, **{name: _cleaned(value) for name, value in msgspec.structs.asdict(row).items()}
        )
        for row in rows
    ]


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, msgspec.Raw):
        return msgspec.Raw(without_nul(bytes(value)))
    if isinstance(value, list):
        return msgspec.json.decode(without_nul(msgspec.json.encode(value)))
    return value


def _value(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
