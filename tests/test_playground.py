"""The playground, through the real engine."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import AsyncClient, Client, override_settings
from django.urls import reverse

from botsessions.bots import Bot, bots
from botsessions.exceptions import Unavailable, UnknownBot
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.local_chat import LocalChat
from botsessions.playground import views
from botsessions.routing import Router
from botsessions.session import Session
from botsessions.updates import Update
from botsessions.views import deliver

pytestmark = pytest.mark.django_db

router = Router()


@router.command("tea")
async def tea(update: Update, bot: Bot) -> None:
    assert update.chat is not None
    await bot.send(update.chat.id, "Milk?", buttons={"Yes": "with milk", "No": "without"})


@router.action()
async def chosen(update: Update, bot: Bot) -> None:
    assert update.chat is not None
    assert update.message is not None
    await bot.call(
        "edit", chat=update.chat.id, message_id=update.message.id, text=f"Tea {update.action}"
    )


@router.message()
async def count(session: Session[dict[str, Any]]) -> None:
    session.data["count"] = session.data.get("count", 0) + 1
    await session.send(f"count {session.data['count']}")


LOCAL = "botsessions.platforms.local.LocalPlatform"


def configured(**changes: Any) -> dict[str, Any]:
    bot = {"PLATFORM": LOCAL, "ROUTER": "tests.test_playground.router", "OPTIONS": {"secret": "s"}}
    return {"BOTS": {"demo": bot}, "PLAYGROUND": True} | changes


@pytest.fixture(autouse=True)
def playground() -> Iterator[None]:
    with override_settings(BOTSESSIONS=configured()):
        yield


def network() -> LocalChat:
    platform = bots["demo"].platform
    assert isinstance(platform, LocalPlatform)
    return platform.network


async def post(view: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    place = {"bot": "demo", "user": "ann", "chat": "ann"}
    response = await AsyncClient().post(
        reverse(f"playground:{view}"), place | fields, content_type="application/json"
    )
    return response.status_code, response.json()


async def shown(chat: str = "ann", since: int = 0) -> dict[str, Any]:
    response = await AsyncClient().get(
        reverse("playground:messages"), {"bot": "demo", "chat": chat, "since": str(since)}
    )
    assert response.status_code == 200
    changes: dict[str, Any] = response.json()
    return changes


async def texts(chat: str = "ann") -> list[str]:
    return [message["text"] for message in (await shown(chat))["messages"]]


# Talking


async def test_what_is_said_is_answered() -> None:
    assert (await post("say", text="Hello"))[0] == 200
    assert (await post("say", text="Hello"))[0] == 200
    changes = await shown()
    found = [(message["from"]["id"], message["text"]) for message in changes["messages"]]
    assert found == [("ann", "Hello"), ("demo", "count 1"), ("ann", "Hello"), ("demo", "count 2")]
    assert not any("delivered" in message for message in changes["messages"])
    assert (await shown(since=changes["revision"]))["messages"] == []


async def test_form_is_as_good_as_json() -> None:
    fields = {"bot": "demo", "user": "ben", "chat": "ben", "text": "Hello"}
    assert (await AsyncClient().post(reverse("playground:say"), fields)).status_code == 200
    assert await texts("ben") == ["Hello", "count 1"]


def test_playground_works_under_wsgi() -> None:
    fields = {"bot": "demo", "user": "ann", "chat": "ann", "text": "Hello"}
    client = Client()
    assert client.post(reverse("playground:say"), fields).status_code == 200
    answer = client.get(reverse("playground:messages"), {"bot": "demo", "chat": "ann"})
    assert [message["text"] for message in answer.json()["messages"]] == ["Hello", "count 1"]


async def test_people_share_the_group_and_nothing_else() -> None:
    await post("say", user="ann", chat="ann", text="private")
    await post("say", user="ann", chat="group", text="from Ann")
    await post("say", user="ben", chat="group", text="from Ben")
    assert await texts("ann") == ["private", "count 1"]
    assert await texts("group") == ["from Ann", "count 1", "from Ben", "count 1"]
    assert await texts("ben") == []


async def test_button_is_pressed() -> None:
    await post("say", chat="group", text="/tea")
    _, asked = (await shown("group"))["messages"]
    assert asked["buttons"][0] == {"text": "Yes", "action": "with milk"}
    message_id = asked["message_id"]
    status, _ = await post(
        "press", user="ben", chat="group", message_id=message_id, action="with milk"
    )
    assert status == 200
    assert await texts("group") == ["/tea", "Tea with milk"]
    status, answer = await post("press", chat="group", message_id=str(message_id), action="without")
    assert status == 404
    assert answer["error"]


async def test_deleted_message_is_told() -> None:
    await post("say", text="Hello")
    before = await shown()
    platform = bots["demo"].platform
    await platform.delete_messages("ann", [str(before["messages"][0]["message_id"])])
    changes = await shown(since=before["revision"])
    assert changes["messages"] == [
        {"message_id": before["messages"][0]["message_id"], "deleted": True}
    ]


# Failing


class Door:
    """Stands for `deliver`; it raises the errors in turn, and lets what follows through."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.bodies: list[bytes] = []

    async def __call__(
        self, request: HttpRequest, alias: str, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        self.bodies.append(body)
        if self.errors:
            raise self.errors.pop(0)
        await deliver(request, alias, headers, body)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "DELIVER_AGAIN_AFTER", (0, 0))


@pytest.mark.usefixtures("impatient")
async def test_delivery_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(Unavailable("away"), Unavailable("away"))
    monkeypatch.setattr(views, "deliver", door)
    assert (await post("say", text="Hello"))[0] == 200
    assert len(set(door.bodies)) == 1
    assert await texts() == ["Hello", "count 1"]


@pytest.mark.usefixtures("impatient")
async def test_undelivered_message_is_marked_and_the_next_attempt_is_the_same_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(*[Unavailable("away")] * 3)
    monkeypatch.setattr(views, "deliver", door)
    status, answer = await post("say", text="Hello", nonce="n1")
    assert status == 503
    assert "once more" in answer["error"]
    before = await shown()
    assert [message["delivered"] for message in before["messages"]] == [False]

    assert (await post("say", text="Hello", nonce="n1"))[0] == 200
    assert len(set(door.bodies)) == 1
    assert await texts() == ["Hello", "count 1"]
    assert not any("delivered" in message for message in (await shown())["messages"])


async def test_answer_that_got_lost_does_not_make_the_bot_hear_twice() -> None:
    for _ in range(3):
        assert (await post("say", text="Hello", nonce="n1"))[0] == 200
    assert await texts() == ["Hello", "count 1"]


async def test_refusal_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "deliver", Door(UnknownBot("gone")))
    status, answer = await post("say", text="Hello")
    assert status == 404
    assert answer["error"]


async def test_network_that_is_away_is_503(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(network().database, "path", tmp_path)
    monkeypatch.setattr(network().database, "_connection", None)
    status, answer = await post("say", text="Hello")
    assert status == 503
    assert answer["error"]


# Bad input


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"text": ""}, 400),
        ({"text": " \n\t"}, 400),
        ({"text": None}, 400),
        ({"text": 7}, 400),
        ({"text": ["Hello"]}, 400),
        ({"text": "x" * 4097}, 400),
        ({"bot": "nobody"}, 404),
        ({"bot": ""}, 400),
        ({"bot": None}, 400),
        ({"bot": {}}, 400),
        ({"user": "mallory"}, 400),
        ({"user": ""}, 400),
        ({"user": 10**30}, 400),
        ({"chat": ""}, 400),
        ({"chat": "ben"}, 400),
        ({"chat": "elsewhere"}, 400),
        ({"nonce": "n" * 65}, 400),
        ({"nonce": []}, 200),
        ({"nonce": {"a": 1}}, 400),
    ],
)
async def test_say_without_sense_is_refused_with_a_sentence(
    fields: dict[str, Any], status: int
) -> None:
    found, answer = await post("say", **{"text": "Hello"} | fields)
    assert found == status
    assert found == 200 or answer["error"].endswith(".")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"message_id": "1"}, 400),
        ({"message_id": "1", "action": ""}, 400),
        ({"message_id": "1", "action": "tea"}, 404),
        ({"message_id": "9" * 30, "action": "tea"}, 404),
        ({"message_id": 9 * 10**30, "action": "tea"}, 400),
        ({"message_id": "\0", "action": "\0"}, 404),
        ({"message_id": -1, "action": "tea"}, 404),
    ],
)
async def test_press_without_sense_is_refused_with_a_sentence(
    fields: dict[str, Any], status: int
) -> None:
    found, answer = await post("press", **fields)
    assert (found, answer["error"][-1]) == (status, ".")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"text": "\\ud800"}', b"[" * 100_000, b'{"a":1e999}'],
)
async def test_rubbish_is_refused(body: bytes) -> None:
    for view in ("say", "press"):
        response = await AsyncClient().post(
            reverse(f"playground:{view}"), body, content_type="application/json"
        )
        assert response.status_code == 400
        assert response.json()["error"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", b"--y"),
        ("multipart/form-data", b""),
        ("text/plain", b"bot=demo"),
        ("application/x-www-form-urlencoded", b"bot=demo&user=ann&chat=ann&text=a%00b"),
        ("application/x-www-form-urlencoded", b"a&" * 2000),
        ("application/json", b'{"text": "' + b"x" * 3_000_000 + b'"}'),
    ],
)
async def test_request_that_is_no_form_is_refused(content_type: str, body: bytes) -> None:
    response = await AsyncClient().post(reverse("playground:say"), body, content_type=content_type)
    assert 400 <= response.status_code < 500
    assert await texts() == []


async def test_nul_from_json_is_replaced() -> None:
    assert (await post("say", text="a\0b"))[0] == 200
    assert await texts() == ["a\ufffdb", "count 1"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 400),
        ({"bot": "demo"}, 400),
        ({"bot": "nobody", "chat": "ann"}, 404),
        ({"bot": "demo", "chat": "elsewhere"}, 404),
        ({"bot": "demo", "chat": "\0"}, 404),
        ({"bot": "demo", "chat": "ann", "since": "x"}, 400),
        ({"bot": "demo", "chat": "ann", "since": "-1"}, 400),
        ({"bot": "demo", "chat": "ann", "since": "9" * 30}, 400),
        ({"bot": "demo", "chat": "ann", "since": ""}, 200),
    ],
)
async def test_messages_are_asked_for_with_sense(query: dict[str, str], status: int) -> None:
    response = await AsyncClient().get(reverse("playground:messages"), query)
    assert response.status_code == status


async def test_methods_are_what_they_should_be() -> None:
    client = AsyncClient()
    assert (await client.get(reverse("playground:say"))).status_code == 405
    assert (await client.get(reverse("playground:press"))).status_code == 405
    assert (await client.post(reverse("playground:messages"))).status_code == 405
    assert (await client.post(reverse("playground:page"))).status_code == 405


# Who may


async def test_closed_playground_is_for_staff_alone() -> None:
    anonymous, visitor, operator = AsyncClient(), AsyncClient(), AsyncClient()
    await visitor.aforce_login(await User.objects.acreate_user("visitor"))
    await operator.aforce_login(await User.objects.acreate_user("operator", is_staff=True))
    place = {"bot": "demo", "user": "ann", "chat": "ann", "text": "Hello"}
    with override_settings(BOTSESSIONS=configured(PLAYGROUND=False)):
        for client, status in ((anonymous, 404), (visitor, 404), (operator, 200)):
            assert (await client.get(reverse("playground:page"))).status_code == status
            found = await client.get(reverse("playground:messages"), place)
            assert found.status_code == status
            assert (await client.post(reverse("playground:say"), place)).status_code == status
        assert (await anonymous.post(reverse("playground:press"), place)).status_code == 404
        with override_settings(DEBUG=True):
            assert (await anonymous.get(reverse("playground:page"))).status_code == 200


async def test_bot_of_another_platform_is_not_offered() -> None:
    bot = {"PLATFORM": "botsessions.platforms.base.Platform", "ROUTER": router}
    local = configured()["BOTS"]["demo"]
    with override_settings(BOTSESSIONS=configured(BOTS={"other": bot, "demo": local})):
        page = (await AsyncClient().get(reverse("playground:page"))).content.decode()
        assert 'value="demo"' in page
        assert 'value="other"' not in page
        assert (await post("say", bot="other", text="Hello"))[0] == 404


async def test_post_needs_the_csrf_token_of_the_page() -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    page = (await client.get(reverse("playground:page"))).content.decode()
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found is not None
    body = json.dumps({"bot": "demo", "user": "ann", "chat": "ann", "text": "Hello"})
    for headers, status in (({}, 403), ({"X-CSRFToken": found[1]}, 200)):
        response = await client.post(
            reverse("playground:say"), body, content_type="application/json", headers=headers
        )
        assert response.status_code == status
    assert await texts() == ["Hello", "count 1"]


# The page


class Markup(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


async def test_page_works_under_a_strict_content_security_policy() -> None:
    page = (await AsyncClient().get(reverse("playground:page"))).content.decode()
    for tag, attributes in Markup(page).tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "script":
            assert "src" in attributes or attributes["type"] == "application/json"


async def test_every_control_has_a_label() -> None:
    page = (await AsyncClient().get(reverse("playground:page"))).content.decode()
    tags = Markup(page).tags
    labelled = {attributes["for"] for tag, attributes in tags if "for" in attributes}
    for name in ("select", "textarea", 'input type="radio"'):
        assert f"<{name}" in page
    assert [a["id"] for tag, a in tags if tag == "textarea"] == list(labelled)
    for control in re.finditer(r'<select|<input type="radio"', page):
        opened = page[: control.start()]
        assert opened.count("<label") > opened.count("</label")
    assert 'role="log"' in page
    assert 'aria-live="polite"' in page


async def test_page_without_a_local_bot_says_what_to_do() -> None:
    with override_settings(BOTSESSIONS={"BOTS": {}, "PLAYGROUND": True}):
        response = await AsyncClient().get(reverse("playground:page"))
    assert response.status_code == 200
    assert LOCAL in response.content.decode()
    assert "<form" not in response.content.decode()


async def test_page_is_never_cached() -> None:
    response = await AsyncClient().get(reverse("playground:page"))
    assert "no-store" in response["Cache-Control"]
