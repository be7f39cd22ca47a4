"""What operators do to sessions and updates, beside the bot that goes on."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from botsessions import (
    Qualifier,
    Router,
    Scope,
    Session,
    SessionController,
    Update,
    operations,
)
from botsessions.exceptions import (
    InvalidSessionData,
    MailboxBusy,
    SessionConflict,
    SessionTakenOver,
    UnknownBot,
)
from botsessions.flows.state import read
from botsessions.mailboxes.contract.cases import time_is
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from botsessions.operations import operators
from tests.kit import handle, message, running, status, texts

pytestmark = pytest.mark.django_db

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
    if "fixed" not in session.data:
        raise LookupError("on purpose")
    session.data["done"] = True


@router.message()
async def heard(update: Update, session: Notes, order: Order) -> None:
    session.data["said"] = [*session.data.get("said", ()), update.text]
    order.data.items.append(update.text)
    await session.send(f"heard {update.text}")


def talk(*updates: Update) -> None:
    async_to_sync(handle)(*updates)


def row(user: str = "ann", qualifier: str = "") -> BotSession:
    return BotSession.objects.get(user=user, qualifier=qualifier)


def flow_of(session: BotSession) -> str:
    session.refresh_from_db()
    return read(msgspec.json.encode(session.flow)).name if session.flow else ""


def test_messages_are_cleared_forgotten_and_sent() -> None:
    with running(router):
        talk(message("tea"), message("milk"))
        deletion = operators.clear(row(), by="eve")
        operations.delete_messages()
        deletion.refresh_from_db()
        assert (deletion.status, deletion.deleted, deletion.requested_by) == ("done", 2, "eve")
        assert texts() == []
        sent = operators.send(row(), "This is Eve.")
        assert sent["text"] == "This is Eve."
        assert texts() == ["This is Eve."]
        assert operators.forget(row()) == 1
        assert texts() == ["This is Eve."]
        operators.close(row())
        assert not row().is_open
        assert row().data == {"said": ["tea", "milk"]}


def test_an_operator_leaves_a_session_as_closed_as_it_is() -> None:
    with running(router):
        talk(message("tea"))
        operators.close(row())
        operators.reset(row(qualifier="order"))
        operators.edit(row(), {"said": []}, row().version)
        assert not row().is_open
        talk(message("milk"))
        assert row(qualifier="order").data == {"items": ["milk"]}


def test_data_is_edited_where_it_is_what_was_seen() -> None:
    """P32: and where it fits the type that the code declares."""
    with running(router):
        talk(message("tea"))
        order = row(qualifier="order")
        operators.edit(order, {"items": ["rum"]}, order.version)
        talk(message("milk"))
        assert row(qualifier="order").data == {"items": ["rum", "milk"]}
        with pytest.raises(SessionConflict, match="saved meanwhile"):
            operators.edit(order, {"items": []}, order.version)
        order = row(qualifier="order")
        misfits: list[Any] = [{"items": "rum"}, [], None, {"items": [1]}]
        for wrong in misfits:
            with pytest.raises(InvalidSessionData, match="Cart"):
                operators.edit(order, wrong, order.version)
        with pytest.raises(InvalidSessionData, match="MAX_DATA_BYTES"):
            operators.edit(order, {"items": ["x" * 70_000]}, order.version)
        assert row(qualifier="order").data == {"items": ["rum", "milk"]}


def test_a_session_is_deleted_for_good() -> None:
    with running(router):
        talk(message("tea"), message("/ask"))
        operators.delete(row())
        assert not BotSession.objects.filter(qualifier="").exists()
        assert not TrackedMessage.objects.exists()
        assert texts() == ["heard tea"]
        talk(message("milk"))
        assert row().data == {"said": ["milk"]}


def test_a_flow_is_ended() -> None:
    with running(router):
        talk(message("/ask"))
        assert operators.end_flow(row())
        assert not operators.end_flow(row())
        talk(message("tea"))
        assert row().data == {"said": ["tea"]}


def test_a_handler_that_does_not_end_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "WAIT", 0.1)
    with running(router):
        talk(message("tea"))
        now = timezone.now()
        MailboxLease.objects.create(
            key="demo:ann:ann", token="x", acquired_at=now, expires_at=now + timedelta(hours=1)
        )
        with pytest.raises(MailboxBusy):
            operators.reset(row())
        BotSession.objects.update(bot="gone")
        with pytest.raises(UnknownBot, match="gone"):
            operators.reset(row())


def test_parked_updates_are_replayed_or_dropped() -> None:
    """P32."""
    with running(router, ATTEMPTS=1):
        first, second = message("/fail"), message("/fail")
        talk(first, second)
        parked = list(BotUpdate.objects.filter(status="parked").order_by("id"))
        assert len(parked) == 2
        assert operators.drop(parked[1])
        assert not operators.drop(parked[1])
        assert parked[1].payload is not None
        session = BotSession.objects.filter(qualifier="").first()
        assert session is None
        talk(message("tea"))
        operators.edit(row(), {"fixed": True}, row().version)
        assert operators.replay(parked[0])
        assert not operators.replay(parked[0])
        operations.recover()
        assert row().data == {"fixed": True, "done": True}
        assert async_to_sync(status)(first) == async_to_sync(status)(second) == "done"
        assert BotUpdate.objects.get(pk=parked[1].pk).payload is None


@pytest.mark.parametrize("handles", [True, False])
def test_an_operator_takes_over_and_hands_back(*, handles: bool) -> None:
    """P33: what was said meanwhile is recorded, and handled in order or not at all."""
    with running(router):
        talk(message("tea"))
        assert operators.take_over(row(), "eve")
        assert not operators.take_over(row(), "bob")
        asked = [message("help"), message("please")]
        talk(*asked)
        assert {async_to_sync(status)(each) for each in asked} == {"held"}
        talk(asked[0])  # a duplicate
        operators.send(row(), "Eve here.")
        said = [each.text for each in TrackedMessage.objects.order_by("id")]
        assert said == ["heard tea", "help", "please", "Eve here."]
        talk(message("milk", user="ben"))
        assert row("ben").data == {"said": ["milk"]}
        assert operators.hand_back(row(), handles=handles) == 2
        operations.recover()
        assert {async_to_sync(status)(each) for each in asked} == {"done"}
        meanwhile = ["help", "please"] if handles else []
        assert row().data == {"said": ["tea", *meanwhile]}
        talk(message("milk"))
        assert row().data == {"said": ["tea", *meanwhile, "milk"]}
        assert operators.hand_back(row(), handles=True) == 0


def test_a_flow_goes_on_after_an_operator_with_the_time_it_had() -> None:
    """P33."""
    with running(router):
        talk(message("/ask"))
        began = timezone.now()
        operators.take_over(row(), "eve")
        assert flow_of(row()) == "~operator"
        with pytest.raises(SessionTakenOver):
            operators.end_flow(row())
        with time_is(began + timedelta(hours=2)):
            assert operations.deadlines() == 0
            talk(message("what?"))
            operators.hand_back(row(), handles=False)
            assert flow_of(row()) == "ask"
            due = row().due_at
            assert due is not None
            assert due > began + timedelta(hours=2, minutes=9)
            talk(message("the answer"))
            assert row().data == {"answer": "the answer"}


def test_held_updates_of_others_in_the_same_mailbox_stay() -> None:
    mixed = Router()

    @mixed.message()
    async def both(
        update: Update, session: Notes, all_: Annotated[Notes, Scope("chat"), Qualifier("all")]
    ) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        all_.data["n"] = all_.data.get("n", 0) + 1

    with running(mixed):
        for user in ("ann", "ben"):
            talk(message("hi", user=user, chat="team"))
            operators.take_over(row(user), "eve")
            talk(message("help", user=user, chat="team"))
        assert operators.hand_back(row("ann"), handles=True) == 1
        operations.recover()
        assert (row("ann").data, row("ben").data) == ({"n": 2}, {"n": 1})
        assert BotUpdate.objects.filter(status="held").count() == 1


def test_who_is_erased_is_not_held_any_more() -> None:
    with running(router):
        talk(message("tea"))
        operators.take_over(row(), "eve")
        talk(message("help"))
        assert operations.erase("demo", user="ann").finished_at is not None
        assert not BotUpdate.objects.filter(status="held").exists()
        talk(message("milk"))
        assert row().data == {"said": ["milk"]}
