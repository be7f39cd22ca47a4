"""A process dies, at every point that has a name and at many that have none."""

import signal
import time

import pytest

from tests.processes.server import LEASE, RECOVERED_WITHIN, Fleet, id_of, said

pytestmark = pytest.mark.processes


#: A send is acknowledged once it is recorded: what sends nothing waits for its commit longer.
CASES = [
    *[("chat", "/append", each) for each in ("admitted", "handling", "before_commit", "committed")],
    *[("chat", "/send", each) for each in ("sent", "stored", "before_commit", "committed")],
    *[("stored", "/send", each) for each in ("stored", "handling", "sent", "committed")],
]


@pytest.mark.parametrize(("bot", "command", "point"), CASES)
def test_a_process_killed_at_any_point_leaves_the_effect_exactly_once(
    fleet: Fleet, person: str, bot: str, command: str, point: str
) -> None:
    """P4, P6, P8, promise 5: the platform delivers again what it got no answer for."""
    update = said(person, f"{command} kill@{point}")
    victim = fleet.servers[0]
    victim.is_doomed = True
    began = time.monotonic()
    fleet.deliver(update, bot=bot)
    fleet.deliver(said(person, "/count"), first=1, bot=bot)

    fleet.until_count(person, 2)
    assert time.monotonic() - began < RECOVERED_WITHIN
    victim.wait()
    assert fleet.database.count(person) == 2
    assert fleet.database.status(id_of(update)) == "done"
    # Killed between the platform's answer and its record, nobody knows that it was sent.
    sends = 0 if command != "/send" else 2 if point == "sent" else 1
    assert fleet.sent(person, bot) == [id_of(update)] * sends
    assert fleet.database.tracked(person) == [id_of(update)] * min(sends, 1)
    assert point != "committed" or len(fleet.runs(update)) == 1
    fleet.until(lambda: not fleet.database.leases(person))


@pytest.mark.parametrize("bot", ["chat", "stored"])
def test_an_acknowledged_update_is_handled_though_its_process_is_killed_at_once(
    fleet: Fleet, person: str, bot: str
) -> None:
    """P5, promise 5."""
    update = said(person, "/slow 1")
    assert fleet.servers[0].post(update, bot).status == 200
    fleet.servers[0].kill()

    fleet.until_count(person, 1)
    assert fleet.database.count(person) == 1
    assert fleet.database.status(id_of(update)) == "done"


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
    with fleet.traffic(people):
        for number in range(3):
            time.sleep(0.5)
            victim = fleet.servers[number % fleet.size]
            victim.kill()
            fleet.replace(victim)

        sleeper = fleet.servers[0]
        sleeper.signal(signal.SIGSTOP)
        time.sleep(1.5 * LEASE)
        sleeper.signal(signal.SIGCONT)

        leaving = fleet.servers[1]
        leaving.terminate()
        leaving.wait()
        fleet.replace(leaving)

    for each in people:
        # A send may be repeated where its process was killed before it was recorded, no other.
        sent = fleet.sent(each)
        assert len(sent) - len(set(sent)) <= 5
        assert set(fleet.database.tracked(each)) == set(sent)
