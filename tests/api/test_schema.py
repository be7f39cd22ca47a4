"""The schema says what the API does, and the API does what the schema says."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import schemathesis
from asgiref.sync import sync_to_async
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import AsyncClient, Client, override_settings
from drf_spectacular.validation import validate_schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from botsessions.api.schema import document
from project.wsgi import application
from tests.api.kit import Api, everything, router, talk
from tests.api.test_permissions import READS, WRITES, rows_of
from tests.kit import handle, message, running

pytestmark = pytest.mark.django_db

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: How many requests of each operation are tried that are right, and that are wrong.
RIGHT, WRONG = 8, 5
OPERATIONS = [
    operation["operationId"] for path in document()["paths"].values() for operation in path.values()
]


def test_the_schema_is_openapi() -> None:
    response = Client().get("/api/schema/")
    schema = response.json()
    assert schema["openapi"] == "3.1.0"
    validate_schema(schema)  # type: ignore[no-untyped-call]
    assert len(OPERATIONS) == len(set(OPERATIONS)) == len(READS + WRITES)
    assert set(schema["components"]["securitySchemes"]) == {"token", "login"}
    assert [path for path in schema["paths"] if not path.startswith("/api/")] == []
    for path in schema["paths"].values():
        for operation in path.values():
            assert operation["description"], operation["operationId"]


def test_what_the_project_says_of_rest_framework_is_not_about_us(api: Api) -> None:
    talk(message("tea"))
    before = api.get("sessions/")
    theirs = {
        "DATETIME_FORMAT": "%s",
        "EXCEPTION_HANDLER": "nowhere.handler",
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
        "UNAUTHENTICATED_USER": None,
        "PAGE_SIZE": 1,
    }
    with override_settings(REST_FRAMEWORK=theirs):
        assert api.get("sessions/") == before
        assert Api().ask("GET", "sessions/").status_code == 401


def test_the_schema_of_the_project_is_not_about_us(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor are its checks, which say what they think of every view in it."""
    document()
    call_command("spectacular", "--fail-on-warn")
    assert "paths: {}" in capsys.readouterr().out


def test_the_page_comes_from_here_alone() -> None:
    """No foreign host, and nothing that `script-src 'self'; style-src 'self'` would stop."""
    page = Client().get("/api/docs/").content.decode()
    assert "<style" not in page
    assert " style=" not in page
    assert not re.search(r"<script(?![^>]* src=)", page)
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert "/api/schema/" in links
    static = [link for link in links if link.startswith("/static/")]
    assert len(static) == 4
    assert {link for link in links if not link.startswith("/")} == {"data:,"}
    for link in static:
        assert finders.find(link.removeprefix("/static/")), link


async def test_asgi_serves_it_too() -> None:
    api = await sync_to_async(everything)()
    client = AsyncClient()
    await handle(message("tea"))
    listed = (await client.get("/api/sessions/", headers=api.headers)).json()["results"]
    path = f"/api/sessions/{listed[0]['id']}"
    assert (await client.post(f"{path}/pause/", headers=api.headers)).json() == {"paused": True}
    response: Any = await client.get("/api/bots/demo/export/?user=ann", headers=api.headers)
    parts = [part async for part in response]
    assert b'"table":"session"' in b"".join(parts)


@cache
def operations() -> dict[str, Any]:
    """Return the operations by name, as schemathesis reads them."""
    schema = schemathesis.openapi.from_wsgi("/api/schema/", application)
    found: list[Any] = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    return {each.definition.raw["operationId"]: each for each in found}


@pytest.fixture
def unlimited() -> Iterator[None]:
    with running(router, API_RATE=None):
        yield


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_meets_what_the_schema_does_not_say(
    name: str, unlimited: None, committed: None
) -> None:
    """Of rows that are there, and of others; by whoever may do everything."""
    api = everything()
    talk(message("tea"))
    ids = rows_of("demo")

    def ask(case: Any, is_there: bool) -> None:
        if is_there:
            id = ids.get(name.partition("_")[0].removesuffix("s"), 0)
            rows = {"id": id, "session": ids["session"], "alias": "demo"}
            for part in case.path_parameters or {}:
                case.path_parameters[part] = rows[part]
            if name == "sessions_partial_update":
                case.headers["If-Match"] = "*"
        case.call_and_validate(headers=api.headers, checks=CHECKS)

    operation = operations()[name]
    for mode, examples in ((GenerationMode.POSITIVE, RIGHT), (GenerationMode.NEGATIVE, WRONG)):
        strategy = operation.as_strategy(generation_mode=mode)
        limits = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        limits(given(case=strategy, is_there=st.booleans())(ask))()
