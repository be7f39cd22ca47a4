"""axe-core, without what it finds on pages of others: each by its rule, element and reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

#: Of which weight a violation fails a test.
IMPACTS = {"serious", "critical"}
#: Without `preload`, which writes styles into the page: the policy refuses that.
RUN = "axe.run(document, {resultTypes: ['violations'], preload: false})"


@dataclass(frozen=True)
class Known:
    """A violation that is not ours to cure."""

    rule: str
    element: str  # what its selector has in it
    reason: str


KNOWN = [
    Known(
        "label-title-only",
        "#searchbar",
        "Django's list labels its search by an icon whose alternative text is the word, and "
        "describes it by the help text below.",
    ),
    Known(
        "link-in-text-block",
        ".breadcrumbs",
        "Django's breadcrumbs are links between signs, not words in a text.",
    ),
    Known(
        "link-in-text-block",
        'a[href="?"]',
        "Django's link from what was found to the whole list stands alone behind a number.",
    ),
]


def violations(page: Page) -> list[str]:
    """Return what is wrong with a page: one line for each element."""
    page.evaluate(AXE_SCRIPT)
    results: dict[str, Any] = page.evaluate(RUN)
    return [
        f"{page.url}: {rule['id']} ({rule['impact']}): {rule['help']}: {target}: "
        f"{node['failureSummary'].splitlines()[-1].strip()}"
        for rule in results["violations"]
        if rule["impact"] in IMPACTS
        for node in rule["nodes"]
        for target in [" ".join(map(str, node["target"]))]
        if not any(each.rule == rule["id"] and each.element in target for each in KNOWN)
    ]
