"""One update being handled: its sessions, and what its handler sends.

An *action* (a send, a call) is an awaitable object. Awaited, it happens then and returns its
result; not awaited, it happens in order when the handler returns. Each has an ordinal, its place
among the handler's actions, under which its result is journaled; when the update is handled again,
a journaled action returns that result and nothing goes out twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from botsessions.contents import drop, fill
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Arrival, Mailbox, Opening, Row, Save, Seen, Sent
from botsessions.updates import Direction, Message, Update, UpdateType

if TYPE_CHECKING:
    from botsessions.bots import Bot
    from botsessions.flows.base import Running
    from botsessions.flows.journal import Journal
    from botsessions.flows.state import Later
    from botsessions.leases import Lease
    from botsessions.pacing.line import Ticket
    from botsessions.session import Session

R = TypeVar("R")

#: The types of update that bring a message: said, edited, or shown under a pressed button.
TRACKED = frozenset(
    {
        UpdateType.MESSAGE,
        UpdateType.EDITED_MESSAGE,
        UpdateType.CHANNEL_POST,
        UpdateType.EDITED_CHANNEL_POST,
        UpdateType.BUSINESS_MESSAGE,
        UpdateType.EDITED_BUSINESS_MESSAGE,
        UpdateType.GUEST_MESSAGE,
        UpdateType.CALLBACK_QUERY,
    }
)


class Engine(Protocol):
    """What a context needs of the engine that made it."""

    #: Where `def` handlers run; None for the thread of the database.
    threads: ThreadPoolExecutor | None

    @property
    def send_wait(self) -> float:
        """How many seconds a send may wait for its turn."""

    def in_line(self, delivery: Any, ticket: Ticket) -> AbstractContextManager[None]:
        """Note that a handler does nothing but wait for the turn of a send."""

    async def record(self, delivery: Any, sent: Sent) -> None:
        """Journal what a handler sent; returns when the database has it."""

    async def ask(self, question: Callable[[Mailbox], R]) -> R:
        """Ask the mailbox something, in the database thread."""


#: The context of the handler that is running, for verbs that are not given one.
current: ContextVar[Context | None] = ContextVar("botsessions_context", default=None)


def running() -> Context | None:
    """Return the context of the handler that is running, None outside of one.

    A task that a handler has left behind is outside.
    """
    context = current.get()
    return None if context is None or context.is_over else context


class Action(Generic[R]):
    """Something a handler does to the world, now or when it returns."""

    __slots__ = (
        "_context",
        "closes",
        "done",
        "is_journaled",
        "messages",
        "name",
        "ordinal",
        "perform",
        "read",
        "result",
        "script",
        "session",
    )

    result: R

    def __init__(
        self,
        context: Context | None,
        perform: Callable[[], Awaitable[Any]],
        messages: Callable[[Any], Sequence[Message]] = lambda _: (),
        session: SessionKey | None = None,
        *,
        closes: bool = False,
        is_journaled: bool = True,
        read: Callable[[Any], R] | None = None,
        name: str = "",
    ) -> None:
        self.perform = perform
        self.messages = messages
        #: The session that it is about: open after it, unless it closes it.
        self.session = session
        self.closes = closes
        #: Is its result journaled? Not that of what only reads, or is done again with no harm.
        self.is_journaled = is_journaled
        #: Makes its result of what it gave, or of what the journal says that it gave.
        self.read = read
        #: What it is, to the journal of the conversation that takes it.
        self.name = name
        self.script: Journal | None = None if context is None else context.script
        self.done = False
        self.ordinal = 0
        self._context = context
        if context is not None:
            context.queue(self)

    def __await__(self) -> Generator[Any, None, R]:
        """Do it now, after those that came before it, and return its result."""
        if self._context is None:
            return self._alone().__await__()
        return self._context.until(self).__await__()

    async def _alone(self) -> R:
        self.finish(await self.perform())
        return self.result

    def finish(self, result: Any) -> None:
        """Note what it gave."""
        self.result = result if self.read is None else self.read(result)
        self.done = True


class Handled(Protocol):
    """What a context needs of the update's delivery."""

    bot: Bot
    update: Update
    key: SessionKey | None
    rows: dict[SessionKey, Row | None]
    #: The sessions in which a flow waits where the update is from.
    flows: Sequence[tuple[SessionKey, Row]]
    #: The sessions that track what is said where the update is from, each with its matcher's name.
    opened: Sequence[tuple[SessionKey, str]]
    mailbox: str
    lease: Lease
    #: How often its handler has failed.
    attempts: int
    #: The results of what the handler sent before, by ordinal.
    journal: dict[int, Any]


def about(handled: Handled) -> dict[str, str | int]:
    """Return what log records say of an update that is handled, to be their `extra`."""
    update = handled.update
    return {
        "bot": update.bot,
        "mailbox": handled.mailbox,
        "update": update.id,
        "attempt": handled.attempts + 1,
    }


class Context:
    """What the handlers of one update share."""

    def __init__(self, delivery: Handled, engine: Engine) -> None:
        self.bot: Bot = delivery.bot
        self.update: Update = delivery.update
        self.key: SessionKey | None = delivery.key
        self.rows = delivery.rows
        self.sessions: dict[SessionKey, Session[Any]] = {}
        self.engine = engine
        self._delivery = delivery
        self._queue: list[Action[Any]] = []
        #: The next ordinal of the handlers (0), and of each flow that runs.
        self._ordinals: dict[int, int] = {}
        self._counted = 0
        #: What is to be written with the commit, unless a verb needs it written before: sessions
        #: to be opened, with the matcher that was given, and messages for their slices.
        self._opens: dict[SessionKey, str | None] = {}
        self.seen: list[Seen] = []
        #: What the update itself brings into open sessions, whether or not its handler fails.
        self.incoming = self._incoming(delivery.opened)
        #: The sessions that were opened (True) or closed (False) so far, written or not.
        self.opened: dict[SessionKey, bool] = {}
        #: The flow that is running, and the journal of a conversation that is.
        self.running: Running | None = None
        self.script: Journal | None = None
        self.flows = delivery.flows
        #: What is to be done when the running handler has returned.
        self.later: list[Later] = []
        #: An update that the handlers are to have in this one's place then.
        self.again: Update | None = None
        #: What is saved all the same if the update is parked: the end of a flow that failed.
        self.last_saves: list[Save] = []
        self.is_over = False
        self._turn: asyncio.Lock | None = None

    @property
    def about(self) -> dict[str, str | int]:
        """What log records say of its update."""
        return about(self._delivery)

    def check_lease(self) -> None:
        """Raise `LeaseLost` where another process may have the mailbox, and the update with it."""
        self._delivery.lease.check()

    def in_line(self, ticket: Ticket) -> AbstractContextManager[None]:
        """Note that its handler does nothing but wait for the turn of a send."""
        return self.engine.in_line(self._delivery, ticket)

    def _incoming(self, opened: Sequence[tuple[SessionKey, str]]) -> list[Seen]:
        message, delivery = self.update.message, self._delivery
        if message is None or self.update.type not in TRACKED:
            return []
        if not message.id and (delivery.attempts or delivery.journal):
            return []  # by nothing could it be told from what an earlier attempt has written
        return [
            self.notice(key, message, Direction.INCOMING)
            for key, matcher in opened
            if self.bot.matches(matcher, self.update)
        ]

    def queue(self, action: Action[Any]) -> None:
        """Give an action its ordinal and let it wait for its await, or for the handler's end."""
        # Where the update is run again, it may be for another flow, or for a handler: what one of
        # them has sent is not what another sends.
        base = 0 if self.running is None else self.running.ordinals
        action.ordinal = self._ordinals.setdefault(base, base)
        self._ordinals[base] += 1
        self._queue.append(action)

    def count(self) -> int:
        """Return how often this was asked before."""
        self._counted += 1
        return self._counted - 1

    async def until(self, action: Action[R]) -> R:
        """Do the queued actions, in order, up to this one; return its result."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:
            while not action.done:
                if not self._queue:
                    raise RuntimeError("This action was dropped: its handler has failed.")
                await self._perform(self._queue.pop(0))
        return action.result

    async def flush(self) -> None:
        """Do what was queued and not awaited."""
        while self._queue:
            await self.until(self._queue[-1])

    def drop(self) -> None:
        """Forget what was queued and not awaited: its handler raised."""
        self._queue.clear()

    def discard(self) -> None:
        """Forget that too, and what was changed in the sessions' data."""
        self.drop()
        for session in self.sessions.values():
            session.discard()

    def close(self) -> None:
        """The handler is over: a verb called from now on happens without it.

        Its sessions know it, so it forgets them: what is left of an update is then freed at once,
        and the garbage collector has no cycles to look for.
        """
        self._queue.clear()
        self.sessions = {}
        self.is_over = True

    def notice(self, session: SessionKey, message: Message, direction: Direction) -> Seen:
        """Return what puts a message into a session's slice."""
        if self.update.action is not None and message is self.update.message:
            # The message under which the button stood.
            is_ours = message.user is None or message.user.is_bot
            direction = Direction.OUTGOING if is_ours else Direction.INCOMING
        keep_text = self.bot.store_text
        return Seen(session, message, direction, self.update.id, 0, keep_text)

    def open(self, key: SessionKey, matcher: str | None = None) -> None:
        """Let a session be open, from the commit on at the latest."""
        self.opened[key] = True
        if matcher is not None or key not in self._opens:
            self._opens[key] = matcher

    def close_session(self, key: SessionKey) -> None:
        """Let nothing be tracked in a session: what was to be written into its slice is not."""
        self.opened[key] = False
        row = self.rows.get(key)
        if row is not None:
            row.is_open = False
        self._opens.pop(key, None)
        self.seen = [each for each in self.seen if each.session != key]
        self.incoming = [each for each in self.incoming if each.session != key]

    def openings(self) -> list[Opening]:
        """Return the sessions that are to be opened, or open longer."""
        return [
            Opening(key, matcher, self._expiry(key))
            for key, matcher in self._opens.items()
            if matcher is not None or self._is_to_open(key)
        ]

    def _is_to_open(self, key: SessionKey) -> bool:
        """Is there anything to be written for a session to be open?"""
        row = self.rows.get(key)
        return row is None or not row.is_open or self._expiry(key) is not None

    def _note_open(self, key: SessionKey) -> None:
        """Note that a session is opened before the commit: an expired one gets a new version."""
        row = self.rows.get(key)
        if row is not None:
            row.version += row.is_expired
            row.is_open, row.is_expired = True, False

    def _expiry(self, key: SessionKey) -> datetime | None:
        session = self.sessions.get(key)
        return self.bot.expiry() if session is None else session.expiry()

    async def settle(self) -> None:
        """Write what is tracked so far, for a verb that looks at it."""
        opens, seen = self._tracked()
        if opens or seen:
            await self.engine.ask(lambda mailbox: mailbox.track(opens, seen))

    def _tracked(self) -> tuple[list[Opening], list[Seen]]:
        """Hand over what is tracked so far, to be written before what comes next."""
        opens, seen = self.openings(), [*self.incoming, *self.seen]
        for each in opens:
            self._note_open(each.key)
        if opens or seen:
            self._opens, self.seen, self.incoming = {}, [], []
            self._delivery.opened = ()  # it is written, also when the handler is run again
        return opens, seen

    async def move_chat(self) -> None:
        """Let a group's sessions follow it when it becomes a supergroup, whichever chat tells.

        Raises `Unavailable` while updates of the group are worked on.
        """
        message, chat = self.update.message, self.update.chat
        if message is None or chat is None or not (message.migrated_from or message.migrated_to):
            return
        bot, old = self.bot.alias, message.migrated_from or message.chat.id
        if old == chat.id:
            return
        store = self.bot.store
        moved = await self.engine.ask(lambda mailbox: mailbox.move(bot, old, chat.id, store))
        if not moved:
            return
        await self.engine.ask(lambda _: drop(store, moved))
        keys = list(self.rows)
        arrival = Arrival(self.update, self._delivery.mailbox, keys, key=self.key)
        [found] = await self.engine.ask(lambda mailbox: mailbox.find([arrival]))
        rows = list(zip(keys, found.named, strict=True))
        await self.engine.ask(lambda _: fill(store, rows))
        self.rows.update(rows)
        self.flows = found.flows
        self.rows.update(found.flows)
        self.incoming = self._incoming(found.open)

    async def mark_gone(self) -> None:
        """Take out of the slices of its chat what the update says is deleted, by somebody else."""
        if self.update.deleted:
            await self.engine.ask(lambda mailbox: mailbox.mark_gone(self.update))

    async def load(self, *keys: SessionKey) -> None:
        """Read the rows of sessions that no handler declared, in one query."""
        missing = [key for key in keys if key not in self.rows]
        if missing:
            [found] = await self.engine.ask(lambda mailbox: mailbox.load([missing]))
            rows = list(zip(missing, found, strict=True))
            await self.engine.ask(lambda _: fill(self.bot.store, rows))
            self.rows.update(rows)

    def saves(self) -> list[Save]:
        """Return the sessions that the handlers changed. Raises `InvalidSessionData`."""
        changed = (session.changes() for session in self.sessions.values())
        return [save for save in changed if save is not None]

    async def in_thread(self, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """Run a `def` handler in a thread: the engine's, or where it has none Django's."""
        if self.engine.threads is None:
            return await sync_to_async(function, thread_sensitive=True)(*args, **kwargs)

        def call(*args: Any, **kwargs: Any) -> R:
            # The thread outlives many handlers: to each its connections are as new as to a request.
            close_old_connections()
            try:
                return function(*args, **kwargs)
            finally:
                close_old_connections()

        return await sync_to_async(call, thread_sensitive=False, executor=self.engine.threads)(
            *args, **kwargs
        )

    async def _perform(self, action: Action[Any]) -> None:
        delivery, script = self._delivery, action.script
        entry = None if script is None else script.replayed(action)
        if entry is not None:
            action.finish(entry.value)  # a conversation did it for an earlier update
            return
        if action.ordinal in delivery.journal:
            if script is not None:
                script.acted(action, delivery.journal[action.ordinal])
            action.finish(delivery.journal[action.ordinal])
            self._tracked()  # was written with the journal, and may have been cleared since
            if action.session is not None:
                self.opened[action.session] = not action.closes
            return
        self.check_lease()
        result = await action.perform()
        if script is not None:
            script.acted(action, result)
        action.finish(result)
        if action.session is not None:
            self.opened[action.session] = not action.closes
        if not action.is_journaled:
            return
        session = None if action.closes else action.session
        is_opening = session is not None and self._is_to_open(session)
        opens, seen = self._tracked()
        if is_opening:
            self._note_open(cast(SessionKey, session))
        await self.engine.record(
            delivery,
            Sent(
                self.update,
                delivery.mailbox,
                action.ordinal,
                result,
                session,
                action.messages(result) if session is not None else (),
                self.bot.store_text,
                self._expiry(session) if session is not None else None,
                opens,
                seen,
                is_opening,
            ),
        )
