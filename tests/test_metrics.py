"""The figures for Prometheus: what is counted, who may see it, and where there is none."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import Client, override_settings
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from botsessions import Bot, Router, Session, checks, clock, metrics
from botsessions.exceptions import (
    Forbidden,
    NotFound,
    PlatformError,
    PlatformUnavailable,
    RateLimited,
)
from botsessions.models import BotSession, BotUpdate, MailboxLease
from botsessions.operations.heartbeat import beat
from botsessions.platforms.local import LocalPlatform
from tests.kit import configured, handle, message, running, texts
from tests.mailboxes.test_database_errors import database_away
from tests.pacing.kit import Noting, platform

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "a-token-for-the-metrics"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

router = Router()


@router.message()
async def count(session: Session) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


class Counted:
    """How much the metrics have counted since it was made: the tests of a run share them."""

    def __init__(self) -> None:
        self._before = self._samples()

    def __call__(self, name: str, **labels: str) -> float:
        key = (f"botsessions_{name}", tuple(sorted(labels.items())))
        return self._samples().get(key, 0) - self._before.get(key, 0)

    @staticmethod
    def _samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }


@pytest.fixture
def counted() -> Counted:
    return Counted()


# What is counted


@pytest.mark.django_db
async def test_updates_are_counted_by_what_became_of_them(counted: Counted) -> None:
    """P35."""
    failing = Router()

    @failing.message()
    async def handler(session: Session) -> None:
        session.data["text"] = "x" * 100
        if session.key.user == "ben":
            raise LookupError("on purpose")

    with running(failing, ATTEMPTS=2):
        update = message()
        await handle(update, message(), message(), message(user="ben"))
        await handle(update)
        await handle(message(bot="other"))
    assert counted("updates_received_total", bot="demo", decision="admitted") == 2
    assert counted("updates_received_total", bot="demo", decision="stored") == 2
    assert counted("updates_received_total", bot="demo", decision="duplicate") == 1
    assert counted("updates_handled_total", bot="demo", outcome="done") == 3
    assert counted("updates_handled_total", bot="demo", outcome="retry") == 1
    assert counted("updates_handled_total", bot="demo", outcome="parked") == 1
    assert counted("updates_handled_total", bot="other", outcome="done") == 1
    assert counted("state_bytes_count", bot="demo") == 1  # it was the same afterwards
    assert 100 < counted("state_bytes_sum", bot="demo") < 120
    assert counted("queue_seconds_count", bot="demo") == 2  # not the further attempt
    assert 0 <= counted("queue_seconds_sum", bot="demo") < 10
    assert counted("batch_updates_sum", verb="admit") == 6
    assert counted("batch_updates_sum", verb="commit") == 6
    assert 0 < counted("batch_seconds_sum", verb="admit") < 5
    assert 0 < counted("batch_seconds_sum", verb="commit") < 5


@pytest.mark.django_db
async def test_conflicts_and_lost_leases_are_counted(counted: Counted) -> None:
    """P35."""
    contended, seen = Router(), []

    @contended.message()
    async def handler(session: Session) -> None:
        seen.append(1)
        session.data["n"] = len(seen)
        if len(seen) == 1:
            await BotSession.objects.acreate(
                bot="demo", chat="ann", user="ann", version=3,
                created_at=clock.now(), updated_at=clock.now(),
            )  # fmt: skip
        if len(seen) == 2:
            await MailboxLease.objects.all().adelete()

    with running(contended):
        await handle(message())
    assert len(seen) == 3
    assert counted("conflicts_total", bot="demo") == 1
    assert counted("lease_losses_total", bot="demo") == 1
    assert counted("updates_handled_total", bot="demo", outcome="done") == 1


@pytest.mark.django_db
async def test_sends_are_counted_by_the_answer(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: dict[str, PlatformError] = {
        "rate_limited": RateLimited("slower", code=429),
        "forbidden": Forbidden("blocked", code=403),
        "invalid": NotFound("no such chat", code=404),
        "unavailable": PlatformUnavailable("no answer"),
    }
    sending = Router()

    @sending.message()
    async def handler(session: Session, bot: Bot) -> None:
        await session.send("one")
        await bot.call("send", chat="ann", text="two")
        await session.clear()
        await session.close()
        with pytest.raises(PlatformError):
            await session.send("three")

    send = LocalPlatform.send

    async def failing(self: LocalPlatform, chat: str, text: str, **options: Any) -> Any:
        if text == "three":
            raise errors[status]
        return await send(self, chat, text, **options)

    monkeypatch.setattr(LocalPlatform, "send", failing)
    with running(sending, RATE_WAIT=0):
        for status in errors:
            await handle(message())
            assert counted("sends_total", bot="demo", status=status) == 1
        assert texts() == ["two"] * 4
    assert counted("sends_total", bot="demo", status="ok") == 8  # clear and close send nothing


@pytest.mark.django_db
async def test_each_answer_to_a_send_is_counted(counted: Counted) -> None:
    """P35: also a 429 after which it is made again; what was not made at all is `delayed`."""
    sending = Router()

    @sending.message()
    async def handler(session: Session) -> None:
        for text in ("one", "two"):
            with pytest.raises(RateLimited):
                await session.send(text)

    with running(sending, platform=Noting, rates={"chat": (1, 60)}, RATE_WAIT=5):
        platform().refuse("ann", RateLimited("slower", code=429, retry_after=0.05))
        await handle(message())
    assert counted("sends_total", bot="demo", status="rate_limited") == 1
    assert counted("sends_total", bot="demo", status="ok") == 0
    assert counted("sends_total", bot="demo", status="delayed") == 2


def test_deletions_are_counted_by_outcome(counted: Counted) -> None:
    metrics.deletions("demo", "deleted", 90)
    metrics.deletions("demo", "too_old", 10)
    metrics.deletions("demo", "deleted")
    assert counted("deletions_total", bot="demo", outcome="deleted") == 91
    assert counted("deletions_total", bot="demo", outcome="too_old") == 10


@pytest.mark.django_db
async def test_what_cannot_be_counted_happens_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the folder that processes share is full."""

    def full(*labels: str) -> None:
        raise OSError("no space left on device")

    for metric in (metrics.RECEIVED, metrics.HANDLED, metrics.SENDS, metrics.DELETIONS):
        monkeypatch.setattr(metric, "labels", full)
    sending = Router()

    @sending.message()
    async def handler(session: Session) -> None:
        await session.send("hi")

    with running(sending):
        assert await handle(message()) == [None]
        assert texts() == ["hi"]
    metrics.deletions("demo", "deleted", 1)
    assert caplog.text.count("no space left on device") >= 4


# Who may see it


def read(token: str = TOKEN, **settings: Any) -> dict[str, float]:
    """Return the samples of the page, those of the app without its prefix."""
    with override_settings(BOTSESSIONS=configured(router, METRICS_TOKEN=TOKEN, **settings)):
        response = Client().get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    assert response["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.content.decode())
    return {
        f"{sample.name.removeprefix('botsessions_')}{sample.labels or ''}": sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.usefixtures("transactional_db")
def test_the_page_has_what_the_tables_know() -> None:
    for number, (status, bot) in enumerate(
        [("pending", "demo"), ("pending", "demo"), ("parked", "demo"), ("pending", "gone")]
    ):
        BotUpdate.objects.create(
            bot=bot, update_id=f"{number}", type="message", mailbox="demo:ann", status=status,
            received_at=clock.now(),
        )  # fmt: skip
    beat("sweep")
    samples = read()
    assert samples["database_up"] == 1
    assert samples["pending_updates{'bot': 'demo'}"] == 2
    assert samples["pending_updates{'bot': 'other'}"] == 0
    assert samples["pending_updates{'bot': 'gone'}"] == 1
    assert 0 < samples["oldest_pending_seconds{'bot': 'demo'}"] < 60
    assert samples["oldest_pending_seconds{'bot': 'other'}"] == 0
    assert samples["parked_updates{'bot': 'demo'}"] == 1
    assert samples["parked_updates{'bot': 'gone'}"] == 0
    assert 0 <= samples["heartbeat_seconds{'operation': 'sweep'}"] < 60
    assert "process_start_time_seconds" in samples


@pytest.mark.usefixtures("transactional_db")
def test_without_the_database_the_page_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.deletions("demo", "gone", 1)
    with database_away(monkeypatch):
        samples = read()
    assert samples["database_up"] == 0
    assert samples["deletions_total{'bot': 'demo', 'outcome': 'gone'}"] >= 1
    assert not [name for name in samples if name.startswith("pending")]
    assert read()["database_up"] == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer é",
    ],
)
def test_without_the_token_nothing_is_shown(header: str) -> None:
    headers = {"Authorization": header} if header else {}
    with override_settings(BOTSESSIONS=configured(router, METRICS_TOKEN=TOKEN), DEBUG=True):
        response = Client().get("/metrics", headers=headers)
    assert response.status_code == 403
    assert b"METRICS_TOKEN" in response.content
    assert TOKEN.encode() not in response.content


@pytest.mark.usefixtures("transactional_db")
def test_where_no_token_is_set_only_a_developer_sees_them() -> None:
    with override_settings(BOTSESSIONS=configured(router)):
        assert Client().get("/metrics").status_code == 403
        assert Client().get("/metrics", headers={"Authorization": "Bearer "}).status_code == 403
        with override_settings(DEBUG=True):
            assert Client().get("/metrics").status_code == 200


@pytest.mark.parametrize("token", [None, 7, "short", "fifteen-letters", "a token with spaces"])
def test_a_token_that_cannot_be_one_is_found_by_the_checks(token: object) -> None:
    with override_settings(BOTSESSIONS=configured(router, METRICS_TOKEN=token)):
        [problem] = run_checks(tags=[checks.TAG])
    assert problem.id == "botsessions.E008"
    assert f"{token!r}" not in f"{problem}"
    for sound in ("", TOKEN, secrets.token_urlsafe(48)):
        with override_settings(BOTSESSIONS=configured(router, METRICS_TOKEN=sound)):
            assert run_checks(tags=[checks.TAG]) == []


# Where the library is not installed, and where processes count together


def in_a_process(code: str, **environment: str) -> str:
    """Run code in a Python of its own, set up as the project is."""
    setup = "import django; django.setup()\n"
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code.replace('SETUP', setup)}"],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"} | environment,
        cwd=ROOT, check=True, text=True, capture_output=True,
    ).stdout  # fmt: skip


def test_without_the_library_all_goes_on_and_the_page_says_what_to_install() -> None:
    said = in_a_process(
        """
sys.modules["prometheus_client"] = None
SETUP
from django.test import Client
from botsessions import metrics
import botsessions.engine
assert not metrics.IS_INSTALLED
metrics.deletions("demo", "deleted", 3)
metrics.count("admits", [object()], object(), 0.1)
response = Client(raise_request_exception=True).get("/metrics", headers={"host": "localhost"})
print(response.status_code, response.content.decode())
"""
    )
    assert said.startswith("404 There are no metrics here")
    assert "django-botsessions[metrics]" in said


def test_processes_that_share_a_folder_count_together(tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    counting = "SETUP\nfrom botsessions import metrics\nmetrics.deletions('demo', 'deleted', {})"
    for number in (2, 3):
        in_a_process(counting.format(number), **environment)
    page = in_a_process(
        "SETUP\nfrom botsessions import metrics\nprint(metrics.page(["
        "metrics.Figure('up', 'Up?', (), {(): 1.0})])[0].decode())",
        **environment,
    )
    assert 'botsessions_deletions_total{bot="demo",outcome="deleted"} 5.0' in page
    assert "botsessions_up 1.0" in page


# The documentation


def test_every_metric_is_documented() -> None:
    documented = set(
        re.findall(r"^\| `(botsessions_\w+)`", (ROOT / "docs/monitoring.md").read_text(), re.M)
    )
    ours: list[Callable[..., Any]] = [
        value for value in vars(metrics).values() if hasattr(value, "describe")
    ]
    names = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}"
        for metric in ours
        for family in metric.describe()  # type: ignore[attr-defined]
    }
    assert len(names) == 10
    figures = {
        f"botsessions_{name}"
        for name in re.findall(
            r'Figure\(\s*"(\w+)"', (ROOT / "botsessions/health/views.py").read_text()
        )
    }
    assert len(figures) == 5
    assert documented == names | figures
