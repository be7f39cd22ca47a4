"""The database cannot be used for a while, and comes back."""

import time
from functools import partial
from typing import Any

import pytest

from tests.processes.server import Fleet, Server, id_of, said

pytestmark = pytest.mark.processes


def is_taken(server: Server, update: dict[str, Any]) -> bool:
    return server.post(update).status == 200


def test_without_a_database_webhooks_answer_503_and_afterwards_all_goes_on(
    fleet: Fleet, person: str
) -> None:
    """Promise 9."""
    server = fleet.guest(SQLITE_TIMEOUT="0.2", ACK_AFTER="30")
    assert server.post(said(person, "/count")).status == 200
    running = fleet.in_background(lambda: server.post(said(person, "/slow 0.5")))
    fleet.until(lambda: fleet.database.leases(person))

    with fleet.database.away():
        refused = said(person, "/count")
        answer = server.post(refused)
        assert answer.status == 503
        assert answer.retry_after == "5"
        # The handler that was running cannot commit, and its platform learns that.
        assert running.result(30).status == 503

    assert fleet.database.status(id_of(refused)) == ""
    assert fleet.database.count(person) == 1

    fleet.until(partial(is_taken, server, refused))
    fleet.until_count(person, 2)
    assert fleet.database.count(person) == 2
    assert server.is_alive


def test_what_was_acknowledged_is_handled_when_the_database_is_back(
    fleet: Fleet, person: str
) -> None:
    """Promise 9, in every process: the handler's first run cannot commit."""
    update = said(person, "/slow 1")
    waiting = said(person, "/append")
    assert fleet.deliver(update).status == 200
    fleet.deliver(waiting, first=1)

    with fleet.database.away():
        time.sleep(1.5)  # the handler ends meanwhile

    fleet.until_count(person, 2)
    assert fleet.database.data(person) == {"count": 2, "order": [id_of(waiting)]}
    for server in fleet.servers:
        fleet.until(partial(is_taken, server, said(person, "/count")))
    fleet.until_count(person, 2 + fleet.size)
    assert fleet.database.count(person) == 2 + fleet.size


def test_nothing_is_lost_or_doubled_while_the_database_comes_and_goes(
    fleet: Fleet, person: str
) -> None:
    """P1, P2, promise 9."""
    with fleet.traffic([f"{person}{number}" for number in range(10)]):
        for pause in (0.0, 0.5, 0.0, 1.5):
            time.sleep(0.5)
            with fleet.database.away():
                time.sleep(pause)
        time.sleep(0.5)
