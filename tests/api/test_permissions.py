"""Who may do what: permissions, the bots of a token, and that reading never writes."""

from typing import Any, NamedTuple

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from botsessions.models import BotSession, BotUpdate, Erasure, MessageDeletion, TrackedMessage
from tests.api.kit import (
    Api,
    deletion_of,
    erasure_of,
    everything,
    message_in,
    person,
    problem,
    program,
    session_of,
    update_of,
)

pytestmark = pytest.mark.django_db

MODELS: tuple[Any, ...] = (BotSession, TrackedMessage, BotUpdate, MessageDeletion, Erasure)


class Asked(NamedTuple):
    """A request, and the permission that it takes; {…} is the id of a row of that kind."""

    method: str
    path: str
    permission: str
    body: Any = None

    def by(self, api: Api, ids: dict[str, int]) -> Any:
        headers = {"If_Match": "*"} if self.method == "PATCH" else {}
        return api.ask(self.method, self.path.format(**ids), self.body, **headers)


READS = [
    Asked("GET", "bots/", "view_botsession"),
    Asked("GET", "bots/demo/", "view_botsession"),
    Asked("GET", "bots/demo/export/?user=ann", "export_botsession"),
    Asked("GET", "sessions/", "view_botsession"),
    Asked("GET", "sessions/{session}/", "view_botsession"),
    Asked("GET", "sessions/{session}/messages/", "view_trackedmessage"),
    Asked("GET", "updates/", "view_botupdate"),
    Asked("GET", "updates/{update}/", "view_botupdate"),
    Asked("GET", "deletions/", "view_messagedeletion"),
    Asked("GET", "deletions/{deletion}/", "view_messagedeletion"),
    Asked("GET", "erasures/", "view_erasure"),
    Asked("GET", "erasures/{erasure}/", "view_erasure"),
]
WRITES = [
    Asked("PATCH", "sessions/{session}/", "change_botsession", {"data": {}}),
    Asked("DELETE", "sessions/{session}/", "delete_botsession"),
    Asked("POST", "sessions/{session}/clear/", "clear_botsession"),
    Asked("POST", "sessions/{session}/forget/", "forget_botsession"),
    Asked("POST", "sessions/{session}/close/", "close_botsession"),
    Asked("POST", "sessions/{session}/reset/", "reset_botsession"),
    Asked("POST", "sessions/{session}/end-flow/", "end_flow_botsession"),
    Asked("POST", "sessions/{session}/pause/", "take_over_botsession"),
    Asked("POST", "sessions/{session}/resume/", "take_over_botsession", {"handles": False}),
    Asked("POST", "sessions/{session}/messages/", "send_botsession", {"text": "hi"}),
    Asked("POST", "updates/{update}/replay/", "replay_botupdate"),
    Asked("POST", "updates/{update}/drop/", "drop_botupdate"),
    Asked("POST", "deletions/", "clear_botsession", {"bot": "demo", "chat": "c"}),
    Asked("POST", "deletions/{deletion}/cancel/", "cancel_messagedeletion"),
    Asked("POST", "bots/demo/erasures/", "erase_botsession", {"user": "ann"}),
]


@pytest.fixture
def ids() -> dict[str, int]:
    return rows_of("demo")


def rows_of(bot: str) -> dict[str, int]:
    """Return the ids of one row of each kind that are a bot's."""
    session = session_of(bot, is_open=True, data={"a": 1})
    message_in(session)
    rows = {"update": update_of(bot), "deletion": deletion_of(bot), "erasure": erasure_of(bot)}
    return {"session": session.pk, **{name: row.pk for name, row in rows.items()}}


def stored() -> Any:
    """Return everything that there is."""
    return [list(model.objects.order_by("pk").values()) for model in MODELS]


def others(permission: str) -> list[str]:
    """Return every permission on the models but one."""
    return sorted({each.permission for each in READS + WRITES} - {permission})


@pytest.mark.parametrize("asked", READS + WRITES, ids=lambda each: f"{each.method} {each.path}")
def test_each_request_takes_its_own_permission(asked: Asked, ids: dict[str, int]) -> None:
    """And without it nothing changes, whatever else one may do."""
    before = stored()
    problem(asked.by(Api(), ids), 401, "not_authenticated")
    problem(asked.by(program(*others(asked.permission)), ids), 403, "permission_denied")
    problem(asked.by(program(name="bob"), ids | dict.fromkeys(ids, 0)), 403, "permission_denied")
    assert stored() == before
    allowed = program(asked.permission, name="ann")
    response = asked.by(allowed, ids)
    assert response.status_code < 300, response.content
    if asked in WRITES and "end-flow" not in asked.path and "resume" not in asked.path:
        assert stored() != before


@pytest.mark.parametrize("asked", READS + WRITES, ids=lambda each: f"{each.method} {each.path}")
def test_what_is_of_another_bot_is_not_there(asked: Asked) -> None:
    ids = rows_of("other")
    before = stored()
    other = asked._replace(path=asked.path.replace("/demo/", "/other/"))
    if isinstance(asked.body, dict) and "bot" in asked.body:
        other = other._replace(body=asked.body | {"bot": "other"})
    scoped = everything(bots=["demo"])
    response = other.by(scoped, ids)
    if "{" in other.path or "/other/" in other.path or asked.method != "GET":
        assert response.status_code == 404, response.content
        assert response.json()["code"] in ("not_found", "unknown_bot")
    else:
        listed = response.json()
        found = listed["results"] if isinstance(listed, dict) else listed
        assert not any("other" in each.values() for each in found)
    assert stored() == before


def test_a_deletion_goes_through_no_bot_of_others() -> None:
    scoped = everything(bots=["demo"])
    body = {"bot": "demo", "chat": "c", "through": "other"}
    problem(scoped.ask("POST", "deletions/", body), 404, "unknown_bot")
    body = {"bot": "demo", "chat": "c", "through": "nobody"}
    problem(everything("eve").ask("POST", "deletions/", body), 404, "unknown_bot")
    assert not MessageDeletion.objects.exists()


@pytest.mark.parametrize("asked", READS, ids=lambda each: each.path)
def test_reading_writes_nothing(asked: Asked, ids: dict[str, int], api: Api) -> None:
    asked.by(api, ids)  # which notes that the token is used
    with CaptureQueriesContext(connection) as captured:
        response = asked.by(api, ids)
        assert response.status_code == 200
        b"".join(response) if response.streaming else None
    verbs = {query["sql"].split()[0].upper() for query in captured}
    assert verbs <= {"SELECT", "SAVEPOINT", "RELEASE", "DECLARE", "FETCH", "CLOSE"}


#: Queries of a request: the token with its user, and two of permissions, beside its own.
BUDGETS: dict[str, int] = {
    "bots/": 0,
    "sessions/": 1,
    "sessions/{session}/": 1,
    "sessions/{session}/messages/": 2,
    "updates/": 1,
    "updates/{update}/": 1,
    "deletions/": 1,
    "deletions/{deletion}/": 1,
    "erasures/": 1,
    "erasures/{erasure}/": 1,
}


@pytest.mark.parametrize("path", BUDGETS)
def test_reading_takes_few_queries_however_much_there_is(path: str, ids: dict[str, int]) -> None:
    reader = program(*others(""))
    for number in range(50):
        message_in(session_of(chat=f"{number}"))
        message_in(BotSession.objects.get(pk=ids["session"]), number + 2)
        update_of(id=f"x{number}")
        deletion_of()
        erasure_of()
        if number in (0, 49):
            Asked("GET", path, "").by(reader, ids)
            with CaptureQueriesContext(connection) as captured:
                response = Asked("GET", path, "").by(reader, ids)
            assert response.status_code == 200
            assert len(captured) == 3 + BUDGETS[path], [each["sql"] for each in captured]


def test_a_list_leaves_long_columns_alone(ids: dict[str, int], api: Api) -> None:
    for path, columns in {
        "sessions/": ["data", "quarantined", "flow", "last_flow"],
        "updates/": ["payload", "journal", "error"],
    }.items():
        with CaptureQueriesContext(connection) as captured:
            api.get(path)
        table = path.removesuffix("s/")
        [sql] = [
            each["sql"] for each in captured if f'FROM "botsessions_bot{table}"' in each["sql"]
        ]
        assert not any(f'"botsessions_bot{table}"."{column}", "' in sql for column in columns), sql


def test_who_is_signed_in_may_ask_too_but_not_be_made_to(ids: dict[str, int]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(person("view_botsession", "close_botsession"))
    signed_in = Api(client=client)
    assert signed_in.get("sessions/")["results"]
    path = f"sessions/{ids['session']}/close/"
    problem(signed_in.ask("POST", path), 403, "permission_denied")
    client.get("/api/docs/")
    token = client.cookies["csrftoken"].value
    assert signed_in.ask("POST", path, X_CSRFToken=token).status_code == 204


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(method: str, api: Api) -> None:
    problem(api.ask(method, "sessions/"), 405, "method_not_allowed")
    problem(Api().ask(method, "sessions/"), 401, "not_authenticated")


def test_a_user_who_is_not_active_is_not_let_in(api: Api) -> None:
    User.objects.update(is_active=False)
    response = api.ask("GET", "sessions/")
    problem(response, 401, "user_inactive")
    assert response["WWW-Authenticate"] == 'Bearer realm="botsessions"'
