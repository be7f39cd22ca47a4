"""A process that holds a mailbox falls asleep, or takes long."""

import signal

import pytest

from tests.processes.server import LEASE, RECOVERED_WITHIN, Fleet, id_of, said

pytestmark = pytest.mark.processes


def test_a_process_paused_past_its_lease_cannot_commit(fleet: Fleet, person: str) -> None:
    """P3, promise 4."""
    sleeper = fleet.servers[0]
    update = said(person, "/slow 0.2 pause@before_commit")
    assert sleeper.post(update, "stored").status == 200
    fleet.until(sleeper.is_paused)

    fleet.until_count(person, 1)
    sleeper.signal(signal.SIGCONT)

    # What it says next comes behind the commit that it tries first.
    assert sleeper.post(said(person, "/count"), "stored").status == 200
    fleet.until_count(person, 2)
    assert fleet.database.count(person) == 2
    assert len(set(fleet.runs(update))) == 2


def test_a_process_paused_past_its_lease_sends_nothing_more(fleet: Fleet, person: str) -> None:
    """P3, P8."""
    sleeper = fleet.servers[0]
    update = said(person, "/send pause@handling")
    fleet.deliver(said(person, "/slow 0.2"), bot="stored")  # the sleeper answers before it sleeps
    assert sleeper.post(update, "stored").status == 200
    fleet.until(sleeper.is_paused)

    fleet.until_count(person, 2)
    sleeper.signal(signal.SIGCONT)
    sleeper.post(said(person, "/count"), "stored")
    fleet.until_count(person, 3)
    assert fleet.sent(person, "stored") == [id_of(update)]
    assert fleet.database.tracked(person) == [id_of(update)]


def test_an_unacknowledged_update_whose_holder_slept_too_long_is_handled_once(
    fleet: Fleet, person: str
) -> None:
    """P3: nobody else knows of it, so it is the sleeper itself that admits it anew."""
    sleeper = fleet.servers[0]
    pause = said(person, "/count pause@before_commit")
    delivered = fleet.in_background(lambda: sleeper.post(pause))
    fleet.until(sleeper.is_paused)
    # Others take the mailbox over and give it back.
    fleet.until(lambda: not fleet.database.live_leases(person))
    fleet.deliver(said(person, "/count"), first=1)
    fleet.until_count(person, 1)
    sleeper.signal(signal.SIGCONT)

    assert delivered.result(RECOVERED_WITHIN).status == 200
    fleet.until_count(person, 2)
    assert fleet.database.count(person) == 2
    assert fleet.database.status(id_of(pause)) == "done"


def test_a_live_holder_renews_its_lease(fleet: Fleet, person: str) -> None:
    """P3."""
    update = said(person, f"/slow {2 * LEASE}")
    fleet.deliver(update)
    fleet.deliver(said(person, "/count"), first=1)

    fleet.until_count(person, 2, within=3 * RECOVERED_WITHIN)
    assert fleet.database.count(person) == 2
    assert len(fleet.runs(update)) == 1
