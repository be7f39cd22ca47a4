"""When Celery beat calls what, and the commands that do the same by hand."""

from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from botsessions import operations, tasks
from botsessions.models import Heartbeat, MessageDeletion
from botsessions.operations import deleting
from botsessions.schedule import PERIODS, beat_schedule
from tests.kit import running
from tests.operations.test_deleting import Chats, platform, quiet, slice_of

pytestmark = pytest.mark.django_db


def test_every_operation_has_a_task_and_a_period() -> None:
    current_app.loader.import_default_modules()
    schedule = beat_schedule()
    assert {entry["task"] for entry in schedule.values()} <= set(current_app.tasks)
    assert {name.removeprefix("botsessions.") for name in schedule} == set(PERIODS)
    assert schedule.items() <= django_settings.CELERY_BEAT_SCHEDULE.items()


def test_periods_are_settings() -> None:
    """A hint that waited longer than its period has been overtaken by the next."""
    entry = beat_schedule({"SWEEP_EVERY": 7})["botsessions.sweep"]
    assert entry == {
        "task": "botsessions.sweep",
        "schedule": 7.0,
        "options": {"expires": 7.0},
    }


@pytest.mark.parametrize("operation", PERIODS)
def test_each_task_leaves_a_heartbeat(operation: str) -> None:
    with running(quiet, platform=Chats):
        long_ago = timezone.now() - timedelta(days=1)
        Heartbeat.objects.bulk_create(Heartbeat(name=name, at=long_ago) for name in PERIODS)
        getattr(tasks, operation)()
        beaten = Heartbeat.objects.filter(at__gt=long_ago)
        assert [each.name for each in beaten] == [operation]


def command(*arguments: str) -> None:
    call_command("bots", *arguments)


def test_messages_are_deleted_from_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    """P27: with its progress."""
    with running(quiet, platform=Chats):
        slice_of(250)
        slice_of(2, "ben")
        command("delete-messages", "demo", "--user=ann")
        lines = capsys.readouterr().out.splitlines()
        number = MessageDeletion.objects.get().pk
        assert lines[0] == f"Deletion {number} has begun."
        assert lines[-1] == "done: 250 of 250 (250 deleted)"
        assert [len(ids) for _, ids in platform().asked] == [100, 100, 50]
        command("delete-messages", "demo", "--all", "--no-wait")
        assert len(platform().asked) == 3
        command("deletions")
        assert "gathering: 0 of 0" in capsys.readouterr().out
        command("delete-messages")
        assert capsys.readouterr().out == "Messages that came to an outcome: 2\n"
        command("deletions")
        assert capsys.readouterr().out.count("done: ") == 2


@pytest.mark.parametrize(
    ("age", "deleted"), [("1 00:00:00", 1), ("2026-01-01 00:00", 0), ("3 00:00:00", 0)]
)
def test_what_is_old_is_deleted_alone(age: str, deleted: int) -> None:
    with running(quiet, platform=Chats):
        slice_of(1, age=timedelta(days=2))
        slice_of(1, "ben")
        command("delete-messages", "demo", f"--older-than={age}")
        assert MessageDeletion.objects.get().total == deleted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo"], "Say which messages"),
        (["demo", "--all", "--user=ann"], "Say which messages"),
        (["demo", "--older-than=tomorrow"], "no age"),
        (["demo", "--older-than=30"], "thirty days"),
        (["demo", "--older-than=-1 00:00:00"], "no age"),
        (["nobody", "--all"], "There is no bot 'nobody'"),
    ],
)
def test_what_is_meant_must_be_said(arguments: list[str], said: str) -> None:
    with running(quiet, platform=Chats):
        with pytest.raises(CommandError, match=said):
            command("delete-messages", *arguments)
        assert not MessageDeletion.objects.exists()


def test_a_deletion_is_cancelled_once(capsys: pytest.CaptureFixture[str]) -> None:
    with running(quiet, platform=Chats):
        slice_of(2)
        command("delete-messages", "demo", "--all", "--no-wait")
        number = MessageDeletion.objects.get().pk
        command("deletions", f"--cancel={number}")
        assert f"Deletion {number} is cancelled." in capsys.readouterr().out
        with pytest.raises(CommandError, match="is over"):
            command("deletions", f"--cancel={number}")
        with pytest.raises(CommandError, match="no deletion"):
            command("deletions", "--cancel=77777")
        operations.delete_messages()
        assert platform().asked == []


def test_ctrl_c_leaves_the_rest_to_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> int:
        raise KeyboardInterrupt

    with running(quiet, platform=Chats):
        slice_of(2)
        with monkeypatch.context() as patch:
            patch.setattr(deleting, "delete_messages", interrupted)
            command("delete-messages", "demo", "--all")
        assert "Celery goes on with it" in capsys.readouterr().out
        assert operations.delete_messages() == 2
