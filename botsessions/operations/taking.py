"""Mailboxes that an operation takes, as the engine does, to change what their sessions hold."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

from asgiref.sync import async_to_sync
from django.db import transaction

from botsessions.access import Access
from botsessions.bots import Bot
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Admission, Arrival, Commit, Effect
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.slices import key_of
from botsessions.models import BotSession, BotUpdate
from botsessions.operations.recovery import recover
from botsessions.updates import Update


class Taken:
    """The mailboxes that were free, held with `token` until the block ends or LEASE is over."""

    def __init__(self, mailbox: DatabaseMailbox, token: str, free: Collection[str]) -> None:
        self.mailbox = mailbox
        self.token = token
        self.free = frozenset(free)

    def __contains__(self, name: object) -> bool:
        return name in self.free


@contextmanager
def taken(
    names: Iterable[str], mailbox: DatabaseMailbox | None = None, *, recovers: bool = True
) -> Iterator[Taken]:
    """Take those of these mailboxes that are free and in which nothing waits.

    The others are left to whoever works on them. What arrives meanwhile waits, and is handled in
    this process when the block ends, unless the caller recovers by itself. Raises `RuntimeError` in
    somebody's transaction: until that ends, its leases would be in everybody's way.
    """
    mailbox = mailbox or DatabaseMailbox()
    check_alone(mailbox.using)
    arrivals = [
        Arrival(Update("", f"taken-{uuid4().hex}", "operation"), name, only_now=True)
        for name in sorted(set(names))
    ]
    token = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:12]}"
    admitted = mailbox.admit(arrivals, token)
    free = [
        arrival.mailbox
        for arrival, decision in zip(arrivals, admitted.decisions, strict=True)
        if decision is Admission.HANDLE
    ]
    try:
        yield Taken(mailbox, token, free)
    finally:
        # What waits in a mailbox comes first: whoever recovers it works on.
        held = [*free, *(each.mailbox for each in admitted.waiting)]
        mailbox.commit([Commit(name, token, Effect.NOTHING, go_on=False) for name in held])
    arrived = BotUpdate.objects.using(mailbox.using)
    if recovers and arrived.filter(mailbox__in=free, status=BotUpdate.Status.PENDING).exists():
        recover()


def check_alone(using: str) -> None:
    """Raise `RuntimeError` in a transaction."""
    try:
        with transaction.atomic(using=using, durable=True):
            pass
    except RuntimeError as error:
        raise RuntimeError(
            "Mailboxes are not taken in a transaction (transaction.atomic, ATOMIC_REQUESTS): "
            "whoever works on them could not end. Begin the work here, as with begin_erasure, and "
            "leave it to a task."
        ) from error


class Sessions:
    """Sessions of which the mailboxes were taken (`free`), or could not be (`busy`)."""

    def __init__(self, free: list[BotSession], busy: list[BotSession]) -> None:
        self.free = free
        self.busy = busy

    @property
    def ids(self) -> list[int]:
        """The ids of those that are free."""
        return [each.pk for each in self.free]


@contextmanager
def taken_sessions(
    sessions: Iterable[BotSession], known: Mapping[str, Bot], *, recovers: bool = True
) -> Iterator[Sessions]:
    """Take the mailboxes of these sessions, as `taken` does."""
    names = {each.pk: mailbox_name(key_of(each), known) for each in sessions}
    with taken(names.values(), recovers=recovers) as hold:
        free = [each for each in sessions if names[each.pk] in hold]
        yield Sessions(free, [each for each in sessions if names[each.pk] not in hold])


@contextmanager
def in_turn(bot: Bot, name: str, wait: float) -> Iterator[None]:
    """Take a mailbox when what waits in it is done. Raises `MailboxBusy` where it takes longer."""
    access = Access(bot, SessionKey(bot.alias, "~"), wait, name)
    async_to_sync(access.enter)()
    try:
        yield
    finally:
        async_to_sync(access.leave)(None)


def mailbox_name(key: SessionKey, known: Mapping[str, Bot]) -> str:
    """Return the mailbox of a session; of a bot that is not there any more it is the key's own."""
    unit = known[key.bot].unit_of_key(key) if key.bot in known else key
    return str(unit.qualified(""))
