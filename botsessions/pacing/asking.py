"""A thread of its own for questions: what hangs there stops nobody who asks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, TypeVar

from botsessions.exceptions import Unavailable

T = TypeVar("T")

#: Seconds without a question after which the thread ends, and what it has open is closed.
IDLE: Final = 1.0


class Asker:
    """Asks one question after another, in a thread of its own, for any number of event loops.

    `name` says whom, in words; `within` how many seconds there are for an answer; `close` is called
    in the thread before it ends.
    """

    def __init__(
        self, name: str, within: float, close: Callable[[], object] = lambda: None
    ) -> None:
        self._name = name
        self._within = within
        self._close = close
        self._questions: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None
        #: A question that was not answered in time: the thread is busy with it.
        self._stuck: Future[Any] | None = None

    @property
    def is_free(self) -> bool:
        """Is nothing asked that was not answered in time?"""
        return self._stuck is None or self._stuck.done()

    async def ask(self, question: Callable[[], T]) -> T:
        """Return its answer. Raises `Unavailable` where there is none in time."""
        if not self.is_free:
            raise Unavailable(f"{self._name} still owes an answer.")
        asked: Future[T] = Future()
        with self._lock:
            self._questions.put((question, asked))
            # After a fork there is no thread, whatever the parent had.
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._work, name="botsessions-pacing", daemon=True)
                self._thread.start()
        answer = asyncio.wrap_future(asked)
        try:
            await asyncio.wait({answer}, timeout=self._within)
            if not answer.done():
                if asked.running():
                    self._stuck = asked
                raise Unavailable(f"{self._name} did not answer within {self._within:g} s.")
            return answer.result()
        finally:
            answer.cancel()

    def end(self) -> None:
        """Wait until the thread has ended by itself: a test's database is about to go."""
        thread = self._thread
        if thread is not None:
            self._questions.put((_ended, Future()))
            thread.join(5)

    def _work(self) -> None:
        while self._next():
            pass
        self._close()

    def _next(self) -> bool:
        """Answer a question, if one comes in time; return whether there may be more."""
        try:
            question, asked = self._questions.get(timeout=IDLE)
        except Empty:
            question, asked = _ended, Future()
        if question is _ended:
            with self._lock:
                if self._questions.empty():
                    self._thread = None  # whoever asks from now on starts another
                    return False
            return True
        if asked.set_running_or_notify_cancel():
            try:
                asked.set_result(question())
            except BaseException as error:
                asked.set_exception(error)
        return True


def _ended() -> None:
    """Stand for a question where none came."""
