"""The option `--database`, a plugin because Django's settings are read before any conftest is."""

import os

import pytest

from tests.services import postgresql_url


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="the tests' default database (those marked postgresql need that server anyway)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    database = early_config.known_args_namespace.database
    if database == "postgresql" and postgresql_url() is None:
        raise pytest.UsageError(
            "PostgreSQL does not answer: start it, or point TEST_DATABASE_URL at it."
        )
    os.environ["TEST_DATABASE"] = database


def pytest_report_header() -> str:
    return f"database: {os.environ['TEST_DATABASE']}"
