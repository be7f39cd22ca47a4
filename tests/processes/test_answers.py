"""When a webhook answers, and what."""

import pytest

from tests.processes.server import ACK_AFTER, SECRET, Fleet, at_once, id_of, said

pytestmark = pytest.mark.processes

#: What an answer may take, in seconds.
PROMPT = 0.3


@pytest.mark.parametrize("handler", ["/hang 60", "/block 60"])
def test_a_slow_handler_delays_no_acknowledgement(fleet: Fleet, person: str, handler: str) -> None:
    """P5, promise 6: `async def` and `def` handlers."""
    server = fleet.guest()
    slow = said(person, handler)

    assert server.post(slow).seconds < ACK_AFTER + PROMPT

    others = [said(f"{person}{number}", "/count") for number in range(200)]
    behind = [said(person, "/count") for _ in range(20)]
    answers = at_once(server.post, others + behind, threads=2)
    assert {answer.status for answer in answers} == {200}
    assert sorted(answer.seconds for answer in answers)[int(len(answers) * 0.99)] < PROMPT
    assert all(fleet.database.count(f"{person}{number}") == 1 for number in range(200))
    assert fleet.database.count(person) == 0

    server.kill()
    fleet.until_count(person, 21)
    assert fleet.database.count(person) == 21
    assert fleet.database.status(id_of(slow)) == "done"


@pytest.mark.parametrize(
    ("method", "bot", "body", "secret", "status"),
    [
        ("POST", "chat", b"{}", "wrong", 401),
        ("POST", "chat", b"{", "", 401),
        ("POST", "nobody", b"{}", SECRET, 404),
        ("GET", "chat", b"", SECRET, 405),
        ("POST", "chat", b" " * 2_000_000, SECRET, 413),
        ("POST", "chat", b"{", SECRET, 400),
        ("POST", "chat", b"[" * 100_000, SECRET, 400),
    ],
)
def test_a_refused_request_stores_nothing(
    fleet: Fleet, method: str, bot: str, body: bytes, secret: str, status: int
) -> None:
    """P40, promise 7."""
    before = fleet.database.query("SELECT count(*) FROM botsessions_botupdate")

    answer = fleet.servers[0].request(method, f"/webhooks/{bot}/", body, secret)

    assert answer.status == status
    assert fleet.database.query("SELECT count(*) FROM botsessions_botupdate") == before


def test_a_failing_update_is_parked_and_the_next_one_runs(fleet: Fleet, person: str) -> None:
    """P7, P8."""
    failing = said(person, "/fail")
    fleet.deliver(failing)
    fleet.deliver(said(person, "/count"), first=1)

    fleet.until_count(person, 1)
    assert fleet.database.status(id_of(failing)) == "parked"
    assert len(fleet.runs(failing)) == 3
    assert fleet.sent(person) == [id_of(failing), f"{id_of(failing)} goes on"]
    assert fleet.database.tracked(person) == fleet.sent(person)
    assert fleet.database.count(person) == 1
