"""Tokens: made, shown once, found, expired, noted as used; and how often they may ask."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from botsessions import clock
from botsessions.api import checks, throttling, tokens
from botsessions.api.models import ApiToken
from tests.api.kit import Api, everything, person, problem, router
from tests.kit import running

pytestmark = pytest.mark.django_db

ADD = "/admin/botsessions_api/apitoken/add/"
LIST = "/admin/botsessions_api/apitoken/"


def test_a_key_is_stored_nowhere() -> None:
    token, key = tokens.issue(person(), name="cron", bots=["other", "demo", "demo"])
    assert key.startswith("bs_")
    assert len(key) == 46
    stored = str(ApiToken.objects.values().get())
    assert key not in stored
    assert key[:9] in stored
    assert (token.bots, f"{token}") == (["demo", "other"], f"cron ({key[:9]}…)")
    found = tokens.find(key)
    assert found == token
    with pytest.raises(ValueError, match="no bot 'nobody'"):
        tokens.issue(person(name="bob"), name="cron", bots=["nobody"])


def test_a_token_is_made_by_command() -> None:
    person(name="eve")
    key = tokens.issue_for("eve", bots=["demo"], days=30)
    token = ApiToken.objects.get()
    assert tokens.find(key) == token
    assert token.bots == ["demo"]
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - timezone.now() < timedelta(days=31)
    for wrong, said in (
        ({"username": "nobody"}, "no user"),
        ({"username": "eve", "bots": ["x"]}, "no bot"),
        ({"username": "eve", "days": 0}, "more than 0"),
    ):
        given: dict[str, Any] = dict(wrong)
        with pytest.raises(ValueError, match=said):
            tokens.issue_for(**given)


@pytest.mark.parametrize("key", ["bs_wrong", "", "bs_\xe9", "a b", "\0"])
def test_a_wrong_token_is_a_401(key: str, api: Api) -> None:
    api.headers = {"Authorization": f"Bearer {key}"}
    problem(api.ask("GET", "bots/"), 401, "token_unknown")


def test_other_schemes_are_not_for_us() -> None:
    api = Api()
    api.headers = {"Authorization": "Basic eve:secret"}
    problem(api.ask("GET", "bots/"), 401, "not_authenticated")


def test_a_token_expires(api: Api) -> None:
    ApiToken.objects.update(expires_at=timezone.now() + timedelta(hours=1))
    api.get("bots/")
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    problem(api.ask("GET", "bots/"), 401, "token_expired")


def test_a_use_is_noted_once_a_minute(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes() -> int:
        with CaptureQueriesContext(connection) as captured:
            api.get("bots/")
        return sum("UPDATE" in query["sql"] for query in captured)

    assert [writes(), writes()] == [1, 0]
    later = timezone.now() + timedelta(seconds=61)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert [writes(), writes()] == [1, 0]
    assert ApiToken.objects.get().last_used_at == later


# The admin


def staff(*permissions: str) -> Client:
    user = User.objects.create(username="staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_a_token_is_made_in_the_admin_and_its_key_is_shown_once() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    eve = person()
    assert client.get(ADD).status_code == 200
    made = client.post(ADD, {"name": "cron", "user": eve.pk, "bots": ["demo"]})
    key = made.context["key"]
    assert key in made.content.decode()
    assert "no-store" in made["Cache-Control"]
    token = tokens.find(key)
    assert token is not None
    assert (token.user, token.bots) == (eve, ["demo"])
    page = f"{LIST}{token.pk}/change/"
    for path in (LIST, page):
        assert key not in client.get(path).content.decode()
    changed = client.post(page, {"name": "beat", "bots": ["demo", "other"]})
    assert changed.status_code == 302
    token.refresh_from_db()
    assert (token.name, token.bots, token.user) == ("beat", ["demo", "other"], eve)
    assert tokens.find(key) == token
    refused = client.post(page, {"name": "beat", "bots": ["nobody"]})
    assert refused.status_code == 200


def test_staff_make_and_see_their_own_tokens_alone() -> None:
    tokens.issue(User.objects.create_superuser("root"), name="secret plan")
    client = staff("add_apitoken", "view_apitoken", "change_apitoken")
    root = User.objects.get(username="root")
    made = client.post(ADD, {"name": "mine", "user": root.pk})
    token = tokens.find(made.context["key"])
    assert token is not None
    assert token.user.username == "staff"
    assert "secret plan" not in client.get(LIST).content.decode()
    other = ApiToken.objects.get(name="secret plan")
    assert client.get(f"{LIST}{other.pk}/change/").status_code == 302
    stranger = Client()
    assert stranger.get(ADD).status_code == 302


# How often


def test_who_asks_too_often_is_told_when_to_come_again(api: Api) -> None:
    other = everything("other")
    with running(router, API_RATE="2/hour"):
        api.get("bots/")
        api.get("bots/")
        response = api.ask("GET", "bots/")
        problem(response, 429, "throttled")
        assert 1 <= int(response["Retry-After"]) <= 3600
        other.get("bots/")
        client = Client()
        client.force_login(User.objects.get(username="root"))
        Api(client=client).get("bots/")
    with running(router, API_RATE=None):
        api.get("bots/")


def test_nobody_is_refused_because_the_cache_is_away(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(cache, "add", away, raising=False)
    with running(router, API_RATE="1/hour"):
        api.get("bots/")
        api.get("bots/")


def test_a_rate_is_checked() -> None:
    assert throttling.read_rate("600/min") == (600, 60)
    assert [*checks.check_rate()] == []
    for wrong in ("600", "0/min", "1/month", 600, "", "-1/s", "1/min "):
        with running(router, API_RATE=wrong):
            [error] = checks.check_rate()
            assert error.id == "botsessions.E010"
