"""Lost, doubled, misordered: what the sessions heard against what was acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from botsessions.testing.harness.history import Options
from botsessions.testing.harness.rows import Parked, Unfinished
from botsessions.testing.harness.tally import Tally
from botsessions.testing.harness.wire import Sign
from botsessions.testing.points import POINTS

#: How many numbers of a chat, and how many parked updates, the report names.
NAMED = 10


@dataclass(frozen=True)
class Judgement:
    """What is wrong in one chat, by the numbers of its updates."""

    lost: list[int]
    doubled: list[int]
    #: Those that came after one of a later burst.
    misordered: list[int]

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.misordered)


def judge(
    bursts: Sequence[Collection[int]],
    heard: Sequence[int],
    acknowledged: Collection[int],
    waiting: Collection[int] = (),
) -> Judgement:
    """Compare what a session heard with what was said in its chat, and acknowledged.

    What is `waiting` need not have been heard yet.
    """
    times = Counter(heard)
    lost = sorted(each for each in acknowledged if not times[each] and each not in waiting)
    doubled = sorted(each for each, number in times.items() if number > 1)
    place = {each: number for number, burst in enumerate(bursts) for each in burst}
    misordered, latest = [], 0
    for each in dict.fromkeys(heard):
        if place[each] < latest:
            misordered.append(each)
        latest = max(latest, place[each])
    return Judgement(lost, doubled, misordered)


@dataclass
class Verdict:
    """One run: what was done to the processes, and what became of the updates."""

    options: Options
    settings: str
    database: str
    judgements: Mapping[str, Judgement]
    tally: Tally
    seconds: float
    parked: Sequence[Parked] = ()
    unfinished: Unfinished = field(default_factory=lambda: Unfinished(frozenset(), 0))

    @property
    def is_good(self) -> bool:
        complete = self.tally.answered == self.options.updates
        return complete and not (any(self.judgements.values()) or self.parked or self.unfinished)

    def lines(self) -> Iterator[str]:
        """Yield the report; its last line is the verdict."""
        asked = self.options
        yield f"Settings {self.settings}, database {self.database}, {asked.processes} processes."
        yield ""
        yield from table(self._rows())
        if not self.is_good:
            yield ""
            yield from self._complaints()
        yield ""
        yield self._sum()

    def _rows(self) -> Iterator[Sequence[str]]:
        tally = self.tally
        yield "POINT", "KILLED", "PAUSED"
        for point in POINTS:
            kills, pauses = (tally.struck[sign, point] for sign in Sign)
            yield point, f"{kills}", f"{pauses}"
        if tally.cut:
            yield "all at once", f"{tally.cut}", "0"
        yield ()
        yield "UPDATES", "NUMBER"
        yield "acknowledged", f"{tally.answered:,}"
        yield "duplicates", f"{tally.duplicates:,}"
        yield "delivered again", f"{tally.unanswered:,}"
        yield "parked", f"{len(self.parked):,}"
        yield "left waiting", f"{len(self.unfinished.pending):,}"
        yield "leases left", f"{self.unfinished.leases:,}"

    def _complaints(self) -> Iterator[str]:
        missing = self.options.updates - self.tally.answered
        if missing:
            yield (
                f"{missing:,} updates were not acknowledged within {self.options.timeout:g} s: the "
                "database is slow or was away. --timeout gives it longer."
            )
        if self.unfinished:
            yield "Not everything was settled: updates wait, or mailboxes are held, for nobody."
        bad = {chat: found for chat, found in self.judgements.items() if found}
        if bad:
            yield from table(
                [
                    ("CHAT", "LOST", "DOUBLED", "MISORDERED"),
                    *(
                        (chat, some(found.lost), some(found.doubled), some(found.misordered))
                        for chat, found in bad.items()
                    ),
                ]
            )
        if bad and all(len(bad[chat].lost) == len(self.tally.acknowledged[chat]) for chat in bad):
            yield (
                f"Nothing at all was found in them. Do processes share the store "
                f"{self.options.store!r}? One in the memory of a process they do not."
            )
        for parked in self.parked[:NAMED]:
            yield f"Update {parked.id} is parked: {parked.error}"
        if any("is not configured" in parked.error for parked in self.parked):
            yield (
                "A server or Celery worker of the project took these up, and knows nothing of the "
                "harness's bot: stop them while the harness uses their database."
            )
        yield f"To try the same history again: --seed {self.options.seed}"

    def _sum(self) -> str:
        lost, doubled, misordered = (
            sum(len(getattr(each, name)) for each in self.judgements.values())
            for name in ("lost", "doubled", "misordered")
        )
        return (
            f"{lost:,} lost, {doubled:,} doubled, {misordered:,} misordered of "
            f"{self.options.updates:,} updates in {len(self.judgements)} chats; "
            f"{self.tally.kills} kills, {self.tally.duplicates:,} duplicates, {self.seconds:.0f} s"
        )


def some(numbers: Sequence[int]) -> str:
    """Return numbers as text, the first of many."""
    if not numbers:
        return "-"
    rest = f" and {len(numbers) - NAMED:,} more" if len(numbers) > NAMED else ""
    return ", ".join(f"{each}" for each in numbers[:NAMED]) + rest


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the rows as lines, each column as wide as it must be."""
    every = [list(row) for row in rows]
    columns = max(map(len, every))
    padded = [[*row, *[""] * (columns - len(row))] for row in every]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    for row in padded:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
