"""What goes to the database together: that arrivals wait for each other, and not for long."""

import asyncio
import time
from typing import Any, cast

import pytest

from botsessions import turns
from botsessions.turns import FEW, LEFT, MOMENT, TURN_SIZE, Gathering, Turn

#: What a turn only counts: here no mailbox ever sees it.
COMMIT = cast(Any, (None, None))
ARRIVAL = cast(Any, None)


def filled(commits: int = 0, admits: int = 0) -> Turn:
    turn = Turn()
    turn.commits += [COMMIT] * commits
    turn.admits += [ARRIVAL] * admits
    return turn


def test_a_turn_that_commits_leaves_the_arrivals_to_the_next() -> None:
    gathering, turn = Gathering(), filled(commits=2, admits=3)
    later = gathering.split(turn)
    assert (len(turn.commits), len(turn.admits)) == (2, 0)
    assert (len(later.commits), len(later.admits)) == (0, 3)
    assert not gathering.split(later).admits
    assert len(later.admits) == 3


def test_arrivals_are_not_left_for_ever() -> None:
    gathering, turn = Gathering(), filled(commits=1, admits=3)
    for _ in range(LEFT):
        turn = gathering.split(turn)
        assert len(turn.admits) == 3
        turn.commits.append(COMMIT)
    assert not gathering.split(turn).admits
    assert (len(turn.commits), len(turn.admits)) == (1, 3)


def test_a_turn_has_a_size() -> None:
    turn = filled(admits=TURN_SIZE + 1)
    assert len(Gathering().split(turn).admits) == 1
    assert len(turn.admits) == TURN_SIZE


async def gathered(**parts: int) -> Gathering:
    """Return one that has seen a turn of these."""
    gathering = Gathering()
    await gathering.wait(filled(**parts))
    return gathering


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine stands still for as long as that."""
    monkeypatch.setattr(turns, "MOMENT", 60)


async def test_those_who_were_answered_are_waited_for_until_most_are_back(patient: None) -> None:
    gathering, came = await gathered(commits=8), filled(admits=1)

    def come() -> None:
        came.admits.append(ARRIVAL)
        asyncio.get_running_loop().call_soon(come)

    come()
    await gathering.wait(came)
    assert 6 <= len(came.admits) <= 8


async def test_nobody_is_waited_for_long() -> None:
    gathering = await gathered(commits=8)
    began = time.perf_counter()
    await gathering.wait(filled(admits=1))
    assert MOMENT <= time.perf_counter() - began < MOMENT + 10


async def test_what_somebody_waits_for_goes_at_once(patient: None) -> None:
    gathering, turn = await gathered(commits=8), filled(admits=1)
    asyncio.get_running_loop().call_soon(turn.records.append, cast(Any, None))
    await asyncio.wait_for(gathering.wait(turn), 30)
    assert turn.records


async def test_a_crowd_is_forgotten() -> None:
    gathering = await gathered(admits=64)
    for _ in range(40):
        await gathering.wait(filled(commits=1))
    assert not await waits(gathering)


async def test_one_alone_waits_for_nobody() -> None:
    assert not await waits(await gathered(commits=FEW))


async def waits(gathering: Gathering) -> bool:
    """Say whether an arrival that is alone is held up."""
    is_over: list[bool] = []
    asyncio.get_running_loop().call_soon(is_over.append, True)
    await gathering.wait(filled(admits=1))
    return bool(is_over)
