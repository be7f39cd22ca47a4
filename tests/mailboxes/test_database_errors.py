"""`DatabaseMailbox` when the database fails, restarts, or asks to run a transaction again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Admission, Commit, Outcome
from botsessions.mailboxes.contract.cases import arrival, done, failed, nothing, save, sent
from botsessions.mailboxes.contract.races import at_once
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.rerunning import ATTEMPTS
from botsessions.mailboxes.statements import SessionRow, Statements, statements_for
from botsessions.mailboxes.statements.base import Tuples
from botsessions.mailboxes.statements.orm import OrmStatements
from botsessions.models import BotSession, BotUpdate, MailboxLease

KINDS: dict[str, Callable[[BaseDatabaseWrapper], Statements]] = {
    "own": statements_for,
    "orm": OrmStatements,
}


def rerun() -> DatabaseError:
    """Return the error with which this database asks to run a transaction again."""
    if connection.vendor != "postgresql":
        return OperationalError("database is locked")
    error = OperationalError("deadlock detected")
    error.__cause__ = psycopg.errors.DeadlockDetected()
    return error


def failing(kind: str, *errors: DatabaseError) -> DatabaseMailbox:
    """Return a mailbox whose COMMIT meets these errors, one after another, when half is written."""
    left = list(errors)
    base = type(KINDS[kind](connection))

    class Failing(base):  # type: ignore[misc, valid-type]
        def save_sessions(self, sessions: Sequence[SessionRow], now: Any) -> Tuples:
            saved: Tuples = super().save_sessions(sessions, now)
            self.fail()
            return saved

        def write_every(self, *rows: Any) -> None:
            super().write_every(*rows)
            self.fail()

        def fail(self) -> None:
            if left:
                raise left.pop(0)

    return DatabaseMailbox(statements=Failing)


def commit_one(mailbox: DatabaseMailbox) -> list[Outcome]:
    one = arrival("1")
    mailbox.admit([one], "one")
    return mailbox.commit([done(one, "one", save(SessionKey("demo", "ann"), 1))]).outcomes


def written() -> tuple[int, int, int]:
    counted = (BotUpdate.objects, BotSession.objects, MailboxLease.objects)
    updates, sessions, leases = (each.count() for each in counted)
    return updates, sessions, leases


@contextmanager
def database_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connection.close()
    with monkeypatch.context() as patch:
        if connection.vendor == "sqlite":
            patch.setitem(connection.settings_dict, "NAME", "/nowhere/to/be/found.sqlite3")
        else:
            patch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
            patch.setitem(connection.settings_dict, "PORT", "1")
        yield
    connection.close()


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.parametrize("kind", KINDS)
class TestErrors:
    def test_transaction_is_run_again_when_the_database_asks(self, kind: str) -> None:
        errors = [rerun() for _ in range(ATTEMPTS - 1)]
        assert commit_one(failing(kind, *errors)) == [Outcome.COMMITTED]
        assert written() == (1, 1, 0)

    def test_database_that_asks_too_often_is_unavailable(self, kind: str) -> None:
        errors = [rerun() for _ in range(ATTEMPTS)]
        with pytest.raises(Unavailable, match="too busy"):
            commit_one(failing(kind, *errors))
        assert written() == (0, 0, 1)

    def test_other_errors_come_through_and_write_nothing(self, kind: str) -> None:
        with pytest.raises(IntegrityError):
            commit_one(failing(kind, IntegrityError("no")))
        assert written() == (0, 0, 1)

    def test_operational_error_is_unavailable(self, kind: str) -> None:
        with pytest.raises(Unavailable, match="disk is full"):
            commit_one(failing(kind, OperationalError("the disk is full")))
        assert written() == (0, 0, 1)

    def test_database_away_is_unavailable_and_back_is_back(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P9: nothing half done; the mailbox goes on by itself."""
        mailbox = DatabaseMailbox(statements=KINDS[kind])
        one, key = arrival("1"), SessionKey("demo", "ann")
        verbs: list[Callable[[], object]] = [
            lambda: mailbox.admit([one], "one"),
            lambda: mailbox.load([[key]]),
            lambda: mailbox.store([one]),
            lambda: mailbox.record([sent(one, 0, session=key)]),
            lambda: mailbox.commit([done(one)]),
            lambda: mailbox.tracked(key),
            lambda: mailbox.renew([("demo:ann", "one")]),
            lambda: mailbox.recover(10, "one"),
        ]
        with database_away(monkeypatch):
            for verb in verbs:
                with pytest.raises(Unavailable, match="away"):
                    verb()
        assert written() == (0, 0, 0)
        for verb in verbs:
            verb()
        assert written() == (1, 1, 0)

    def test_mailbox_goes_on_when_the_connection_was_closed(self, kind: str) -> None:
        mailbox = DatabaseMailbox(statements=KINDS[kind])
        one = arrival("1")
        mailbox.admit([one], "one")
        connection.close()
        assert mailbox.commit([done(one)]).outcomes == [Outcome.COMMITTED]

    def test_connection_that_died_is_replaced(self, kind: str) -> None:
        if connection.vendor != "postgresql":
            pytest.skip("only PostgreSQL ends a single connection")
        mailbox = DatabaseMailbox(statements=KINDS[kind])
        for each in range(3):
            one = arrival()
            kill_connection()
            assert mailbox.admit([one], f"{each}").decisions == [Admission.HANDLE]
            kill_connection()
            assert mailbox.commit([done(one, f"{each}")]).outcomes == [Outcome.COMMITTED]
        kill_connection()
        assert mailbox.recover(10, "one") == []
        kill_connection()
        assert mailbox.tracked(SessionKey("demo", "ann")) == []

    def test_restart_of_the_database_in_the_middle_of_a_commit(self, kind: str) -> None:
        """Nothing was committed, so it is run once more on a new connection."""
        if connection.vendor != "postgresql":
            pytest.skip("only PostgreSQL ends a single connection")
        base = type(KINDS[kind](connection))
        killed: list[bool] = []

        class Dying(base):  # type: ignore[misc, valid-type]
            def save_sessions(self, sessions: Sequence[SessionRow], now: Any) -> Tuples:
                saved: Tuples = super().save_sessions(sessions, now)
                self.die()
                return saved

            def write_every(self, *rows: Any) -> None:
                super().write_every(*rows)
                self.die()

            def die(self) -> None:
                if not killed:
                    killed.append(True)
                    kill_connection()

        assert commit_one(DatabaseMailbox(statements=Dying)) == [Outcome.COMMITTED]
        assert written() == (1, 1, 0)


def kill_connection() -> None:
    """End this thread's connection, as a restart of the server or a firewall does."""
    connection.ensure_connection()
    pid = connection.connection.info.backend_pid

    def kill() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            assert cursor.fetchone() == (True,)

    at_once(kill)


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.parametrize("kind", KINDS)
class TestWithinATransaction:
    """A verb called in somebody's transaction is a savepoint in it."""

    def test_verb_sees_what_the_transaction_wrote_and_ends_with_it(self, kind: str) -> None:
        mailbox = DatabaseMailbox(statements=KINDS[kind])
        one = arrival("1")
        with transaction.atomic():
            BotUpdate.objects.create(
                bot="demo",
                update_id="1",
                type="message",
                mailbox="demo:ann",
                status="done",
                received_at="2026-01-01T00:00:00Z",
            )
            assert mailbox.admit([one], "one").decisions == [Admission.DUPLICATE]
            assert mailbox.admit([arrival("2")], "two").decisions == [Admission.HANDLE]
            transaction.set_rollback(True)
        assert written() == (0, 0, 0)

    def test_rejected_entry_leaves_the_transaction_whole(self, kind: str) -> None:
        mailbox = DatabaseMailbox(statements=KINDS[kind])
        one, other = arrival("1"), arrival("2", "demo:ben")
        with transaction.atomic():
            mailbox.admit([one], "one")
            committed = mailbox.commit([done(other), done(one)])
        assert committed.outcomes == [Outcome.LEASE_LOST, Outcome.COMMITTED]
        assert list(BotUpdate.objects.values_list("update_id", flat=True)) == ["1"]

    def test_error_is_left_to_who_began_the_transaction(self, kind: str) -> None:
        error = rerun()
        with pytest.raises(OperationalError) as raised, transaction.atomic():
            commit_one(failing(kind, error))
        assert raised.value is error
        assert written() == (0, 0, 0)


@pytest.mark.django_db
def test_settings_of_a_foreign_transaction_stay_as_they_are() -> None:
    """A project's own commit must not become less durable by what it calls on the way."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has such settings")
    mailbox = DatabaseMailbox()

    def shown() -> list[str]:
        names = ("synchronous_commit", "enable_seqscan", "enable_hashjoin")
        with connection.cursor() as cursor:
            return [cursor.execute(f"SHOW {name}").fetchone()[0] for name in names]

    before, one = shown(), arrival("1")
    mailbox.admit([one, arrival("2")], "one")
    mailbox.commit([failed(one), nothing("demo:ann", "one")])
    mailbox.recover(10, "two")
    assert shown() == before


@pytest.mark.usefixtures("transactional_db")
def test_project_isolation_level_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot from before the wait for a lock would hide what was committed meanwhile."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL")
    mailbox = DatabaseMailbox()
    levels = []
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_isolation TO 'repeatable read'")
    one = arrival("1")
    real = mailbox._commit

    def look(entries: Sequence[tuple[int, Commit]], **options: Any) -> Any:
        waiting = real(entries, **options)
        levels.append(connection.connection.execute("SHOW transaction_isolation").fetchone()[0])
        return waiting

    monkeypatch.setattr(mailbox, "_commit", look)
    mailbox.admit([one], "one")
    mailbox.commit([done(one)])
    connection.close()
    assert levels == ["read committed"]


@pytest.fixture
def opened(transactional_db: None) -> Iterator[DatabaseMailbox]:
    """A mailbox whose verbs have this thread, and its connection, for themselves."""
    connection.close()  # a connection that others have used is none of its own
    mailbox = DatabaseMailbox()
    mailbox.open()
    yield mailbox
    mailbox.close()


@pytest.mark.usefixtures("transactional_db")
class TestUnfinishedAdmission:
    """In a server an admission may be finished by the next verb, on PostgreSQL."""

    def test_to_others_its_mailboxes_are_taken(self, opened: DatabaseMailbox) -> None:
        assert opened.admit([arrival("1")], "one").decisions == [Admission.HANDLE]
        if not opened.is_unfinished:
            pytest.skip("this database finishes each admission")
        barrier = Barrier(2)
        decisions = []

        def other() -> None:
            try:
                barrier.wait(5)
                decisions.extend(DatabaseMailbox().admit([arrival("2")], "two").decisions)
            finally:
                connection.close()

        thread = Thread(target=other)
        thread.start()
        barrier.wait(5)
        time.sleep(0.1)
        assert decisions == []
        opened.flush()
        assert not opened.is_unfinished
        thread.join(5)
        assert decisions == [Admission.STORED]
        committed = opened.commit([done(arrival("1"))])
        assert [each.update.id for each in committed.waiting] == ["2"]

    def test_nothing_that_was_acknowledged_is_left_unfinished(
        self, opened: DatabaseMailbox
    ) -> None:
        for number, one in enumerate((arrival("1"), arrival("2"))):
            opened.admit([one, arrival()], f"{number}")
            assert not opened.is_unfinished

    def test_stopped_process_holds_nobody_up(self, opened: DatabaseMailbox) -> None:
        """P3: and when it goes on, it finds its lease lost."""
        opened.load([[SessionKey("demo", "ann")]])
        if connection.vendor != "postgresql":
            pytest.skip("this database finishes each admission")
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            assert cursor.fetchone() == ("2s",)
            cursor.execute("SET idle_in_transaction_session_timeout TO '200ms'")
        one = arrival("1")
        opened.admit([one], "one")
        assert opened.is_unfinished
        (admitted,) = at_once(lambda: DatabaseMailbox().admit([arrival("2")], "two"))
        assert admitted.decisions == [Admission.HANDLE]
        assert opened.commit([done(one)]).outcomes == [Outcome.LEASE_LOST]
        assert opened.admit([one], "three").decisions == [Admission.STORED]

    def test_admission_lost_with_its_connection_is_noticed(self, opened: DatabaseMailbox) -> None:
        one = arrival("1")
        opened.admit([one], "one")
        if not opened.is_unfinished:
            pytest.skip("this database finishes each admission")
        kill_connection()
        assert opened.commit([done(one)]).outcomes == [Outcome.LEASE_LOST]
        assert opened.admit([one], "two").decisions == [Admission.HANDLE]
        kill_connection()
        opened.flush()
        assert opened.renew([("demo:ann", "two")]) == set()

    def test_messages_are_read_and_forgotten_after_it(self, opened: DatabaseMailbox) -> None:
        one, key = arrival("1"), SessionKey("demo", "ann")
        opened.admit([one], "one")
        opened.record([sent(one, 0, "7", session=key)])
        opened.admit([arrival(mailbox="demo:ben")], "two")
        opened.forget(opened.tracked(key))
        assert not opened.is_unfinished
        assert opened.tracked(key) == []
