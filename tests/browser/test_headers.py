"""What every page tells the browser it may do, and that the pages live with it."""

import urllib.error
import urllib.request

import pytest
from django.http import HttpResponse
from playwright.sync_api import expect
from pytest_django import Settings

from project.headers import put
from tests.browser.conftest import Visit
from tests.browser.project import Project

POLICY = "Content-Security-Policy"
PAGES = [
    "/playground/",
    "/playground/messages/?bot=demo&chat=ann",
    "/admin/login/",
    "/static/botsessions/playground.svg",
    "/healthz",
    "/api/docs/",
    "/nowhere/",
]


def headers(project: Project, path: str) -> dict[str, str]:
    try:
        with urllib.request.urlopen(project.url + path, timeout=10) as response:
            return {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return {name.lower(): value for name, value in error.headers.items()}


@pytest.mark.browser
@pytest.mark.parametrize("path", PAGES)
def test_every_answer_carries_a_strict_policy(project: Project, path: str) -> None:
    found = headers(project, path)

    directives = dict(each.strip().split(" ", 1) for each in found[POLICY.lower()].split(";"))
    assert directives["default-src"] == "'self'"
    assert directives["object-src"] == directives["base-uri"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert directives["form-action"] == "'self'"
    assert "unsafe" not in found[POLICY.lower()]
    assert "script-src" not in directives  # the default: this server's own files
    assert found["referrer-policy"] == "same-origin"
    assert found["x-content-type-options"] == "nosniff"
    assert found["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in found["permissions-policy"]


def test_a_view_may_say_otherwise_and_debug_pages_have_none(settings: Settings) -> None:
    own = HttpResponse(headers={POLICY: "default-src 'none'"})

    assert put(own).headers[POLICY] == "default-src 'none'"
    assert POLICY in put(HttpResponse(status=500)).headers
    settings.DEBUG = True
    assert POLICY not in put(HttpResponse(status=500)).headers
    assert POLICY in put(HttpResponse(status=403)).headers


@pytest.mark.browser
def test_what_is_written_into_a_page_is_not_run(visit: Visit) -> None:
    """The policy holds by itself, even where a text should once come into a page unescaped."""
    ann = visit()
    ann.play()
    planted = """() => new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) => resolve(event.blockedURI));
        const script = document.createElement("script");
        script.textContent = "window.hasRun = true";
        document.body.append(script);
    })"""

    assert ann.page.evaluate(planted) == "inline"
    assert ann.page.evaluate("window.hasRun") is None
    ann.problems.clear()  # the console tells of it, as it should


@pytest.mark.browser
def test_the_page_of_the_api_works_under_the_policy(visit: Visit) -> None:
    operator = visit()
    operator.log_in()
    operator.open("/api/docs/")
    operator.page.get_by_role("button", name="/api/bots/", exact=False).first.click()
    operator.page.get_by_role("button", name="Try it out").click()
    operator.page.get_by_role("button", name="Execute").click()

    expect(operator.page.locator(".live-responses-table").get_by_text("200").first).to_be_visible()
    operator.screenshot("api-docs")
