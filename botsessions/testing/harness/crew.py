"""The parent's end of the processes: started, spoken to, struck, replaced, ended in any case."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType

from botsessions.testing.harness.bot import ACK_AFTER, LEASE
from botsessions.testing.harness.history import Blow, Options
from botsessions.testing.harness.tally import Tally
from botsessions.testing.harness.wire import (
    Answer,
    Deliver,
    Obey,
    Ready,
    Request,
    Sign,
    line,
    reports,
)
from botsessions.updates import Update

#: Seconds that a process may take to start, and to end when it is asked to.
STARTS_WITHIN = 60.0
ENDS_WITHIN = 5.0
#: Seconds for which a process is paused: others take its mailboxes over meanwhile.
PAUSE = 1.5 * LEASE
#: Seconds between looks for a process that can be struck.
LOOK = 0.02


class CrewError(Exception):
    """A process did not start, or ended by itself; the message carries the end of its log."""


class NoAnswer(Exception):
    """An update was not acknowledged: it is to be delivered again."""


class Process:
    """One worker."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log: Path,
    ) -> None:
        self._process, self._reader, self._writer, self.log = process, reader, writer, log
        self.is_ready = self.is_paused = self.is_over = False
        #: Is it killed by us, or asked to end? What ends otherwise is an error.
        self.is_doomed = False
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._blow: Blow | None = None
        #: Done once it has obeyed.
        self._struck: asyncio.Future[None] | None = None

    async def listen(self) -> int:
        """Take what it says, until it has ended; return its exit status."""
        with suppress(ConnectionError):
            while received := await self._reader.readline():
                message = reports.decode(received)
                if isinstance(message, Answer):
                    self._answered(message)
                elif isinstance(message, Ready):
                    self.is_ready = True
                else:
                    self._strikes()
        self.is_ready, self.is_over = False, True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(NoAnswer("Its process was killed."))
        self._writer.close()
        status = await self._process.wait()
        if self._struck is not None and not self._struck.done():
            if status == -signal.SIGKILL and not self.is_doomed:
                self._strikes()
            else:
                self._struck.cancel()
        return status

    def _answered(self, message: Answer) -> None:
        answer = self._answers.get(message.number)
        if answer is None or answer.done():
            return
        if message.error:
            answer.set_exception(NoAnswer(message.error))
        else:
            answer.set_result(None)

    def _strikes(self) -> None:
        assert self._blow is not None and self._struck is not None  # noqa: S101, PT018
        self.is_doomed |= self._blow.sign is Sign.KILL
        self.is_paused = self._blow.sign is Sign.PAUSE and not self.is_over
        self._struck.set_result(None)

    def _tell(self, message: Request) -> None:
        if not self._writer.is_closing():
            self._writer.write(line(message))

    async def deliver(self, update: Update, within: float) -> None:
        """Deliver an update; return when it is acknowledged. Raises `NoAnswer`."""
        if self.is_over or self._writer.is_closing():
            raise NoAnswer("Its process was killed.")
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._tell(Deliver(number, update))
        try:
            async with asyncio.timeout(within):
                await answer
        except TimeoutError as error:
            raise NoAnswer(f"No answer within {within:g} s.") from error
        finally:
            del self._answers[number]

    def order(self, blow: Blow) -> asyncio.Future[None]:
        """Tell it to be struck where it next reaches that point; the future is done when it is."""
        self._blow = blow
        self._struck = asyncio.get_running_loop().create_future()
        self._tell(Obey(blow.sign, blow.point, blow.command))
        return self._struck

    @property
    def can_be_struck(self) -> bool:
        """Does it run, with no blow to come?"""
        waits = self._struck is not None and not self._struck.done()
        return self.is_ready and not (self.is_doomed or self.is_paused or waits)

    def go_on(self) -> None:
        """End its pause."""
        self.is_paused = False
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self.is_doomed = True
        self._signal(signal.SIGKILL)

    def ask_to_end(self) -> None:
        self.is_doomed = True
        self._signal(signal.SIGCONT)
        if self._writer.can_write_eof():
            self._writer.write_eof()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


class Crew:
    """As many processes as asked for: one that was killed is replaced at once.

    A context: whoever leaves it early leaves no process behind.
    """

    def __init__(self, alias: str, options: Options, folder: Path, tally: Tally) -> None:
        self._alias, self._options, self._folder = alias, options, folder
        self._tally = tally
        self._members: dict[int, Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._resting: set[asyncio.Task[None]] = set()
        self._started = count(1)
        self._is_ending = False
        self._failure: CrewError | None = None

    async def __aenter__(self) -> Crew:
        slots = range(self._options.processes)
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in slots]
        try:
            await self.complete()
        except BaseException:
            await self._kill()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._is_ending = True
            for member in self._members.values():
                member.ask_to_end()
            await asyncio.wait(self._keepers, timeout=ENDS_WITHIN)
        await self._kill()

    async def _kill(self) -> None:
        self._is_ending = True
        for task in self._resting:
            task.cancel()
        for member in self._members.values():
            member.kill()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, slot: int) -> None:
        """Have a process in this slot until the crew ends."""
        while not self._is_ending and self._failure is None:
            try:
                member = self._members[slot] = await self._start(slot)
            except OSError as error:
                self._failure = CrewError(f"A process could not be started: {error}")
                return
            if self._is_ending:
                member.kill()
            late = asyncio.get_running_loop().call_later(STARTS_WITHIN, self._check, member)
            status = await member.listen()
            late.cancel()
            if not member.is_doomed:
                self._fail(member, f"A process ended by itself, with status {status}.")

    async def _start(self, slot: int) -> Process:
        ours, theirs = socket.socketpair()
        log = self._folder / f"process-{next(self._started)}.log"
        ack_after = ACK_AFTER[slot % len(ACK_AFTER)]
        arguments = [self._alias, f"{ack_after}", self._options.store, self._options.mailbox]
        with theirs, log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "botsessions.testing.harness", "worker"),
                *(*arguments, f"{theirs.fileno()}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                # Ctrl-C is for the parent alone.
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return Process(process, reader, writer, log)

    def _check(self, member: Process) -> None:
        if not (member.is_ready or member.is_over):
            self._fail(member, f"A process was not ready within {STARTS_WITHIN:g} s.")

    def _fail(self, member: Process, what: str) -> None:
        end = member.log.read_text(errors="replace")[-2_000:].strip()
        self._failure = self._failure or CrewError(f"{what} It logged:\n{end or '(nothing)'}")

    def check(self) -> None:
        """Raise `CrewError` where a process did not start, or ended by itself."""
        if self._failure is not None:
            raise self._failure

    @property
    def _ready(self) -> list[Process]:
        return [member for member in self._members.values() if member.is_ready]

    async def complete(self) -> None:
        """Wait until every process is ready. Raises `CrewError`."""
        while len(self._ready) < self._options.processes:
            self.check()
            await asyncio.sleep(LOOK)

    async def someone(self, rng: random.Random) -> Process:
        """Return any process that has started, as soon as there is one.

        It may be paused, as a load balancer may not know.
        """
        while not (ready := self._ready):
            await asyncio.sleep(LOOK)
        return rng.choice(ready)

    async def strike(self, blow: Blow, rng: random.Random) -> asyncio.Future[None]:
        """Tell a process to be struck, as soon as another is there to go on."""
        while True:
            able = [member for member in self._ready if member.can_be_struck]
            if len(able) > 1 or (able and self._options.processes == 1):
                break
            await asyncio.sleep(LOOK)
        member = rng.choice(able)
        struck = member.order(blow)
        struck.add_done_callback(partial(self._note, member, blow))
        return struck

    def _note(self, member: Process, blow: Blow, struck: asyncio.Future[None]) -> None:
        if struck.cancelled():
            return
        self._tally.struck[blow.sign, blow.point] += 1
        if member.is_paused:
            task = asyncio.ensure_future(self._rest(member))
            self._resting.add(task)
            task.add_done_callback(self._resting.discard)

    async def _rest(self, member: Process) -> None:
        await asyncio.sleep(PAUSE)
        member.go_on()

    async def rested(self) -> None:
        """Wait until nobody is paused any more."""
        while self._resting:
            await asyncio.sleep(LOOK)

    def kill_all(self) -> None:
        """Kill every process at once, as a power cut does."""
        for member in self._ready:
            member.kill()
            self._tally.cut += 1
