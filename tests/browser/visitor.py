"""Somebody at a browser: what goes wrong there is collected, and told when they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Request,
    expect,
)

from tests.browser import keyboard
from tests.browser.project import ROOT, Project

Scheme = Literal["light", "dark"]

SCREENSHOTS = ROOT / "var" / "screenshots"
#: Milliseconds for what happens at once, and for what a worker does.
SOON = 10_000
IN_TIME = 30_000
WIDE = 1280
NARROW = 390
HEIGHT = 800


class Visitor:
    """Somebody with a browser window of their own, on the project's pages."""

    def __init__(
        self, context: BrowserContext, project: Project, *, by_keyboard: bool = False
    ) -> None:
        self.project = project
        self.by_keyboard = by_keyboard
        self.problems: list[str] = []
        self.dialogs: list[str] = []
        self.context = context
        context.set_default_timeout(SOON)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"exception: {error.error}"))
        context.on("dialog", self._dialog)
        context.on("request", self._request)
        self.page: Page = context.new_page()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text} at {self.page.url}")

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(f"dialog: {dialog.message} at {self.page.url}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and not request.url.startswith(self.project.url):
            self.problems.append(f"request to another host: {request.url}")

    def check(self) -> None:
        """Raise `AssertionError` where anything went wrong on the way."""
        if wrong := [*self.problems, *self.dialogs]:
            raise AssertionError("\n".join(wrong))

    # Their hands

    def press(self, control: Locator) -> None:
        """Press a button, follow a link or choose an option."""
        if self.by_keyboard:
            keyboard.press(self.page, control)
        else:
            control.click()

    def write(self, control: Locator, text: str) -> None:
        """Write into a field, in place of what is there."""
        if self.by_keyboard:
            keyboard.write(self.page, control, text)
        else:
            control.fill(text)

    # Where they go

    def open(self, path: str) -> Page:
        """Go to a page of the project."""
        response = self.page.goto(self.project.url + path)
        assert response is not None
        assert response.ok, f"{path}: {response.status}"
        return self.page

    def log_in(self) -> None:
        """Log in as the operator and stand on the admin's front page."""
        name, password = self.project.operator
        self.open("/admin/")
        self.write(self.page.get_by_label("Username"), name)
        self.write(self.page.get_by_label("Password"), password)
        self.press(self.page.get_by_role("button", name="Log in"))
        expect(self.page.get_by_role("button", name="Log out")).to_be_visible()
        expect(self.page.get_by_text("Parked updates")).to_be_visible()  # of our own panel

    def play(self, person: str = "ann", chat: str = "") -> None:
        """Go to the playground as one of its people."""
        self.open(f"/playground/?user={person}&chat={chat}")

    def say(self, text: str) -> None:
        """Say something in the playground."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_label("Message", exact=True)).to_have_value("")

    @property
    def messages(self) -> Locator:
        """The messages that the playground shows."""
        return self.page.locator("#messages > li:not(.vanishing)")

    def hears(self, text: str) -> None:
        """Wait for a message that has this in it."""
        expect(self.messages.filter(has_text=text).last).to_be_visible(timeout=IN_TIME)

    def screenshot(self, name: str) -> Path:
        """Keep a picture of what is seen."""
        path = SCREENSHOTS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path


@contextmanager
def visiting(
    browser: Browser,
    project: Project,
    *,
    width: int = WIDE,
    scheme: Scheme = "light",
    by_keyboard: bool = False,
    **options: Any,
) -> Iterator[Visitor]:
    """Let somebody visit the project, and check that nothing went wrong.

    What is raised meanwhile is told with what went wrong before.
    """
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT},
        color_scheme=scheme,
        locale="en-GB",
        timezone_id="UTC",
        reduced_motion="reduce",
        **options,
    )
    visitor = Visitor(context, project, by_keyboard=by_keyboard)
    try:
        yield visitor
    except Exception as error:
        error.add_note("\n".join(visitor.problems))
        raise
    else:
        visitor.check()
    finally:
        context.close()
