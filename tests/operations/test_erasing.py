"""Erasing and exporting what is stored of a person or a chat."""

import json
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from botsessions import Qualifier, Router, Scope, Session, SessionController, Update, operations
from botsessions.bots import bots
from botsessions.exceptions import UnknownBot
from botsessions.mailboxes.base import Arrival
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import (
    BotSession,
    BotUpdate,
    Erasure,
    MailboxLease,
    MessageDeletion,
    TrackedMessage,
)
from botsessions.operations.subject import Subject
from tests.kit import configured, handle, message, running, texts

pytestmark = pytest.mark.django_db

Notes = Session[dict[str, Any]]
router = Router()


@router.waiter(timeout=600)
async def ask(control: SessionController, update: Update) -> None:
    control.stop()


@router.command("ask")
async def begin(session: Notes) -> None:
    await session.begin(ask)


@router.command("fail")
async def fail(session: Notes) -> None:
    raise LookupError("on purpose")


@router.message()
async def remember(
    update: Update, session: Notes, order: Annotated[Session, Qualifier("order")]
) -> None:
    session.data["said"] = [*session.data.get("said", ()), update.text]
    order.data["n"] = 1
    await session.send(f"heard {update.text}")


#: Everybody in a chat shares a session that tracks what is said.
common = Router()


@common.message()
async def listen(update: Update, all_: Annotated[Notes, Scope("chat")]) -> None:
    all_.data["n"] = all_.data.get("n", 0) + 1
    await all_.open()


def talk(*updates: Update) -> None:
    async_to_sync(handle)(*updates)


def stored(needle: str) -> dict[str, int]:
    """Return how many rows of each table hold a text in any of their columns."""
    found = {}
    for model in apps.get_app_config("botsessions").get_models():
        rows = [json.dumps(each, default=str) for each in model._default_manager.values()]
        if number := sum(needle in row for row in rows):
            found[model.__name__] = number
    return found


def test_nothing_of_a_user_is_left_and_the_receipt_counts_it() -> None:
    """P29."""
    with running(router, ATTEMPTS=1):
        for user in ("ann42", "ben43"):
            talk(message("hello", user=user), message("/ask", user=user))
            talk(message("hi all", user=user, chat="team"))
            talk(message("/fail", user=user, chat="team"))
        before = stored("ben43")
        assert stored("ann42").keys() == {"BotSession", "BotUpdate", "TrackedMessage"}
        erasure = operations.erase("demo", user="ann42")
        assert erasure.finished_at is not None
        assert stored("ann42") == {}
        assert stored("ben43") == before
        assert erasure.counts == {
            "sessions": 4,
            "flows": 1,
            "messages": 4,
            "updates": 1,
            "done_updates": 3,
        }
        assert erasure.subject == Subject("demo", user="ann42").pseudonym
        assert len(texts("ann42")) == 1  # the platform has them still
        again = operations.erase("demo", user="ann42")
        assert (again.counts, again.finished_at is not None) == ({}, True)
        talk(message("hello again", user="ann42"))
        assert BotSession.objects.get(chat="ann42", qualifier="").data == {"said": ["hello again"]}


def test_what_a_user_said_in_everybodys_session_goes_and_the_session_stays() -> None:
    with running(common):
        for text in ("one", "two"):
            talk(message(text, user="ann42", chat="team"), message(text, user="ben43", chat="team"))
        erasure = operations.erase("demo", user="ann42")
        assert erasure.counts["messages"] == 1
        assert "sessions" not in erasure.counts
        session = BotSession.objects.get()
        assert session.data == {"n": 4}
        assert {each.user for each in session.messages.all()} == {"ben43"}
        assert "TrackedMessage" not in stored("ann42")


def test_a_chat_is_erased_with_everybody_in_it() -> None:
    """P29: business chats are the same chat under another name."""
    with running(router):
        talk(message("hi", user="ann42", chat="team77"), message("hi", user="ben43", chat="team77"))
        talk(message("hi", user="ann42"))
        now = timezone.now()
        BotSession.objects.create(
            bot="demo", chat="business/b1/team77", user="x", created_at=now, updated_at=now
        )
        kept = BotSession.objects.create(
            bot="demo", chat="xteam77", user="x", created_at=now, updated_at=now
        )
        other = BotSession.objects.create(
            bot="other", chat="team77", user="x", created_at=now, updated_at=now
        )
        assert operations.erase("demo", chat="team77").finished_at is not None
        left = set(BotSession.objects.values_list("bot", "chat"))
        assert left == {("demo", "ann42"), ("demo", kept.chat), ("other", other.chat)}
        assert not BotUpdate.objects.filter(mailbox__contains="demo:team77").exists()


def test_waiting_updates_are_never_handled() -> None:
    """P29: those that were stored before, and those of a mailbox that a dead process held."""
    with running(router):
        late = message("too late", user="ann42")
        DatabaseMailbox().store([Arrival(late, "demo:ann42:ann42")])
        past = timezone.now() - timedelta(hours=1)
        MailboxLease.objects.create(
            key="demo:ann42:ann42", token="dead", acquired_at=past, expires_at=past
        )
        erasure = operations.erase("demo", user="ann42")
        assert (erasure.counts, erasure.finished_at is not None) == ({"updates": 1}, True)
        assert operations.recover() == 0
        assert stored("ann42") == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_stored", [False, True])
def test_a_handler_in_flight_brings_nothing_back(*, is_stored: bool) -> None:
    """P29: neither its effect nor its update, were it stored meanwhile."""
    slow, entered, leaves = Router(), threading.Event(), threading.Event()

    @slow.message()
    def think(session: Notes) -> None:
        session.data["secret"] = "of ann42"
        entered.set()
        assert leaves.wait(20)
        session.send("done")

    def converse() -> None:
        try:
            talk(message("hello", user="ann42"))
        finally:
            connections.close_all()

    with running(slow, ack_after=0 if is_stored else 60):
        thread = threading.Thread(target=converse)
        thread.start()
        assert entered.wait(10)
        threading.Timer(0.5, leaves.set).start()
        began = time.monotonic()
        erasure = operations.erase("demo", user="ann42", wait=20)
        assert time.monotonic() - began > 0.4
        thread.join(20)
        assert erasure.finished_at is not None
        assert erasure.counts["sessions"] == 1
        assert stored("ann42") == {}


@pytest.mark.django_db(transaction=True)
def test_a_process_that_wakes_up_after_its_lease_brings_nothing_back() -> None:
    """P29, P3: its commit is refused."""
    with running(router):
        mailbox = DatabaseMailbox()
        from botsessions.keys import SessionKey
        from botsessions.mailboxes.base import Commit, Effect, Outcome, Save

        update = message("hello", user="ann42")
        name = "demo:ann42:ann42"
        mailbox.admit([Arrival(update, name)], "asleep")
        MailboxLease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        assert operations.erase("demo", user="ann42").finished_at is not None
        key = SessionKey("demo", "ann42", "ann42")
        late = Commit(name, "asleep", Effect.DONE, update, saves=[Save(key, 0, b'{"n":1}')])
        assert mailbox.commit([late]).outcomes == [Outcome.LEASE_LOST]
        assert stored("ann42") == {}


def test_what_somebody_works_on_is_erased_later() -> None:
    with running(router):
        talk(message("hello", user="ann42"), message("hello", user="ann42", chat="team"))
        now = timezone.now()
        held = MailboxLease.objects.create(
            key="demo:team:ann42", token="x", acquired_at=now, expires_at=now + timedelta(hours=1)
        )
        erasure = operations.erase("demo", user="ann42", wait=0)
        assert erasure.finished_at is None
        assert BotSession.objects.count() == 4
        assert operations.finish_erasures() == 0
        talk(message("hello", user="ben43"))  # in whose mailbox nobody is waited for
        held.delete()
        Erasure.objects.update(due_at=now)
        assert operations.finish_erasures() == 1
        erasure.refresh_from_db()
        assert erasure.finished_at is not None
        assert erasure.counts["sessions"] == 4
        assert erasure.selection is None
        assert BotSession.objects.filter(user="ben43").exists()
        assert stored("ann42") == {}


def test_the_platform_deletes_too_where_asked() -> None:
    """P29: what it was asked is forgotten when it has answered."""
    with running(router):
        talk(message("one", user="ann42"), message("two", user="ann42"))
        assert len(texts("ann42")) == 2
        erasure = operations.erase("demo", user="ann42", delete_messages=True)
        assert erasure.selection is None
        assert erasure.finished_at is None
        assert operations.delete_messages() > 0
        Erasure.objects.update(due_at=timezone.now())
        assert operations.finish_erasures() == 1
        erasure.refresh_from_db()
        deletion = MessageDeletion.objects.get()
        assert erasure.counts["messages"] == deletion.total == 3
        assert erasure.counts["platform"]["deleted"] == 2
        assert texts("ann42") == []
        assert stored("ann42") == {}


def test_what_is_kept_of_deleted_messages_goes_too() -> None:
    """P29: it is exported, erased and counted, and not deleted again."""
    with running(router):
        talk(message("one", user="ann42"), message("two", user="ann42"))
        TrackedMessage.objects.filter(text="two").update(deleted_at=timezone.now(), text="")
        lines = [json.loads(line) for line in operations.export("demo", user="ann42")]
        exported = [each for each in lines if each["table"] == "message"]
        assert sum(each["deleted_at"] is not None for each in exported) == 1
        erasure = operations.erase("demo", user="ann42", delete_messages=True)
        assert MessageDeletion.objects.get().total == len(exported) - 1
        assert erasure.counts["messages"] == len(exported)
        assert not TrackedMessage.objects.exists()


def test_data_in_other_stores_goes_too(tmp_path: Path) -> None:
    files = {"BACKEND": "botsessions.stores.FileStore", "OPTIONS": {"DIRECTORY": tmp_path}}
    with override_settings(BOTSESSIONS=configured(router, STORES={"default": files})):
        talk(message("a secret", user="ann42"))
        kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert any("a secret" in each for each in kept)
        lines = [json.loads(line) for line in operations.export("demo", user="ann42")]
        assert {"said": ["a secret"]} in [each.get("data") for each in lines]
        assert operations.erase("demo", user="ann42").finished_at is not None
        kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any("a secret" in each for each in kept)


def test_export_has_what_an_erasure_removes() -> None:
    with running(router, ATTEMPTS=1):
        for user in ("ann42", "ben43"):
            talk(message("hello", user=user), message("/fail", user=user))
        lines = [json.loads(line) for line in operations.export("demo", user="ann42")]
        tables = [each["table"] for each in lines]
        erasure = operations.erase("demo", user="ann42")
        assert tables.count("session") == erasure.counts["sessions"] == 2
        assert tables.count("message") == erasure.counts["messages"]
        assert tables.count("update") == (
            erasure.counts["updates"] + erasure.counts["done_updates"]
        )
        assert "ben43" not in json.dumps(lines)
        assert list(operations.export("demo", user="ann42")) == []


@pytest.mark.parametrize("whom", [{}, {"user": "a", "chat": "b"}])
def test_one_of_user_and_chat_is_named(whom: dict[str, str]) -> None:
    with running(router):
        with pytest.raises(ValueError, match="either"):
            operations.erase("demo", **whom)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="either"):
            operations.export("demo", **whom)
        with pytest.raises(UnknownBot):
            operations.erase("nobody", user="a")
        assert not Erasure.objects.exists()


def test_ids_are_taken_literally() -> None:
    with running(router):
        for user in ("a.c", "abc", "a%c", "a:c", "A.C"):
            talk(message("hello", user=user))
        operations.erase("demo", user="a.c")
        left = set(BotSession.objects.values_list("user", flat=True))
        assert left == {"abc", "a%c", "a:c", "A.C"}
        operations.erase("demo", user="a:c")
        operations.erase("demo", user="a%c")
        assert set(BotSession.objects.values_list("user", flat=True)) == {"abc", "A.C"}
        mailboxes = set(BotUpdate.objects.values_list("mailbox", flat=True))
        assert mailboxes == {"", "demo:abc:abc", "demo:A.C:A.C"}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt: said.pop(0))
    return said


def test_commands_do_the_same(answers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with running(router):
        talk(message("hello", user="ann42"))
        call_command("bots", "export", "demo", "--user=ann42")
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {each["table"] for each in lines} == {"session", "message", "update"}
        answers.append("no")
        with pytest.raises(CommandError, match="Nothing was erased"):
            call_command("bots", "erase", "demo", "--user=ann42")
        assert BotSession.objects.exists()
        answers.append("yes")
        call_command("bots", "erase", "demo", "--user=ann42", "--delete-messages")
        assert "Erased. The receipt is erasure" in capsys.readouterr().out
        assert not BotSession.objects.exists()
        assert texts("ann42") == []
        with pytest.raises(CommandError, match="nobody"):
            call_command("bots", "erase", "nobody", "--user=ann42", "--no-input")
        assert bots["demo"].sessions is not None
