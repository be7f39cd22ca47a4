"""A worker: a process with an engine that takes what the parent delivers, and dies where told to.

    python -m botsessions.testing.harness worker ALIAS ACK_AFTER STORE MAILBOX SOCKET

It ends when the parent closes the socket, or is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import django

from botsessions.testing.harness.wire import (
    Answer,
    Deliver,
    Obey,
    Reached,
    Ready,
    Report,
    Sign,
    line,
    requests,
)

django.setup()

from botsessions.delivery import Delivery  # noqa: E402  (Django is set up by now)
from botsessions.engine import Engine  # noqa: E402
from botsessions.exceptions import Unavailable  # noqa: E402
from botsessions.testing.harness.bot import configure  # noqa: E402
from botsessions.testing.harness.mailbox import own_mailbox  # noqa: E402

SIGNALS = {Sign.KILL: signal.SIGKILL, Sign.PAUSE: signal.SIGSTOP}
#: Seconds before a process is paused: what is in the database's thread is over then. Paused within
#: a transaction on SQLite it would keep everybody out, and nobody would take its mailbox over.
BEFORE_PAUSE = 0.05
#: Seconds for which an order is only for updates of its command.
CHOOSY = 0.7
#: Seconds that running handlers have when the parent is gone.
STOPS_WITHIN = 2.0


class Worker:
    """One engine, and the socket to the parent."""

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter) -> None:
        self.engine = engine
        self._writer = writer
        self._order: Obey | None = None
        self._choosy_until = 0.0
        Engine.at_point = self._reach

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take what comes until the parent closes the socket."""
        await self.engine.start()
        self._tell(Ready())
        with suppress(ConnectionError):
            while received := await reader.readline():
                message = requests.decode(received)
                if isinstance(message, Deliver):
                    self._submit(message)
                else:
                    self._order, self._choosy_until = message, time.monotonic() + CHOOSY
        await self.engine.stop(STOPS_WITHIN)

    def _submit(self, delivered: Deliver) -> None:
        acknowledged = self.engine.submit(delivered.update)
        acknowledged.add_done_callback(partial(self._answer, delivered.number))

    def _answer(self, number: int, acknowledged: asyncio.Future[None]) -> None:
        error = acknowledged.exception()
        if error is not None and not isinstance(error, Unavailable):
            raise error
        self._tell(Answer(number, str(error) if error else ""))

    def _reach(self, point: str, delivery: Delivery) -> None:
        order = self._order
        if order is None or order.point != point:
            return
        if order.command != delivery.update.command and time.monotonic() < self._choosy_until:
            return
        self._order = None
        self._tell(Reached())
        if order.sign is Sign.PAUSE:
            time.sleep(BEFORE_PAUSE)
        os.kill(os.getpid(), SIGNALS[order.sign])

    def _tell(self, message: Report) -> None:
        self._writer.write(line(message))  # which sends it at once: there is room


async def serve(alias: str, mailbox: str, channel: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=channel)
    try:
        await Worker(Engine(own_mailbox(mailbox, alias)), writer).serve(reader)
    finally:
        writer.close()


def main(arguments: Sequence[str]) -> int:
    alias, ack_after, store, mailbox, channel = arguments[2:]
    configure(alias, store, float(ack_after))
    asyncio.run(serve(alias, mailbox, socket.socket(fileno=int(channel))))
    return 0
