"""The admin's pages: who gets in, what is found there, and that everybody can use them."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser import axe, keyboard
from tests.browser.conftest import Visit
from tests.browser.project import Project
from tests.browser.visitor import Visitor

pytestmark = pytest.mark.browser

MODELS = ["botsession", "botupdate", "trackedmessage", "messagedeletion", "mailboxlease", "erasure"]
BESIDE = ["Edit data", "Clear messages", "Export", "Erase"]
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="session")
def seeded(project: Project) -> Project:
    """A project in which something of everything is stored."""
    for text in ("/eat", "/bill", "/order", "tea", "/table"):
        project.said("dora", text)
    for text in ("/start", "/wipe"):
        project.said("emil", text)
    return project


def pages(visitor: Visitor) -> list[str]:
    """Return the addresses of the front page, of every list and of the first page it leads to.

    Then come those beside a session: of what is done there, each kind of page once.
    """
    found = ["/admin/", "/admin/botsessions/"]
    for model in MODELS:
        found.append(f"/admin/botsessions/{model}/")
        visitor.open(found[-1])
        first = visitor.page.locator("#result_list tbody th a").first
        if first.count():
            found.append(f"{first.get_attribute('href')}")
    found = [address.split("?")[0] for address in found]
    visitor.open(next(each for each in found if "/botsession/" in each and "/change/" in each))
    for name in BESIDE:
        link = visitor.page.locator("#content").get_by_role("link", name=name, exact=True).first
        found.append(f"{link.get_attribute('href')}")
    return found


def test_only_operators_get_in(visit: Visit) -> None:
    somebody = visit()
    somebody.open("/admin/botsessions/botsession/")
    expect(somebody.page).to_have_url(re.compile("/admin/login/"))
    somebody.page.get_by_label("Username").fill("operator")
    somebody.page.get_by_label("Password").fill("guessed")
    somebody.page.keyboard.press("Enter")
    expect(somebody.page.get_by_text("Please enter the correct username")).to_be_visible()
    assert axe.violations(somebody.page) == []

    somebody.log_in()
    somebody.page.get_by_role("button", name="Log out").click()
    expect(somebody.page.get_by_role("heading", name="Logged out")).to_be_visible()


def test_a_user_is_found_by_the_whole_id(visit: Visit, seeded: Project) -> None:
    operator = visit()
    operator.log_in()
    operator.page.get_by_role("link", name="Sessions", exact=True).first.click()
    operator.page.locator("#searchbar").fill("dora")
    operator.page.get_by_role("button", name="Search").click()

    rows = operator.page.locator("#result_list tbody tr")
    expect(rows.filter(has_text="meal")).to_have_count(1)
    expect(rows.filter(has_not_text="dora")).to_have_count(0)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_admin_is_accessible(visit: Visit, seeded: Project, width: int, scheme: str) -> None:
    operator = visit(width=width, scheme=scheme)
    operator.log_in()
    wrong, unreached, wide = [], [], []
    for path in pages(operator):
        operator.open(path)
        name = "-".join(
            re.findall(r"[a-z]+", path.split("?")[0].removeprefix("/admin/botsessions"))
        )
        operator.screenshot(f"{width}-{scheme}-{name}")
        wrong += axe.violations(operator.page)
        wide += [path] if operator.page.evaluate(TOO_WIDE) else []
        # Beside a wide page Django lists all models: the keyboard's own walk goes past them.
        for each in keyboard.unreached(operator.page) if width < 1000 else []:
            unreached.append(f"{path}: {each}")

    assert wrong == []
    assert unreached == []
    assert wide == []
