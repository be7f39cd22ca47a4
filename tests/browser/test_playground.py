"""The playground, as somebody uses it."""

import pytest
from playwright.sync_api import expect

from tests.browser import axe, keyboard
from tests.browser.conftest import Visit

pytestmark = pytest.mark.browser


def test_an_order_is_taken_and_wiped(visit: Visit) -> None:
    ann = visit()
    ann.play("ann")
    ann.say("/wipe")
    ann.say("/order")
    ann.hears("What would you like?")
    ann.say("tea")
    ann.hears("Noted, that makes 1.")
    ann.screenshot("playground-order")
    ann.say("/done")
    ann.hears("Ordered: tea. I have wiped our")

    expect(ann.messages.filter(has_text="What would you like?")).to_have_count(0)
    expect(ann.messages.filter(has_text="Noted")).to_have_count(0)


def test_two_people_talk_in_the_group_at_once(visit: Visit) -> None:
    ann, ben = visit(), visit(width=390, scheme="dark")
    ann.play("ann", "group")
    ben.play("ben", "group")
    ann.say("Hello, Ben!")
    ben.hears("Hello, Ben!")
    ben.say("/start")
    ann.hears("/count tells how many messages you have sent")
    ben.screenshot("playground-group-narrow-dark")

    expect(ben.messages.filter(has_text="Hello, Ben!")).not_to_have_class("mine")
    expect(ben.messages.filter(has_text="Ann").first).to_be_visible()


def test_a_table_is_booked_with_buttons_by_keyboard(visit: Visit) -> None:
    cleo = visit()
    cleo.play("cleo")
    for text, answer in [("/table", "Tea for how many?"), ("3", "At what time?")]:
        cleo.page.keyboard.type(text)
        cleo.page.keyboard.press("Enter")
        cleo.hears(answer)
    keyboard.press(cleo.page, cleo.page.get_by_role("button", name="Five").last)
    cleo.hears("A table for 3 at five: 12 coins.")
    keyboard.write(cleo.page, cleo.page.get_by_label("Message", exact=True), "yes")
    cleo.page.keyboard.press("Enter")

    cleo.hears("See you then.")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_playground_is_accessible(visit: Visit, width: int, scheme: str) -> None:
    ben = visit(width=width, scheme=scheme)
    ben.play("ben")
    ben.say("/table")
    ben.say("2")
    ben.hears("At what time?")
    ben.screenshot(f"playground-{width}-{scheme}")
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

    assert axe.violations(ben.page) == []
    assert keyboard.unreached(ben.page) == []
    assert ben.page.evaluate(too_wide) == 0
    ben.say("/cancel")
