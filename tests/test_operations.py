"""Recovery as the command and the Celery task do it: now, in the calling process, to the end."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from celery import current_app
from django.conf import settings as django_settings
from django.utils import timezone

from botsessions import Router, Session, Update, operations, tasks
from botsessions.engine import current_engine
from botsessions.keys import chat_user, mailbox_of
from botsessions.mailboxes.base import Arrival
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate, MailboxLease
from tests.kit import message, running

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
Counted = Session[dict[str, Any]]
router = Router()


@router.command("fail")
def fail() -> None:
    raise LookupError("on purpose")


@router.message()
async def count(session: Counted) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


def mailbox(update: Update) -> str:
    return mailbox_of(update, chat_user(update))


def acknowledged(*updates: Update) -> None:
    """Leave these as a process does that is killed after it has acknowledged them."""
    DatabaseMailbox().store([Arrival(update, mailbox(update)) for update in updates])


def lease(update: Update, remaining: timedelta) -> None:
    now = timezone.now()
    MailboxLease.objects.create(
        key=mailbox(update), token="another", acquired_at=now, expires_at=now + remaining
    )


def counted() -> dict[str, int]:
    rows = BotSession.objects.values_list("user", "data__n")
    return dict(rows)


def test_nothing_to_recover() -> None:
    with running(router):
        assert operations.recover() == 0


def test_what_a_killed_process_left_is_handled_to_the_end() -> None:
    with running(router):
        acknowledged(*[message() for _ in range(5)], message(user="ben"))
        assert operations.recover() == 2
        assert counted() == {"ann": 5, "ben": 1}
        assert set(BotUpdate.objects.values_list("status", flat=True)) == {"done"}
        assert not MailboxLease.objects.exists()
        assert operations.recover() == 0


def test_mailbox_is_taken_over_once_its_lease_has_expired_and_not_before() -> None:
    with running(router):
        mine, theirs = message(user="ann"), message(user="ben")
        acknowledged(mine, theirs)
        lease(mine, -HOUR)
        lease(theirs, HOUR)
        assert operations.recover() == 1
        assert counted() == {"ann": 1}


def test_more_mailboxes_than_one_look_finds_are_all_handled() -> None:
    with running(router):
        acknowledged(*[message(user=f"user{number}") for number in range(250)])
        operations.recover()
        assert counted() == {f"user{number}": 1 for number in range(250)}


def test_failing_update_is_left_for_its_next_attempt() -> None:
    with running(router, RETRY_DELAY=60):
        update = message("/fail")
        acknowledged(update, message())
        operations.recover()
        operations.recover()
        row = BotUpdate.objects.get(update_id=update.id)
        assert (row.status, row.attempts) == ("pending", 1)
        assert counted() == {}
        assert not MailboxLease.objects.exists()
        BotUpdate.objects.filter(update_id=update.id).update(due_at=timezone.now() - HOUR)
        operations.recover()
        row.refresh_from_db()
        assert row.attempts == 2


def test_update_of_a_bot_that_is_gone_is_parked() -> None:
    with running(router):
        update = message(bot="gone")
        acknowledged(update)
        operations.recover()
        row = BotUpdate.objects.get(update_id=update.id)
        assert row.status == "parked"
        assert "gone" in row.error


async def test_it_runs_on_a_loop_of_its_own() -> None:
    threads = set()
    own = Router()

    @own.message()
    async def note() -> None:
        threads.add(threading.get_ident())
        engines.add(current_engine())

    with running(own):
        engines = {current_engine()}
        await sync_to_async(acknowledged)(message())
        assert await sync_to_async(operations.recover)() == 1
    assert threading.get_ident() not in threads
    assert len(engines) == 2


def test_task_does_the_same() -> None:
    assert tasks.recover.name == "botsessions.recover"
    assert tasks.recover.ignore_result
    with running(router):
        acknowledged(message())
        tasks.recover.delay()
        assert counted() == {"ann": 1}


def test_beat_sends_tasks_that_exist() -> None:
    current_app.loader.import_default_modules()
    for entry in django_settings.CELERY_BEAT_SCHEDULE.values():
        assert entry["task"] in current_app.tasks
