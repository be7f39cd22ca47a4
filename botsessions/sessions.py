"""The sessions of a bot, from wherever they are needed: a handler, a view, a shell, a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Q

from botsessions import clock
from botsessions.access import Access
from botsessions.conf import settings
from botsessions.contents import fill
from botsessions.context import running
from botsessions.exceptions import SessionsDisabled
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Row
from botsessions.marks import SessionSpec
from botsessions.session import UNREAD, Session
from botsessions.updates import Update
from botsessions.versions import split

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from botsessions.bots import Bot
    from botsessions.models import BotSession

T = TypeVar("T")

#: Seconds that an access waits for its turn, unless it says otherwise.
WAIT = 30.0
#: How many sessions `SessionManager.all` reads at a time.
BATCH = 500


class StoredSession(msgspec.Struct, frozen=True):
    """What is stored of a session.

    `data` is as JSON has it, of version `data_version` of its type, without the mark of that.
    """

    key: SessionKey
    data: Any
    version: int
    is_open: bool
    expires_at: Any
    updated_at: Any
    data_version: int = 1


class SessionHandle(Generic[T]):
    """A session that is used outside a handler.

    `async with handle as session:`, or `with` in synchronous code, waits for its turn in the
    session's mailbox and commits on leaving; where the block raises, nothing is saved. A single
    verb (`await handle.send(…)`) does the same for itself. Raises `MailboxBusy` where the turn
    does not come within `wait` seconds.

    In synchronous code the lease is not renewed within the block: leave it within LEASE seconds, or
    it raises `LeaseLost` and nothing is saved. While what was queued is sent then, it is.
    """

    def __init__(
        self,
        bot: Bot,
        key: SessionKey,
        spec: SessionSpec,
        wait: float = WAIT,
        *,
        opens: bool = True,
    ) -> None:
        self.bot = bot
        #: Does the session track what is said in its place from then on?
        self._opens = opens
        self.key = key
        self._spec = spec
        self._wait = wait
        #: What each task or thread has entered and not left: they may share a handle.
        self._entered: dict[object, list[tuple[Access, Session[T]]]] = {}

    def __repr__(self) -> str:
        return f"<SessionHandle {self.key}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionHandle) and (self.key, self._spec) == (
            other.key,
            other._spec,
        )

    def __hash__(self) -> int:
        return hash((self.key, self._spec.qualifier))

    async def __aenter__(self) -> Session[T]:
        access, session = await self._enter()
        access.keep()
        self._entered.setdefault(asyncio.current_task(), []).append((access, session))
        return session.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        access, session = self._left(asyncio.current_task())
        session.__exit__()
        await access.leave(error)

    def __enter__(self) -> Session[T]:
        access, session = async_to_sync(self._enter)()
        self._entered.setdefault(get_ident(), []).append((access, session))
        return session.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        access, session = self._left(get_ident())
        session.__exit__()
        async_to_sync(access.leave)(error)

    async def _enter(self) -> tuple[Access, Session[T]]:
        access = Access(self.bot, self.key, self._wait)
        context = await access.enter()
        if self._opens:
            context.open(self.key)
        session: Session[T] = Session(context, self.key, self._spec, access.rows[self.key])
        context.sessions[self.key] = session
        return access, session

    def _left(self, who: object) -> tuple[Access, Session[T]]:
        """Return what a task or thread entered last, which it leaves now."""
        entered = self._entered[who]
        last = entered.pop()
        if not entered:
            del self._entered[who]
        return last

    async def _once(self, verb: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        async with self as session:
            return await getattr(session, verb)(*arguments, **options)


def _once(verb: str) -> Callable[..., Any]:
    def call(self: SessionHandle[Any], *arguments: Any, **options: Any) -> Any:
        return self._once(verb, arguments, options)

    call.__name__ = verb
    call.__doc__ = f"Do `Session.{verb}` in a turn of its own."
    return call


VERBS = ["open", "track", "messages", "clear", "forget", "close", "send", "reply", "call"]
for _verb in (*VERBS, "begin", "end"):
    setattr(SessionHandle, _verb, _once(_verb))


class SessionManager:
    """The sessions of one bot: `bot.sessions`."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot

    def get(
        self,
        chat: str = "",
        user: str | None = None,
        qualifier: str = "",
        *,
        thread: str = "",
        type: Any = dict,
        wait: float = WAIT,
    ) -> Any:
        """Return the session of a chat, or of a user in it; it is open from then on.

        Within a handler it is a `Session` that is committed with the others of the handler, the
        same object each time; its `data` is read with `async with session:`. Elsewhere it is a
        `SessionHandle`. As the type `Any` its data is what is stored, with the mark of its version.
        """
        key = SessionKey(self._bot.alias, str(chat), str(user or ""), thread, qualifier)
        if not (key.chat or key.user):
            raise ValueError("A session needs a chat or a user.")
        return self._at(key, SessionSpec(type, qualifier), wait)

    def at(self, key: SessionKey, *, type: Any = Any, wait: float = WAIT) -> SessionHandle[Any]:
        """Return the session of a key for an operator, who leaves it as open or closed as it is."""
        key.check()
        if not self._bot.has_sessions:
            raise SessionsDisabled(f"Bot '{self._bot.alias}' has STORE: None.")
        return SessionHandle(self._bot, key, SessionSpec(type, key.qualifier), wait, opens=False)

    def of(self, update: Update, qualifier: str = "", *, type: Any = dict) -> Any:
        """Return the session of an update by the bot's key strategy, None where it has no key.

        Raises `ImproperlyConfigured` where the strategy is asynchronous.
        """
        if self._bot.finds_keys_slowly:
            raise ImproperlyConfigured(
                f"Bot '{self._bot.alias}' finds its keys asynchronously: "
                "use sessions.get() with the key's parts."
            )
        base = self._bot.key_of(update)
        if base is None:
            return None
        key = base.qualified(qualifier or base.qualifier)
        return self._at(key, SessionSpec(type, key.qualifier), WAIT)

    def subscribe(self, key: SessionKey, matcher: Callable[[Update], bool] | str) -> Any:
        """Open a session that tracks what a matcher of the bot's router chooses. Await it.

        It takes the place of the matcher before; `get` and `of` leave it as it is.
        """
        return self._at(key, SessionSpec(qualifier=key.qualifier), WAIT).open(matcher)

    def unsubscribe(self, key: SessionKey) -> Any:
        """Close a session: nothing is tracked any more, and its slice is empty. Await it."""
        return self._at(key, SessionSpec(qualifier=key.qualifier), WAIT).close()

    async def is_idle(self) -> bool:
        """Is no session of the bot open?"""
        return not await self._live().filter(is_open=True).aexists()

    async def all(self) -> AsyncIterator[StoredSession]:
        """Yield what is stored of every session of the bot that has not expired.

        Raises `Unavailable` where a store that holds their data is away.
        """
        last = 0
        while batch := await sync_to_async(self._stored)(last):
            for last, session in batch:  # noqa: B007 - the last one counts
                yield session

    def _stored(self, after: int) -> list[tuple[int, StoredSession]]:
        """Return the next sessions with their rows' ids, wherever their data is."""
        rows = list(self._live().filter(id__gt=after).order_by("id")[:BATCH])
        found = []
        for row in rows:
            key = SessionKey(row.bot, row.chat, row.user, row.thread, row.qualifier)
            data = None if row.data is None else msgspec.json.encode(row.data)
            found.append((key, Row(row.id, row.version, row.is_open, data)))
        fill(self._bot.store, found)
        read = ((key, *split(stored.data or b"null")) for key, stored in found)
        return [
            (
                row.id,
                StoredSession(
                    key,
                    msgspec.json.decode(data),
                    row.version,
                    row.is_open,
                    row.expires_at,
                    row.updated_at,
                    data_version,
                ),
            )
            for row, (key, data_version, data) in zip(rows, read, strict=True)
        ]

    def _live(self) -> QuerySet[BotSession]:
        """The rows of the bot's sessions that have not expired."""
        from botsessions.models import BotSession

        ours = BotSession.objects.using(settings.DATABASE).filter(bot=self._bot.alias)
        return ours.filter(Q(expires_at=None) | Q(expires_at__gte=clock.now()))

    def _at(self, key: SessionKey, spec: SessionSpec, wait: float) -> Any:
        key.check()
        if key.bot != self._bot.alias:
            raise ValueError(f"{key} is a session of another bot than '{self._bot.alias}'.")
        if not self._bot.has_sessions:
            raise SessionsDisabled(f"Bot '{self._bot.alias}' has STORE: None.")
        context = running()
        if context is None or context.bot is not self._bot:
            return SessionHandle(self._bot, key, spec, wait)
        context.open(key)
        session = context.sessions.get(key)
        if session is None:
            session = Session(context, key, spec, context.rows.get(key, UNREAD))
            context.sessions[key] = session
        elif not session.retype(spec):
            raise ImproperlyConfigured(
                f"Session {key} is asked for as {spec.type!r}, but this update's handlers have "
                "used it as another type."
            )
        return session
