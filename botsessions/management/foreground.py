"""Work in the foreground of a command, beside an engine, until it is done or somebody ends it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any

from asgiref.sync import async_to_sync

from botsessions.engine import current_engine

#: Ctrl-C, and what a service manager sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(work: Callable[[], Coroutine[Any, Any, None]], on_stop: Callable[[], object]) -> None:
    """Run `work` on an event loop with a started engine, and stop the engine afterwards.

    A signal cancels the work after a call of `on_stop`; updates that are being handled then finish
    within SHUTDOWN_TIMEOUT or are given back, and the function returns as if the work were done. A
    second signal ends the process at once, which costs no acknowledged update either.
    """
    asked: Future[None] = Future()

    async def main() -> None:
        engine = current_engine()
        await engine.start()
        try:
            working = asyncio.ensure_future(work())
            stopping = asyncio.wrap_future(asked)
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            else:
                on_stop()
                working.cancel()
                await asyncio.wait([working])
        finally:
            await engine.stop()

    with signals_set(asked):
        async_to_sync(main, force_new_loop=True)()


@contextmanager
def signals_set(asked: Future[None]) -> Iterator[None]:
    """Let the first signal resolve `asked`; a thread other than the main one hears of none."""

    def ask(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        asked.set_result(None)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, ask) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
