"""`DatabaseMailbox`, with the database's own statements and with the ORM's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Effect, Mailbox, Outcome, Save, Sent
from botsessions.mailboxes.contract.cases import arrival, done, failed, save, sent
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.statements.orm import OrmStatements
from botsessions.mailboxes.statements.sql import SqlStatements
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from botsessions.testing import MailboxContract, MailboxRaceContract
from botsessions.updates import Chat, Message, User

MAILBOXES = {
    "own": DatabaseMailbox,
    "orm": lambda: DatabaseMailbox(statements=OrmStatements),
}


class Own:
    """The statements that belong to the database of this run."""

    @pytest.fixture(autouse=True)
    def _mailbox(self) -> None:
        self.mailbox: Mailbox = DatabaseMailbox()


class Orm:
    """The statements for every other database."""

    @pytest.fixture(autouse=True)
    def _mailbox(self) -> None:
        self.mailbox: Mailbox = DatabaseMailbox(statements=OrmStatements)


@pytest.mark.usefixtures("transactional_db")
class TestOwn(Own, MailboxContract):
    """In transactions of its own, as in a server."""


@pytest.mark.usefixtures("transactional_db")
class TestOwnOpened(MailboxContract):
    """As in a server, whose thread for the verbs has a connection of its own."""

    @pytest.fixture(autouse=True)
    def _mailbox(self, transactional_db: None) -> Iterator[None]:
        self.mailbox: Mailbox = DatabaseMailbox()
        self.mailbox.open()
        yield
        self.mailbox.close()


@pytest.mark.django_db
class TestOwnWithinATransaction(Own, MailboxContract):
    """As in a `TestCase`, or in a view of a project with ATOMIC_REQUESTS."""


@pytest.mark.django_db
class TestOrm(Orm, MailboxContract):
    pass


@pytest.mark.usefixtures("transactional_db")
class TestOwnRaces(Own, MailboxRaceContract):
    pass


@pytest.mark.usefixtures("transactional_db")
class TestOrmRaces(Orm, MailboxRaceContract):
    pass


@pytest.mark.usefixtures("transactional_db")
def test_database_that_cannot_update_on_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Oracle: somebody else's row is found by the insert that fails."""
    monkeypatch.setattr(type(connection.features), "supports_update_conflicts", False)
    suite = MailboxRaceContract()
    suite.mailbox = DatabaseMailbox(statements=OrmStatements)
    suite.test_overlapping_batches_in_opposite_orders_lose_nothing()
    suite.test_abandoned_mailbox_is_recovered_once()


@pytest.mark.django_db
@pytest.mark.parametrize("kind", MAILBOXES)
class TestRows:
    """What is stored, column by column."""

    @pytest.fixture
    def mailbox(self, kind: str) -> DatabaseMailbox:
        return MAILBOXES[kind]()

    def test_pending_update_has_all_that_its_handling_needs(self, mailbox: DatabaseMailbox) -> None:
        one = arrival("1", "demo:ann", room=False)
        mailbox.admit([one], "one")
        row = BotUpdate.objects.get()
        assert (row.bot, row.update_id, row.type) == ("demo", "1", "message")
        assert (row.mailbox, row.status, row.attempts) == ("demo:ann", "pending", 0)
        assert row.payload
        assert row.payload["chat"]["id"] == "ann"
        assert (row.journal, row.error, row.due_at, row.finished_at) == (None, "", None, None)
        assert datetime.now(UTC) - row.received_at < timedelta(seconds=10)
        assert not MailboxLease.objects.exists()

    def test_done_update_drops_its_payload_and_journal(self, mailbox: DatabaseMailbox) -> None:
        one = arrival("1")
        mailbox.admit([one], "one")
        mailbox.record([sent(one, 0)])
        mailbox.commit([failed(one, due_at=datetime.now(UTC))])
        mailbox.commit([done(one)])
        row = BotUpdate.objects.get()
        assert (row.status, row.attempts, row.error, row.due_at) == ("done", 1, "", None)
        assert row.finished_at is not None
        assert BotUpdate.objects.filter(payload__isnull=True, journal__isnull=True).exists()

    def test_update_done_at_once_never_had_a_payload(self, mailbox: DatabaseMailbox) -> None:
        one = arrival("1")
        mailbox.admit([one], "one")
        assert not BotUpdate.objects.exists()
        mailbox.commit([done(one)])
        row = BotUpdate.objects.get(payload__isnull=True, journal__isnull=True)
        assert (row.status, row.attempts) == ("done", 1)
        assert row.finished_at == row.received_at

    def test_parked_update_keeps_what_operators_need(self, mailbox: DatabaseMailbox) -> None:
        one = arrival("1")
        mailbox.admit([one], "one")
        mailbox.record([sent(one, 0)])
        mailbox.commit([failed(one, Effect.PARKED, attempts=3, error="Traceback")])
        row = BotUpdate.objects.get()
        assert (row.status, row.attempts, row.error) == ("parked", 3, "Traceback")
        assert row.payload
        assert row.payload["id"] == "1"
        assert row.journal == [{"ordinal": 0, "result": {"ids": []}}]
        assert row.finished_at is not None

    def test_times_are_stored_in_utc(self, mailbox: DatabaseMailbox) -> None:
        """Text in SQLite, where times of other zones would not compare."""
        due = datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5)))
        one, key = arrival("1"), SessionKey("demo", "ann")
        mailbox.admit([one], "one")
        message = Message("7", Chat("ann"), date=due)
        mailbox.record([Sent(one.update, one.mailbox, 0, None, key, [message])])
        mailbox.commit([failed(one, due_at=due)])
        before, after = due - timedelta(seconds=1), due + timedelta(seconds=1)
        assert BotUpdate.objects.filter(due_at=due, due_at__range=(before, after)).exists()
        assert TrackedMessage.objects.filter(sent_at=due, sent_at__range=(before, after)).exists()

    def test_session_without_data_is_null(self, mailbox: DatabaseMailbox) -> None:
        one, key = arrival("1"), SessionKey("demo", "ann")
        mailbox.admit([one, arrival("2")], "one")
        mailbox.commit([done(one, "one", Save(key, 0, None))])
        assert BotSession.objects.filter(data__isnull=True, version=1).exists()
        mailbox.commit([done(arrival("2"), "one", Save(key, 1, None))])
        assert BotSession.objects.filter(data__isnull=True, version=2).exists()

    def test_save_leaves_the_rest_of_the_header(self, mailbox: DatabaseMailbox) -> None:
        one, key = arrival("1"), SessionKey("demo", "ann", "ann", "5", "order")
        long_ago = datetime(2001, 1, 1, tzinfo=UTC)
        mailbox.admit([one], "one")
        mailbox.record([sent(one, 0, session=key)])
        BotSession.objects.update(created_at=long_ago, updated_at=long_ago)
        mailbox.commit([done(one, "one", save(key, {}))])
        row = BotSession.objects.get()
        parts = (row.bot, row.chat, row.user, row.thread, row.qualifier)
        assert SessionKey(*parts) == key
        assert (row.is_open, row.created_at, row.expires_at) == (True, long_ago, None)
        assert row.updated_at > long_ago

    def test_tracked_message_says_where_it_came_from(self, mailbox: DatabaseMailbox) -> None:
        one, key = arrival("1"), SessionKey("demo", "ann")
        message = Message(
            "7", Chat("ann"), User("bot"), "photo", is_service=True, text="a", business="b"
        )
        mailbox.admit([one], "one")
        mailbox.record([Sent(one.update, one.mailbox, 3, None, key, [message])])
        row = TrackedMessage.objects.get()
        assert (row.chat, row.message_id, row.user, row.kind) == ("ann", "7", "bot", "photo")
        assert (row.direction, row.is_service, row.business) == ("outgoing", True, "b")
        assert (row.update_id, row.ordinal, row.text) == ("1", 3, "a")

    def test_text_is_kept_only_where_it_is_to_be(self, mailbox: DatabaseMailbox) -> None:
        one, key = arrival("1"), SessionKey("demo", "ann")
        message = Message("7", Chat("ann"), text="a secret")
        mailbox.admit([one], "one")
        mailbox.record([Sent(one.update, one.mailbox, 0, None, key, [message], keep_text=False)])
        assert TrackedMessage.objects.get().text == ""


@pytest.mark.django_db
@pytest.mark.parametrize("kind", MAILBOXES)
def test_number_of_queries_does_not_grow_with_the_batch(kind: str) -> None:
    if kind == "own" and connection.vendor == "postgresql":
        pytest.skip("PostgreSQL's own statements do not pass Django's cursors")
    mailbox = MAILBOXES[kind]()
    counts = []
    for number in (5, 50):
        arrivals = [arrival(mailbox=f"demo:{each}") for each in range(number)]
        keys = [SessionKey("demo", one.update.id) for one in arrivals]
        entries = list(zip(arrivals, keys, strict=True))
        with CaptureQueriesContext(connection) as queries:
            mailbox.admit(arrivals, "one")
            mailbox.record([sent(one, 0, "7", session=key) for one, key in entries])
            mailbox.store(arrivals)
            committed = mailbox.commit([done(one, "one", save(key, 1)) for one, key in entries])
        assert committed.outcomes == [Outcome.COMMITTED] * number
        counts.append(len(queries))
    assert counts[0] == counts[1], queries.captured_queries
    assert counts[0] < (26 if isinstance(mailbox.statements, SqlStatements) else 60)
