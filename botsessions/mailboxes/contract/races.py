"""What every mailbox is tested with when several threads use it at once."""

# ruff: noqa: S101, S311 - these are tests

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, TypeVar

from django.db import connections

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import (
    Admitted,
    Arrival,
    Commit,
    Committed,
    Effect,
    Opening,
    Outcome,
)
from botsessions.mailboxes.contract.cases import (
    HANDLE,
    SHORT_LEASE,
    STORED,
    MailboxCases,
    arrival,
    done,
    names,
    nothing,
    save,
    seen,
    short_leases,
    value,
)

Result = TypeVar("Result")


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

    def test_session_that_ends_while_a_commit_tracks_in_it_is_empty(self) -> None:
        key = SessionKey("demo", "ann")
        for number in range(40):
            one = arrival()
            self.admit(one)
            self.mailbox.track([Opening(key)], seen(key, "before"))
            tracking = done(one, "one", save(key, number, number), seen=seen(key, "7", "", "8"))
            committed, _ = at_once(
                partial(late, self.commit, tracking), partial(late, self.mailbox.end, [key])
            )
            assert committed == Committed([Outcome.COMMITTED], [])
            row = self.row(key)
            assert (row.is_open, value(row), self.ids(key)) == (False, number, [])

    def test_session_that_ends_while_it_is_opened_is_one_of_both(self) -> None:
        key = SessionKey("demo", "ann")
        for _ in range(40):
            self.mailbox.track([Opening(key)], seen(key, "before"))
            at_once(
                partial(late, self.mailbox.track, [Opening(key)], seen(key, "7")),
                partial(late, self.mailbox.end, [key]),
            )
            found = self.ids(key)
            # Opened just before its end, or just after.
            assert found in ([], ["7"])
            assert self.row(key).is_open == bool(found)
            self.mailbox.end([key])

    def test_commits_that_track_in_one_session_at_once_lose_nothing(self) -> None:
        key, threads, rounds = SessionKey("demo", "all"), 4, 20
        self.open(key)
        barrier = Barrier(threads)

        def work(thread: int) -> None:
            for number in range(rounds):
                one = arrival(mailbox=f"demo:{thread}")
                self.admit(one)
                ids = [f"{number}-{thread}-{each}" for each in range(3)]
                barrier.wait(20)
                messages = [*seen(key, *ids, f"{number}"), *seen(key, "")]
                assert self.commit(done(one, seen=messages)).outcomes == [Outcome.COMMITTED]

        at_once(*(partial(work, thread) for thread in range(threads)))
        found = self.ids(key)
        assert found.count("") == threads * rounds
        own = [[id for id in found if f"-{thread}-" in id] for thread in range(threads)]
        for thread, ids in enumerate(own):
            assert ids == [f"{n}-{thread}-{each}" for n in range(rounds) for each in range(3)]
        # What all of them saw is there once.
        assert len(found) == threads * rounds * 4 + rounds

    def test_session_opened_at_once_is_one_with_all_its_messages(self) -> None:
        for number in range(10):
            key = SessionKey("demo", f"{number}")
            at_once(
                *(
                    partial(self.mailbox.track, [Opening(key)], seen(key, f"{each}", "same"))
                    for each in range(4)
                )
            )
            assert sorted(self.ids(key)) == ["0", "1", "2", "3", "same"]

    def test_commits_that_track_in_each_others_sessions_are_all_written(self) -> None:
        """Each holds what the other waits for: the database ends one, which is run again."""
        keys = [SessionKey("demo", "ann"), SessionKey("demo", "ben")]
        self.open(*keys)
        for number in range(4):
            arrivals = [arrival(mailbox=f"demo:{each}") for each in range(2)]
            self.admit(*arrivals)
            commits = [
                done(one, "one", save(own, number, number), seen=seen(other, f"{number}"))
                for one, own, other in zip(arrivals, keys, reversed(keys), strict=True)
            ]
            committed = at_once(*(partial(self.commit, each) for each in commits))
            assert committed == [Committed([Outcome.COMMITTED], [])] * 2
        assert [self.ids(key) for key in keys] == [["0", "1", "2", "3"]] * 2

    def test_group_that_moves_twice_at_once_moves_once(self) -> None:
        for number in range(10):
            keys = [SessionKey("demo", f"-{number}", f"{each}") for each in range(3)]
            self.write(*(save(key, key.user) for key in keys))
            move = partial(self.mailbox.move, "demo", f"-{number}", f"-100{number}")
            assert sorted(map(len, at_once(move, move))) == [0, len(keys)]
            assert self.load(*keys) == [None] * len(keys)

    def test_commit_while_its_session_moves_is_in_conflict_or_moves_too(self) -> None:
        for number in range(20):
            old, new = SessionKey("demo", f"-{number}"), SessionKey("demo", f"-100{number}")
            one = arrival()
            self.write(save(old, "old"))
            self.open(old)
            self.admit(one)
            writing = done(one, "one", save(old, "new", 1), seen=seen(old, "7"))
            committed, moved = at_once(
                partial(late, self.commit, writing),
                partial(late, self.mailbox.move, "demo", old.chat, new.chat),
            )
            is_late = committed.outcomes == [Outcome.CONFLICT]
            assert is_late or committed.outcomes == [Outcome.COMMITTED]
            assert (moved, self.load(old)) == ([old], [None])
            assert value(self.row(new)) == ("old" if is_late else "new")
            assert self.ids(new) == ([] if is_late else ["7"])
            self.commit(nothing(one.mailbox, "one"))


def late(work: Callable[..., Result], *arguments: Any) -> Result:
    """Do it after a pause."""
    pause()
    return work(*arguments)


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
