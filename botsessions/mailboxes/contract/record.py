"""What is stored while an update is handled, and what outlives its holder."""

# ruff: noqa: S101, S106 - these are tests

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Committed, Effect, Outcome
from botsessions.mailboxes.contract.cases import (
    SHORT_LEASE,
    MailboxCases,
    arrival,
    done,
    failed,
    names,
    nothing,
    save,
    sent,
    short_leases,
    value,
)


class RecordContract(MailboxCases):
    """The verbs `store`, `record`, `tracked`, `forget`, `renew` and `recover`."""

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

    def test_renewed_lease_lasts_and_others_are_told_lost(self) -> None:
        with short_leases():
            self.admit(arrival("1"), arrival("2", "demo:ben"), arrival("3", "demo:eve"))
        leases = [("demo:eve", "two"), ("demo:ann", "one"), ("demo:gone", "one")]
        assert self.mailbox.renew(leases) == {"demo:ann"}  # for as long as leases last elsewhere
        time.sleep(SHORT_LEASE * 1.25)
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

    def test_recovery_leaves_what_is_not_due_yet(self) -> None:
        now = datetime.now(UTC)
        early, late = arrival("1"), arrival("2", "demo:ben")
        self.admit(early, late, arrival("3", "demo:ben"))
        self.commit(
            failed(early, due_at=now - timedelta(seconds=1), go_on=False),
            failed(late, due_at=now + timedelta(hours=1), go_on=False),
        )
        assert names(self.mailbox.recover(10, "two")) == ["1"]

    def test_recovery_finds_the_oldest_of_a_mailbox(self) -> None:
        self.admit(arrival("2", room=False), arrival("1", room=False))
        assert names(self.mailbox.recover(10, "two")) == ["2"]
        assert self.mailbox.recover(10, "three") == []
