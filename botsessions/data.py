"""Typed session data: how a value becomes JSON and comes back, and what if it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from botsessions.versions import TooNew, upgrade

#: What a declared policy does with stored data that does not fit the session's type any more.
QUARANTINE, RESET, RAISE = "quarantine", "reset", "raise"
POLICIES = (QUARANTINE, RESET, RAISE)


class Misfit(ValueError):
    """Stored data does not fit the type that a session declares."""


@cache
def decoder(type_: Any) -> Callable[[bytes], Any]:
    """Return what decodes JSON as that type; it raises `Misfit`.

    Types are msgspec's (dict, dataclass, Struct, TypedDict, …), and pydantic models.
    """
    return _guarded(_decode(type_))


@cache
def reader(type_: Any) -> Callable[[bytes], Any]:
    """Return what decodes JSON as it is stored, of whatever version, as that type.

    It raises `Misfit`, also where a step to the type's version fails, and `versions.TooNew`.
    """
    decode = _decode(type_)
    return _guarded(lambda raw: decode(upgrade(type_, raw)))


def _decode(type_: Any) -> Callable[[bytes], Any]:
    return getattr(type_, "model_validate_json", None) or msgspec.json.Decoder(type_).decode


def _guarded(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except TooNew:
            raise
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Misfit(str(error)) from error
        except Exception as error:  # of the type's own code
            raise Misfit(f"{type(error).__name__}: {error}") from error

    return decoded


def encode(value: Any) -> bytes:
    """Return a value as JSON. Raises `TypeError`, `ValueError` or such where it is none."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """Return what pydantic makes of its model, for msgspec to go on with."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__qualname__} is no type of JSON")
    return dump(mode="json")


def merged(value: Any, changes: dict[str, Any]) -> Any:
    """Return a value with some of its fields replaced: a dict's items, or an object's attributes.

    Raises `AttributeError` for a field that the type does not have.
    """
    if isinstance(value, dict):
        return {**value, **changes}
    for name in changes:
        if not hasattr(value, name):
            raise AttributeError(f"{type(value).__qualname__} has no field {name!r}.")
    for name, each in changes.items():
        setattr(value, name, each)
    return value
