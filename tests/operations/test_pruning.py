"""Retention: what is old enough is deleted or made anonymous, and nothing else."""

import threading
from collections.abc import Iterable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from botsessions import Router, Session, SessionController, Update, operations, tasks
from botsessions.bots import bots
from botsessions.models import (
    BotSession,
    BotUpdate,
    MailboxLease,
    MessageDeletion,
    RateWindow,
    TrackedMessage,
)
from botsessions.operations import pruning
from botsessions.operations.taking import taken_sessions
from tests.kit import handle, message, running

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
numbers = count()
router = Router()


@router.message()
async def answer(session: Session) -> None:
    session.data["n"] = 1
    await session.send("hello")


def updates(number: int, age: timedelta, bot: str = "demo", **columns: Any) -> list[BotUpdate]:
    moment = timezone.now() - age
    return BotUpdate.objects.bulk_create(
        BotUpdate(
            **{
                "bot": bot,
                "update_id": f"u{next(numbers)}",
                "type": "message",
                "mailbox": f"{bot}:ann:ann",
                "status": "done",
                "received_at": moment,
                "finished_at": moment,
            }
            | columns
        )
        for _ in range(number)
    )


def session(age: timedelta, user: str = "ann", **columns: Any) -> BotSession:
    moment = timezone.now() - age
    defaults = {"bot": "demo", "chat": user, "user": user, "data": {"name": user}}
    return BotSession.objects.create(
        **(defaults | {"created_at": moment, "updated_at": moment} | columns)
    )


def say(session: BotSession, ages: Iterable[timedelta]) -> list[TrackedMessage]:
    first = TrackedMessage.objects.count()
    return TrackedMessage.objects.bulk_create(
        TrackedMessage(
            session=session,
            chat=session.chat,
            message_id=f"{first + number}",
            direction="incoming",
            user=session.user,
            text="hello",
            sent_at=timezone.now() - age,
        )
        for number, age in enumerate(ages)
    )


def test_done_updates_are_kept_for_a_week() -> None:
    """P30: those that wait or were parked stay; so long a duplicate is known."""
    with running(router):
        updates(1, 9 * DAY, bot="gone")
        updates(3, 8 * DAY)
        updates(1, 8 * DAY, status="pending")
        updates(1, 8 * DAY, status="parked")
        updates(2, 6 * DAY)
        assert operations.prune() == {"updates": 4}
        assert BotUpdate.objects.count() == 4
        assert operations.prune() == {}


def test_each_bot_keeps_updates_for_as_long_as_it_says() -> None:
    with running(router, retention={"UPDATES": 3600, "PARKED": DAY}):
        updates(1, 2 * DAY, status="parked")
        updates(1, timedelta(hours=2), status="parked")
        updates(2, timedelta(hours=2))
        updates(2, timedelta(minutes=30))
        assert operations.prune() == {"updates": 3}
    BotUpdate.objects.all().delete()
    with running(router, retention={"UPDATES": None}):
        updates(2, 100 * DAY)
        assert operations.prune() == {}
    with running(router, retention={"UPDATES": {"AFTER": DAY, "ANONYMISE": True}}):
        assert operations.prune() == {"updates_anonymised": 2}
        assert set(BotUpdate.objects.filter(mailbox="").values_list("mailbox", flat=True)) == {""}
        assert operations.prune() == {}


def test_text_goes_before_the_message() -> None:
    """P30."""
    with running(router, retention={"TEXT": 10 * DAY, "MESSAGES": 30 * DAY}):
        ann = session(timedelta(0), is_open=True)
        say(ann, [40 * DAY, 20 * DAY, DAY])
        assert operations.prune() == {"texts": 1, "messages": 1}
        assert [each.text for each in ann.messages.order_by("id")] == ["", "hello"]
        assert operations.prune() == {}


def test_what_is_kept_of_deleted_messages_goes_by_their_age() -> None:
    """P30: its name too, though it has no text any more."""
    with running(router, retention={"TEXT": 10 * DAY, "MESSAGES": 30 * DAY}):
        ann = session(timedelta(0), is_open=True)
        say(ann, [40 * DAY, 20 * DAY, DAY])
        ann.messages.update(deleted_at=timezone.now(), text="", name="Ann")
        assert operations.prune() == {"texts": 1, "messages": 1}
        assert [each.name for each in ann.messages.order_by("id")] == ["", "Ann"]
        assert operations.prune() == {}


def test_other_bots_messages_stay() -> None:
    with running(router):
        other = session(timedelta(0), bot="gone")
        say(other, [400 * DAY])
        assert operations.prune() == {}


def test_messages_can_be_kept_without_people() -> None:
    with running(router, retention={"MESSAGES": {"AFTER": DAY, "ANONYMISE": True}}):
        ann = session(timedelta(0))
        say(ann, [2 * DAY, 3 * DAY, timedelta(0)])
        assert operations.prune() == {"messages_anonymised": 2}
        found = [(each.user, each.text, each.chat) for each in ann.messages.order_by("id")]
        nobody = pruning.NOBODY
        assert found == [("", "", nobody), ("", "", nobody), ("ann", "hello", "ann")]
        assert operations.prune() == {}


def test_closed_sessions_are_ended() -> None:
    """P30: not open ones, nor those in which a flow waits."""
    waiting = Router()

    @waiting.waiter(timeout=None)
    async def ask(control: SessionController, update: Update) -> None:
        control.stop()

    with running(waiting, retention={"SESSIONS": 30 * DAY}):
        say(session(40 * DAY), [40 * DAY])
        session(40 * DAY, "open", is_open=True)
        session(40 * DAY, "asked", flow={"any": "thing"})
        session(20 * DAY, "young")
        assert operations.prune() == {"sessions": 1, "messages": 1}
        assert set(BotSession.objects.values_list("user", flat=True)) == {"open", "asked", "young"}


def test_sessions_can_be_kept_without_people() -> None:
    with running(router, retention={"SESSIONS": {"AFTER": DAY, "ANONYMISE": True}}):
        for user in ("ann", "ben"):
            say(session(2 * DAY, user), [2 * DAY])
        assert operations.prune() == {"sessions_anonymised": 2, "messages_anonymised": 2}
        assert BotSession.objects.count() == TrackedMessage.objects.count() == 2
        for each in BotSession.objects.all():
            assert (each.user, each.data, each.chat[0]) == ("", None, "~")
        assert operations.prune() == {}
        async_to_sync(handle)(message())
        assert BotSession.objects.get(chat="ann").data == {"n": 1}


def test_a_session_that_somebody_works_on_is_left() -> None:
    with running(router, retention={"SESSIONS": DAY}):
        session(2 * DAY)
        now = timezone.now()
        held = MailboxLease.objects.create(
            key="demo:ann:ann", token="x", acquired_at=now, expires_at=now + DAY
        )
        assert operations.prune() == {}
        held.delete()
        assert operations.prune() == {"sessions": 1}


def test_a_session_that_is_written_at_the_last_moment_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def writing(*arguments: Any) -> Any:
        BotSession.objects.update(updated_at=timezone.now())
        return taken_sessions(*arguments)

    with running(router, retention={"SESSIONS": DAY}):
        session(2 * DAY)
        monkeypatch.setattr(pruning, "taken_sessions", writing)
        assert operations.prune() == {}
        assert BotSession.objects.count() == 1


def test_leftovers_of_processes_and_deletions_go() -> None:
    long_ago = timezone.now() - 2 * DAY
    with running(router):
        for key in ("demo:idle", "demo:busy"):
            MailboxLease.objects.create(
                key=key, token="x", acquired_at=long_ago, expires_at=long_ago
            )
        updates(1, 2 * DAY, status="pending", mailbox="demo:busy", payload={})
        RateWindow.objects.create(key="demo:chat:1", updated_at=long_ago)
        RateWindow.objects.create(key="demo:chat:2", updated_at=timezone.now())
        for days in (40, 2):
            moment = timezone.now() - days * DAY
            MessageDeletion.objects.create(
                bot="demo", through="demo", status="done", created_at=moment, finished_at=moment
            )
        assert operations.prune() == {"leases": 1, "rate_windows": 1, "deletions": 1}
        assert [each.key for each in MailboxLease.objects.all()] == ["demo:busy"]


def test_one_transaction_touches_a_bounded_number_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "RANGE", 10)
    with running(router):
        updates(25, 8 * DAY)
        updates(25, DAY)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert operations.prune() == {"updates": 25}
        deletes = [each["sql"] for each in queries if each["sql"].startswith("DELETE")]
        assert 3 <= len([sql for sql in deletes if "botupdate" in sql]) <= 8


def test_where_ids_and_times_part_the_rest_is_found_later() -> None:
    with running(router):
        young = updates(2, DAY)
        updates(2, 8 * DAY)
        operations.prune()
        BotUpdate.objects.filter(pk__in=[each.pk for each in young]).update(
            received_at=timezone.now() - 9 * DAY
        )
        operations.prune()
        assert BotUpdate.objects.count() == 0


@pytest.mark.parametrize(
    "retention",
    [
        7,
        {"TEXTS": DAY},
        {"TEXT": "a week"},
        {"TEXT": 0},
        {"TEXT": True},
        {"TEXT": {"AFTER": DAY, "ANONYMISE": True}},
        {"MESSAGES": {"ANONYMISE": True}},
        {"MESSAGES": {"AFTER": DAY, "OTHER": 1}},
    ],
)
def test_wrong_terms_name_the_bot(retention: Any) -> None:
    with (
        running(router, retention=retention),
        pytest.raises(ImproperlyConfigured, match="Bot 'demo': RETENTION"),
    ):
        bots["demo"]


def test_task_and_command_do_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with running(router):
        updates(2, 8 * DAY)
        tasks.prune()
        assert not BotUpdate.objects.exists()
        updates(1200, 8 * DAY)
        call_command("bots", "prune")
        assert capsys.readouterr().out == "Updates: 1,200\n"
        call_command("bots", "prune")
        assert capsys.readouterr().out == "Nothing is older than it is to be.\n"


@pytest.mark.django_db(transaction=True)
def test_prunes_at_once_do_no_harm() -> None:
    with running(router, retention={"SESSIONS": DAY, "MESSAGES": DAY}):
        for number in range(30):
            say(session(2 * DAY, f"user{number}"), [2 * DAY] * 5)
        session(timedelta(0), "young")
        updates(500, 8 * DAY)
        found: list[dict[str, int]] = []

        def prune() -> None:
            try:
                found.append(operations.prune())
            finally:
                connection.close()

        threads = [threading.Thread(target=prune) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(found) == 3
        left = operations.prune()
        total = sum(each.get("sessions", 0) for each in [*found, left])
        assert total == 30
        assert BotSession.objects.count() == 1
        assert not BotUpdate.objects.exists()
