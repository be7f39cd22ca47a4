"""A request's body as JSON, with everything refused or cleaned that would hurt later on."""

from __future__ import annotations

from typing import Any

import msgspec

from botsessions.exceptions import MalformedBody

_decode = msgspec.json.Decoder().decode

#: Stands where a NUL character stood, which neither PostgreSQL's `text` nor its `jsonb` can hold.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decode(body: bytes, max_depth: int = 64) -> Any:
    """Return the value of a JSON text.

    NUL characters become U+FFFD, in keys too. Integers stay exact, however large. Raises
    `MalformedBody` for what is not JSON (RFC 8259: `NaN` and `Infinity` are not, nor is a lone
    surrogate or anything behind the value), not UTF-8, holds a number that no database takes, or is
    nested deeper than `max_depth` arrays and objects.
    """
    try:
        value = _decode(body)
    except RecursionError:
        raise MalformedBody(f"The body is nested deeper than {max_depth} levels.") from None
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: {error.reason}.") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None
    # Each level takes one opening bracket, so few brackets settle it without a walk.
    if body.count(b"{") + body.count(b"[") > max_depth and _is_deeper(value, max_depth):
        raise MalformedBody(f"The body is nested deeper than {max_depth} levels.")
    # A raw NUL is no JSON; an escaped one (or an escaped backslash before u0000) is worth a walk.
    if b"\\u0000" in body:
        value = _clean(value)
    return value


def _is_deeper(value: Any, max_depth: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return bool(level)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", REPLACEMENT)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value
