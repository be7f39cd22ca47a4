"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let the test commit, as `django_db(transaction=True)` does.

    What it wrote is deleted: Django's flush of every table takes longer than most of these tests.
    """
    with django_db_blocker.unblock():
        yield
        for model in (TrackedMessage, BotSession, BotUpdate, MailboxLease):
            model._default_manager.all().delete()
        connections.close_all()
