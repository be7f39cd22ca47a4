"""What every test may rely on: services that answer or a visible skip, and `async def` tests."""

import contextvars
import functools
import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.db import connections
from pytest_django import DjangoDbBlocker

from botsessions.pacing.shared import shared as windows

# The plugin's fixture, which a checkout that is not installed has no entry point for.
from botsessions.testing.plugin import bot_client as bot_client
from tests.browser.chromium import executable
from tests.services import postgresql_url, redis_url

SERVICES = {"browser": executable, "postgresql": postgresql_url, "redis": redis_url}


def require(name: str) -> str:
    """Return where a service is found; skip the test without it, or fail with CI=true."""
    if address := SERVICES[name]():
        return address
    reason = "chromium is not installed" if name == "browser" else f"{name} does not answer"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true allows no skip", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in SERVICES:
        if item.get_closest_marker(name):
            require(name)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Run each test in a context of its own, and `async def` tests as Django's TestCase does.

    What these send to the database thread then runs on the test's own, inside its transaction.
    Django makes variables for each set of URLs, which asgiref copies at every change of thread: a
    context of all tests would be slow in the end.
    """
    test = pyfuncitem.obj
    synchronous = async_to_sync(test) if inspect.iscoroutinefunction(test) else test
    context = contextvars.copy_context()

    @functools.wraps(test)
    def in_context(**arguments: Any) -> None:
        context.run(synchronous, **arguments)

    pyfuncitem.obj = in_context


@pytest.fixture
def postgresql() -> str:
    """The address of a PostgreSQL where the test may create databases."""
    return require("postgresql")


@pytest.fixture
def redis() -> str:
    """The address of a Redis database: use keys of your own in it, and delete them."""
    return require("redis")


@pytest.fixture
def transactional_db(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let the test commit, and delete what it wrote.

    pytest-django knows tests that commit by the name of this fixture, and sets up their database.
    Its own flushes every table, which takes longer than most of the tests that ask for it.
    """
    with django_db_blocker.unblock():
        yield
        for model in apps.get_app_config("botsessions").get_models():
            model._default_manager.all().delete()
        connections.close_all()
    windows.close()
