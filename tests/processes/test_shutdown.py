"""A process is asked to end while it handles updates."""

import time

import pytest

from tests.processes.server import MARGIN, Fleet, id_of, said

pytestmark = pytest.mark.processes


def test_a_handler_that_ends_soon_is_waited_for(fleet: Fleet, person: str) -> None:
    update = said(person, "/slow 1")
    leaving = fleet.guest()
    assert leaving.post(update).status == 200
    leaving.terminate()
    leaving.wait()

    assert fleet.database.count(person) == 1
    assert fleet.database.status(id_of(update)) == "done"
    assert len(fleet.runs(update)) == 1
    assert fleet.database.leases(person) == 0


@pytest.mark.parametrize("handler", ["/hang 60", "/block 60"])
def test_a_handler_that_takes_too_long_is_handed_to_another_process_at_once(
    fleet: Fleet, person: str, handler: str
) -> None:
    """Nobody waits for the lease of half a minute."""
    update = said(person, handler)
    leaving = fleet.guest(LEASE="30", RENEW_EVERY="10", SHUTDOWN_TIMEOUT="0.5")
    assert leaving.post(update).status == 200
    fleet.deliver(said(person, "/append"))
    began = time.monotonic()
    leaving.terminate()

    fleet.until_count(person, 2, within=0.5 + MARGIN)
    leaving.wait()
    assert fleet.database.count(person) == 2
    assert len(set(fleet.runs(update))) == 2
    assert time.monotonic() - began < 2 * MARGIN


def test_an_update_that_waits_for_its_next_attempt_is_handed_over_too(
    fleet: Fleet, person: str
) -> None:
    update = said(person, "/fail")
    leaving = fleet.guest(LEASE="30", RENEW_EVERY="10", RETRY_DELAY="1.5")
    leaving.post(update)
    fleet.until(lambda: fleet.database.attempts(id_of(update)) == 1)
    leaving.terminate()

    fleet.until(lambda: fleet.database.status(id_of(update)) == "parked", within=MARGIN)
    leaving.wait()
    assert len(set(fleet.runs(update))) > 1
    assert len(fleet.runs(update)) == 3
