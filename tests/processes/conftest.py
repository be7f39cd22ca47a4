"""A fleet of servers on SQLite and one on PostgreSQL: every test here runs on both."""

from collections.abc import Generator, Iterator
from uuid import uuid4

import pytest

from tests.processes.database import Database, PostgreSQL, SQLite
from tests.processes.server import Fleet, running
from tests.services import postgresql_url

SIZES = {"sqlite": 2, "postgresql": 4}
FLEETS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]

FLEET = pytest.StashKey[Fleet]()


@pytest.fixture(scope="session", params=FLEETS)
def started_fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp(request.param)
    url = postgresql_url() or ""
    database: Database = (
        PostgreSQL(url) if request.param == "postgresql" else SQLite(folder / "database.sqlite3")
    )
    with running(database, folder, SIZES[request.param]) as fleet:
        yield fleet


@pytest.fixture
def fleet(request: pytest.FixtureRequest, started_fleet: Fleet) -> Iterator[Fleet]:
    """Running servers on one database: two on SQLite, four on PostgreSQL."""
    request.node.stash[FLEET] = started_fleet
    started_fleet.complete()
    yield started_fleet
    started_fleet.dismiss()
    started_fleet.check()


@pytest.fixture
def person() -> str:
    """Somebody whom no other test knows."""
    return uuid4().hex[:12]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers logged where a test fails."""
    report = yield
    if report.failed and (fleet := item.stash.get(FLEET, None)) is not None:
        report.sections.append(("What the servers logged", fleet.logged()))
    return report
