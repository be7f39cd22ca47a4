"""What a session holds: its data as the declared type, its expiry and its flow."""

from __future__ import annotations

import logging
import warnings
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, cast, get_origin

import msgspec
from django.core.exceptions import ImproperlyConfigured

from botsessions import clock
from botsessions.conf import settings
from botsessions.data import QUARANTINE, RAISE, Misfit, decoder, encode, merged, reader
from botsessions.exceptions import InvalidSessionData, NewerData
from botsessions.flows.state import Slot, span
from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Row, Save
from botsessions.marks import SessionSpec
from botsessions.versions import TooNew, as_stored, check_known, split, versions_of

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import TypeVar

    from botsessions.bots import Bot
    from botsessions.context import Context

    #: A bare `Session` is one of a dict, for type checkers too (PEP 696).
    T = TypeVar("T", default=dict[str, Any])
else:
    from typing import TypeVar

    T = TypeVar("T")

log = logging.getLogger("botsessions.session")

UNSET: Any = object()
#: The row of a session that no handler declared: whether there is one is not known yet.
UNREAD: Any = object()


class Holding(Generic[T]):
    """The part of a session that is saved.

    Nothing is read or decoded before `data` is used, and nothing is saved unless it changed.
    """

    def __init__(
        self, context: Context, key: SessionKey, spec: SessionSpec, row: Row | None
    ) -> None:
        self._key = key
        self._context = context
        self._spec = spec
        self._row = row
        self._data: Any = UNSET
        self._before: bytes | None = None
        self._quarantined: bytes | None = None
        self._expires_at: Any = UNSET
        self._deleted = False
        self._slot: Slot | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key}>"

    @property
    def key(self) -> SessionKey:
        """Its key."""
        return self._key

    @property
    def bot(self) -> Bot:
        """The bot that it is a session of."""
        return self._context.bot

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
        if self._expires_at is not UNSET:
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
        treated as the session declares with `OnMisfit`, or the bot with `ON_MISFIT`. Data of an
        older version of the type goes through its steps first. Raises `NewerData` for data of a
        later one, which can be deleted and not be written over.
        """
        if self._context.script is not None:
            self._context.script.reads(self)
        if self._data is UNSET:
            self._read()
        return cast(T, self._data)

    @data.setter
    def data(self, value: T) -> None:
        self._change()
        if self._data is UNSET:
            self._before = self._replaced()
        self._data = value

    def update(self, **changes: Any) -> None:
        """Replace some fields of the data and leave the others: a shallow merge."""
        self._change()
        self._data = merged(self.data, changes)

    def reset(self) -> None:
        """Begin anew with the initial value."""
        self._change()
        if self._data is UNSET:
            self._before = self._replaced()
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
        self._expires_at = None if after is None else clock.now() + span(after)

    async def load(self) -> Self:
        """Read the session, where no handler declared it, so that its data can be used.

        An asynchronous initial factory is called, so that `reset` and `delete` can begin anew.
        """
        if self._row is UNREAD:
            await self._context.load(self.key)
            self._row = self._context.rows[self.key]
        await self._begin()
        return self

    # For the engine

    async def prepare(self) -> None:
        """Run an asynchronous initial factory, where it is needed: `data` itself cannot wait."""
        factory = self._spec.initial
        if self._data is not UNSET or not iscoroutinefunction(factory):
            return
        if self._row is not None and self._row.data is not None:
            try:
                self._decode(self._row.data)
            except NewerData:
                return  # is for whoever uses the data
            except Misfit:
                pass
            else:
                return
        await self._begin()

    async def _begin(self) -> None:
        """Call an asynchronous initial factory, for each beginning to have a copy of its value."""
        factory = self._spec.initial
        if iscoroutinefunction(factory):
            begun = encode(await factory(self._context.update))
            decoded = decoder(self._spec.type)
            self._spec = msgspec.structs.replace(self._spec, initial=lambda _: decoded(begun))

    @property
    def slot(self) -> Slot:
        """Its flow, and how the one before it ended."""
        if self._slot is None:
            self._slot = Slot(self._stored)
        return self._slot

    def snapshot(self) -> bytes:
        """Return its data as it is now, as it would be stored."""
        if self._data is UNSET:
            self._read()
        return self._as_stored(self._encode(self._data))

    def pretend(self, data: bytes) -> None:
        """Let the data be what it was. Raises `Misfit` and `NewerData`."""
        self._data = self._decode(data)

    def discard(self) -> None:
        """Forget what was changed in the data since it was read."""
        self._data, self._before = UNSET, None
        self._deleted, self._expires_at, self._quarantined = False, UNSET, None

    def catch_up(self, *, keep: bool = False) -> None:
        """Let the data be what is stored, now that a conversation has come to where it waited.

        The object that the conversation has in hand stays the data's where it says the same, or
        where nothing is stored; and where asked it takes the place of what is stored.
        """
        then = self._data
        self.discard()
        if then is UNSET:
            return
        self._read()
        encoded = self._encode(then)
        if self._stored_data is None:
            self._before = encoded
        if keep or msgspec.json.decode(encoded) == msgspec.json.decode(self._before or b"null"):
            self._data = then

    def changes(self) -> Save | None:
        """Return what is to be saved, None when nothing changed. Raises `InvalidSessionData`."""
        save = self._data_changes()
        slot = self._slot
        if save is None and slot is not None and slot.changed:
            save = self._save(self._stored_data)
        if save is not None:
            save.flow, save.due_at, save.last_flow = self.slot.saved()
        return save

    def _data_changes(self) -> Save | None:
        encoded = None if self._data is UNSET else self._encode(self._data)
        if encoded == self._before or self._data is UNSET:
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
            if self._expires_at is UNSET and self._quarantined is None:
                return None
        data = self._stored_data if encoded is None else self._as_stored(encoded)
        limit = settings.MAX_DATA_BYTES
        if data is not None and len(data) > limit:
            raise InvalidSessionData(
                f"Session {self.key} holds {len(data):,} bytes of data; MAX_DATA_BYTES is "
                f"{limit:,}. The stored value stays as it was."
            )
        return self._save(data)

    def _save(self, data: bytes | None) -> Save:
        return Save(
            self.key,
            self.version,
            data,
            self.expiry(),
            self._quarantined,
            store=self._context.bot.store,
            before=self._stored_data,
        )

    def expiry(self) -> datetime | None:
        """Return when it expires if it is written now, None for never."""
        if self._expires_at is not UNSET:
            return cast("datetime | None", self._expires_at)
        if self._spec.expires is not None:
            return clock.now() + span(self._spec.expires)
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
        if self._context.script is not None:
            self._context.script.reads(self)

    def _read(self) -> None:
        stored = self._stored_data
        if stored is None:
            self._data = self._start()
        else:
            try:
                self._data = self._decode(stored)
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
                _, fresh = split(self._encode(fitted))
                return decoder(self._spec.type)(fresh)
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
            is_read = self._data is not UNSET
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

    def _start(self) -> Any:
        if iscoroutinefunction(self._spec.initial):
            raise RuntimeError(
                f"Session {self.key} begins with an asynchronous factory: await session.load() "
                "before reset() or delete()."
            )
        if self._spec.initial is not None:
            return self._spec.initial(self._context.update)
        if self._spec.type is Any:
            return {}
        try:
            return self._spec.type()
        except TypeError as error:
            raise ImproperlyConfigured(
                f"Session {self.key} cannot begin: {error}. Give {self._spec.type!r} defaults, or "
                "declare the session with Annotated[Session[...], Initial(factory)]."
            ) from error

    def _decode(self, stored: bytes) -> Any:
        """Return stored JSON as the declared type. Raises `Misfit` and `NewerData`."""
        try:
            return reader(self._spec.type)(stored)
        except TooNew as error:
            raise self._newer(error) from error

    def _replaced(self) -> bytes | None:
        """Return what is stored, for something new to take its place. Raises `NewerData`.

        Data of an older version is never the same, however alike the two look.
        """
        stored = self._stored_data
        if stored is None:
            return None
        try:
            version = check_known(self._spec.type, stored)
        except TooNew as error:
            raise self._newer(error) from error
        if self._spec.type is Any:
            return stored
        return split(stored)[1] if version == versions_of(self._spec.type).current else b""

    def _newer(self, error: TooNew) -> NewerData:
        return NewerData(
            f"The stored data of session {self.key} is of version {error.stored}, and "
            f"{self._spec.type!r} knows version {error.known} here: newer code has written it. It "
            "stays as it is. Whoever wants to see it as it is asks for a session of type Any."
        )

    def _as_stored(self, encoded: bytes) -> bytes:
        try:
            return as_stored(self._spec.type, encoded)
        except ValueError as error:
            raise InvalidSessionData(
                f"The data of session {self.key} cannot be stored: {error}. "
                "The stored value stays as it was."
            ) from error

    def _encode(self, value: Any) -> bytes:
        try:
            return encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidSessionData(
                f"The data of session {self.key} is not JSON: {error}. "
                "The stored value stays as it was."
            ) from error
