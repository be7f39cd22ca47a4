"""Names, texts and data of strangers, on every page that shows them: nothing of them runs.

The visitors here are without the content security policy, which would stop most of it in any case:
the pages have to hold by themselves.
"""

import re
from itertools import count
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from botsessions.platforms.local_chat import MAX_ID
from tests.browser import hostile
from tests.browser.conftest import Visit
from tests.browser.project import Project
from tests.browser.visitor import Visitor

pytestmark = pytest.mark.browser

MODELS = ["botsession", "botupdate", "trackedmessage", "messagedeletion", "mailboxlease", "erasure"]
#: What is followed from a list, and what from the page of a row.
ROWS = re.compile(r"/\d+/change/$")
BESIDE = re.compile(r"/act/|/(data|erase|export)/$|\?before=")
#: Rows of a list that are looked at, and of how many of them what is beside.
SEEN, SEEN_WHOLE = 6, 2

LINKS = """() => [...document.querySelectorAll("#content a[href]")]
  .filter((link) => link.origin === location.origin)
  .map((link) => link.pathname + link.search.replace(/_changelist_filters=[^&]*/, ""))
  .map((link) => link.replace(/[?]$/, ""))"""


@pytest.fixture(scope="session")
def mallory(project: Project) -> str:
    """Somebody whose every word is hostile, among others whose ids are: all in one delivery.

    Their names, chats, texts and data are, and the ids of updates that fail and are parked.
    """
    numbers = count(900_000)

    def update(person: str, text: str, payload: str, id: str = "") -> dict[str, object]:
        number = next(numbers)
        chat = {"id": person, "type": "private", "title": payload}
        user = {"id": person, "name": payload}
        message = {"message_id": number, "chat": chat, "from": user, "text": text}
        return {"update_id": id or number, "message": message}

    assert len(hostile.PAYLOADS) >= 50
    project.deliver(
        update("mallory", "/order", "Mallory"),
        *(update("mallory", payload, payload) for payload in hostile.PAYLOADS),
    )
    ids = [payload for payload in hostile.PAYLOADS if len(payload) <= MAX_ID]
    project.deliver(
        *(update(id, f"/start {id}", id) for id in ids),
        *(update(id, f"/bill {id}", id, id) for id in ids),
    )
    return "mallory"


def look(visitor: Visitor, path: str) -> list[str]:
    """Look at a page, and return where it leads."""
    visitor.open(path)
    visitor.page.mouse.move(400, 300)
    assert visitor.page.evaluate(hostile.PLANTED) == [], path
    links: list[str] = visitor.page.evaluate(LINKS)
    return list(dict.fromkeys(links))


@pytest.mark.parametrize("model", MODELS)
def test_the_admin_shows_them_and_runs_nothing(visit: Visit, mallory: str, model: str) -> None:
    operator = visit(bypass_csp=True)
    operator.log_in()
    base = f"/admin/botsessions/{model}/"
    rows: list[str] = []
    for path in (f"{base}?q={mallory}", base):
        rows += [link for link in look(operator, path) if ROWS.search(link)][: SEEN // 2]
    for number, row in enumerate(dict.fromkeys(rows)):
        beside = [link for link in look(operator, row) if BESIDE.search(link)]
        for path in beside if number < SEEN_WHOLE else []:
            look(operator, path if path.startswith("/admin/") else row + path)


def test_what_was_done_is_told_and_runs_nothing(visit: Visit, mallory: str) -> None:
    """Django's own list of actions, and the history of a row, name what they were done to."""
    operator = visit(bypass_csp=True)
    operator.log_in()
    hostile_id = next(each for each in hostile.PAYLOADS if "onerror" in each and " " not in each)
    operator.open("/admin/botsessions/botsession/")
    row = operator.page.locator("#result_list tbody tr").filter(has_text=hostile_id).first
    row.get_by_role("link").first.click()
    session = urlsplit(operator.page.url).path
    operator.page.get_by_role("link", name="Close", exact=True).click()
    assert operator.page.evaluate(hostile.PLANTED) == []
    operator.page.get_by_role("button", name="Close", exact=True).click()
    expect(operator.page.locator(".messagelist")).to_be_visible()

    for path in (session, session.replace("change", "history"), "/admin/"):
        look(operator, path)
    expect(operator.page.locator("#recent-actions-module")).to_contain_text(hostile_id)


def test_the_playground_shows_them_and_runs_nothing(visit: Visit) -> None:
    ann = visit(bypass_csp=True)
    ann.play("ann", "group")
    say = """async ([texts]) => {
      const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
      for (const text of texts) {
        const response = await fetch("/playground/say/", {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-CSRFToken": token },
          body: JSON.stringify({ bot: "demo", user: "ann", chat: "group", text }),
        });
        if (!response.ok) throw new Error(await response.text());
      }
    }"""
    ann.page.evaluate(say, [["/order", *hostile.PAYLOADS]])

    ann.hears(hostile.PAYLOADS[-1])
    ann.hears(f"Noted, that makes {len(hostile.PAYLOADS)}.")
    assert ann.page.evaluate(hostile.PLANTED) == []
    ann.screenshot("playground-hostile")
    ann.say("/done")
    ann.hears("Ordered:")
    assert ann.page.evaluate(hostile.PLANTED) == []
