"""What ADMIT decides about an update."""

# ruff: noqa: S101, S105, S106 - these are tests

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from botsessions import clock
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Arrival, Commit, Committed, Effect, Outcome, Waiting
from botsessions.mailboxes.contract.cases import (
    DUPLICATE,
    HANDLE,
    HANDLE_STORED,
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
    short_leases,
    update,
    value,
)


class AdmitContract(MailboxCases):
    """The verb `admit`."""

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
        assert [len(found.named) for found in admitted.sessions] == [3, 1, 0]
        assert value(admitted.sessions[0].named[0]) == {"n": 1}
        assert admitted.sessions[0].named[1] is None
        assert value(admitted.sessions[0].named[2]) == value(admitted.sessions[1].named[0]) == [2]
        assert [row.version for row in admitted.sessions[0].named if row] == [1, 1]

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
        assert bare([waiting]) == [Waiting("demo:ann", "one", second.update)]

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

    def test_update_that_waited_tells_since_when(self) -> None:
        """P35."""
        before = clock.now()
        self.admit(arrival("1"), arrival("2"))
        (waiting,) = self.commit(done(arrival("1"))).waiting
        assert waiting.received_at is not None
        # Some databases keep whole seconds, or less of them than Python does.
        assert abs((waiting.received_at - before).total_seconds()) < 60

    def test_older_pending_updates_come_first(self) -> None:
        first, second, third = arrival("1"), arrival("2"), arrival("3")
        self.admit(first, second, third)
        self.commit(nothing("demo:ann", "one", go_on=False))
        newcomer = arrival("4")
        admitted = self.admit(newcomer, arrival("5", "demo:ben"), token="two")
        assert admitted.decisions == [STORED, HANDLE]
        assert bare(admitted.waiting) == [Waiting("demo:ann", "two", second.update)]
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
