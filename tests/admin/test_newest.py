"""Pages of large lists: each costs the same, and together they show everything."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from botsessions.admin import lists, searching
from botsessions.models import BotSession, BotUpdate, TrackedMessage
from botsessions.operations import looking
from tests.admin.kit import html, list_of, page_of
from tests.admin.test_lists import NOW, session, shown, walked

pytestmark = pytest.mark.django_db

MANY = 20_000


@pytest.fixture
def looks_at_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page look at ten rows, and take for few what are two."""
    for module in (lists, looking):
        monkeypatch.setattr(module, "LOOKED", 10)
    monkeypatch.setattr(looking, "FEW", 2)


def test_pages_show_each_row_once(operator: Client) -> None:
    rows = [session(chat=f"c{number}") for number in range(120)]
    pages = walked(operator, "botsession")
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [each for page in pages for each in page] == rows[::-1]
    session(chat="new")
    assert shown(operator, "botsession", p=f"{rows[60].pk}") == rows[10:60][::-1]
    page = html(operator.get(list_of("botsession"), {"p": f"{rows[60].pk}"}))
    assert ">Newest<" in page
    assert ">Older<" in page


@pytest.mark.parametrize("place", ["", "0", "1", "x", "-1", "9" * 30, "1.", "7.5", "²", "1-"])
def test_a_place_that_is_none_is_the_beginning_or_the_end(place: str, operator: Client) -> None:
    here = session()
    assert shown(operator, "botsession", p=place) in ([here], [])


def test_no_other_order_can_be_asked_for(operator: Client) -> None:
    """It would sort the whole table."""
    one, two = session(chat="a", is_open=True), session(chat="b")
    for order in ("4", "-4", "1.4"):
        assert shown(operator, "botsession", o=order) == [two, one]


@pytest.mark.usefixtures("looks_at_ten")
def test_what_no_index_finds_is_looked_for_a_page_at_a_time(operator: Client) -> None:
    """All of it is reached, and a page says that it stopped."""
    rows = [session(chat=f"c{n}", flow={"name": "f"} if n % 7 == 0 else None) for n in range(35)]
    pages = walked(operator, "botsession", flow__isempty="0")
    assert [each for page in pages for each in page] == rows[28::-7]
    assert len(pages) == 4
    assert "enough rows were looked at" in html(
        operator.get(list_of("botsession"), {"flow__isempty": "0"})
    )
    assert "enough rows" not in html(operator.get(list_of("botsession")))
    nothing = walked(operator, "botsession", active="hour", flow__isempty="0")
    assert nothing == [[]] * 4


@pytest.mark.usefixtures("looks_at_ten")
def test_what_an_index_finds_is_on_the_first_page(operator: Client) -> None:
    """Wherever it is: a few that are open, expired or quarantined, and the sessions of a bot."""
    old = session(
        bot="other", chat="old", is_open=True, quarantined={}, expires_at=NOW, flow={"name": "f"}
    )
    for number in range(35):
        session(chat=f"c{number}")
    for parameters in (
        {"bot": "other"},
        {"is_open__exact": "1"},
        {"expired": "1"},
        {"quarantined": "1"},
        {"bot": "other", "flow__isempty": "0"},
        {"quarantined": "1", "flow__isempty": "0", "active": "older"},
        {"q": "old"},
    ):
        assert shown(operator, "botsession", **parameters) == [old], parameters
    assert shown(operator, "botsession", flow__isempty="0") == []


@pytest.mark.usefixtures("looks_at_ten")
def test_of_a_bot_others_are_looked_for_among_its_own(operator: Client) -> None:
    old = session(bot="other", chat="old", flow={"name": "f"})
    for number in range(35):
        session(bot="other" if number % 5 == 0 else "demo", chat=f"c{number}")
    parameters = {"bot": "other", "flow__isempty": "0", "active": "older"}
    assert walked(operator, "botsession", **parameters) == [[old]]


@pytest.mark.usefixtures("looks_at_ten")
def test_updates_that_wait_are_found_wherever_they_are(operator: Client) -> None:
    waiting = [
        BotUpdate.objects.create(
            bot="demo", update_id=f"w{status}", type="message", mailbox="m", status=status,
            received_at=NOW,
        )
        for status in ("pending", "held", "parked")
    ]  # fmt: skip
    BotUpdate.objects.bulk_create(
        BotUpdate(
            bot="demo", update_id=f"{n}", type="message", mailbox="m", status="done",
            received_at=NOW,
        )
        for n in range(35)
    )  # fmt: skip
    for each in waiting:
        assert shown(operator, "botupdate", status__exact=each.status) == [each]
    assert walked(operator, "botupdate", status__exact="pending", bot="other") == [[]]
    # Of a mailbox: what waits, and the newest ten.
    found = shown(operator, "botupdate", q="m")
    assert found[0] == waiting[2]
    assert {each.pk for each in waiting} < {each.pk for each in found}
    assert shown(operator, "botupdate", q="wpending") == [waiting[0]]
    pages = walked(operator, "botupdate", bot="demo")
    assert len({each.pk for page in pages for each in page}) == 38


@pytest.mark.usefixtures("looks_at_ten")
def test_messages_of_a_bot_that_has_few_are_found_wherever_they_are(operator: Client) -> None:
    here, there = session(bot="other", chat="old", user="ann"), session(chat="c")
    [old] = say(here, "old")
    say(there, *("new" for _ in range(35)))
    assert shown(operator, "trackedmessage", bot="other") == [old]
    for term in ("old", "ann"):
        assert shown(operator, "trackedmessage", q=term) == [old]
    assert shown(operator, "trackedmessage", q=old.message_id or "") == []
    assert len(walked(operator, "trackedmessage", bot="demo")) == 4


def say(where: BotSession, *texts: str) -> list[TrackedMessage]:
    before = TrackedMessage.objects.count()
    return [
        TrackedMessage.objects.create(
            session=where, chat=where.chat, message_id=f"m{before + n}", direction="incoming",
            user=where.user, name="Ann", text=text, sent_at=NOW + timedelta(hours=before + n),
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip


def test_a_search_goes_on_to_older_messages(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P32: what is searched is said, and all of it can be reached."""
    monkeypatch.setattr(searching, "SEARCHED", 10)
    old, new = session(chat="a"), session(chat="b")
    say(old, "a pot of tea")
    say(new, *("something" for _ in range(25)), "more tea")
    assert shown(operator, "botsession", q="tea") == [new]
    page = html(operator.get(list_of("botsession"), {"q": "tea"}))
    assert "Search further back" in page
    assert re.search("messages since .*03/02/2026 5 a.m..* were searched", page), page
    assert walked(operator, "botsession", q="tea") == [[new], [], [old]]
    # A session that an id finds is not found again with the older messages.
    assert walked(operator, "botsession", q="pot") == [[], [], [old]]
    assert "Search further" not in html(operator.get(list_of("botsession"), {"q": "te"}))
    monkeypatch.setattr(searching, "FOUND", 4)
    pages = walked(operator, "botsession", q="something")
    assert [each for page in pages for each in page] == [new] * len(pages)


def test_who_is_named_in_one_of_the_first_messages(operator: Client) -> None:
    here = session(chat="g", user="ann")
    say(here, "tea")
    TrackedMessage.objects.filter(session=here).update(name="Ann Example")
    assert ">Ann Example<" in html(operator.get(list_of("botsession")))


def plans(client: Client, name: str, parameters: dict[str, str]) -> list[str]:
    """Return how the database finds each thing that a list asks our tables for."""
    with CaptureQueriesContext(connection) as captured:
        assert client.get(list_of(name), parameters).status_code == 200
    explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    found = []
    for each in captured:
        if re.search('FROM "botsessions_', each["sql"]):
            with connection.cursor() as cursor:
                cursor.execute(explain + each["sql"].replace("%", "%%"))
                found.append(" ".join(f"{row[-1]}" for row in cursor.fetchall()))
    return found


def test_operators_find_by_index(operator: Client) -> None:
    later = timezone.now() + timedelta(days=9)
    BotSession.objects.bulk_create(
        BotSession(
            bot="demo" if n % 400 else "other", chat=f"c{n}", user=f"u{n}", created_at=NOW,
            updated_at=NOW, expires_at=later if n % 2 else None,
        )
        for n in range(MANY)
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    for parameters, index in (
        ({"bot": "other"}, "botsessions_of_bot"),
        ({"bot": "other", "flow__isempty": "0"}, "botsessions_of_bot"),
        ({"q": "u7"}, "botsessions_of_user"),
        ({"quarantined": "1"}, "botsessions_misfits"),
        ({"expired": "1"}, "botsessions_expiring"),
        ({"is_open__exact": "1"}, "botsessions_open"),
    ):
        found = plans(operator, "botsession", parameters)
        assert any(index in plan for plan in found), found
        assert not any("Seq Scan on botsessions_botsession" in plan for plan in found), found


def test_a_slice_is_read_by_its_index(operator: Client) -> None:
    """Of a session that has most messages, all of them old, where a planner expects new ones."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has these plans")
    long, other = session(chat="a"), session(chat="b")
    fill = """
        INSERT INTO botsessions_trackedmessage (
            session_id, chat, message_id, direction, kind, is_service, "user", business, text,
            sent_at, update_id, ordinal
        )
        SELECT %s, 'c', n, 'incoming', 'text', false, '', '', '', now(), '', 0
        FROM generate_series(1, 20000) AS n
        """
    with connection.cursor() as cursor:
        for each in (long, other):
            cursor.execute(fill, [each.pk])
        cursor.execute("ANALYZE")
    last = TrackedMessage.objects.latest("pk").pk
    with CaptureQueriesContext(connection) as captured:
        html(operator.get(page_of(long)))
        html(operator.get(page_of(long), {"before": f"{last}"}))
    read = [
        each["sql"] for each in captured if "ORDER BY" in each["sql"] and "ordinal" in each["sql"]
    ]
    assert len(read) == 2
    for sql in read:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + sql)
            plan = str(cursor.fetchall())
        assert "botsessions_slice" in plan, plan
        assert "Sort" not in plan, plan
