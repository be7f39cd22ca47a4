"""What a store outside the session's row is given, so that row and value agree after any crash.

The row's version decides. A value is written before the transaction that raises the version is
committed, and carries the value before it: where that transaction is never committed, the row still
has the old version, and the old value is the one that counts.
"""

from __future__ import annotations

import msgspec

NOTHING = msgspec.Raw(b"null")


class Envelope(msgspec.Struct, omit_defaults=True):
    """The data of one version, and of the version before."""

    version: int
    data: msgspec.Raw = NOTHING
    before: msgspec.Raw = NOTHING


def sealed(version: int, data: bytes | None, before: bytes | None) -> bytes:
    """Return what is to be stored with the row's next `version`."""
    raw = (NOTHING if each is None else msgspec.Raw(each) for each in (data, before))
    return msgspec.json.encode(Envelope(version, *raw))


def opened(stored: bytes | None, version: int) -> bytes | None:
    """Return the data of a row of that version; None where the store has lost it."""
    if stored is None:
        return None
    try:
        envelope = msgspec.json.decode(stored, type=Envelope)
    except msgspec.DecodeError:
        return None
    if envelope.version == version:
        data = envelope.data
    elif envelope.version == version + 1:
        data = envelope.before
    else:
        return None
    return None if data == NOTHING else bytes(data)
