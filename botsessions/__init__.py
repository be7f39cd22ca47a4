"""Durable sessions for chat bots, as a Django app.

These are the public names; none loads a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from botsessions.bots import Bot
    from botsessions.context import Action
    from botsessions.flows.control import SessionController
    from botsessions.flows.conversations import Talk
    from botsessions.keys import SessionKey
    from botsessions.marks import Expires, Initial, OnMisfit, Qualifier, Scope
    from botsessions.routing import Router
    from botsessions.session import Session
    from botsessions.updates import Chat, Direction, Message, MessageKind, Update, UpdateType, User
    from botsessions.versions import migrates

_HOMES = {
    "Action": "context",
    "Bot": "bots",
    "Chat": "updates",
    "Direction": "updates",
    "Expires": "marks",
    "Initial": "marks",
    "Message": "updates",
    "MessageKind": "updates",
    "OnMisfit": "marks",
    "Qualifier": "marks",
    "Router": "routing",
    "Scope": "marks",
    "Session": "session",
    "SessionController": "flows.control",
    "SessionKey": "keys",
    "Talk": "flows.conversations",
    "Update": "updates",
    "UpdateType": "updates",
    "User": "updates",
    "migrates": "versions",
}

__all__ = [
    "Action",
    "Bot",
    "Chat",
    "Direction",
    "Expires",
    "Initial",
    "Message",
    "MessageKind",
    "OnMisfit",
    "Qualifier",
    "Router",
    "Scope",
    "Session",
    "SessionController",
    "SessionKey",
    "Talk",
    "Update",
    "UpdateType",
    "User",
    "migrates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'botsessions' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"botsessions.{_HOMES[name]}"), name)
