"""What operators do: by permission, confirmed, through the mailbox, and on record."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from botsessions import operations
from botsessions.admin import verbs
from botsessions.models import BotSession, BotUpdate, MessageDeletion, TrackedMessage
from botsessions.operations import operators
from tests.admin.kit import (
    act_on,
    html,
    list_of,
    make_busy,
    nothing_written,
    page_of,
    recorded,
    row,
    staff,
    talk,
    told,
    view_of,
)
from tests.kit import message, texts

pytestmark = pytest.mark.django_db

#: Each verb over sessions, what it is done with, and what it needs.
VERBS = {
    "clear": "clear_botsession",
    "forget": "forget_botsession",
    "close": "close_botsession",
    "reset": "reset_botsession",
    "end-flow": "end_flow_botsession",
    "take-over": "take_over_botsession",
}
VIEWS: dict[str, tuple[str, dict[str, Any]]] = {
    "send": ("send_botsession", {"text": "hello"}),
    "erase": ("erase_botsession", {"whom": "user"}),
    "export": ("export_botsession", {"what": "json"}),
    "data": ("change_botsession", {"json": "{}", "version": 0}),
}
SEEN = ("view_botsession", "view_trackedmessage")


@pytest.fixture
def session() -> BotSession:
    talk(message("tea"), message("/ask"))
    return row()


def state() -> Any:
    return [
        list(BotSession.objects.order_by("pk").values()),
        list(TrackedMessage.objects.order_by("pk").values()),
        MessageDeletion.objects.count(),
        LogEntry.objects.count(),
    ]


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_takes_its_permission(name: str, session: BotSession) -> None:
    url, named = act_on(name, session)
    others = [each for verb, each in VERBS.items() if verb != name]
    eve, before = staff(*SEEN, *others), state()
    assert eve.get(url, named).status_code == 403
    assert eve.post(url, named).status_code == 403
    assert f"bs-act-{name}" not in html(eve.get(page_of(session)))
    action = {"action": name.replace("-", "_"), "_selected_action": [session.pk], "index": "0"}
    assert f'value="{action["action"]}"' not in html(eve.get(list_of("botsession")))
    eve.post(list_of("botsession"), action)
    assert state() == before
    # Nor does the permission do without that to see sessions.
    blind = staff(VERBS[name], name="bob")
    assert blind.post(url, named).status_code == 403
    assert state() == before
    may = staff(*SEEN, VERBS[name], name="may")
    assert f"bs-act-{name}" in html(may.get(page_of(session)))
    with nothing_written():
        page = html(may.get(url, named))
    assert "csrfmiddlewaretoken" in page
    assert "demo:ann:ann" in page
    assert state() == before
    response = may.post(url, named, follow=True)
    assert response.status_code == 200
    assert len(recorded()) == 1, told(response)
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_id) == ("may", f"{session.pk}")


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_takes_its_permission(name: str, session: BotSession) -> None:
    permission, data = VIEWS[name]
    url, before = view_of(session, name), state()
    eve = staff(*SEEN, *(each for other, (each, _) in VIEWS.items() if other != name))
    assert eve.get(url).status_code == eve.post(url, data).status_code == 403
    if name != "data":  # who may change something may see it, says Django
        assert staff(permission, name="bob").post(url, data).status_code == 403
    assert state() == before
    may = staff(*SEEN, permission, name="may")
    with nothing_written():
        assert "csrfmiddlewaretoken" in html(may.get(url))
    if "version" in data:
        data = data | {"version": session.version}
    may.post(url, data)
    assert len(recorded()) == 1


def test_forgery_is_refused(session: BotSession) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("operator"))
    before = state()
    for name in VERBS:
        url, named = act_on(name, session)
        assert client.post(url, named).status_code == 403
    for name, (_, data) in VIEWS.items():
        assert client.post(view_of(session, name), data).status_code == 403
    assert state() == before


def test_one_session_is_dealt_with(session: BotSession, operator: Client) -> None:
    """P32."""

    def do(name: str) -> list[str]:
        url, named = act_on(name, session)
        return told(operator.post(url, named, follow=True))

    assert do("end-flow") == ["The flow of 1 session was ended."]
    session.refresh_from_db()
    assert session.flow is None
    assert "no flow waits there" in do("end-flow")[0]
    assert do("reset") == ["The data of 1 session was reset."]
    session.refresh_from_db()
    assert session.data is None
    assert do("forget") == ["The messages of 1 session were forgotten."]
    assert texts() == ["heard tea"]
    assert do("close") == ["1 session was closed."]
    assert recorded() == [
        "Ended the flow.", "Reset the data.", "Forgot 2 messages.", "Closed the session.",
    ]  # fmt: skip


def test_messages_are_cleared_by_one_deletion_a_bot(operator: Client) -> None:
    talk(message("tea"), message("milk", user="ben"), message("rum", bot="other"))
    chosen = list(BotSession.objects.filter(qualifier=""))
    everything = {"action": "clear", "_selected_action": [each.pk for each in chosen], "index": "0"}
    with nothing_written():
        page = operator.post(list_of("botsession"), everything, follow=True)
    assert "This is done to 3 sessions" in html(page)
    assert "Messages in their transcripts: 3" in html(page)
    url, named = act_on("clear", *chosen)
    response = operator.post(url, named, follow=True)
    assert told(response) == ["A deletion of the messages of 3 sessions has begun."]
    deletions = MessageDeletion.objects.order_by("bot")
    assert [each.bot for each in deletions] == ["demo", "other"]
    assert {each.requested_by for each in deletions} == {"operator"}
    assert len(recorded()) == 3
    assert sum("of 2 sessions, this among them" in each for each in recorded()) == 2
    operations.delete_messages()
    assert texts() == texts("ben") == []


def test_some_of_many_may_fail(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure is told with its session, the others are done."""
    talk(message("tea"), message("milk", user="ben"), message("rum", user="cid"))
    chosen = [row("ann"), row("ben"), row("cid")]
    make_busy("demo:ben:ben", monkeypatch)
    BotSession.objects.filter(user="cid").update(bot="gone")
    url, named = act_on("close", *chosen)
    said = told(operator.post(url, named, follow=True))
    assert said[0] == "1 session was closed."
    assert [each for each in said if "demo:ben:ben: a handler is still at work" in each]
    assert [each for each in said if "gone:cid:cid: its bot is not configured" in each]
    assert not row("ann").is_open
    assert row("ben").is_open
    assert recorded() == ["Closed the session."]


def test_a_busy_mailbox_is_told(
    session: BotSession, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_busy("demo:ann:ann", monkeypatch)
    before = state()
    for name in set(VERBS) - {"clear"}:
        url, named = act_on(name, session)
        [said] = told(operator.post(url, named, follow=True))
        assert "a handler is still at work there" in said, name
    page = html(operator.post(view_of(session, "send"), {"text": "This is Eve."}))
    assert "a handler is still at work there" in page
    assert ">\nThis is Eve.<" in page or ">This is Eve.<" in page
    data = {"json": '{"mine": 1}', "version": session.version}
    page = html(operator.post(view_of(session, "data"), data))
    assert "a handler is still at work there" in page
    assert "&quot;mine&quot;" in page
    assert state() == before


def test_too_many_are_refused(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    talk(message("tea"), message("milk", user="ben"))
    monkeypatch.setattr(verbs, "SECONDS", -1)
    url, named = act_on("close", row("ann"), row("ben"))
    assert told(operator.post(url, named, follow=True)) == [
        "It took too long: 2 were left as they were."
    ]
    now = row().created_at
    BotSession.objects.bulk_create(
        BotSession(bot="demo", chat=f"{n}", created_at=now, updated_at=now) for n in range(120)
    )
    pks = BotSession.objects.values_list("pk", flat=True)
    everything = {"action": "close", "_selected_action": list(pks), "index": "0"}
    response = operator.post(list_of("botsession"), everything, follow=True)
    assert told(response) == ["Choose at most 100 at a time. Nothing was done."]
    assert BotSession.objects.filter(is_open=True, qualifier="").count() == 2


def test_nonsense_is_refused(session: BotSession, operator: Client) -> None:
    url, _ = act_on("close", session)
    before = state()
    for ids in ("", "x", "-1", "9" * 50, "0", "1;2"):
        assert operator.post(url, {"ids": ids}).status_code == 302
    assert operator.get(url.replace("close", "explode")).status_code == 404
    assert operator.post(view_of(session, "send"), {"text": " "}).status_code == 200
    assert operator.post(view_of(session, "erase"), {"whom": "all"}).status_code == 200
    assert operator.post(view_of(session, "export"), {"what": "../x"}).status_code == 200
    assert state() == before


def test_somebody_is_erased(session: BotSession, operator: Client) -> None:
    """P32: by a receipt that does not name them, nor does the admin log."""
    page = html(operator.get(view_of(session, "erase")))
    assert "Sessions of the user: 2" in page
    data = {"whom": "user", "on_platform": "on"}
    response = operator.post(view_of(session, "erase"), data, follow=True)
    assert told(response) == ["The erasure has begun, and goes on by itself."]
    assert BotSession.objects.exists()
    operations.finish_erasures()
    assert not BotSession.objects.exists()
    [entry] = LogEntry.objects.all()
    assert "ann" not in f"{entry.object_repr} {entry.change_message}"


def test_a_platform_that_refuses_is_told(
    session: BotSession, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botsessions.exceptions import Forbidden

    def refuse(*_: Any) -> None:
        raise Forbidden("bot was <b>blocked</b> by the user", method="sendMessage")

    monkeypatch.setattr(operators, "send", refuse)
    page = html(operator.post(view_of(session, "send"), {"text": "hello"}))
    assert "bot was &lt;b&gt;blocked&lt;/b&gt; by the user" in page
    assert recorded() == []


def test_parked_updates_are_replayed_and_dropped(operator: Client) -> None:
    """P32."""
    talk(message("/fail"), message("/fail", user="ben"), message("tea", user="cid"))
    first, second = BotUpdate.objects.filter(status="parked").order_by("pk")
    done = BotUpdate.objects.filter(status="done").first()
    assert done is not None
    page = html(operator.get(page_of(first)))
    assert "LookupError: &lt;b&gt;on purpose&lt;/b&gt;" in page
    assert "bs-act-replay" in page
    assert "bs-act-replay" not in html(operator.get(page_of(done)))
    for verb, permission, update, status in (
        ("replay", "replay_botupdate", first, "pending"),
        ("drop", "drop_botupdate", second, "done"),
    ):
        url, named = act_on(verb, update)
        eve = staff("view_botupdate", name=f"not-{verb}")
        assert eve.post(url, named).status_code == 403
        update.refresh_from_db()
        assert update.status == "parked"
        eve = staff("view_botupdate", permission, name=verb)
        with nothing_written():
            html(eve.get(url, named))
        assert "1 update" in told(eve.post(url, named, follow=True))[0]
        update.refresh_from_db()
        assert update.status == status
        assert "neither parked nor held" in told(eve.post(url, named, follow=True))[0]
    assert recorded() == ["Replayed the update.", "Dropped the update."]
