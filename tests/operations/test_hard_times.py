"""Deletions and erasures at bad moments: handlers in flight, kills, cancellations, rubbish."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

from botsessions import Router, Scope, Update, User, clock, operations
from botsessions.exceptions import RateLimited, Unavailable, UnknownBot
from botsessions.mailboxes.base import Arrival
from botsessions.mailboxes.contract.cases import time_is
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import (
    BotSession,
    DeletionChunk,
    Erasure,
    MessageDeletion,
    TrackedMessage,
)
from botsessions.operations import claims, erasing, gathering
from botsessions.operations.selection import Selection
from botsessions.operations.taking import taken_sessions
from botsessions.platforms.base import Deletion
from botsessions.stores import FileStore
from tests.kit import configured, message, running
from tests.operations.test_deleting import Chats, begun, platform, quiet, slice_of, work
from tests.operations.test_erasing import Notes, router, stored, talk

pytestmark = pytest.mark.django_db

commits = pytest.mark.django_db(transaction=True)


# Handlers in flight


def slow(case: str, entered: threading.Event, leaves: threading.Event) -> tuple[Router, Any, Any]:
    """Return a router whose handler takes its time, its bot's settings, and an update for it."""
    made, update = Router(), message("secret", user="ann42", chat="team")
    changes: dict[str, Any] = {}

    def think() -> None:
        entered.set()
        assert leaves.wait(20)

    if case == "several scopes":

        @made.command("x")
        async def all_(session: Annotated[Notes, Scope("chat")]) -> None: ...

        @made.message()
        def mixed(session: Notes) -> None:
            session.data["secret"] = "of ann42"
            think()

    elif case == "everybody's":
        changes = {"key": "chat"}

        @made.message()
        def common(session: Notes) -> None:
            session.open()
            think()

    else:
        update = Update("demo", "k1", "inline_query", user=User("ann42"))

        @made.on("inline_query")
        def keyless(session: Annotated[Notes, Scope("user")]) -> None:
            session.data["secret"] = "of ann42"
            think()

    return made, changes, update


@commits
@pytest.mark.parametrize("case", ["several scopes", "everybody's", "keyless"])
def test_a_handler_in_a_mailbox_of_another_name_brings_nothing_back(case: str) -> None:
    """P29: a mailbox need not name whose update is being handled in it."""
    entered, leaves = threading.Event(), threading.Event()
    made, changes, update = slow(case, entered, leaves)

    def converse() -> None:
        try:
            talk(update)
        finally:
            connections.close_all()

    with running(made, **changes):
        thread = threading.Thread(target=converse)
        thread.start()
        assert entered.wait(10)
        erasure = operations.erase("demo", user="ann42", wait=0.2)
        assert erasure.finished_at is None
        leaves.set()
        thread.join(20)
        Erasure.objects.update(due_at=timezone.now())
        assert operations.finish_erasures() == 1
        assert stored("ann42") == {}


@commits
def test_what_is_said_after_it_began_is_a_new_beginning() -> None:
    """Nothing that comes later is lost, and the erasure ends although people go on talking."""
    counting, stop, sent = Router(), threading.Event(), []

    @counting.message()
    async def count(session: Notes) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    def converse() -> None:
        try:
            while not stop.is_set():
                talk(*[message(user="ann42", chat="team42") for _ in range(3)])
                sent.append(3)
        finally:
            connections.close_all()

    with running(counting):
        talk(*[message(user=f"user{each}", chat="team42") for each in range(5)])
        thread = threading.Thread(target=converse)
        thread.start()
        time.sleep(0.3)
        try:
            erasure = operations.erase("demo", chat="team42", wait=20)
        finally:
            stop.set()
            thread.join(20)
        assert erasure.finished_at is not None
        assert erasure.counts["sessions"] == 6
        left = BotSession.objects.filter(user="ann42").first()
        kept = left.data if left is not None else None
        assert kept is None or kept["n"] <= sum(sent)
        assert not BotSession.objects.filter(user__startswith="user").exists()


@commits
def test_mailboxes_are_not_taken_in_a_transaction() -> None:
    with running(router):
        talk(message("hello", user="ann42"))
        with transaction.atomic(), pytest.raises(RuntimeError, match="begin_erasure"):
            operations.erase("demo", user="ann42")
        with transaction.atomic():
            operations.begin_erasure("demo", user="ann42")
        assert operations.finish_erasures() == 1
        assert stored("ann42") == {}


# What is theirs, and what is not


def test_a_store_that_is_away_keeps_the_erasure_from_being_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"BACKEND": "botsessions.stores.FileStore", "OPTIONS": {"DIRECTORY": tmp_path}}
    with override_settings(BOTSESSIONS=configured(router, STORES={"default": files})):
        talk(message("a secret", user="ann42"))

        def away(*arguments: Any) -> int:
            raise Unavailable("The disk is away.")

        with monkeypatch.context() as patch:
            patch.setattr(FileStore, "delete", away)
            assert operations.erase("demo", user="ann42", wait=0).finished_at is None
            assert BotSession.objects.exists()
        Erasure.objects.update(due_at=timezone.now())
        assert operations.finish_erasures() == 1
        assert not any(b"secret" in each.read_bytes() for each in tmp_path.rglob("*.json"))


def test_what_was_sent_to_them_from_elsewhere_goes() -> None:
    telling = Router()

    @telling.message()
    async def tell(session: Notes) -> None:
        await session.send("for ann", to="ann42")
        await session.send("for ben")

    with running(telling):
        talk(message("hi", user="ben43"))
        assert operations.erase("demo", user="ann42").finished_at is not None
        assert stored("ann42") == {}
        assert [each.text for each in TrackedMessage.objects.all()] == ["for ben"]


def test_flows_of_everybody_that_remember_them_end() -> None:
    flows = Router()

    @flows.waiter(timeout=600)
    async def ask(session: Notes) -> None: ...

    @flows.message()
    async def begin(session: Notes) -> None:
        session.data["n"] = 1
        await session.begin(ask)

    with running(flows, key="chat"):
        talk(message("hi", user="ann42", chat="team"))
        talk(message("hi", user="ben43", chat="others"))
        erasure = operations.erase("demo", user="ann42")
        assert erasure.counts["flows"] == 1
        assert stored("ann42") == {}
        assert BotSession.objects.get(chat="team").data == {"n": 1}
        assert BotSession.objects.get(chat="others").flow is not None


def test_a_chat_whose_id_ends_alike_is_another() -> None:
    with running(router):
        talk(message("hi", user="ben43", chat="rooms/ann42"))
        operations.erase("demo", user="ann42")
        operations.erase("demo", chat="ann42")
        assert BotSession.objects.filter(chat="rooms/ann42").count() == 2


def test_deletions_that_know_them_forget_that_when_they_are_over() -> None:
    with running(quiet, platform=Chats):
        slice_of(3, "ann42")
        work(begun(user="ann42"))
        slice_of(3, "ann42", qualifier="order", first=7)
        running_still = begun(chat="ann42")
        gathering.gather(running_still, time.monotonic() + 5)
        assert operations.erase("demo", user="ann42", wait=0).finished_at is None
        assert operations.delete_messages() == 3
        Erasure.objects.update(due_at=timezone.now())
        assert operations.finish_erasures() == 1
        assert stored("ann42") == {}
        assert [each.deleted for each in MessageDeletion.objects.order_by("id")] == [3, 3]


def test_a_turn_that_nobody_waits_for_any_more_goes() -> None:
    with running(router):
        dead = Update("demo", "access-1", "access", user=User("ann42"))
        DatabaseMailbox().store([Arrival(dead, "demo:ann42:ann42")])
        assert operations.erase("demo", user="ann42", wait=0).finished_at is None
        with time_is(clock.now() + timedelta(hours=1)):
            assert operations.finish_erasures() == 1
        assert stored("ann42") == {}


def test_what_was_erased_before_a_kill_stays_on_the_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(router):
        talk(message("hello", user="ann42"))

        def killed(*arguments: Any) -> bool:
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(erasing._Erasing, "_end_flows", killed)
            with pytest.raises(SystemExit):
                operations.erase("demo", user="ann42", wait=0)
        with time_is(clock.now() + timedelta(hours=1)):
            assert operations.finish_erasures() == 1
        assert Erasure.objects.get().counts["sessions"] == 2


def test_who_was_overtaken_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once: the receipt is of who has claimed it last."""
    with running(router):
        talk(message("hello", user="ann42"))
        first = operations.begin_erasure("demo", user="ann42")
        stale = Erasure.objects.get(pk=first.pk)
        stale.token = "stale"
        assert operations.finish_erasures() == 1
        assert not erasing.continue_erasure(stale)
        row = Erasure.objects.get(pk=first.pk)
        assert row.finished_at is not None
        assert (row.selection, row.counts["sessions"]) == (None, 2)


# Deletions


def test_a_deletion_that_was_killed_at_its_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last outcome and the end are one transaction."""
    with running(quiet, platform=Chats, LEASE=1, RENEW_EVERY=0.5):
        slice_of(3)
        deletion = begun()

        def killed(*arguments: Any) -> None:
            raise Unavailable("as if the process had ended")

        with monkeypatch.context() as patch:
            patch.setattr(claims, "finish", killed)
            with pytest.raises(Unavailable):
                operations.delete_messages()
        assert work(deletion).deleted == 3


def test_slices_stay_where_it_is_cancelled_while_it_gathers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(quiet, platform=Chats):
        slice_of(3)
        deletion = begun()
        take = taken_sessions

        def cancelling(*arguments: Any, **options: Any) -> Any:
            operations.cancel_deletion(deletion)
            return take(*arguments, **options)

        monkeypatch.setattr(gathering, "taken_sessions", cancelling)
        operations.delete_messages()
        deletion.refresh_from_db()
        assert deletion.status == "cancelled"
        assert TrackedMessage.objects.count() == 3
        assert platform().asked == []


def test_a_429_after_days_is_waited_for() -> None:
    """The patience is with the platform, not with who had no worker for a weekend."""
    limits = [RateLimited("slower", retry_after=0.01)]

    class Limited(Chats):
        def act(self, chat: str, ids: Sequence[str]) -> None:
            if limits:
                raise limits.pop()

    with running(quiet, platform=Limited):
        slice_of(2)
        deletion = begun()
        MessageDeletion.objects.update(created_at=clock.now() - timedelta(days=3))
        assert work(deletion).deleted == 2


def test_others_are_asked_to_the_end_where_one_goes_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is under way when the database goes is not forgotten."""
    answered: list[str] = []

    class Slow(Chats):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            await asyncio.sleep(0.2 if chat == "ann" else 0)
            answered.append(chat)
            return await super().delete_messages(chat, ids, business)

    with running(quiet, platform=Slow):
        slice_of(2)
        slice_of(2, "ben")
        deletion = begun()
        looks: list[Callable[[], None]] = []

        def look() -> None:
            looks.append(look)
            raise Unavailable("as if the database had gone")

        with pytest.raises(Unavailable):
            operations.delete_messages(progress=look)
        assert sorted(answered) == ["ann", "ben"]
        deletion.refresh_from_db()
        assert deletion.deleted == 4


@pytest.mark.parametrize("bot", ["demo", "typo"])
def test_a_selection_that_says_nothing_is_refused(bot: str) -> None:
    with running(quiet, platform=Chats):
        with pytest.raises(UnknownBot if bot == "typo" else msgspec.ValidationError):
            operations.begin_deletion(
                Selection(bot, user=42 if bot == "demo" else None),  # type: ignore[arg-type]
                through="demo",
            )
        with pytest.raises(TypeError, match="strings"):
            operations.erase("demo", user=42)  # type: ignore[arg-type]
        assert not MessageDeletion.objects.exists()
        assert not Erasure.objects.exists()


@commits
def test_a_cancelled_deletion_is_not_revived_by_a_429() -> None:
    class Limited(Chats):
        delete_batch_size = 1

        def act(self, chat: str, ids: Sequence[str]) -> None:
            time.sleep(0.05)
            raise RateLimited("slower", retry_after=0.01)

    def work_off() -> None:
        try:
            operations.delete_messages(2)
        finally:
            connections.close_all()

    with running(quiet, platform=Limited):
        slice_of(100)
        deletion = begun()
        gathering.gather(deletion, time.monotonic() + 5)
        thread = threading.Thread(target=work_off)
        thread.start()
        time.sleep(0.7)
        assert operations.cancel_deletion(deletion)
        thread.join(20)
        assert not DeletionChunk.objects.filter(due_at__isnull=False).exists()
