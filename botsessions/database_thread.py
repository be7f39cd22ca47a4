"""The one thread in which an engine talks to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class DatabaseThread:
    """Does what it is given, one after another, and answers on the event loop that made it.

    Every turn of an engine passes through here twice. An executor's futures, locks and count of
    idle threads would be a good part of what a small turn costs.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._given: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._given = SimpleQueue()
        # What a process leaves unfinished as it ends the database undoes.
        Thread(target=self._work, name="botsessions-database", daemon=True).start()

    def run(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Return what `work` returns or raises, once it is done in the thread."""
        answered: asyncio.Future[Result] = self._loop.create_future()
        self._given.put((work, answered))
        return answered

    def stop(self) -> None:
        """End the thread when it has done what it was given until now."""
        self._given.put(None)

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            work, answered = given
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(_answer, answered, result, error)
            except RuntimeError:  # the loop is closed: nobody waits
                return
            del given, work, answered, result, error  # while it waits it keeps nothing


def _answer(answered: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if answered.done():  # cancelled
        return
    if error is None:
        answered.set_result(result)
    else:
        answered.set_exception(error)
