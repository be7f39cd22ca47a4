"""`manage.py bots`, against a real Bot API server of our own, and with real signals."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import pytest
from aiohttp import web
from asgiref.sync import SyncToAsync
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings

from botsessions import Bot, Chat, Router, Session, Update, User
from botsessions.bots import bots
from botsessions.exceptions import MalformedBody, Unavailable
from botsessions.keys import chat_user, mailbox_of
from botsessions.mailboxes.base import Arrival
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.management import polling
from botsessions.models import BotSession, BotUpdate
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.telegram import TelegramPlatform
from botsessions.platforms.telegram_updates import UPDATE_TYPES
from tests import kit
from tests.kit import LOCAL, message
from tests.platforms.bot_api import Fault, StubBotApi

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "123456:stub-api-token_of-tests"
SECRET = "a-secret-of-these-tests"

#: A started engine has a thread of its own for the database: it sees what is committed.
at_work = pytest.mark.django_db(transaction=True)

Counted = Session[dict[str, Any]]
router = Router()


@router.command("tea")
async def tea(session: Counted) -> None:
    await session.send("Milk?", buttons={"Yes": "with milk", "No": "without"})


@router.action()
async def chosen(update: Update, bot: Bot) -> None:
    assert update.message is not None
    await bot.call(
        "edit",
        chat=update.message.chat.id,
        message_id=update.message.id,
        text=f"Tea {update.action}",
    )


@router.command("wipe")
async def wipe(update: Update, bot: Bot, session: Counted) -> None:
    await session.send("Wiping\nall of it\x1b[2J")
    await asyncio.sleep(0.3)  # so that it is seen
    platform = bot.platform
    assert isinstance(platform, LocalPlatform)
    assert update.chat is not None
    history = platform.network.history(update.chat.id)["messages"]
    ids = [str(each["message_id"]) for each in history]
    await platform.delete_messages(update.chat.id, ids)


@router.command("fail")
async def fail() -> None:
    raise LookupError("on purpose")


@router.command("slow")
async def slow(update: Update, session: Counted) -> None:
    await session.send("begun")
    await asyncio.sleep(float(update.arguments))
    session.data["n"] = -1


@router.message()
async def count(session: Counted) -> None:
    session.data["n"] = session.data.get("n", 0) + 1
    await session.send(f"count {session.data['n']}")


class Api(StubBotApi):
    """A Bot API that holds a question for updates while it has none, and asks us to stop then."""

    #: The signal that ends the command, once; 0 for none.
    stop = int(signal.SIGINT)
    #: How many messages the bot is to send before that.
    replies = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        #: The offsets from which updates were asked for.
        self.asked: list[int | None] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["method"] == "getUpdates":
            offset = (await request.json()).get("offset")
            self.asked.append(offset)
            left = [each for each in self.updates if each["update_id"] >= (offset or 0)]
            if not (left or self.webhook or self._planned["getUpdates"]):
                for _ in range(1000):
                    if self.methods().count("sendMessage") >= self.replies:
                        break
                    await asyncio.sleep(0.01)
                if self.stop:
                    os.kill(os.getpid(), self.stop)
                    self.stop = 0
                await self._stopping.wait()
        return await super()._handle(request)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as stub:
        yield stub


@pytest.fixture(autouse=True)
def configured(api: Api) -> Iterator[dict[str, Any]]:
    here = {"ROUTER": "tests.test_bots_command.router"}
    options = {"token": TOKEN, "secret": SECRET, "api_url": api.url, "timeout": 2}
    settings = {
        "BOTS": {
            "demo": {"PLATFORM": LOCAL, "OPTIONS": {"secret": SECRET}, **here},
            "shop": {
                "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
                "OPTIONS": options,
                "KEY": "chat",
                **here,
            },
        },
        "RETRY_DELAY": 0.01,
    }
    with override_settings(BOTSESSIONS=settings):
        yield settings


@pytest.fixture(autouse=True)
def database_thread() -> Iterator[None]:
    """Let the engine's thread hold no connection to a database that is about to go."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "FIRST_PAUSE", 0.01)


def run(*arguments: str, **options: Any) -> str:
    """Run the command in this process and return what it printed."""
    printed = io.StringIO()
    call_command("bots", *arguments, stdout=printed, **options)
    return printed.getvalue()


def refused(*arguments: str) -> str:
    """Run the command and return the sentence with which it failed."""
    with pytest.raises(CommandError) as error:
        run(*arguments)
    assert TOKEN not in str(error.value)
    return str(error.value)


def said(number: int, text: str = "hello") -> dict[str, Any]:
    """Return an update as Telegram gives it."""
    person = {"id": 7, "is_bot": False, "first_name": "Ann"}
    chat = {"id": 7, "type": "private", "first_name": "Ann"}
    message = {"message_id": number, "date": 1_700_000_000, "chat": chat, "from": person}
    return {"update_id": number, "message": message | {"text": text}}


# All of them


def test_help_is_there_for_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        (), ("list",), ("webhook",), ("webhook", "set"), ("webhook", "info"),
        ("webhook", "delete"), ("poll",), ("chat",), ("recover",),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            call_command("bots", *words, "--help")
        assert end.value.code == 0
        assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("webhook", "set", "nobody"), ("webhook", "info", "nobody"),
        ("webhook", "delete", "nobody"), ("poll", "nobody"), ("chat", "nobody"),
    ],
)  # fmt: skip
def test_unknown_bot_is_answered_with_those_there_are(arguments: tuple[str, ...]) -> None:
    assert "demo, shop" in refused(*arguments)


@pytest.mark.parametrize("arguments", [(), ("webhook",), ("nothing",), ("poll",)])
def test_incomplete_command_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run(*arguments)


def test_wrong_settings_are_a_sentence(configured: dict[str, Any]) -> None:
    configured["BOTS"]["shop"]["OPTIONS"] = {"token": TOKEN}
    with override_settings(BOTSESSIONS=configured):
        assert "secret" in refused("webhook", "info", "shop")
        assert "secret" in refused("poll", "shop")


# list


def test_bots_are_listed(configured: dict[str, Any]) -> None:
    bots_ = configured["BOTS"]
    bots_["wrong"] = {"PLATFORM": LOCAL}
    bots_["plain"] = bots_["demo"] | {"STORE": None, "KEY": chat_user}
    with override_settings(BOTSESSIONS=configured):
        rows = [line.split() for line in run("list").splitlines()]
    assert rows[0] == ["BOT", "PLATFORM", "KEY", "STORE", "WEBHOOK"]
    assert rows[1] == ["demo", "local", "chat_user", "default", "/webhooks/demo/"]
    assert rows[2] == ["shop", "telegram", "chat", "default", "/webhooks/shop/"]
    assert rows[3][0] == "wrong"
    assert "check)" in rows[3]
    assert rows[4][:4] == ["plain", "local", "botsessions.keys.chat_user", "-"]


def test_no_bots_are_listed_as_none() -> None:
    with override_settings(BOTSESSIONS={}):
        assert "No bots" in run("list")


def test_list_shows_where_webhooks_are_missing() -> None:
    with override_settings(ROOT_URLCONF="tests.test_checks"):
        assert run("list").splitlines()[1].endswith("-")


# webhook


def test_webhook_is_set_with_the_secret_and_every_type(api: Api) -> None:
    printed = run("webhook", "set", "shop", "--url", "https://bots.example.org/")
    assert "https://bots.example.org/webhooks/shop/" in printed
    [call] = api.calls
    assert call.method == "setWebhook"
    assert call.parameters == {
        "url": "https://bots.example.org/webhooks/shop/",
        "secret_token": SECRET,
        "allowed_updates": list(UPDATE_TYPES),
    }


def test_webhook_is_set_where_the_settings_say(api: Api, configured: dict[str, Any]) -> None:
    with override_settings(BOTSESSIONS=configured | {"WEBHOOK_URL": "https://example.org/bots"}):
        run("webhook", "set", "shop", "--drop-pending")
    assert api.calls[0].parameters["url"] == "https://example.org/bots/webhooks/shop/"
    assert api.calls[0].parameters["drop_pending_updates"] is True


@pytest.mark.parametrize("url", ["http://example.org", "example.org", "https://a b", "https://"])
def test_webhook_takes_https_alone(url: str, api: Api) -> None:
    assert "https://" in refused("webhook", "set", "shop", "--url", url)
    assert not api.calls


def test_webhook_without_an_address_is_refused(api: Api) -> None:
    sentence = refused("webhook", "set", "shop")
    assert "--url" in sentence
    assert "WEBHOOK_URL" in sentence


def test_webhook_without_a_path_is_refused() -> None:
    with override_settings(ROOT_URLCONF="tests.test_checks"):
        assert "urls.py" in refused("webhook", "set", "shop", "--url", "https://example.org")


def test_webhook_is_shown_and_deleted(api: Api) -> None:
    assert "no webhook" in run("webhook", "info", "shop")
    run("webhook", "set", "shop", "--url", "https://example.org")
    api.updates.append(said(1))
    printed = run("webhook", "info", "shop")
    assert "url: https://example.org/webhooks/shop/" in printed
    assert "pending_update_count: 1" in printed
    assert "deleted" in run("webhook", "delete", "shop")
    assert "no webhook" in run("webhook", "info", "shop")
    assert api.updates
    run("webhook", "delete", "shop", "--drop-pending")
    assert not api.updates


def test_webhook_info_is_readable_and_without_the_token(api: Api) -> None:
    info = {
        "url": f"https://elsewhere.example.org/{TOKEN}",
        "last_error_date": 1_700_000_000,
        "last_error_message": f"404 at /{TOKEN.partition(':')[2]}",
        "allowed_updates": ["message", "poll"],
        "ip_address": "",
    }
    api.plan("getWebhookInfo", {"ok": True, "result": info})
    printed = run("webhook", "info", "shop")
    assert "last_error_date: 2023-11-14 22:13:20+00:00" in printed
    assert "allowed_updates: message, poll" in printed
    assert "ip_address" not in printed
    assert TOKEN.partition(":")[2] not in printed


@pytest.mark.parametrize("action", ["set", "info", "delete"])
def test_platform_without_webhooks_is_refused(action: str) -> None:
    assert "no webhook" in refused("webhook", action, "demo")


def test_refusal_of_the_platform_is_a_sentence(api: Api) -> None:
    api.token = "654321:another-token-altogether"
    assert "Unauthorized" in refused("webhook", "info", "shop")
    api.plan("setWebhook", Fault.BAD_GATEWAY)
    assert "502" in refused("webhook", "set", "shop", "--url", "https://example.org")


# poll


@at_work
def test_poll_handles_what_waits_and_then_confirms_it(api: Api) -> None:
    api.updates += [said(number) for number in range(1, 6)]
    api.replies = 5
    printed = run("poll", "shop", verbosity=2)
    assert BotSession.objects.get().data == {"n": 5}
    assert BotUpdate.objects.filter(status="done").count() == 5
    assert api.asked == [None, 6]
    assert "Polling for bot 'shop'" in printed
    assert "5 updates, up to 5" in printed
    assert "Stopping" in printed


@at_work
def test_poll_takes_what_came_before_once(api: Api) -> None:
    api.updates.append(said(1))
    run("poll", "shop")
    api.stop = signal.SIGTERM
    api.updates.append(said(2))
    run("poll", "shop")
    assert BotSession.objects.get().data == {"n": 2}


@at_work
def test_poll_goes_on_through_failures_of_the_network(api: Api) -> None:
    api.updates.append(said(1))
    api.plan("getWebhookInfo", Fault.RESET)
    api.plan(
        "getUpdates",
        Fault.BAD_GATEWAY,
        {"ok": False, "error_code": 429, "description": "Slow", "parameters": {"retry_after": 1}},
        Fault.GIBBERISH,
    )
    began = time.monotonic()
    printed = run("poll", "shop")
    assert BotSession.objects.get().data == {"n": 1}
    assert printed.count("trying again in") == 4
    assert "in 1 s" in printed
    assert time.monotonic() - began >= 1
    assert TOKEN not in printed


@at_work
def test_poll_waits_longer_after_each_failure(api: Api) -> None:
    api.plan("getUpdates", *[Fault.GIBBERISH] * 3)
    printed = run("poll", "shop")
    for pause in ("0.01", "0.02", "0.04"):
        assert f"in {pause} s" in printed


@at_work
def test_poll_confirms_nothing_that_is_neither_committed_nor_stored(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away for a moment: the same updates are asked for again."""
    admit, failures = DatabaseMailbox.admit, [Unavailable("The database is away.")]

    def fail_once(self: DatabaseMailbox, *args: Any) -> Any:
        if failures:
            raise failures.pop()
        return admit(self, *args)

    monkeypatch.setattr(DatabaseMailbox, "admit", fail_once)
    api.updates += [said(1), said(2)]
    api.replies = 2
    printed = run("poll", "shop")
    assert "The database is away" in printed
    assert api.asked == [None, None, 3]
    assert BotSession.objects.get().data == {"n": 2}


@at_work
def test_poll_leaves_out_what_cannot_be_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = "deep"
    for _ in range(100):
        deep = [deep]
    api.updates += [said(1) | {"other": deep}, said(2), {"update_id": 3, "unknown": {}}]
    printed = run("poll", "shop")
    assert "Update 1 is left out" in printed
    assert BotSession.objects.get().data == {"n": 1}
    assert api.asked == [None, 4]


@at_work
def test_poll_beside_a_webhook_is_refused_and_deletes_nothing(api: Api) -> None:
    api.webhook = {"url": "https://example.org"}
    sentence = refused("poll", "shop")
    assert "bots webhook delete shop" in sentence
    assert api.webhook
    assert api.methods() == ["getWebhookInfo"]


@at_work
def test_poll_notices_a_webhook_that_is_set_later(api: Api) -> None:
    api.plan("getWebhookInfo", {"ok": True, "result": {"url": ""}})
    api.webhook = {"url": "https://example.org"}
    assert "bots webhook delete shop" in refused("poll", "shop")


@at_work
def test_poll_puts_up_with_another_poller_for_a_moment_only(api: Api) -> None:
    conflict = {
        "ok": False,
        "error_code": 409,
        "description": "Conflict: terminated by other getUpdates request; make sure that only one "
        "bot instance is running",
    }
    api.plan("getUpdates", conflict, conflict)
    api.updates.append(said(1))
    assert "trying again" in run("poll", "shop")
    assert BotSession.objects.get().data == {"n": 1}
    api.plan("getUpdates", *[conflict] * 4)
    assert "Another process polls" in refused("poll", "shop")


@at_work
def test_poll_with_a_wrong_token_ends(api: Api) -> None:
    api.token = "654321:another-token-altogether"
    assert "Unauthorized" in refused("poll", "shop")


def test_platform_that_cannot_be_polled_is_refused() -> None:
    assert "cannot be polled" in refused("poll", "demo")


@at_work
def test_signals_are_as_before_afterwards(api: Api) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    run("poll", "shop")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


# chat


def chat(typed: str | TextIO, *options: str) -> list[str]:
    stdin = io.StringIO(typed) if isinstance(typed, str) else typed
    return run("chat", "demo", *options, stdin=stdin).splitlines()


@at_work
def test_chat_answers_every_line_of_a_pipe_and_ends() -> None:
    assert chat("hello\n\n  hello \nhello") == [f"demo: count {number}" for number in (1, 2, 3)]
    assert BotSession.objects.get().user == "ann"
    assert chat("") == []


@at_work
def test_chat_goes_through_the_webhooks_door(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LocalPlatform, body: bytes) -> list[Update]:
        raise MalformedBody("Not today.")

    monkeypatch.setattr(LocalPlatform, "parse", refuse)
    assert chat("hello\n") == ["(Not delivered: Not today.)"]


@at_work
def test_chat_is_between_those_who_are_named() -> None:
    assert chat("hello\n", "--user", "ben", "--chat", "group") == ["demo: count 1"]
    session = BotSession.objects.get()
    assert (session.chat, session.user) == ("group", "ben")
    chat("hello\n", "--user", "zoe")
    assert BotSession.objects.filter(chat="zoe", user="zoe").exists()
    with pytest.raises(CommandError):
        chat("hello\n", "--user", "group")
    with pytest.raises(CommandError):
        chat("hello\n", "--chat", "channel")


@at_work
def test_chat_shows_and_presses_buttons() -> None:
    assert chat("/tea\n[Yes]\n[Yes]\n[Maybe]\n") == [
        "demo: Milk? [Yes] [No]",
        "(edited) demo: Tea with milk",
        "(That button is no longer there.)",
        "demo: count 1",
    ]


@at_work
def test_chat_shows_deletions_and_no_control_characters() -> None:
    assert chat("hello\n/wipe\n") == [
        "demo: count 1",
        "demo: Wiping",
        "    all of it\N{REPLACEMENT CHARACTER}[2J",
        "(deleted) Ann: hello",
        "(deleted) demo: count 1",
        "(deleted) Ann: /wipe",
        "(deleted) demo: Wiping",
        "    all of it\N{REPLACEMENT CHARACTER}[2J",
    ]


@at_work
def test_chat_shows_what_others_say_and_not_what_was_before() -> None:
    platform = bots["demo"].platform
    assert isinstance(platform, LocalPlatform)
    group = Chat("group", "group", "Group")
    platform.network.say(group, User("ben", "Ben"), "earlier")
    read, write = os.pipe()
    with os.fdopen(read) as stdin:
        os.write(write, b"hello\n")
        platform_says = platform.send

        async def send(chat: str, text: str, **options: Any) -> Any:
            platform.network.say(group, User("ben", "Ben"), "meanwhile")
            return await platform_says(chat, text, **options)

        platform.send = send  # type: ignore[method-assign]
        os.close(write)
        assert chat(stdin, "--chat", "group") == ["Ben: meanwhile", "demo: count 1"]


@at_work
def test_chat_tells_what_it_cannot_deliver() -> None:
    typed = f"{'x' * 5000}\nhello\0\nhello\n"
    printed = chat(typed)
    assert [line.startswith("(Not delivered") for line in printed] == [True, True, False]


@at_work
def test_chat_tells_that_the_bot_failed() -> None:
    assert chat("/fail\nhello\n") == [
        "(The bot failed; its log and the admin say why.)",
        "demo: count 1",
    ]


@at_work
def test_chat_at_a_terminal_ends_with_ctrl_d() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave) as stdin:
        os.write(master, b"hello\nhello\n\x04")
        printed = chat(stdin)
    os.close(master)
    assert "Ctrl-D" in printed[0]
    assert printed[1:] == ["demo: count 1", "demo: count 2"]


@at_work
def test_chat_begins_again_with_a_network_that_does(tmp_path: Path, configured: Any) -> None:
    path = tmp_path / "chat.sqlite3"
    configured["BOTS"]["demo"]["OPTIONS"]["path"] = str(path)
    with override_settings(BOTSESSIONS=configured):
        platform = bots["demo"].platform
        assert isinstance(platform, LocalPlatform)
        send = platform.send

        async def send_anew(chat: str, text: str, **options: Any) -> Any:
            platform.network.close()
            for each in tmp_path.glob("chat.sqlite3*"):
                each.unlink()
            return await send(chat, text, **options)

        platform.send = send_anew  # type: ignore[method-assign]
        assert chat("hello\nhello\n") == ["demo: count 1", "demo: count 2"]


@at_work
def test_chat_works_in_a_thread_which_hears_no_signals() -> None:
    def talk() -> list[str]:
        try:
            return chat("hello\n")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(talk).result() == ["demo: count 1"]


def test_chat_with_a_bot_elsewhere_is_refused() -> None:
    assert "LocalPlatform" in refused("chat", "shop")


# recover


@at_work
def test_recover_prints_how_many_mailboxes_it_took_up() -> None:
    update = message()
    DatabaseMailbox().store([Arrival(update, mailbox_of(update, chat_user(update)))])
    assert "1" in run("recover")
    assert "0" in run("recover")
    assert BotSession.objects.get().data == {"n": 1}


# Processes


class Process:
    """`manage.py bots ...` with a database and settings of its own."""

    def __init__(self, folder: Path, api_url: str = "") -> None:
        self.folder = folder
        bots = {
            "shop": {
                "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
                "ROUTER": "tests.test_bots_command.router",
                "OPTIONS": {"token": TOKEN, "secret": SECRET, "api_url": api_url},
            },
            "demo": {
                "PLATFORM": LOCAL,
                "ROUTER": "tests.test_bots_command.router",
                "OPTIONS": {"secret": SECRET, "path": str(folder / "chat.sqlite3")},
            },
        }
        (folder / "settings_of_this_test.py").write_text(
            f"from project.settings import *\nBOTSESSIONS = {{'BOTS': {bots!r}}}\n"
        )
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DATABASE_URL", "REDIS_URL", "TELEGRAM_TOKEN")
        } | {
            "DJANGO_SETTINGS_MODULE": "settings_of_this_test",
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "VAR_DIR": str(folder),
        }

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            output, _ = process.communicate(**options, timeout=30)
        return subprocess.CompletedProcess(arguments, process.returncode, output)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def query(self, sql: str) -> list[Any]:
        with sqlite3.connect(self.folder / "db.sqlite3") as connection:
            rows = connection.execute(sql).fetchall()
        connection.close()
        return rows


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables, and nothing in them."""
    folder = tmp_path_factory.mktemp("migrated")
    assert Process(folder).run("migrate", "--verbosity=0").returncode == 0
    return folder / "db.sqlite3"


@pytest.fixture
def process(tmp_path: Path, api: Api, migrated: Path) -> Process:
    api.stop = 0
    shutil.copy(migrated, tmp_path)
    return Process(tmp_path, api.url)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_poll_finishes_what_runs_when_it_is_asked_to_end(
    number: signal.Signals, process: Process, api: Api
) -> None:
    api.updates.append(said(1, "/slow 1"))
    with process.start("bots", "poll", "shop") as polling:
        until(lambda: "sendMessage" in api.methods())
        polling.send_signal(number)
        output, _ = polling.communicate(timeout=20)
    assert polling.returncode == 0
    assert "Stopping" in output
    assert process.query("SELECT status FROM botsessions_botupdate") == [("done",)]
    assert process.query("SELECT data FROM botsessions_botsession") == [('{"n":-1}',)]
    assert process.query("SELECT * FROM botsessions_mailboxlease") == []


@pytest.mark.processes
def test_second_signal_ends_it_at_once_and_recovery_does_the_rest(
    process: Process, api: Api
) -> None:
    api.updates.append(said(1, "/slow 9"))
    with process.start("bots", "poll", "shop") as polling:
        until(lambda: "sendMessage" in api.methods())
        until(lambda: process.query("SELECT * FROM botsessions_botupdate"))
        polling.send_signal(signal.SIGINT)
        time.sleep(0.2)
        polling.send_signal(signal.SIGINT)
        polling.communicate(timeout=20)
    assert polling.returncode == -signal.SIGINT
    assert process.query("SELECT status FROM botsessions_botupdate") == [("pending",)]


@pytest.mark.processes
def test_chat_works_in_a_pipe_of_the_shell(process: Process) -> None:
    result = process.run("bots", "chat", "demo", "--user", "ben", input="hello\nhello")
    assert result.returncode == 0
    assert result.stdout.splitlines() == ["demo: count 1", "demo: count 2"]


@pytest.mark.processes
def test_chat_ends_while_it_waits_for_a_line(process: Process) -> None:
    with process.start("bots", "chat", "demo") as chatting:
        assert chatting.stdin is not None
        assert chatting.stdout is not None
        chatting.stdin.write("hello\n")
        chatting.stdin.flush()
        assert chatting.stdout.readline() == "demo: count 1\n"
        chatting.send_signal(signal.SIGINT)
        assert chatting.wait(20) == 0


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [
        ("webhook", "set", "shop", "--url", "https://example.org"), ("webhook", "info", "shop"),
        ("webhook", "delete", "shop"), ("poll", "shop"), ("list",),
    ],
)  # fmt: skip
def test_no_traceback_shows_the_token(
    arguments: tuple[str, ...], process: Process, api: Api
) -> None:
    api.token = "654321:another-token-altogether"
    result = process.run("bots", *arguments, "--traceback", "-v", "3")
    assert ("Traceback" in result.stdout) == (arguments != ("list",))
    assert result.returncode == (arguments != ("list",))
    for secret in (TOKEN, TOKEN.partition(":")[2], SECRET):
        assert secret not in result.stdout


def test_telegram_has_what_the_command_asks_for() -> None:
    """What is found by its methods is found with them all."""
    assert isinstance(bots["shop"].platform, TelegramPlatform)
    assert polling.require(bots["shop"]) is bots["shop"].platform


@pytest.mark.django_db
def test_token_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    get_user_model()._default_manager.create(username="eve")
    with kit.running(router):
        call_command("bots", "token", "eve", "--bot=demo", "--expires=90")
        key = capsys.readouterr().out.strip()
        assert key.startswith("bs_")
        for arguments, said in ((["nobody"], "nobody"), (["eve", "--bot=typo"], "typo")):
            with pytest.raises(CommandError, match=said):
                call_command("bots", "token", *arguments)
