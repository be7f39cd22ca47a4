"""How somebody outside the engine takes a turn in a mailbox: at once, or handed over in order."""

# ruff: noqa: S101, S106, S107 - these are tests

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import (
    Arrival,
    Commit,
    Committed,
    Effect,
    Found,
    Outcome,
    Waiting,
)
from botsessions.mailboxes.contract.cases import (
    DUPLICATE,
    HANDLE,
    REFUSED,
    SHORT_LEASE,
    STORED,
    MailboxCases,
    arrival,
    bare,
    done,
    failed,
    names,
    nothing,
    said,
    save,
    sent,
    short_leases,
    time_is,
    update,
    value,
)
from botsessions.mailboxes.contract.races import at_once, late

ANN, BOX = SessionKey("demo", "ann", "ann"), "demo:ann"
#: A session that belongs to no chat and no user: the project's own strategy chose its key.
ORDER = SessionKey("demo", "order/17")
#: The moment after which a session has expired, and the one after.
END = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
AFTER = END + timedelta(microseconds=1)


class AccessContract(MailboxCases):
    """The verbs `claim` and `withdraw`, what is handed over, and the key of an arrival."""

    def waits(self, id: str, *, behind: str = "1") -> Arrival:
        """Store an access behind an update that is being handled with the token `one`."""
        one = access(id)
        assert self.admit(arrival(behind)).decisions == [HANDLE]
        assert self.admit(one, token=id).decisions == [REFUSED]
        self.mailbox.store([one])
        return one

    def handed(self, id: str = "2") -> Arrival:
        """Hand the mailbox over to an access that waited for its turn."""
        one = self.waits(id)
        assert names(self.commit(done(arrival("1"))).waiting) == [id]
        assert self.commit(handed_over(one)).outcomes == [Outcome.COMMITTED]
        return one

    def is_held(self, token: str, mailbox: str = BOX) -> bool:
        return self.mailbox.renew([(mailbox, token)]) == {mailbox}

    # At once

    def test_access_to_a_free_mailbox_has_its_turn_at_once(self) -> None:
        self.write(save(ANN, {"n": 1}))
        one = access("1", sessions=[ANN])
        admitted = self.admit(one)
        assert (admitted.decisions, admitted.waiting) == ([HANDLE], [])
        assert value(admitted.sessions[0].named[0]) == {"n": 1}
        assert self.is_held("one")
        assert self.admit(arrival("2"), token="two").decisions == [STORED]
        committed = self.commit(Commit(BOX, "one", Effect.NOTHING, saves=[save(ANN, {"n": 2}, 1)]))
        assert (committed.outcomes, names(committed.waiting)) == ([Outcome.COMMITTED], ["2"])
        assert value(self.row(ANN)) == {"n": 2}

    def test_access_that_has_its_turn_at_once_is_never_stored(self) -> None:
        """Neither while it lasts, nor where its process is killed, nor when it is over."""
        with short_leases():
            self.admit(access("1"))
            time.sleep(SHORT_LEASE * 1.25)
            assert self.left() == []
        assert self.admit(access("1"), token="two").decisions == [HANDLE]
        assert self.commit(nothing(BOX, "two")) == Committed([Outcome.COMMITTED], [])
        assert self.admit(access("1"), token="three").decisions == [HANDLE]

    def test_refused_access_has_no_place_in_the_queue(self) -> None:
        first, late, second = arrival("1"), access("2"), arrival("3")
        self.admit(first)
        admitted = self.admit(late, arrival("4", "demo:ben"), token="two")
        assert (admitted.decisions, admitted.waiting) == ([REFUSED, HANDLE], [])
        self.admit(second, token="three")
        assert names(self.commit(done(first)).waiting) == ["3"]
        assert self.commit(done(second)) == Committed([Outcome.COMMITTED], [])
        assert self.left() == []

    # In its turn

    def test_stored_access_waits_in_order(self) -> None:
        """P2, P10: it comes behind what was stored before it, and before what comes later."""
        order = [arrival("9"), arrival("8"), access("7"), arrival("6"), access("5")]
        first, *_, last = order
        self.admit(first)
        for number, each in enumerate(order[1:]):
            if each.only_now:
                assert self.admit(each, token=f"{number}").decisions == [REFUSED]
                self.mailbox.store([each])
            else:
                assert self.admit(each, token=f"{number}").decisions == [STORED]
        for now, then in pairwise(order):
            assert bare(self.commit(done(now)).waiting) == [Waiting(BOX, "one", then.update)]
        assert self.commit(done(last)).waiting == []
        assert self.is_free(BOX)

    def test_access_waits_behind_an_update_that_is_tried_again(self) -> None:
        one = self.waits("2")
        assert names(self.commit(failed(arrival("1"))).waiting) == ["1"]
        assert names(self.commit(done(arrival("1"))).waiting) == ["2"]
        assert self.commit(handed_over(one)) == Committed([Outcome.COMMITTED], [])

    def test_access_stored_where_nobody_is_any_more_waits_to_be_claimed(self) -> None:
        """The holder may have left between its refusal and its place in the queue."""
        one = access("2")
        self.admit(arrival("1"))
        self.admit(one, token="two")
        assert self.commit(done(arrival("1"))).waiting == []
        self.mailbox.store([one])
        assert bare(self.mailbox.claim(BOX, "two")) == [Waiting(BOX, "two", one.update)]
        assert self.commit(done(one, "two")) == Committed([Outcome.COMMITTED], [])
        assert self.is_free(BOX)

    def test_access_stored_twice_has_one_turn(self) -> None:
        one = self.waits("2")
        self.mailbox.store([one])
        assert bare(self.commit(done(arrival("1"))).waiting) == [Waiting(BOX, "one", one.update)]
        assert self.commit(done(one)) == Committed([Outcome.COMMITTED], [])
        assert self.left() == []

    # Handed over

    def test_handed_over_mailbox_is_held_with_the_id_of_the_update(self) -> None:
        one = self.waits("2")
        self.commit(done(arrival("1")))
        assert self.is_held("one")
        assert not self.is_held("2")
        assert self.commit(handed_over(one)) == Committed([Outcome.COMMITTED], [])
        assert self.is_held("2")
        assert not self.is_held("one")

    def test_handed_over_mailbox_is_nobody_elses(self) -> None:
        self.handed()
        admitted = self.admit(arrival("3"), access("4"), token="two")
        assert (admitted.decisions, admitted.waiting) == ([STORED, REFUSED], [])
        assert self.mailbox.claim(BOX, "two") == []
        assert self.left() == []
        assert self.is_held("2")

    def test_handed_over_update_waits_still_and_counts_as_tried(self) -> None:
        with short_leases():
            one = self.handed()
            assert self.admit(one, token="two").decisions == [DUPLICATE]
            time.sleep(SHORT_LEASE * 1.25)
        (waiting,) = self.mailbox.recover(10, "two")
        assert bare([waiting]) == [Waiting(BOX, "two", one.update, attempts=1)]

    def test_handed_over_update_keeps_its_journal(self) -> None:
        with short_leases():
            one = self.waits("2")
            self.commit(done(arrival("1")))
            self.mailbox.record([sent(one, 0, "7")])
            self.commit(handed_over(one))
            time.sleep(SHORT_LEASE * 1.25)
        (waiting,) = self.mailbox.claim(BOX, "two")
        assert waiting.journal == [{"ordinal": 0, "result": {"ids": ["7"]}}]

    def test_turn_that_was_handed_over_is_done_with_the_new_token_and_goes_on(self) -> None:
        one, second, third = self.handed(), arrival("3"), access("4")
        self.admit(second, token="two")
        self.mailbox.store([third])
        committed = self.commit(done(one, "2", save(ANN, 1)))
        assert committed.outcomes == [Outcome.COMMITTED]
        assert bare(committed.waiting) == [Waiting(BOX, "2", second.update)]
        assert value(self.row(ANN)) == 1
        assert self.admit(one, token="three").decisions == [DUPLICATE]
        assert names(self.commit(done(second, "2")).waiting) == ["4"]
        assert self.commit(handed_over(third, "2")) == Committed([Outcome.COMMITTED], [])
        assert self.is_held("4")
        assert self.commit(done(third, "4")) == Committed([Outcome.COMMITTED], [])
        assert self.is_free(BOX)

    def test_holder_that_handed_over_writes_nothing_more(self) -> None:
        one = self.handed()
        assert self.commit(done(one, "one", save(ANN, 1))).outcomes == [Outcome.LEASE_LOST]
        assert self.commit(nothing(BOX, "one")) == Committed([Outcome.LEASE_LOST], [])
        assert self.load(ANN) == [None]
        assert self.is_held("2")

    def test_conflict_of_a_turn_that_was_handed_over_leaves_it_the_mailbox(self) -> None:
        one = self.handed()
        self.write(save(ANN, "new"))
        assert self.commit(done(one, "2", save(ANN, "old"))).outcomes == [Outcome.CONFLICT]
        assert self.is_held("2")
        assert self.commit(done(one, "2", save(ANN, "newer", 1))).outcomes == [Outcome.COMMITTED]

    def test_handed_over_lease_lasts_its_whole_time_from_then(self) -> None:
        with short_leases():
            one = self.waits("2")
        self.commit(done(arrival("1")))
        self.commit(handed_over(one))
        time.sleep(SHORT_LEASE * 1.25)
        assert self.left() == []
        assert self.is_held("2")

    def test_expired_lease_is_not_handed_over_to_two(self) -> None:
        """The holder was too slow: whoever took the mailbox meanwhile works on."""
        with short_leases():
            one = self.waits("2")
            self.commit(done(arrival("1")))
            time.sleep(SHORT_LEASE * 1.25)
            assert names(self.mailbox.claim(BOX, "two")) == ["2"]
        assert self.commit(handed_over(one)) == Committed([Outcome.LEASE_LOST], [])
        assert not self.is_held("2")
        assert self.is_held("two")
        self.commit(nothing(BOX, "two", go_on=False))
        assert bare(self.mailbox.claim(BOX, "three")) == [
            Waiting(BOX, "three", one.update, attempts=0)
        ]

    def test_expired_lease_of_a_turn_that_was_handed_over_has_an_heir(self) -> None:
        """The process that waited may be gone: its turn comes to others as tried once."""
        takers: list[Callable[[], Sequence[Waiting]]] = [
            lambda: self.mailbox.claim(BOX, "heir"),
            lambda: self.mailbox.recover(10, "heir"),
            lambda: self.admit(arrival("later"), token="heir").waiting,
        ]
        for number, take in enumerate(takers):
            with short_leases():
                one = self.waits(f"access{number}", behind=f"before{number}")
                self.commit(done(arrival(f"before{number}")))
                self.commit(handed_over(one))
                assert take() == []
                time.sleep(SHORT_LEASE * 1.25)
            assert bare(take()) == [Waiting(BOX, "heir", one.update, attempts=1)]
            assert not self.is_held(one.update.id)
            late = self.commit(done(one, one.update.id, save(ANN, "late")))
            assert late.outcomes == [Outcome.LEASE_LOST]
            self.commit(done(one, "heir"))
            self.commit(done(arrival("later"), "heir"))
        assert self.load(ANN) == [None]
        assert self.is_free(BOX)

    def test_each_entry_beside_one_that_is_handed_over_has_its_own_outcome(self) -> None:
        ben, eve, shared = arrival("3", "demo:ben"), arrival("4", "demo:eve"), SessionKey("demo")
        one = self.waits("2")
        self.commit(done(arrival("1")))
        self.write(save(shared, "new"))
        self.admit(ben, eve, arrival("5", "demo:ben"))
        committed = self.commit(
            done(eve, "one", save(shared, "old")),
            handed_over(one),
            handed_over(access("6", "demo:dan")),
            done(ben, "one", save(ANN, 1)),
        )
        assert committed.outcomes == [
            Outcome.CONFLICT,
            Outcome.COMMITTED,
            Outcome.LEASE_LOST,
            Outcome.COMMITTED,
        ]
        assert bare(committed.waiting) == [Waiting("demo:ben", "one", update("5"))]
        assert value(self.row(ANN)) == 1
        assert self.is_held("2")
        assert self.is_held("one", "demo:eve")

    def test_several_mailboxes_are_handed_over_at_once(self) -> None:
        boxes = [f"demo:{number}" for number in range(3)]
        accesses = [access(f"access-{box}", box) for box in boxes]
        self.mailbox.store(accesses)
        for box in boxes:
            assert names(self.mailbox.claim(box, "one")) == [f"access-{box}"]
        committed = self.commit(*map(handed_over, accesses))
        assert committed == Committed([Outcome.COMMITTED] * 3, [])
        held = [(box, f"access-{box}") for box in boxes]
        assert self.mailbox.renew([*held, *((box, "one") for box in boxes)]) == set(boxes)
        assert not any(self.is_held("one", box) for box in boxes)

    # Claimed

    def test_claimed_mailbox_is_held_and_what_is_next_is_told(self) -> None:
        second, third = arrival("2"), arrival("3")
        self.admit(arrival("1"), second, third)
        self.commit(nothing(BOX, "one", go_on=False))
        assert bare(self.mailbox.claim(BOX, "two")) == [Waiting(BOX, "two", second.update)]
        assert self.is_held("two")
        assert self.admit(arrival("4"), token="three").decisions == [STORED]
        assert names(self.commit(done(second, "two")).waiting) == ["3"]

    def test_update_that_is_tried_again_is_claimed_with_what_is_known_of_it(self) -> None:
        due = datetime.now(UTC) + timedelta(hours=1)
        first, second = arrival("1"), arrival("2")
        self.admit(first, second)
        self.mailbox.record([sent(first, 0, "7")])
        self.commit(failed(first, attempts=2, due_at=due, go_on=False))
        journal = [{"ordinal": 0, "result": {"ids": ["7"]}}]
        waiting = Waiting(BOX, "two", first.update, 2, journal, due)
        assert bare(self.mailbox.claim(BOX, "two")) == [waiting]

    def test_mailbox_that_is_held_is_not_claimed(self) -> None:
        self.admit(arrival("1"), arrival("2"))
        assert self.mailbox.claim(BOX, "two") == []
        assert self.is_held("one")
        assert not self.is_held("two")
        assert names(self.commit(done(arrival("1"))).waiting) == ["2"]

    def test_mailbox_in_which_nothing_waits_is_not_claimed(self) -> None:
        assert self.mailbox.claim(BOX, "two") == []
        assert not self.is_held("two")
        assert self.admit(arrival("1"), token="three").decisions == [HANDLE]

    def test_abandoned_mailbox_in_which_nothing_waits_is_free_after_a_claim(self) -> None:
        with short_leases():
            self.admit(arrival("1"))
            time.sleep(SHORT_LEASE * 1.25)
            assert self.mailbox.claim(BOX, "two") == []
        assert not self.is_held("two")
        assert self.is_free(BOX)

    def test_claim_leaves_other_mailboxes_alone(self) -> None:
        self.mailbox.store([access("1"), access("2", "demo:ann:ann"), access("3", "demo:Ann")])
        assert names(self.mailbox.claim(BOX, "two")) == ["1"]
        assert names(self.mailbox.recover(10, "three")) == ["2", "3"]

    # Withdrawn

    def test_withdrawn_update_is_passed_over(self) -> None:
        one, following = self.waits("2"), arrival("3")
        self.admit(following, token="two")
        self.mailbox.withdraw(one.update)
        assert bare(self.commit(done(arrival("1"))).waiting) == [
            Waiting(BOX, "one", following.update)
        ]
        assert self.admit(one, token="three").decisions == [DUPLICATE]

    def test_mailbox_in_which_only_a_withdrawn_update_waited_is_free(self) -> None:
        one = self.waits("2")
        self.mailbox.withdraw(one.update)
        assert self.commit(done(arrival("1"))) == Committed([Outcome.COMMITTED], [])
        assert self.left() == []
        assert self.mailbox.claim(BOX, "two") == []
        assert self.is_free(BOX)

    def test_update_withdrawn_in_its_turn_gives_the_mailbox_back(self) -> None:
        """It waited too long, and is handed over in the same moment."""
        one, following = self.handed(), arrival("3")
        self.admit(following, token="two")
        self.mailbox.withdraw(one.update)
        assert self.is_held("2")
        committed = self.commit(nothing(BOX, "2"))
        assert committed.outcomes == [Outcome.COMMITTED]
        assert bare(committed.waiting) == [Waiting(BOX, "2", following.update)]
        assert self.commit(done(following, "2")) == Committed([Outcome.COMMITTED], [])
        assert self.is_free(BOX)

    def test_withdrawn_update_is_handed_nothing(self) -> None:
        """Nobody waits for it: the mailbox would stand still for a whole LEASE.

        It is told as what it is, done already, and the lease is held still.
        """
        one, following = self.waits("2"), arrival("3")
        assert names(self.commit(done(arrival("1"))).waiting) == ["2"]
        self.admit(following, token="two")
        self.mailbox.withdraw(one.update)
        assert self.commit(nothing(BOX, "2")).outcomes == [Outcome.LEASE_LOST]
        assert self.commit(handed_over(one)) == Committed([Outcome.DUPLICATE], [])
        assert not self.is_held("2")
        assert self.is_held("one")
        assert names(self.commit(nothing(BOX, "one")).waiting) == ["3"]

    def test_only_the_update_that_is_named_is_withdrawn(self) -> None:
        mine, other = access("2"), Arrival(update("2", bot="other"), "other:ann", only_now=True)
        self.mailbox.store([mine, other, access("3")])
        self.mailbox.withdraw(mine.update)
        left = {each.mailbox: each.update.id for each in self.left()}
        assert left == {BOX: "3", "other:ann": "2"}

    def test_update_that_does_not_wait_cannot_be_withdrawn(self) -> None:
        """One that was never stored is still new; one that is done, or failed for good, is so."""
        first, parked, retried = arrival("1"), arrival("2", "demo:ben"), arrival("3", "demo:eve")
        self.admit(first, parked, retried)
        self.mailbox.withdraw(first.update)
        assert self.commit(done(first, "one", save(ANN, 1))).outcomes == [Outcome.COMMITTED]
        assert self.commit(failed(parked, Effect.PARKED)).outcomes == [Outcome.COMMITTED]
        for each in (first, parked, arrival("4")):
            self.mailbox.withdraw(each.update)
        again = self.admit(first, arrival("2", "demo:ben"), arrival("4"), token="two")
        assert again.decisions == [DUPLICATE, DUPLICATE, HANDLE]
        assert value(self.row(ANN)) == 1
        assert self.is_held("one", "demo:eve")

    # The key of an arrival

    def found(self, *arrivals: Arrival) -> list[Found]:
        """Return the sessions of these arrivals, of which `find` and `admit` say the same."""
        found = self.mailbox.find(arrivals)
        assert self.admit(*arrivals).sessions == found
        return found

    def test_session_of_another_key_is_found_open_through_the_key_of_the_arrival(self) -> None:
        self.open(ORDER, matcher="m")
        self.open(ORDER.qualified("cart"), ANN)
        (found,) = self.found(keyed(ORDER))
        assert found.open == [(ANN, ""), (ORDER, "m"), (ORDER.qualified("cart"), "")]
        (found,) = self.found(said())
        assert found.open == [(ANN, "")]

    def test_named_sessions_of_another_key_are_found_with_its_qualifiers(self) -> None:
        cart, notes = ORDER.qualified("cart"), ORDER.qualified("notes")
        self.write(save(ORDER, 0), save(cart, 1), save(ANN, 2), save(ANN.qualified("notes"), 3))
        self.open(cart)
        keys = [cart, notes, ANN, ORDER]
        (found,) = self.found(keyed(ORDER, sessions=keys))
        assert [row and value(row) for row in found.named] == [1, None, 2, 0]
        assert found.open == [(cart, "")]
        (found,) = self.found(said(sessions=keys))
        assert [row and value(row) for row in found.named] == [1, None, 2, 0]
        assert found.open == []

    def test_key_of_an_arrival_finds_its_parts_and_no_other_place(self) -> None:
        key = SessionKey("demo", "order/17", "eve", "5")
        here = [
            SessionKey("demo", "order/17"),
            SessionKey("demo", "order/17", "eve"),
            SessionKey("demo", "", "eve", "5"),
            SessionKey("demo", "", "eve", "5", "cart"),
            key,
        ]
        self.open(
            *here,
            SessionKey("demo", "order/18", "eve", "5"),
            SessionKey("demo", "order/17", "ann", "5"),
            SessionKey("demo", "ann", "eve"),
            SessionKey("other", "order/17"),
        )
        (found,) = self.found(keyed(key))
        assert [each for each, _ in found.open] == sorted(here)

    def test_session_of_both_places_of_an_arrival_is_found_once(self) -> None:
        both = SessionKey("demo", "", "ann")
        self.write(save(both, 1))
        self.open(both, ANN)
        for key in (SessionKey("demo", "order/17", "ann"), ANN, both):
            (found,) = self.found(keyed(key, sessions=[both]))
            assert value(found.named[0]) == 1
            assert [each for each, _ in found.open] == [both, ANN]

    def test_closed_or_expired_session_of_the_key_is_not_found_open(self) -> None:
        closed, expired = ORDER.qualified("closed"), ORDER.qualified("expired")
        self.write(save(closed, 1))
        self.open(expired, expires_at=END)
        with time_is(END):
            assert [key for key, _ in self.found(keyed(ORDER))[0].open] == [expired]
        with time_is(AFTER):
            assert self.found(keyed(ORDER))[0].open == []

    def test_each_arrival_of_a_batch_finds_the_sessions_of_its_own_key(self) -> None:
        other = SessionKey("demo", "order/18")
        self.open(ORDER, other)
        found = self.found(keyed(ORDER), said(), keyed(other), keyed(ORDER))
        places = [[key for key, _ in each.open] for each in found]
        assert places == [[ORDER], [], [other], [ORDER]]


class AccessRaceContract(MailboxCases):
    """The same, where several do it at once."""

    def queued(self, number: int) -> tuple[Arrival, Arrival]:
        """Return an update that is being handled, and an access that waits behind it."""
        first, one = arrival(mailbox=f"{number}"), access(mailbox=f"{number}")
        self.admit(first)
        self.mailbox.store([one])
        return first, one

    def is_stuck(self, mailbox: str, *tokens: str) -> bool:
        """Is a mailbox held still, though nobody knows of it?"""
        return bool(self.mailbox.renew([(mailbox, token) for token in tokens]))

    def test_mailbox_claimed_at_once_has_one_holder(self) -> None:
        for number in range(10):
            one = access(f"{number}")
            self.mailbox.store([one])
            tokens = [f"{number}-{each}" for each in range(5)]
            found = at_once(*(partial(self.mailbox.claim, BOX, token) for token in tokens))
            (waiting,) = (each for claimed in found for each in claimed)
            assert waiting.update == one.update
            assert self.mailbox.renew([(BOX, token) for token in tokens]) == {BOX}
            assert self.commit(done(one, waiting.token)) == Committed([Outcome.COMMITTED], [])

    def test_mailbox_taken_in_every_way_at_once_has_one_holder(self) -> None:
        for number in range(10):
            one, newcomer = access(f"{number}", f"{number}"), arrival(mailbox=f"{number}")
            self.mailbox.store([one])
            claimed, recovered, admitted = at_once(
                partial(late, self.mailbox.claim, one.mailbox, "claim"),
                partial(late, self.mailbox.recover, 10, "recover"),
                partial(late, self.mailbox.admit, [newcomer], "admit"),
            )
            assert admitted.decisions == [STORED]
            taken: list[Waiting] = [*claimed, *recovered, *admitted.waiting]
            (waiting,) = taken
            assert waiting.update == one.update
            assert names(self.commit(done(one, waiting.token)).waiting) == [newcomer.update.id]
            self.commit(done(newcomer, waiting.token))

    def test_access_stored_while_its_holder_leaves_is_never_stranded(self) -> None:
        """The holder goes on with it, or it claims the mailbox itself: one of both."""
        for number in range(40):
            first, one = arrival(mailbox=f"{number}"), access(mailbox=f"{number}")
            self.admit(first)

            def wait(one: Arrival = one) -> Sequence[Waiting]:
                self.mailbox.store([one])
                return self.mailbox.claim(one.mailbox, "two")

            committed, claimed = at_once(
                partial(late, self.commit, done(first)), partial(late, wait)
            )
            assert names([*committed.waiting, *claimed]) == [one.update.id]

    def test_access_withdrawn_while_its_holder_goes_on_leaves_no_mailbox_held(self) -> None:
        for number in range(100):
            first, one = self.queued(number)
            committed, _ = at_once(
                partial(late, self.commit, done(first)),
                partial(late, self.mailbox.withdraw, one.update),
            )
            assert committed.outcomes == [Outcome.COMMITTED]
            if committed.waiting:
                assert self.commit(nothing(one.mailbox, "one")).waiting == []
            assert not self.is_stuck(one.mailbox, "one")

    def test_access_withdrawn_while_it_is_handed_over_leaves_no_mailbox_held(self) -> None:
        """Its turn comes just when it waits no longer: one of both gives the mailbox back."""
        for number in range(40):
            first, one = self.queued(number)
            assert self.commit(done(first)).waiting

            def leave(one: Arrival = one) -> None:
                self.mailbox.withdraw(one.update)
                self.commit(nothing(one.mailbox, one.update.id))

            committed, _ = at_once(
                partial(late, self.commit, handed_over(one)), partial(late, leave)
            )
            if committed.outcomes != [Outcome.COMMITTED]:
                self.commit(nothing(one.mailbox, "one"))
            assert not self.is_stuck(one.mailbox, "one", one.update.id)


def access(id: str = "", mailbox: str = BOX, **fields: object) -> Arrival:
    """Return the arrival of an access: handled now or not at all, unless it is then stored."""
    return arrival(id, mailbox, only_now=True, **fields)


def handed_over(arrived: Arrival, token: str = "one") -> Commit:
    """Return the commit that gives an access the mailbox, now that its turn has come."""
    return Commit(arrived.mailbox, token, Effect.HANDED_OVER, arrived.update, attempts=1)


def keyed(key: SessionKey, sessions: Sequence[SessionKey] = ()) -> Arrival:
    """Return what `ann` says, in a mailbox that a strategy of the project's own chose."""
    one = said(f"{key}", sessions=sessions)
    one.key = key
    return one
