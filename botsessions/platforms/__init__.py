"""Chat platforms: how requests are authenticated and parsed, messages sent and deleted."""

from botsessions.platforms.base import Deletion, Platform, Rate

__all__ = ["Deletion", "Platform", "Rate"]
