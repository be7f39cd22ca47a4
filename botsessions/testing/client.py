"""A client that talks to a bot, as people on a chat platform do."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from asgiref.sync import async_to_sync, sync_to_async

from botsessions import clock
from botsessions.bots import Bot
from botsessions.keys import STRATEGIES
from botsessions.mailboxes.base import Commit
from botsessions.operations import sweep
from botsessions.testing.clock import virtual
from botsessions.testing.crashes import Crash, Process, in_process
from botsessions.testing.messages import ChatMessage
from botsessions.testing.people import ANN, People, who
from botsessions.testing.platform import ScriptedPlatform
from botsessions.testing.points import POINTS
from botsessions.testing.state import SessionState, next_due, noticed, stored_ids
from botsessions.testing.takeover import Takeover
from botsessions.updates import Chat, Update, UpdateType, User
from botsessions.webhook import receive

#: How often something may become due at one moment, before it is said that this will not end.
ROUNDS = 1000

#: A payload of the local platform, or an update that is parsed already.
AnyUpdate = Mapping[str, Any] | Update

if TYPE_CHECKING:
    # A verb returns its result in synchronous code and an awaitable of it in asynchronous code;
    # type checkers are told that it is both.

    class Replies(list[ChatMessage], Awaitable[list[ChatMessage]]):
        """What the bot sent meanwhile."""

    class FoundSession(SessionState, Awaitable[SessionState | None]):
        """What is stored of a session, or None."""


class BotClient:
    """Talks to a bot of the project, on a platform in memory.

    The bot has its real router, key strategy, store and options; an update goes the way of a
    webhook request, and everything that it leads to is done when a verb returns. Verbs (`say`,
    `press`, `deliver`, `interleave`, `duplicate`, `advance`, `session`) are awaited in asynchronous
    code, and return their result in synchronous code. Those that let something happen return the
    messages that the bot sent meanwhile.

    Where a handler raises, its error is raised by the verb; with `raise_exceptions=False` nothing
    is, and the update is tried again as time goes on. The clock stands still, but for `advance`.

    Until `close`, or the end of the `with` block, the client's bot is the project's bot of that
    alias.
    """

    def __init__(self, alias: str, *, raise_exceptions: bool = True) -> None:
        self.alias = alias
        #: Is the error of a handler raised by the verb that led to it?
        self.raise_exceptions = raise_exceptions
        self._takeover = takeover = Takeover(alias)
        # A client that nobody closes and nobody keeps does not live on in the tests after it.
        self._finalizer = weakref.finalize(self, takeover.end)
        self._finalizer.atexit = False
        self._people = People(takeover.platform.network)
        self._last: AnyUpdate | None = None
        self._crash: Crash | None = None

    def __repr__(self) -> str:
        return f"<BotClient {self.alias}>"

    def close(self) -> None:
        """Put the real bot and the time of day back. A closed client can still be read."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    # What there is

    @property
    def bot(self) -> Bot:
        """The bot, as its handlers see it."""
        return self._takeover.bot

    @property
    def platform(self) -> ScriptedPlatform:
        """Its platform, which can be told to fail and knows every call."""
        return self._takeover.platform

    @property
    def now(self) -> datetime:
        """The time of day for the bot."""
        return clock.now()

    @property
    def replies(self) -> list[ChatMessage]:
        """What the bot said so far, in all chats, in order: as it reads now, without what it
        deleted.
        """
        return self.platform.said()

    def history(self, chat: str = ANN) -> list[ChatMessage]:
        """Return what stands in a chat, whoever said it, the oldest first."""
        return self.platform.history(chat)

    def session(
        self,
        user: str | User = ANN,
        chat: str | Chat | None = None,
        qualifier: str = "",
        *,
        thread: str = "",
        scope: str = "",
    ) -> FoundSession:
        """Return what is stored of the session of somebody in a chat, None where nothing is.

        Its key is what the bot's own strategy says, or that of a `Scope`.
        """
        return cast("FoundSession", run(self._session(user, chat, qualifier, thread, scope)))

    # What people do

    def say(
        self,
        text: str,
        *,
        user: str | User = ANN,
        chat: str | Chat | None = None,
        thread: str = "",
        reply_to: str | ChatMessage = "",
        kind: str = "text",
        **more: Any,
    ) -> Replies:
        """Say something, and return what the bot sent because of it.

        `chat` is a group; without it somebody writes to the bot in private. `reply_to` is a message
        or its id. What `more` there is stands in the message as the local platform reads it.
        """
        return self._cause(
            lambda: [
                self._people.say(
                    text,
                    user=user,
                    chat=chat,
                    thread=thread,
                    reply_to=reply_to,
                    kind=kind,
                    **more,
                )
            ]
        )

    def press(
        self,
        button: str,
        *,
        user: str | User = ANN,
        chat: str | Chat | None = None,
        message: ChatMessage | str | None = None,
    ) -> Replies:
        """Press a button, by its action or its label, and return what the bot sent because of it.

        It is the one under that message (or its id), or under the last message of the chat that has
        such a button. Raises `LookupError` where there is none.
        """
        return self._cause(
            lambda: [self._people.press(button, user=user, chat=chat, message=message)]
        )

    def deliver(self, *updates: AnyUpdate) -> Replies:
        """Deliver updates, one request after another, and return what the bot sent.

        They are payloads of the local platform, as its network makes them
        (`client.platform.network`), or an `Update` of a kind that people on it cannot cause.
        """
        return self._cause(lambda: updates, at_once=False)

    def interleave(self, *updates: tuple[str, str] | Mapping[str, Any]) -> Replies:
        """Let several things happen at once, and return what the bot sent because of them.

        Each is a user and a text, or the arguments of `say` or of `press` as a dict:
        `client.interleave(("ann", "hi"), {"text": "hi", "user": "ben", "chat": "tea"})`.
        """
        return self._cause(lambda: [self._people.call(each) for each in updates])

    def duplicate(self, times: int = 1) -> Replies:
        """Deliver the last update again, and return what the bot sent: nothing, that is."""
        last = self._last
        if last is None:
            raise RuntimeError("There is no update yet that could be delivered again.")
        return self._cause(lambda: [last] * times)

    # What time does

    def advance(self, by: timedelta | None = None, **parts: float) -> Replies:
        """Let time pass, and return what the bot sent meanwhile; nobody waits for that.

        `parts` are those of a `timedelta`. Whatever becomes due on the way happens at its time, in
        order: other attempts at updates that failed, deadlines of flows, the ends of sessions.
        """
        span = (by or timedelta()) + timedelta(**parts)
        if span < timedelta():
            raise ValueError("Time does not go back.")
        return self._observed(lambda: self._advance(span))

    @contextmanager
    def crash_at(self, point: str) -> Iterator[None]:
        """Let the process die when an update of the bot reaches this point, once in the block.

        The points are admitted, stored, handling, sent, before_commit and committed. Nothing that
        comes after the point happens in that process. The verb that led there goes on in a new
        one, as an operator and a platform do: leases run out, stored updates are recovered, and
        what was not acknowledged is delivered again. Raises `AssertionError` on leaving where no
        update reached the point.
        """
        if point not in POINTS:
            raise ValueError(f"There is no point {point!r}; there are {', '.join(POINTS)}.")
        if self._crash is not None:
            raise RuntimeError("A process dies once: leave the block before another.")
        crash = self._crash = Crash(self.alias, point)
        try:
            yield
        finally:
            self._crash = None
        if not crash.happened:
            hint = (
                ' An update is stored where its bot has ACK_AFTER 0, or with its first "sent".'
                if point == "stored"
                else ""
            )
            raise AssertionError(f"No update of bot '{self.alias}' reached \"{point}\".{hint}")

    # How it is done

    def _cause(
        self, updates: Callable[[], Sequence[AnyUpdate]], *, at_once: bool = True
    ) -> Replies:
        return self._observed(lambda: self._deliver(updates(), at_once=at_once))

    def _observed(self, work: Callable[[], Coroutine[Any, Any, list[Commit]]]) -> Replies:
        return cast("Replies", run(self._observe(work)))

    async def _observe(
        self, work: Callable[[], Coroutine[Any, Any, list[Commit]]]
    ) -> list[ChatMessage]:
        """Do something; return what the bot sent meanwhile, or raise what a handler raised."""
        if self._takeover.is_over:
            raise RuntimeError(f"{self!r} is closed: its bot is no longer the project's.")
        sent = self.platform.sent
        before = len(sent)
        with noticed() as errors:
            failures = await work()
        ours = [each for each in failures if each.update and each.update.bot == self.alias]
        if ours and self.raise_exceptions:
            raise self._error(ours[0], errors)
        return sent[before:]

    def _error(
        self, failure: Commit, errors: Mapping[tuple[str, str], BaseException]
    ) -> BaseException:
        """Return what a handler raised; its traceback alone where logging is switched off."""
        update = failure.update
        assert update is not None  # noqa: S101 - as `_observe` has asked
        error = errors.get((update.bot, update.id))
        return RuntimeError(failure.error) if error is None else error

    async def _deliver(self, updates: Sequence[AnyUpdate], *, at_once: bool) -> list[Commit]:
        if not updates:
            return []
        self._last = updates[-1]
        failures = []
        for batch in [updates] if at_once else [[each] for each in updates]:
            submit, again = partial(self._submit, batch), partial(self._submit_again, batch)
            failures += await in_process(submit, self._crash, again)
        return failures

    async def _submit(self, updates: Sequence[AnyUpdate], process: Process) -> None:
        """Bring these updates to the bot, each as a request of its own, all at once."""
        requests = [self._request(process, each) for each in updates]
        for answer in await asyncio.gather(*requests, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    async def _submit_again(self, updates: Sequence[AnyUpdate], process: Process) -> None:
        """Bring those again that nobody has acknowledged: what is stored has been."""
        ids = [each.id if isinstance(each, Update) else str(each["update_id"]) for each in updates]
        stored = await sync_to_async(stored_ids)(self.alias, ids)
        left = [each for each, id in zip(updates, ids, strict=True) if id not in stored]
        await self._submit(left, process)

    async def _request(self, process: Process, update: AnyUpdate) -> None:
        if isinstance(update, Update):
            await process.submit(update)
            await process.drain()
            return
        headers, body = self.platform.request(update)
        await receive(self.alias, headers, body, process)
        self.platform.network.delivered(update)

    async def _advance(self, span: timedelta) -> list[Commit]:
        target = virtual.now() + span
        failures = []
        while True:
            failures += await in_process(self._fire, self._crash)
            await sync_to_async(sweep)()
            now = virtual.now()
            if now >= target:
                return failures
            due = await sync_to_async(next_due)(now)
            virtual.move_to(target if due is None else min(due, target))

    async def _fire(self, process: Process) -> None:
        """Do what is due now, and what becomes due by that."""
        for _ in range(ROUNDS):
            fired = await process.recover_all()
            fired += await process.fire_deadlines()
            await process.drain()
            if not fired:
                return
        raise RuntimeError(f"At {self.now} something is due again and again.")

    async def _session(
        self, user: str | User, chat: str | Chat | None, qualifier: str, thread: str, scope: str
    ) -> SessionState | None:
        person, place = who(user, chat)
        asked = Update(self.alias, "", UpdateType.MESSAGE, place, person, thread=thread)
        if scope:
            key = STRATEGIES[scope](asked)
        elif self.bot.finds_keys_slowly:
            key = await self.bot.key_later(asked)
        else:
            key = self.bot.key_of(asked)
        if key is None:
            return None
        key = key.qualified(qualifier or key.qualifier)
        return await sync_to_async(SessionState.read)(self.bot, key)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do something now in synchronous code, with the database in its thread; else when awaited."""

    async def done() -> Any:
        return await work

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return async_to_sync(done)()
    return work
