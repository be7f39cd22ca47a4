"""The mailbox in the project's database: the protocol, told once for every database.

What makes it safe:

* Leases come before update rows. Whoever stores an update has first touched its mailbox's lease
  row, taking it or (where it is another's) locking it, so the ids of one mailbox become visible in
  order, and a holder, who locks the row before he looks for what waits, strands nothing.
* A commit is written optimistically, all entries in one go, and counted: an entry whose lease,
  update or session was not as expected is rejected, the transaction is rolled back and the others
  are written again without it.
* Every statement touches its rows in key order, and a deadlock or serialization failure runs the
  transaction again.

The statements themselves are in `statements`: plain SQL for PostgreSQL and SQLite, the ORM for
every other database.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from threading import local
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from django.db import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    connections,
)
from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Outcome,
    Row,
    Save,
    Sent,
    Tracked,
    Waiting,
)
from botsessions.mailboxes.statements import (
    LeaseRow,
    MessageRow,
    SessionRow,
    Statements,
    UpdateRow,
    statements_for,
)
from botsessions.mailboxes.statements.base import Tuples
from botsessions.updates import Direction, Update

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from botsessions.models import TrackedMessage

Result = TypeVar("Result")

#: How often a transaction is run in all when the database asks to run it again.
TRANSACTION_ATTEMPTS = 4
#: The longest pause before it is run again, in seconds.
RERUN_PAUSE = 0.05
#: What COMMIT makes of an update.
STATUS = {Effect.DONE: "done", Effect.RETRY: "pending", Effect.PARKED: "parked"}


class _Rejected(Exception):
    """Entries of a commit that cannot be written, by number; rolls the transaction back."""

    def __init__(self, outcomes: dict[int, Outcome]) -> None:
        self.outcomes = outcomes


class DatabaseMailbox:
    """A mailbox in the database `using`, by default `BOTSESSIONS["DATABASE"]`."""

    def __init__(
        self,
        using: str | None = None,
        statements: Callable[[BaseDatabaseWrapper], Statements] = statements_for,
    ) -> None:
        self.using = using or settings.DATABASE
        self._make_statements = statements
        # Statements keep the state of a transaction: threads that share the mailbox have their own.
        self._local = local()
        self._own = False
        self.is_unfinished = False

    @property
    def statements(self) -> Statements:
        """The statements of this thread's connection."""
        connection = connections[self.using]
        statements: Statements | None = getattr(self._local, "statements", None)
        if statements is None or statements.connection is not connection:
            statements = self._local.statements = self._make_statements(connection)
            statements.own = self._own
        return statements

    @property
    def _messages(self) -> QuerySet[TrackedMessage]:
        from botsessions.models import TrackedMessage

        return TrackedMessage.objects.using(self.using)

    # The verbs of the contract

    def open(self) -> None:
        self._own = True
        self._local = local()

    def flush(self) -> None:
        self.is_unfinished = False
        try:
            self.statements.end()
        except (DatabaseError, InterfaceError):
            connections[self.using].close()  # what was not ended is undone, and noticed

    def close(self) -> None:
        self.flush()
        connections[self.using].close()

    def admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        admitted = self._transaction(lambda: self._admit(arrivals, token))
        admitted.is_unfinished = self.is_unfinished
        return admitted

    def load(self, keys: Sequence[Sequence[SessionKey]]) -> list[list[Row | None]]:
        return self._transaction(lambda: self._load(keys))

    def store(self, arrivals: Sequence[Arrival]) -> None:
        self._transaction(lambda: self._store(arrivals))

    def record(self, sent: Sequence[Sent]) -> None:
        self._transaction(lambda: self._record(sent))

    def commit(self, commits: Sequence[Commit]) -> Committed:
        outcomes: dict[int, Outcome] = {}
        while True:
            entries = [each for each in enumerate(commits) if each[0] not in outcomes]
            try:
                waiting = self._transaction(partial(self._commit, entries))
            except _Rejected as rejected:
                outcomes.update(rejected.outcomes)
                continue
            every = range(len(commits))
            return Committed([outcomes.get(each, Outcome.COMMITTED) for each in every], waiting)

    def tracked(self, session: SessionKey) -> list[Tracked]:
        of_session = {f"session__{part}": value for part, value in _parts(session).items()}
        rows = self._messages.filter(**of_session).order_by("id")
        self.flush()
        return self._transaction(
            lambda: [
                Tracked(*row)
                for row in rows.values_list("id", "chat", "message_id", "business").iterator()
            ]
        )

    def forget(self, messages: Sequence[Tracked]) -> None:
        ids = [message.id for message in messages]
        self.flush()
        self._transaction(lambda: self._messages.filter(id__in=ids).delete())

    def renew(self, leases: Sequence[tuple[str, str]]) -> set[str]:
        return self._transaction(lambda: self._renew(leases))

    def recover(self, limit: int, token: str) -> list[Waiting]:
        # Found in a transaction of their own: one that reads before it waits for a lock may go on
        # to see what was there before it waited.
        found = self._transaction(lambda: self._abandoned(limit))
        return self._transaction(lambda: self._recover(found, token)) if found else []

    # Each in its transaction

    def _admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        if not arrivals:
            return Admitted(token, [], [], [])
        statements, now = self.statements, clock.now()
        updates = [
            _pending(number, arrival.update, arrival.mailbox)
            for number, arrival in enumerate(arrivals)
        ]
        leases = [LeaseRow(key, token) for key in sorted({each.mailbox for each in arrivals})]
        wanted = _rows([key for arrival in arrivals for key in arrival.sessions])
        with statements.together():
            statements.begin(durable=False)
            taken = statements.take(leases, settings.LEASE)
            known = statements.known(updates)
            oldest = statements.next(leases)
            stored = statements.sessions(wanted)
        free = {key for (key,) in taken}
        # A mailbox that an earlier batch took with this token has its next update in hand already.
        waiting = _waiting(row for row in oldest if row[0] in free)
        free.difference_update(each.mailbox for each in waiting)
        seen = dict.fromkeys(known, Admission.DUPLICATE)

        decisions: list[Admission] = []
        pending: list[UpdateRow] = []
        for arrival, update in zip(arrivals, updates, strict=True):
            identity = (update.update_id, update.bot)
            earlier = seen.get(identity)
            if earlier not in (None, Admission.HANDLE):
                decisions.append(Admission.DUPLICATE)
                continue
            if earlier is None and arrival.room and arrival.mailbox in free:
                free.discard(arrival.mailbox)
                decisions.append(
                    Admission.HANDLE_STORED if arrival.store_first else Admission.HANDLE
                )
            else:
                # So is the copy of one that is handled without being stored: both are acknowledged.
                decisions.append(Admission.STORED)
            seen[identity] = decisions[-1]
            if decisions[-1] is not Admission.HANDLE:
                update.payload = msgspec.Raw(msgspec.json.encode(arrival.update))
                pending.append(update)
        if pending:
            statements.make_durable()
            statements.insert_pending(pending, now)
        else:
            statements.may_end_later()
        # Taken for nothing but duplicates, or without room to go on.
        statements.release([LeaseRow(key, token) for key in sorted(free)])
        return Admitted(
            token, decisions, _spread(stored, [each.sessions for each in arrivals]), waiting
        )

    def _load(self, keys: Sequence[Sequence[SessionKey]]) -> list[list[Row | None]]:
        statements = self.statements
        with statements.together():
            statements.begin(durable=True)
            stored = statements.sessions(_rows([key for each in keys for key in each]))
        return _spread(stored, keys)

    def _store(self, arrivals: Sequence[Arrival]) -> None:
        statements = self.statements
        with statements.together():
            statements.begin(durable=True)
            statements.lock(_leases(each.mailbox for each in arrivals))
            statements.insert_pending(
                [
                    _pending(number, each.update, each.mailbox, payload=True)
                    for number, each in enumerate(arrivals)
                ],
                clock.now(),
            )

    def _record(self, sent: Sequence[Sent]) -> None:
        statements, now = self.statements, clock.now()
        updates: dict[tuple[str, str], UpdateRow] = {}
        for each in sent:
            identity = (each.update.id, each.update.bot)
            row = updates.get(identity)
            if row is None:
                row = _pending(len(updates), each.update, each.mailbox, payload=True)
                updates[identity] = row
            row.journal = [*(row.journal or ()), {"ordinal": each.ordinal, "result": each.result}]
        opened = _rows(sorted({each.session for each in sent if each.session is not None}))
        with statements.together():
            statements.begin(durable=True)
            statements.lock(_leases(each.mailbox for each in sent))
            statements.append_journal(list(updates.values()), now)
            sessions = statements.open_sessions(opened, now)
        ids = {SessionKey(*key): session for *key, session in sessions}
        statements.insert_messages(
            [row for each in sent if each.session for row in _messages(each, ids[each.session])]
        )

    def _commit(self, entries: Sequence[tuple[int, Commit]]) -> list[Waiting]:
        if not entries:
            return []
        statements, now = self.statements, clock.now()
        updates = [
            _finished(number, entry, entry.update)
            for number, entry in entries
            if entry.update is not None
        ]
        saves = sorted(
            (_save(number, save) for number, entry in entries for save in entry.saves),
            key=_session_key,
        )
        _reject_rivals(updates, saves)
        go_on = _held((each.mailbox, each.token) for _, each in entries if each.go_on)
        stop = _held((each.mailbox, each.token) for _, each in entries if not each.go_on)
        with statements.together():
            statements.begin(durable=True)
            locked = statements.lock(_leases(entry.mailbox for _, entry in entries))
            finished = statements.finish(updates, now)
            saved = statements.save_sessions(saves, now)
            released = statements.release_idle(go_on)
            statements.release(stop)
        _reject_unwritten(entries, saves, set(locked), set(finished), set(saved))
        idle = {key for (key,) in released}
        return _waiting(statements.next([lease for lease in go_on if lease.key not in idle]))

    def _renew(self, leases: Sequence[tuple[str, str]]) -> set[str]:
        rows = _held(leases)
        with self.statements.together():
            self.statements.begin(durable=False)
            self.statements.lock(rows)
            renewed = self.statements.renew(rows, settings.LEASE)
        return {key for (key,) in renewed}

    def _abandoned(self, limit: int) -> list[str]:
        with self.statements.together():
            self.statements.begin(durable=False)
            found = self.statements.abandoned(limit, clock.now())
        return [key for (key,) in found]

    def _recover(self, mailboxes: Sequence[str], token: str) -> list[Waiting]:
        statements = self.statements
        leases = [LeaseRow(key, token) for key in sorted(mailboxes)]
        with statements.together():
            statements.begin(durable=False)
            rows = statements.take(leases, settings.LEASE)
        taken = {key for (key,) in rows}
        held = [lease for lease in leases if lease.key in taken]
        waiting = _waiting(statements.next(held))
        busy = {each.mailbox for each in waiting}
        statements.release([lease for lease in held if lease.key not in busy])
        return waiting

    def _transaction(self, work: Callable[[], Result]) -> Result:
        """Run it in one transaction: again after a deadlock, once more on a new connection.

        A verb that is called in somebody's transaction is a savepoint of it, and raises what the
        database raises: only who began the transaction can begin it again.
        """
        connection = connections[self.using]
        nested = connection.in_atomic_block
        attempts, healed = TRANSACTION_ATTEMPTS, False
        while True:
            used = connection.connection
            try:
                with self.statements.atomic():
                    result = work()
                self.is_unfinished = self.statements.is_unended
                return result
            except (DatabaseError, InterfaceError) as error:
                if nested:
                    raise
                attempts -= 1
                if isinstance(error, DatabaseError) and self.statements.may_retry(error):
                    if attempts:
                        # Not in step with those whom it met.
                        time.sleep(random.uniform(0, RERUN_PAUSE))  # noqa: S311
                        continue
                    raise Unavailable(f"The database is too busy: {error}") from error
                # An InternalError is how PostgreSQL ends a transaction that was idle for too long.
                if not isinstance(error, OperationalError | InterfaceError | InternalError):
                    raise
                # Django replaces a connection that fails to roll back.
                lost = connection.connection is not used or self.statements.connection_lost(error)
                connection.close()
                if healed or not lost:
                    raise Unavailable(f"The database is away: {error}") from error
                healed = True


def _parts(key: SessionKey) -> dict[str, str]:
    return msgspec.structs.asdict(key)


def _leases(mailboxes: Iterable[str]) -> list[LeaseRow]:
    return [LeaseRow(key) for key in sorted(set(mailboxes))]


def _held(leases: Iterable[tuple[str, str]]) -> list[LeaseRow]:
    return [LeaseRow(key, token) for key, token in sorted(set(leases))]


def _pending(number: int, update: Update, mailbox: str, *, payload: bool = False) -> UpdateRow:
    row = UpdateRow(number, update.bot, update.id, update.type, mailbox, "pending")
    if payload:
        row.payload = msgspec.Raw(msgspec.json.encode(update))
    return row


def _finished(number: int, entry: Commit, update: Update) -> UpdateRow:
    keep = entry.effect is not Effect.DONE
    row = _pending(number, update, entry.mailbox, payload=keep)
    row.status = STATUS[entry.effect]
    # A traceback quotes whatever the handler had in hand, half an emoji included.
    row.error = entry.error.encode(errors="replace").decode()
    row.attempts, row.due_at = entry.attempts, _utc(entry.due_at)
    return row


def _row(number: int, key: SessionKey) -> SessionRow:
    return SessionRow(number, key.bot, key.chat, key.user, key.thread, key.qualifier)


def _rows(keys: Sequence[SessionKey]) -> list[SessionRow]:
    return [_row(number, key) for number, key in enumerate(keys)]


def _save(number: int, save: Save) -> SessionRow:
    row = _row(number, save.key)
    row.version = save.version
    row.data = None if save.data is None else msgspec.Raw(save.data)
    return row


def _session_key(row: SessionRow) -> tuple[str, ...]:
    return (row.bot, row.chat, row.user, row.thread, row.qualifier)


def _messages(sent: Sent, session: int) -> list[MessageRow]:
    return [
        MessageRow(
            session,
            message.chat.id,
            message.id,
            Direction.OUTGOING,
            message.kind,
            message.is_service,
            message.user.id if message.user else "",
            message.business,
            message.text if sent.keep_text else "",
            _utc(message.date) or clock.now(),
            sent.update.id,
            sent.ordinal,
        )
        for message in sent.messages
    ]


def _waiting(rows: Tuples) -> list[Waiting]:
    return [
        Waiting(
            mailbox,
            token,
            msgspec.json.decode(payload, type=Update),
            attempts,
            msgspec.json.decode(journal) if journal else [],
            _aware(due_at),
        )
        for mailbox, token, payload, attempts, journal, due_at in rows
    ]


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def _aware(moment: datetime | str | None) -> datetime | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _spread(stored: Tuples, keys: Sequence[Sequence[SessionKey]]) -> list[list[Row | None]]:
    """Put each session that was found where its key was asked for."""
    found = {
        number: Row(session, version, bool(is_open), data.encode() if data is not None else None)
        for number, session, version, is_open, data in stored
    }
    numbers = count()
    return [[found.get(next(numbers)) for _ in each] for each in keys]


def _reject_rivals(updates: Sequence[UpdateRow], saves: Sequence[SessionRow]) -> None:
    """Of entries that would write the same row let the first go on.

    A statement can write a row but once.
    """
    seen: set[tuple[str, ...]] = set()
    rivals: dict[int, Outcome] = {}
    for number, key in [
        *((row.number, (row.update_id, row.bot)) for row in updates),
        *((row.number, _session_key(row)) for row in saves),
    ]:
        if key in seen:
            rivals[number] = Outcome.CONFLICT
        seen.add(key)
    if rivals:
        raise _Rejected(rivals)


def _reject_unwritten(
    entries: Sequence[tuple[int, Commit]],
    saves: Sequence[SessionRow],
    locked: set[tuple[Any, ...]],
    finished: set[tuple[Any, ...]],
    saved: set[tuple[Any, ...]],
) -> None:
    rejected: dict[int, Outcome] = {}
    for number, entry in entries:
        if (entry.mailbox, entry.token) not in locked:
            rejected[number] = Outcome.LEASE_LOST
        elif entry.update and (entry.update.id, entry.update.bot) not in finished:
            rejected[number] = Outcome.DUPLICATE
    for row in saves:
        if _session_key(row) not in saved:
            rejected.setdefault(row.number, Outcome.CONFLICT)
    if rejected:
        raise _Rejected(rejected)
