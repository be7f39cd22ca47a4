"""The pytest plugin: the fixture `bot_client`, and `async def` tests that ask for it.

It is found by its entry point wherever botsessions is installed; `-p botsessions.testing.plugin`
loads it elsewhere. Importing it needs no settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from botsessions.testing.client import BotClient

#: The marks of the plugins that run `async def` tests themselves.
RUNNERS = ("anyio", "asyncio", "trio")


@pytest.fixture
def bot_client(db: None) -> Iterator[Callable[..., BotClient]]:
    """Return `BotClient` to call: `client = bot_client("shop")`; it is closed after the test."""
    from botsessions.testing.client import BotClient

    with ExitStack() as clients:

        def make(alias: str, **options: Any) -> BotClient:
            return clients.enter_context(BotClient(alias, **options))

        yield make


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Run `async def` tests that use a client as Django's TestCase does.

    What they send to the database thread then runs on the test's own, inside its transaction.
    """
    if "bot_client" not in pyfuncitem.fixturenames:
        return
    if any(pyfuncitem.get_closest_marker(name) for name in RUNNERS):
        return
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        from asgiref.sync import async_to_sync

        pyfuncitem.obj = async_to_sync(pyfuncitem.obj)
