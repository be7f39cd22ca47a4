"""A session: the data that a bot keeps for a conversation, and its slice of that conversation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, cast, get_origin

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions import clock
from botsessions.clearing import Cleared, clear_messages, forget, in_batches
from botsessions.conf import settings
from botsessions.context import Action
from botsessions.data import QUARANTINE, RAISE, Misfit, decoder, encode, merged
from botsessions.exceptions import InvalidSessionData
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Row, Save, Tracked
from botsessions.marks import SessionSpec
from botsessions.updates import Direction, Message, Update, User

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from botsessions.bots import Bot
    from botsessions.context import Context

    #: A bare `Session` is one of a dict, for type checkers too (PEP 696).
    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

log = logging.getLogger("botsessions.session")

_UNSET: Any = object()
#: The row of a session that no handler declared: whether there is one is not known yet.
UNREAD: Any = object()
#: How many messages a statement takes out of a slice.
FORGOTTEN = 500


#: Which messages of a slice a verb is for; None for all.
Where = Callable[[Tracked], bool] | None

#: The sessions whose `with` blocks are running, the innermost last: what the bot sends is in its
#: slice.
speaking: ContextVar[tuple[Session[Any], ...]] = ContextVar("botsessions_speaking", default=())


class Session(Generic[T]):
    """The session of an update's chat and user, or of whatever the bot's key strategy says.

    Nothing is read or decoded before `data` is used, and nothing is saved unless it changed. The
    changes of a handler are committed together with the fact that its update is done, once, after
    the handler returns; a handler that raises changes nothing.

    A session tracks once it is open: its first send opens it, or `open` and `track` do. From then
    on every message that is said in its place is in its slice, until it is closed.
    """

    def __init__(
        self, context: Context, key: SessionKey, spec: SessionSpec, row: Row | None
    ) -> None:
        self._key = key
        self._context = context
        self._spec = spec
        self._row = row
        self._data: Any = _UNSET
        self._before: bytes | None = None
        self._quarantined: bytes | None = None
        self._expires_at: Any = _UNSET
        self._deleted = False

    def __repr__(self) -> str:
        return f"<Session {self.key}>"

    # What it is

    @property
    def key(self) -> SessionKey:
        """Its key."""
        return self._key

    @property
    def bot(self) -> Bot:
        """The bot that it is a session of."""
        return self._context.bot

    @property
    def chat(self) -> str:
        """The platform's id of the chat that the session sends to."""
        return self._address()[0]

    @property
    def user(self) -> User | None:
        """Who the update is from, if anybody is named."""
        return self._context.update.user

    @property
    def version(self) -> int:
        """How often the session was saved; 0 for one that is not stored."""
        row = self._stored
        return row.version if row is not None else 0

    @property
    def is_open(self) -> bool:
        """Does it track what is said in its place?"""
        said = self._context.opened.get(self.key)
        if said is not None:
            return said
        row = self._stored
        return row is not None and row.is_open

    @property
    def is_stored(self) -> bool:
        """Is there stored data, so that the initial value is not used?"""
        row = self._stored
        return row is not None and row.data is not None and not self._deleted

    @property
    def expires_at(self) -> datetime | None:
        """When it is empty again unless it is written before; None for never."""
        if self._expires_at is not _UNSET:
            return cast("datetime | None", self._expires_at)
        row = self._stored
        return row.expires_at if row is not None else None

    def dump(self) -> dict[str, Any]:
        """Return all that there is to say about it, as JSON would have it, for a developer."""
        return {
            "key": msgspec.to_builtins(self.key),
            "data": msgspec.json.decode(self._encode(self.data)),
            "version": self.version,
            "is_open": self.is_open,
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
        }

    # Its data

    @property
    def data(self) -> T:
        """The session's data as the declared type.

        Change it in place, or assign a new value. What is stored and does not fit the type is
        treated as the session declares with `OnMisfit`, or the bot with `ON_MISFIT`.
        """
        if self._data is _UNSET:
            self._read()
        return cast(T, self._data)

    @data.setter
    def data(self, value: T) -> None:
        self._change()
        if self._data is _UNSET:
            self._before = self._stored_data
        self._data = value

    def update(self, **changes: Any) -> None:
        """Replace some fields of the data and leave the others: a shallow merge."""
        self._change()
        self._data = merged(self.data, changes)

    def reset(self) -> None:
        """Begin anew with the initial value."""
        self._change()
        if self._data is _UNSET:
            self._before = self._stored_data
        self._data = self._start()

    def delete(self) -> None:
        """Delete the stored data; what is in hand begins anew at once.

        The row goes too, unless the session is open. A later change stores it again.
        """
        self._change()
        self._data = self._start()
        self._deleted = True
        self._before = self._encode(self._data)

    def expire_in(self, after: timedelta | float | None) -> None:
        """Let the session be empty again after so long (a timedelta or seconds); None for never.

        The next write without a word about it keeps that moment, unless the bot or the session
        declares an expiry of its own, which counts from each write.
        """
        self._change()
        self._expires_at = None if after is None else clock.now() + _span(after)

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

        return Action(self._context, opened, is_journaled=False)

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

        return Action(self._context, tracked, is_journaled=False)

    def messages(self, where: Where = None) -> Action[tuple[Tracked, ...]]:
        """Return the messages of the slice, in the order in which they were tracked."""

        async def read() -> tuple[Tracked, ...]:
            return tuple(await self._messages(where))

        return Action(self._context, read, is_journaled=False)

    def clear(self, where: Where = None, *, bot: Bot | None = None) -> Action[Cleared]:
        """Delete the messages of the slice, on the platform and here, and return how many.

        They are those that are in the slice now: one that is tracked meanwhile stays. They go in
        batches of the platform's size, each forgotten when its outcome is known, so that nothing is
        asked again. What is too old for the platform is not asked at all. What fails for the moment
        is asked again twice, after the pause that the platform wants. What is not deleted in the
        end is forgotten all the same; the result's `outcomes` tell. `bot` deletes through another
        bot.
        """

        async def cleared() -> dict[str, int]:
            messages = await self._messages(where, texts=where is not None)
            platform, ask = (bot or self._context.bot).platform, self._context.engine.ask
            return await clear_messages(platform, messages, ask)

        return Action(self._context, cleared, read=Cleared.of)

    def forget(self, where: Where = None) -> Action[int]:
        """Take messages out of the slice and leave them on the platform; return how many."""

        async def forgotten() -> int:
            found = await self._messages(where, texts=where is not None)
            for batch in in_batches(found, FORGOTTEN):
                await self._context.engine.ask(partial(forget, batch))
            return len(found)

        return Action(self._context, forgotten)

    def close(self) -> Action[None]:
        """End the tracking: the slice is empty, and what is said from now on is in no slice.

        Its data stays. Open again, it begins empty.
        """

        async def closed() -> None:
            self._context.close_session(self.key)
            await self._context.engine.ask(lambda mailbox: mailbox.end([self.key]))

        return Action(self._context, closed, session=self.key, closes=True)

    # Sending

    def send(self, text: str, *, to: str | None = None, **options: Any) -> Action[Any]:
        """Send a message to the session's chat and record it in the session's slice, which it
        opens.

        Returns the platform's answer. Options are the platform's own; `to` is another chat. Raises
        a `PlatformError`.
        """
        chat, business = self._address()
        if to is not None and to != chat:
            chat, business = to, ""
        if business:
            options.setdefault("business_connection_id", business)
        platform = self._context.bot.platform
        return Action(
            self._context,
            lambda: platform.send(chat, text, **options),
            lambda result: platform.messages(result, chat, business),
            self.key,
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
        platform = self._context.bot.platform
        aimed = platform.aim(parameters, *self._address())
        return Action(
            self._context,
            lambda: platform.call(method, **aimed),
            lambda result: platform.messages(
                result, platform.target(aimed), platform.business(aimed)
            ),
            self.key,
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

    async def load(self) -> Session[T]:
        """Read the session, where no handler declared it, so that its data can be used.

        An asynchronous initial factory is called, so that `reset` and `delete` can begin anew.
        """
        if self._row is UNREAD:
            self._row = await self._context.load(self.key)
        await self._begin()
        return self

    # For the engine

    def speaks_for(self, bot: Bot) -> bool:
        """Is what that bot sends in this session's `with` block the session's?"""
        return self.bot is bot and not self._context.is_over

    async def prepare(self) -> None:
        """Run an asynchronous initial factory, where it is needed: `data` itself cannot wait."""
        factory = self._spec.initial
        if self._data is not _UNSET or not iscoroutinefunction(factory):
            return
        if self._row is not None and self._row.data is not None:
            with suppress(Misfit):
                decoder(self._spec.type)(self._row.data)
                return
        await self._begin()

    async def _begin(self) -> None:
        """Call an asynchronous initial factory, for each beginning to have a copy of its value."""
        factory = self._spec.initial
        if iscoroutinefunction(factory):
            begun = encode(await factory(self._context.update))
            decoded = decoder(self._spec.type)
            self._spec = msgspec.structs.replace(self._spec, initial=lambda _: decoded(begun))

    def changes(self) -> Save | None:
        """Return what is to be saved, None when nothing changed. Raises `InvalidSessionData`."""
        encoded = None if self._data is _UNSET else self._encode(self._data)
        if encoded == self._before or self._data is _UNSET:
            if self._deleted and self._row is not None:
                return Save(
                    self.key,
                    self.version,
                    None,
                    self.expiry(),  # of its slice, where it is open
                    is_deleted=True,
                    store=self._context.bot.store,
                    before=self._row.data,
                )
            if self._expires_at is _UNSET and self._quarantined is None:
                return None
            if encoded is None:
                encoded = self._stored_data
        limit = settings.MAX_DATA_BYTES
        if encoded is not None and len(encoded) > limit:
            raise InvalidSessionData(
                f"Session {self.key} holds {len(encoded):,} bytes of data; MAX_DATA_BYTES is "
                f"{limit:,}. The stored value stays as it was."
            )
        return Save(
            self.key,
            self.version,
            encoded,
            self.expiry(),
            self._quarantined,
            store=self._context.bot.store,
            before=self._stored_data,
        )

    def expiry(self) -> datetime | None:
        """Return when it expires if it is written now, None for never."""
        if self._expires_at is not _UNSET:
            return cast("datetime | None", self._expires_at)
        if self._spec.expires is not None:
            return clock.now() + _span(self._spec.expires)
        after = self._context.bot.expiry()
        if after is None and self._row is not UNREAD:
            return self.expires_at
        return after

    @property
    def _stored(self) -> Row | None:
        """The stored row. Raises `RuntimeError` where it was not read yet."""
        if self._row is UNREAD:
            raise RuntimeError(
                f"Session {self.key} was not read yet: `async with session:`, or await "
                "session.load(), or declare it as a parameter of the handler."
            )
        return self._row

    @property
    def _stored_data(self) -> bytes | None:
        row = self._stored
        return row.data if row is not None else None

    def _change(self) -> None:
        if self._context.is_over:
            warnings.warn(
                f"Session {self.key} was changed after its handler: that is not saved.",
                RuntimeWarning,
                stacklevel=3,
            )
        _ = self._stored

    def _read(self) -> None:
        stored = self._stored_data
        if stored is None:
            self._data = self._start()
        else:
            try:
                self._data = decoder(self._spec.type)(stored)
            except Misfit as error:
                self._data = self._refit(stored, error)
        # Compared with what it encodes to later: the stored text may be spelled otherwise.
        self._before = self._encode(self._data)

    def _refit(self, stored: bytes, error: Misfit) -> Any:
        """Do with stored data that does not fit what was declared."""
        policy = self._spec.misfit or self._context.bot.on_misfit
        problem = f"The stored data of session {self.key} is no {self._spec.type!r}: {error}"
        if policy == RAISE:
            raise InvalidSessionData(problem) from error
        if callable(policy):
            fitted = policy(msgspec.json.decode(stored))
            try:
                return decoder(self._spec.type)(self._encode(fitted))
            except Misfit as still:
                problem += "; nor is what its policy made of it."
                raise InvalidSessionData(problem) from still
        if policy == QUARANTINE:
            self._quarantined = stored
        log.error("%s (%s)", problem, policy)
        return self._start()

    def retype(self, spec: SessionSpec) -> bool:
        """Let another handler of the update see this session as it declares it.

        Its type and marks count where nothing was said before; False where the types differ.
        """
        mine, type_ = self._spec, self._spec.type
        if spec.type not in (dict, type_):
            is_read = self._data is not _UNSET
            if type_ is not dict or (is_read and get_origin(spec.type) is not dict):
                return False
            type_ = spec.type
        self._spec = msgspec.structs.replace(
            mine,
            type=type_,
            initial=mine.initial or spec.initial,
            misfit=mine.misfit or spec.misfit,
            expires=spec.expires if mine.expires is None else mine.expires,
        )
        return True

    async def _messages(self, where: Where, *, texts: bool = True) -> list[Tracked]:
        await self._context.settle()
        ask = self._context.engine.ask
        found = await ask(lambda mailbox: mailbox.tracked(self.key, texts=texts))
        return found if where is None else [each for each in found if where(each)]

    def _start(self) -> Any:
        if iscoroutinefunction(self._spec.initial):
            raise RuntimeError(
                f"Session {self.key} begins with an asynchronous factory: await session.load() "
                "before reset() or delete()."
            )
        if self._spec.initial is not None:
            return self._spec.initial(self._context.update)
        try:
            return self._spec.type()
        except TypeError as error:
            raise ImproperlyConfigured(
                f"Session {self.key} cannot begin: {error}. Give {self._spec.type!r} defaults, or "
                "declare the session with Annotated[Session[...], Initial(factory)]."
            ) from error

    def _encode(self, value: Any) -> bytes:
        try:
            return encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidSessionData(
                f"The data of session {self.key} is not JSON: {error}. "
                "The stored value stays as it was."
            ) from error

    def _address(self) -> tuple[str, str]:
        """The chat to send to, and the business connection in whose name."""
        update = self._context.update
        if update.chat is not None and self.key.chat in ("", update.conversation):
            return update.chat.id, update.business
        kind, _, rest = self.key.chat.partition("/")
        if kind == "business":
            business, _, chat = rest.rpartition("/")
            return chat, business
        return (rest if kind == "guest" else self.key.chat) or self.key.user, ""


def _span(after: timedelta | float) -> timedelta:
    return after if isinstance(after, timedelta) else timedelta(seconds=after)
