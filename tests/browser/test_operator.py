"""An operator at work, with the user at the other end: by mouse, and by keyboard alone."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.visitor import IN_TIME
from tests.browser.walk import Walk

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("person", "by_keyboard"), [("ann", False), ("ben", True)])
def test_a_user_is_helped_cleared_and_erased(visit: Visit, person: str, by_keyboard: bool) -> None:
    walk = Walk(visit(by_keyboard=by_keyboard), visit(width=390), person)
    walk.complain()
    walk.enter()
    walk.find()
    walk.look_into()
    walk.back()
    walk.repair()
    walk.replay()
    walk.back()
    walk.answer("Sorry for the wait.")
    walk.take_over()
    walk.is_asked("Are you a person?")
    walk.answer("I am.")
    walk.hand_back()
    walk.user.say("/count")
    walk.user.hears("so far.")
    walk.clear()
    expect(walk.user.messages.filter(has_text="Enjoy your meal.")).to_have_count(0, timeout=IN_TIME)
    walk.watch_deletion()
    walk.back()
    walk.erase()
    walk.watch_erasure()
    walk.finds_nobody()


def test_an_edit_that_comes_too_late_is_told_of(visit: Visit) -> None:
    walk = Walk(visit(), visit(), "cleo")
    walk.complain()
    walk.enter()
    walk.find()
    walk.operator.press(walk.link("Edit data"))
    field = walk.page.get_by_label("Data").first
    walk.operator.write(field, '{"coins": 1, "people": 1}')
    answers = walk.user.messages.filter(has_text="Enjoy your meal.")
    before = answers.count()
    walk.user.say("/eat")
    expect(answers).to_have_count(before + 1)
    walk.operator.press(walk.button("Save"))

    expect(walk.page.get_by_role("heading", name="Stored now")).to_be_visible()
    expect(field).to_have_value('{"coins": 1, "people": 1}')
    expect(walk.page.get_by_role("region", name="Stored now")).to_contain_text('"people": 0')
    walk.operator.press(walk.button("Save"))
    walk.told("The data was saved.")
    walk.back()
    walk.look_into()
    walk.do("Drop")
    expect(walk.link("Drop")).to_have_count(0)
