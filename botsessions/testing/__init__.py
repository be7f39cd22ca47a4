"""For tests: a client that talks to a bot, and the suites for a platform, mailbox or store.

`BotClient` drives a project's bot through the real pipeline, with no network and no waiting; see
`docs/testing.md`. A suite is a class of test methods, for pytest and for unittest; inherit it and
say how to reach your own. A bug found in one backend becomes a case for all.

Names are looked up when they are first used: pytest imports this package, for its plugin, before
Django has its settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botsessions.mailboxes.contract import MailboxContract, MailboxRaceContract
    from botsessions.stores.contract import StoreContract
    from botsessions.testing.client import BotClient
    from botsessions.testing.messages import ChatMessage
    from botsessions.testing.platform import Call, ScriptedPlatform
    from botsessions.testing.platform_contract import (
        RUBBISH,
        PlatformContract,
        check_message,
        check_update,
        raised,
    )
    from botsessions.testing.state import SessionState

_HOMES = {
    "RUBBISH": "botsessions.testing.platform_contract",
    "BotClient": "botsessions.testing.client",
    "Call": "botsessions.testing.platform",
    "ChatMessage": "botsessions.testing.messages",
    "MailboxContract": "botsessions.mailboxes.contract",
    "MailboxRaceContract": "botsessions.mailboxes.contract",
    "PlatformContract": "botsessions.testing.platform_contract",
    "ScriptedPlatform": "botsessions.testing.platform",
    "SessionState": "botsessions.testing.state",
    "StoreContract": "botsessions.stores.contract",
    "check_message": "botsessions.testing.platform_contract",
    "check_update": "botsessions.testing.platform_contract",
    "raised": "botsessions.testing.platform_contract",
}

__all__ = [
    "RUBBISH",
    "BotClient",
    "Call",
    "ChatMessage",
    "MailboxContract",
    "MailboxRaceContract",
    "PlatformContract",
    "ScriptedPlatform",
    "SessionState",
    "StoreContract",
    "check_message",
    "check_update",
    "raised",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'botsessions.testing' has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found
