"""The data of a session, as an operator sees it and puts it back."""

from __future__ import annotations

from typing import Any

import msgspec

from botsessions.api import scope
from botsessions.contents import fill
from botsessions.mailboxes.base import Row
from botsessions.mailboxes.slices import key_of
from botsessions.models import BotSession
from botsessions.operations.declared import type_of
from botsessions.versions import split


def readable_data(row: BotSession) -> Any:
    """Return the data of a session, from where its store has it, as `operators.edit` takes it.

    That is without the mark of its version where the code declares its type. Raises `Unavailable`
    where the store is away.
    """
    bot = scope.find(row.bot)
    if bot is None or bot.store is None:
        return row.data
    key = key_of(row)
    stored = None if row.data is None else msgspec.json.encode(row.data)
    found = Row(row.pk, row.version, row.is_open, stored)
    fill(bot.store, [(key, found)])
    if found.data is None:
        return None
    unmarked = split(found.data)[1] if type_of(bot, key) is not Any else found.data
    return msgspec.json.decode(unmarked)
