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
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Mailbox, Save, Sent
from botsessions.updates import Message, Update

if TYPE_CHECKING:
    from botsessions.bots import Bot
    from botsessions.delivery import Delivery
    from botsessions.session import Session

R = TypeVar("R")


class Engine(Protocol):
    """What a context needs of the engine that made it."""

    #: Where `def` handlers run; None for the thread of the database.
    threads: ThreadPoolExecutor | None

    async def record(self, delivery: Delivery, sent: Sent) -> None:
        """Journal what a handler sent; returns when the database has it."""

    async def ask(self, question: Callable[[Mailbox], R]) -> R:
        """Ask the mailbox something, in the database thread."""


#: The context of the handler that is running, for verbs that are not given one.
current: ContextVar[Context | None] = ContextVar("botsessions_context", default=None)


class Action(Generic[R]):
    """Something a handler does to the world, now or when it returns."""

    __slots__ = ("_context", "done", "messages", "ordinal", "perform", "result", "session")

    result: R

    def __init__(
        self,
        context: Context | None,
        perform: Callable[[], Awaitable[R]],
        messages: Callable[[R], Sequence[Message]],
        session: SessionKey | None = None,
    ) -> None:
        self.perform = perform
        self.messages = messages
        self.session = session
        self.done = False
        self.ordinal = 0
        self._context = context
        if context is not None:
            context.queue(self)

    def __await__(self) -> Generator[Any, None, R]:
        """Do it now, after those that came before it, and return its result."""
        if self._context is None:
            return self.perform().__await__()
        return self._context.until(self).__await__()


class Context:
    """What the handlers of one update share."""

    def __init__(self, delivery: Delivery, engine: Engine) -> None:
        self.bot: Bot = delivery.bot
        self.update: Update = delivery.update
        self.key: SessionKey | None = delivery.key
        self.rows = delivery.rows
        self.sessions: dict[SessionKey, Session[Any]] = {}
        self.engine = engine
        self._delivery = delivery
        self._queue: list[Action[Any]] = []
        self._ordinals = 0
        self._turn: asyncio.Lock | None = None

    def queue(self, action: Action[Any]) -> None:
        """Give an action its ordinal and let it wait for its await, or for the handler's end."""
        action.ordinal = self._ordinals
        self._ordinals += 1
        self._queue.append(action)

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

    def close(self) -> None:
        """The handler is over: a verb called from now on happens without it."""
        self._queue.clear()

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
        delivery = self._delivery
        if action.ordinal in delivery.journal:
            action.result = delivery.journal[action.ordinal]
            action.done = True
            return
        delivery.lease.check()
        action.result = await action.perform()
        action.done = True
        await self.engine.record(
            delivery,
            Sent(
                self.update,
                delivery.mailbox,
                action.ordinal,
                action.result,
                action.session,
                action.messages(action.result) if action.session is not None else (),
                self.bot.store_text,
            ),
        )
