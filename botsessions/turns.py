"""What the engine takes to the database in one go, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, Final

from botsessions import metrics
from botsessions.contents import fill, settle
from botsessions.delivery import Delivery
from botsessions.exceptions import Unavailable
from botsessions.leases import Lease
from botsessions.mailboxes.base import (
    Admitted,
    Arrival,
    Commit,
    Committed,
    Found,
    Mailbox,
    Sent,
    Waiting,
)

#: The most arrivals in a turn.
TURN_SIZE: Final = 500
#: How many turns in a row leave the arrivals to the next.
LEFT: Final = 8
#: Arrivals are waited for until they are this part of what went together lately, or for so many
#: seconds; each turn that is smaller leaves so much of what is remembered.
MOST: Final = 0.75
MOMENT: Final = 0.003
FADING: Final = 0.9
#: Fewer than that are worth no wait.
FEW: Final = 2
#: How many mailboxes one look for abandoned updates takes up.
RECOVERED = 100

#: A part of a turn, the items that went together, and their answer or the exception that they met.
TurnAnswer = tuple[str, list[Any], Any]


class Turn:
    """The work that gathers while the turn before it is in the database."""

    __slots__ = ("admits", "asks", "commits", "loads", "records", "recovers", "renews", "stores")

    def __init__(self) -> None:
        self.commits: list[tuple[Commit, Delivery | None]] = []
        self.records: list[tuple[Sent, asyncio.Future[None]]] = []
        self.stores: list[Delivery] = []
        self.renews: list[Lease] = []
        self.asks: list[tuple[Callable[[Mailbox], Any], asyncio.Future[Any]]] = []
        self.loads: list[Delivery] = []
        self.admits: list[Delivery] = []
        self.recovers: list[asyncio.Future[list[Waiting]]] = []

    def __bool__(self) -> bool:
        return bool(self.admits) or self.is_awaited

    @property
    def is_awaited(self) -> bool:
        """Is there anything in it but arrivals?"""
        return any(getattr(self, part) for part in self.__slots__ if part != "admits")

    def work(
        self, mailbox: Mailbox, token: str, room: int, tell: Callable[[TurnAnswer], object]
    ) -> None:
        """Do it all, in the calling thread, and `tell` each answer as it comes.

        `token` is for the mailboxes that are taken; beyond `room` arrivals are stored rather than
        handled. Commits come first: they free mailboxes for the same turn, and while the rest is
        done those who waited for them have their answer.
        """
        begun = perf_counter()
        for answer in self._work(mailbox, token, room):
            seconds = perf_counter() - begun
            tell(answer)
            metrics.count(*answer, seconds)
            begun = perf_counter()

    def _work(self, mailbox: Mailbox, token: str, room: int) -> Iterator[TurnAnswer]:
        arrivals = [
            (each, self._arrival(each, has_room=number < room))
            for number, each in enumerate(self.admits)
        ]
        yield from _answers(
            "commits",
            self.commits,
            lambda part: _committed(mailbox, [commit for commit, _ in part]),
        )
        yield from _answers(
            "records", self.records, lambda part: mailbox.record([sent for sent, _ in part])
        )
        yield from _answers(
            "stores",
            self.stores,
            lambda part: mailbox.store([self._arrival(each) for each in part]),
        )
        yield from _answers(
            "renews",
            self.renews,
            lambda part: mailbox.renew([(each.mailbox, each.token) for each in part]),
        )
        for ask in self.asks:
            yield from _answers("asks", [ask], lambda part: part[0][0](mailbox))
        yield from _answers(
            "loads",
            self.loads,
            lambda part: _found(part, mailbox.find([self._arrival(each) for each in part])),
        )
        yield from _answers(
            "admits",
            arrivals,
            lambda part: _admitted(part, mailbox.admit([arrival for _, arrival in part], token)),
        )
        # A token of its own: what is admitted and what is recovered may meet in one mailbox, in two
        # turns.
        yield from _answers(
            "recovers", self.recovers, lambda _: mailbox.recover(RECOVERED, f"{token}r")
        )

    @staticmethod
    def _arrival(delivery: Delivery, *, has_room: bool = True) -> Arrival:
        return Arrival(
            delivery.update,
            delivery.mailbox,
            delivery.keys,
            store_first=delivery.bot.ack_after <= 0,
            room=has_room,
            key=None if delivery.bot.strategy else delivery.key,
            is_placed=delivery.is_placed,
        )

    def abandon(self, error: Exception) -> None:
        """Nobody will do this turn: tell those who wait for it."""
        for delivery in (*self.admits, *(each for _, each in self.commits if each is not None)):
            delivery.acknowledge(error)
        futures = (*(each for _, each in self.records), *(each for _, each in self.asks))
        for future in (*futures, *self.recovers):
            future.cancel()


class Gathering:
    """Chooses what goes to the database together.

    A turn that commits leaves the arrivals to a later one, and one of arrivals alone waits a moment
    for most of those that are on their way: whoever was answered is soon back, and one turn for all
    of them costs less than two.
    """

    def __init__(self) -> None:
        #: How many turns in a row left the arrivals.
        self._left = 0
        #: How many arrivals or commits went together lately.
        self._crowd = 0.0

    async def wait(self, turn: Turn) -> None:
        """Give those who were answered a moment to come back."""
        self._crowd = max(len(turn.admits) + len(turn.commits), self._crowd * FADING)
        wanted = min(self._crowd, TURN_SIZE) * MOST
        if wanted < FEW:
            return
        until = perf_counter() + MOMENT
        while len(turn.admits) < wanted and not turn.is_awaited and perf_counter() < until:
            await asyncio.sleep(0)

    def split(self, turn: Turn) -> Turn:
        """Take what is left for later out of a turn, and return that as the next one."""
        self._left = self._left + 1 if turn.commits else 0
        taken = 0 if 0 < self._left <= LEFT else TURN_SIZE
        later = Turn()
        later.admits = turn.admits[taken:]
        del turn.admits[taken:]
        return later


def _committed(mailbox: Mailbox, commits: list[Commit]) -> Committed:
    committed = mailbox.commit(commits)
    settle(commits, committed.outcomes)
    return committed


def _admitted(part: list[tuple[Delivery, Arrival]], admitted: Admitted) -> Admitted:
    _found([delivery for delivery, _ in part], admitted.sessions)
    return admitted


def _found(deliveries: list[Delivery], found: list[Found]) -> list[Found]:
    """Read what is not in the rows; where a store is away, the handlers that need it wait."""
    by_store: dict[int, list[tuple[Delivery, Found]]] = {}
    for delivery, each in zip(deliveries, found, strict=True):
        if delivery.bot.store is not None and not delivery.bot.store.in_row:
            by_store.setdefault(id(delivery.bot.store), []).append((delivery, each))
    for batch in by_store.values():
        rows = (
            pair
            for delivery, each in batch
            for pair in (*zip(delivery.keys, each.named, strict=True), *each.flows)
        )
        try:
            fill(batch[0][0].bot.store, rows)
        except Unavailable as error:
            for delivery, _ in batch:
                delivery.trouble = error
    return found


def _answers(part: str, items: list[Any], verb: Callable[[list[Any]], Any]) -> Iterator[TurnAnswer]:
    """Do a batch; where that fails each by itself, so that what is wrong with one fails alone."""
    if not items:
        return
    try:
        yield part, items, verb(items)
    except Exception as error:
        if isinstance(error, Unavailable) or len(items) == 1:
            yield part, items, error
        else:
            for item in items:
                yield from _answers(part, [item], verb)
