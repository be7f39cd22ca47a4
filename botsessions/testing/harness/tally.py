"""What has happened in a run so far, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from botsessions.testing.harness.wire import Sign


@dataclass
class Tally:
    """The counts of one run; the director and the crew keep them."""

    #: The numbers that were acknowledged, by chat.
    acknowledged: dict[str, set[int]] = field(default_factory=dict)
    #: Updates that were delivered twice on purpose, and deliveries that were not answered.
    duplicates: int = 0
    unanswered: int = 0
    #: How often a process was struck, by sign and point.
    struck: Counter[tuple[Sign, str]] = field(default_factory=Counter)
    #: Processes that were killed all at once.
    cut: int = 0

    @property
    def answered(self) -> int:
        """How many updates were acknowledged."""
        return sum(map(len, self.acknowledged.values()))

    @property
    def kills(self) -> int:
        single = sum(number for (sign, _), number in self.struck.items() if sign is Sign.KILL)
        return single + self.cut
