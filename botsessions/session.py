"""A session: the data that a bot keeps for a conversation, and its slice of that conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions.clearing import Cleared, clear_messages, forget, in_batches
from botsessions.context import Action
from botsessions.flows import takeover
from botsessions.flows.state import DEFAULT, End, FlowState, Later
from botsessions.holding import UNREAD, Holding, T
from botsessions.mailboxes.base import Tracked
from botsessions.platforms.base import Deletion
from botsessions.sending import paced
from botsessions.updates import Direction, Message, Update, User, place

if TYPE_CHECKING:
    from botsessions.bots import Bot
    from botsessions.flows.base import Flow

__all__ = ["UNREAD", "Session", "speaking"]

#: How many messages a statement takes out of a slice.
FORGOTTEN = 500


#: Which messages of a slice a verb is for; None for all.
Where = Callable[[Tracked], bool] | None

#: The sessions whose `with` blocks are running, the innermost last: what the bot sends is in its
#: slice.
speaking: ContextVar[tuple[Session[Any], ...]] = ContextVar("botsessions_speaking", default=())


class Session(Holding[T]):
    """The session of an update's chat and user, or of whatever the bot's key strategy says.

    Nothing is read or decoded before `data` is used, and nothing is saved unless it changed. The
    changes of a handler are committed together with the fact that its update is done, once, after
    the handler returns; a handler that raises changes nothing.

    A session tracks once it is open: its first send opens it, or `open` and `track` do. From then
    on every message that is said in its place is in its slice, until it is closed.
    """

    # What it is

    @property
    def chat(self) -> str:
        """The platform's id of the chat that the session sends to."""
        return self._address()[0]

    @property
    def user(self) -> User | None:
        """Who the update is from, if anybody is named."""
        return self._context.update.user

    # Its flow

    @property
    def flow(self) -> FlowState | None:
        """The waiter or conversation that waits in it, None without one."""
        return self.slot.state

    def begin(self, flow: Flow, *, timeout: timedelta | float | None = DEFAULT) -> Action[None]:
        """Let a waiter or conversation receive what this session's sender says next.

        A flow that waits here already is cancelled. A conversation begins to talk when the handler
        returns. `timeout`, in seconds or as a timedelta, takes the place of a waiter's own.
        """

        async def begun() -> None:
            await self.load()
            flow.begin(self, timeout)

        return Action(self._context, begun, is_journaled=False, name=f"begin {flow.name}")

    def end(self) -> Action[bool]:
        """End the flow that waits here, as cancelled; return whether there was one."""

        async def ended() -> bool:
            await self.load()
            takeover.check(self)
            state = self.slot.state
            if state is None:
                return False
            self.slot.end(End.CANCELLED)
            self._context.later.append(Later(self, state, End.CANCELLED))
            return True

        return Action(self._context, ended, is_journaled=False, name="end")

    # Its slice of the conversation

    def open(self, matcher: Callable[[Update], bool] | str | None = None) -> Action[None]:
        """Track what is said in its place from now on.

        A matcher of the bot's router (the function or its name) chooses what is tracked; a later
        `open` without one leaves it as it is, `""` tracks everything again.
        """
        name = matcher if matcher is None or isinstance(matcher, str) else matcher.__name__
        if name and self._context.bot.router.find_matcher(name) is None:
            raise ImproperlyConfigured(
                f"{name!r} is no matcher of the bot's router: decorate it with @router.matcher."
            )

        async def opened() -> None:
            self._context.open(self.key, name)

        return Action(self._context, opened, is_journaled=False, name="open")

    def track(
        self, what: Update | Message | Any, direction: Direction | None = None
    ) -> Action[int]:
        """Put messages into the session's slice, which it opens; return how many there were.

        `what` is an update (incoming, unless said otherwise), a `Message`, or what the platform
        answered to a call (outgoing). A message that is in the slice stays as it is.
        """
        messages: Sequence[Message]
        if isinstance(what, Update):
            messages = [what.message] if what.message is not None else []
            direction = direction or Direction.INCOMING
        elif isinstance(what, Message):
            messages = [what]
        else:
            messages = self._context.bot.platform.messages(what, self._address()[0])
        direction = direction or Direction.OUTGOING

        async def tracked() -> int:
            if messages:
                self._context.open(self.key)
                notice = self._context.notice
                self._context.seen += [notice(self.key, each, direction) for each in messages]
            return len(messages)

        return Action(self._context, tracked, is_journaled=False, name="track")

    def messages(self, where: Where = None) -> Action[tuple[Tracked, ...]]:
        """Return the messages of the slice, in the order in which they were tracked."""

        async def read() -> list[Tracked]:
            return await self._messages(where)

        return Action(self._context, read, is_journaled=False, read=_messages_of, name="messages")

    def clear(
        self, where: Where = None, *, bot: Bot | None = None, wait: bool = True
    ) -> Action[Cleared]:
        """Delete the messages of the slice, on the platform and here, and return how many.

        They are those that are in the slice now: one that is tracked meanwhile stays. They go in
        batches of the platform's size, each out of the slice when its outcome is known, so that
        nothing is asked again; that it was there is kept for the transcript, its text is not. What
        is too old for the platform is not asked at all; what it refuses leaves the slice all the
        same, and the result's `outcomes` tell. What fails for the moment is left
        to a deletion that goes on by itself (`MessageDeletion`, whose id is the result's
        `deletion`), as is everything without `wait`. `bot` deletes through another bot.
        """

        async def cleared() -> dict[str, Any]:
            ours, through = self._context.bot, bot or self._context.bot
            ask = self._context.engine.ask
            messages = await self._messages(where, texts=where is not None)
            outcomes, left = {each.value: 0 for each in Deletion}, messages
            if wait:
                outcomes, left = await clear_messages(through, messages, ask)
            found = {"total": len(messages), "outcomes": outcomes, "deletion": None}
            if left:
                found["deletion"] = await ask(
                    lambda mailbox: mailbox.delete_later(
                        ours.alias, through.alias, left, through.platform.delete_batch_size
                    )
                )
            return found

        return Action(self._context, cleared, read=Cleared.of, name="clear")

    def forget(self, where: Where = None) -> Action[int]:
        """Take messages out of the slice and leave them on the platform; return how many.

        Without `where` nothing is left: what is kept of deleted messages goes too.
        """

        async def forgotten() -> int:
            found = await self._messages(where, texts=where is not None)
            for batch in in_batches(found, FORGOTTEN):
                await self._context.engine.ask(partial(forget, batch))
            if where is None:
                await self._context.engine.ask(lambda mailbox: mailbox.forget_deleted([self.key]))
            return len(found)

        return Action(self._context, forgotten, name="forget")

    def close(self) -> Action[None]:
        """End the tracking: the slice is empty, and what is said from now on is in no slice.

        Its data stays. Open again, it begins empty.
        """

        async def closed() -> None:
            self._context.close_session(self.key)
            await self._context.engine.ask(lambda mailbox: mailbox.end([self.key]))

        return Action(self._context, closed, session=self.key, closes=True, name="close")

    # Sending

    def send(self, text: str, *, to: str | None = None, **options: Any) -> Action[Any]:
        """Send a message to the session's chat and record it in the session's slice, which it
        opens.

        Returns the platform's answer. Options are the platform's own; `to` is another chat. It
        waits for its turn by the platform's rates. Raises a `PlatformError`: `RateLimited` where
        its turn does not come within RATE_WAIT seconds.
        """
        chat, business = self._address()
        if to is not None and to != chat:
            chat, business = to, ""
        if business:
            options.setdefault("business_connection_id", business)
        bot, platform = self._context.bot, self._context.bot.platform
        return Action(
            self._context,
            paced(bot, self._context, chat, 1, lambda: platform.send(chat, text, **options)),
            lambda result: platform.messages(result, chat, business),
            self.key,
            name="send",
        )

    def reply(self, text: str, **options: Any) -> Action[Any]:
        """Send a message as a reply to the one that is being handled."""
        message = self._context.update.message
        if message is not None and message.id:
            options.setdefault("reply_to", message.id)
        return self.send(text, **options)

    def call(self, method: str, **parameters: Any) -> Action[Any]:
        """Call a method of the platform's API and record the messages that it returns in the
        session's slice.

        Where the parameters name no chat, it is the session's.
        """
        bot, platform = self._context.bot, self._context.bot.platform
        aimed = platform.aim(parameters, *self._address())
        chat, cost = platform.target(aimed), platform.messages_in(method, aimed)
        return Action(
            self._context,
            paced(bot, self._context, chat, cost, lambda: platform.call(method, **aimed)),
            lambda result: platform.messages(
                result, platform.target(aimed), platform.business(aimed)
            ),
            self.key,
            name=method,
        )

    def __enter__(self) -> Session[T]:
        """Let what the bot sends within the block be in the session's slice."""
        speaking.set((*speaking.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        inner = list(speaking.get())
        with suppress(ValueError):  # another task's
            inner.reverse()
            inner.remove(self)
            speaking.set(tuple(reversed(inner)))

    async def __aenter__(self) -> Session[T]:
        """Read the session where no handler declared it, and do as `with` does."""
        await self.load()
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)

    # For the engine

    def speaks_for(self, bot: Bot) -> bool:
        """Is what that bot sends in this session's `with` block the session's?"""
        return self.bot is bot and not self._context.is_over

    async def _messages(self, where: Where, *, texts: bool = True) -> list[Tracked]:
        await self._context.settle()
        ask = self._context.engine.ask
        found = await ask(lambda mailbox: mailbox.tracked(self.key, texts=texts))
        return found if where is None else [each for each in found if where(each)]

    def _address(self) -> tuple[str, str]:
        """The chat to send to, and the business connection in whose name."""
        update = self._context.update
        if update.chat is not None and self.key.chat in ("", update.conversation):
            return update.chat.id, update.business
        where = place(self.key.chat)
        chat = where.get("chat")
        return self.key.user if chat is None else chat.id, where.get("business", "")


def _messages_of(result: Any) -> tuple[Tracked, ...]:
    return tuple(
        each if isinstance(each, Tracked) else msgspec.convert(each, Tracked) for each in result
    )
