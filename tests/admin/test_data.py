"""Data is edited where it is what was seen, and fits the type; and it is exported as it is."""

import csv
import io
import json
from collections.abc import Iterator

import pytest
from django.test import Client, override_settings
from django.utils import timezone

from botsessions.admin.transcript import neutral
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations import operators
from tests.admin.kit import html, page_of, recorded, router, row, talk, told, view_of
from tests.kit import configured, message

pytestmark = pytest.mark.django_db


@pytest.fixture
def order() -> BotSession:
    talk(message("tea"))
    return row(qualifier="order")


def test_data_is_edited(order: BotSession, operator: Client) -> None:
    """P32."""
    url = view_of(order, "data")
    page = html(operator.get(url))
    assert "&quot;tea&quot;" in page
    assert "Cart" in page
    edited = {"json": '{"items": ["rum"]}', "version": order.version}
    assert told(operator.post(url, edited, follow=True)) == ["The data was saved."]
    assert row(qualifier="order").data == {"items": ["rum"]}
    talk(message("milk"))
    assert row(qualifier="order").data == {"items": ["rum", "milk"]}
    assert recorded() == ["Edited the data."]


def test_data_that_was_saved_meanwhile_is_not_overwritten(
    order: BotSession, operator: Client
) -> None:
    url, edited = view_of(order, "data"), {"json": '{"items": ["mine"]}', "version": order.version}
    talk(message("milk"))
    page = html(operator.post(url, edited))
    assert "saved by somebody else meanwhile" in page
    assert "{&quot;items&quot;: [&quot;mine&quot;]}" in page
    assert "&quot;milk&quot;" in page
    now = row(qualifier="order")
    assert f'name="version" value="{now.version}"' in page
    assert now.data == {"items": ["tea", "milk"]}
    assert recorded() == []
    operator.post(url, edited | {"version": now.version})
    assert row(qualifier="order").data == {"items": ["mine"]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"items": "rum"}', "Cart"),
        ("[]", "Cart"),
        ("null", "Cart"),
        ("{", "This is no JSON"),
        ('{"items": [NaN]}', "This is no JSON"),
        ("[" * 5000, "This is no JSON"),
        ('{"items": ["\\ud800"]}', "This is no JSON"),
        ('{"items": ["' + "x" * 70_000 + '"]}', "MAX_DATA_BYTES"),
    ],
    ids=["type", "array", "null", "cut", "nan", "deep", "surrogate", "large"],
)
def test_data_that_does_not_fit_is_refused(
    text: str, problem: str, order: BotSession, operator: Client
) -> None:
    """What was written stays in the form, and the version is the one that was seen."""
    response = operator.post(view_of(order, "data"), {"json": text, "version": order.version})
    page = html(response)
    assert problem in page
    assert response.context["form"]["json"].value() == text
    assert f'name="version" value="{order.version}"' in page
    assert row(qualifier="order").data == {"items": ["tea"]}


def test_data_without_a_type_is_any_json(operator: Client) -> None:
    talk(message("tea"))
    for value in ({"a": [1, None]}, {"nul": "a\u0000b"}, {"emoji": "\U0001f600", "rtl": "\u202e"}):
        edited = {"json": json.dumps(value), "version": row().version}
        response = operator.post(view_of(row(), "data"), edited, follow=True)
        assert response.status_code == 200
    page = html(operator.get(view_of(row(), "data")))
    assert "\\u202e" in page
    assert "\u202e" not in page
    assert "⟦U+202E⟧" in html(operator.get(page_of(row())))


@pytest.fixture
def kept_elsewhere() -> Iterator[None]:
    stores = {
        "default": {"BACKEND": "botsessions.stores.CacheStore", "OPTIONS": {"alias": "default"}}
    }
    with override_settings(BOTSESSIONS=configured(router, STORES=stores)):
        yield


@pytest.mark.usefixtures("kept_elsewhere")
def test_data_of_another_store_is_shown_and_edited(operator: Client) -> None:
    talk(message("tea"))
    assert row().data is None
    assert "&quot;said&quot;" in html(operator.get(page_of(row())))
    edited = {"json": '{"said": ["rum"]}', "version": row().version}
    assert told(operator.post(view_of(row(), "data"), edited, follow=True)) == [
        "The data was saved."
    ]
    assert "&quot;rum&quot;" in html(operator.get(page_of(row())))


# Export


def test_a_transcript_is_exported(operator: Client) -> None:
    """P32: a cell is never a formula."""
    talk(message("tea"))
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1", "\uff1d1"]
    for number, text in enumerate([*evil, 'fine, "quoted"\nand broken']):
        TrackedMessage.objects.create(
            session=row(), chat="-100", message_id=f"x{number}", direction="incoming", text=text,
            sent_at=timezone.now(),
        )  # fmt: skip
    url = view_of(row(), "export")
    response = operator.post(url, {"what": "csv"})
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"] == f'attachment; filename="session-{row().pk}.csv"'
    table = list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"), newline="")))
    assert [each["text"] for each in table][1:] == [
        *(f"'{text}" for text in evil), 'fine, "quoted"\nand broken',
    ]  # fmt: skip
    assert {each["chat"] for each in table[1:]} == {"'-100"}
    whole = operator.post(url, {"what": "json"}).json()
    assert whole["session"] == {
        "bot": "demo", "chat": "ann", "user": "ann", "thread": "", "qualifier": ""
    }  # fmt: skip
    assert [each["text"] for each in whole["messages"]][1:-1] == evil
    lines = operator.post(url, {"what": "user"}).content.decode().splitlines()
    assert {json.loads(each)["table"] for each in lines} >= {"session", "message"}
    assert recorded() == ["Exported: csv.", "Exported: json.", "Exported: user."]
    BotSession.objects.update(bot="gone")
    assert operator.post(url, {"what": "csv"})["Content-Type"].startswith("text/csv")
    assert "not configured" in html(operator.post(url, {"what": "user"}))


def test_a_cell_is_no_formula() -> None:
    for cell in ("=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff0b", "\uff0d", "\uff20"):
        assert neutral(f"{cell}1").startswith("'")
    assert [neutral(each) for each in (None, 7, "a=1", True)] == ["", "7", "a=1", "True"]


def test_a_long_transcript_is_exported_whole(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botsessions.admin.transcript.ROWS", 3)
    talk(message("tea"))
    operators.forget(row())
    TrackedMessage.objects.bulk_create(
        TrackedMessage(
            session=row(), chat="ann", message_id=f"{n}", direction="incoming", text=f"{n}",
            sent_at=timezone.now(),
        )
        for n in range(10)
    )  # fmt: skip
    whole = operator.post(view_of(row(), "export"), {"what": "json"}).json()
    assert [each["text"] for each in whole["messages"]] == [f"{n}" for n in range(10)]
