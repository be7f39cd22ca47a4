"""Recovery and the sweep as the commands and the Celery tasks do them: in the calling process."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from botsessions import Router, Session, SessionKey, Update, operations, tasks
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.exceptions import Unavailable
from botsessions.keys import chat_user, mailbox_of
from botsessions.mailboxes import slices
from botsessions.mailboxes.base import Admission, Arrival, Commit, Effect, Opening, Outcome, Save
from botsessions.mailboxes.contract.cases import arrival, seen, time_is
from botsessions.mailboxes.contract.races import at_once
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.marks import Scope
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from botsessions.operations import expiry
from botsessions.stores import Store
from tests.kit import configured, message, running

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


# The sweep

#: The last moment of a session that expires, and the one after.
END = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
AFTER = END + timedelta(microseconds=1)
LATER = END + HOUR

ANN, BEN, EVE = (SessionKey("demo", name, name) for name in ("ann", "ben", "eve"))


def write(*saves: Save) -> None:
    """Save these, from a mailbox that is none of theirs."""
    one = arrival(mailbox="demo:elsewhere")
    DatabaseMailbox().admit([one], "write")
    commit = Commit(one.mailbox, "write", Effect.DONE, one.update, saves=saves)
    assert DatabaseMailbox().commit([commit]).outcomes == [Outcome.COMMITTED]


def expire(*keys: SessionKey, at: datetime | None = END) -> None:
    """Save a session under each of these keys that expires then."""
    with time_is(END - HOUR):
        write(*(Save(key, 0, b'{"n": 1}', at, store=bots["demo"].store) for key in keys))


def many(number: int) -> list[SessionKey]:
    return [SessionKey("demo", f"user{each}", f"user{each}") for each in range(number)]


def left() -> list[SessionKey]:
    """Return the keys of the sessions that there are, in order."""
    parts = SessionKey.__struct_fields__
    return sorted(SessionKey(*row) for row in BotSession.objects.values_list(*parts))


def sweep(limit: int = 10_000) -> int:
    """Sweep once these sessions have expired, and see that no mailbox is held for it."""
    held = set(MailboxLease.objects.values_list("token", flat=True))
    with time_is(AFTER):
        ended = operations.sweep(limit)
    assert set(MailboxLease.objects.values_list("token", flat=True)) <= held
    return ended


def meanwhile(monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], object]) -> None:
    """Let something happen just before this step of a sweep."""
    owner: Any = expiry if hasattr(expiry, step) else DatabaseMailbox
    do = getattr(owner, step)

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(owner, step, do)
        act()
        return do(*arguments)

    monkeypatch.setattr(owner, step, interrupted)


def test_expired_sessions_are_deleted_with_their_messages() -> None:
    """S46, P18: those that nobody writes to, too."""
    with running(router):
        later = SessionKey("demo", "dan", "dan")
        expire(ANN, ANN.qualified("order"), BEN)
        expire(later, at=LATER)
        expire(EVE, at=None)
        keys = (ANN, later, EVE)
        said = [each for key in keys for each in seen(key, "7")]
        with time_is(END):
            DatabaseMailbox().track([Opening(key) for key in keys], said)
        assert sweep() == 3
        assert left() == sorted([later, EVE])
        slices = TrackedMessage.objects.values_list("session__chat", flat=True)
        assert sorted(slices) == ["dan", "eve"]
        assert sweep() == 0


def test_session_is_swept_only_after_its_last_moment() -> None:
    """S44: exactly at its expiry it is live."""
    with running(router):
        expire(ANN)
        with time_is(END):
            assert operations.sweep() == 0
        assert left() == [ANN]
        with time_is(AFTER):
            assert operations.sweep() == 1
        assert left() == []


def test_expired_session_is_swept_whatever_was_left_in_it() -> None:
    """S46: one that was opened and never saved, one without data, one of a bot that is gone."""
    with running(router):
        gone = SessionKey("gone", "ann", "ann")
        with time_is(END):
            DatabaseMailbox().track([Opening(ANN, "m", END)], seen(ANN, "7"))
            write(Save(BEN, 0, None, END), Save(EVE, 0, b"1", END, b"2"), Save(gone, 0, b"1", END))
        assert sweep() == 4
        assert left() == []
        assert not TrackedMessage.objects.exists()


def test_one_transaction_ends_a_bounded_number_of_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P18: batches bounded, of one mailbox as of many."""
    ended = []
    end = slices.end_expired

    def counting(using: str, ids: Sequence[int]) -> list[SessionKey]:
        keys = end(using, ids)
        ended.append(len(keys))
        return keys

    with running(router):
        expire(*many(5), *(ANN.qualified(f"{number}") for number in range(6)))
        monkeypatch.setattr(expiry, "SWEPT", 3)
        monkeypatch.setattr(expiry, "end_expired", counting)
        assert sweep() == 11
        assert left() == []
    assert [each for each in ended if each] == [3, 3, 3, 2]


def test_sweep_ends_up_to_its_limit_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(router):
        keys = many(7)
        for number, key in enumerate(keys):
            expire(key, at=END - timedelta(seconds=number))
        monkeypatch.setattr(expiry, "SWEPT", 2)
        assert sweep(3) == 3
        assert left() == keys[:4]
        assert sweep() == 4


def test_session_that_is_worked_on_is_left_for_the_next_sweep() -> None:
    """P18: never deletes a locked session."""
    with running(router):
        expire(ANN, ANN.qualified("order"), BEN)
        lease(message(user="ann"), HOUR)
        assert sweep() == 1
        assert left() == [ANN, ANN.qualified("order")]
        assert list(MailboxLease.objects.values_list("token", flat=True)) == ["another"]
        MailboxLease.objects.update(expires_at=timezone.now() - HOUR)
        assert sweep() == 2
        assert left() == []


def test_session_that_shares_its_chats_mailbox_is_left_while_that_is_held() -> None:
    """P18: a session of a person in a chat is locked by whoever works on the chat's."""
    mixed = Router()

    @mixed.message()
    async def both(own: Session, team: Annotated[Session, Scope("chat")]) -> None: ...

    with running(mixed):
        expire(ANN, BEN)
        now = timezone.now()
        MailboxLease.objects.create(
            key="demo:ann", token="another", acquired_at=now, expires_at=now + HOUR
        )
        assert sweep() == 1
        assert left() == [ANN]


def test_session_for_which_updates_wait_is_left_to_them() -> None:
    """S45: they find it empty and begin anew; it has not been taken from under them."""
    with running(router):
        expire(ANN, BEN)
        acknowledged(message(user="ann"))
        assert sweep() == 1
        assert left() == [ANN]
        with time_is(AFTER):
            assert operations.recover() == 1
        assert counted() == {"ann": 1}
        assert sweep() == 0


def test_sessions_behind_those_that_cannot_be_taken_are_swept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(router):
        expire(*many(7))
        for number in (0, 1, 2, 4):
            lease(message(user=f"user{number}"), HOUR)
        monkeypatch.setattr(expiry, "SWEPT", 2)
        assert sweep() == 3
        assert [key.user for key in left()] == ["user0", "user1", "user2", "user4"]


@pytest.mark.parametrize("step", ["admit", "end_expired"])
def test_session_that_is_saved_meanwhile_stays(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its mailbox is taken, or after that, by a handler of another mailbox."""
    with running(router):
        expire(ANN, BEN)
        meanwhile(monkeypatch, step, lambda: write(Save(ANN, 1, b'{"n": 2}', LATER)))
        assert sweep() == 1
        row = BotSession.objects.get()
        assert (row.user, row.data, row.expires_at) == ("ann", {"n": 2}, LATER)


@pytest.mark.parametrize("step", ["admit", "end_expired"])
def test_session_that_is_opened_meanwhile_stays(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where a handler of another mailbox sends something through it."""
    with running(router):
        expire(ANN, BEN)
        mailbox = DatabaseMailbox()
        meanwhile(
            monkeypatch,
            step,
            lambda: mailbox.track([Opening(ANN, "m", LATER)], seen(ANN, "7")),
        )
        with time_is(AFTER):
            ended = operations.sweep()
        row = BotSession.objects.get()
        assert (row.user, row.is_open, row.matcher) == ("ann", True, "m")
        assert len(mailbox.tracked(ANN)) == 1
        assert (row.expires_at, ended) == (LATER, 1)


def test_update_that_comes_while_its_session_is_swept_is_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S45: it waits for the mailbox, and begins the session anew."""
    with running(router):
        expire(ANN)
        update = message(user="ann")
        arrival = Arrival(update, mailbox(update))

        def arrive() -> None:
            assert DatabaseMailbox().admit([arrival], "one").decisions == [Admission.STORED]

        meanwhile(monkeypatch, "end_expired", arrive)
        assert sweep() == 1
        assert BotUpdate.objects.get(update_id=update.id).status == "done"
        assert counted() == {"ann": 1}


@pytest.fixture(params=["file", "cache", "redis", "cached"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of stores where "default" is not the row alone."""
    cache: dict[str, Any] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    cache["LOCATION"] = tmp_path.name
    store: dict[str, Any] = {"BACKEND": "botsessions.stores.CacheStore"}
    if request.param == "file":
        store["BACKEND"] = "botsessions.stores.FileStore"
        store["OPTIONS"] = {"DIRECTORY": str(tmp_path)}
    elif request.param == "redis":
        cache = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": request.getfixturevalue("redis"),
        }
        store["OPTIONS"] = {"PREFIX": f"sweep-{tmp_path.name}"}
    elif request.param == "cached":
        store["BACKEND"] = "botsessions.stores.CachedDatabaseStore"
    with override_settings(CACHES={"default": cache}):
        yield {"default": store}


def test_swept_session_is_gone_from_its_store(elsewhere: dict[str, Any]) -> None:
    """S46: what has expired is gone physically there too, and what lives is not."""
    with running(router, STORES=elsewhere):
        store = bots["demo"].store
        assert store is not None
        expire(ANN, BEN)
        expire(EVE, at=LATER)
        with time_is(END):
            assert None not in store.load([ANN, BEN, EVE])
        assert sweep() == 2
        assert left() == [EVE]
        with time_is(END):
            gone, also, there = store.load([ANN, BEN, EVE])
            assert (gone, also) == (None, None)
            assert there is not None
            assert b'"n":1' in there.replace(b" ", b"")
            assert store.clear() == 1


class Away(Store):
    """Is away: whatever it is asked."""

    def load(self, keys: Any) -> list[bytes | None]:
        raise Unavailable("The store is away.")

    def save(self, values: Any) -> None:
        raise Unavailable("The store is away.")

    def delete(self, keys: Any) -> int:
        raise Unavailable("The store is away.")

    def clear_expired(self) -> int:
        raise Unavailable("The store is away.")


def test_store_that_is_away_keeps_no_other_bots_sessions() -> None:
    """P18: the sweep goes on without it, and holds no mailbox meanwhile."""
    settings = configured(router)
    settings["BOTS"]["other"] = settings["BOTS"]["other"] | {"STORE": Away("away", {})}
    with override_settings(BOTSESSIONS=settings):
        expire(ANN, SessionKey("other", "ann", "ann"), BEN)
        assert sweep() == 3
        assert left() == []


def test_store_that_is_away_is_left_for_the_next_sweep(caplog: pytest.LogCaptureFixture) -> None:
    with running(router, store=Away("away", {})):
        assert sweep() == 0
    assert "was not swept: The store is away." in caplog.text


def test_bot_whose_settings_are_wrong_does_not_stop_the_sweep() -> None:
    settings = configured(router)
    settings["BOTS"]["other"] = settings["BOTS"]["other"] | {"STORE": "missing"}
    with override_settings(BOTSESSIONS=settings):
        expire(ANN, SessionKey("other", "ann", "ann"))
        assert sweep() == 2
        assert left() == []


def test_second_sweep_finds_held_what_the_first_is_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(router):
        expire(*many(5))
        counts: list[int] = []
        meanwhile(monkeypatch, "commit", lambda: counts.append(operations.sweep()))
        assert sweep() == 5
        assert counts == [0]
        assert left() == []


@pytest.mark.django_db(transaction=True)
def test_sweeps_at_once_end_each_session_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """P18: in any number of processes, none fails and none is counted twice."""
    monkeypatch.setattr(expiry, "SWEPT", 7)
    with running(router), time_is(AFTER):
        for _ in range(3):
            expire(*many(60))
            expire(EVE, at=LATER)
            assert sum(at_once(*[partial(operations.sweep)] * 3)) == 60
            assert left() == [EVE]
            assert not MailboxLease.objects.exists()
            BotSession.objects.all().delete()


@pytest.mark.django_db(transaction=True)
def test_session_written_by_a_handler_at_once_with_the_sweep_is_swept_or_saved() -> None:
    """P18: what is live in the end is what was written, whole; what is not is gone."""
    with running(router), time_is(AFTER):
        for number in range(20):
            expire(ANN)

            def handle(id: str = f"late-{number}") -> None:
                try:
                    acknowledged(message(user="ann", id=id))
                    operations.recover()
                finally:
                    connections.close_all()

            ended, _ = at_once(operations.sweep, handle)
            operations.recover()  # an update that came while the session was swept
            assert ended in (0, 1)
            assert counted() == {"ann": 1}
            assert not MailboxLease.objects.exists()
            BotSession.objects.all().delete()


def test_sweep_task_does_the_same() -> None:
    assert tasks.sweep.name == "botsessions.sweep"
    assert tasks.sweep.ignore_result
    with running(router), time_is(AFTER):
        expire(ANN)
        tasks.sweep.delay()
        assert left() == []


def test_sweep_command_does_the_same_and_tells_how_many_ended() -> None:
    out = io.StringIO()
    with running(router), time_is(AFTER):
        expire(ANN, BEN)
        expire(EVE, at=LATER)
        call_command("bots", "sweep", stdout=out)
        assert left() == [EVE]
    assert out.getvalue() == "Sessions ended: 2\n"
