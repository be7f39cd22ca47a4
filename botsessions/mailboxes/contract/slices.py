"""Which messages are in a session's slice of the conversation, and in what order."""

# ruff: noqa: S101, S106 - these are tests

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Commit, Effect, Opening, Outcome, Save, Seen
from botsessions.mailboxes.contract.cases import (
    SHORT_LEASE,
    MailboxCases,
    arrival,
    done,
    failed,
    said,
    save,
    seen,
    sent,
    short_leases,
    time_is,
    value,
)
from botsessions.updates import Chat, Direction, Update

ANN, BEN = SessionKey("demo", "ann", "ann"), SessionKey("demo", "ben", "ben")
NOON = datetime(2031, 1, 1, 12, tzinfo=UTC)


class SliceContract(MailboxCases):
    """What `track`, `record` and `commit` put into the slices of sessions."""

    def writers(self) -> list[Callable[[Sequence[Opening], Sequence[Seen]], None]]:
        """Return the ways in which sessions are opened and messages tracked."""

        def commit(opens: Sequence[Opening], seen: Sequence[Seen]) -> None:
            one = said()
            self.admit(one)
            committed = self.commit(done(one, opens=opens, seen=seen))
            assert committed.outcomes == [Outcome.COMMITTED]

        def record(opens: Sequence[Opening], seen: Sequence[Seen]) -> None:
            call = sent(arrival(), 0)
            call.opens, call.seen = opens, seen
            self.mailbox.record([call])

        return [self.mailbox.track, commit, record]

    def test_message_is_tracked_as_it_was_said(self) -> None:
        for number, write in enumerate(self.writers()):
            key = ANN.qualified(f"{number}")
            fields: dict[str, Any] = {
                "kind": "photo",
                "text": "look",
                "business": "b",
                "is_service": True,
            }
            write([Opening(key)], seen(key, "7", date=NOON, **fields))
            (one,) = self.mailbox.tracked(key)
            assert (one.chat, one.message_id, one.user) == ("ann", "7", "ann")
            assert (one.kind, one.text, one.business, one.is_service) == tuple(fields.values())
            assert (one.direction, one.sent_at, one.edited_at) == (Direction.INCOMING, NOON, None)

    def test_closed_session_takes_no_message_and_fails_nothing(self) -> None:
        closed, ended, gone = ANN, ANN.qualified("ended"), ANN.qualified("gone")
        self.write(save(closed, 1), save(gone, 1))
        self.write(Save(gone, 1, None, is_deleted=True))
        self.open(ended, BEN)
        self.mailbox.end([ended])
        keys = [closed, ended, gone, ANN.qualified("never"), BEN]
        for number, write in enumerate(self.writers()):
            write([], [each for key in keys for each in seen(key, f"{number}")])
        assert [self.ids(key) for key in keys] == [[], [], [], [], ["0", "1", "2"]]
        assert self.load(gone, ANN.qualified("never")) == [None, None]

    def test_session_opened_with_the_message_takes_it(self) -> None:
        for number, write in enumerate(self.writers()):
            key = ANN.qualified(f"{number}")
            write([Opening(key, "m")], seen(key, "7"))
            assert self.ids(key) == ["7"]
            assert self.row(key).matcher == "m"

    def test_expired_session_takes_no_message(self) -> None:
        after = NOON.replace(microsecond=1)
        for number, write in enumerate(self.writers()):
            key = ANN.qualified(f"{number}")
            self.open(key, expires_at=NOON)
            with time_is(NOON):
                write([], seen(key, "7"))
                assert self.ids(key) == ["7"]
            with time_is(after):
                write([], seen(key, "8"))
            with time_is(NOON):
                assert self.ids(key) == ["7"]

    def test_message_is_tracked_once_in_each_session_whoever_tracks_it(self) -> None:
        order = ANN.qualified("order")
        both = [*seen(ANN, "7", "7"), *seen(order, "7")]
        for write in self.writers():
            write([Opening(ANN), Opening(order)], both)
        assert (self.ids(ANN), self.ids(order)) == (["7"], ["7"])

    def test_message_is_what_its_chat_and_its_id_say(self) -> None:
        """The ids of two chats are not each other's, nor those that differ in case."""
        (one,) = seen(ANN, "a")
        other = sent(arrival(), 0, "a", session=ANN)
        (message,) = other.messages
        self.mailbox.track([Opening(ANN)], [one, *seen(ANN, "A", "a ")])
        assert self.ids(ANN) == ["a", "A", "a "]
        assert message.chat == one.message.chat
        self.mailbox.record([other])
        assert self.ids(ANN) == ["a", "A", "a "]

    def test_messages_without_a_lasting_id_are_tracked_each_time(self) -> None:
        for write in self.writers():
            write([Opening(ANN)], seen(ANN, "", ""))
        assert self.ids(ANN) == [""] * 6

    def test_edited_message_has_the_new_text_and_kind_and_keeps_the_rest(self) -> None:
        for number, write in enumerate(self.writers()):
            key = ANN.qualified(f"{number}")
            ours = seen(key, "7", direction=Direction.OUTGOING, text="old", date=NOON)
            self.mailbox.track([Opening(key)], [*ours, *seen(key, "8")])
            write([], seen(key, "7", text="new", kind="photo", edited=NOON, user=None))
            first, second = self.mailbox.tracked(key)
            assert (first.text, first.kind, first.edited_at) == ("new", "photo", NOON)
            assert (first.direction, first.user, first.sent_at) == (Direction.OUTGOING, "ann", NOON)
            assert (second.message_id, second.text, second.edited_at) == ("8", "hi", None)

    def test_version_that_was_not_edited_changes_nothing(self) -> None:
        self.mailbox.track([Opening(ANN)], seen(ANN, "7", text="new", edited=NOON))
        self.mailbox.track([], seen(ANN, "7", text="old", kind="photo"))
        (one,) = self.mailbox.tracked(ANN)
        assert (one.text, one.kind, one.edited_at) == ("new", "text", NOON)

    def test_message_edited_in_the_same_batch_is_as_if_edited_later(self) -> None:
        ours = seen(ANN, "7", direction=Direction.OUTGOING, text="old", date=NOON)
        edited = seen(ANN, "7", text="new", kind="photo", edited=NOON, user=None)
        self.mailbox.track([Opening(ANN)], [*ours, *seen(ANN, "8"), *edited])
        first, second = self.mailbox.tracked(ANN)
        assert (first.message_id, second.message_id) == ("7", "8")
        assert (first.text, first.kind, first.edited_at) == ("new", "photo", NOON)
        assert (first.direction, first.user, first.sent_at) == (Direction.OUTGOING, "ann", NOON)

    # Deleted

    def without(self, key: SessionKey, *deleted: str) -> None:
        """Take messages out of a slice as those that are deleted are."""
        there = [each for each in self.mailbox.tracked(key) if each.message_id in deleted]
        assert [each.message_id for each in there] == [*deleted]
        self.mailbox.mark_deleted({"deleted": there[:1], "too_old": there[1:]})

    def test_deleted_messages_are_in_the_slice_no_more(self) -> None:
        self.mailbox.track([Opening(ANN)], seen(ANN, "7", "8", "", "9"))
        self.mailbox.track([Opening(BEN)], seen(BEN, "7"))
        self.without(ANN, "7", "8")
        assert (self.ids(ANN), self.ids(BEN)) == (["", "9"], ["7"])
        self.without(ANN, "")
        assert self.ids(ANN) == ["9"]
        self.mailbox.mark_deleted({})
        self.mailbox.delete_later("demo", "demo", self.mailbox.tracked(ANN), 100)
        assert (self.ids(ANN), self.ids(BEN)) == ([], ["7"])

    def test_edit_of_a_deleted_message_does_not_bring_it_back(self) -> None:
        for number, write in enumerate(self.writers()):
            key = ANN.qualified(f"{number}")
            self.mailbox.track([Opening(key)], seen(key, "7", "8", "9"))
            self.without(key, "7")
            self.mailbox.delete_later("demo", "demo", self.mailbox.tracked(key)[:1], 100)
            write([], seen(key, "7", "8", "9", text="new", edited=NOON))
            (one,) = self.mailbox.tracked(key)
            assert (one.message_id, one.text) == ("9", "new")

    def test_deleted_message_that_is_tracked_anew_is_back_as_it_is_then(self) -> None:
        for number, write in enumerate(self.writers()):
            key = ANN.qualified(f"{number}")
            self.mailbox.track([Opening(key)], seen(key, "7", text="old", edited=NOON))
            self.without(key, "7")
            write([], seen(key, "7", text="new", kind="photo"))
            (one,) = self.mailbox.tracked(key)
            assert (one.text, one.kind, one.edited_at) == ("new", "photo", None)
            write([], seen(key, "7", text="newer", edited=NOON))
            (one,) = self.mailbox.tracked(key)
            assert one.text == "newer"

    def test_messages_that_are_gone_are_in_no_slice_of_their_chat(self) -> None:
        other = ANN.qualified("other")
        for key in (ANN, other, BEN):
            self.mailbox.track([Opening(key)], seen(key, "7", "8", "9", ""))
        self.mark_gone("7", "9", "unknown")
        assert (self.ids(ANN), self.ids(other)) == (["8", ""], ["8", ""])
        assert self.ids(BEN) == ["7", "8", "9", ""]
        for elsewhere in ({"business": "b1"}, {"bot": "other"}, {"chat": None}):
            self.mark_gone("8", **elsewhere)
        self.mark_gone()
        assert self.ids(ANN) == ["8", ""]
        self.mark_gone(*(f"{number}" for number in range(2000)))
        assert (self.ids(ANN), self.ids(other)) == ([""], [""])

    def mark_gone(self, *ids: str, **where: Any) -> None:
        parts: dict[str, Any] = {"bot": "demo", "chat": Chat(ANN.chat)} | where
        self.mailbox.mark_gone(Update(id="1", type="deleted_messages", deleted=ids, **parts))

    def test_message_that_was_forgotten_is_not_known_any_more(self) -> None:
        """An edit is then the first that is heard of it."""
        self.mailbox.track([Opening(ANN), Opening(BEN)], [*seen(ANN, "7"), *seen(BEN, "7", "8")])
        self.without(ANN, "7")
        self.without(BEN, "7")
        self.mailbox.forget_deleted([ANN])
        assert self.ids(BEN) == ["8"]
        for key in (ANN, BEN):
            self.mailbox.track([], seen(key, "7", edited=NOON))
        assert (self.ids(ANN), self.ids(BEN)) == (["7"], ["8"])
        self.mailbox.end([BEN])
        self.mailbox.track([Opening(BEN)], seen(BEN, "7", edited=NOON))
        assert self.ids(BEN) == ["7"]

    def test_text_is_kept_only_where_it_is_to_be(self) -> None:
        (secret,) = seen(ANN, "7", text="a secret")
        secret.keep_text = False
        self.mailbox.track([Opening(ANN)], [secret, *seen(ANN, "8")])
        assert [each.text for each in self.mailbox.tracked(ANN)] == ["", "hi"]

    def test_what_was_said_comes_before_what_was_answered(self) -> None:
        first, second = said(), said()
        self.admit(first)
        answer, another = sent(first, 0, "2", session=ANN), sent(first, 1, "3", "4", session=ANN)
        answer.opens, answer.seen = [Opening(ANN)], seen(ANN, "1")
        self.mailbox.record([answer, another])
        self.commit(done(first, seen=seen(ANN, "5", "1")))
        self.admit(second)
        outgoing = seen(ANN, "7", direction=Direction.OUTGOING)
        self.commit(done(second, seen=[*seen(ANN, "6"), *outgoing, *seen(ANN, "", "0")]))
        tracked = self.mailbox.tracked(ANN)
        assert [each.message_id for each in tracked] == ["1", "2", "3", "4", "5", "6", "7", "", "0"]
        assert [each.id for each in tracked] == sorted(each.id for each in tracked)
        outgoing_ids = [each.message_id for each in tracked if each.direction == "outgoing"]
        assert outgoing_ids == ["2", "3", "4", "7"]

    def test_hundreds_of_messages_keep_their_order(self) -> None:
        keys = [ANN.qualified(f"{number % 7}") for number in range(350)]
        messages = [each for n, key in enumerate(keys) for each in seen(key, f"{999 - n}")]
        for write in self.writers():
            write([Opening(key) for key in keys], messages)
        for number in range(7):
            expected = [f"{999 - each}" for each in range(number, 350, 7)]
            assert self.ids(ANN.qualified(f"{number}")) == expected

    def test_failed_update_tracks_what_was_said(self) -> None:
        for number, effect in enumerate((Effect.RETRY, Effect.PARKED)):
            key, one = ANN.qualified(f"{number}"), said(f"demo:{number}")
            self.admit(one)
            self.commit(failed(one, effect, opens=[Opening(key)], seen=seen(key, "7")))
            assert self.ids(key) == ["7"]

    # Rejected

    def rejected(self, *commits: Commit) -> list[Outcome]:
        """Commit these, which open ANN and track in it and in BEN, between two that do as well."""
        before, after = said("demo:before"), said("demo:after")
        self.admit(before, after, token="fine")
        self.open(BEN)
        for each in commits:
            each.opens, each.seen = [Opening(ANN, "m")], [*seen(ANN, "7"), *seen(BEN, "7")]
        fine = seen(BEN, "8"), seen(BEN, "9")
        outcomes = self.commit(
            done(before, "fine", seen=fine[0], opens=[Opening(BEN, "b")]),
            *commits,
            done(after, "fine", seen=fine[1]),
        ).outcomes
        assert (outcomes[0], outcomes[-1]) == (Outcome.COMMITTED, Outcome.COMMITTED)
        assert (self.ids(BEN), self.row(BEN).matcher) == (["8", "9"], "b")
        assert self.ids(ANN) == []
        return outcomes[1:-1]

    def test_commit_without_its_lease_opens_and_tracks_nothing(self) -> None:
        with short_leases():
            one = arrival("1")
            self.admit(one)
            time.sleep(SHORT_LEASE * 1.25)
            self.admit(arrival("2"), token="two")
        other = arrival("3", "demo:ben")
        assert self.rejected(done(one), done(other)) == [Outcome.LEASE_LOST] * 2
        assert self.load(ANN) == [None]

    def test_commit_in_conflict_opens_and_tracks_nothing(self) -> None:
        one, key = arrival("1"), SessionKey("demo", "all")
        self.write(save(key, "new"), save(ANN, 1))
        self.admit(one)
        assert self.rejected(done(one, "one", save(key, "old"))) == [Outcome.CONFLICT]
        assert (self.row(ANN).is_open, self.row(ANN).matcher, value(self.row(key))) == (
            False,
            "",
            "new",
        )

    def test_rival_of_an_entry_opens_and_tracks_nothing(self) -> None:
        first, second, key = arrival("1"), arrival("2", "demo:ben"), SessionKey("demo", "all")
        self.admit(first, second)
        self.open(ANN)
        committed = self.commit(
            done(first, "one", save(key, 1), seen=seen(ANN, "7")),
            done(second, "one", save(key, 2), seen=seen(ANN, "8"), opens=[Opening(BEN)]),
        )
        assert committed.outcomes == [Outcome.COMMITTED, Outcome.CONFLICT]
        assert self.ids(ANN) == ["7"]
        assert self.load(BEN) == [None]

    def test_commit_of_what_is_done_opens_and_tracks_nothing(self) -> None:
        one = arrival("1")
        self.admit(one)
        self.commit(done(one))
        self.admit(arrival("2"), token="two")
        assert self.rejected(done(one, "two")) == [Outcome.DUPLICATE]
        assert self.load(ANN) == [None]
