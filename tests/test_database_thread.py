"""The engine's thread for the database: one at a time, answered on the loop, gone when stopped."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from botsessions.database_thread import DatabaseThread


def running() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "botsessions-database"]


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.001)
    return holds()


async def test_it_does_one_thing_after_another_in_one_thread() -> None:
    thread, done = DatabaseThread(), []

    def work(number: int) -> threading.Thread:
        time.sleep(0.01 if number == 0 else 0)
        done.append(number)
        return threading.current_thread()

    threads = await asyncio.gather(*[thread.run(lambda n=n: work(n)) for n in range(5)])  # type: ignore[misc]
    thread.stop()
    assert done == [0, 1, 2, 3, 4]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


async def test_what_is_raised_is_raised_where_it_is_awaited_and_the_thread_goes_on() -> None:
    thread = DatabaseThread()

    def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await thread.run(fail)
    assert await thread.run(lambda: 7) == 7
    thread.stop()


async def test_what_nobody_awaits_any_more_is_done_all_the_same() -> None:
    thread, free = DatabaseThread(), threading.Event()
    waiting = thread.run(lambda: free.wait(10))
    cancelled = thread.run(lambda: 1)
    waiting.cancel()
    cancelled.cancel()
    free.set()
    assert await thread.run(lambda: 2) == 2
    thread.stop()


async def test_it_ends_when_it_has_done_what_it_was_given() -> None:
    thread, before = DatabaseThread(), len(running())
    answered = thread.run(lambda: "last")
    thread.stop()
    assert await answered == "last"
    assert until(lambda: len(running()) < before)


def test_it_ends_with_a_loop_that_is_closed_meanwhile() -> None:
    before, free = len(running()), threading.Event()

    async def leave() -> None:
        DatabaseThread().run(lambda: free.wait(10))

    asyncio.run(leave())
    free.set()
    assert until(lambda: len(running()) == before)
