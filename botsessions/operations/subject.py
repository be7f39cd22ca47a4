"""A person or a chat, and everything that is stored of them: what is erased is what is exported."""

from __future__ import annotations

import re
from typing import Literal

from django.db.models import Q, QuerySet
from django.utils.crypto import salted_hmac

from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.exceptions import UnknownBot
from botsessions.keys import SessionKey
from botsessions.models import (
    BotSession,
    BotUpdate,
    DeletionChunk,
    MailboxLease,
    RateWindow,
    TrackedMessage,
)
from botsessions.updates import ACCESS

Kind = Literal["user", "chat"]


class Subject:
    """A user or a chat of a bot, by the platform's id.

    To a user belong the private chat too, which has the user's own id where the platform has it
    so, and what the user said in everybody's sessions. Raises `UnknownBot`, and `ValueError` unless
    exactly one of user and chat is named.
    """

    def __init__(self, bot: str, *, user: str = "", chat: str = "") -> None:
        if bot not in bots:
            raise UnknownBot(f"There is no bot '{bot}'.")
        if bool(user) == bool(chat):
            raise ValueError("Name either a user or a chat, by the platform's id.")
        self.bot = bot
        self.kind: Kind = "user" if user else "chat"
        self.id = user or chat

    @property
    def pseudonym(self) -> str:
        """What a receipt keeps: nobody finds the id by it who does not know SECRET_KEY and id."""
        value = f"{self.bot}/{self.kind}/{self.id}"
        return salted_hmac("botsessions.erasure", value, algorithm="sha256").hexdigest()

    # Whatever is theirs, table by table

    @property
    def sessions(self) -> QuerySet[BotSession]:
        """Their sessions: a chat's are everybody's in it, in business and guest chats too."""
        theirs = Q(chat=self.id) | Q(chat__regex=rf"/{re.escape(self.id)}$")
        if self.kind == "user":
            theirs |= Q(user=self.id)
        return BotSession.objects.using(settings.DATABASE).filter(theirs, bot=self.bot)

    @property
    def said(self) -> QuerySet[TrackedMessage]:
        """The messages in other sessions that are theirs: what the user said, or was said there."""
        rows = TrackedMessage.objects.using(settings.DATABASE).filter(session__bot=self.bot)
        theirs = Q(user=self.id) if self.kind == "user" else Q(chat=self.id)
        return rows.filter(theirs).exclude(session__in=self.sessions.values("pk"))

    @property
    def waiting(self) -> QuerySet[BotUpdate]:
        """Their updates that are kept with what they say: all but those that are done."""
        rows = BotUpdate.objects.using(settings.DATABASE).filter(bot=self.bot)
        rows = rows.exclude(status=BotUpdate.Status.DONE)
        theirs = Q(payload__chat__id=self.id)
        if self.kind == "user":
            theirs |= Q(payload__user__id=self.id)
        # One that only waits for its turn is gone by itself.
        return rows.exclude(type=ACCESS).filter(theirs)

    @property
    def done(self) -> QuerySet[BotUpdate]:
        """Their updates that are done, of which the mailbox still tells whose they were."""
        rows = BotUpdate.objects.using(settings.DATABASE)
        return rows.filter(
            mailbox__regex=self._mailboxes, bot=self.bot, status=BotUpdate.Status.DONE
        )

    @property
    def leases(self) -> QuerySet[MailboxLease]:
        """The mailboxes of theirs that somebody works on."""
        return MailboxLease.objects.using(settings.DATABASE).filter(key__regex=self._mailboxes)

    @property
    def chunks(self) -> QuerySet[DeletionChunk]:
        """What finished deletions remember of their chats."""
        rows = DeletionChunk.objects.using(settings.DATABASE)
        return rows.filter(deletion__bot=self.bot, chat=self.id, due_at=None, token="")

    @property
    def rates(self) -> QuerySet[RateWindow]:
        """When was last spoken in their chats."""
        rows = RateWindow.objects.using(settings.DATABASE)
        return rows.filter(key__in=bots[self.bot].pacer.keys(self.id))

    @property
    def _mailboxes(self) -> str:
        """Which mailboxes are theirs: a regular expression of their names (`SessionKey`)."""
        bot = str(SessionKey(self.bot))
        id = re.escape(str(SessionKey(self.bot, self.id)).removeprefix(f"{bot}:"))
        before = r"(.*[:/])?" if self.kind == "user" else r"([^:]*/)?"
        return rf"^{re.escape(bot)}:{before}{id}(:|$)"
