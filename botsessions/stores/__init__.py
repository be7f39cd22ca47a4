"""Session stores: where the data of sessions is kept."""

from botsessions.stores.base import Store
from botsessions.stores.database import DatabaseStore

__all__ = ["DatabaseStore", "Store"]
