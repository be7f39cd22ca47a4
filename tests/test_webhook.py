"""Webhook requests through each door: the fast one, Django's view under ASGI and under WSGI."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from django.urls import reverse

from botsessions import Router, Session, Update
from botsessions.asgi import Door
from botsessions.bots import bots
from botsessions.exceptions import Unavailable
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate
from tests.kit import running

pytestmark = pytest.mark.django_db(transaction=True)

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"

router = Router()


@router.message()
async def count(update: Update, session: Session) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


Answer = tuple[int, dict[str, str], bytes]
Headers = dict[str, str]


def through_asgi(path: str, body: bytes, headers: Headers, method: str = "POST") -> Answer:
    async def request() -> Answer:
        door = Door(None)
        door._find_paths()
        sent: list[dict[str, Any]] = []
        # In pieces, as servers hand over a large body.
        pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)] or [b""]
        messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, 1)
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "path": path,
            "method": method,
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
        }
        if path not in door._aliases:
            pytest.skip("what is no bot's path is Django's")
        await door(scope, receive, send)
        answer = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], answer, sent[1]["body"]

    return async_to_sync(request)()


def through_view(path: str, body: bytes, headers: Headers, method: str = "POST") -> Answer:
    async def request() -> Answer:
        response = await AsyncClient().generic(
            method, path, body, content_type="application/json", headers=headers
        )
        return response.status_code, {k.lower(): v for k, v in response.items()}, response.content

    return async_to_sync(request)()


def through_wsgi(path: str, body: bytes, headers: Headers, method: str = "POST") -> Answer:
    response = Client().generic(
        method, path, body, content_type="application/json", headers=headers
    )
    return response.status_code, {k.lower(): v for k, v in response.items()}, response.content


Post = Callable[..., Answer]
DOORS = [through_asgi, through_view, through_wsgi]
SECRET = {"X-Local-Secret": "s"}


def said(text: str, update_id: int = 1, user: str = "ann", **message: Any) -> dict[str, Any]:
    return {
        "update_id": update_id,
        "message": {
            "message_id": update_id,
            "chat": {"id": user, "type": "private"},
            "from": {"id": user, "name": user},
            "text": text,
        }
        | message,
    }


@pytest.fixture(params=DOORS, ids=lambda door: door.__name__)
def post(request: pytest.FixtureRequest) -> Post:
    def send(
        body: object, headers: Headers = SECRET, path: str = "", method: str = "POST"
    ) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        door: Post = request.param
        return door(path or reverse("botsessions:webhook", args=["demo"]), raw, headers, method)

    return send


def test_an_update_is_handled_and_answered(post: Post) -> None:
    with running(router):
        status, headers, body = post(said("hi"))
        assert (status, body) == (200, b"{}")
        assert headers["content-type"] == "application/json"
        assert BotSession.objects.get().data == {"n": 1}
        assert BotUpdate.objects.get().status == "done"


def test_one_request_may_carry_updates_of_many(post: Post) -> None:
    """S85."""
    with running(router):
        updates = [said("hi", number, f"user{number % 3}") for number in range(1, 10)]
        assert post({"updates": updates})[0] == 200
        assert BotSession.objects.count() == 3
        assert {(row.data or {})["n"] for row in BotSession.objects.all()} == {3}


def test_a_duplicate_is_answered_with_200(post: Post) -> None:
    with running(router):
        assert post(said("hi"))[0] == 200
        assert post(said("hi"))[0] == 200
        assert BotSession.objects.get().data == {"n": 1}


@pytest.mark.parametrize("secret", [None, "", "wrong", "s\xe9", "S", "s "])
def test_without_the_secret_nothing_is_parsed_or_stored(
    post: Post, secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P40."""
    with running(router):
        monkeypatch.setattr(bots["demo"].platform, "parse", lambda body: pytest.fail("parsed"))
        headers = {} if secret is None else {"X-Local-Secret": secret}
        assert post(said("hi"), headers)[0] == 401
        assert list(BotUpdate.objects.values()) == []


def test_an_unknown_bot_is_not_found(post: Post) -> None:
    with running(router):
        assert post(said("hi"), path=reverse("botsessions:webhook", args=["nobody"]))[0] == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_only_post_is_allowed(post: Post, method: str) -> None:
    with running(router):
        status, headers, _ = post(b"", method=method)
        assert (status, headers["allow"]) == (405, "POST")


def test_a_large_body_is_refused(post: Post) -> None:
    with running(router):
        assert post(said("x" * 1024 * 1024))[0] == 413
        assert post(said("x" * 3 * 1024 * 1024))[0] == 413
        assert post(b" " * 1000 + json.dumps(said("hi")).encode())[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b'"text"',
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 100_000,
        b'{"updates": NaN}',
        b'{"a": "\\ud800"}',
        b"{} trailing",
    ],
    ids=range(10),
)
def test_rubbish_is_a_bad_request(post: Post, body: bytes) -> None:
    with running(router):
        assert post(body)[0] == 400
        assert list(BotUpdate.objects.values()) == []


def test_an_unknown_type_is_accepted_and_ignored(post: Post) -> None:
    with running(router):
        assert post({"update_id": 5, "something_new": {"a": 1}})[0] == 200
        assert list(BotUpdate.objects.values()) == []


def test_nul_characters_are_cleaned(post: Post) -> None:
    with running(router, ack_after=0):
        assert post(said("a\x00b"))[0] == 200
        assert BotSession.objects.get().data == {"n": 1}


def test_a_database_that_is_away_is_a_503(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 9, at the doors; real servers are taken away in tests/processes."""

    def away(*_: object) -> None:
        raise Unavailable("The database is away.")

    with running(router):
        with monkeypatch.context() as patch:
            patch.setattr(DatabaseMailbox, "admit", away)
            status, headers, _ = post(said("hi"))
            assert (status, headers["retry-after"]) == (503, "5")
        assert post(said("hi"))[0] == 200
        assert BotSession.objects.get().data == {"n": 1}


@pytest.mark.skipif(not FIXTURES.exists(), reason="the platforms' payloads are not here")
@pytest.mark.parametrize("door", DOORS[:2], ids=lambda door: door.__name__)
def test_every_telegram_payload_is_accepted(door: Post) -> None:
    """Over HTTP, whatever its type and kind."""
    from django.test import override_settings

    everything = Router()
    seen: list[Update] = []

    @everything.on()
    async def see(update: Update, session: Session | None) -> None:
        seen.append(update)
        if session is not None:
            session.data["n"] = session.data.get("n", 0) + 1

    telegram = {
        "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
        "ROUTER": everything,
        "OPTIONS": {"token": "1:token", "secret": "a-secret-of-some-length"},
    }
    expected = json.loads((FIXTURES / "telegram_expected.json").read_text())
    headers = {"X-Telegram-Bot-Api-Secret-Token": "a-secret-of-some-length"}
    files = sorted((FIXTURES / "telegram").glob("*.json"))
    assert len(files) > 100
    with override_settings(BOTSESSIONS={"BOTS": {"shop": telegram}}):
        path = reverse("botsessions:webhook", args=["shop"])
        for file in files:
            BotUpdate.objects.all().delete()
            seen.clear()
            status, *_ = door(path, file.read_bytes(), headers)
            assert status == 200, file.name
            assert not BotUpdate.objects.exclude(status="done").exists(), file.name
            told = expected.get(file.name, {}).get("update_type", "multi_type")
            if seen and told != "multi_type":
                assert seen[0].type == told, file.name
            assert bool(seen) is not file.name.startswith("unknown_type"), file.name


def test_many_requests_at_once_share_an_engine() -> None:
    async def run() -> list[int]:
        client = AsyncClient()
        path = reverse("botsessions:webhook", args=["demo"])
        responses = await asyncio.gather(
            *[
                client.post(
                    path, said("hi", number), content_type="application/json", headers=SECRET
                )
                for number in range(1, 51)
            ]
        )
        return [response.status_code for response in responses]

    with running(router):
        assert async_to_sync(run)() == [200] * 50
        assert BotSession.objects.get().data == {"n": 50}
