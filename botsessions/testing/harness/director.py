"""Delivers the history as platforms deliver, and strikes meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence

from botsessions.testing.harness.bot import LEASE
from botsessions.testing.harness.crew import Crew, NoAnswer
from botsessions.testing.harness.history import Blow, Burst, Options, Said, random_of
from botsessions.testing.harness.tally import Tally
from botsessions.updates import Update

#: Seconds after which a platform gives an answer up, and delivers the update again.
ANSWERED_WITHIN = LEASE
#: The longest pause before it does, in seconds.
REDELIVERY_PAUSE = 0.1
#: Seconds between one update that is let in and the next, while a blow is waited for.
TRICKLE = 0.02
#: Seconds from one blow to the next: less than a lease lasts, or more.
BETWEEN_BLOWS = (0.2, 0.75 * LEASE)
#: Seconds that a blow is waited for when there is nothing left to say.
STRUCK_WITHIN = 3.0


class Director:
    """One run of a history.

    A burst of a chat goes out once the one before it is acknowledged, each of its updates to
    whichever process, and again where no answer comes. Blows fall one after another, spread over
    the history: how much may have been said by then is what `_let_in` says.
    """

    def __init__(
        self, options: Options, crew: Crew, chats: Mapping[str, Sequence[Burst]], tally: Tally
    ) -> None:
        self._options, self._crew, self._chats, self._tally = options, crew, chats, tally
        self._room = asyncio.Semaphore(0)
        self._left = options.updates
        tally.acknowledged = {chat: set() for chat in chats}
        self._copies: set[asyncio.Task[None]] = set()

    async def run(self, blows: Sequence[Blow], tell: Callable[[str], object]) -> None:
        """Deliver everything, strike every blow. Raises `CrewError`."""
        tasks = [asyncio.create_task(self._converse(chat)) for chat in self._chats]
        tasks += [asyncio.create_task(self._strike(blows))]
        try:
            while not all(task.done() for task in tasks):
                done, _ = await asyncio.wait(
                    tasks, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    task.result()
                self._crew.check()
                tell(self._progress())
            while self._copies:
                await asyncio.wait(self._copies)
            await self._crew.rested()
            await self._crew.complete()
        finally:
            for task in (*tasks, *self._copies):
                task.cancel()
            await asyncio.gather(*tasks, *self._copies, return_exceptions=True)

    def _progress(self) -> str:
        answered, kills = self._tally.answered, self._tally.kills
        return f"{answered:,} of {self._options.updates:,} updates, {kills} kills"

    # What is said

    async def _converse(self, chat: str) -> None:
        rng = random_of(self._options, f"deliveries {chat}")
        for burst in self._chats[chat]:
            for _ in burst:
                await self._room.acquire()
            await asyncio.gather(*(self._say(chat, said, rng) for said in burst))

    async def _say(self, chat: str, said: Said, rng: random.Random) -> None:
        if said.copy is not None:
            self._deliver_copy(said.copy, rng)
        await self._deliver(said.update, rng)
        self._tally.acknowledged[chat].add(said.number)

    async def _deliver(self, update: Update, rng: random.Random) -> None:
        """Deliver until it is acknowledged."""
        while True:
            process = await self._crew.someone(rng)
            try:
                await process.deliver(update, ANSWERED_WITHIN)
                return
            except NoAnswer:
                self._tally.unanswered += 1
                await asyncio.sleep(rng.uniform(0, REDELIVERY_PAUSE))

    def _deliver_copy(self, update: Update, rng: random.Random) -> None:
        async def deliver() -> None:
            process = await self._crew.someone(rng)
            try:
                await process.deliver(update, ANSWERED_WITHIN)
            except NoAnswer:
                return  # the update itself is delivered until there is one

        self._tally.duplicates += 1
        task = asyncio.create_task(deliver())
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    # What happens meanwhile

    async def _strike(self, blows: Sequence[Blow]) -> None:
        rng = random_of(self._options, "strikes")
        share = self._left // (len(blows) + 2)
        self._let_in(share)
        for number, blow in enumerate(blows):
            struck = await self._crew.strike(blow, rng)
            deadline = time.monotonic() + STRUCK_WITHIN
            let_in = 0
            while not struck.done() and (self._left or time.monotonic() < deadline):
                let_in += self._let_in(1)
                await asyncio.sleep(TRICKLE)
            await self._let_in_over(share - let_in, rng.uniform(*BETWEEN_BLOWS))
            if number == len(blows) // 2:
                self._crew.kill_all()
        self._let_in(self._left)

    def _let_in(self, updates: int) -> int:
        """Allow that so many more updates are said; return how many there were."""
        updates = max(min(updates, self._left), 0)
        self._left -= updates
        for _ in range(updates):
            self._room.release()
        return updates

    async def _let_in_over(self, updates: int, seconds: float) -> None:
        """Allow half of them at once, the others spread over that time."""
        updates -= self._let_in(updates // 2)
        steps = max(int(seconds / TRICKLE), 1)
        for step in range(steps):
            self._let_in(updates * (step + 1) // steps - updates * step // steps)
            await asyncio.sleep(TRICKLE)
