"""What every mailbox is tested with: the suites behind `botsessions.testing`."""

# ruff: noqa: RUF001, S101, S105, S106, S107, S311 - these are tests

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import count
from threading import Barrier
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.db import connections
from django.test import override_settings

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import (
    Admission,
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Mailbox,
    Outcome,
    Row,
    Save,
    Sent,
    Waiting,
)
from botsessions.updates import Chat, Message, Update, User

Result = TypeVar("Result")

HANDLE, HANDLE_STORED = Admission.HANDLE, Admission.HANDLE_STORED
STORED, DUPLICATE = Admission.STORED, Admission.DUPLICATE

#: Seconds of a lease that a test waits for.
SHORT_LEASE = 0.2
#: What people and tracebacks hold, but for NUL.
TEXT = (
    'it\'s "quoted" \\ back\\\\slashed \\u0000 \\n \t\n 100% %s %(x)s {} {0} $1 :x ; -- /* \x01\x7f'
    " 😀👩‍👩‍👧 𝔘𝕟𝕚 مرحبا \u202eשלום\u202c ꧁ \u2028\ufeff\ufffd null"
)
TEXTS = {
    "plain": (TEXT, TEXT),
    "nul": ("\0a\0\0b\\\0\\\\0\0", "\ufffda\ufffd\ufffdb\\\ufffd\\\\0\ufffd"),
    "long": (TEXT * 2000, TEXT * 2000),
}
VALUES: tuple[Any, ...] = (
    {},
    [],
    "",
    0,
    False,
    {"": {"a": [None, True, 1, -1.5, "x"]}, "null": None, TEXT: TEXT},
    [[[[]]], {}, [{}]],
    2**53 + 1,
    2**64,
    0.1,
    "2026-01-01T00:00:00Z",
)

_ids = count(1)


class MailboxCases:
    """How a suite reaches the mailbox that it tests.

    A subclass sets `mailbox` to an empty one before each test: in `setUp`, or in a fixture that is
    used by itself. Sessions may be stored in the database of the tests, which is emptied by then.
    """

    mailbox: Mailbox

    def admit(self, *arrivals: Arrival, token: str = "one") -> Admitted:
        return self.mailbox.admit(arrivals, token)

    def commit(self, *commits: Commit) -> Committed:
        return self.mailbox.commit(commits)

    def load(self, *keys: SessionKey) -> list[Row | None]:
        return self.mailbox.load([keys])[0]

    def left(self) -> list[Waiting]:
        """Return the update whose turn it is in each mailbox without a live lease."""
        waiting = self.mailbox.recover(1000, f"look-{next(_ids)}")
        self.mailbox.commit([nothing(each.mailbox, each.token, go_on=False) for each in waiting])
        return waiting

    def is_free(self, mailbox: str) -> bool:
        """Can the mailbox be taken, with nothing waiting in it?"""
        token = f"look-{next(_ids)}"
        admitted = self.mailbox.admit([arrival(mailbox=mailbox, store_first=True)], token)
        if admitted.decisions != [HANDLE_STORED]:
            return False
        self.mailbox.commit([nothing(mailbox, token, go_on=False)])
        return True


def update(id: str = "", **fields: Any) -> Update:
    """Return an update, by default a new one."""
    defaults: dict[str, Any] = {"bot": "demo", "type": "message", "chat": Chat("ann")}
    return Update(id=id or f"new-{next(_ids)}", **defaults | fields)


def arrival(id: str = "", mailbox: str = "demo:ann", **fields: Any) -> Arrival:
    """Return the arrival of an update, by default of a new one in the mailbox `demo:ann`."""
    return Arrival(update(id), mailbox, **fields)


def done(arrived: Arrival, token: str = "one", *saves: Save, **fields: Any) -> Commit:
    """Return the commit of an arrival that was handled well."""
    return Commit(
        arrived.mailbox, token, Effect.DONE, arrived.update, attempts=1, saves=saves, **fields
    )


def nothing(mailbox: str, token: str, *, go_on: bool = True) -> Commit:
    """Return the commit that does no more than give a mailbox back, or go on in it."""
    return Commit(mailbox, token, Effect.NOTHING, go_on=go_on)


def failed(arrived: Arrival, effect: Effect = Effect.RETRY, **fields: Any) -> Commit:
    """Return the commit of an arrival whose handler raised."""
    defaults: dict[str, Any] = {"token": "one", "attempts": 1, "error": "ValueError"}
    return Commit(arrived.mailbox, effect=effect, update=arrived.update, **defaults | fields)


def save(key: SessionKey, value: Any, version: int = 0) -> Save:
    return Save(key, version, msgspec.json.encode(value))


def sent(arrived: Arrival, ordinal: int, *ids: str, session: SessionKey | None = None) -> Sent:
    """Return a call of an arrival's handler whose answer holds messages of these ids."""
    messages = [Message(id, Chat("ann"), User("bot"), text=f"message {id}") for id in ids]
    return Sent(arrived.update, arrived.mailbox, ordinal, {"ids": ids}, session, messages)


def names(waiting: Iterable[Waiting]) -> list[str]:
    """Return the ids of updates that wait."""
    return sorted(each.update.id for each in waiting)


def value(row: Row | None) -> Any:
    """Return a session's data as Python has it."""
    assert row is not None
    assert row.data is not None
    return msgspec.json.decode(row.data)


def short_leases() -> override_settings:
    """Let leases end soon."""
    return override_settings(BOTSESSIONS=settings.BOTSESSIONS | {"LEASE": SHORT_LEASE})


class MailboxContract(MailboxCases):
    """What every mailbox keeps; see `Mailbox`."""

    # ADMIT

    def test_update_of_a_free_mailbox_is_handled(self) -> None:
        admitted = self.admit(arrival("1"))
        assert admitted.decisions == [HANDLE]
        assert admitted.token == "one"
        assert admitted.waiting == []
        assert not self.is_free("demo:ann")

    def test_admitted_update_comes_with_its_sessions(self) -> None:
        keys = [SessionKey("demo", "ann", "ann", qualifier=each) for each in ("", "a", "b")]
        first = arrival("1")
        self.admit(first)
        self.commit(done(first, "one", save(keys[0], {"n": 1}), save(keys[2], [2])))
        other = arrival("3", "demo:ben", sessions=[keys[2]])
        admitted = self.admit(arrival("2", sessions=keys), other, arrival("4", "demo:eve"))
        assert [len(rows) for rows in admitted.sessions] == [3, 1, 0]
        assert value(admitted.sessions[0][0]) == {"n": 1}
        assert admitted.sessions[0][1] is None
        assert value(admitted.sessions[0][2]) == value(admitted.sessions[1][0]) == [2]
        assert [row.version for row in admitted.sessions[0] if row] == [1, 1]

    def test_second_update_of_a_mailbox_in_a_batch_is_stored(self) -> None:
        first, second, third = arrival("1"), arrival("2"), arrival("3")
        admitted = self.admit(first, arrival("4", "demo:ben"), second, third)
        assert admitted.decisions == [HANDLE, HANDLE, STORED, STORED]
        assert admitted.waiting == []
        assert names(self.commit(done(first)).waiting) == ["2"]
        assert names(self.commit(done(second)).waiting) == ["3"]

    def test_update_of_a_busy_mailbox_is_stored(self) -> None:
        first, second = arrival("1"), arrival("2")
        self.admit(first)
        admitted = self.admit(second, token="two")
        assert admitted.decisions == [STORED]
        assert admitted.waiting == []
        (waiting,) = self.commit(done(first)).waiting
        assert waiting == Waiting("demo:ann", "one", second.update)

    def test_duplicate_of_a_done_update_is_told(self) -> None:
        first = arrival("1")
        self.admit(first)
        self.commit(done(first))
        assert self.admit(arrival("1"), token="two").decisions == [DUPLICATE]

    def test_duplicate_of_a_pending_update_is_told(self) -> None:
        self.admit(arrival("1"), arrival("2"), arrival("3", "demo:ben", store_first=True))
        admitted = self.admit(arrival("2"), arrival("3", "demo:ben"), token="two")
        assert admitted.decisions == [DUPLICATE, DUPLICATE]
        assert admitted.waiting == []

    def test_duplicate_of_a_parked_update_is_told(self) -> None:
        first = arrival("1")
        self.admit(first)
        self.commit(failed(first, Effect.PARKED))
        assert self.admit(arrival("1"), token="two").decisions == [DUPLICATE]

    def test_same_id_of_another_bot_is_no_duplicate(self) -> None:
        mine, other = update("1"), update("1", bot="other")
        admitted = self.admit(Arrival(mine, "demo:ann"), Arrival(other, "other:ann"))
        assert admitted.decisions == [HANDLE, HANDLE]
        self.commit(
            Commit("demo:ann", "one", Effect.DONE, mine),
            Commit("other:ann", "one", Effect.DONE, other),
        )
        again = self.admit(Arrival(mine, "demo:ann"), Arrival(other, "other:ann"))
        assert again.decisions == [DUPLICATE, DUPLICATE]

    def test_duplicate_of_what_is_handled_and_not_stored_is_stored(self) -> None:
        """It is acknowledged at once: nothing but the database may then hold the update."""
        first = arrival("1")
        assert self.admit(first, arrival("1"), arrival("1")).decisions == [
            HANDLE,
            STORED,
            DUPLICATE,
        ]
        assert self.admit(arrival("1"), token="two").decisions == [DUPLICATE]
        assert self.commit(done(first)) == Committed([Outcome.COMMITTED], [])
        assert self.left() == []

    def test_duplicate_of_what_was_stored_first_is_told_in_the_same_batch(self) -> None:
        admitted = self.admit(arrival("1", store_first=True), arrival("1"), arrival("2"))
        assert admitted.decisions == [HANDLE_STORED, DUPLICATE, STORED]

    def test_mailbox_taken_for_duplicates_alone_is_given_back(self) -> None:
        first = arrival("1")
        self.admit(first)
        self.commit(done(first))
        assert self.admit(arrival("1"), token="two").decisions == [DUPLICATE]
        assert self.admit(arrival("2"), token="three").decisions == [HANDLE]

    def test_older_pending_updates_come_first(self) -> None:
        first, second, third = arrival("1"), arrival("2"), arrival("3")
        self.admit(first, second, third)
        self.commit(nothing("demo:ann", "one", go_on=False))
        newcomer = arrival("4")
        admitted = self.admit(newcomer, arrival("5", "demo:ben"), token="two")
        assert admitted.decisions == [STORED, HANDLE]
        assert admitted.waiting == [Waiting("demo:ann", "two", second.update)]
        order = []
        for each in (second, third, newcomer):
            order += names(self.commit(done(each, "two")).waiting)
        assert order == ["3", "4"]

    def test_update_waiting_for_its_retry_comes_first(self) -> None:
        due = datetime.now(UTC) + timedelta(hours=1)
        first = arrival("1")
        self.admit(first)
        self.commit(failed(first, due_at=due, go_on=False))
        admitted = self.admit(arrival("2"), token="two")
        assert admitted.decisions == [STORED]
        assert names(admitted.waiting) == ["1"]
        assert admitted.waiting[0].due_at == due

    def test_duplicate_of_a_left_update_takes_it_up(self) -> None:
        self.admit(arrival("1"), arrival("2"))
        self.commit(nothing("demo:ann", "one", go_on=False))
        admitted = self.admit(arrival("2"), token="two")
        assert admitted.decisions == [DUPLICATE]
        assert names(admitted.waiting) == ["2"]

    def test_update_to_be_stored_first_is_stored_when_it_is_handled(self) -> None:
        with short_leases():
            first = arrival("1", store_first=True)
            assert self.admit(first).decisions == [HANDLE_STORED]
            assert self.left() == []
            time.sleep(SHORT_LEASE * 1.25)
            (waiting,) = self.left()
        assert waiting.update == first.update

    def test_update_that_is_handled_is_not_stored_before(self) -> None:
        with short_leases():
            self.admit(arrival("1"))
            time.sleep(SHORT_LEASE * 1.25)
            assert self.left() == []
        assert self.admit(arrival("1"), token="two").decisions == [HANDLE]

    def test_without_room_the_update_is_stored_and_the_mailbox_free(self) -> None:
        admitted = self.admit(arrival("1", room=False), arrival("2", "demo:ben"))
        assert admitted.decisions == [STORED, HANDLE]
        assert admitted.waiting == []
        assert names(self.mailbox.recover(10, "two")) == ["1"]

    def test_lower_id_after_a_higher_one_still_runs(self) -> None:
        for id in ("9", "10", "1"):
            one = arrival(id)
            assert self.admit(one).decisions == [HANDLE]
            assert self.commit(done(one)).outcomes == [Outcome.COMMITTED]

    def test_mailboxes_taken_earlier_with_the_same_token_stay_as_they_are(self) -> None:
        """A batch that cannot be admitted whole is admitted one by one, with one token."""
        first, second, third = arrival("1"), arrival("2"), arrival("3")
        assert self.admit(first).decisions == [HANDLE]
        for each in (second, third):
            admitted = self.admit(each)
            assert admitted.decisions == [STORED]
            assert admitted.waiting == []

    def test_expired_lease_can_be_taken(self) -> None:
        with short_leases():
            self.admit(arrival("1"))
            assert self.admit(arrival("2"), token="two").decisions == [STORED]
            time.sleep(SHORT_LEASE * 1.25)
            admitted = self.admit(arrival("3"), token="three")
        assert admitted.decisions == [STORED]
        assert [(each.update.id, each.token) for each in admitted.waiting] == [("2", "three")]

    # COMMIT

    def test_commit_saves_the_sessions_and_frees_the_mailbox(self) -> None:
        key, first = SessionKey("demo", "ann", "ann"), arrival("1")
        self.admit(first)
        assert self.commit(done(first, "one", save(key, {"n": 1}))) == Committed(
            [Outcome.COMMITTED], []
        )
        (row,) = self.load(key)
        assert row is not None
        assert (value(row), row.version, row.is_open) == ({"n": 1}, 1, False)
        assert self.is_free("demo:ann")

    def test_versions_count_up(self) -> None:
        key = SessionKey("demo", "ann")
        for version in range(3):
            one = arrival()
            self.admit(one)
            self.commit(done(one, "one", save(key, version, version)))
        (row,) = self.load(key)
        assert row is not None
        assert (row.version, value(row)) == (3, 2)

    def test_session_without_data_has_a_version_all_the_same(self) -> None:
        """So it is where a store of another kind has the data."""
        key = SessionKey("demo", "ann")
        for version in range(2):
            one = arrival()
            self.admit(one)
            self.commit(done(one, "one", Save(key, version, None)))
        (row,) = self.load(key)
        assert row is not None
        assert (row.version, row.data) == (2, None)

    def test_every_part_of_a_key_counts(self) -> None:
        keys = [
            SessionKey("demo", *("x" if number & bit else "" for bit in (1, 2, 4, 8)))
            for number in range(1, 16)
        ]
        keys += [SessionKey("other", "x", "x"), SessionKey("demo", "X", "x")]
        one = arrival()
        self.admit(one)
        saves = [save(key, number) for number, key in enumerate(keys)]
        assert self.commit(done(one, "one", *saves)).outcomes == [Outcome.COMMITTED]
        assert [value(row) for row in self.load(*keys)] == list(range(len(keys)))

    def test_mailbox_goes_on_with_what_waits_in_order(self) -> None:
        arrivals = [arrival(str(10 - number)) for number in range(6)]
        self.admit(*arrivals)
        for number, one in enumerate(arrivals):
            committed = self.commit(done(one))
            assert committed.outcomes == [Outcome.COMMITTED]
            assert (
                names(committed.waiting) == [each.update.id for each in arrivals[number + 1 :]][:1]
            )
        assert self.is_free("demo:ann")

    def test_nothing_to_write_goes_on_or_gives_back(self) -> None:
        first = arrival("1")
        self.admit(first, arrival("2"), arrival("3", "demo:ben"))
        committed = self.commit(nothing("demo:ann", "one"), nothing("demo:ben", "one"))
        assert committed.outcomes == [Outcome.COMMITTED] * 2
        assert names(committed.waiting) == ["2"]
        assert self.is_free("demo:ben")
        assert self.admit(first, token="two").decisions == [STORED]

    def test_one_asked_not_to_go_on_gives_back_though_updates_wait(self) -> None:
        first = arrival("1")
        self.admit(first, arrival("2"))
        assert self.commit(done(first, go_on=False)) == Committed([Outcome.COMMITTED], [])
        assert names(self.mailbox.recover(10, "two")) == ["2"]

    def test_two_ends_of_one_lease_go_on_once(self) -> None:
        self.admit(arrival("1"), arrival("2"))
        committed = self.commit(nothing("demo:ann", "one"), nothing("demo:ann", "one"))
        assert committed.outcomes == [Outcome.COMMITTED] * 2
        assert names(committed.waiting) == ["2"]

    def test_lease_taken_over_writes_nothing(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        with short_leases():
            self.admit(first)
            time.sleep(SHORT_LEASE * 1.25)
            self.admit(arrival("2"), token="two")
            committed = self.commit(done(first, "one", save(key, {"n": 1})))
        assert committed == Committed([Outcome.LEASE_LOST], [])
        assert self.load(key) == [None]
        assert self.admit(first, token="three").decisions == [STORED]

    def test_lease_that_is_gone_writes_nothing(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        committed = self.commit(done(first, "one", save(key, {"n": 1})), nothing("demo:ben", "one"))
        assert committed == Committed([Outcome.LEASE_LOST] * 2, [])
        assert self.load(key) == [None]
        assert self.admit(first).decisions == [HANDLE]

    def test_lease_that_ran_out_and_was_not_taken_is_good(self) -> None:
        with short_leases():
            first = arrival("1")
            self.admit(first)
            time.sleep(SHORT_LEASE * 1.25)
            assert self.commit(done(first)).outcomes == [Outcome.COMMITTED]

    def test_old_version_is_a_conflict_of_that_entry_alone(self) -> None:
        shared, own = SessionKey("demo", "all"), SessionKey("demo", "ben")
        first, ann, ben = arrival("1"), arrival("2"), arrival("3", "demo:ben")
        self.admit(first)
        self.commit(done(first, "one", save(shared, "new")))
        self.admit(ann, ben)
        committed = self.commit(
            done(ann, "one", save(SessionKey("demo", "ann"), 1), save(shared, "old", 0)),
            done(ben, "one", save(own, 2)),
        )
        assert committed == Committed([Outcome.CONFLICT, Outcome.COMMITTED], [])
        assert value(self.load(shared)[0]) == "new"
        assert self.load(SessionKey("demo", "ann")) == [None]
        assert value(self.load(own)[0]) == 2
        # The lease is held still, and the update is not done.
        again = done(ann, "one", save(shared, "newer", 1))
        assert self.commit(again).outcomes == [Outcome.COMMITTED]

    def test_session_that_somebody_made_meanwhile_is_a_conflict(self) -> None:
        key, ann, ben = SessionKey("demo", "all"), arrival("1"), arrival("2", "demo:ben")
        self.admit(ann, ben)
        assert self.commit(done(ann, "one", save(key, 1))).outcomes == [Outcome.COMMITTED]
        assert self.commit(done(ben, "one", save(key, 2))).outcomes == [Outcome.CONFLICT]
        assert value(self.load(key)[0]) == 1

    def test_session_that_is_gone_is_not_brought_back(self) -> None:
        key, one = SessionKey("demo", "ann"), arrival("1")
        self.admit(one)
        assert self.commit(done(one, "one", save(key, 1, 3))).outcomes == [Outcome.CONFLICT]
        assert self.load(key) == [None]

    def test_two_entries_saving_one_session_have_one_winner(self) -> None:
        key = SessionKey("demo", "all")
        ann, ben = arrival("1"), arrival("2", "demo:ben")
        self.admit(ann, ben)
        committed = self.commit(done(ann, "one", save(key, "a")), done(ben, "one", save(key, "b")))
        assert sorted(each.name for each in committed.outcomes) == ["COMMITTED", "CONFLICT"]
        winner = committed.outcomes.index(Outcome.COMMITTED)
        (row,) = self.load(key)
        assert row is not None
        assert (value(row), row.version) == ("ab"[winner], 1)

    def test_duplicate_stored_meanwhile_is_done_with_its_first_copy(self) -> None:
        first = arrival("1")
        self.admit(first)
        assert self.admit(arrival("1"), token="two").decisions == [STORED]
        assert self.commit(done(first)) == Committed([Outcome.COMMITTED], [])
        assert self.left() == []
        assert self.admit(arrival("1"), token="three").decisions == [DUPLICATE]

    def test_update_that_somebody_else_has_done_writes_nothing(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        self.admit(first)
        self.commit(done(first, "one", save(key, 1)))
        self.admit(arrival("2"), token="two")
        committed = self.commit(done(first, "two", save(key, 2, 1)))
        assert committed == Committed([Outcome.DUPLICATE], [])
        assert value(self.load(key)[0]) == 1
        assert not self.is_free("demo:ann")

    def test_each_entry_has_an_outcome_of_its_own(self) -> None:
        fine, lost, twice = arrival("1"), arrival("2", "demo:ben"), arrival("3", "demo:eve")
        late, taken = arrival("4", "demo:bob"), SessionKey("demo", "all")
        self.admit(twice)
        self.commit(done(twice, "one", save(taken, 0)))
        self.admit(fine, arrival("5", "demo:eve"), late)
        committed = self.commit(
            done(late, "one", save(taken, 1)),
            done(lost, "one", save(SessionKey("demo", "ben"), 1)),
            done(twice, "one", save(SessionKey("demo", "eve"), 1)),
            done(fine, "one", save(SessionKey("demo", "ann"), 1)),
        )
        assert committed.outcomes == [
            Outcome.CONFLICT,
            Outcome.LEASE_LOST,
            Outcome.DUPLICATE,
            Outcome.COMMITTED,
        ]
        chats = ("all", "ben", "eve", "ann")
        rows = self.load(*(SessionKey("demo", chat) for chat in chats))
        assert [row and value(row) for row in rows] == [0, None, None, 1]

    def test_failed_update_is_kept_for_another_attempt(self) -> None:
        due = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=timezone(timedelta(hours=2)))
        first = arrival("1")
        self.admit(first)
        self.mailbox.record([sent(first, 0, "7")])
        committed = self.commit(failed(first, attempts=2, error="Traceback", due_at=due))
        assert committed.outcomes == [Outcome.COMMITTED]
        assert committed.waiting == [
            Waiting(
                "demo:ann",
                "one",
                first.update,
                2,
                [{"ordinal": 0, "result": {"ids": ["7"]}}],
                due,
            )
        ]
        assert not self.is_free("demo:ann")

    def test_update_that_fails_before_it_was_stored_is_kept(self) -> None:
        first = arrival("1")
        self.admit(first)
        (waiting,) = self.commit(failed(first)).waiting
        assert (waiting.update, waiting.attempts, waiting.journal) == (first.update, 1, [])
        assert waiting.due_at is None

    def test_mailbox_waits_for_the_failed_update(self) -> None:
        first, second = arrival("1"), arrival("2")
        self.admit(first, second)
        assert names(self.commit(failed(first)).waiting) == ["1"]
        assert names(self.commit(done(first)).waiting) == ["2"]

    def test_mailbox_goes_on_after_a_parked_update(self) -> None:
        first, second = arrival("1"), arrival("2")
        self.admit(first, second)
        self.mailbox.record([sent(first, 0, "7")])
        committed = self.commit(failed(first, Effect.PARKED, attempts=3))
        assert committed.outcomes == [Outcome.COMMITTED]
        assert names(committed.waiting) == ["2"]
        assert self.commit(done(second)).waiting == []
        assert self.left() == []

    def test_failed_update_saves_no_session_of_another(self) -> None:
        key, first, second = SessionKey("demo", "ben"), arrival("1"), arrival("2", "demo:ben")
        self.admit(first, second)
        committed = self.commit(failed(first), done(second, "one", save(key, 1)))
        assert committed.outcomes == [Outcome.COMMITTED] * 2
        assert names(committed.waiting) == ["1"]
        assert value(self.load(key)[0]) == 1

    # STORE and RECORD

    def test_stored_update_is_done_with_its_commit(self) -> None:
        first = arrival("1")
        self.admit(first)
        self.mailbox.store([first])
        self.mailbox.store([first])
        assert self.commit(done(first)) == Committed([Outcome.COMMITTED], [])
        assert self.left() == []

    def test_store_keeps_the_order(self) -> None:
        arrivals = [arrival(str(9 - number)) for number in range(5)]
        self.admit(arrivals[0])
        self.mailbox.store(arrivals)
        order = []
        for one in arrivals:
            order += names(self.commit(done(one)).waiting)
        assert order == [each.update.id for each in arrivals[1:]]

    def test_stored_update_survives_its_holder(self) -> None:
        with short_leases():
            first = arrival("1")
            self.admit(first)
            self.mailbox.store([first])
            time.sleep(SHORT_LEASE * 1.25)
            (waiting,) = self.left()
        assert (waiting.update, waiting.attempts, waiting.journal) == (first.update, 0, [])

    def test_what_was_sent_is_journaled_in_order(self) -> None:
        first, other = arrival("1"), arrival("2", "demo:ben")
        self.admit(first, other)
        self.mailbox.record([sent(first, 0, "7"), sent(other, 0), sent(first, 1, "8", "9")])
        self.mailbox.record([sent(first, 2)])
        committed = self.commit(failed(first), failed(other))
        journals = {each.update.id: each.journal for each in committed.waiting}
        assert journals == {
            "1": [
                {"ordinal": 0, "result": {"ids": ["7"]}},
                {"ordinal": 1, "result": {"ids": ["8", "9"]}},
                {"ordinal": 2, "result": {"ids": []}},
            ],
            "2": [{"ordinal": 0, "result": {"ids": []}}],
        }

    def test_journal_of_a_stored_update_begins_with_its_first_send(self) -> None:
        first = arrival("1", store_first=True)
        self.admit(first)
        self.mailbox.record([sent(first, 0)])
        (waiting,) = self.commit(failed(first)).waiting
        assert [entry["ordinal"] for entry in waiting.journal] == [0]

    def test_what_a_done_update_sent_changes_it_no_more(self) -> None:
        first = arrival("1")
        self.admit(first)
        self.commit(done(first))
        self.mailbox.record([sent(first, 0)])
        assert self.left() == []

    def test_send_opens_its_session_and_is_tracked(self) -> None:
        key, other = SessionKey("demo", "ann", "ann"), SessionKey("demo", "ben")
        first, second = arrival("1"), arrival("2", "demo:ben")
        self.admit(first, second)
        assert self.mailbox.tracked(key) == []
        self.mailbox.record(
            [
                sent(first, 0, "7", "8", session=key),
                sent(second, 0, "7", session=other),
                sent(first, 1),
                sent(first, 2, "9", session=key),
            ]
        )
        (row, there) = self.load(key, other)
        assert row is not None
        assert there is not None
        assert (row.version, row.is_open, row.data) == (0, True, None)
        assert [each.message_id for each in self.mailbox.tracked(key)] == ["7", "8", "9"]
        assert [each.message_id for each in self.mailbox.tracked(other)] == ["7"]
        assert {each.chat for each in self.mailbox.tracked(key)} == {"ann"}

    def test_opened_session_is_saved_as_a_new_one_and_stays_open(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        self.admit(first)
        self.mailbox.record([sent(first, 0, session=key)])
        assert self.commit(done(first, "one", save(key, {}))).outcomes == [Outcome.COMMITTED]
        (row,) = self.load(key)
        assert row is not None
        assert (row.version, row.is_open, value(row)) == (1, True, {})

    def test_stored_session_that_is_opened_keeps_its_data(self) -> None:
        key, first, second = SessionKey("demo", "ann"), arrival("1"), arrival("2")
        self.admit(first, second)
        self.commit(done(first, "one", save(key, [1])))
        self.mailbox.record([sent(second, 0, session=key)])
        (row,) = self.load(key)
        assert row is not None
        assert (row.version, row.is_open, value(row)) == (1, True, [1])

    def test_message_is_tracked_once_in_each_session(self) -> None:
        key, other = SessionKey("demo", "ann"), SessionKey("demo", "ann", qualifier="order")
        first = arrival("1")
        self.admit(first)
        self.mailbox.record([sent(first, 0, "7", "7", session=key)])
        self.mailbox.record([sent(first, 1, "7", session=key), sent(first, 2, "7", session=other)])
        assert [each.message_id for each in self.mailbox.tracked(key)] == ["7"]
        assert [each.message_id for each in self.mailbox.tracked(other)] == ["7"]

    def test_message_without_a_lasting_id_is_tracked_each_time(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        self.admit(first)
        self.mailbox.record([sent(first, 0, "", "", session=key), sent(first, 1, "", session=key)])
        assert [each.message_id for each in self.mailbox.tracked(key)] == [""] * 3

    def test_forgotten_messages_are_gone_and_others_stay(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        self.admit(first)
        self.mailbox.record([sent(first, 0, "7", "8", "9", session=key)])
        self.mailbox.forget(self.mailbox.tracked(key)[:2])
        assert [each.message_id for each in self.mailbox.tracked(key)] == ["9"]

    def test_send_of_a_failed_handler_stays(self) -> None:
        key, first = SessionKey("demo", "ann"), arrival("1")
        self.admit(first)
        self.mailbox.record([sent(first, 0, "7", session=key)])
        self.commit(failed(first, Effect.PARKED))
        assert [each.message_id for each in self.mailbox.tracked(key)] == ["7"]

    # RENEW and RECOVER

    def test_renewed_lease_lasts_and_others_are_told_lost(self) -> None:
        with short_leases():
            self.admit(arrival("1"), arrival("2", "demo:ben"), arrival("3", "demo:eve"))
            time.sleep(SHORT_LEASE * 0.6)
            leases = [("demo:eve", "two"), ("demo:ann", "one"), ("demo:gone", "one")]
            assert self.mailbox.renew(leases) == {"demo:ann"}
            time.sleep(SHORT_LEASE * 0.6)
            assert self.is_free("demo:ben")
            assert self.is_free("demo:eve")
            assert not self.is_free("demo:ann")

    def test_lease_taken_over_cannot_be_renewed(self) -> None:
        with short_leases():
            self.admit(arrival("1"))
            time.sleep(SHORT_LEASE * 1.25)
            self.admit(arrival("2"), token="two")
            assert self.mailbox.renew([("demo:ann", "one")]) == set()
            assert self.mailbox.renew([("demo:ann", "two")]) == {"demo:ann"}

    def test_recovery_takes_what_nobody_works_on(self) -> None:
        with short_leases():
            for chat in ("ann", "ben", "eve"):
                self.admit(arrival(f"{chat}1", f"demo:{chat}"), arrival(f"{chat}2", f"demo:{chat}"))
            time.sleep(SHORT_LEASE * 1.25)
            assert self.mailbox.renew([("demo:eve", "one")]) == {"demo:eve"}
            waiting = self.mailbox.recover(10, "two")
            assert names(waiting) == ["ann2", "ben2"]
            assert {each.token for each in waiting} == {"two"}
            assert self.mailbox.recover(10, "three") == []
        assert self.commit(nothing("demo:ann", "one")).outcomes == [Outcome.LEASE_LOST]

    def test_recovery_takes_the_longest_waiting_and_no_more_than_asked(self) -> None:
        chats = ["eve", "ann", "dan", "ben"]
        for chat in chats:
            self.admit(arrival(chat, f"demo:{chat}", room=False))
        found = [names(self.mailbox.recover(2, f"two{number}")) for number in range(3)]
        assert found == [["ann", "eve"], ["ben", "dan"], []]

    def test_recovery_finds_the_oldest_of_a_mailbox(self) -> None:
        self.admit(arrival("2", room=False), arrival("1", room=False))
        assert names(self.mailbox.recover(10, "two")) == ["2"]
        assert self.mailbox.recover(10, "three") == []

    # Batches

    def test_nothing_to_do_is_no_error(self) -> None:
        assert self.mailbox.admit([], "one") == Admitted("one", [], [], [])
        assert self.mailbox.load([]) == []
        assert self.mailbox.load([[], []]) == [[], []]
        self.mailbox.store([])
        self.mailbox.record([])
        assert self.mailbox.commit([]) == Committed([], [])
        self.mailbox.forget([])
        assert self.mailbox.renew([]) == set()
        assert self.mailbox.recover(10, "one") == []

    def test_batch_of_hundreds(self) -> None:
        number = 500
        keys = [SessionKey("demo", f"{each % 100}", f"{each}") for each in range(number)]
        arrivals = [
            arrival(f"{each}", str(key), sessions=[key], store_first=each % 2 == 0)
            for each, key in enumerate(keys)
        ]
        admitted = self.admit(*arrivals)
        assert admitted.decisions == [HANDLE_STORED, HANDLE] * (number // 2)
        self.mailbox.record(
            [
                sent(one, 0, one.update.id, session=key)
                for one, key in zip(arrivals, keys, strict=True)
            ]
        )
        self.mailbox.store(arrivals)
        assert len(self.mailbox.renew([(each.mailbox, "one") for each in arrivals])) == number
        committed = self.commit(
            *(
                done(one, "one", save(key, {"n": one.update.id}))
                for one, key in zip(arrivals, keys, strict=True)
            )
        )
        assert committed == Committed([Outcome.COMMITTED] * number, [])
        rows = self.mailbox.load([[key] for key in keys])
        assert [value(row)["n"] for (row,) in rows] == [str(each) for each in range(number)]
        assert self.admit(*arrivals).decisions == [DUPLICATE] * number

    def test_hundreds_in_one_mailbox_keep_their_order(self) -> None:
        arrivals = [arrival(f"{each:03}") for each in range(200)]
        random.Random(1).shuffle(arrivals)
        self.admit(*arrivals)
        order = [each.update.id for each in arrivals]
        for number, one in enumerate(arrivals[:5]):
            assert names(self.commit(done(one)).waiting) == [order[number + 1]]

    # What people write

    def test_payload_survives(self) -> None:
        """P7: NUL characters cannot be stored; they come back as U+FFFD."""
        for name, (text, expected) in TEXTS.items():
            original = update(name, text=text, payload={"text": text, "nested": [{"a": text}]})
            self.mailbox.admit([Arrival(original, f"demo:{name}", room=False)], "one")
            (waiting,) = self.mailbox.recover(10, "two")
            assert waiting.update.text == expected
            assert waiting.update.payload == {"text": expected, "nested": [{"a": expected}]}
            assert waiting.update.chat == original.chat

    def test_error_and_journal_survive(self) -> None:
        for name, (text, expected) in TEXTS.items():
            first = arrival(name, f"demo:{name}")
            self.admit(first)
            self.mailbox.record([Sent(first.update, first.mailbox, 0, {"text": text})])
            (waiting,) = self.commit(failed(first, error=text)).waiting
            assert waiting.journal == [{"ordinal": 0, "result": {"text": expected}}]

    def test_error_that_is_no_unicode_is_stored_all_the_same(self) -> None:
        first = arrival("1")
        self.admit(first)
        committed = self.commit(failed(first, error="half an emoji: \ud83d"))
        assert committed.outcomes == [Outcome.COMMITTED]
        assert names(committed.waiting) == ["1"]

    def test_tracked_text_survives(self) -> None:
        key = SessionKey("demo", "ann")
        for name, (text, _) in TEXTS.items():
            first = arrival(name, f"demo:{name}")
            self.admit(first)
            message = Message(name, Chat("ann"), text=text, date=datetime.now(UTC))
            self.mailbox.record([Sent(first.update, first.mailbox, 0, None, key, [message])])
        assert [each.message_id for each in self.mailbox.tracked(key)] == list(TEXTS)

    def test_data_goes_to_json_and_back(self) -> None:
        keys = [SessionKey("demo", str(number)) for number in range(len(VALUES))]
        one = arrival()
        self.admit(one)
        saves = [save(key, each) for key, each in zip(keys, VALUES, strict=True)]
        self.commit(done(one, "one", *saves))
        assert [value(row) for row in self.load(*keys)] == list(VALUES)

    def test_data_of_every_text_survives(self) -> None:
        for name, (text, expected) in TEXTS.items():
            one, key = arrival(), SessionKey("demo", name)
            self.admit(one)
            self.commit(done(one, "one", save(key, {"text": [text]})))
            assert value(self.load(key)[0]) == {"text": [expected]}

    def test_ids_of_every_text_are_told_apart(self) -> None:
        ids = ["", " ", "a", "A", "a ", "ä", "a\u0308", "%", "_", "'", '"', "\\", "😀", "👍", "𝔘"]
        keys = [SessionKey("demo", id, id, id, id) for id in ids]
        arrivals = [arrival(f"id{id}", f"demo:{id}", sessions=keys) for id in ids]
        assert self.admit(*arrivals).decisions == [HANDLE] * len(ids)
        entries = zip(arrivals, keys, ids, strict=True)
        committed = self.commit(*(done(one, "one", save(key, id)) for one, key, id in entries))
        assert committed.outcomes == [Outcome.COMMITTED] * len(ids)
        admitted = self.admit(*arrivals, arrival(sessions=keys))
        assert admitted.decisions == [DUPLICATE] * len(ids) + [HANDLE]
        assert [value(row) for row in admitted.sessions[-1]] == ids


class MailboxRaceContract(MailboxCases):
    """What every mailbox keeps when it is used by several threads at once.

    The tests need real transactions: with Django's test classes, a `TransactionTestCase`.
    """

    def test_overlapping_batches_in_opposite_orders_lose_nothing(self) -> None:
        threads, rounds, boxes = 8, 4, 10
        barrier = Barrier(threads)

        def work(thread: int) -> list[str]:
            handled = []
            for number in range(rounds):
                barrier.wait(20)
                order = [(thread * 3 + each) % 15 for each in range(boxes)]
                arrivals = [arrival(f"{thread}-{number}-{each}", f"demo:{each}") for each in order]
                if thread % 2:
                    arrivals.reverse()
                admitted = self.admit(*arrivals, token=f"{thread}-{number}")
                pause()
                handled += self._work_off(admitted, arrivals)
            return handled

        parts = at_once(*(partial(work, thread) for thread in range(threads)))
        handled = [id for part in parts for id in part]
        assert len(handled) == len(set(handled)) == threads * rounds * boxes
        assert self.mailbox.recover(10, "after") == []

    def _work_off(self, admitted: Admitted, arrivals: Sequence[Arrival]) -> list[str]:
        """Commit what was admitted and all that waits behind it, and return the ids."""
        handled: list[str] = []
        turn = [
            done(each, admitted.token)
            for each, decision in zip(arrivals, admitted.decisions, strict=True)
            if decision is HANDLE
        ]
        waiting = admitted.waiting
        while turn or waiting:
            turn += [Commit(w.mailbox, w.token, Effect.DONE, w.update) for w in waiting]
            committed = self.commit(*turn)
            assert committed.outcomes == [Outcome.COMMITTED] * len(turn)
            handled += [each.update.id for each in turn if each.update]
            turn, waiting = [], committed.waiting
        return handled

    def test_update_stored_while_its_holder_commits_is_never_stranded(self) -> None:
        """Nothing may need an expired lease: the holder goes on with it, or its mailbox is free."""
        rounds = 200
        firsts = [arrival(f"first{number}", f"demo:{number}") for number in range(rounds)]
        seconds = [arrival(f"second{number}", f"demo:{number}") for number in range(rounds)]
        assert self.admit(*firsts).decisions == [HANDLE] * rounds
        barrier = Barrier(2)

        def hold() -> list[Committed]:
            answers = []
            for each in firsts:
                barrier.wait(20)
                pause()
                answers.append(self.commit(done(each)))
            return answers

        def add() -> list[Admitted]:
            answers = []
            for number, each in enumerate(seconds):
                barrier.wait(20)
                pause()
                answers.append(self.admit(each, token=f"two{number}"))
            return answers

        committed, admitted = at_once(hold, add)
        for number in range(rounds):
            (decision,) = admitted[number].decisions
            assert committed[number].outcomes == [Outcome.COMMITTED]
            assert admitted[number].waiting == []
            if decision is HANDLE:
                assert committed[number].waiting == []
            else:
                assert decision is STORED
                assert names(committed[number].waiting) == [f"second{number}"]
        assert self.mailbox.recover(rounds, "after") == []

    def test_same_update_admitted_at_once_is_handled_once(self) -> None:
        """P4: five deliveries of one update have one effect."""
        for number in range(10):
            one = arrival(f"{number}")
            admitted = at_once(
                *(partial(self.admit, one, token=f"{number}-{each}") for each in range(5))
            )
            decisions = [each.decisions[0] for each in admitted]
            assert decisions.count(HANDLE) == 1
            assert decisions.count(STORED) <= 1
            assert [each.waiting for each in admitted] == [[]] * 5
            token = admitted[decisions.index(HANDLE)].token
            assert self.commit(done(one, token)) == Committed([Outcome.COMMITTED], [])
            assert self.left() == []

    def test_abandoned_mailbox_is_recovered_once(self) -> None:
        for number in range(5):
            chats = [f"demo:{number}-{each}" for each in range(20)]
            self.admit(*(arrival(mailbox=chat, room=False) for chat in chats))
            found = at_once(
                *(partial(self.mailbox.recover, 100, f"{number}-{each}") for each in range(4))
            )
            assert sorted(each.mailbox for part in found for each in part) == sorted(chats)

    def test_expired_lease_has_one_heir(self) -> None:
        with short_leases():
            self.admit(arrival("1"))
            time.sleep(SHORT_LEASE * 1.25)
        admitted = at_once(*(partial(self.admit, arrival(), token=f"{each}") for each in range(5)))
        decisions = [each.decisions[0] for each in admitted]
        assert decisions.count(HANDLE) == 1
        assert decisions.count(STORED) == 4

    def test_shared_session_saved_at_once_has_one_winner(self) -> None:
        for version in range(10):
            key, threads = SessionKey("demo", "all"), 4
            arrivals = [arrival(mailbox=f"demo:{each}") for each in range(threads)]
            self.admit(*arrivals)
            committed = at_once(
                *(
                    partial(self.commit, done(each, "one", save(key, 1, version)))
                    for each in arrivals
                )
            )
            outcomes = [each.outcomes[0] for each in committed]
            assert outcomes.count(Outcome.COMMITTED) == 1
            assert outcomes.count(Outcome.CONFLICT) == threads - 1
            self.commit(*(nothing(each.mailbox, "one") for each in arrivals))

    def test_what_is_renewed_at_once_with_its_end_is_one_of_both(self) -> None:
        for _ in range(20):
            arrivals = [arrival(mailbox=f"demo:{each}") for each in range(5)]
            self.admit(*arrivals)
            leases = [(each.mailbox, "one") for each in reversed(arrivals)]
            renewed, committed = at_once(
                lambda leases=leases: self.mailbox.renew(leases),  # type: ignore[misc]
                lambda arrivals=arrivals: self.commit(*map(done, arrivals)),  # type: ignore[misc]
            )
            assert committed == Committed([Outcome.COMMITTED] * 5, [])
            assert renewed in (set(), {each.mailbox for each in arrivals})


def pause() -> None:
    """Wait for up to 3 ms, so that what runs at once meets in ever new ways."""
    time.sleep(random.random() * 0.003)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run these in threads that start together, each with connections of its own."""
    barrier = Barrier(len(works))

    def run(work: Callable[[], Result]) -> Result:
        try:
            barrier.wait(20)
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))
