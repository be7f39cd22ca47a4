"""Four processes that send to the same chats: no chat, group or bot is above its rate."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from tests.conftest import require
from tests.pacing.kit import most_in
from tests.platforms.bot_api import StubBotApi
from tests.processes.server import HOST, Fleet, Server, at_once

pytestmark = pytest.mark.processes

ANN, BEN, EVERYBODY, TEAM = 1_001, 1_002, 1_003, -1_001
SIZE = 4
RETRY_AFTER = 2

numbers = count(50_000)


class Telegram(StubBotApi):
    """A Bot API that notes when each message arrived, and once refuses one to ben with a 429."""

    def __post_init__(self) -> None:
        super().__post_init__()
        #: (seconds, chat, text), in order.
        self.arrived: list[tuple[float, int, str]] = []
        self.refused: list[float] = []

    def _answer(self, token: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        now, chat = time.monotonic(), parameters.get("chat_id", 0)
        if chat == BEN and len(self.of(BEN)) == 2 and not self.refused:
            self.refused.append(now)
            reason = {"retry_after": RETRY_AFTER}
            return {"ok": False, "error_code": 429, "description": "Slow", "parameters": reason}
        self.arrived.append((now, chat, parameters.get("text", "")))
        return super()._answer(token, method, parameters)

    def of(self, chat: int) -> list[tuple[float, str]]:
        return [(at, text) for at, where, text in list(self.arrived) if where == chat]


@contextmanager
def servers(fleet: Fleet, **settings: str) -> Iterator[list[Server]]:
    """Start servers of our own, all at once."""
    yield at_once(lambda _: fleet.guest(**settings), range(SIZE))
    for server in fleet.guests:
        server.terminate()


def deliver(server: Server, chat: int, user: int, text: str) -> str:
    """Deliver what somebody said, and return the update's id."""
    number = next(numbers)
    update = {
        "update_id": number,
        "message": {
            "message_id": number,
            "date": 1_780_000_000,
            "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup"},
            "from": {"id": user, "is_bot": False, "first_name": "Somebody"},
            "text": text,
        },
    }
    connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
    try:
        secret = {"X-Telegram-Bot-Api-Secret-Token": "a-secret-of-the-tests"}
        connection.request("POST", "/webhooks/paced/", json.dumps(update), secret)
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    return f"{number}"


@pytest.mark.parametrize("where", ["database", pytest.param("redis", marks=pytest.mark.redis)])
def test_no_chat_is_above_its_rate_with_four_processes_sending(
    fleet: Fleet, where: str, request: pytest.FixtureRequest
) -> None:
    """P28: and a 429 holds up its chat alone, in all of them."""
    if where == "redis" and "sqlite" in fleet.database.url:
        pytest.skip("where the rates are in Redis the database says nothing of them")
    redis = require("redis") if where == "redis" else ""
    said = [(chat, user) for chat in (ANN, BEN) for user in (chat, 9)]
    said += [(TEAM, user) for user in (ANN, BEN, 7, 8)]
    with Telegram() as telegram:
        settings = {"BOT_API_URL": telegram.url, "BOT_API_TOKEN": telegram.token}
        settings |= {"LEASE": "30"}  # nothing is for the fleet's own servers: they cannot send
        with servers(fleet, RATE_REDIS_URL=redis, **settings) as sending:
            jobs = [(sending[number % SIZE], *each) for number, each in enumerate(said)]
            ids = at_once(lambda job: deliver(*job, f"/tell {EVERYBODY}"), jobs)
            expected = [
                (chat, f"{id} {number}")
                for (own, _), id in zip(said, ids, strict=True)
                for chat in (own, EVERYBODY)
                for number in range(2)
            ]
            fleet.until(lambda: len(telegram.arrived) >= len(expected), 60, "all is sent")
            time.sleep(0.3)
        arrived, [refused] = telegram.arrived, telegram.refused

    assert sorted((chat, text) for _, chat, text in arrived) == sorted(expected)
    for chat in (ANN, BEN, EVERYBODY, TEAM):
        assert most_in([at for at, _ in telegram.of(chat)], 0.4) == 1, chat
        texts = [text for _, text in telegram.of(chat)]
        for id in ids:
            assert [each for each in texts if each.startswith(id)] in ([], [f"{id} 0", f"{id} 1"])
    assert most_in([at for at, _ in telegram.of(TEAM)], 1.0) <= 3
    assert most_in([at for at, _, _ in arrived], 0.4) <= 5
    paused = {chat for at, chat, _ in arrived if refused < at < refused + RETRY_AFTER}
    assert BEN not in paused
    assert EVERYBODY in paused
