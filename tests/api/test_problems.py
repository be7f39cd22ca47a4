"""What goes wrong is told in one form, whoever says so first."""

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404
from django.test import override_settings

import botsessions
from botsessions import Qualifier, Router, Session, Update, exceptions, migrates
from botsessions.api import problems
from botsessions.models import BotSession
from botsessions.operations import operators
from tests.api.kit import Api, problem, router, session_of, talk
from tests.kit import configured, message, running

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (exceptions.RateLimited("slow", retry_after=7.2), 503, "platform_rate_limited"),
        (exceptions.Forbidden("blocked by the user"), 409, "platform_forbidden"),
        (exceptions.NotFound("no such chat"), 422, "platform_refused"),
        (exceptions.PlatformUnavailable("no answer"), 502, "platform_unavailable"),
        (exceptions.PlatformError("what"), 502, "platform_error"),
        (exceptions.Unavailable("stopping"), 503, "unavailable"),
        (exceptions.LeaseLost(), 503, "lease_lost"),
        (exceptions.NewerData("of version 3"), 503, "newer_data"),
        (exceptions.SessionConflict("saved meanwhile"), 409, "session_conflict"),
        (exceptions.SessionsDisabled("STORE is None"), 409, "sessions_disabled"),
        (OperationalError("connection to 10.0.0.7 refused"), 503, "unavailable"),
        (Http404("secret"), 404, "not_found"),
        (PermissionDenied("secret"), 403, "permission_denied"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else None,
)  # fmt: skip
def test_errors_are_problems(
    error: Exception, status: int, code: str, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(row: BotSession, text: str) -> None:
        raise error

    monkeypatch.setattr(operators, "send", fail)
    response = api.ask("POST", f"sessions/{session_of().pk}/messages/", {"text": "hi"})
    said = problem(response, status, code)
    for secret in ("10.0.0.7", "secret"):
        assert secret not in response.content.decode()
    assert said["detail"].endswith(".")
    if status == 503:
        assert int(response["Retry-After"]) in (5, 8, 10)
    if code == "platform_unavailable":
        assert "may have been done" in said["detail"]


def test_what_nobody_has_foreseen_is_reported(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(row: BotSession, text: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(operators, "send", fail)
    with pytest.raises(ZeroDivisionError):
        api.ask("POST", f"sessions/{session_of().pk}/messages/", {"text": "hi"})


def test_every_error_that_a_request_can_meet_has_an_answer() -> None:
    """What is left is raised where no request is: in handlers, flows and at the webhook."""
    elsewhere = {
        "BotsessionsError", "SessionError", "RequestRefused", "Unauthorized", "MethodNotAllowed",
        "FlowFailed", "Diverged", "NoSessionKey",
    }  # fmt: skip
    for name, error in vars(exceptions).items():
        if isinstance(error, type) and issubclass(error, exceptions.BotsessionsError):
            found = any(issubclass(error, known) for known in problems.KINDS)
            assert found != (name in elsewhere), name


def test_a_body_has_an_end_and_a_type(api: Api) -> None:
    path = f"sessions/{session_of().pk}/messages/"
    with running(router, MAX_BODY_BYTES=100):
        problem(api.ask("POST", path, {"text": "x" * 100}), 413, "body_too_large")
    form = api.client.post(f"/api/{path}", {"text": "hi"}, headers=api.headers)
    problem(form, 415, "unsupported_media_type")


def test_the_session_of_a_bot_without_sessions_can_only_be_read(api: Api) -> None:
    talk(message("tea"))
    row = session_of(data={"a": 1}).pk
    settings = configured(router)
    for store, code in ((None, "sessions_disabled"), ("nowhere", "bot_not_configured")):
        settings["BOTS"]["demo"] = settings["BOTS"]["demo"] | {"STORE": store}
        with override_settings(BOTSESSIONS=settings):
            assert api.get(f"sessions/{row}/")["data"] == {"a": 1}
            problem(api.ask("POST", f"sessions/{row}/close/"), 409, code)
            erasing = api.ask("POST", "bots/demo/erasures/", {"user": "x"})
            deleting = api.ask("POST", "deletions/", {"bot": "demo", "user": "x"})
            if store:
                problem(erasing, 409, code)
                problem(deleting, 409, code)


# Data, wherever it is


@dataclass
class Basket:
    version: ClassVar[int] = 2
    names: list[str] = field(default_factory=list)

    @migrates(from_=1)
    def one_to_many(old: Any) -> Any:
        return {"names": [old["name"]]}


baskets = Router()


@baskets.message()
async def add(
    update: Update, basket: Annotated[Session[Basket], Qualifier("basket")], notes: Session
) -> None:
    basket.data.names.append(update.text)


@pytest.mark.parametrize("store", ["default", "cache"])
def test_data_is_shown_without_its_mark_and_from_its_store(store: str, api: Api) -> None:
    stores: dict[str, Any] = {
        "default": {"BACKEND": "botsessions.stores.DatabaseStore"},
        "cache": {"BACKEND": "botsessions.stores.CacheStore"},
    }
    cache.clear()
    with running(baskets, store=store, STORES=stores):
        talk(message("tea"))
        basket = BotSession.objects.get(qualifier="basket")
        assert (basket.data is None) == (store == "cache")
        path = f"sessions/{basket.pk}/"
        assert api.get(path)["data"] == {"names": ["tea"]}
        changed = api.ask("PATCH", path, {"data": {"names": ["rum"]}}, If_Match="*")
        assert changed.json()["data"] == {"names": ["rum"]}
        talk(message("milk"))
        assert api.get(path)["data"] == {"names": ["rum", "milk"]}
        empty = session_of(user="x").pk
        assert api.get(f"sessions/{empty}/")["data"] is None


def test_nothing_else_needs_rest_framework() -> None:
    """But for what asks first whether the API is installed, and imports it then."""
    root = Path(botsessions.__file__).parent
    theirs = ("rest_framework", "django_filters", "drf_spectacular")
    for path in root.rglob("*.py"):
        if (root / "api") in path.parents:
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                text = ast.unparse(node)
                assert not any(name in text for name in theirs), path
                assert node not in tree.body or "botsessions.api" not in text, path
