"""Bulk deletions: in chunks, with an outcome for each message, whatever happens meanwhile."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections
from django.utils import timezone

from botsessions import Router, clock, operations
from botsessions.bots import bots
from botsessions.exceptions import (
    Forbidden,
    InvalidRequest,
    PlatformUnavailable,
    RateLimited,
    UnknownBot,
)
from botsessions.mailboxes.contract.cases import time_is
from botsessions.models import (
    BotSession,
    DeletionChunk,
    MailboxLease,
    MessageDeletion,
    TrackedMessage,
)
from botsessions.operations import asking, claims, gathering
from botsessions.operations.selection import Selection
from botsessions.platforms.base import Deletion
from botsessions.platforms.local import LocalPlatform
from tests.kit import in_slices, running

pytestmark = pytest.mark.django_db

quiet = Router()
HOUR = timedelta(hours=1)


class Chats(LocalPlatform):
    """Deletes what is there, and notes what it was asked for; `act` may break in before."""

    def __init__(self, alias: str, options: Any) -> None:
        super().__init__(alias, options)
        self.asked: list[tuple[str, list[str]]] = []

    def act(self, chat: str, ids: Sequence[str]) -> None: ...

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        self.asked.append((chat, list(ids)))
        self.act(chat, ids)
        return dict.fromkeys(ids, Deletion.DELETED)


def platform(alias: str = "demo") -> Chats:
    found = bots[alias].platform
    assert isinstance(found, Chats)
    return found


def slice_of(
    messages: int,
    user: str = "ann",
    qualifier: str = "",
    first: int = 1,
    age: timedelta = timedelta(0),
    bot: str = "demo",
    chat: str = "",
) -> BotSession:
    """Store a session with that many messages."""
    now = timezone.now()
    session = BotSession.objects.create(
        bot=bot,
        chat=chat or user,
        user=user,
        qualifier=qualifier,
        is_open=True,
        created_at=now,
        updated_at=now,
    )
    TrackedMessage.objects.bulk_create(
        TrackedMessage(
            session=session,
            chat=chat or user,
            message_id=f"{first + number}",
            direction="outgoing",
            sent_at=now - age,
        )
        for number in range(messages)
    )
    return session


def work(deletion: MessageDeletion, seconds: float = 20) -> MessageDeletion:
    """Work until a deletion is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        operations.delete_messages()
        deletion.refresh_from_db()
        if deletion.finished_at is not None:
            return deletion
        time.sleep(0.01)
    pytest.fail(f"Not over after {seconds} s: {vars(deletion)}")


def begun(**selected: Any) -> MessageDeletion:
    return operations.begin_deletion(Selection("demo", **selected))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failed calls be made again almost at once."""
    monkeypatch.setattr(asking, "DELAYS", (0.005, 0.02))


def test_250_messages_are_three_calls() -> None:
    """P27."""
    with running(quiet, platform=Chats):
        slice_of(250)
        slice_of(3, "ben")
        deletion = begun(user="ann")
        assert (deletion.status, deletion.total) == ("gathering", 0)
        assert operations.delete_messages() == 250
        assert [len(ids) for _, ids in platform().asked] == [100, 100, 50]
        deletion.refresh_from_db()
        assert (deletion.status, deletion.total, deletion.done) == ("done", 250, 250)
        assert deletion.outcomes["deleted"] == 250
        assert in_slices().count() == 3
        assert operations.delete_messages() == 0


def test_its_progress_can_be_read_while_it_runs() -> None:
    """P27: total, done and what became of them."""
    seen: list[tuple[int, int]] = []

    class Watched(Chats):
        delete_batch_size = 10

    def look() -> None:
        found = MessageDeletion.objects.get()
        seen.append((found.done, found.total))

    with running(quiet, platform=Watched):
        slice_of(1000)
        begun()
        assert operations.delete_messages(progress=look) == 1000
    assert seen == sorted(seen)
    assert seen[-1] == (1000, 1000)
    assert any(0 < done < 1000 for done, _ in seen)


@pytest.mark.usefixtures("impatient")
def test_on_a_bad_day_everything_comes_to_an_outcome_once() -> None:
    """P27: 10% 429, 5% 500, 5% timeouts after the platform has acted."""
    chance = random.Random(7)
    known: set[str] = set()

    class Moody(Chats):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            assert not known & {f"{chat}/{id}" for id in ids}
            self.asked.append((chat, list(ids)))
            mood = chance.random()
            if mood < 0.10:
                raise RateLimited("slower", retry_after=0.01)
            if mood < 0.15:
                raise PlatformUnavailable("500", code=500)
            if mood < 0.20:
                raise PlatformUnavailable("no answer came in time")
            known.update(f"{chat}/{id}" for id in ids)
            return dict.fromkeys(ids, Deletion.DELETED)

    with running(quiet, platform=Moody):
        for number in range(50):
            slice_of(200, f"user{number}")
        deletion = work(begun())
        assert (deletion.total, deletion.done) == (10_000, 10_000)
        assert deletion.deleted + deletion.failed == 10_000
        assert deletion.deleted == len(known)
        assert len(platform().asked) > 100
        assert not DeletionChunk.objects.exclude(due_at=None).exists()
        chunks = DeletionChunk.objects.values_list("messages", "outcomes")
        assert all({id for id, _ in messages} == set(outcomes) for messages, outcomes in chunks)


@pytest.mark.usefixtures("impatient")
def test_each_message_has_an_outcome_of_its_own() -> None:
    """P27: too old, forbidden, gone, failed."""

    class Strict(Chats):
        delete_batch_size = 4
        deletable_for = timedelta(hours=48)

        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            if chat == "out":
                self.asked.append((chat, list(ids)))
                raise Forbidden("kicked")
            if chat == "odd":
                self.asked.append((chat, list(ids)))
                raise InvalidRequest("never")
            if chat == "away":
                self.asked.append((chat, list(ids)))
                raise PlatformUnavailable("no answer")
            found = await super().delete_messages(chat, ids, business)
            return found | {id: Deletion.GONE for id in ids if id == "2"}

    with running(quiet, platform=Strict, DELETE_ATTEMPTS=3):
        slice_of(6)
        slice_of(5, "old", age=timedelta(hours=49))
        slice_of(6, "out")
        slice_of(3, "odd")
        slice_of(2, "away")
        nameless = slice_of(1, "nameless")
        TrackedMessage.objects.filter(session=nameless).update(message_id=None)
        deletion = work(begun())
        assert deletion.outcomes == {
            "deleted": 5,
            "gone": 2,
            "too_old": 5,
            "forbidden": 6,
            "failed": 5,
        }
        assert deletion.total == deletion.done == 23
        calls = Counter(chat for chat, _ in platform().asked)
        # A chat of chunks is asked once for each; what cannot help is not tried again.
        assert calls == {"ann": 2, "out": 2, "odd": 1, "away": 3}
        found = DeletionChunk.objects.get(chat="odd")
        assert found.outcomes == {"1": "failed", "2": "failed", "3": "failed"}
        assert DeletionChunk.objects.get(chat="away").error == "no answer"


def test_a_429_is_waited_for_and_pauses_its_chat_alone() -> None:
    """P28: it is never counted as an attempt."""
    moments: list[tuple[str, float]] = []

    class Limited(Chats):
        delete_batch_size = 1

        def act(self, chat: str, ids: Sequence[str]) -> None:
            moments.append((chat, time.monotonic()))
            if chat == "ann" and len([each for each, _ in moments if each == "ann"]) == 1:
                raise RateLimited("slower", retry_after=0.5)

    with running(quiet, platform=Limited, DELETE_ATTEMPTS=1):
        slice_of(60)
        slice_of(3, "ben")
        deletion = work(begun())
        assert deletion.deleted == 63
        ann = [moment for chat, moment in moments if chat == "ann"]
        ben = [moment for chat, moment in moments if chat == "ben"]
        # Those that were under way when it came are 32 at most.
        assert len([each for each in ann if each < ann[0] + 0.5]) <= asking.AT_ONCE
        assert max(ben) < ann[0] + 0.5
        assert DeletionChunk.objects.filter(attempts__gt=0).count() == 0


def test_a_platform_that_only_says_later_is_given_up_after_a_day() -> None:
    class Never(Chats):
        def act(self, chat: str, ids: Sequence[str]) -> None:
            raise RateLimited("slower", retry_after=3600)

    with running(quiet, platform=Never):
        slice_of(2)
        deletion = begun()
        operations.delete_messages()
        assert platform().asked != []
        deletion.refresh_from_db()
        assert deletion.status == "running"
        now = clock.now()
        for hours in (2, 30):
            with time_is(now + timedelta(hours=hours)):
                operations.delete_messages()
        deletion.refresh_from_db()
        assert (deletion.status, deletion.failed) == ("done", 2)


def test_what_is_tracked_after_it_was_begun_stays() -> None:
    """S76."""
    with running(quiet, platform=Chats):
        session = slice_of(2)
        deletion = begun()
        TrackedMessage.objects.create(
            session=session, chat="ann", message_id="9", direction="incoming", sent_at=clock.now()
        )
        assert work(deletion).deleted == 2
        assert [each.message_id for each in in_slices()] == ["9"]


def test_what_was_deleted_is_kept_without_its_text_and_not_deleted_again() -> None:
    with running(quiet, platform=Chats):
        session = slice_of(3)
        session.messages.update(text="a secret")
        assert work(begun()).total == 3
        assert work(begun()).total == 0
        assert len(platform().asked) == 1
        rows = session.messages.order_by("id")
        assert [each.message_id for each in rows] == ["1", "2", "3"]
        assert {(each.text, each.outcome, each.deleted_at is None) for each in rows} == {
            ("", "", False)
        }


def test_a_message_in_parallel_slices_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are gathered one after another."""
    monkeypatch.setattr(gathering, "SESSIONS", 1)
    with running(quiet, platform=Chats):
        slice_of(3)
        slice_of(3, qualifier="order", first=2)
        deletion = work(begun())
        assert sorted(id for _, ids in platform().asked for id in ids) == ["1", "2", "3", "4"]
        assert (deletion.total, deletion.deleted, deletion.gone) == (6, 4, 2)


def test_only_what_was_selected_is_deleted() -> None:
    with running(quiet, platform=Chats):
        slice_of(2)
        order = slice_of(2, qualifier="order", first=5)
        TrackedMessage.objects.filter(session=order, message_id="5").update(direction="incoming")
        slice_of(2, "ben", age=timedelta(hours=2))
        slice_of(1, bot="other")
        assert work(begun(qualifier="order", direction="incoming")).total == 1
        assert work(begun(before=clock.now() - timedelta(hours=1))).total == 2
        assert work(begun(sessions=[order.pk])).total == 1
        assert work(begun(user="nobody")).total == 0
        assert in_slices().count() == 3


def test_another_bot_deletes_where_asked() -> None:
    """S78."""
    with running(quiet, platform=Chats):
        slice_of(2)
        deletion = operations.begin_deletion(Selection("demo"), through="other")
        assert work(deletion).deleted == 2
        assert platform().asked == []
        assert platform("other").asked == [("ann", ["1", "2"])]
        with pytest.raises(UnknownBot, match="nobody"):
            operations.begin_deletion(Selection("demo"), through="nobody")


def test_a_session_that_somebody_works_on_is_gathered_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "AGAIN_AFTER", 0)
    with running(quiet, platform=Chats):
        slice_of(2)
        slice_of(2, "ben")
        now = timezone.now()
        held = MailboxLease.objects.create(
            key="demo:ann:ann", token="another", acquired_at=now, expires_at=now + HOUR
        )
        deletion = begun()
        operations.delete_messages(0.3)
        deletion.refresh_from_db()
        assert (deletion.status, deletion.deleted) == ("gathering", 2)
        assert in_slices().count() == 2
        held.delete()
        assert work(deletion).deleted == 4


@pytest.mark.parametrize("when", ["gathering", "running"])
def test_a_cancelled_deletion_asks_for_nothing_more(when: str) -> None:
    with running(quiet, platform=Chats):
        slice_of(250)
        deletion = begun()
        if when == "running":
            operations.delete_messages(0)
            gathering.gather(deletion, time.monotonic() + 5)
        assert operations.cancel_deletion(deletion)
        assert not operations.cancel_deletion(deletion)
        assert operations.delete_messages() == 0
        assert platform().asked == []
        deletion.refresh_from_db()
        assert deletion.status == "cancelled"
        assert deletion.finished_at is not None
        assert in_slices().count() == (250 if when == "gathering" else 0)


def test_a_call_that_is_under_way_when_it_is_cancelled_is_noted() -> None:
    class Cancelling(Chats):
        async def delete_messages(
            self, chat: str, ids: Sequence[str], business: str = ""
        ) -> dict[str, Deletion]:
            await sync_to_async(operations.cancel_deletion)(deletion)
            return await super().delete_messages(chat, ids, business)

    with running(quiet, platform=Cancelling):
        slice_of(2)
        deletion = begun()
        assert operations.delete_messages() == 2
        deletion.refresh_from_db()
        assert (deletion.status, deletion.deleted) == ("cancelled", 2)


@pytest.mark.usefixtures("impatient")
def test_a_platform_that_breaks_its_contract_ends_in_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Chats):
        def act(self, chat: str, ids: Sequence[str]) -> None:
            raise LookupError("on purpose")

    with running(quiet, platform=Broken, DELETE_ATTEMPTS=2):
        slice_of(2)
        assert work(begun()).failed == 2
    assert "breaks its contract" in caplog.text


def test_a_bot_that_is_not_configured_any_more_waits() -> None:
    with running(quiet, platform=Chats):
        slice_of(2)
        deletion = begun()
        MessageDeletion.objects.update(through="gone", bot="gone")
        assert operations.delete_messages() == 0
        deletion.refresh_from_db()
        assert deletion.status == "gathering"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("workers", [4])
def test_workers_at_once_ask_for_each_message_once(workers: int) -> None:
    """P27."""

    class Small(Chats):
        delete_batch_size = 5

    def work_off() -> None:
        try:
            operations.delete_messages()
        finally:
            connections.close_all()

    with running(quiet, platform=Small, DELETE_ATTEMPTS=3):
        for number in range(20):
            slice_of(30, f"user{number}")
        deletion = begun()
        gathering.gather(deletion, time.monotonic() + 10)
        threads = [Thread(target=work_off) for _ in range(workers)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        deletion = work(deletion)
        assert deletion.deleted == 600
        asked = Counter((chat, id) for chat, ids in platform().asked for id in ids)
        assert set(asked.values()) == {1}
        assert len(asked) == 600


@pytest.mark.django_db(transaction=True)
def test_database_that_goes_away_loses_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in hand is found again once the claim is over."""
    with running(quiet, platform=Chats, LEASE=1, RENEW_EVERY=0.5):
        slice_of(3)
        deletion = begun()

        def away(*arguments: Any) -> None:
            raise DatabaseError("away")

        with monkeypatch.context() as patch:
            patch.setattr(claims.Claims, "store", away)
            with pytest.raises(DatabaseError):
                operations.delete_messages()
        assert operations.delete_messages() == 0
        assert work(deletion).deleted == 3
