"""What the tests of the API share: somebody with a token, and a bot that has been talked with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from botsessions import Qualifier, Router, Session, SessionController, Update
from botsessions.api import tokens
from botsessions.models import BotSession, BotUpdate, Erasure, MessageDeletion, TrackedMessage
from tests.kit import handle

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


router = Router()


@router.waiter(timeout=600)
async def ask(control: SessionController, update: Update, session: Session) -> None:
    control.stop()


@router.command("ask")
async def begin(session: Session) -> None:
    await session.begin(ask)


@router.command("fail")
async def fail(session: Session) -> None:
    raise LookupError("on purpose")


@router.message()
async def heard(
    update: Update, session: Session, order: Annotated[Session[Cart], Qualifier("order")]
) -> None:
    session.data["said"] = [*session.data.get("said", ()), update.text]
    order.data.items.append(update.text)
    await session.send(f"heard {update.text}")


def talk(*updates: Update) -> None:
    async_to_sync(handle)(*updates)


class Api:
    """A program that asks, with a token or without."""

    def __init__(self, key: str = "", client: Client | None = None) -> None:
        self.client = client or Client()
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(
        self, method: str, path: str, body: Any = None, query: Any = None, **headers: str
    ) -> Any:
        """Return the answer to a request; `If_Match` names the header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {} if body is None else {"data": body, "content_type": "application/json"}
        return self.client.generic(
            method,
            f"/api/{path}",
            **_encoded(given),
            query_params=query,
            headers=self.headers | named,
        )

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a GET, decoded, which is to be a 200."""
        response = self.ask("GET", path, query=query)
        assert response.status_code == 200, response.content
        return response.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """Return the answer to a POST, decoded, which is to be of that status."""
        response = self.ask("POST", path, body)
        assert response.status_code == status, response.content
        return response.json() if response.content else None


def _encoded(given: dict[str, Any]) -> dict[str, Any]:
    import msgspec

    if "data" in given and not isinstance(given["data"], bytes):
        given["data"] = msgspec.json.encode(given["data"])
    return given


def person(*permissions: str, name: str = "eve") -> User:
    """Return a user with these permissions on the app."""
    user = User.objects.create_user(name)
    found = Permission.objects.filter(
        content_type__app_label="botsessions", codename__in=permissions
    )
    assert len(found) == len(set(permissions)), permissions
    user.user_permissions.set(found)
    return user


def program(*permissions: str, name: str = "eve", bots: Iterable[str] = ()) -> Api:
    """Return a program with a token of such a user."""
    _, key = tokens.issue(person(*permissions, name=name), name="test", bots=bots)
    return Api(key)


def everything(name: str = "root", bots: Iterable[str] = ()) -> Api:
    """Return a program that may do everything."""
    user = User.objects.create_superuser(name)
    _, key = tokens.issue(user, name="test", bots=bots)
    return Api(key)


def problem(response: Any, status: int, code: str) -> Any:
    """Return what a problem says, which is to be of that status and code."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    said = response.json()
    assert {"type", "title", "status", "code", "detail"} <= set(said)
    assert (said["status"], said["code"], said["type"]) == (status, code, "about:blank")
    return said


def session_of(bot: str = "demo", chat: str = "c", user: str = "ann", **columns: Any) -> BotSession:
    return BotSession.objects.create(
        bot=bot, chat=chat, user=user, created_at=NOW, updated_at=NOW, **columns
    )


def message_in(session: BotSession, number: int = 1, **columns: Any) -> TrackedMessage:
    columns = {"direction": "incoming", "sent_at": NOW, "text": "tea"} | columns
    return TrackedMessage.objects.create(
        session=session, chat=session.chat, message_id=f"{number}", **columns
    )


def update_of(bot: str = "demo", id: str = "u1", **columns: Any) -> BotUpdate:
    columns = {"status": "parked", "type": "message", "mailbox": f"{bot}:c"} | columns
    return BotUpdate.objects.create(bot=bot, update_id=id, received_at=NOW, **columns)


def deletion_of(bot: str = "demo", **columns: Any) -> MessageDeletion:
    columns = {"status": "running", "through": bot, "created_at": timezone.now()} | columns
    return MessageDeletion.objects.create(bot=bot, **columns)


def erasure_of(bot: str = "demo") -> Erasure:
    return Erasure.objects.create(bot=bot, kind="user", subject="f00", created_at=NOW)
