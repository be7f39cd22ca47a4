"""Which sessions an update finds, and how a session opens, expires, is deleted, ends and moves."""

# ruff: noqa: S101, S106 - these are tests

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import product

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Arrival, Found, Opening, Outcome, Save, Sent
from botsessions.mailboxes.contract.cases import (
    DUPLICATE,
    HANDLE,
    REFUSED,
    STORED,
    MailboxCases,
    arrival,
    done,
    names,
    nothing,
    said,
    save,
    seen,
    sent,
    time_is,
    value,
)

ANN, BEN = SessionKey("demo", "ann", "ann"), SessionKey("demo", "ben", "ben")

#: The last moment of a session that expires, and the one after.
END = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=timezone(timedelta(hours=5)))
AFTER = END + timedelta(microseconds=1)
LATER = END + timedelta(days=1)

#: A group, and the supergroup that it becomes.
OLD, NEW = "-1", "-1001"


class SessionContract(MailboxCases):
    """The verbs `find`, `end` and `move`, and what the others do with a session's header."""

    # Found

    def found(self, *arrivals: Arrival) -> list[Found]:
        """Return the sessions of these arrivals, of which `find` and `admit` say the same."""
        found = self.mailbox.find(arrivals)
        assert self.admit(*arrivals).sessions == found
        return found

    def open_at(self, arrived: Arrival) -> list[SessionKey]:
        """Return the open sessions that an arrival finds."""
        (found,) = self.found(arrived)
        assert found.named == []
        return [key for key, _ in found.open]

    def test_update_finds_every_open_session_of_its_place(self) -> None:
        """Those of its chat or its user, with its topic or without, each qualifier.

        One of neither is the bot's, and tracks nothing.
        """
        every = [
            SessionKey("demo", *parts)
            for parts in product(("ann", ""), ("eve", ""), ("5", ""), ("", "order"))
        ]
        self.open(*every)
        here = [key for key in every if key.chat or key.user]
        assert self.open_at(said(user="eve", thread="5")) == sorted(here)

    def test_update_finds_no_session_of_another_place(self) -> None:
        self.open(
            SessionKey("demo", "ben"),
            SessionKey("demo", "ben", "ann"),
            SessionKey("demo", "ann", "ben"),
            SessionKey("demo", "Ann", "ann"),
            SessionKey("demo", "", "ben"),
            SessionKey("demo", "ann", "ann", "6"),
            SessionKey("demo", "", "", "6", "order"),
            SessionKey("other", "ann", "ann"),
            SessionKey("other"),
        )
        assert self.open_at(said(thread="5")) == []

    def test_update_outside_topics_and_of_nobody_finds_the_sessions_of_the_chat(self) -> None:
        chat = SessionKey("demo", "ann")
        self.open(chat, ANN, SessionKey("demo", "ann", "", "5"), SessionKey("demo", "", "ann"))
        assert self.open_at(said(user="")) == [chat]

    def test_closed_session_is_found_only_by_its_name(self) -> None:
        self.write(save(ANN, 1))
        assert self.open_at(said()) == []
        ((row,),) = (found.named for found in self.found(said(sessions=[ANN])))
        assert value(row) == 1

    def test_chat_that_is_not_the_bots_own_is_another_place(self) -> None:
        mine, business = ANN, SessionKey("demo", "business/b/ann", "ann")
        self.open(mine, business)
        assert self.open_at(said(business="b")) == [business]

    def test_named_sessions_are_found_wherever_they_are(self) -> None:
        order, missing = ANN.qualified("order"), SessionKey("demo", "ann", "ann", "5")
        outside = [BEN, SessionKey("other", "ann", "ann"), SessionKey("demo", "ben", qualifier="x")]
        keys = [order, *outside, ANN, missing, BEN.qualified("x"), BEN, ANN]
        for number, key in enumerate([ANN, order, *outside]):
            self.write(save(key, number))
        self.open(ANN, BEN)
        (found,) = self.found(said(sessions=keys))
        rows = [row and value(row) for row in found.named]
        assert rows == [1, 2, 3, 4, 0, None, None, 2, 0]
        assert [key for key, _ in found.open] == [ANN]

    def test_each_update_of_a_batch_finds_its_own(self) -> None:
        chat = SessionKey("demo", "ann")
        self.write(save(ANN, "a"), save(BEN, "b"))
        self.open(chat, ANN, BEN)
        found = self.found(
            said(sessions=[ANN]),
            said("demo:ben", chat="ben", user="ben", sessions=[ANN, BEN]),
            said(sessions=[ANN]),
            arrival(mailbox="demo:eve", sessions=[BEN]),
            said("demo:dan", user="dan"),
        )
        assert [[row and value(row) for row in each.named] for each in found] == [
            ["a"],
            ["a", "b"],
            ["a"],
            ["b"],
            [],
        ]
        places = [[key for key, _ in each.open] for each in (found[0], found[1], found[4])]
        assert places == [[chat, ANN], [BEN], [chat]]
        assert found[2].open == found[0].open

    def test_sessions_of_hundreds_of_places_are_found(self) -> None:
        keys = [SessionKey("demo", f"{each % 60}", f"{each}") for each in range(300)]
        self.open(*keys)
        found = self.found(
            *(said(str(each), chat=each.chat, user=each.user, sessions=[each]) for each in keys)
        )
        assert [[key for key, _ in each.open] for each in found] == [[key] for key in keys]
        assert all(row and row.is_open for each in found for row in each.named)

    # Refused

    def test_update_for_now_only_is_handled_in_a_free_mailbox(self) -> None:
        one = arrival("1", only_now=True)
        assert self.admit(one).decisions == [HANDLE]
        assert self.commit(done(one)).outcomes == [Outcome.COMMITTED]
        assert self.admit(arrival("1", only_now=True), token="two").decisions == [DUPLICATE]

    def test_update_for_now_only_is_refused_by_a_busy_mailbox_and_not_stored(self) -> None:
        first, again = arrival("1"), arrival("2", only_now=True)
        self.admit(first)
        admitted = self.admit(again, token="two")
        assert (admitted.decisions, admitted.waiting) == ([REFUSED], [])
        assert self.commit(done(first)).waiting == []
        assert self.left() == []
        assert self.admit(again, token="three").decisions == [HANDLE]

    def test_update_for_now_only_is_refused_where_older_ones_wait(self) -> None:
        second = arrival("2")
        self.admit(arrival("1"), second)
        self.commit(nothing("demo:ann", "one", go_on=False))
        again = arrival("3", only_now=True)
        admitted = self.admit(again, arrival("4", "demo:ben", only_now=True), token="two")
        assert admitted.decisions == [REFUSED, HANDLE]
        assert names(admitted.waiting) == ["2"]
        assert self.commit(done(second, "two")).waiting == []
        assert self.is_free("demo:ann")

    def test_update_for_now_only_is_refused_without_room_and_the_mailbox_free(self) -> None:
        admitted = self.admit(arrival("1", only_now=True, room=False))
        assert (admitted.decisions, admitted.waiting) == ([REFUSED], [])
        assert self.is_free("demo:ann")

    def test_refused_update_stands_in_nobodys_way(self) -> None:
        admitted = self.admit(
            arrival("1"), arrival("2", only_now=True), arrival("2"), arrival("1", only_now=True)
        )
        assert admitted.decisions == [HANDLE, REFUSED, STORED, REFUSED]

    # Opened

    def test_session_is_opened_by_a_commit(self) -> None:
        one = said()
        self.admit(one)
        self.commit(done(one, "one", save(ANN, 1), opens=[Opening(ANN, "m", END), Opening(BEN)]))
        ann, ben = self.row(ANN), self.row(BEN)
        assert (ann.version, value(ann), ann.is_open, ann.matcher) == (1, 1, True, "m")
        assert (ben.version, ben.data, ben.is_open, ben.matcher) == (0, None, True, "")
        assert (ann.expires_at, ben.expires_at) == (END, None)

    def test_opening_keeps_the_matcher_unless_it_brings_one(self) -> None:
        self.open(ANN, matcher="first")
        self.open(ANN)
        assert self.row(ANN).matcher == "first"
        self.open(ANN, ANN.qualified("order"), matcher="second")
        assert self.row(ANN).matcher == "second"
        one = arrival("1")
        self.admit(one)
        self.mailbox.record([sent(one, 0, "7", session=ANN)])
        self.commit(done(one, "one", save(ANN, 1), opens=[Opening(ANN)]))
        assert self.row(ANN).matcher == "second"
        self.open(ANN, matcher="")
        assert self.row(ANN).matcher == ""
        assert self.row(ANN.qualified("order")).matcher == "second"

    def test_open_session_is_found_with_its_matcher(self) -> None:
        self.open(ANN, matcher="m")
        self.open(ANN.qualified("order"))
        assert self.found(said())[0].open == [(ANN, "m"), (ANN.qualified("order"), "")]

    def test_call_opens_sessions_before_its_own(self) -> None:
        one = arrival("1")
        self.admit(one)
        call = sent(one, 0, "7", session=ANN)
        call.opens = [Opening(ANN, "m"), Opening(BEN, "n", END)]
        self.mailbox.record([call])
        assert (self.row(ANN).is_open, self.row(ANN).matcher) == (True, "m")
        assert (self.row(BEN).matcher, self.row(BEN).expires_at) == ("n", END)

    # Expired

    def test_session_is_live_to_the_very_end(self) -> None:
        self.write(Save(ANN, 0, b"[1]", END))
        self.open(ANN, matcher="m")
        with time_is(END):
            row = self.row(ANN)
            assert (value(row), row.is_open, row.expires_at) == ([1], True, END)
            assert self.found(said(sessions=[ANN])) == [Found([row], [(ANN, "m")])]
        with time_is(AFTER):
            row = self.row(ANN)
            assert (row.version, row.data, row.is_open, row.expires_at) == (1, None, False, None)
            assert self.found(said(sessions=[ANN])) == [Found([row], [])]
            (elsewhere,) = self.found(arrival(sessions=[ANN, BEN]))
            assert elsewhere.named == [row, None]

    def test_expired_session_that_is_saved_begins_empty(self) -> None:
        self.write(Save(ANN, 0, b"1", END))
        self.mailbox.track([Opening(ANN)], seen(ANN, "7"))
        with time_is(AFTER):
            self.write(Save(ANN, 1, b"2", LATER))
            row = self.row(ANN)
            assert (value(row), row.version, row.expires_at) == (2, 2, LATER)
            assert not row.is_open
            self.mailbox.track([], seen(ANN, "8"))
            self.mailbox.track([Opening(ANN)], seen(ANN, "9"))
            assert self.ids(ANN) == ["9"]
            assert value(self.row(ANN)) == 2

    def test_expired_session_that_is_opened_begins_empty(self) -> None:
        self.write(Save(ANN, 0, b"1", END), Save(BEN, 0, b"1", END))
        self.mailbox.track([Opening(ANN), Opening(BEN)], [*seen(ANN, "7"), *seen(BEN, "7")])
        with time_is(AFTER):
            one = arrival("1")
            self.admit(one)
            self.mailbox.record(
                [Sent(one.update, one.mailbox, 0, None, ANN, sent(one, 0, "8").messages)]
            )
            self.commit(done(one, opens=[Opening(BEN, expires_at=LATER)]))
            ann, ben = self.row(ANN), self.row(BEN)
            assert (ann.data, ann.is_open, ann.expires_at) == (None, True, None)
            assert (ben.data, ben.is_open, ben.expires_at) == (None, True, LATER)
            assert (self.ids(ANN), self.ids(BEN)) == (["8"], [])

    def test_expired_session_that_is_saved_and_opened_at_once_has_the_new_data(self) -> None:
        self.write(Save(ANN, 0, b"1", END))
        self.mailbox.track([Opening(ANN)], seen(ANN, "7"))
        with time_is(AFTER):
            one = said()
            self.admit(one)
            opens = [Opening(ANN, "m")]
            self.commit(done(one, "one", save(ANN, 2, 1), opens=opens, seen=seen(ANN, "8")))
            row = self.row(ANN)
            assert (value(row), row.is_open, row.matcher) == (2, True, "m")
            assert self.ids(ANN) == ["8"]

    def test_opened_session_expires_as_it_is_told_and_otherwise_as_before(self) -> None:
        self.write(Save(ANN, 0, b"1", END))
        self.open(ANN)
        assert self.row(ANN).expires_at == END
        self.open(ANN, expires_at=LATER)
        assert self.row(ANN).expires_at == LATER
        one = arrival("1")
        self.admit(one)
        self.mailbox.record([Sent(one.update, one.mailbox, 0, None, BEN, expires_at=END)])
        assert self.row(BEN).expires_at == END

    def test_saved_session_expires_as_it_is_told(self) -> None:
        self.write(Save(ANN, 0, b"1", END))
        self.write(Save(ANN, 1, b"1", LATER))
        assert self.row(ANN).expires_at == LATER
        self.write(Save(ANN, 2, b"1"))
        assert self.row(ANN).expires_at is None

    # Deleted

    def test_deleted_session_leaves_nothing(self) -> None:
        order, kept = ANN.qualified("order"), Save(SessionKey("demo", "ann"), 0, None)
        self.write(save(ANN, 1), save(order, 1), Save(BEN, 0, b"1", END, b"2"), kept)
        self.write(
            Save(ANN, 1, None, is_deleted=True),
            Save(BEN, 1, None, is_deleted=True),
            Save(order, 1, None),
        )
        assert self.load(ANN, BEN) == [None, None]
        assert (self.row(order).version, self.row(kept.key).version) == (2, 1)
        self.write(save(ANN, "new"))
        assert value(self.row(ANN)) == "new"

    def test_deleted_session_that_is_open_stays_open(self) -> None:
        self.write(save(ANN, 1), save(BEN, 1))
        self.mailbox.track([Opening(ANN, "m")], seen(ANN, "7"))
        one = arrival("1")
        self.admit(one)
        saves = [Save(ANN, 1, None, is_deleted=True), Save(BEN, 1, None, is_deleted=True)]
        self.commit(done(one, "one", *saves, opens=[Opening(BEN)]))
        ann, ben = self.row(ANN), self.row(BEN)
        assert (ann.data, ann.is_open, ann.matcher, ann.version) == (None, True, "m", 2)
        assert (ben.data, ben.is_open) == (None, True)
        assert self.ids(ANN) == ["7"]

    def test_deleted_session_that_had_expired_takes_its_slice_along(self) -> None:
        self.write(Save(ANN, 0, b"1", END))
        self.mailbox.track([Opening(ANN)], seen(ANN, "7"))
        with time_is(AFTER):
            self.write(Save(ANN, 1, None, is_deleted=True))
            assert self.load(ANN) == [None]
            assert self.ids(ANN) == []

    def test_session_that_was_saved_meanwhile_is_not_deleted(self) -> None:
        one = arrival("1")
        self.write(save(ANN, 1))
        self.admit(one)
        committed = self.commit(done(one, "one", Save(ANN, 0, None, is_deleted=True)))
        assert committed.outcomes == [Outcome.CONFLICT]
        assert value(self.row(ANN)) == 1

    # Ended

    def test_ended_session_is_closed_and_keeps_its_data(self) -> None:
        self.write(Save(ANN, 0, b"1", END))
        self.mailbox.track([Opening(ANN, "m")], seen(ANN, "7", "8"))
        self.mailbox.end([ANN])
        row = self.row(ANN)
        assert (value(row), row.version, row.expires_at) == (1, 1, END)
        assert (row.is_open, row.matcher) == (False, "")
        assert self.ids(ANN) == []
        assert self.open_at(said()) == []

    def test_ended_session_that_is_opened_begins_empty(self) -> None:
        self.mailbox.track([Opening(ANN, "m")], seen(ANN, "7"))
        self.mailbox.end([ANN])
        self.mailbox.track([], seen(ANN, "8"))
        self.mailbox.track([Opening(ANN)], seen(ANN, "7", "9"))
        assert self.ids(ANN) == ["7", "9"]
        assert self.row(ANN).matcher == ""

    def test_no_other_session_ends_with_it(self) -> None:
        others = [ANN.qualified("order"), SessionKey("demo", "ann"), SessionKey("other", "ann")]
        for each in (ANN, BEN, *others):
            self.mailbox.track([Opening(each)], seen(each, "7"))
        self.mailbox.end([BEN, SessionKey("demo", "gone"), ANN])
        self.mailbox.end([])
        assert [self.row(each).is_open for each in (ANN, BEN)] == [False, False]
        assert [self.ids(each) for each in (ANN, BEN)] == [[], []]
        assert [self.row(each).is_open for each in others] == [True] * len(others)
        assert [self.ids(each) for each in others] == [["7"]] * len(others)

    # Moved

    def test_sessions_of_a_group_follow_it_once(self) -> None:
        keys = [
            SessionKey("demo", OLD),
            SessionKey("demo", OLD, "ann"),
            SessionKey("demo", OLD, "ann", "5", "order"),
        ]
        stay = [SessionKey("demo", "-2"), SessionKey("other", OLD), SessionKey("demo", "", "ann")]
        self.write(*(Save(key, 0, b'"%d"' % each, END) for each, key in enumerate([*keys, *stay])))
        self.mailbox.track([Opening(key, "m") for key in keys], seen(keys[0], "7", "8"))
        moved = [moved_key(key) for key in keys]
        assert self.mailbox.move("demo", OLD, NEW) == keys
        assert self.mailbox.move("demo", OLD, NEW) == []
        assert self.load(*keys) == [None] * len(keys)
        rows = [self.row(key) for key in moved]
        assert [value(row) for row in rows] == ["0", "1", "2"]
        assert {(row.is_open, row.matcher, row.expires_at) for row in rows} == {(True, "m", END)}
        assert self.ids(moved[0]) == ["7", "8"]
        assert [value(row) for row in self.load(*stay)] == ["3", "4", "5"]

    def test_session_that_has_data_in_the_supergroup_stays(self) -> None:
        old, new = SessionKey("demo", OLD, "ann"), SessionKey("demo", NEW, "ann")
        self.write(save(old, "old"), save(new, "new"), save(old.qualified("order"), 1))
        self.mailbox.track([Opening(old), Opening(new)], [*seen(old, "1"), *seen(new, "2")])
        assert len(self.mailbox.move("demo", OLD, NEW)) == 1
        assert value(self.row(new)) == "new"
        assert value(self.row(old)) == "old"
        assert value(self.row(new.qualified("order"))) == 1
        assert (self.ids(old), self.ids(new)) == (["1"], ["2"])

    def test_session_without_data_in_the_supergroup_gives_way(self) -> None:
        """What was said there meanwhile is in the slice too, behind what was said before."""
        old, new = SessionKey("demo", OLD, "ann"), SessionKey("demo", NEW, "ann")
        self.write(save(old, "old"))
        self.mailbox.track([Opening(old, "m")], seen(old, "1"))
        self.mailbox.track([Opening(new)], seen(new, "2"))
        assert len(self.mailbox.move("demo", OLD, NEW)) == 1
        assert self.load(old) == [None]
        row = self.row(new)
        assert (value(row), row.is_open, row.matcher) == ("old", True, "m")
        assert self.ids(new) == ["1", "2"]

    def test_message_of_both_slices_is_in_the_slice_once(self) -> None:
        old, new = SessionKey("demo", OLD), SessionKey("demo", NEW)
        self.mailbox.track([Opening(old), Opening(new)], [*seen(old, "1"), *seen(new, "1", "2")])
        assert len(self.mailbox.move("demo", OLD, NEW)) == 1
        assert self.ids(new) == ["1", "2"]

    def test_closed_session_goes_on_as_the_open_one_that_gives_way(self) -> None:
        old, new = SessionKey("demo", OLD), SessionKey("demo", NEW)
        self.write(save(old, "old"))
        self.open(new, matcher="m", expires_at=END)
        assert len(self.mailbox.move("demo", OLD, NEW)) == 1
        row = self.row(new)
        assert (value(row), row.is_open, row.matcher) == ("old", True, "m")

    def test_commit_under_either_key_conflicts_with_the_move(self) -> None:
        old, new = SessionKey("demo", OLD), SessionKey("demo", NEW)
        self.write(save(old, 1))
        ann, ben = arrival("1"), arrival("2", "demo:ben")
        self.admit(ann, ben)
        assert len(self.mailbox.move("demo", OLD, NEW)) == 1
        committed = self.commit(done(ann, "one", save(old, 2, 1)), done(ben, "one", save(new, 3)))
        assert committed.outcomes == [Outcome.CONFLICT] * 2
        assert self.load(old) == [None]
        row = self.row(new)
        assert value(row) == 1
        assert self.commit(done(ann, "one", save(new, 2, row.version))).outcomes == [
            Outcome.COMMITTED
        ]


def moved_key(key: SessionKey) -> SessionKey:
    """Return the key that a group's session has in the supergroup."""
    return SessionKey(key.bot, NEW, key.user, key.thread, key.qualifier)
