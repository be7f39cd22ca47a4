"""Pages, deletions, erasures, exports, updates and bots by the API."""

import json
import re
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from botsessions import operations
from botsessions.api import filters
from botsessions.models import BotSession, BotUpdate, MessageDeletion
from botsessions.operations import looking
from tests.api.kit import (
    NOW,
    Api,
    deletion_of,
    erasure_of,
    everything,
    message_in,
    problem,
    router,
    session_of,
    talk,
    update_of,
)
from tests.kit import configured, message

pytestmark = pytest.mark.django_db


def follow(api: Api, link: str) -> Any:
    assert link.startswith("http://testserver/api/")
    return api.get(link.removeprefix("http://testserver/api/"))


def numbers(page: Any) -> list[int]:
    return [int(each["chat"]) for each in page["results"]]


def test_pages_stay_as_they_are_while_rows_come_and_go(api: Api) -> None:
    for number in range(25):
        session_of(chat=f"{number}")
    first = api.get("sessions/", page_size=10)
    assert numbers(first) == [*range(24, 14, -1)]
    assert first["previous"] is None
    for number in range(100, 110):
        session_of(chat=f"{number}")
    BotSession.objects.filter(chat__in=["15", "13"]).delete()
    second = follow(api, first["next"])
    assert numbers(second) == [14, *range(12, 3, -1)]
    third = follow(api, second["next"])
    assert numbers(third) == [3, 2, 1, 0]
    assert third["next"] is None
    assert numbers(follow(api, third["previous"])) == numbers(second)
    assert numbers(follow(api, second["previous"])) == [100, *range(24, 15, -1)]


@pytest.fixture
def looks_at_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page look at ten rows, and take for few what are two."""
    monkeypatch.setattr(filters, "LOOKED", 10)
    monkeypatch.setattr(filters, "LOOKED_APART", 10)
    monkeypatch.setattr(looking, "FEW", 2)


def walked(api: Api, path: str, **query: Any) -> list[list[int]]:
    """Return the ids on each page, to the end, and see that the way back shows the same."""
    page = api.get(path, **query)
    there = [page]
    while page["next"]:
        page = follow(api, page["next"])
        there.append(page)
    back = []
    while page["previous"]:
        page = follow(api, page["previous"])
        back += [each["id"] for each in page["results"][::-1]]
    found = [[each["id"] for each in each["results"]] for each in there]
    assert back == [id for ids in found[:-1] for id in ids][::-1]
    return found


@pytest.mark.usefixtures("looks_at_ten")
def test_what_no_index_finds_is_looked_for_a_page_at_a_time(api: Api) -> None:
    """Each page looks at ten rows, and leads on until all have been looked at."""
    rows = [
        session_of(chat=f"{n}", flow={"name": "ask"} if n % 7 == 0 else None).pk for n in range(35)
    ]
    pages = walked(api, "sessions/", has_flow="true")
    assert pages == [[rows[28]], [rows[21]], [rows[14], rows[7]], [rows[0]]]
    assert walked(api, "sessions/", thread="7") == [[]] * 4
    assert len(walked(api, "sessions/")) == 1
    few = walked(api, "sessions/", has_flow="true", page_size=1)
    assert [id for ids in few for id in ids] == rows[28::-7]


@pytest.mark.usefixtures("looks_at_ten")
def test_what_an_index_finds_is_on_the_first_page(api: Api) -> None:
    old = session_of(
        "other", chat="old", user="eve", is_open=True, quarantined={}, expires_at=NOW
    ).pk
    for number in range(35):
        session_of(chat=f"{number}")
    for query in (
        {"bot": "other"},
        {"user": "eve"},
        {"search": "eve"},
        {"is_open": "true"},
        {"expired": "true"},
        {"quarantined": "true", "thread": ""},
        {"bot": "other", "thread": "", "has_flow": "false"},
    ):
        assert walked(api, "sessions/", **query) == [[old]], query
    limited = everything(name="rob", bots=["other"])
    assert walked(limited, "sessions/") == [[old]]
    limited = everything(name="bob", bots=["other", "demo"])
    assert [len(page) for page in walked(limited, "sessions/")] == [10, 10, 10, 6]


@pytest.mark.usefixtures("looks_at_ten")
def test_updates_and_messages_are_looked_for_in_the_same_way(api: Api) -> None:
    waiting = update_of(id="w", status="pending").pk
    session = session_of()
    old = message_in(session, 1000, text="quagga").pk
    for number in range(35):
        update_of(id=f"{number}", status="done")
        message_in(session, number)
    for query in ({"status": "pending"}, {"update_id": "w"}):
        assert walked(api, "updates/", **query) == [[waiting]], query
    assert walked(api, "updates/", type="poll") == [[]] * 4
    path = f"sessions/{session.pk}/messages/"
    assert walked(api, path, q="quagga") == [[], [], [], [old]]
    assert walked(api, path)[0][-1] == old


def test_a_page_has_fifty_rows_and_two_hundred_at_most(api: Api) -> None:
    BotSession.objects.bulk_create(
        BotSession(bot="demo", chat=f"{number}", created_at=NOW, updated_at=NOW)
        for number in range(250)
    )
    assert len(api.get("sessions/")["results"]) == 50
    assert len(api.get("sessions/", page_size=500)["results"]) == 200


def test_bots_are_described(api: Api) -> None:
    demo = {"alias": "demo", "platform": "local", "key": "chat_user", "store": "default"}
    assert api.get("bots/") == [demo, demo | {"alias": "other"}]
    assert api.get("bots/demo/") == demo
    problem(api.ask("GET", "bots/nobody/"), 404, "unknown_bot")
    settings = configured(router, key=_key, store=None)
    settings["BOTS"]["other"] = {"PLATFORM": "nowhere"}
    with override_settings(BOTSESSIONS=settings):
        described = api.get("bots/")
    assert described == [
        demo | {"key": f"{__name__}._key", "store": None},
        {"alias": "other", "platform": None, "key": None, "store": None},
    ]


def _key(update: object) -> None:
    return None


def test_updates_are_found_replayed_and_dropped(api: Api) -> None:
    talk(message("/fail", id="f1"))
    talk(message("/fail", id="f2"))
    parked = api.get("updates/", status="parked", bot="demo", type="message")["results"]
    assert [each["update_id"] for each in parked] == ["f2", "f1"]
    assert "error" not in parked[0]
    assert api.get("updates/", mailbox="nowhere")["results"] == []
    [first] = api.get("updates/", update_id="f1")["results"]
    shown = api.get(f"updates/{first['id']}/")
    assert "on purpose" in shown["error"]
    assert shown["payload"]["text"] == "/fail"
    assert api.post(f"updates/{first['id']}/drop/") == {"settled": True}
    assert api.post(f"updates/{first['id']}/drop/") == {"settled": False}
    second = parked[0]["id"]
    assert api.post(f"updates/{second}/replay/") == {"settled": True}
    assert BotUpdate.objects.get(pk=second).status == "pending"


def test_deletions_are_begun_for_a_set_of_sessions_followed_and_cancelled(api: Api) -> None:
    talk(message("tea"), message("milk", user="ben"))
    body = {"bot": "demo", "user": "ann", "direction": "outgoing", "before": "2100-01-01T00:00:00Z"}
    response = api.ask("POST", "deletions/", body)
    assert response.status_code == 202
    place = response["Location"].removeprefix("/api/")
    assert api.get(place)["status"] == "gathering"
    operations.delete_messages()
    done = api.get(place)
    assert (done["status"], done["total"], done["done"], done["deleted"]) == ("done", 1, 1, 1)
    assert done["selection"] is None or done["selection"]["user"] == "ann"
    assert api.post(f"{place}cancel/") == {"cancelled": False}
    going_on = deletion_of()
    assert api.post(f"deletions/{going_on.pk}/cancel/") == {"cancelled": True}
    [listed] = api.get("deletions/", status="cancelled", bot="demo")["results"]
    assert listed["id"] == going_on.pk
    everything = api.post("deletions/", {"bot": "demo", "all": True}, status=202)
    assert everything["requested_by"] == "root"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"bot": "demo"},
        {"bot": "demo", "all": True, "chat": "c"},
        {"bot": "demo", "caht": "c"},
        {"bot": "demo", "sessions": []},
        {"bot": "demo", "sessions": [2**63]},
        {"bot": "demo", "direction": "up"},
        {"bot": "demo", "before": "x"},
        [],
        None,
    ],
)
def test_a_deletion_that_says_not_whose_is_refused(body: Any, api: Api) -> None:
    problem(api.ask("POST", "deletions/", body), 400, "invalid")
    assert not MessageDeletion.objects.exists()


def test_somebody_is_erased_with_a_receipt(api: Api) -> None:
    talk(message("tea"))
    response = api.ask("POST", "bots/demo/erasures/", {"user": "ann", "delete_messages": True})
    assert response.status_code == 202
    place = response["Location"].removeprefix("/api/")
    assert api.get(place)["finished_at"] is None
    for _ in range(3):
        operations.finish_erasures()
        operations.delete_messages()
    assert not BotSession.objects.exists()
    receipt = api.get(place)
    assert receipt["counts"]["sessions"] == 2
    assert receipt["requested_by"] == "root"
    erasure_of("other")
    assert len(api.get("erasures/")["results"]) == 2
    assert len(api.get("erasures/", subject="f00", bot="other")["results"]) == 1
    for wrong in ({}, {"user": "a", "chat": "b"}, {"user": ""}, {"user": "a", "all": True}):
        problem(api.ask("POST", "bots/demo/erasures/", wrong), 400, "invalid")
    problem(api.ask("POST", "bots/nobody/erasures/", {"user": "a"}), 404, "unknown_bot")


def test_what_is_stored_of_somebody_is_exported(api: Api) -> None:
    talk(message("tea"), message("milk", user="ben"))
    response = api.ask("GET", "bots/demo/export/", query={"user": "ann"})
    assert response.status_code == 200
    assert response["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in b"".join(response).splitlines()]
    assert {line["table"] for line in lines} >= {"session", "message"}
    assert "milk" not in str(lines)
    for wrong in ({}, {"user": "a", "chat": "b"}, {"user": "a\0"}, {"name": "a"}):
        problem(api.ask("GET", "bots/demo/export/", query=wrong), 400, "invalid")


@pytest.mark.parametrize("path", ["nothing/", "sessions/1/nothing/", "a/b/c/d/", "sessions/1/x/y/"])
def test_there_is_nothing_elsewhere(path: str, api: Api) -> None:
    problem(api.ask("GET", path), 404, "not_found")
    problem(api.ask("POST", path), 404, "not_found")


def test_a_slash_that_is_missing_is_looked_for(api: Api) -> None:
    assert api.ask("GET", "sessions").status_code == 301
    assert api.ask("GET", "").status_code == 302


def test_somebody_is_found_through_an_index(api: Api) -> None:
    """However many sessions there are."""
    BotSession.objects.bulk_create(
        BotSession(bot="demo", chat=f"c{n}", user=f"u{n}", created_at=NOW, updated_at=NOW)
        for n in range(20_000)
    )
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    by_user = "botsessions_of_user"
    for query in (
        {"search": "c7"},
        {"search": "u7"},
        {"user": "u7"},
        {"chat": "c7"},
        {"chat": "c7", "user": "u7"},
    ):
        with CaptureQueriesContext(connection) as captured:
            assert len(api.get("sessions/", **query)["results"]) == 1
        [sql] = [each["sql"] for each in captured if 'FROM "botsessions_bots' in each["sql"]]
        with connection.cursor() as cursor:
            cursor.execute(f"{explain} {sql}")
            plan = str(cursor.fetchall())
        by_key = "botsessions_session_key|autoindex_botsessions_botsession"
        assert re.search(f"{by_key}|{by_user}", plan), plan
        assert "Seq Scan" not in plan, plan
