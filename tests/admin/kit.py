"""What the tests of the admin share: a bot that says things, operators, and their addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from botsessions import Qualifier, Router, Session, SessionController, Update
from botsessions.models import BotSession, MailboxLease
from botsessions.operations import operators
from tests.kit import handle

Notes = Session[dict[str, Any]]


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


Order = Annotated[Session[Cart], Qualifier("order")]
router = Router()


@router.waiter(timeout=600)
async def ask(control: SessionController, update: Update, session: Notes) -> None:
    session.data["answer"] = update.text
    control.stop()


@router.command("ask")
async def begin(session: Notes) -> None:
    await session.begin(ask)


@router.command("fail")
async def fail(session: Notes) -> None:
    raise LookupError("<b>on purpose</b>")


@router.message()
async def heard(update: Update, session: Notes, order: Order) -> None:
    session.data["said"] = [*session.data.get("said", ()), update.text]
    order.data.items.append(update.text)
    await session.send(f"heard {update.text}")


def talk(*updates: Update) -> None:
    async_to_sync(handle)(*updates)


def row(user: str = "ann", qualifier: str = "") -> BotSession:
    return BotSession.objects.get(user=user, qualifier=qualifier)


def superuser() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def staff(*codenames: str, name: str = "eve") -> Client:
    """Return a client with these permissions of the app and no others."""
    user = User.objects.create(username=name, is_staff=True)
    found = Permission.objects.filter(codename__in=codenames, content_type__app_label="botsessions")
    user.user_permissions.set(found)
    assert found.count() == len(codenames)
    client = Client()
    client.force_login(user)
    return client


def page_of(row: Model) -> str:
    return reverse(f"admin:botsessions_{row._meta.model_name}_change", args=[row.pk])


def list_of(name: str) -> str:
    return reverse(f"admin:botsessions_{name}_changelist")


def view_of(row: Model, name: str) -> str:
    return reverse(f"admin:botsessions_{row._meta.model_name}_{name}", args=[row.pk])


def act_on(name: str, *rows: Model) -> tuple[str, dict[str, str]]:
    """Return the address that a verb is confirmed at, and what names its rows."""
    url = reverse(f"admin:botsessions_{rows[0]._meta.model_name}_act", args=[name])
    return url, {"ids": ",".join(f"{each.pk}" for each in rows)}


def html(response: Any) -> str:
    assert response.status_code == 200, response
    return str(response.content.decode())


def told(response: Any) -> list[str]:
    """Return what the page that a POST led to tells."""
    return [f"{each}" for each in response.context["messages"]]


def recorded() -> list[str]:
    """Return what the admin log says was done, newest last."""
    return [each.change_message for each in LogEntry.objects.order_by("pk")]


def make_busy(mailbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody work on a mailbox for longer than an operator waits."""
    monkeypatch.setattr(operators, "WAIT", 0.05)
    now = timezone.now()
    MailboxLease.objects.create(
        key=mailbox, token="web-1", acquired_at=now, expires_at=now + timedelta(hours=1)
    )


@contextmanager
def nothing_written() -> Iterator[None]:
    """Fail where the database is changed meanwhile."""
    with CaptureQueriesContext(connection) as captured:
        yield
    verbs = {each["sql"].split()[0].upper() for each in captured}
    assert verbs <= {"SELECT", "SAVEPOINT", "RELEASE", "BEGIN", "COMMIT", "WITH"}, verbs
