"""What the log says of an update, and that no token is in it."""

import asyncio
import io
import json
import logging
import logging.config
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import Client, override_settings

from botsessions import Bot, Router, Session, Update
from botsessions.exceptions import PlatformError, Unavailable
from botsessions.logs import JsonFormatter, UpdateFilter
from botsessions.mailboxes.base import Effect
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate
from project.settings import LOGGING
from tests.kit import handle, message, running
from tests.platforms.bot_api import Fault, StubBotApi

ROOT = Path(__file__).resolve().parents[1]
SECRET_PART = "AA-the-secret-part-of-a-token"
TOKEN = f"987654321:{SECRET_PART}"
WEBHOOK_SECRET = "a-secret-that-Telegram-sends"

log = logging.getLogger("shop.orders")


class Records(logging.Handler):
    """Keeps what passes the filter, as records and as lines of JSON."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(UpdateFilter())
        self.setFormatter(JsonFormatter())
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.lines.append(self.format(record))

    def said(self, text: str) -> dict[str, Any]:
        """Return the one line whose message has this text."""
        [line] = [line for line in map(json.loads, self.lines) if text in line["message"]]
        assert isinstance(line, dict)
        return line


@contextmanager
def listening(level: int = logging.DEBUG) -> Iterator[Records]:
    """Let every logger speak of everything, and keep it."""
    records = Records()
    names = ["", "aiohttp", "asyncio", "botsessions", "celery", "django", "shop"]
    loggers = [logging.getLogger(name) for name in names]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(level)
    logging.getLogger().addHandler(records)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(records)
        for each, was in zip(loggers, before, strict=True):
            each.setLevel(was)


# What a record says of its update


@pytest.mark.django_db
async def test_every_record_of_a_handler_has_its_update() -> None:
    router = Router()

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        log.info("asynchronous %s", update.text)
        await asyncio.sleep(0)
        await sync_to_async(log.info)("in a thread %s", update.text)

    with running(router), listening(logging.INFO) as records:
        log.info("before")
        updates = [message(f"{user}", user=user) for user in ("ann", "ben")]
        await handle(*updates)
        log.info("after")
    for update in updates:
        for words in ("asynchronous", "in a thread"):
            line = records.said(f"{words} {update.text}")
            assert line["logger"] == "shop.orders"
            assert line["level"] == "INFO"
            assert line["bot"] == "demo"
            assert line["mailbox"] == f"demo:{update.text}:{update.text}"
            assert line["update"] == update.id
            assert line["attempt"] == 1
    for text in ("before", "after"):
        assert set(records.said(text)) == {"time", "level", "logger", "message"}


@pytest.mark.django_db
async def test_synchronous_handlers_and_tasks_that_were_left_behind() -> None:
    router, left = Router(), []
    free = asyncio.Event()

    async def stay() -> None:
        await free.wait()
        log.info("left behind")

    @router.command("sync")
    def handler(update: Update) -> None:
        log.info("synchronous")

    @router.message()
    async def leave(update: Update) -> None:
        left.append(asyncio.create_task(stay()))

    with running(router), listening(logging.INFO) as records:
        await handle(message("/sync"), message("x", user="ben"))
        free.set()
        await asyncio.gather(*left)
    assert records.said("synchronous")["mailbox"] == "demo:ann:ann"
    assert "update" not in records.said("left behind")


@pytest.mark.django_db
async def test_a_failure_is_told_with_its_update_and_attempt() -> None:
    router = Router()

    @router.message()
    async def handler(session: Session) -> None:
        raise LookupError("on purpose")

    with running(router, ATTEMPTS=2), listening(logging.INFO) as records:
        update = message()
        await handle(update)
    for attempt, words in ((1, "(attempt 1, again in"), (2, "(attempt 2, parked)")):
        line = records.said(words)
        assert (line["update"], line["attempt"]) == (update.id, attempt)
        assert (line["bot"], line["mailbox"]) == ("demo", "demo:ann:ann")
        assert line["exc_info"].startswith("Traceback (most recent call last):\n")
        assert line["exc_info"].endswith("LookupError: on purpose")


@pytest.mark.django_db
async def test_a_failure_that_the_commit_meets_is_told_with_its_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router, commit = Router(), DatabaseMailbox.commit

    @router.message()
    async def handler(session: Session) -> None:
        session.data["n"] = 1

    def broken(self: DatabaseMailbox, commits: Any) -> Any:
        if any(each.effect is Effect.DONE for each in commits):
            raise ValueError("the database will not take this")
        return commit(self, commits)

    monkeypatch.setattr(DatabaseMailbox, "commit", broken)
    with running(router, ATTEMPTS=1), listening(logging.INFO) as records:
        update = message()
        await handle(update)
    line = records.said("(attempt 1, parked)")
    assert (line["bot"], line["mailbox"], line["update"]) == ("demo", "demo:ann:ann", update.id)


@pytest.mark.django_db
async def test_what_is_said_of_an_update_outside_its_handler_names_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Router()

    @router.message()
    async def handler(session: Session) -> None:
        session.data["n"] = 1

    def broken(*arguments: Any) -> None:
        raise ValueError("the database will not take this")

    monkeypatch.setattr(DatabaseMailbox, "admit", broken)
    with running(router), listening(logging.INFO) as records:
        update = message()
        [answer] = await handle(update)
    assert isinstance(answer, Unavailable)
    line = records.said("cannot be written")
    assert (line["bot"], line["update"], line["attempt"]) == ("demo", update.id, 1)


# The formats


def formatted(formatter: str, record: logging.LogRecord) -> str:
    """Return a record as the project's handler writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(UpdateFilter())
    config: dict[str, Any] = LOGGING["formatters"][formatter]
    factory = logging.config.DictConfigurator({"version": 1})
    handler.setFormatter(factory.configure_formatter(dict(config)))
    handler.handle(record)
    return stream.getvalue()


def record(text: str, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord(
        "shop", logging.WARNING, __file__, 1, text, (), None, extra=extra
    )


def test_a_line_shows_the_update_where_there_is_one() -> None:
    line = formatted("line", record("Sold out.", bot="demo", mailbox="demo:ann:ann", update="17"))
    assert line.endswith(" WARNING shop [demo demo:ann:ann 17]: Sold out.\n")
    assert formatted("line", record("Sold out.")).endswith(" WARNING shop: Sold out.\n")


def test_json_is_one_object_a_line_whatever_is_said() -> None:
    try:
        raise LookupError("first\nsecond")
    except LookupError:
        failure = record('a "quoted"\nline \ud800', bot="demo", mailbox="m", update=object())
        failure.exc_info = sys.exc_info()
        failure.stack_info = "Stack (most recent call last):"
    line = formatted("json", failure)
    assert line.count("\n") == 1
    said = json.loads(line)
    assert said["message"] == 'a "quoted"\nline \ud800'
    assert said["time"].endswith("+00:00")
    assert "LookupError: first\nsecond" in said["exc_info"]
    assert said["exc_info"].endswith("Stack (most recent call last):")


@pytest.mark.parametrize(
    ("chosen", "formatter"), [("", "line"), ("line", "line"), ("json", "json")]
)
def test_the_environment_chooses_the_format(chosen: str, formatter: str, tmp_path: Path) -> None:
    code = "import project.settings as s; print(s.LOGGING['handlers']['stderr']['formatter'])"
    environment = os.environ | {"LOG_FORMAT": chosen, "VAR_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, cwd=ROOT, check=True, text=True, capture_output=True,
    )  # fmt: skip
    assert done.stdout.strip() == formatter


# No token anywhere


def unreachable() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def refusal(code: int, description: str, **parameters: Any) -> dict[str, Any]:
    answer = {"ok": False, "error_code": code, "description": description}
    return answer | ({"parameters": parameters} if parameters else {})


@pytest.mark.usefixtures("transactional_db")
def test_no_token_is_in_any_log_or_answer() -> None:
    """Promise 10: whatever the Bot API does, with every logger at DEBUG."""
    router, heard = Router(), []

    @router.command("raise")
    async def raising(update: Update, bot: Bot) -> None:
        secret = bot  # in a local variable, which error pages show and logs do not
        raise LookupError(f"{secret!r} {bot.platform!r} cannot")

    @router.command("clear")
    async def clear(session: Session) -> None:
        await session.send("to be deleted")
        heard.append(f"{await session.clear()}")

    @router.message()
    async def handler(update: Update, session: Session, bot: Bot) -> None:
        try:
            await session.send(update.text)
        except PlatformError as error:
            heard.append(f"{error} {error!r} {vars(error)}")
            log.exception("A send of %r by %r failed.", session, bot)
            if update.text == "fails":
                raise

    with StubBotApi(token=TOKEN) as api:
        places = {"shop": api.url, "nowhere": unreachable()}
        bots = {
            alias: {
                "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
                "ROUTER": router,
                "OPTIONS": {
                    "token": TOKEN, "secret": WEBHOOK_SECRET, "api_url": url, "timeout": 0.2
                },
            }
            for alias, url in places.items()
        }  # fmt: skip
        settings = {"BOTS": bots, "ATTEMPTS": 2, "RETRY_DELAY": 0.01, "RATE_WAIT": 5}
        api.plan(
            "sendMessage",
            None,
            refusal(401, f"Unauthorized: {TOKEN}"),
            refusal(429, "Too Many Requests", retry_after=0.1),
            refusal(500, f"Internal Server Error in /bot{TOKEN}/sendMessage"),
            Fault.RESET,
            Fault.SILENCE,
            Fault.GIBBERISH,
            Fault.BAD_GATEWAY,
        )

        async def speak() -> None:
            asyncio.get_running_loop().set_debug(True)
            texts = [*map(str, range(8)), "/clear", "/raise"]
            for text in texts:  # each to somebody else: nobody waits for a rate
                await handle(message(text, bot="shop", user=f"user {text}"))
            await handle(message("fails", bot="nowhere"))

        with override_settings(BOTSESSIONS=settings), listening() as records:
            async_to_sync(speak)()
            client = Client(raise_request_exception=False)
            for headers in ({"X-Telegram-Bot-Api-Secret-Token": WEBHOOK_SECRET}, {}):
                client.post("/webhooks/shop/", b"{", "application/json", headers=headers)
            answers = [
                client.get(path).content.decode() for path in ("/healthz", "/readyz", "/metrics")
            ]
            with override_settings(DEBUG=True):
                answers.append(client.get("/metrics").content.decode())

    assert len(api.calls) >= 10
    assert {call.token for call in api.calls} == {TOKEN}
    assert any("no connection" in each for each in heard)
    assert any("in time" in each for each in heard)
    assert any("broke" in each for each in heard)
    assert any("none of a Bot API" in each for each in heard)
    assert any("***" in each for each in heard)
    assert BotUpdate.objects.filter(status="parked").count() == 2
    assert "botsessions_sends_total" in answers[-1]
    assert {record.name.partition(".")[0] for record in records.records} >= {"botsessions", "shop"}
    assert len(records.lines) > 15
    stored = [*BotUpdate.objects.values(), *BotSession.objects.values()]
    everything = "\n".join(
        [
            *records.lines,
            *(f"{vars(each)}" for each in records.records),
            *heard,
            *answers,
            f"{stored}",
        ]
    )
    assert "LookupError" in everything
    for secret in (TOKEN, SECRET_PART, WEBHOOK_SECRET):
        assert secret not in everything
