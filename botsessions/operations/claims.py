"""Chunks of bulk deletions in the hands of one process: claimed, kept, and given back with what
became of their messages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

from django.db import transaction
from django.db.models import F

from botsessions import clock, metrics
from botsessions.conf import settings
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.deletions import finish
from botsessions.mailboxes.slices import skips_locked
from botsessions.models import OUTCOMES, DeletionChunk, MessageDeletion
from botsessions.platforms.base import Deletion


class Asked:
    """A chunk in this process's hands, and what it found out that is not written yet."""

    def __init__(self, chunk: DeletionChunk) -> None:
        self.chunk = chunk
        self.new: dict[str, str] = {}
        #: When the rest is to be asked for, None where nothing is left.
        self.again: datetime | None = None
        #: Is nothing to be asked in its chat before?
        self.is_paused = False
        #: Is it to be given back?
        self.is_over = False

    @property
    def left(self) -> list[tuple[str, datetime | None]]:
        """The messages without an outcome."""
        known = self.chunk.outcomes
        return [
            (id, None if sent is None else datetime.fromtimestamp(sent, UTC))
            for id, sent in self.chunk.messages
            if id not in known
        ]

    def note(self, found: Mapping[str, Deletion]) -> None:
        """Take down what became of some of its messages; of all of them, it is over."""
        self.new |= {id: outcome.value for id, outcome in found.items()}
        self.chunk.outcomes |= self.new
        self.is_over = len(self.chunk.outcomes) >= len(self.chunk.messages)


class Claims:
    """What one process has claimed; each verb is one transaction, run again after a deadlock.

    Deletions are locked before their chunks, and chunks in the order of their ids. Raises
    `Unavailable`.
    """

    def __init__(self, aliases: Iterable[str]) -> None:
        self._aliases = list(aliases)
        self._token = uuid4().hex
        self._in_hand: set[int] = set()
        self._database = DatabaseMailbox()

    def take(self, limit: int) -> list[DeletionChunk]:
        """Take chunks that are due, so that nobody else asks for them now."""
        return self._database.rerun(partial(self._take, limit)) if limit else []

    def keep(self) -> None:
        """Keep what is in hand for LEASE seconds from now."""
        self._database.rerun(self._keep)

    def store(self, batch: Sequence[Asked]) -> int:
        """Write outcomes, of those chunks that are still in hand; return of how many messages."""
        return self._database.rerun(partial(self._store, batch))

    def give_up(self, chunk: DeletionChunk) -> None:
        """Keep a chunk no longer: it is found again when the claim is over."""
        self._in_hand.discard(chunk.pk)

    def _until(self) -> datetime:
        return clock.now() + timedelta(seconds=settings.LEASE)

    def _take(self, limit: int) -> list[DeletionChunk]:
        using = settings.DATABASE
        rows, jobs = DeletionChunk.objects.using(using), MessageDeletion.objects.using(using)
        ours = jobs.filter(through__in=self._aliases).values("pk")
        with transaction.atomic(using=using):
            due = rows.filter(due_at__lte=clock.now(), deletion__in=ours).order_by("due_at", "id")
            found = list(due.select_for_update(skip_locked=skips_locked(settings.DATABASE))[:limit])
            claimed = rows.filter(pk__in=[each.pk for each in found])
            claimed.update(due_at=self._until(), token=self._token)
        known = jobs.in_bulk({each.deletion_id for each in found})
        for each in found:
            each.deletion, each.token = known[each.deletion_id], self._token
        self._in_hand.update(each.pk for each in found)
        return found

    def _keep(self) -> None:
        using = settings.DATABASE
        with transaction.atomic(using=using):
            rows = DeletionChunk.objects.using(using).filter(pk__in=self._in_hand)
            ours = rows.filter(token=self._token, due_at__isnull=False).order_by("pk")
            ids = list(ours.select_for_update().values_list("pk", flat=True))
            DeletionChunk.objects.using(using).filter(pk__in=ids).update(due_at=self._until())

    def _store(self, asked: Sequence[Asked]) -> int:
        using = settings.DATABASE
        rows, jobs = DeletionChunk.objects.using(using), MessageDeletion.objects.using(using)
        batch = sorted({id(each): each for each in asked}.values(), key=lambda each: each.chunk.pk)
        counts: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
        with transaction.atomic(using=using):
            deletions = {each.chunk.deletion_id for each in batch}
            list(jobs.filter(pk__in=deletions).order_by("pk").select_for_update().values("pk"))
            ids = [each.chunk.pk for each in batch]
            locked = rows.filter(pk__in=ids, token=self._token).order_by("pk").select_for_update()
            ours = dict(locked.values_list("pk", "due_at"))
            batch = [each for each in batch if each.chunk.pk in ours]
            for each in batch:
                chunk = each.chunk
                for outcome in each.new.values():
                    counts[chunk.deletion_id][outcome] += 1
                changes: dict[str, object] = {"outcomes": chunk.outcomes}
                if each.is_over:
                    # One that was cancelled meanwhile is not due any more.
                    changes |= {"due_at": ours[chunk.pk] and each.again, "token": ""}
                    changes |= {"error": chunk.error, "attempts": chunk.attempts}
                    changes["limited_since"] = chunk.limited_since
                rows.filter(pk=chunk.pk).update(**changes)
            for pk, found in sorted(counts.items()):
                numbers = {name: F(name) + number for name, number in found.items() if number}
                jobs.filter(pk=pk).update(**numbers)
            self._postpone(batch)
            for pk in sorted({each.chunk.deletion_id for each in batch if each.is_over}):
                finish(using, pk)
        bots = {each.chunk.deletion_id: each.chunk.deletion.bot for each in batch}
        for pk, found in counts.items():
            for outcome, number in found.items():
                if number:
                    metrics.deletions(bots[pk], outcome, number)
        for each in batch:
            each.new = {}
        return sum(sum(found.values()) for found in counts.values())

    def _postpone(self, batch: Sequence[Asked]) -> None:
        """Leave the other chunks of a chat alone, too, until its platform wants to be asked."""
        latest: dict[tuple[int, str], datetime] = {}
        for each in batch:
            if each.is_paused and each.again is not None:
                there = each.chunk.deletion_id, each.chunk.chat
                latest[there] = max(latest.get(there, each.again), each.again)
        rows = DeletionChunk.objects.using(settings.DATABASE).filter(token="")
        for (deletion, chat), moment in sorted(latest.items()):
            waiting = rows.filter(deletion=deletion, chat=chat, due_at__lt=moment).order_by("pk")
            ids = list(waiting.select_for_update().values_list("pk", flat=True))
            DeletionChunk.objects.using(settings.DATABASE).filter(pk__in=ids).update(due_at=moment)
