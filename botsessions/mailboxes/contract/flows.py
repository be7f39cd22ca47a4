"""The flow that waits in a session: saved with it, found where it waits, due when it is late."""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Outcome, Save
from botsessions.mailboxes.contract.cases import MailboxCases, arrival, done, said, save, time_is
from botsessions.mailboxes.contract.races import at_once

ANN, BEN = SessionKey("demo", "ann", "ann"), SessionKey("demo", "ben", "ben")
CHAT, USER = SessionKey("demo", "ann"), SessionKey("demo", "", "ann")

#: A deadline, and the moment before it.
DEADLINE = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=timezone(timedelta(hours=5)))
BEFORE = DEADLINE - timedelta(microseconds=1)
MUCH_LATER = DEADLINE + timedelta(minutes=1)
DAY = timedelta(days=1)


def flow(name: str = "chain", **state: Any) -> bytes:
    return msgspec.json.encode({"name": name, **state})


def waits(
    key: SessionKey,
    name: str = "chain",
    deadline: datetime | None = DEADLINE,
    version: int = 0,
    **fields: Any,
) -> Save:
    """Return what lets a flow wait in a session."""
    return Save(key, version, None, flow=flow(name), due_at=deadline, **fields)


def names(found: list[tuple[SessionKey, bytes]]) -> list[tuple[SessionKey, str]]:
    """Return the sessions that were found, each with the name of its flow."""
    return [(key, msgspec.json.decode(state)["name"]) for key, state in found]


class FlowContract(MailboxCases):
    """The verb `due`, and what the others do with a session's flow."""

    def due(self, *bots: str, limit: int = 100) -> list[tuple[SessionKey, str]]:
        return names(self.mailbox.due(bots or ("demo", "other"), limit))

    def test_flow_is_read_as_it_was_saved(self) -> None:
        self.write(waits(ANN), save(BEN, 1))
        read = self.row(ANN).flow
        assert read is not None
        assert msgspec.json.decode(read) == {"name": "chain"}
        assert (self.row(ANN).data, self.row(BEN).flow) == (None, None)

    def test_save_without_a_flow_ends_it(self) -> None:
        self.write(waits(ANN))
        self.write(save(ANN, {"n": 1}, 1))
        assert self.row(ANN).flow is None
        with time_is(MUCH_LATER):
            assert self.due() == []

    def test_version_is_checked(self) -> None:
        self.write(waits(ANN))
        one = arrival()
        self.admit(one)
        assert self.commit(done(one, "one", waits(ANN, "other"))).outcomes == [Outcome.CONFLICT]
        assert self.row(ANN).flow == self.row(ANN).flow
        with time_is(DEADLINE):
            assert self.due() == [(ANN, "chain")]

    def test_update_finds_every_flow_of_its_place(self) -> None:
        """Open or not, named by it or not, whatever the qualifier."""
        order = ANN.qualified("order")
        elsewhere = [BEN, SessionKey("other", "ann", "ann"), SessionKey("demo", "ben", "")]
        self.write(*[waits(key) for key in (ANN, order, CHAT, USER, *elsewhere)])
        one = said(sessions=[ANN, BEN])
        [found] = self.mailbox.find([one])
        assert sorted(key for key, _ in found.flows) == sorted([ANN, order, CHAT, USER])
        assert all(row.flow and row.version == 1 for _, row in found.flows)
        assert (found.open, found.named[0]) == ([], dict(found.flows)[ANN])
        assert self.admit(one).sessions == [found]

    def test_pressed_button_finds_them_too(self) -> None:
        self.write(waits(CHAT))
        one = arrival()
        one.update = msgspec.structs.replace(one.update, type="callback_query", action="yes")
        [found] = self.mailbox.find([one])
        assert [key for key, _ in found.flows] == [CHAT]

    def test_flow_is_due_from_its_deadline_on(self) -> None:
        self.write(waits(ANN), waits(BEN, deadline=None), save(CHAT, 1))
        with time_is(BEFORE):
            assert self.due() == []
        with time_is(DEADLINE):
            assert self.due() == [(ANN, "chain")]

    def test_it_is_found_once_and_again_only_after_a_while(self) -> None:
        """Whoever found it may have been killed."""
        self.write(waits(ANN))
        with time_is(DEADLINE):
            assert self.due() == [(ANN, "chain")]
            assert self.due() == []
        with time_is(MUCH_LATER):
            assert self.due() == [(ANN, "chain")]

    def test_new_deadline_counts_from_when_it_is_saved(self) -> None:
        self.write(waits(ANN))
        with time_is(DEADLINE):
            assert self.due() == [(ANN, "chain")]
            self.write(waits(ANN, "again", DEADLINE, 1))
            assert self.due() == [(ANN, "again")]
        self.write(waits(ANN, "late", MUCH_LATER, 2))
        with time_is(MUCH_LATER - timedelta(seconds=1)):
            assert self.due() == []

    def test_the_oldest_come_first_and_no_more_than_asked(self) -> None:
        keys = [SessionKey("demo", f"{number}") for number in range(5)]
        self.write(*[waits(k, f"{n}", DEADLINE - timedelta(seconds=n)) for n, k in enumerate(keys)])
        with time_is(DEADLINE):
            assert [name for _, name in self.due(limit=3)] == ["4", "3", "2"]
            assert [name for _, name in self.due(limit=3)] == ["1", "0"]

    def test_other_bots_are_left_alone(self) -> None:
        self.write(waits(ANN), waits(SessionKey("other", "x")))
        with time_is(DEADLINE):
            assert self.due("third") == []
            assert self.due("demo") == [(ANN, "chain")]

    def test_expired_session_has_no_flow(self) -> None:
        self.write(waits(ANN, expires_at=BEFORE), waits(BEN, expires_at=BEFORE))
        with time_is(DEADLINE):
            assert self.due() == []
            [found] = self.mailbox.find([said(sessions=[ANN])])
            assert found.flows == []
            assert self.row(ANN).flow is None
            self.open(ANN)
        assert self.row(ANN).flow is None
        with time_is(MUCH_LATER):
            assert self.due() == []

    def test_deleted_data_leaves_the_flow(self) -> None:
        self.write(Save(ANN, 0, b"1", flow=flow(), due_at=DEADLINE))
        self.write(Save(ANN, 1, None, flow=flow(), due_at=DEADLINE, is_deleted=True))
        assert self.row(ANN).flow is not None
        self.write(Save(ANN, 2, None, is_deleted=True))
        assert self.load(ANN) == [None]

    def test_opening_and_closing_leave_the_flow(self) -> None:
        self.write(waits(ANN))
        self.open(ANN)
        assert self.row(ANN).flow is not None
        self.mailbox.end([ANN])
        assert self.row(ANN).flow is not None

    def test_flow_moves_with_its_session(self) -> None:
        self.write(waits(SessionKey("demo", "-1", "ann")))
        self.mailbox.move("demo", "-1", "-1001")
        assert self.row(SessionKey("demo", "-1001", "ann")).flow is not None

    def test_flow_holds_what_json_holds(self) -> None:
        state = {"name": "chain", "said": ["\u00e9\U0001f600", "a\x00b", {"n": 1.5, "none": None}]}
        self.write(Save(ANN, 0, None, flow=msgspec.json.encode(state)))
        read = self.row(ANN).flow
        assert read is not None
        assert msgspec.json.decode(read) == {
            "name": "chain",
            "said": ["\u00e9\U0001f600", "a\ufffdb", {"n": 1.5, "none": None}],
        }


class FlowRaceContract(MailboxCases):
    """Sweepers that look at the same moment."""

    def test_each_is_found_by_one(self) -> None:
        keys = [SessionKey("demo", f"{number}") for number in range(200)]
        self.write(*[waits(key) for key in keys])
        found: list[SessionKey] = []

        def look() -> None:
            while batch := self.mailbox.due(["demo"], 7):
                found.extend(key for key, _ in batch)

        with time_is(DEADLINE):
            at_once(*[look] * 4)
            look()  # what one left alone that another had locked
        assert sorted(found) == sorted(keys)
