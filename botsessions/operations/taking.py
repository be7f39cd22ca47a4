"""Mailboxes that an operation takes, as the engine does, to change what their sessions hold."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

from botsessions.bots import Bot
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Admission, Arrival, Commit, Effect
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotUpdate
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
def taken(names: Iterable[str], mailbox: DatabaseMailbox | None = None) -> Iterator[Taken]:
    """Take those of these mailboxes that are free and in which nothing waits.

    The others are left to whoever works on them. What arrives meanwhile waits, and is handled in
    this process when the block ends.
    """
    mailbox = mailbox or DatabaseMailbox()
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
    if arrived.filter(mailbox__in=free, status=BotUpdate.Status.PENDING).exists():
        recover()


def mailbox_name(key: SessionKey, known: Mapping[str, Bot]) -> str:
    """Return the mailbox of a session; of a bot that is not there any more it is the key's own."""
    unit = known[key.bot].unit_of_key(key) if key.bot in known else key
    return str(unit.qualified(""))
