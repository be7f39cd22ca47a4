"""One project and one browser for all of the tests here, and visitors for each of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.browser.project import Project, running
from tests.browser.visitor import Visitor, visiting

Visit = Callable[..., Visitor]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with running(tmp_path_factory.mktemp("project")) as project:
        yield project
    project.check()


# Playwright runs an event loop in this thread while it lives, and Django refuses to work there: it
# is gone before a test elsewhere begins.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium.running() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, project: Project) -> Iterator[Visit]:
    """Let somebody come to the project: `visit(width=390, scheme="dark")`.

    What went wrong with any of them fails the test at its end.
    """
    with ExitStack() as stack:

        def visit(**options: Any) -> Visitor:
            return stack.enter_context(visiting(browser, project, **options))

        yield visit
