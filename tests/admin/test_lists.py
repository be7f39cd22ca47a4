"""Lists: everything can be seen, nothing changed, and the size of a table costs nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from botsessions.admin import MAX_COUNT, BoundedPaginator
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from tests.admin.kit import list_of, page_of, staff

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODELS = (BotSession, TrackedMessage, BotUpdate, MailboxLease)
NAMES = [str(model._meta.model_name) for model in MODELS]
#: The request's session and user, what is looked among, and the rows.
QUERIES = 5
#: The same, with searches; in messages by their sessions, in updates by each index.
MORE = {"botsession": QUERIES + 2, "trackedmessage": QUERIES + 2, "botupdate": QUERIES + 4}
MANY = 100_000


@pytest.fixture
def rows() -> dict[str, Model]:
    """One row of each model, by the model's name."""
    session = BotSession.objects.create(
        bot="demo", chat="c1", user="ann", data={"deep": {"count": 3}}, version=3, is_open=True,
        created_at=NOW, updated_at=NOW,
    )  # fmt: skip
    message = TrackedMessage.objects.create(
        session=session, chat="c1", message_id="m1", direction="outgoing", text="word " * 50,
        sent_at=NOW, update_id="u1",
    )  # fmt: skip
    update = BotUpdate.objects.create(
        bot="demo", update_id="u1", type="message", mailbox="demo:c1:ann", status="parked",
        attempts=3, payload={"text": "<b>hi</b>"}, journal=[{"ordinal": 0}], received_at=NOW,
        error="Traceback:\n    raise LookupError('<script>')",
    )  # fmt: skip
    lease = MailboxLease.objects.create(
        key="demo:c1:ann", token="host-1", acquired_at=NOW, expires_at=NOW + timedelta(seconds=30)
    )
    return dict(zip(NAMES, (session, message, update, lease), strict=True))


def shown(client: Client, name: str, **parameters: str) -> list[Any]:
    """Return the rows in a list."""
    response = client.get(list_of(name), parameters)
    assert response.status_code == 200, response
    return list(response.context["cl"].result_list)


def walked(client: Client, name: str, **parameters: str) -> list[list[Any]]:
    """Return the rows of each page of a list, following the link at its end."""
    pages, url = [], f"{list_of(name)}?{urlencode(parameters)}"
    while url:
        context = client.get(url).context
        pages.append(list(context["cl"].result_list))
        url = context["cl"].older and f"{list_of(name)}{context['cl'].older}"
    return pages


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_listed_and_shown(name: str, rows: dict[str, Model], operator: Client) -> None:
    assert shown(operator, name) == [rows[name]]
    assert operator.get(page_of(rows[name])).status_code == 200
    assert operator.get(reverse("admin:index")).status_code == 200


@pytest.mark.parametrize("name", NAMES)
def test_nobody_changes_rows_here(name: str, rows: dict[str, Model], operator: Client) -> None:
    row = rows[name]
    delete = reverse(f"admin:botsessions_{name}_delete", args=[row.pk])
    assert operator.get(reverse(f"admin:botsessions_{name}_add")).status_code == 403
    assert operator.post(page_of(row), {"bot": "other"}).status_code == 403
    assert operator.post(delete, {"post": "yes"}).status_code == 403
    action = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    operator.post(list_of(name), action)
    assert type(row)._default_manager.get(pk=row.pk) == row
    assert "delete" not in operator.get(list_of(name)).content.decode().lower()


@pytest.mark.parametrize("name", NAMES)
def test_view_permission_is_what_it_takes(name: str, rows: dict[str, Model]) -> None:
    user = User.objects.create(username="staff", is_staff=True)
    client = Client()
    client.force_login(user)
    assert client.get(list_of(name)).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename=f"view_{name}"))
    assert client.get(list_of(name)).status_code == 200
    assert client.get(page_of(rows[name])).status_code == 200


def test_data_and_traceback_are_readable_and_escaped(
    rows: dict[str, Model], operator: Client
) -> None:
    update = operator.get(page_of(rows["botupdate"])).content.decode()
    assert "Traceback:\n    raise LookupError(&#x27;&lt;script&gt;&#x27;)" in update
    assert "<b>hi</b>" not in update
    session = operator.get(page_of(rows["botsession"])).content.decode()
    assert "&quot;count&quot;: 3" in session


def test_flow_is_listed_and_shown(rows: dict[str, Model], operator: Client) -> None:
    """P32: what waits in a session, until when, and how the one before it ended."""
    BotSession.objects.create(
        bot="demo", chat="c2", user="ben", created_at=NOW, updated_at=NOW, due_at=NOW,
        flow={"name": "chain", "id": "f1"},
        last_flow={"name": "form", "outcome": "failed", "error": "ValueError('<b>')"},
    )  # fmt: skip
    [waiting] = shown(operator, "botsession", flow__isempty="0")
    assert shown(operator, "botsession", flow__isempty="1") == [rows["botsession"]]
    assert ">chain<" in operator.get(list_of("botsession")).content.decode()
    page = operator.get(page_of(waiting)).content.decode()
    assert "&quot;id&quot;: &quot;f1&quot;" in page
    assert "ValueError(&#x27;&lt;b&gt;&#x27;)" in page


def test_list_shows_the_beginning_of_a_text(rows: dict[str, Model], operator: Client) -> None:
    page = operator.get(list_of("trackedmessage")).content.decode()
    assert ("word " * 12)[:60] + "…" in page
    assert "word " * 13 not in page


def test_parked_updates_are_found(rows: dict[str, Model], operator: Client) -> None:
    for number, status in enumerate(("done", "pending")):
        BotUpdate.objects.create(
            bot="other", update_id=f"x{number}", type="message", mailbox="m", status=status,
            received_at=NOW,
        )  # fmt: skip
    assert shown(operator, "botupdate", status__exact="parked") == [rows["botupdate"]]
    assert len(shown(operator, "botupdate", bot="other")) == 2
    assert len(shown(operator, "botupdate")) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("botsession", ("c1", "ann", "ann c1")),
        ("trackedmessage", ("c1", "m1", "u1")),
        ("botupdate", ("u1", "demo:c1:ann")),
        ("mailboxlease", ("demo:c1:ann",)),
    ],
)
def test_ids_are_searched(
    name: str, words: tuple[str, ...], rows: dict[str, Model], operator: Client
) -> None:
    for each in words:
        assert shown(operator, name, q=each) == [rows[name]], each
    assert shown(operator, name, q="c") == []
    assert operator.get(list_of(name), {"q": "\0"}).status_code == 200


def test_messages_are_filtered_by_the_bot_of_their_session(
    rows: dict[str, Model], operator: Client
) -> None:
    assert shown(operator, "trackedmessage", bot="demo") == [rows["trackedmessage"]]
    assert shown(operator, "trackedmessage", bot="other") == []


# Size

#: A row of each table for each i of n.
FILLED = {
    "botsession": """
        (bot, chat, "user", thread, qualifier, data, version, is_open, created_at, updated_at)
        SELECT 'demo', 'c' || i, 'u' || i, '', '', '{"a": 1}', 1, i %% 2 = 0, %(now)s, %(now)s
        FROM n""",
    "trackedmessage": """
        (session_id, chat, message_id, direction, kind, is_service, "user", business, text, sent_at,
         update_id, ordinal)
        SELECT (SELECT min(id) FROM botsessions_botsession), 'c', 'm' || i, 'incoming', 'text',
               false, 'ann', '', 'hello', %(now)s, '', 0
        FROM n""",
    "botupdate": """
        (bot, update_id, type, mailbox, status, attempts, error, received_at)
        SELECT 'demo', 'x' || i, 'message', 'demo:c' || i,
               CASE WHEN i %% 1000 = 0 THEN 'parked' ELSE 'done' END, 1, '', %(now)s
        FROM n""",
    "mailboxlease": """
        (key, token, acquired_at, expires_at)
        SELECT 'demo:c' || i, 'host-1', %(now)s, %(now)s FROM n""",
}


def fill(name: str) -> None:
    numbers = "SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < %(many)s"
    insert = f"INSERT INTO botsessions_{name} {FILLED[name]}"
    with connection.cursor() as cursor:
        cursor.execute(f"WITH RECURSIVE n(i) AS ({numbers}) {insert}", {"now": NOW, "many": MANY})


@pytest.mark.parametrize("name", NAMES)
def test_list_of_a_hundred_thousand_takes_few_queries(
    name: str,
    rows: dict[str, Model],
    operator: Client,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    fill(name)
    first = {"trackedmessage": {"direction__exact": "incoming"}, "botupdate": {"bot": "demo"}}
    for parameters in ({}, first.get(name, {}), {"q": "c5"}, {"p": "200"}):
        with django_assert_max_num_queries(MORE.get(name, QUERIES)) as captured:
            response = operator.get(list_of(name), parameters)
        assert response.status_code == 200
        assert response.context["cl"].result_count <= MAX_COUNT
        counts = [query["sql"] for query in captured if query["sql"].startswith("SELECT COUNT(")]
        assert all(f"LIMIT {MAX_COUNT}" in sql for sql in counts)
        assert name == "mailboxlease" or not counts
    if name == "botupdate":
        assert len(shown(operator, name, status__exact="parked")) == 50


def test_list_leaves_long_columns_alone(
    rows: dict[str, Model],
    operator: Client,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for name, columns in {
        "botsession": ['"quarantined"', '"last_flow"'],
        "trackedmessage": ['"data"'],
        "botupdate": ['"payload"', '"journal"', '"error"'],
    }.items():
        with django_assert_max_num_queries(MORE.get(name, QUERIES)) as captured:
            operator.get(list_of(name))
        sql = " ".join(query["sql"] for query in captured)
        assert not any(column in sql for column in columns), sql
    # Of the data it is measured how much there is, in the database.
    assert "data" in shown(operator, "botsession")[0].get_deferred_fields()


def test_paginator_counts_exactly_as_far_as_it_counts() -> None:
    fill("mailboxlease")
    everything = MailboxLease.objects.order_by("key")
    assert BoundedPaginator(everything, 50).count == MAX_COUNT
    assert BoundedPaginator(everything, 50).num_pages == MAX_COUNT // 50
    assert BoundedPaginator(everything.filter(key__lt="demo:c100000"), 50).count == 5


# What operators look for


def session(**fields: Any) -> BotSession:
    defaults: dict[str, Any] = {"bot": "demo", "created_at": NOW, "updated_at": NOW}
    return BotSession.objects.create(**defaults | fields)


def test_sessions_tell_who_flow_messages_and_size(operator: Client) -> None:
    """P32."""
    now = timezone.now()
    here = session(
        chat="-100", user="ann", thread="7", qualifier="order", data={"a": "b" * 3000},
        is_open=True, flow={"name": "chain"}, due_at=now + timedelta(minutes=9, seconds=30),
        expires_at=now + timedelta(days=2, hours=1),
    )  # fmt: skip
    TrackedMessage.objects.bulk_create(
        TrackedMessage(session=here, chat="c", message_id=f"{n}", direction="incoming", sent_at=NOW)
        for n in range(100)
    )
    page = operator.get(list_of("botsession")).content.decode()
    for part in (">ann<", "-100 #7", ">order<", ">chain<", "9\xa0minutes left", ">99+<", "2.9"):
        assert part in page, part
    assert "in 2\xa0days" in page


def test_sessions_are_filtered(operator: Client) -> None:
    """P32."""
    now = timezone.now()
    some = session(
        chat="a", is_open=True, flow={"name": "f"}, quarantined={}, expires_at=now - timedelta(1),
        updated_at=now,
    )  # fmt: skip
    other = session(chat="b", bot="other", updated_at=now - timedelta(days=40))
    gone = session(chat="c", bot="gone", updated_at=now - timedelta(days=3))
    for parameters, those in [
        ({"bot": "other"}, [other]),
        ({"platform": "local"}, [other, some]),
        ({"platform": "none"}, []),
        ({"is_open__exact": "1"}, [some]),
        ({"flow__isempty": "0"}, [some]),
        ({"expired": "1"}, [some]),
        ({"expired": "0"}, [gone, other]),
        ({"quarantined": "1"}, [some]),
        ({"quarantined": "0"}, [gone, other]),
        ({"active": "hour"}, [some]),
        ({"active": "week"}, [gone, some]),
        ({"active": "older"}, [other]),
    ]:
        assert shown(operator, "botsession", **parameters) == those, parameters


def test_sessions_are_found_by_what_was_said(operator: Client) -> None:
    """P32: by whoever may see messages."""
    here = session(chat="a", user="ann")
    session(chat="b")
    TrackedMessage.objects.create(
        session=here, chat="a", message_id="1", direction="incoming", text="A pot of Tea, please",
        sent_at=NOW,
    )  # fmt: skip
    assert shown(operator, "botsession", q="of tea") == [here]
    assert shown(operator, "botsession", q="coffee") == []
    assert shown(operator, "botsession", q="%") == []
    assert shown(staff("view_botsession"), "botsession", q="of tea") == []


def test_what_failed_comes_first(operator: Client) -> None:
    """P32: on whatever page it ends, each update is on one page, and in this order."""
    BotUpdate.objects.bulk_create(
        BotUpdate(
            bot="demo", update_id=f"{n}", type="message", mailbox="m", received_at=NOW,
            status="parked" if n % 3 == 0 else "done",
        )
        for n in range(180)
    )  # fmt: skip
    everything = [each.pk for page in walked(operator, "botupdate") for each in page]
    by_pk = BotUpdate.objects.order_by("-pk")
    expected = [*by_pk.filter(status="parked"), *by_pk.exclude(status="parked")]
    assert everything == [each.pk for each in expected]


def test_a_bot_that_is_gone_breaks_no_list(rows: dict[str, Model], operator: Client) -> None:
    for model in (BotSession, BotUpdate):
        model.objects.update(bot="gone")
    for name in NAMES:
        assert len(shown(operator, name)) == 1
        assert operator.get(page_of(rows[name])).status_code == 200
