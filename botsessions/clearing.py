"""Deleting messages on the platform: call by call, and what became of each."""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botsessions import clock, metrics
from botsessions.exceptions import BatchRefused, Forbidden, PlatformError
from botsessions.mailboxes.base import Mailbox, Tracked
from botsessions.mailboxes.deletions import Doomed
from botsessions.platforms.base import Deletion, Platform

if TYPE_CHECKING:
    from botsessions.bots import Bot

T = TypeVar("T")

log = logging.getLogger("botsessions.session")


class Cleared(int):
    """How many messages a `clear` took out of a session's slice, and what became of each.

    `outcomes` counts by the values of `Deletion`: deleted, gone, too_old, forbidden, failed. Those
    that it does not count are left to a `MessageDeletion`, whose id is `deletion`, or were when the
    platform could not be asked at once; None where nothing is left.
    """

    outcomes: dict[str, int]
    deletion: int | None

    @classmethod
    def of(cls, found: dict[str, Any]) -> Cleared:
        cleared = cls(found["total"])
        cleared.outcomes, cleared.deletion = found["outcomes"], found["deletion"]
        return cleared


#: Makes a call about a chat when that is its turn.
Pace = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


def pace_of(bot: Bot) -> Pace:
    """Return what lets deletions of a bot go beside its rates, unless their chat is paused.

    Nobody waits: it raises `RateLimited`, as a 429 does, which pauses the chat.
    """
    return lambda chat, call: bot.pacer.run(chat, 0, call, wait=0)


async def delete(
    platform: Platform,
    chat: str,
    business: str,
    messages: Iterable[Doomed],
    pace: Pace = lambda _, call: call(),
) -> AsyncIterator[dict[str, Deletion]]:
    """Delete messages of one chat, as many as one call takes, and yield what became of them.

    Each yield follows at most one call, so that whoever notes it never asks again for what is
    known. A batch that is refused because of some of its messages is halved until those stand
    alone; a chat that the bot may not write to is asked once. Raises a `PlatformError` that is not
    permanent where a call failed for the moment: what was not yielded may be asked again.
    """
    limit = platform.deletable_for
    oldest = clock.now() - limit if limit is not None else None
    known: dict[str, Deletion] = {}
    wanted: dict[str, None] = {}
    for id, sent_at in messages:
        if oldest is not None and sent_at is not None and sent_at < oldest:
            known[id] = Deletion.TOO_OLD
        elif id:
            wanted[id] = None
        else:
            known[id] = Deletion.GONE
    if known:
        yield known
    batches = [list(wanted)]
    while batches:
        batch = batches.pop()
        if not batch:
            continue
        try:
            call = partial(platform.delete_messages, chat, batch, business)
            found = await pace(chat, call)
            yield {id: found.get(id, Deletion.GONE) for id in batch}
        except BatchRefused as error:
            if len(batch) == 1:
                yield {batch[0]: Deletion.FORBIDDEN}
                log.warning("A message of chat %s was not deleted: %s", chat, error)
                continue
            half = (len(batch) + 1) // 2
            batches += [batch[half:], batch[:half]]
        except Forbidden as error:
            log.warning("No messages of chat %s can be deleted: %s", chat, error)
            left = [id for each in (batch, *batches) for id in each]
            yield dict.fromkeys(left, Deletion.FORBIDDEN)
            return
        except PlatformError as error:
            if not error.permanent:
                raise
            log.warning("%d messages of chat %s were not deleted: %s", len(batch), chat, error)
            yield dict.fromkeys(batch, Deletion.FAILED)


async def clear_messages(
    bot: Bot,
    messages: Sequence[Tracked],
    ask: Callable[[Callable[[Mailbox], Any]], Awaitable[Any]],
) -> tuple[dict[str, int], list[Tracked]]:
    """Delete messages on a bot's platform, each out of its slice when its outcome is known.

    Returns how many came to each outcome, and those that are still in the slice because the
    platform cannot be asked at the moment.
    """
    platform, pace = bot.platform, pace_of(bot)
    outcomes = {each.value: 0 for each in Deletion}
    left: list[Tracked] = []
    for (chat, business), there in by_chat(messages).items():
        for number, batch in enumerate(in_batches(there, platform.delete_batch_size)):
            known: set[int] = set()
            try:
                doomed = [(each.message_id, each.sent_at) for each in batch]
                async for found in delete(platform, chat, business, doomed, pace):
                    done = [
                        each for each in batch if each.message_id in found and each.id not in known
                    ]
                    for each in done:
                        outcomes[found[each.message_id]] += 1
                        metrics.deletions(bot.alias, found[each.message_id])
                    known.update(each.id for each in done)
                    await ask(partial(mark_deleted, done, found))
            except PlatformError as error:
                log.warning("Messages of chat %s are deleted later: %s", chat, error)
                passed = there[number * platform.delete_batch_size :]
                left += [each for each in passed if each.id not in known]
                break
    return outcomes, left


def by_chat(messages: Iterable[Tracked]) -> dict[tuple[str, str], list[Tracked]]:
    """Return messages by chat and business connection, each in their order."""
    chats: dict[tuple[str, str], list[Tracked]] = {}
    for message in messages:
        chats.setdefault((message.chat, message.business), []).append(message)
    return chats


def in_batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(values), size):
        yield values[first : first + size]


def mark_deleted(
    messages: Sequence[Tracked], found: Mapping[str, Deletion], mailbox: Mailbox
) -> None:
    outcomes: dict[str, list[Tracked]] = {}
    for each in messages:
        outcomes.setdefault(found[each.message_id].value, []).append(each)
    mailbox.mark_deleted(outcomes)


def forget(messages: Sequence[Tracked], mailbox: Mailbox) -> None:
    mailbox.forget(messages)
