"""The mailbox under test, kept away from everybody else's updates."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Exists, Max, Min, OuterRef, Q
from django.utils.module_loading import import_string

from botsessions import clock
from botsessions.keys import SessionKey
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.statements.orm import DatabaseClock
from botsessions.models import BotUpdate, MailboxLease


class OwnMailbox(DatabaseMailbox):
    """A mailbox that looks for the work of one bot alone.

    A started engine takes up every update that a crashed process left behind, of whichever bot, and
    tells flows that their deadlines have passed. In the harness that would run the project's
    handlers, or park what waits for them. Nothing else reaches a mailbox that was not delivered to:
    what is next is looked for in those that are held.
    """

    alias: str

    def due(self, bots: Sequence[str], limit: int) -> list[tuple[SessionKey, bytes]]:
        return super().due([self.alias], limit)

    def _abandoned(self, limit: int) -> list[str]:
        self.flush()  # the query below is Django's own, which knows of no unfinished transaction
        now = clock.now()
        leases = MailboxLease.objects.using(self.using).filter(key=OuterRef("mailbox"))
        waiting = BotUpdate.objects.using(self.using).filter(
            ~Exists(leases.filter(expires_at__gt=DatabaseClock())),
            status=BotUpdate.Status.PENDING,
            mailbox__startswith=f"{self.alias}:",
        )
        oldest = waiting.values("mailbox").annotate(first=Min("id"), due=Max("due_at"))
        due = oldest.filter(Q(due=None) | Q(due__lte=now)).order_by("first")
        return [mailbox for (mailbox,) in due.values_list("mailbox")[:limit]]


def mailbox_class(path: str) -> type[DatabaseMailbox]:
    """Return the class of that dotted path. Raises `ImproperlyConfigured`, naming it."""
    try:
        found = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"--mailbox {path}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, DatabaseMailbox)):
        raise ImproperlyConfigured(
            f"--mailbox {path} is no subclass of botsessions.mailboxes.database.DatabaseMailbox."
        )
    return found


def own_mailbox(path: str, alias: str) -> DatabaseMailbox:
    """Return a mailbox of that class that looks for the work of this bot alone."""
    base = mailbox_class(path)
    made: DatabaseMailbox = type(f"Own{base.__name__}", (OwnMailbox, base), {"alias": alias})()
    return made
