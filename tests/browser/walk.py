"""What an operator does about one user, from the complaint to the erasure, a step at a time.

`docs/operators.md` tells it, `screenshots.py` takes its pictures, and the tests walk it twice: by
mouse and by keyboard.
"""

from __future__ import annotations

import json
import re
import time

from playwright.sync_api import Locator, Page, expect

from tests.browser.visitor import IN_TIME, Visitor


class Walk:
    """An operator at the admin, and a user at the playground beside it."""

    def __init__(self, operator: Visitor, user: Visitor, person: str = "ann") -> None:
        self.operator = operator
        self.user = user
        self.person = person

    @property
    def page(self) -> Page:
        return self.operator.page

    # Where things are on the operator's pages

    def link(self, name: str) -> Locator:
        return self.page.locator("#content").get_by_role("link", name=name, exact=True).first

    def button(self, name: str) -> Locator:
        return self.page.locator("#content").get_by_role("button", name=name, exact=True).first

    def told(self, text: str) -> None:
        """Wait for the sentence at the head of the page that says what was done."""
        expect(self.page.locator(".messagelist")).to_contain_text(text)

    def confirm(self) -> None:
        """Say yes on the page that says what will happen."""
        self.operator.press(self.page.locator("#content form [type=submit]").first)

    def do(self, name: str) -> None:
        """Follow the link to an action, and confirm it."""
        self.operator.press(self.link(name))
        self.confirm()

    # The steps

    def complain(self) -> None:
        """The user meets the mistake: an update fails, and is parked."""
        self.user.play(self.person)
        self.user.say("/eat")
        self.user.hears("Enjoy your meal.")
        self.user.say("/bill")

    def enter(self) -> None:
        self.operator.log_in()

    def search(self) -> None:
        """Look for the user's sessions, from the front page on."""
        self.page.goto(f"{self.operator.project.url}/admin/")
        self.operator.press(self.link("Sessions"))
        self.operator.write(self.page.locator("#searchbar"), self.person)
        self.operator.press(self.page.get_by_role("button", name="Search"))

    def find(self) -> None:
        """Search the user, and open the session in which it happened."""
        self.search()
        meal = self.page.locator("#result_list tbody tr").filter(has_text="meal")
        self.operator.press(meal.get_by_role("link").first)
        expect(self.page.locator("#content")).to_contain_text("Enjoy your meal.")
        expect(self.page.locator("#content")).to_contain_text("/eat")
        self.session = self.page.url

    def back(self) -> None:
        """Return to the session's page."""
        self.page.goto(self.session)

    def look_into(self) -> None:
        """Open the parked update and read why it failed."""
        row = self.page.get_by_role("listitem").filter(has_text=re.compile("parked", re.IGNORECASE))
        self.operator.press(row.get_by_role("link").first)
        expect(self.page.locator("#content")).to_contain_text("ZeroDivisionError")
        self.update = self.page.url

    def repair(self, people: int = 3) -> None:
        """Edit the session's data."""
        self.operator.press(self.link("Edit data"))
        field = self.page.get_by_label("Data", exact=False).first
        data = json.loads(field.input_value())
        self.operator.write(field, json.dumps(data | {"people": people}, indent=2))
        self.operator.press(self.button("Save"))
        self.told("The data was saved.")

    def replay(self) -> None:
        """Let the parked update be handled again."""
        self.page.goto(self.update)
        self.do("Replay")
        self.user.hears("coins each.")

    def answer(self, text: str) -> None:
        """Send a message as the bot, from the session's page."""
        self.operator.write(self.page.get_by_label("Message as the bot"), text)
        self.operator.press(self.button("Send"))
        self.told("Sent.")
        self.user.hears(text)

    def take_over(self) -> None:
        self.do("Take over")
        expect(self.page.get_by_role("status").filter(has_text="is talking")).to_be_visible()

    def is_asked(self, text: str) -> None:
        """The user says something while the operator talks."""
        self.user.say(text)
        expect(self.page.locator("#content").get_by_text(text)).to_be_visible(timeout=IN_TIME)

    def hand_back(self) -> None:
        self.do("Hand back")
        expect(self.link("Take over")).to_be_visible()

    def clear(self) -> None:
        """Delete the messages of the session, and watch the deletion until it is done."""
        self.do("Clear messages")
        self.told("deletion")

    def watch_deletion(self) -> None:
        """Watch the newest deletion in the list, which moves by itself, and then open it."""
        self.page.goto(f"{self.operator.project.url}/admin/botsessions/messagedeletion/")
        newest = self.page.locator("#result_list tbody tr").first
        expect(newest).to_contain_text("done", ignore_case=True, timeout=IN_TIME)
        self.operator.press(newest.get_by_role("link").first)
        expect(self.page.locator(".field-deleted .readonly")).not_to_have_text("0")

    def erase(self) -> None:
        """Erase the user; the receipt names nobody."""
        self.do("Erase")
        self.told("The erasure has begun")
        assert self.person not in self.page.locator("#content").inner_text().split()

    def watch_erasure(self) -> None:
        """Look at the receipt until it says when it was finished."""
        finished = self.page.locator(".field-finished_at .readonly")
        deadline = time.monotonic() + IN_TIME / 1000
        while finished.inner_text().strip() in ("", "-") and time.monotonic() < deadline:
            self.page.wait_for_timeout(300)
            self.page.reload()
        expect(finished).not_to_have_text("-")

    def finds_nobody(self) -> None:
        self.search()
        expect(self.page.locator(".paginator")).to_have_text("0 sessions")
