"""Session stores: where the data of sessions is kept."""

from botsessions.stores.base import Store, make_store
from botsessions.stores.cache import CacheStore
from botsessions.stores.cached_database import CachedDatabaseStore
from botsessions.stores.database import DatabaseStore
from botsessions.stores.fallback import FallbackStore
from botsessions.stores.file import FileStore

__all__ = [
    "CacheStore",
    "CachedDatabaseStore",
    "DatabaseStore",
    "FallbackStore",
    "FileStore",
    "Store",
    "make_store",
]
