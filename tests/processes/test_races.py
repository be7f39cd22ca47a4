"""Several processes have updates of one session at the same moment."""

import pytest

from tests.processes.server import Fleet, id_of, said

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("number", [100, 1_000])
@pytest.mark.parametrize("bot", ["chat", "stored"])
def test_concurrent_increments_of_one_session_are_all_counted(
    fleet: Fleet, person: str, bot: str, number: int
) -> None:
    """S89, P1, promise 1."""
    fleet.deliver_all([said(person, "/count") for _ in range(number)], bot)

    fleet.until_count(person, number, within=20)
    assert fleet.database.count(person) == number
    assert fleet.database.leases(person) == 0


def test_synthetic_updates_lose_nothing_against_live_traffic(fleet: Fleet, person: str) -> None:
    """P10."""
    submitting = [fleet.run("tests.processes.submit", "chat", person, "100") for _ in range(2)]
    live = 0
    while any(each.poll() is None for each in submitting):
        fleet.deliver_all([said(person, "/count") for _ in range(10)])
        live += 10
        assert live < 20_000, "The submitting processes do not end."

    assert [each.wait() for each in submitting] == [0, 0]
    assert live > 10
    fleet.until_count(person, live + 200, within=20)
    assert fleet.database.count(person) == live + 200


def test_updates_accepted_during_a_slow_handler_run_in_accepted_order(
    fleet: Fleet, person: str
) -> None:
    """P2, promise 3."""
    slow = said(person, "/slow 1")
    fleet.deliver(slow)
    waiting = [said(person, "/append") for _ in range(20)]
    for number, update in enumerate(waiting):
        fleet.deliver(update, number)
    assert fleet.database.status(id_of(slow)) == "pending"

    fleet.until_count(person, 21)
    assert fleet.database.data(person) == {"count": 21, "order": [id_of(each) for each in waiting]}


@pytest.mark.parametrize("bot", ["chat", "stored"])
def test_an_update_delivered_five_times_at_once_has_one_effect(
    fleet: Fleet, person: str, bot: str
) -> None:
    """P4, promise 2."""
    updates = [said(person, "/append") for _ in range(10)]
    for update in updates:
        fleet.deliver_all([update] * 5, bot)

    fleet.until_count(person, 10)
    assert fleet.database.data(person) == {"count": 10, "order": [id_of(each) for each in updates]}


def test_a_lower_id_after_a_higher_one_still_runs(fleet: Fleet, person: str) -> None:
    """P4, promise 2."""
    for first, number in enumerate([905, 901, 903, 901, 905]):
        fleet.deliver(said(person, "/append", number), first)

    fleet.until_count(person, 3)
    assert fleet.database.data(person)["order"] == ["905", "901", "903"]
