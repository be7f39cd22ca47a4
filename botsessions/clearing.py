"""Deleting a slice: on the platform in batches, and here once their outcome is known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from botsessions import clock
from botsessions.exceptions import PlatformError
from botsessions.mailboxes.base import Mailbox, Tracked
from botsessions.platforms.base import Deletion, Platform

log = logging.getLogger("botsessions.session")

#: Seconds before a deletion that failed for the moment is asked for again, and the longest that a
#: platform may want instead.
DELETION_PAUSES = (0.5, 2.0)
LONGEST_PAUSE = 30.0


class Cleared(int):
    """How many messages a `clear` took out of a session's slice, and what became of each.

    `outcomes` counts by the values of `Deletion`: deleted, gone, too_old, forbidden, failed.
    """

    outcomes: dict[str, int]

    @classmethod
    def of(cls, outcomes: dict[str, int]) -> Cleared:
        cleared = cls(sum(outcomes.values()))
        cleared.outcomes = outcomes
        return cleared


async def clear_messages(
    platform: Platform,
    messages: Sequence[Tracked],
    ask: Callable[[Callable[[Mailbox], Any]], Awaitable[Any]],
) -> dict[str, int]:
    """Delete messages on the platform and in their slice; return how many came to each outcome.

    Each batch is forgotten, through `ask`, before the next is asked for.
    """
    outcomes = {each.value: 0 for each in Deletion}
    places: dict[tuple[str, str], list[Tracked]] = {}
    for message in messages:
        places.setdefault((message.chat, message.business), []).append(message)
    for (chat, business), there in places.items():
        for batch in in_batches(there, platform.delete_batch_size):
            found = await _delete(platform, chat, business, batch)
            for message in batch:
                outcomes[found.get(message.message_id, Deletion.GONE)] += 1
            await ask(partial(forget, batch))
    return outcomes


async def _delete(
    platform: Platform, chat: str, business: str, batch: Sequence[Tracked]
) -> dict[str, Deletion]:
    """Delete messages of one chat on the platform, and return what became of each."""
    found = {each.message_id: Deletion.GONE for each in batch}
    limit = platform.deletable_for
    oldest = clock.now() - limit if limit is not None else None
    wanted = []
    for each in batch:
        if oldest is not None and each.sent_at is not None and each.sent_at < oldest:
            found[each.message_id] = Deletion.TOO_OLD
        elif each.message_id:
            wanted.append(each.message_id)
    for pause in (*DELETION_PAUSES, None):
        if not wanted:
            break
        wait = pause
        try:
            found |= await platform.delete_messages(chat, wanted, business)
        except PlatformError as error:
            log.warning("%d messages of chat %s were not deleted: %s", len(wanted), chat, error)
            found |= dict.fromkeys(wanted, Deletion.FAILED)
            if error.permanent:
                break
            wait = pause and min(getattr(error, "retry_after", None) or pause, LONGEST_PAUSE)
        wanted = [each for each in wanted if found.get(each) is Deletion.FAILED]
        if wanted and wait is not None:
            await asyncio.sleep(wait)
    return found


def in_batches(messages: Sequence[Tracked], size: int) -> Iterator[Sequence[Tracked]]:
    for first in range(0, len(messages), size):
        yield messages[first : first + size]


def forget(messages: Sequence[Tracked], mailbox: Mailbox) -> None:
    mailbox.forget(messages)
