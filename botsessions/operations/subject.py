"""A person or a chat, and everything that is stored of them: what is erased is what is exported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal, NamedTuple

import msgspec
from django.db.models import Max, Q, QuerySet
from django.utils.crypto import salted_hmac

from botsessions import clock
from botsessions.bots import bots
from botsessions.conf import settings
from botsessions.exceptions import UnknownBot
from botsessions.keys import SessionKey
from botsessions.models import (
    BotSession,
    BotUpdate,
    DeletionChunk,
    MessageDeletion,
    RateWindow,
    TrackedMessage,
)
from botsessions.updates import ACCESS

Kind = Literal["user", "chat"]
#: How many rows are read at a time.
CHUNK = 500


class Upto(NamedTuple):
    """The last rows that there were at a moment, by their ids."""

    session: int
    message: int
    update: int

    @classmethod
    def now(cls) -> Upto:
        """Return the last rows that there are."""
        found = (
            model._default_manager.using(settings.DATABASE).aggregate(last=Max("pk"))["last"]
            for model in (BotSession, TrackedMessage, BotUpdate)
        )
        return cls(*(last or 0 for last in found))


class Subject:
    """A user or a chat of a bot, by the platform's id; what is stored of them, up to a moment.

    To a user belong the private chat too, where the platform can tell which that is, and what the
    user said in everybody's sessions. Raises `UnknownBot`, `TypeError` for an id that is no string,
    and `ValueError` unless exactly one of user and chat is named.
    """

    def __init__(
        self, bot: str, *, user: str = "", chat: str = "", upto: Upto | None = None
    ) -> None:
        if bot not in bots:
            raise UnknownBot(f"There is no bot '{bot}'.")
        if not isinstance(user, str) or not isinstance(chat, str):
            raise TypeError(f"Ids are strings here: {str(user or chat)!r}.")
        if bool(user) == bool(chat):
            raise ValueError("Name either a user or a chat, by the platform's id.")
        self.bot = bot
        self.kind: Kind = "user" if user else "chat"
        self.id = user or chat
        #: The chat of which everything is theirs, `""` where there is none.
        self.chat = chat or bots[bot].platform.private_chat(user)
        self._upto = upto

    @property
    def pseudonym(self) -> str:
        """What a receipt keeps: nobody finds the id by it who does not know SECRET_KEY and id."""
        value = f"{self.bot}/{self.kind}/{self.id}"
        return salted_hmac("botsessions.erasure", value, algorithm="sha256").hexdigest()

    # Whatever is theirs, table by table

    @property
    def sessions(self) -> QuerySet[BotSession]:
        """Their sessions: a chat's are everybody's in it, in business and guest chats too."""
        theirs = Q(pk__in=[])
        if self.chat:
            theirs |= Q(chat=self.chat)
            theirs |= Q(chat__regex=rf"^(guest|business/[^/]*)/{re.escape(self.chat)}$")
        if self.kind == "user":
            theirs |= Q(user=self.id)
        rows = BotSession.objects.using(settings.DATABASE).filter(theirs, bot=self.bot)
        return rows if self._upto is None else rows.filter(pk__lte=self._upto.session)

    @property
    def said(self) -> QuerySet[TrackedMessage]:
        """The messages in other sessions that are theirs: what the user said, or was said there."""
        theirs = Q(user=self.id) if self.kind == "user" else Q(pk__in=[])
        if self.chat:
            theirs |= Q(chat=self.chat)
        rows = TrackedMessage.objects.using(settings.DATABASE).filter(session__bot=self.bot)
        rows = rows.filter(theirs).exclude(session__in=self.sessions.values("pk"))
        return rows if self._upto is None else rows.filter(pk__lte=self._upto.message)

    def talking(self) -> Iterator[BotSession]:
        """Yield the other sessions in which a flow remembers them: who began it, or what was said.

        A flow is not read here: whether their id stands in it is what counts.
        """
        rows = BotSession.objects.using(settings.DATABASE).filter(bot=self.bot)
        rows = rows.filter(Q(flow__isnull=False) | Q(last_flow__isnull=False))
        rows = rows.exclude(pk__in=self.sessions.values("pk")).defer("data", "quarantined")
        named = {msgspec.json.encode(id) for id in (self.id, self.chat) if id}
        for row in rows.order_by("pk").iterator(CHUNK):
            flows = msgspec.json.encode([row.flow, row.last_flow])
            if any(each in flows for each in named):
                yield row

    @property
    def waiting(self) -> QuerySet[BotUpdate]:
        """Their updates that are kept with what they say: all but those that are done."""
        rows = BotUpdate.objects.using(settings.DATABASE).filter(bot=self.bot)
        rows = rows.exclude(status=BotUpdate.Status.DONE)
        theirs = Q(payload__user__id=self.id) if self.kind == "user" else Q(pk__in=[])
        if self.chat:
            theirs |= Q(payload__chat__id=self.chat)
        rows = rows.filter(theirs)
        return rows if self._upto is None else rows.filter(pk__lte=self._upto.update)

    @property
    def turns(self) -> QuerySet[BotUpdate]:
        """Those among them that only wait for a turn, and do not belong to somebody who died."""
        alive = clock.now() - timedelta(seconds=2 * settings.LEASE)
        return self.waiting.filter(type=ACCESS, received_at__gte=alive)

    @property
    def done(self) -> QuerySet[BotUpdate]:
        """Their updates that are done, of which the mailbox still tells whose they were."""
        rows = BotUpdate.objects.using(settings.DATABASE)
        rows = rows.filter(bot=self.bot, status=BotUpdate.Status.DONE)
        rows = rows.filter(mailbox__regex=self.mailboxes)
        if self._upto is None:
            return rows
        return rows.filter(Q(pk__lte=self._upto.update) | Q(type=ACCESS))

    @property
    def deletions(self) -> QuerySet[MessageDeletion]:
        """The deletions that were begun for them, or know messages of their chat."""
        rows = MessageDeletion.objects.using(settings.DATABASE).filter(bot=self.bot)
        theirs = Q(selection__user=self.id) if self.kind == "user" else Q(pk__in=[])
        if self.chat:
            known = DeletionChunk.objects.using(settings.DATABASE).filter(chat=self.chat)
            theirs |= Q(selection__chat=self.chat) | Q(pk__in=known.values("deletion"))
        return rows.filter(theirs)

    @property
    def rates(self) -> QuerySet[RateWindow]:
        """When was last spoken in their chat."""
        rows = RateWindow.objects.using(settings.DATABASE)
        return rows.filter(key__in=bots[self.bot].pacer.keys(self.chat) if self.chat else [])

    @property
    def mailboxes(self) -> str:
        """Which mailboxes are theirs: a regular expression of their names (`SessionKey`)."""
        bot = str(SessionKey(self.bot))
        ids = {
            str(SessionKey(bot, id)).removeprefix(f"{bot}:") for id in (self.id, self.chat) if id
        }
        id = "|".join(sorted(map(re.escape, ids)))
        before = r"(.*[:/])?" if self.kind == "user" else r"([^:]*/)?"
        return rf"^{re.escape(bot)}:{before}({id})(:|$)"
