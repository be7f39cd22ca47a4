"""What COMMIT writes, and what it does not."""

# ruff: noqa: S101, S106 - these are tests

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Admission, Committed, Effect, Outcome, Save, Waiting
from botsessions.mailboxes.contract.cases import (
    DUPLICATE,
    HANDLE,
    SHORT_LEASE,
    STORED,
    MailboxCases,
    arrival,
    bare,
    done,
    failed,
    names,
    nothing,
    save,
    sent,
    short_leases,
    value,
)


class CommitContract(MailboxCases):
    """The verb `commit`."""

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
        assert bare(committed.waiting) == [
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
        """P7."""
        self._goes_on_after(Effect.PARKED)

    def test_mailbox_goes_on_after_one_that_is_held_for_an_operator(self) -> None:
        """P33: and it is known when it comes again."""
        self._goes_on_after(Effect.HELD)
        assert self.admit(arrival("1")).decisions == [Admission.DUPLICATE]

    def _goes_on_after(self, effect: Effect) -> None:
        first, second = arrival("1"), arrival("2")
        self.admit(first, second)
        self.mailbox.record([sent(first, 0, "7")])
        committed = self.commit(failed(first, effect, attempts=3))
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
