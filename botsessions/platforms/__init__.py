"""Chat platforms: how a request is authenticated and parsed, and how messages are sent and deleted."""

from botsessions.platforms.base import Deletion, Platform

__all__ = ["Deletion", "Platform"]
