"""Versions of typed data: the mark that stored data carries, and the steps that bring it up.

    @dataclass
    class Cart:
        version: ClassVar[int] = 2
        names: list[str] = field(default_factory=list)

        @migrates(from_=1)
        def one_item_to_many(old):
            return {"names": [old["item"]]}

What is saved as a type of version 2 or above carries `"$version"` at its top. What carries none is
of version 1, so nothing changes for types without a version. Older data goes through the steps when
it is read, and is stored anew when it is saved; newer data is read by nobody who does not know it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from inspect import iscoroutinefunction
from types import UnionType
from typing import Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import msgspec
from django.core.exceptions import ImproperlyConfigured

#: The name that is reserved at the top of stored data.
MARK = "$version"
#: What is looked for first: one byte is found twenty times faster than the whole mark.
DOLLAR = ord("$")

Function = TypeVar("Function", bound=Callable[..., Any])


class TooNew(Exception):
    """Stored data is of a later version than its type."""

    def __init__(self, stored: int, known: int) -> None:
        super().__init__(f"It is of version {stored}; version {known} is known.")
        self.stored = stored
        self.known = known


class Versions(NamedTuple):
    """The version of a type, and the step from each version before it, in order."""

    current: int = 1
    steps: tuple[Callable[[Any], Any], ...] = ()


class Step(staticmethod):  # type: ignore[type-arg]
    """A function in the body of a type that brings data from one version to the next.

    It is a static method, which dataclasses, Structs and pydantic models leave alone.
    """

    def __init__(self, function: Callable[..., Any], from_: int) -> None:
        super().__init__(function)
        self.from_ = from_


def migrates(*, from_: int) -> Callable[[Function], Function]:
    """Make of a function in the body of a session's type the step from a version to the next.

    It takes the stored value of that version, as JSON has it, which it may change in place, and
    returns the value of the next version, a dict. It has no `self`. Where it raises, or what comes
    out in the end does not fit the type, the data is treated as the session's `OnMisfit` says.
    """

    def decorate(function: Function) -> Function:
        return cast(Function, Step(function, from_))

    return decorate


def name_of(type_: Any) -> str:
    """Return what a type is called."""
    return getattr(type_, "__qualname__", None) or repr(type_)


@cache
def versions_of(type_: Any) -> Versions:
    """Return the version of a session's type, 1 where it declares none, and its steps.

    Raises `ImproperlyConfigured`, naming the type, where they do not fit together.
    """
    if get_origin(type_) in (Union, UnionType):
        for each in get_args(type_):
            if versions_of(each).current > 1:
                _refuse(type_, f"is a union, but {name_of(each)} has a version: give it a class.")
        return Versions()
    class_ = get_origin(type_) or type_
    if not isinstance(class_, type):
        return Versions()
    current = _version(class_)
    steps: dict[int, Step] = {}
    for step in _steps(class_):
        known = isinstance(step.from_, int) and not isinstance(step.from_, bool)
        if not known or not 1 <= step.from_ < current:
            _refuse(
                class_,
                f"is of version {current}, and has a step from version {step.from_!r}: declare "
                "`version: ClassVar[int]`, one more than its last step is from.",
            )
        if step.from_ in steps:
            _refuse(class_, f"has two steps from version {step.from_}.")
        if iscoroutinefunction(_function(step)):
            _refuse(class_, f"has an async step from version {step.from_}: it is a plain function.")
        steps[step.from_] = step
    for number in range(1, current):
        if number not in steps:
            _refuse(
                class_,
                f"is of version {current}, but has no step from version {number}: "
                f"decorate one with @migrates(from_={number}).",
            )
    return Versions(current, tuple(steps[number] for number in range(1, current)))


def stored_version(raw: bytes) -> int:
    """Return the version of stored JSON: its mark, 1 without one."""
    if DOLLAR not in raw:
        return 1
    try:
        return max(_read_mark(raw).version, 1)
    except (msgspec.DecodeError, RecursionError):  # no object, or a name of the user's own
        return 1


def split(raw: bytes) -> tuple[int, bytes]:
    """Return the version of stored JSON, and the JSON without its mark."""
    version = stored_version(raw)
    return version, raw if version == 1 else _without_mark(raw)


def check_known(type_: Any, raw: bytes) -> int:
    """Return the version of stored JSON. Raises `TooNew` where it is later than the type's.

    A type without a version knows version 1; `Any` is for whoever looks at data as it is.
    """
    stored = stored_version(raw)
    if stored > 1 and type_ is not Any and stored > (known := versions_of(type_).current):
        raise TooNew(stored, known)
    return stored


def upgrade(type_: Any, raw: bytes) -> bytes:
    """Return stored JSON as the type's version has it, without the mark.

    Raises `TooNew`, and `ValueError` where a step fails.
    """
    stored, (known, steps) = check_known(type_, raw), versions_of(type_)
    if known == 1:
        return raw
    plain = raw if stored == 1 else _without_mark(raw)
    if stored == known:
        return plain
    value = msgspec.json.decode(plain)
    for number, step in enumerate(steps[stored - 1 :], stored):
        try:
            value = step(value)
        except Exception as error:
            raise ValueError(f"its step from version {number} failed: {error!r}") from error
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(f"its step from version {number} returned {kind}, and no dict")
    try:
        return msgspec.json.encode(value)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"what its steps returned is not JSON: {error}") from error


def as_stored(type_: Any, encoded: bytes) -> bytes:
    """Return the JSON of a value of that type as it is stored: with the mark of its version.

    Raises `ValueError` where it is no object, which could carry one, or has that name already.
    """
    if type_ is Any:
        return encoded
    if DOLLAR in encoded and stored_version(encoded) > 1:
        raise ValueError(f"the name {MARK!r} is reserved")
    version = versions_of(type_).current
    if version == 1:
        return encoded
    if not encoded.startswith(b"{"):
        raise ValueError("data with a version is a JSON object")
    comma = b"" if encoded == b"{}" else b","
    return b'{"%s":%d%s%s' % (MARK.encode(), version, comma, encoded[1:])


class _Marked(msgspec.Struct):
    version: int = msgspec.field(name=MARK, default=1)


_read_mark = msgspec.json.Decoder(_Marked).decode
_read_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _without_mark(raw: bytes) -> bytes:
    parts = _read_parts(raw)
    del parts[MARK]
    return msgspec.json.encode(parts)


def _version(class_: type) -> int:
    """Return the class attribute `version`; a field or a method of that name is none."""
    version = getattr(class_, "version", 1)
    if "version" in _fields(class_) or hasattr(version, "__get__"):
        return 1
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        _refuse(class_, f"has version {version!r}: it is a number, 1 or above.")
    if version > 1 and (
        issubclass(class_, tuple)
        or getattr(getattr(class_, "__struct_config__", None), "array_like", False)
    ):
        _refuse(class_, "has a version, but is stored as an array: only an object can carry it.")
    return cast(int, version)


def _fields(class_: Any) -> set[str]:
    """Return the names of the fields of a dataclass, Struct, attrs class or pydantic model."""
    names = {*getattr(class_, "__struct_fields__", ()), *getattr(class_, "model_fields", ())}
    names |= {each.name for each in getattr(class_, "__attrs_attrs__", ())}
    if dataclasses.is_dataclass(class_):
        names |= {each.name for each in dataclasses.fields(class_)}
    return names


def _steps(class_: type) -> Iterator[Step]:
    """Yield the steps of a class and of those it inherits from; one of the same name replaces."""
    found: dict[str, object] = {}
    for each in reversed(class_.__mro__):
        found |= vars(each)
    for value in found.values():
        while isinstance(value, staticmethod) and not isinstance(value, Step):
            value = value.__func__
        if isinstance(value, Step):
            yield value


def _function(step: object) -> object:
    while isinstance(step, staticmethod):
        step = step.__func__
    return step


def _refuse(type_: Any, problem: str) -> None:
    raise ImproperlyConfigured(f"Session type {name_of(type_)} {problem}")
