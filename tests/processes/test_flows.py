"""Flows when processes race, restart and die."""

import json
import time
from typing import Any
from uuid import uuid4

import pytest

from tests.processes.server import Fleet, said

pytestmark = pytest.mark.processes

#: How late a running server may be with a deadline, and what a loaded machine adds.
LATE = 0.5 + 2.0


def test_answers_that_race_their_timeouts_have_one_winner_each(fleet: Fleet) -> None:
    """P21: 1,000 times, the answer at one process and the deadline found by any."""
    people = [f"{uuid4().hex[:8]}-{number}" for number in range(1_000)]
    seconds = 3.0
    ends = time.monotonic() + seconds
    fleet.deliver_all([said(person, f"/wait {seconds}") for person in people])
    assert time.monotonic() < ends, "This machine is too slow for the race."
    # Some answer in time and some too late, however fast the machine is; the others race.
    early, racing, late = people[:50], people[50:950], people[950:]
    fleet.deliver_all([said(person, "/count") for person in early])
    time.sleep(max(ends - time.monotonic(), 0))
    fleet.deliver_all([said(person, "/count") for person in racing])
    time.sleep(2)
    fleet.deliver_all([said(person, "/count") for person in late])

    def orders() -> list[list[str]]:
        rows = fleet.database.query(
            "SELECT chat, data FROM botsessions_botsession WHERE chat LIKE ?", f"{people[0][:0]}%"
        )
        found: dict[str, Any] = {
            chat: json.loads(data) if isinstance(data, str) else data for chat, data in rows
        }
        return [(found.get(person) or {"order": []})["order"] for person in people]

    fleet.until(lambda: all(orders()), 10, "every waiter has ended")
    won = orders()
    assert {*map(tuple, won)} == {("answer",), ("timeout",)}, "both are to win some"
    # Where the timeout won, the answer was an ordinary message.
    for person, order in zip(people, won, strict=True):
        assert fleet.sent(person) == (["too late"] if order == ["timeout"] else [])
    counted = 1_000 + sum(order == ["timeout"] for order in won)
    assert sum(fleet.database.count(person) for person in people) == counted
    left = fleet.database.query(
        "SELECT count(*) FROM botsessions_botsession WHERE due_at IS NOT NULL"
    )
    assert left == [(0,)]


def test_flows_go_on_after_a_restart_of_everything(fleet: Fleet, person: str) -> None:
    """P19, P20: and the timeout comes by itself."""
    other = f"{person}-b"
    fleet.deliver(said(person, "/form"))
    fleet.deliver(said(person, "one"))
    fleet.deliver(said(other, "/wait 3"))
    began = time.monotonic()
    fleet.until_count(person, 1)
    for server in list(fleet.servers):
        server.kill()
    fleet.complete()

    fleet.deliver(said(person, "two"))
    fleet.deliver(said(person, "three"))
    fleet.until_count(person, 3)
    assert fleet.database.data(person)["order"] == ["one", "two", "three"]
    assert fleet.sent(person) == ["question 0", "question 1", "question 2", "done"]

    fleet.until_count(other, 1, 10)
    assert fleet.database.data(other)["order"] == ["timeout"]
    assert time.monotonic() - began >= 3
    assert fleet.sent(other) == ["too late"]


@pytest.mark.parametrize("point", ["admitted", "handling", "sent", "before_commit", "committed"])
def test_conversation_whose_process_is_killed_goes_on_where_it_was(
    fleet: Fleet, person: str, point: str
) -> None:
    """P6, P19."""
    fleet.deliver(said(person, "/form"), 1)
    fleet.deliver(said(person, "one"), 1)
    for server in fleet.servers:
        server.is_doomed = True  # whoever holds the mailbox
    fleet.deliver(said(person, f"two kill@{point}"))
    fleet.until(lambda: not all(server.is_alive for server in fleet.servers))
    for server in fleet.servers:
        server.is_doomed = not server.is_alive
    fleet.until_count(person, 2)
    fleet.deliver(said(person, "three"), 1)

    fleet.until_count(person, 3)
    assert fleet.database.data(person)["order"] == ["one", "two", "three"]
    asked = ["question 0", "question 1", "question 2", "done"]
    if point == "sent":
        asked.insert(2, "question 2")  # killed before it was recorded that it was sent
    assert fleet.sent(person) == asked


@pytest.mark.parametrize("point", ["admitted", "handling", "sent", "before_commit", "committed"])
def test_deadline_whose_process_is_killed_is_told_once(
    fleet: Fleet, person: str, point: str
) -> None:
    """P20: whoever has told it may be killed at any point."""
    begun = said(person, "/wait 1")
    begun["message"]["from"]["name"] = f"kill@{point}"
    fleet.deliver(begun)
    fleet.until(lambda: not all(server.is_alive for server in fleet.servers), 1 + LATE)
    for server in fleet.servers:
        server.is_doomed |= not server.is_alive

    fleet.until_count(person, 1)
    time.sleep(0.5)
    assert fleet.database.data(person)["order"] == ["timeout"]
    assert fleet.sent(person) == ["too late"] * (2 if point == "sent" else 1)
