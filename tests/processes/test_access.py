"""Sessions from outside a handler, while servers handle updates of the same ones."""

import pytest

from tests.processes.server import Fleet, id_of, said

pytestmark = pytest.mark.processes


def keep_up(fleet: Fleet, person: str, live: int) -> None:
    """Wait until little is behind: whoever comes in a mailbox waits for what is before it."""
    fleet.until(lambda: fleet.database.count(person) > live - 20, within=30)


def test_accesses_lose_nothing_against_live_traffic(fleet: Fleet, person: str) -> None:
    """P10, P12: what two processes and live traffic add to one session is all there."""
    accessing = [
        fleet.run("tests.processes.access", "chat", person, "count", "20") for _ in range(2)
    ]
    live = 0
    while any(each.poll() is None for each in accessing):
        fleet.deliver_all([said(person, "/count") for _ in range(10)])
        live += 10
        keep_up(fleet, person, live)

    assert [each.wait() for each in accessing] == [0, 0]
    fleet.until_count(person, live + 40, within=20)
    assert fleet.database.count(person) == live + 40
    assert fleet.database.leases(person) == 0


def test_close_while_another_process_handles_an_update_comes_after_it(
    fleet: Fleet, person: str
) -> None:
    """S80: the handler that was running loses nothing, and what comes later is not tracked."""
    fleet.deliver(said(person, "/say"))
    hanging = said(person, "/hang 2")
    answer = fleet.in_background(lambda: fleet.deliver(hanging))
    fleet.until(lambda: bool(fleet.runs(hanging)))
    closing = fleet.run("tests.processes.access", "chat", person, "close", "1")
    assert closing.wait(20) == 0
    answer.result(20)
    assert fleet.database.status(id_of(hanging)) == "done"
    assert fleet.database.count(person) == 2
    assert fleet.database.tracked(person) == []

    fleet.deliver(said(person, "/count"))
    fleet.until_count(person, 3)
    assert fleet.database.tracked(person) == []


def test_message_tracked_while_another_process_clears_is_there_or_gone_in_both_places(
    fleet: Fleet, person: str
) -> None:
    """S76: what the slice holds in the end is what the platform shows of the bot."""
    fleet.deliver(said(person, "/send"))
    clearing = fleet.run("tests.processes.access", "chat", person, "clear", "10")
    sent = 1
    while clearing.poll() is None:
        fleet.deliver_all([said(person, "/send") for _ in range(5)])
        sent += 5
        keep_up(fleet, person, sent)
    assert clearing.wait() == 0
    fleet.until_count(person, sent, within=20)
    tracked = fleet.database.tracked(person)
    assert sorted(fleet.sent(person)) == sorted(tracked)
    assert len(tracked) < sent
