"""The mailbox in the project's database: the protocol, told once for every database.

What makes it safe:

* Leases come before update rows. Whoever stores an update has first touched its mailbox's lease
  row, taking it or (where it is another's) locking it, so the ids of one mailbox become visible in
  order, and a holder, who locks the row before he looks for what waits, strands nothing.
* A commit is written optimistically, all entries in one go, and counted, on PostgreSQL by the
  statements themselves: where one's lease, update or session was not as expected the transaction is
  rolled back, that entry is found and rejected, and the others are written again without it.
* Every statement touches its rows in key order, and a deadlock or serialization failure runs the
  transaction again.

The statements themselves are in `statements`: plain SQL for PostgreSQL and SQLite, the ORM for
every other database.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from threading import local
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from django.db import (
    DatabaseError,
    InterfaceError,
    connections,
)
from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions import clock
from botsessions.conf import settings
from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.mailboxes import deletions, slices
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Found,
    Opening,
    Outcome,
    Row,
    Seen,
    Sent,
    Tracked,
    Waiting,
)
from botsessions.mailboxes.rerunning import rerun
from botsessions.mailboxes.rows import (
    Wanted,
    finished_row,
    held_rows,
    in_row,
    lease_rows,
    message_rows,
    opened_rows,
    pending_row,
    save_row,
    seen_in,
    session_key,
    session_rows,
    stored_row,
    waiting_of,
)
from botsessions.mailboxes.statements import (
    LeaseRow,
    SaveRow,
    Statements,
    UpdateRow,
    statements_for,
)
from botsessions.stores.base import Store, Value, lifetime
from botsessions.stores.envelope import sealed
from botsessions.updates import Update

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from botsessions.models import BotUpdate

Result = TypeVar("Result")

log = logging.getLogger("botsessions.mailboxes")


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

    def _pending(self, update: Update) -> QuerySet[BotUpdate]:
        from botsessions.models import BotUpdate

        rows = BotUpdate.objects.using(self.using)
        return rows.filter(bot=update.bot, update_id=update.id, status="pending")

    def rerun(self, work: Callable[[], Result]) -> Result:
        """Do work that is a transaction of its own: again after a deadlock, once more on a new
        connection where the old one has died. Raises `Unavailable`.
        """
        return self._transaction(work)

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

    def find(self, arrivals: Sequence[Arrival]) -> list[Found]:
        return self._transaction(lambda: self._find(arrivals))

    def store(self, arrivals: Sequence[Arrival]) -> None:
        self._transaction(lambda: self._store(arrivals))

    def record(self, sent: Sequence[Sent]) -> None:
        self._transaction(lambda: self._record(sent))

    def commit(self, commits: Sequence[Commit]) -> Committed:
        outcomes: dict[int, Outcome] = {}
        elsewhere = any(not in_row(save) for each in commits for save in each.saves)
        handed = any(each.effect is Effect.HANDED_OVER for each in commits)
        insist = self.statements.can_write_every and not elsewhere and not handed
        while True:
            entries = [each for each in enumerate(commits) if each[0] not in outcomes]
            try:
                waiting = self._transaction(partial(self._commit, entries, insist=insist))
            except _Rejected as rejected:
                outcomes.update(rejected.outcomes)
            except DatabaseError as error:
                if not self.statements.is_incomplete(error):
                    raise
                insist = False  # the rows of each statement will tell which entry it was
            else:
                every = range(len(commits))
                return Committed([outcomes.get(each, Outcome.COMMITTED) for each in every], waiting)

    def track(self, opens: Sequence[Opening], seen: Sequence[Seen]) -> None:
        self._transaction(lambda: self._track(opens, seen))

    def tracked(self, session: SessionKey, *, texts: bool = True) -> list[Tracked]:
        self.flush()
        return self._transaction(lambda: slices.tracked(self.using, session, texts=texts))

    def forget(self, messages: Sequence[Tracked]) -> None:
        self.flush()
        ids = [each.id for each in messages]
        self._transaction(lambda: slices.forget(self.using, ids))

    def forget_deleted(self, sessions: Sequence[SessionKey]) -> None:
        self.flush()
        self._transaction(lambda: slices.forget_deleted(self.using, sessions))

    def mark_deleted(self, outcomes: Mapping[str, Sequence[Tracked]]) -> None:
        self.flush()
        ids = {outcome: [each.id for each in found] for outcome, found in outcomes.items()}
        self._transaction(lambda: slices.mark_deleted(self.using, ids))

    def mark_gone(self, update: Update) -> None:
        self.flush()
        self._transaction(lambda: slices.mark_gone(self.using, update))

    def delete_later(
        self, bot: str, through: str, messages: Sequence[Tracked], size: int, requested_by: str = ""
    ) -> int:
        self.flush()

        def work() -> int:
            slices.mark_deleted(self.using, {"": [each.id for each in messages]})
            return deletions.begin(self.using, bot, through, messages, size, requested_by)

        return self._transaction(work)

    def end(self, sessions: Sequence[SessionKey]) -> None:
        self.flush()
        self._transaction(lambda: slices.end(self.using, sessions))

    def move(self, bot: str, chat: str, to: str, store: Store | None = None) -> list[SessionKey]:
        self.flush()
        return self._transaction(lambda: slices.move(self.using, bot, chat, to, store))

    def due(self, bots: Sequence[str], limit: int) -> list[tuple[SessionKey, bytes]]:
        self.flush()
        return self._transaction(lambda: slices.due(self.using, bots, limit))

    def renew(self, leases: Sequence[tuple[str, str]]) -> set[str]:
        return self._transaction(lambda: self._renew(leases))

    def claim(self, mailbox: str, token: str) -> list[Waiting]:
        return self._transaction(lambda: self._recover([mailbox], token))

    def withdraw(self, update: Update) -> None:
        self.flush()
        self._transaction(lambda: self._withdraw(update))

    def recover(self, limit: int, token: str) -> list[Waiting]:
        # Found in a transaction of their own: one that reads before it waits for a lock may go on
        # to see what was there before it waited.
        found = self._transaction(lambda: self._abandoned(limit))
        return self._transaction(lambda: self._recover(found, token)) if found else []

    # Each in its transaction

    def _withdraw(self, update: Update) -> None:
        statements = self.statements
        mailboxes = list(self._pending(update).values_list("mailbox", flat=True))
        with statements.together():
            statements.begin(durable=True)
            # Whoever looks for what is next in it does so before this or after it.
            statements.lock(lease_rows(mailboxes))
        self._pending(update).update(
            status="done", payload=None, journal=None, finished_at=clock.now()
        )

    def _admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        if not arrivals:
            return Admitted(token, [], [], [])
        statements, now = self.statements, clock.now()
        updates = [
            pending_row(number, arrival.update, arrival.mailbox)
            for number, arrival in enumerate(arrivals)
        ]
        leases = [LeaseRow(key, token) for key in sorted({each.mailbox for each in arrivals})]
        wanted = Wanted(arrivals)
        with statements.together():
            statements.begin(durable=False)
            taken = statements.take(leases, settings.LEASE)
            known = statements.known(updates)
            oldest = statements.next(leases)
            wanted.ask(statements, now)
        free = {key for (key,) in taken}
        # A mailbox that an earlier batch took with this token has its next update in hand already.
        waiting = waiting_of(row for row in oldest if row[0] in free)
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
            elif arrival.only_now:
                decisions.append(Admission.REFUSED)
                continue
            else:
                # So is the copy of one that is handled without being stored: both are acknowledged.
                decisions.append(Admission.STORED)
            seen[identity] = decisions[-1]
            if decisions[-1] is not Admission.HANDLE:
                update.payload = msgspec.Raw(msgspec.json.encode(arrival.update))
                pending.append(update)
        if not pending:
            statements.may_end_later()
        with statements.together(last=bool(pending)):
            if pending:
                statements.make_durable()
                statements.insert_pending(pending, now)
            # Taken for nothing but duplicates, or without room to go on.
            statements.release([LeaseRow(key, token) for key in sorted(free)])
        return Admitted(token, decisions, wanted.found(), waiting)

    def _load(self, keys: Sequence[Sequence[SessionKey]]) -> list[list[Row | None]]:
        statements = self.statements
        with statements.together(last=True):
            statements.begin(durable=True)
            stored = statements.sessions(
                session_rows([key for each in keys for key in each]), clock.now()
            )
        found = {number: stored_row(*row) for number, *row in stored}
        numbers = count()
        return [[found.get(next(numbers)) for _ in each] for each in keys]

    def _find(self, arrivals: Sequence[Arrival]) -> list[Found]:
        statements, wanted = self.statements, Wanted(arrivals)
        with statements.together(last=True):
            statements.begin(durable=True)
            wanted.ask(statements, clock.now())
        return wanted.found()

    def _store(self, arrivals: Sequence[Arrival]) -> None:
        statements = self.statements
        with statements.together(last=True):
            statements.begin(durable=True)
            statements.lock(lease_rows(each.mailbox for each in arrivals))
            statements.insert_pending(
                [
                    pending_row(number, each.update, each.mailbox, payload=True)
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
                row = pending_row(len(updates), each.update, each.mailbox, payload=True)
                updates[identity] = row
            row.journal = [*(row.journal or ()), {"ordinal": each.ordinal, "result": each.result}]
        opened = {
            each.session: Opening(each.session, expires_at=each.expires_at)
            for each in sent
            if each.session is not None and each.is_opening
        }
        opens = [*opened.values(), *(opening for each in sent for opening in each.opens)]
        chosen = slices.chosen(opens)
        with statements.together(last=not chosen):
            statements.begin(durable=True)
            statements.lock(lease_rows(each.mailbox for each in sent))
            statements.append_journal(list(updates.values()), now)
            statements.open_sessions(opened_rows(opens), now)
            statements.insert_messages(message_rows(seen_in(sent), now), now)
        slices.subscribe(self.using, chosen)

    def _track(self, opens: Sequence[Opening], seen: Sequence[Seen]) -> None:
        statements, now = self.statements, clock.now()
        chosen = slices.chosen(opens)
        with statements.together(last=not chosen):
            statements.begin(durable=True)
            statements.open_sessions(opened_rows(opens), now)
            statements.insert_messages(message_rows(seen, now), now)
        slices.subscribe(self.using, chosen)

    def _commit(
        self, entries: Sequence[tuple[int, Commit]], *, insist: bool = False
    ) -> list[Waiting]:
        if not entries:
            return []
        statements, now = self.statements, clock.now()
        updates = [
            finished_row(number, entry, entry.update)
            for number, entry in entries
            if entry.update is not None and entry.effect is not Effect.HANDED_OVER
        ]
        saves = sorted(
            (save_row(number, save) for number, entry in entries for save in entry.saves),
            key=session_key,
        )
        opens = opened_rows(each for _, entry in entries for each in entry.opens)
        messages = message_rows((each for _, entry in entries for each in entry.seen), now)
        emptied = session_rows(
            sorted(save.key for _, entry in entries for save in entry.saves if save.is_deleted)
        )
        _reject_rivals(updates, saves)
        if not insist:
            with statements.together():
                statements.begin(durable=True)
                locked = statements.lock(lease_rows(entry.mailbox for _, entry in entries))
                finished = statements.finish(updates, now)
                saved = statements.save_sessions(saves, now)
            _reject_unwritten(entries, saves, set(locked), set(finished), set(saved))
            _store_elsewhere(entries)
        handed = [each for each in entries if each[1].effect is Effect.HANDED_OVER]
        self._hand_over(handed)
        leases = [each for _, each in entries if each.effect is not Effect.HANDED_OVER]
        go_on = held_rows((each.mailbox, each.token) for each in leases if each.go_on)
        stop = held_rows((each.mailbox, each.token) for each in leases if not each.go_on)
        chosen = slices.chosen(each for _, entry in entries for each in entry.opens)
        with statements.together(last=insist and not chosen):
            if insist:
                statements.begin(durable=True)
                held = held_rows((each.mailbox, each.token) for _, each in entries)
                statements.write_every(held, updates, saves, now)
            statements.open_sessions(opens, now)
            statements.insert_messages(messages, now)
            statements.delete_empty(emptied)
            released = statements.release_idle(go_on)
            statements.release(stop)
        slices.subscribe(self.using, chosen)
        idle = {key for (key,) in released}
        return waiting_of(statements.next([lease for lease in go_on if lease.key not in idle]))

    def _hand_over(self, entries: Sequence[tuple[int, Commit]]) -> None:
        """Give leases to those who wait with their update's id as token, for a whole LEASE."""
        from botsessions.models import MailboxLease

        for number, each in entries:
            waits = self._pending(cast(Update, each.update)).update(attempts=each.attempts)
            if not waits:  # any more
                raise _Rejected({number: Outcome.DUPLICATE})
        rows = held_rows((each.mailbox, each.token) for _, each in entries)
        list(self.statements.renew(rows, settings.LEASE))
        for _, each in entries:
            lease = MailboxLease.objects.using(self.using).filter(pk=each.mailbox)
            lease.filter(token=each.token).update(token=cast(Update, each.update).id)

    def _renew(self, leases: Sequence[tuple[str, str]]) -> set[str]:
        rows = held_rows(leases)
        with self.statements.together(last=True):
            self.statements.begin(durable=False)
            self.statements.lock(rows)
            renewed = self.statements.renew(rows, settings.LEASE)
        return {key for (key,) in renewed}

    def _abandoned(self, limit: int) -> list[str]:
        with self.statements.together(last=True):
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
        waiting = waiting_of(statements.next(held))
        busy = {each.mailbox for each in waiting}
        statements.release([lease for lease in held if lease.key not in busy])
        return waiting

    def _transaction(self, work: Callable[[], Result]) -> Result:
        """Run it in one transaction, within somebody's as a savepoint of that."""

        def transaction() -> Result:
            with self.statements.atomic():
                result = work()
            self.is_unfinished = self.statements.is_unended
            return result

        return rerun(self.statements, transaction)


def _reject_rivals(updates: Sequence[UpdateRow], saves: Sequence[SaveRow]) -> None:
    """Of entries that would write the same row let the first go on.

    A statement can write a row but once.
    """
    seen: set[tuple[str, ...]] = set()
    rivals: dict[int, Outcome] = {}
    for number, key in [
        *((row.number, (row.update_id, row.bot)) for row in updates),
        *((row.number, session_key(row)) for row in saves),
    ]:
        if key in seen:
            rivals[number] = Outcome.CONFLICT
        seen.add(key)
    if rivals:
        raise _Rejected(rivals)


def _store_elsewhere(entries: Sequence[tuple[int, Commit]]) -> None:
    """Give other stores their data, while the rows of its sessions are locked.

    Should the transaction fail after that, the envelope has what counts then. What is deleted needs
    no store: without its row, or with the row's next version, nothing is found there.
    """
    batches: dict[int, tuple[Store, list[Value], list[int]]] = {}
    for number, entry in entries:
        for save in entry.saves:
            if save.store is None or save.store.in_row or save.is_deleted:
                continue
            data = sealed(save.version + 1, save.data, save.before)
            _, values, numbers = batches.setdefault(id(save.store), (save.store, [], []))
            values.append((save.key, data, lifetime(save.expires_at)))
            numbers.append(number)
    away: dict[int, Outcome] = {}
    for store, values, numbers in batches.values():
        try:
            store.save(values)
        except Unavailable as error:
            log.warning("%r is away: %s", store, error)
            away |= dict.fromkeys(numbers, Outcome.STORE_AWAY)
    if away:
        raise _Rejected(away)


def _reject_unwritten(
    entries: Sequence[tuple[int, Commit]],
    saves: Sequence[SaveRow],
    locked: set[tuple[Any, ...]],
    finished: set[tuple[Any, ...]],
    saved: set[tuple[Any, ...]],
) -> None:
    rejected: dict[int, Outcome] = {}
    for number, entry in entries:
        if (entry.mailbox, entry.token) not in locked:
            rejected[number] = Outcome.LEASE_LOST
        elif (
            entry.update
            and entry.effect is not Effect.HANDED_OVER
            and (entry.update.id, entry.update.bot) not in finished
        ):
            rejected[number] = Outcome.DUPLICATE
    for row in saves:
        if session_key(row) not in saved:
            rejected.setdefault(row.number, Outcome.CONFLICT)
    if rejected:
        raise _Rejected(rejected)
