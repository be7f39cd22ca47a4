"""A session: the data that a bot keeps for a conversation, and its slice of that conversation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, cast, get_origin

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions.conf import settings
from botsessions.context import Action
from botsessions.exceptions import InvalidSessionData, PlatformError
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Row, Save

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from botsessions.context import Context

    #: A bare `Session` is one of a dict, for type checkers too (PEP 696).
    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

log = logging.getLogger("botsessions.session")

_UNSET: Any = object()


class Qualifier(msgspec.Struct, frozen=True):
    """Marks a parallel session: `Annotated[Session[Cart], Qualifier("order")]`."""

    name: str


class Initial(msgspec.Struct, frozen=True):
    """Marks how a session's data begins: `Annotated[Session[Cart], Initial(new_cart)]`.

    `factory` takes the update and returns the data, or an awaitable of it; it is called where
    nothing is stored.
    """

    factory: Callable[[Any], Any]


class SessionSpec(msgspec.Struct, frozen=True):
    """What a handler declares about a session parameter."""

    type: Any = dict
    qualifier: str = ""
    optional: bool = False
    initial: Callable[[Any], Any] | None = None


@cache
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


class Session(Generic[T]):
    """The session of an update's chat and user, or of whatever the bot's key strategy says.

    Nothing is read or decoded before `data` is used, and nothing is saved unless it changed. The
    changes of a handler are committed together with the fact that its update is done, once, after
    the handler returns; a handler that raises changes nothing.
    """

    def __init__(
        self, context: Context, key: SessionKey, spec: SessionSpec, row: Row | None
    ) -> None:
        self.key = key
        self._context = context
        self._type = spec.type
        self._initial = spec.initial
        self._row = row
        self._data: Any = _UNSET
        self._before: bytes | None = None

    def __repr__(self) -> str:
        return f"<Session {self.key}>"

    @property
    def chat(self) -> str:
        """The platform's id of the chat that the session sends to."""
        return self._address()[0]

    @property
    def version(self) -> int:
        """How often the session was saved; 0 for one that is not stored."""
        return self._row.version if self._row is not None else 0

    @property
    def is_stored(self) -> bool:
        """Is there stored data, so that the initial value is not used?"""
        return self._row is not None and self._row.data is not None

    @property
    def data(self) -> T:
        """The session's data as the declared type.

        Change it in place, or assign a new value. Raises `InvalidSessionData` where what is stored
        does not fit the type.
        """
        if self._data is _UNSET:
            if self._row is not None and self._row.data is not None:
                try:
                    self._data = _decoder(self._type).decode(self._row.data)
                except msgspec.ValidationError as error:
                    raise InvalidSessionData(
                        f"The stored data of session {self.key} is no {self._type!r}: {error}"
                    ) from error
            else:
                self._data = self._start()
            # Compared with what it encodes to later: the stored text may be spelled otherwise.
            self._before = self._encode(self._data)
        return cast(T, self._data)

    @data.setter
    def data(self, value: T) -> None:
        self._data = value

    def send(self, text: str, **options: Any) -> Action[Any]:
        """Send a message to the session's chat and record it in the session's slice, which it
        opens.

        Returns the platform's answer. Options are the platform's own. Raises a `PlatformError`.
        """
        chat, business = self._address()
        if business:
            options.setdefault("business_connection_id", business)
        platform = self._context.bot.platform
        return Action(
            self._context,
            lambda: platform.send(chat, text, **options),
            lambda result: platform.messages(result, chat),
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
        """
        platform, (chat, _) = self._context.bot.platform, self._address()
        return Action(
            self._context,
            lambda: platform.call(method, **parameters),
            lambda result: platform.messages(result, chat),
            self.key,
        )

    def clear(self) -> Action[int]:
        """Delete the messages of the session's slice, on the platform and here.

        Returns how many there were. They go in batches of the platform's size; what the platform
        will not delete is forgotten all the same.
        """
        return Action(self._context, self._clear, lambda _: ())

    # For the engine

    async def prepare(self) -> None:
        """Run an asynchronous initial factory, where it is needed: `data` itself cannot wait."""
        if self._data is _UNSET and not self.is_stored and iscoroutinefunction(self._initial):
            self._data = await self._initial(self._context.update)
            self._before = self._encode(self._data)

    def changes(self) -> Save | None:
        """Return what is to be saved, None when nothing changed. Raises `InvalidSessionData`."""
        if self._data is _UNSET:
            return None
        encoded = self._encode(self._data)
        if encoded == self._before:
            return None
        limit = settings.MAX_DATA_BYTES
        if len(encoded) > limit:
            raise InvalidSessionData(
                f"Session {self.key} holds {len(encoded):,} bytes of data; MAX_DATA_BYTES is "
                f"{limit:,}. The stored value stays as it was."
            )
        return Save(self.key, self.version, encoded)

    def retype(self, spec: SessionSpec) -> bool:
        """Let another handler of the update see this session as its type, if it has none yet."""
        if spec.type in (dict, self._type):
            return True
        if self._type is not dict:
            return False
        if self._data is not _UNSET and get_origin(spec.type) is not dict:
            return False
        self._type, self._initial = spec.type, spec.initial
        return True

    async def _clear(self) -> int:
        platform, engine = self._context.bot.platform, self._context.engine
        messages = await engine.ask(lambda mailbox: mailbox.tracked(self.key))
        places: dict[tuple[str, str], list[str]] = {}
        for message in messages:
            if message.message_id:
                places.setdefault((message.chat, message.business), []).append(message.message_id)
        for (chat, business), ids in places.items():
            for first in range(0, len(ids), platform.delete_batch_size):
                batch = ids[first : first + platform.delete_batch_size]
                try:
                    await platform.delete_messages(chat, batch, business)
                except PlatformError as error:
                    log.warning("%d messages of %s were not deleted: %s", len(batch), self, error)
        await engine.ask(lambda mailbox: mailbox.forget(messages))
        return len(messages)

    def _start(self) -> Any:
        if self._initial is not None:
            return self._initial(self._context.update)
        try:
            return self._type()
        except TypeError as error:
            raise ImproperlyConfigured(
                f"Session {self.key} cannot begin: {error}. Give {self._type!r} defaults, or "
                "declare the session with Annotated[Session[...], Initial(factory)]."
            ) from error

    def _encode(self, value: Any) -> bytes:
        try:
            return msgspec.json.encode(value)
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
