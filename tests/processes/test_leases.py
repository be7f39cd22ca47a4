"""A process that holds a mailbox falls asleep, or takes long."""

import signal

import pytest

from tests.processes.server import POINTS, RECOVERED_WITHIN, Fleet, id_of, said

pytestmark = pytest.mark.processes


def test_a_process_paused_past_its_lease_cannot_commit(fleet: Fleet, person: str) -> None:
    """P3, promise 4: it wakes up while another process handles the same update."""
    sleeper = fleet.servers[0]
    update = said(person, "/sign 1.5 pause@before_commit")
    delivered = fleet.in_background(lambda: sleeper.post(update, "stored"))
    fleet.until(sleeper.is_paused)
    fleet.until(lambda: len(fleet.runs(update)) == 2)
    sleeper.signal(signal.SIGCONT)

    assert delivered.result(RECOVERED_WITHIN).status == 200
    # What it is told now comes behind the commit that it tries first.
    assert sleeper.post(said(person, "/count"), "stored").status == 200
    fleet.until_count(person, 2)
    first, second = fleet.runs(update)
    assert first != second
    assert fleet.database.data(person) == {"count": 2, "order": [f"{second}"]}


@pytest.mark.parametrize("point", POINTS)
def test_an_update_delivered_again_while_its_process_slept_has_one_effect(
    fleet: Fleet, person: str, point: str
) -> None:
    """P3, P4, P8, promise 4: at whatever point it falls asleep."""
    sleeper = fleet.servers[0]
    update = said(person, f"/say pause@{point}")
    delivered = fleet.in_background(lambda: sleeper.post(update))
    fleet.until(sleeper.is_paused)
    fleet.until(lambda: not fleet.database.leases(person, live=True))
    # The platform gave the answer up, and delivers the update elsewhere.
    fleet.deliver(update, first=1)
    fleet.until_count(person, 1)
    sleeper.signal(signal.SIGCONT)

    assert delivered.result(RECOVERED_WITHIN).status == 200
    assert sleeper.post(said(person, "/count")).status == 200
    fleet.until_count(person, 2)
    assert fleet.database.data(person) == {"count": 2, "order": [id_of(update)]}
    first, second = f"{id_of(update)} a", f"{id_of(update)} b"
    # Asleep between the platform's answer and its record, nobody else knows that it was sent.
    repeated = [first] if point == "sent" else []
    assert fleet.sent(person) == [first, *repeated, second]
    assert sorted(fleet.database.tracked(person)) == [first, *repeated, second]


def test_an_unacknowledged_update_whose_holder_slept_too_long_is_handled_once(
    fleet: Fleet, person: str
) -> None:
    """P3: nobody else knows of it, so it is the sleeper itself that admits it anew."""
    sleeper = fleet.servers[0]
    pause = said(person, "/count pause@before_commit")
    delivered = fleet.in_background(lambda: sleeper.post(pause))
    fleet.until(sleeper.is_paused)
    # Others take the mailbox over and give it back.
    fleet.until(lambda: not fleet.database.leases(person, live=True))
    fleet.deliver(said(person, "/count"), first=1)
    fleet.until_count(person, 1)
    sleeper.signal(signal.SIGCONT)

    assert delivered.result(RECOVERED_WITHIN).status == 200
    fleet.until_count(person, 2)
    assert fleet.database.count(person) == 2
    assert fleet.database.status(id_of(pause)) == "done"


def test_a_live_holder_renews_its_lease(fleet: Fleet, person: str) -> None:
    """P3."""
    holder = fleet.guest(LEASE="2", RENEW_EVERY="0.5")
    update = said(person, "/slow 3")
    holder.post(update)
    fleet.deliver(said(person, "/append"))

    fleet.until_count(person, 2)
    assert fleet.database.count(person) == 2
    assert len(fleet.runs(update)) == 1


@pytest.mark.postgresql
@pytest.mark.parametrize("started_fleet", ["postgresql"], indirect=True)
def test_a_process_paused_in_an_unfinished_admission_sends_nothing_afterwards(
    fleet: Fleet, person: str
) -> None:
    """P3, P8: the database undid the admission long before the lease would have run out."""
    guest = fleet.guest(LEASE="30", RENEW_EVERY="10")
    update = said(person, "/send pause@admitted")
    answer = fleet.in_background(lambda: guest.post(update))
    fleet.until(guest.is_paused)
    fleet.deliver(update)
    fleet.until_count(person, 1)
    guest.signal(signal.SIGCONT)
    answer.result(20)
    assert fleet.sent(person) == [id_of(update)]
