"""The mailboxes that an engine holds: until when it may trust that, and when to make sure."""

from __future__ import annotations

import time
from collections.abc import Iterator

from botsessions.conf import settings
from botsessions.exceptions import LeaseLost
from botsessions.mailboxes.base import Commit, Effect

#: Seconds for which a lease whose transaction was left unfinished is trusted. The database undoes
#: what stays unfinished for longer than that, as in a process that was paused.
PROVISIONAL = 1.0
#: Seconds between looks for leases that are to be renewed.
TICK = 0.4


class Lease:
    """A mailbox that this engine holds, by its own clock until `until` at the least."""

    __slots__ = ("lost", "mailbox", "renew_at", "token", "until")

    def __init__(self, mailbox: str, token: str, until: float) -> None:
        self.mailbox = mailbox
        self.token = token
        self.lost = False
        self.extend(until)

    def extend(self, until: float, *, provisional: bool = False) -> None:
        """Trust it until then; a provisional one for a moment, after which it is renewed."""
        if provisional:
            self.until = min(until, until - settings.LEASE + PROVISIONAL)
            self.renew_at = 0.0
        else:
            self.until = until
            self.renew_at = until - settings.LEASE + settings.RENEW_EVERY

    def check(self) -> None:
        """Raise `LeaseLost` where another process may have taken the mailbox over."""
        if self.lost or time.monotonic() >= self.until:
            raise LeaseLost(f"The lease of mailbox {self.mailbox} has run out.")

    def give_back(self, *, go_on: bool = True) -> Commit:
        """Return what gives the mailbox back; where updates wait, it is gone on with instead."""
        return Commit(self.mailbox, self.token, Effect.NOTHING, go_on=go_on)


class Leases:
    """The leases of one engine, by mailbox."""

    def __init__(self) -> None:
        self._held: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, mailbox: str, token: str, until: float) -> Lease:
        """Note that a mailbox is held with this token, until then if that is new."""
        lease = self._held.get(mailbox)
        if lease is None or lease.token != token:
            lease = self._held[mailbox] = Lease(mailbox, token, until)
        return lease

    def find(self, commit: Commit) -> Lease | None:
        """Return the lease under which a commit was made, None where it is not held any more."""
        lease = self._held.get(commit.mailbox)
        return lease if lease is not None and lease.token == commit.token else None

    def end(self, lease: Lease) -> None:
        """Note that a lease was given back or lost."""
        if self._held.get(lease.mailbox) is lease:
            del self._held[lease.mailbox]

    def due(self) -> Iterator[Lease]:
        """Yield those that are to be renewed by now."""
        now = time.monotonic()
        return (lease for lease in self._held.values() if lease.renew_at <= now)
