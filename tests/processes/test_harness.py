"""The harness that is shipped: it passes what is sound, and finds what is not."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from django.db.models import F

from botsessions import Chat, Update, User, clock
from botsessions.mailboxes.base import Admission, Admitted, Arrival
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate
from botsessions.testing.harness.bot import PREFIX, Heard, numbers
from botsessions.testing.harness.command import parse
from botsessions.testing.harness.history import Options, blows, chats
from botsessions.testing.harness.mailbox import own_mailbox
from botsessions.testing.harness.rows import Parked, Unfinished
from botsessions.testing.harness.tally import Tally
from botsessions.testing.harness.verdict import Judgement, Verdict, judge, some
from botsessions.testing.harness.wire import Sign
from botsessions.testing.points import POINTS
from tests.processes.database import Database, PostgreSQL, SQLite
from tests.processes.server import ENVIRONMENT, ROOT
from tests.services import postgresql_url

HARNESS = [sys.executable, "-m", "botsessions.testing.harness"]
HERE = "tests.processes.test_harness"
TABLES = ("botsession", "botupdate", "mailboxlease", "trackedmessage")
VERDICT = re.compile(
    r"([\d,]+) lost, ([\d,]+) doubled, ([\d,]+) misordered of ([\d,]+) updates in (\d+) chats; "
    r"(\d+) kills, ([\d,]+) duplicates, (\d+) s"
)
#: A small run without kills: enough to find a mailbox that is wrong in itself.
SMALL = ["--updates=120", "--chats=5", "--kills=0", "--pauses=0", "--processes=2"]

#: Leaves an update of the settings' own bot, and one of a bot that they do not have (any more).
LEAVE_FOREIGN = """
import django
django.setup()
from botsessions import Chat, Update, User
from botsessions.mailboxes.base import Arrival
from botsessions.mailboxes.database import DatabaseMailbox
DatabaseMailbox().store([
    Arrival(
        Update(bot, "7", "message", chat=Chat("ann"), user=User("ann"), text="/count"),
        f"{bot}:ann:ann",
    )
    for bot in ("chat", "nobody")
])
"""


class Throwaway(PostgreSQL):
    """A database beside that of the fleet."""

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self.name = f"test_botsessions_harness_{os.getpid()}"
        self.url = urlsplit(server)._replace(path=f"/{self.name}").geturl()


class Project:
    """A project with a database, in which updates wait that are no business of the harness."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.environment = os.environ | ENVIRONMENT
        self.environment |= {"DATABASE_URL": database.url, "PROCESSES_FOLDER": str(folder)}
        self.environment |= {"TMPDIR": str(folder)}  # where logs are kept of what went wrong

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            arguments,
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def try_out(self, *arguments: str, **environment: str) -> "Outcome":
        return Outcome(self.run(*HARNESS, *arguments, **environment))

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all that is stored."""
        query = self.database.query
        return {
            name: sorted(query(f"SELECT * FROM botsessions_{name}"), key=repr)  # noqa: S608
            for name in TABLES
        }


class Outcome:
    """How a run of the harness ended."""

    def __init__(self, ended: "subprocess.CompletedProcess[str]") -> None:
        self.status, self.out, self.errors = ended.returncode, ended.stdout, ended.stderr

    def __repr__(self) -> str:
        return f"{self.status}\n{self.out}\n{self.errors}"

    @property
    def verdict(self) -> dict[str, int]:
        found = VERDICT.fullmatch(self.out.splitlines()[-1])
        assert found, self
        names = ("lost", "doubled", "misordered", "updates", "chats", "kills", "duplicates", "s")
        values = (int(each.replace(",", "")) for each in found.groups())
        return dict(zip(names, values, strict=True))

    def struck(self, point: str) -> tuple[int, int]:
        """Return how many processes were killed and paused at a point."""
        [line] = [line for line in self.out.splitlines() if line.split()[:1] == [point]]
        _, kills, pauses = line.split()
        return int(kills), int(pauses)


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)],
)
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("harness")
    on_server = request.param == "postgresql"
    database = Throwaway(postgresql_url() or "") if on_server else SQLite(folder / "db.sqlite3")
    database.make()
    try:
        project = Project(database, folder)
        for command in (["-m", "django", "migrate", "-v0"], ["-c", LEAVE_FOREIGN]):
            assert project.run(sys.executable, *command).returncode == 0
        yield project
    finally:
        database.drop()


on_sqlite = pytest.mark.parametrize("project", ["sqlite"], indirect=True)


# Whole runs


@pytest.mark.processes
def test_a_sound_project_passes_and_is_left_as_it_was(project: Project) -> None:
    """P38: killed at every point, paused past a lease, with copies of a third of the updates."""
    before = project.rows()
    began = time.monotonic()
    outcome = project.try_out("--updates=300", "--kills=6", "--pauses=1")
    assert outcome.status == 0, outcome
    assert time.monotonic() - began < 60

    found = outcome.verdict
    assert (found["lost"], found["doubled"], found["misordered"]) == (0, 0, 0)
    assert (found["updates"], found["chats"]) == (300, 20)
    assert found["kills"] >= 6
    assert found["duplicates"] > 50
    # A short history may be over before an update comes to the last of them.
    struck = [outcome.struck(point) for point in POINTS]
    assert sum(kills for kills, _ in struck) >= 5, outcome
    assert sum(pauses for _, pauses in struck) <= 1
    # Its own rows are gone; what waits for other bots waits still.
    assert project.rows() == before
    assert len(before["botupdate"]) == 2


class Forgetful(DatabaseMailbox):
    """A mailbox that does not remember what is done."""

    def admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        self.flush()
        ids = [each.update.id for each in arrivals]
        stored = BotUpdate.objects.using(self.using)
        stored.filter(update_id__in=ids, status="done", bot__startswith=PREFIX).delete()
        return super().admit(arrivals, token)


class Careless(DatabaseMailbox):
    """A mailbox that acknowledges what it does not store."""

    def admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        admitted = super().admit(arrivals, token)
        self.flush()
        decided = zip(arrivals, admitted.decisions, strict=True)
        ids = [each.update.id for each, decision in decided if decision is Admission.STORED]
        BotUpdate.objects.using(self.using).filter(
            update_id__in=ids, status="pending", bot__startswith=PREFIX
        ).delete()
        return admitted


class Backward(DatabaseMailbox):
    """A mailbox that takes up the newest of its updates first."""

    def admit(self, arrivals: Sequence[Arrival], token: str) -> Admitted:
        admitted = super().admit(arrivals, token)
        self.flush()
        waiting = BotUpdate.objects.using(self.using).filter(
            mailbox__in=[each.mailbox for each in arrivals], status="pending"
        )
        waiting.update(attempts=F("id") % 30_000)  # what was tried most comes first
        return admitted


class Broken(DatabaseMailbox):
    """A mailbox that cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("This mailbox is broken.")


@on_sqlite
@pytest.mark.processes
@pytest.mark.parametrize(
    ("mailbox", "fault"), [(Forgetful, "doubled"), (Careless, "lost"), (Backward, "misordered")]
)
def test_a_wrong_mailbox_is_found(
    project: Project, mailbox: type[DatabaseMailbox], fault: str
) -> None:
    before = project.rows()
    path = f"--mailbox={HERE}.{mailbox.__name__}"
    outcome = project.try_out(*SMALL, "--seed=3", path)
    assert outcome.status == 1, outcome
    assert outcome.verdict[fault] > 0
    assert "--seed 3" in outcome.out
    assert re.search(r"^CHAT +LOST +DOUBLED +MISORDERED$", outcome.out, re.MULTILINE)
    assert project.rows() == before


@on_sqlite
@pytest.mark.processes
def test_a_process_that_ends_by_itself_is_told_with_its_log(project: Project) -> None:
    outcome = project.try_out(*SMALL, f"--mailbox={HERE}.Broken")
    assert outcome.status == 1
    assert "A process ended by itself, with status 1." in outcome.errors
    assert "This mailbox is broken." in outcome.errors


@on_sqlite
@pytest.mark.processes
def test_a_run_that_takes_too_long_is_given_up(project: Project) -> None:
    before = project.rows()
    outcome = project.try_out("--updates=2000", "--chats=2", "--kills=0", "--timeout=1")
    assert outcome.status == 1, outcome
    assert "were not acknowledged within 1 s" in outcome.out
    # What was not acknowledged is no loss, and what waits is not lost yet.
    assert outcome.verdict["lost"] == 0
    assert project.rows() == before


@pytest.mark.processes
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@on_sqlite
def test_who_stops_it_leaves_nothing_behind(project: Project, sign: signal.Signals) -> None:
    before = project.rows()
    with subprocess.Popen(
        HARNESS, cwd=ROOT, env=project.environment, stderr=subprocess.PIPE, text=True
    ) as harness:
        deadline = time.monotonic() + 30
        while len(project.rows()["botupdate"]) < 50:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes = psutil.Process(harness.pid).children()
        assert processes
        harness.send_signal(sign)
        _, errors = harness.communicate(timeout=30)
    assert (harness.returncode, errors) == (130, "Stopped.\n")
    assert not any(process.is_running() for process in processes)
    assert project.rows() == before


# What is refused


@on_sqlite
@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {"DJANGO_SETTINGS_MODULE": ""}, "No settings are named. Say --settings"),
        (["--settings=tests.nowhere"], {}, "The settings tests.nowhere cannot be used: No module"),
        (["--settings=tests.processes.notes"], {}, "INSTALLED_APPS of tests.processes.notes lacks"),
        ([], {"DATABASE_URL": "sqlite://:memory:"}, "SQLite in memory, which processes cannot"),
        (
            [],
            {"DATABASE_URL": "postgresql://postgres@127.0.0.1:1/none"},
            "Database 'default' does not answer:",
        ),
        (["--mailbox=tests.nowhere.Mailbox"], {}, "--mailbox tests.nowhere.Mailbox: No module"),
        (["--mailbox=builtins.dict"], {}, "builtins.dict is no subclass of"),
        (["--store=nowhere"], {}, "--store nowhere is not in BOTSESSIONS['STORES'] (default)."),
        (["--updates=0"], {}, "argument --updates: 0 is less than 1"),
        (["--duplicates=2"], {}, "argument --duplicates: 2 is not between 0 and 1"),
        (["--timeout=0"], {}, "argument --timeout: 0 is not above 0"),
        (["--chats=1", "--updates=2001"], {}, "at most 2,000 updates a chat"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    project: Project, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    outcome = project.try_out(*arguments, **environment)
    assert outcome.status == 2
    assert message in outcome.errors
    assert "Traceback" not in outcome.errors
    assert outcome.out == ""


@on_sqlite
@pytest.mark.processes
def test_a_database_without_its_tables_is_refused(project: Project, tmp_path: Path) -> None:
    outcome = project.try_out(DATABASE_URL=f"sqlite:///{tmp_path / 'new.sqlite3'}")
    assert outcome.status == 2
    assert "lacks migrations (0001_initial" in outcome.errors
    assert "manage.py migrate botsessions --database default" in outcome.errors


# The mailbox under test


def waiting(bot: str, chat: str) -> Arrival:
    person = User(chat)
    return Arrival(
        Update(bot, f"{chat}-1", "message", chat=Chat(chat), user=person), f"{bot}:{chat}:{chat}"
    )


@pytest.mark.django_db
def test_only_its_own_updates_are_recovered_and_its_own_deadlines_looked_for() -> None:
    mailbox = own_mailbox(f"{HERE}.Forgetful", f"{PREFIX}1")
    assert isinstance(mailbox, Forgetful)
    foreign = [waiting("shop", f"{number}") for number in range(3)]
    own = [waiting(f"{PREFIX}1", "1"), waiting(f"{PREFIX}1", "2")]
    mailbox.store([*foreign, waiting(f"{PREFIX}12", "1"), *own])
    past = clock.now() - timedelta(minutes=1)
    for bot in ("shop", f"{PREFIX}1"):
        BotSession.objects.create(
            bot=bot, chat="1", flow={"name": "x"}, due_at=past, created_at=past, updated_at=past
        )

    found = mailbox.recover(2, "token")
    assert [each.mailbox for each in found] == [each.mailbox for each in own]
    assert mailbox.recover(2, "other") == []
    assert [key.bot for key, _ in mailbox.due(["shop"], 10)] == [f"{PREFIX}1"]
    assert len(DatabaseMailbox().recover(10, "servers")) == 4


# What is chosen by the seed


def test_a_seed_makes_one_history() -> None:
    options = Options(updates=203, chats=7, seed=5)
    history = chats("bot", options)
    assert chats("bot", options) == history
    assert chats("bot", Options(updates=203, chats=7, seed=6)) != history

    said = [each for bursts in history.values() for burst in bursts for each in burst]
    assert sorted(int(each.update.id) for each in said) == list(range(1, 204))
    for bursts in history.values():
        spoken = [each.number for burst in bursts for each in burst]
        assert spoken == list(range(1, len(spoken) + 1))
    assert 30 < sum(each.copy is not None for each in said) < 100


def test_enough_kills_strike_at_every_point() -> None:
    for seed in range(20):
        struck = blows(Options(kills=6, pauses=2, seed=seed))
        assert len(struck) == 8
        assert {each.point for each in struck if each.sign is Sign.KILL} == set(POINTS)
    assert len(blows(Options(kills=2, pauses=0))) == 2


def test_what_the_command_line_asks_for() -> None:
    options, settings = parse(["--settings", "shop.settings", "--seed", "9", "--kills", "3"])
    assert (options, settings) == (Options(seed=9, kills=3), "shop.settings")
    assert parse([])[0].seed != parse([])[0].seed


# The verdict


@pytest.mark.parametrize(
    "spoken", [[], [1], [1, 2, 3], [2, 1, 3], [1, 2, 2, 3], [3, 4, 1, 1, 2, 9, 10]]
)
def test_a_session_notes_what_it_heard_and_how_often(spoken: list[int]) -> None:
    heard = Heard()
    for number in spoken:
        heard.add(number)
    assert numbers(heard.runs) == spoken


def test_what_goes_well_is_noted_in_one_run() -> None:
    heard = Heard()
    for number in range(1, 1_001):
        heard.add(number)
    assert heard.runs == [[1, 1_000]]


BURSTS = [[1], [2, 3], [4], [5]]


@pytest.mark.parametrize(
    ("heard", "found"),
    [
        ([1, 2, 3, 4, 5], ([], [], [])),
        ([1, 3, 2, 4, 5], ([], [], [])),  # said at once, so accepted in any order
        ([1, 2, 4, 5], ([3], [], [])),
        ([], ([1, 2, 3, 4, 5], [], [])),
        ([1, 2, 3, 2, 4, 5, 1], ([], [1, 2], [])),
        ([2, 1, 3, 5, 4], ([], [], [1, 4])),
        ([4, 4, 1, 5], ([2, 3], [4], [1])),
    ],
)
def test_lost_doubled_and_misordered_numbers_are_named(
    heard: list[int], found: tuple[list[int], list[int], list[int]]
) -> None:
    judgement = judge(BURSTS, heard, range(1, 6))
    assert judgement == Judgement(*found)
    assert bool(judgement) == any(found)


def test_what_was_not_acknowledged_or_still_waits_is_not_lost() -> None:
    assert not judge(BURSTS, [1, 2, 3], {1, 2, 3})
    assert not judge(BURSTS, [1, 2, 3], {1, 2})  # handled, and killed before it could say so
    assert not judge(BURSTS, [1, 2], {1, 2, 3}, waiting={3})


def verdict(**changes: Any) -> Verdict:
    tally = Tally({"0": {1, 2, 3}}, duplicates=2)
    tally.struck[Sign.KILL, "sent"] += 1
    sound: dict[str, Any] = {
        "judgements": {"0": Judgement([], [], [])},
        "tally": tally,
        "seconds": 3.2,
    }
    options = Options(updates=3, chats=1, seed=17)
    return Verdict(options, "shop.settings", "default (SQLite)", **(sound | changes))


def test_a_good_verdict_ends_in_one_line() -> None:
    good = verdict()
    assert good.is_good
    assert [*good.lines()][-1] == (
        "0 lost, 0 doubled, 0 misordered of 3 updates in 1 chats; 1 kills, 2 duplicates, 3 s"
    )
    assert not any("seed" in line for line in good.lines())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"judgements": {"0": Judgement([2], [], [])}}, r"0 +2 +- +-"),
        ({"unfinished": Unfinished(frozenset("1"), 1)}, r"Not everything was settled: .*"),
        ({"unfinished": Unfinished(frozenset(), 1)}, r"leases left +1"),
        ({"parked": [Parked("1", "ValueError: no")]}, r"Update 1 is parked: ValueError: no"),
        (
            {"parked": [Parked("1", "Bot 'x' is not configured (any more).")]},
            r"A server or Celery worker of the project took these up.*",
        ),
        ({"tally": Tally({"0": {1}})}, r"2 updates were not acknowledged within 120 s: .*"),
    ],
)
def test_whatever_is_left_over_makes_it_bad(changes: dict[str, Any], line: str) -> None:
    bad = verdict(**changes)
    assert not bad.is_good
    lines = [*bad.lines()]
    assert any(re.fullmatch(line, each) for each in lines), lines
    assert "To try the same history again: --seed 17" in lines


def test_long_lists_are_cut() -> None:
    assert some([]) == "-"
    assert some(range(1, 4)) == "1, 2, 3"
    assert some(range(2_000)).endswith("9 and 1,990 more")
