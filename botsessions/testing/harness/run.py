"""One run, from the settings of this process to its exit status."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from asgiref.sync import sync_to_async
from django.db import Error, connections

from botsessions.conf import settings
from botsessions.testing.harness.bot import LEASE, PREFIX, configure
from botsessions.testing.harness.crew import Crew, CrewError
from botsessions.testing.harness.director import Director
from botsessions.testing.harness.history import Burst, Options, blows, chats
from botsessions.testing.harness.rows import Rows
from botsessions.testing.harness.tally import Tally
from botsessions.testing.harness.verdict import Verdict, judge

#: The exit statuses; 2 is that of a run that was refused.
GOOD, BAD, STOPPED = 0, 1, 130
#: Ctrl-C, and what a service manager sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds between looks whether everything is settled.
LOOK = 0.2
#: Seconds after which a lease that nobody gave back, with nothing waiting, counts as left.
LEASES_WITHIN = 3 * LEASE


class Progress:
    """One line on a terminal, written over and over; elsewhere nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._width = 0

    def tell(self, text: str) -> None:
        if self._stream.isatty():
            self._stream.write(f"\r{text.ljust(self._width)}")
            self._stream.flush()
            self._width = len(text)

    def end(self) -> None:
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._width = 0


class Run:
    """One run with a bot of its own, of which nothing is left however the run ends."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.alias = f"{PREFIX}{secrets.token_hex(4)}"
        self.rows = Rows(self.alias)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.progress = Progress(sys.stderr)
        self.tally = Tally()
        configure(self.alias, options.store)

    def main(self) -> int:
        status = BAD
        try:
            verdict = asyncio.run(self._run())
            self.progress.end()
            sys.stdout.writelines(f"{line}\n" for line in verdict.lines())
            status = GOOD if verdict.is_good else BAD
        except asyncio.CancelledError:
            self._complain("Stopped.")
            status = STOPPED
        except (CrewError, Error) as error:
            self._complain(f"{error}")
            self._complain(f"To try the same history again: --seed {self.options.seed}")
        finally:
            self._tidy(keep_logs=status == BAD)
        return status

    def _complain(self, text: str) -> None:
        self.progress.end()
        sys.stderr.write(f"{text}\n")

    def _tidy(self, *, keep_logs: bool) -> None:
        if keep_logs:
            self._complain(f"What the processes logged is in {self.folder}.")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.rows.delete()
        except Error as error:
            self._complain(f"The rows of bot {self.alias} are left in the database: {error}")
        connections.close_all()

    async def _run(self) -> Verdict:
        _stop_on_signals()
        self.progress.tell("starting")
        history = chats(self.alias, self.options)
        async with Crew(self.alias, self.options, self.folder, self.tally) as crew:
            began = time.monotonic()
            director = Director(self.options, crew, history, self.tally)
            try:
                async with asyncio.timeout(self.options.timeout):
                    await director.run(blows(self.options), self.progress.tell)
                    self.progress.tell("settling")
                    await self._settle(crew)
            except TimeoutError:
                pass  # the verdict says what is missing
            passed = time.monotonic() - began
        self.progress.tell("judging")
        return await sync_to_async(self._judge)(history, passed)

    async def _settle(self, crew: Crew) -> None:
        """Wait until nothing waits and nothing is held."""
        held_until = None
        while unfinished := await sync_to_async(self.rows.unfinished)():
            now = time.monotonic()
            held_until = None if unfinished.pending else held_until or now + LEASES_WITHIN
            if held_until is not None and now > held_until:
                return
            await crew.complete()
            await asyncio.sleep(LOOK)

    def _judge(self, history: Mapping[str, Sequence[Burst]], seconds: float) -> Verdict:
        try:
            unfinished, heard = self.rows.unfinished(), self.rows.heard(history)
            judgements = {
                chat: judge(
                    [[said.number for said in burst] for burst in bursts],
                    heard[chat],
                    self.tally.acknowledged[chat],
                    {
                        said.number
                        for burst in bursts
                        for said in burst
                        if said.update.id in unfinished.pending
                    },
                )
                for chat, bursts in history.items()
            }
            return Verdict(
                self.options,
                os.environ["DJANGO_SETTINGS_MODULE"],
                f"{settings.DATABASE} ({connections[settings.DATABASE].display_name})",
                judgements,
                self.tally,
                seconds,
                self.rows.parked(),
                unfinished,
            )
        finally:
            connections.close_all()


def _stop_on_signals() -> None:
    """Cancel the running task on the first Ctrl-C; a second one ends the process at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        if task is not None:
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
