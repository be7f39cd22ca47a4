"""`DatabaseMailbox`, with the database's own statements and with the ORM's."""

import pytest

from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.statements.orm import OrmStatements
from botsessions.testing import MailboxContract, MailboxRaceContract


class Own:
    """The statements that belong to the database of this run."""

    @pytest.fixture(autouse=True)
    def _mailbox(self) -> None:
        self.mailbox = DatabaseMailbox()


class Orm:
    """The statements for every other database."""

    @pytest.fixture(autouse=True)
    def _mailbox(self) -> None:
        self.mailbox = DatabaseMailbox(statements=OrmStatements)


@pytest.mark.django_db(transaction=True)
class TestOwn(Own, MailboxContract):
    pass


@pytest.mark.django_db(transaction=True)
class TestOrm(Orm, MailboxContract):
    pass


@pytest.mark.django_db(transaction=True)
class TestOwnRaces(Own, MailboxRaceContract):
    pass


@pytest.mark.django_db(transaction=True)
class TestOrmRaces(Orm, MailboxRaceContract):
    pass


@pytest.mark.django_db
class TestOwnWithinATransaction(Own, MailboxContract):
    """As in a `TestCase`, or in a view of a project with ATOMIC_REQUESTS."""
