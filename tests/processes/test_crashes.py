"""A process dies, at every point that has a name and at many that have none."""

import random
import signal
import threading
import time
from collections.abc import Sequence

import pytest

from tests.processes.server import RECOVERED_WITHIN, Fleet, at_once, id_of, said

pytestmark = pytest.mark.processes

POINTS = ["admitted", "stored", "handling", "sent", "before_commit", "committed"]


@pytest.mark.parametrize("bot", ["chat", "stored"])
@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_any_point_leaves_the_effect_exactly_once(
    fleet: Fleet, person: str, bot: str, point: str
) -> None:
    """P4, P6, P8, promise 5: the platform delivers again what it got no answer for."""
    update = said(person, f"/send kill@{point}")
    victim = fleet.servers[0]
    victim.is_doomed = True
    began = time.monotonic()
    fleet.deliver(update, bot=bot)
    fleet.deliver(said(person, "/append"), first=1, bot=bot)

    fleet.until_count(person, 2)
    assert time.monotonic() - began < RECOVERED_WITHIN
    victim.wait()
    assert fleet.database.count(person) == 2
    assert fleet.database.status(id_of(update)) == "done"
    # Killed between the platform's answer and its record, nobody knows that it was sent.
    sends = 2 if point == "sent" else 1
    assert fleet.sent(person, bot) == [id_of(update)] * sends
    assert fleet.database.tracked(person) == [id_of(update)]
    fleet.until(lambda: not fleet.database.leases(person))


@pytest.mark.parametrize("bot", ["chat", "stored"])
def test_an_acknowledged_update_is_handled_though_its_process_is_killed_at_once(
    fleet: Fleet, person: str, bot: str
) -> None:
    """P5, promise 5."""
    update = said(person, "/hang 60")
    assert fleet.servers[0].post(update, bot).status == 200
    fleet.servers[0].kill()

    fleet.until_count(person, 1)
    assert fleet.database.count(person) == 1
    assert len(fleet.runs(update)) <= 2


def test_what_was_acknowledged_is_handled_by_the_next_to_start(fleet: Fleet, person: str) -> None:
    """P6: all processes are killed, as in a power cut."""
    updates = [said(person, "/hang 60"), *(said(person, "/append") for _ in range(5))]
    for number, update in enumerate(updates):
        fleet.deliver(update, number)
    for server in fleet.servers:
        server.kill()
    assert fleet.database.pending(person) == 6

    fleet.complete()
    fleet.until_count(person, 6)
    assert fleet.database.data(person) == {
        "count": 6,
        "order": [id_of(each) for each in updates[1:]],
    }


def test_accepted_order_outlives_the_process_that_holds_the_mailbox(
    fleet: Fleet, person: str
) -> None:
    """P2, P6."""
    fleet.deliver(said(person, "/hang 60"))
    waiting = [said(person, "/append") for _ in range(20)]
    for number, update in enumerate(waiting[:10]):
        fleet.deliver(update, number)
    fleet.servers[0].kill()
    for number, update in enumerate(waiting[10:]):
        fleet.deliver(update, number)

    fleet.until_count(person, 21)
    assert fleet.database.data(person) == {"count": 21, "order": [id_of(each) for each in waiting]}


def test_nothing_is_lost_doubled_or_overtaken_while_processes_come_and_go(
    fleet: Fleet, person: str
) -> None:
    """P1, P2, P4, P6, promises 1 to 5: killed, paused and restarted under traffic."""
    people = [f"{person}{number}" for number in range(10)]
    done = threading.Event()

    def talk(name: str) -> Sequence[str]:
        """Say one thing after another, each once the one before is acknowledged."""
        chance = random.Random(name)
        spoken = []
        while not done.is_set():
            update = said(name, "/append")
            fleet.deliver(update, chance.randrange(fleet.size))
            spoken.append(id_of(update))
            time.sleep(0.01)
        return spoken

    def disturb() -> None:
        blows = [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL]
        try:
            for number, blow in enumerate(blows):
                time.sleep(0.5)
                server = fleet.servers[number % fleet.size]
                if blow == signal.SIGSTOP:
                    server.signal(blow)
                    time.sleep(3)
                    server.signal(signal.SIGCONT)
                    continue
                if blow == signal.SIGTERM:
                    server.terminate()
                    server.wait()
                else:
                    server.kill()
                fleet.replace(server)
        finally:
            done.set()

    disturbing = fleet.in_background(disturb)
    spoken = at_once(talk, people)
    disturbing.result()

    for name, ids in zip(people, spoken, strict=True):
        fleet.until_count(name, len(ids))
        assert fleet.database.data(name) == {"count": len(ids), "order": list(ids)}
