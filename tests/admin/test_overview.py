"""The front page, and the progress of deletions."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.template import engines
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

import botsessions
from botsessions import operations
from botsessions.admin import overview as module
from botsessions.admin.overview import HOURS, hourly
from botsessions.models import BotUpdate, MessageDeletion
from botsessions.operations import operators
from tests.admin.kit import (
    act_on,
    html,
    list_of,
    nothing_written,
    page_of,
    recorded,
    row,
    staff,
    talk,
    told,
)
from tests.kit import message

pytestmark = pytest.mark.django_db

PACKAGE = Path(botsessions.__file__).parent


def updates(times: list[datetime], status: str = "done") -> None:
    before = BotUpdate.objects.count()
    BotUpdate.objects.bulk_create(
        BotUpdate(
            bot="demo", update_id=f"x{before + n}", type="message", mailbox="m", status=status,
            received_at=at,
        )
        for n, at in enumerate(times)
    )  # fmt: skip


def test_front_page_tells_what_goes_on(operator: Client) -> None:
    """P32: on the page of the app, whatever the order of apps."""
    talk(message("tea"), message("/fail"))
    updates([timezone.now() - timedelta(minutes=20)], "pending")
    operators.clear(row())
    with nothing_written(), CaptureQueriesContext(connection) as captured:
        page = html(operator.get(reverse("admin:app_list", args=["botsessions"])))
    assert len(captured) <= 12, [each["sql"] for each in captured]
    for part in (
        "Open sessions",
        ">1</a>",
        "20\xa0minutes",
        "Updates per hour",
        "<rect",
        "<progress",
    ):
        assert part in page, part
    assert "style=" not in page.partition("<main")[2]
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_front_page_shows_what_one_may_see() -> None:
    talk(message("tea"))
    url = reverse("admin:app_list", args=["botsessions"])
    page = html(staff("view_botsession").get(url))
    assert "Open sessions" in page
    for part in ("Parked", "per hour", "Running deletions"):
        assert part not in page
    assert staff(name="bob").get(url).status_code == 404


def test_the_panel_is_a_tag_for_any_template(operator: Client) -> None:
    request = operator.get(reverse("admin:index")).wsgi_request
    source = "{% load botsessions_overview %}{% botsessions_overview %}"
    template = engines["django"].from_string(source)
    assert "Bot sessions now" in template.render({}, request)


def test_the_panel_is_on_the_front_page(operator: Client) -> None:
    """Where the app stands before Django's admin: there, and only once on the app's own."""
    for url in (reverse("admin:index"), reverse("admin:app_list", args=["botsessions"])):
        assert html(operator.get(url)).count("Bot sessions now") == 1
    assert "Bot sessions now" not in html(operator.get("/admin/auth/"))


def test_hours_are_counted_exactly() -> None:
    now = timezone.now()
    this = now.replace(minute=0, second=0, microsecond=0)
    updates([this - timedelta(hours=30)] * 7 + [this - timedelta(hours=2)] * 3 + [this] * 2)
    chart = hourly(BotUpdate.objects.all(), "received_at")
    assert [each.number for each in chart.bars] == [0] * (HOURS - 3) + [3, 0, 2]
    assert (chart.total, chart.most, chart.is_estimated) == (5, 3, False)
    assert hourly(BotUpdate.objects.none(), "received_at").total == 0


def test_hours_of_very_many_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT", 100)
    now = timezone.now()
    spread = [now - timedelta(days=3) + timedelta(days=3) * n / 7200 for n in range(7201)]
    updates(spread)
    with CaptureQueriesContext(connection) as captured:
        chart = hourly(BotUpdate.objects.all(), "received_at")
    assert chart.is_estimated
    assert len(captured) <= 3
    assert all(80 <= each.number <= 120 for each in chart.bars[:-1]), chart.bars


def test_progress_moves(operator: Client) -> None:
    """P32."""
    talk(message("tea"), message("milk"))
    deletion = operators.clear(row())
    url = reverse("admin:botsessions_messagedeletion_progress")
    with nothing_written():
        bar = html(operator.get(url, {"ids": f"{deletion.pk},x,{'9' * 40}"}))
    assert f'data-deletion="{deletion.pk}" data-url="{url}"' in bar
    assert "gathering" in bar
    assert bar in html(operator.get(list_of("messagedeletion")))
    operations.delete_messages()
    bar = html(operator.get(url, {"ids": f"{deletion.pk}"}))
    assert 'max="3" value="3"' in bar
    assert "data-url" not in bar
    page = html(operator.get(page_of(deletion)))
    assert page.count("<td>deleted</td>") == 2
    assert staff("view_botsession").get(url, {"ids": "1"}).status_code == 403


def test_outcomes_are_read_page_by_page(operator: Client) -> None:
    deletion = MessageDeletion.objects.create(
        bot="demo", through="demo", status="running", created_at=timezone.now(), total=3
    )
    chunks = [
        deletion.chunks.create(
            chat="<b>c", messages=[[f"m{n}", None]], error="<i>no", outcomes={f"m{n}": "failed"}
        )
        for n in range(3)
    ]
    page = html(operator.get(page_of(deletion)))
    assert "m0" in page
    assert "<td>m2</td>" not in page
    assert "&lt;b&gt;c" in page
    assert "&lt;i&gt;no" in page
    assert f'href="?after={chunks[1].pk}"' in page
    assert "<td>m2</td>" in html(operator.get(page_of(deletion), {"after": chunks[1].pk}))


def test_a_deletion_is_cancelled(operator: Client) -> None:
    talk(message("tea"))
    deletion = operators.clear(row())
    url, named = act_on("cancel", deletion)
    eve = staff("view_messagedeletion")
    assert eve.post(url, named).status_code == 403
    assert "bs-act-cancel" not in html(eve.get(page_of(deletion)))
    assert "bs-act-cancel" in html(operator.get(page_of(deletion)))
    assert told(operator.post(url, named, follow=True)) == ["1 deletion was cancelled."]
    deletion.refresh_from_db()
    assert deletion.status == "cancelled"
    assert "over already" in told(operator.post(url, named, follow=True))[0]
    assert recorded() == ["Cancelled the deletion."]
