"""Sessions by the API: found, read, changed in their turn."""

from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from botsessions import operations
from botsessions.models import BotSession, MailboxLease, MessageDeletion, TrackedMessage
from botsessions.operations import operators
from tests.api.kit import NOW, Api, everything, problem, session_of, talk
from tests.kit import message, texts

pytestmark = pytest.mark.django_db


def row(user: str = "ann", qualifier: str = "") -> BotSession:
    return BotSession.objects.get(user=user, qualifier=qualifier)


def ids(api: Api, **query: Any) -> set[int]:
    return {each["id"] for each in api.get("sessions/", **query)["results"]}


def test_sessions_are_listed_and_read(api: Api) -> None:
    talk(message("tea"), message("/ask"))
    listed = api.get("sessions/")["results"]
    assert [(each["qualifier"], each["flow"]) for each in listed] == [("order", None), ("", "ask")]
    assert "data" not in listed[0]
    response = api.ask("GET", f"sessions/{row().pk}/")
    shown = response.json()
    assert shown["data"] == {"said": ["tea"]}
    assert shown["flow"] == "ask"
    assert shown["deadline"] is not None
    assert response["ETag"] == f'"{row().version}"'
    assert response["Content-Type"] == "application/json"


def test_sessions_are_filtered(api: Api) -> None:
    plain = session_of(chat="1", user="1").pk
    order = session_of(chat="1", user="1", qualifier="order", is_open=True).pk
    topic = session_of(chat="g", user="1", thread="t", quarantined={"a": 1}).pk
    other = session_of("other", chat="", user="1", flow={"name": "ask"}).pk
    gone = session_of(chat="2", user="2", expires_at=NOW).pk
    BotSession.objects.filter(pk=gone).update(updated_at=NOW - timedelta(days=1))
    assert ids(api) == {plain, order, topic, other, gone}
    assert ids(api, bot="other") == {other}
    assert ids(api, chat="1") == {plain, order}
    assert ids(api, chat="1", qualifier="") == {plain}
    assert ids(api, chat="") == {other}
    assert ids(api, user="1") == {plain, order, topic, other}
    assert ids(api, thread="t") == {topic}
    assert ids(api, qualifier="order") == {order}
    assert ids(api, is_open="true") == {order}
    assert ids(api, is_open="false") == {plain, topic, other, gone}
    assert ids(api, has_flow="true") == {other}
    assert ids(api, expired="true") == {gone}
    assert ids(api, expired="false") == {plain, order, topic, other}
    assert ids(api, quarantined="true") == {topic}
    assert ids(api, updated_before="2026-03-01T00:00:00Z") == {gone}
    assert ids(api, updated_after="2026-03-01T12:00:00Z") == {plain, order, topic, other}
    assert ids(api, search="1") == {plain, order, topic, other}
    assert ids(api, search="g") == {topic}


@pytest.mark.parametrize(
    "query",
    [
        {"is_open": "yes"},
        {"chta": "1"},
        {"updated_before": "yesterday"},
        {"updated_before": "0001-01-01T00:00:00+14:00"},
        {"chat": "a\0"},
        {"cursor": "x"},
        {"cursor": "cD1h"},
        {"cursor": "cj14"},
        {"page_size": "0"},
        {"page_size": "9" * 30},
    ],
)
def test_what_is_no_filter_is_refused(query: Any, api: Api) -> None:
    said = problem(api.ask("GET", "sessions/", query=query), 400, "invalid")
    assert [each["field"] for each in said["errors"]] == list(query)


@pytest.mark.parametrize("id", ["0", "999", "x", "1.5", "9" * 40, "-1", "%00", "²"])
def test_a_session_that_is_not_there_is_a_404(id: str, api: Api) -> None:
    problem(api.ask("GET", f"sessions/{id}/"), 404, "not_found")
    problem(api.ask("POST", f"sessions/{id}/close/"), 404, "not_found")
    problem(api.ask("GET", f"sessions/{id}/messages/"), 404, "not_found")


def test_data_is_replaced_where_it_is_what_was_read(api: Api) -> None:
    talk(message("tea"))
    order = row(qualifier="order")
    path, body = f"sessions/{order.pk}/", {"data": {"items": ["rum"]}}
    problem(api.ask("PATCH", path, body), 428, "precondition_required")
    problem(api.ask("PATCH", path, body, If_Match="7"), 400, "invalid")
    problem(api.ask("PATCH", path, body, If_Match='"999"'), 412, "session_conflict")
    problem(api.ask("PATCH", path, body, If_Match=f'W/"{order.version}"'), 412, "session_conflict")
    response = api.ask("PATCH", path, body, If_Match=f'"1000", "{order.version}"')
    assert response.status_code == 200
    assert response.json()["data"] == {"items": ["rum"]}
    assert response["ETag"] == f'"{order.version + 1}"'
    problem(api.ask("PATCH", path, body, If_Match=f'"{order.version}"'), 412, "session_conflict")
    talk(message("milk"))
    assert row(qualifier="order").data == {"items": ["rum", "milk"]}
    wrong = api.ask("PATCH", path, {"data": {"items": "rum"}}, If_Match="*")
    assert "Cart" in problem(wrong, 422, "invalid_session_data")["detail"]
    large = api.ask("PATCH", path, {"data": {"items": ["x" * 70_000]}}, If_Match="*")
    problem(large, 422, "invalid_session_data")
    problem(api.ask("PATCH", path, {"items": []}, If_Match="*"), 400, "invalid")
    problem(api.ask("PATCH", path, b"{", If_Match="*"), 400, "parse_error")
    problem(api.ask("PATCH", path, b'{"data": "\\ud800"}', If_Match="*"), 400, "parse_error")
    problem(api.ask("PATCH", path, b"[" * 99, If_Match="*"), 400, "parse_error")
    assert row(qualifier="order").data == {"items": ["rum", "milk"]}


def test_two_edits_at_once_have_one_winner(committed: None) -> None:
    api = everything()
    talk(message("tea"))
    order = row(qualifier="order")
    barrier = Barrier(2)
    answers: list[int] = []

    def edit(item: str) -> None:
        try:
            other = Api()
            other.headers = api.headers
            barrier.wait()
            response = other.ask(
                "PATCH",
                f"sessions/{order.pk}/",
                {"data": {"items": [item]}},
                If_Match=f'"{order.version}"',
            )
            answers.append(response.status_code)
        finally:
            connections.close_all()

    threads = [Thread(target=edit, args=[item]) for item in ("rum", "gin")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(answers) == [200, 412]
    assert row(qualifier="order").version == order.version + 1


def test_actions_do_what_operators_do(api: Api) -> None:
    talk(message("tea"), message("/ask"))
    path = f"sessions/{row().pk}/"
    assert api.post(f"{path}end-flow/") == {"ended": True}
    assert api.post(f"{path}end-flow/") == {"ended": False}
    assert api.post(f"{path}forget/") == {"forgotten": 2}
    assert texts() == ["heard tea"]
    assert api.post(f"{path}close/", status=204) is None
    assert not row().is_open
    order = row(qualifier="order")
    api.post(f"sessions/{order.pk}/reset/", status=204)
    talk(message("milk"))
    assert row(qualifier="order").data == {"items": ["milk"]}
    assert api.ask("DELETE", path).status_code == 204
    assert not BotSession.objects.filter(qualifier="").exists()


def test_messages_are_cleared(api: Api) -> None:
    talk(message("tea"))
    deletion = api.post(f"sessions/{row().pk}/clear/", status=202)
    assert (deletion["status"], deletion["requested_by"]) == ("gathering", "root")
    operations.delete_messages()
    assert MessageDeletion.objects.get(pk=deletion["id"]).deleted == 1
    assert texts() == []
    path = f"sessions/{row().pk}/messages/"
    assert api.get(path)["results"] == api.get(path, with_deleted="false")["results"] == []
    [kept] = api.get(path, with_deleted="true")["results"]
    assert (kept["direction"], kept["text"], kept["outcome"]) == ("outgoing", "", "")
    assert kept["deleted_at"] is not None
    problem(api.ask("GET", f"{path}?with_deleted=maybe"), 400, "invalid")
    talk(message("milk"))
    shown = [each["deleted_at"] is None for each in api.get(path, with_deleted="true")["results"]]
    assert shown == [True, True, False]
    assert api.get(path, with_deleted="true", q="tea")["results"] == []


def test_messages_are_listed_searched_and_sent(api: Api) -> None:
    talk(message("tea"))
    path = f"sessions/{row().pk}/messages/"
    sent = api.post(path, {"text": "This is Eve."}, status=201)
    assert [each["text"] for each in sent["messages"]] == ["This is Eve."]
    assert texts() == ["heard tea", "This is Eve."]
    talk(message("MILK"))
    said = [each["text"] for each in api.get(path)["results"]]
    assert said == ["heard MILK", "MILK", "This is Eve.", "heard tea"]
    assert [each["text"] for each in api.get(path, q="milk")["results"]] == ["heard MILK", "MILK"]
    incoming = api.get(path, direction="incoming", kind="text")["results"]
    assert [each["text"] for each in incoming] == ["MILK"]
    assert api.get(path, sent_after="2100-01-01T00:00:00Z")["results"] == []
    assert len(api.get(path, sent_before="2100-01-01T00:00:00Z")["results"]) == 4
    wrongs: list[Any] = [{"text": ""}, {"text": "x" * 10_001}, {"text": 1, "to": "x"}, {}, []]
    for wrong in wrongs:
        problem(api.ask("POST", path, wrong), 400, "invalid")
    assert TrackedMessage.objects.count() == 4


def test_an_operator_takes_over_and_hands_back(api: Api) -> None:
    talk(message("tea"))
    path = f"sessions/{row().pk}/"
    assert api.post(f"{path}pause/") == {"paused": True}
    assert api.post(f"{path}pause/") == {"paused": False}
    shown = api.get(path)
    assert (shown["operator"], shown["flow"]) == ("root", None)
    talk(message("help"))
    problem(api.ask("POST", f"{path}end-flow/"), 409, "session_taken_over")
    problem(api.ask("POST", f"{path}resume/", {}), 400, "invalid")
    assert api.post(f"{path}resume/", {"handles": True}) == {"released": 1}
    operations.recover()
    assert row().data == {"said": ["tea", "help"]}
    assert api.get(path)["operator"] is None


def test_a_session_that_is_worked_on_is_busy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "WAIT", 0.1)
    talk(message("tea"))
    now = timezone.now()
    MailboxLease.objects.create(
        key="demo:ann:ann", token="x", acquired_at=now, expires_at=now + timedelta(hours=1)
    )
    response = api.ask("POST", f"sessions/{row().pk}/reset/")
    problem(response, 409, "mailbox_busy")
    assert response["Retry-After"] == "5"


def test_a_session_of_a_bot_that_is_gone_can_only_be_read(api: Api) -> None:
    gone = session_of("gone", data={"a": 1}).pk
    assert api.get(f"sessions/{gone}/")["data"] == {"a": 1}
    for path in ("close", "clear", "messages"):
        response = api.ask("POST", f"sessions/{gone}/{path}/", {"text": "hi"})
        problem(response, 409, "bot_not_configured")
