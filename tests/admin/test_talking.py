"""An operator talks in the bot's place, from the page of the session."""

from typing import Any

import pytest
from django.test import Client

from botsessions import operations
from botsessions.models import BotUpdate, TrackedMessage
from tests.admin.kit import act_on, html, page_of, recorded, row, talk, told, view_of
from tests.kit import message, texts

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("meanwhile", ["skip", "handle"])
def test_a_session_is_taken_over_and_handed_back(meanwhile: str, operator: Client) -> None:
    """P33: nothing is lost, and the operator says what becomes of it."""
    talk(message("tea"), message("/ask"))
    url, named = act_on("take-over", row())
    assert "answer in its place" in html(operator.get(url, named))
    response = operator.post(url, named, follow=True)
    assert told(response) == ["Took the session over from the bot."]
    page = html(response)
    assert "operator operator is talking" in page
    assert "bs-act-hand-back" in page
    assert "bs-act-take-over" not in page
    assert "already" in told(operator.post(url, named, follow=True))[0]

    talk(message("help"), message("please"))
    assert told(operator.post(view_of(row(), "send"), {"text": "Eve here."}, follow=True)) == [
        "Sent."
    ]
    assert texts() == ["heard tea", "Eve here."]
    page = html(operator.get(page_of(row())))
    assert "2 updates came meanwhile" in page
    for text in ("help", "please", "Eve here."):
        assert f">{text}<" in page

    url, named = act_on("hand-back", row())
    assert "Updates that came meanwhile: 2" in html(operator.get(url, named))
    assert html(operator.post(url, named))  # the choice is to be made
    assert BotUpdate.objects.filter(status="held").count() == 2
    [said] = told(operator.post(url, named | {"meanwhile": meanwhile}, follow=True))
    assert said.startswith("Handed back to the bot")
    assert "2 updates" in said
    operations.recover()
    data: Any = row().data
    if meanwhile == "handle":
        assert data["answer"] == "help"
        assert data["said"] == ["tea", "please"]
        assert texts() == ["heard tea", "Eve here.", "heard please"]
    else:
        assert data == {"said": ["tea"]}
        talk(message("the answer"))
        assert row().data == {"said": ["tea"], "answer": "the answer"}
    assert not BotUpdate.objects.exclude(status="done").exists()
    assert recorded() == [
        "Took the session over from the bot.", "Sent a message of 9 characters.", said,
    ]  # fmt: skip


def test_what_cannot_be_done_meanwhile_is_told(operator: Client) -> None:
    talk(message("tea"))
    url, named = act_on("take-over", row())
    operator.post(url, named)
    assert "bs-act-end-flow" not in html(operator.get(page_of(row())))
    url, named = act_on("end-flow", row())
    assert "an operator is talking there" in told(operator.post(url, named, follow=True))[0]


def test_who_writes_to_a_closed_session_opens_it(operator: Client) -> None:
    talk(message("tea"))
    url, named = act_on("close", row())
    operator.post(url, named)
    operator.post(view_of(row(), "send"), {"text": "Still\r\nthere?"})
    assert row().is_open
    assert [each.text for each in TrackedMessage.objects.all()] == ["Still\nthere?"]


def test_the_history_tells_who_did_what(operator: Client) -> None:
    talk(message("tea"))
    url, named = act_on("close", row())
    operator.post(url, named)
    page = html(operator.get(view_of(row(), "history")))
    assert "Closed the session." in page
    assert f'href="{view_of(row(), "history")}"' in html(operator.get(page_of(row())))
