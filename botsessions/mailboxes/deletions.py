"""Bulk deletions as they stand in the database: what is to be asked for, in chunks of one call.

Every function is part of its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from django.db import transaction

from botsessions import clock
from botsessions.mailboxes.base import Tracked

if TYPE_CHECKING:
    from botsessions.models import DeletionChunk, MessageDeletion

#: How many of a deletion's chunks are looked at for messages that it has already.
REMEMBERED = 200

#: A message of a chat: its id and when it was sent, by which it may be too old.
Doomed = tuple[str, datetime | None]
#: A chat and the business connection in whose name was spoken there.
Place = tuple[str, str]


def begin(
    using: str, bot: str, through: str, messages: Sequence[Tracked], size: int, requested_by: str
) -> int:
    """Store a deletion of these messages, in chunks of `size`, and return its id."""
    from botsessions.models import DeletionChunk, MessageDeletion

    now = clock.now()
    places: dict[Place, list[Doomed]] = {}
    for each in messages:
        places.setdefault((each.chat, each.business), []).append((each.message_id, each.sent_at))
    nameless = sum(not each.message_id for each in messages)
    deletion = MessageDeletion.objects.using(using).create(
        bot=bot,
        through=through,
        status=MessageDeletion.Status.RUNNING,
        total=len(messages),
        gone=nameless,
        requested_by=requested_by,
        created_at=now,
    )
    chunks = list(chunked(deletion, places, size, now))
    DeletionChunk.objects.using(using).bulk_create(chunks)
    # Two of one id, in slices that were put together, are deleted at once.
    spare = len(messages) - nameless - sum(len(each.messages) for each in chunks)
    if spare or not chunks:
        deletion.gone += spare
        if not chunks:
            deletion.status, deletion.finished_at = MessageDeletion.Status.DONE, now
        deletion.save(using=using)
    return int(deletion.pk)


def chunked(
    deletion: MessageDeletion, places: dict[Place, list[Doomed]], size: int, due_at: datetime | None
) -> Iterator[DeletionChunk]:
    """Yield the chunks of a deletion, none with a message twice."""
    from botsessions.models import DeletionChunk

    for (chat, business), doomed in places.items():
        unique = list({id: stamp(sent_at) for id, sent_at in doomed if id}.items())
        for first in range(0, len(unique), size):
            yield DeletionChunk(
                deletion=deletion,
                chat=chat,
                business=business,
                messages=unique[first : first + size],
                due_at=due_at,
            )


def stamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def known_ids(using: str, deletion: MessageDeletion, chats: Iterable[str]) -> dict[Place, set[str]]:
    """Return messages of these chats that a deletion has already: the last ones, where it has many.

    What it misses so is asked for again, and gone.
    """
    from botsessions.models import DeletionChunk

    chunks = DeletionChunk.objects.using(using).filter(deletion=deletion, chat__in=set(chats))
    last = chunks.order_by("-pk").values_list("chat", "business", "messages")[:REMEMBERED]
    known: dict[Place, set[str]] = {}
    for chat, business, messages in last:
        known.setdefault((chat, business), set()).update(id for id, _ in messages)
    return known


def finish(using: str, pk: int, *, gathered: bool = False) -> None:
    """Note that a deletion is gathered, or that all of it has come to an outcome, where it has."""
    from botsessions.models import DeletionChunk, MessageDeletion

    status = MessageDeletion.Status
    with transaction.atomic(using=using):
        deletion = MessageDeletion.objects.using(using).select_for_update().get(pk=pk)
        if gathered and deletion.status == status.GATHERING:
            deletion.status, deletion.due_at, deletion.selection = status.RUNNING, None, None
        chunks = DeletionChunk.objects.using(using).filter(deletion=pk)
        if deletion.status == status.RUNNING and not chunks.filter(due_at__isnull=False).exists():
            deletion.status, deletion.finished_at = status.DONE, clock.now()
        if deletion.status == status.DONE and deletion.forgets:
            chunks.delete()
        fields = ["status", "due_at", "selection", "finished_at"]
        deletion.save(using=using, update_fields=fields)
