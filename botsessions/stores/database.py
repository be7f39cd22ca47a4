"""The store that is the session's own row."""

from __future__ import annotations

from typing import ClassVar

from botsessions.stores.base import Store


class DatabaseStore(Store):
    """Keeps the data in the column `BotSession.data`: it comes and goes with the row, in the same
    transaction.

    The mailbox reads and writes that column itself, so the verbs of the contract have nothing left
    to do here.
    """

    in_row: ClassVar[bool] = True
