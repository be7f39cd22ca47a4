"""The bots that these tests talk to."""

from collections.abc import Callable, Iterator

import pytest

from botsessions.testing import BotClient
from tests.testing.bots import attempts, configured


@pytest.fixture(autouse=True)
def bots_of_the_tests() -> Iterator[None]:
    attempts.clear()
    with configured():
        yield


@pytest.fixture
def client(bot_client: Callable[..., BotClient]) -> BotClient:
    return bot_client("demo")
