"""Take the pictures of `docs/operators.md` anew: `python -m tests.browser.screenshots`.

They are of the walk that the tests go, on a project of their own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.browser import chromium
from tests.browser.project import ROOT, running
from tests.browser.visitor import HEIGHT, WIDE, Visitor, visiting
from tests.browser.walk import Walk

FOLDER = ROOT / "docs" / "images"
#: What a picture may weigh, in bytes.
MAX_BYTES = 150_000


#: A traceback names the folders of whoever takes the picture: they are left out of it.
HIDE_FOLDERS = """(folders) => {
  for (const each of document.querySelectorAll("pre"))
    for (const folder of folders) each.textContent = each.textContent.replaceAll(folder, "");
}"""


def take(visitor: Visitor, name: str, *, height: int = HEIGHT) -> None:
    """Keep a picture of what is seen, from the head of the page."""
    visitor.page.set_viewport_size({"width": WIDE, "height": height})
    visitor.page.evaluate("window.scrollTo(0, 0)")
    visitor.page.evaluate(HIDE_FOLDERS, [f"{ROOT}/", f"{Path(sys.prefix)}/"])
    path = FOLDER / f"{name}.png"
    visitor.page.screenshot(path=path, animations="disabled", caret="hide")
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}  {size // 1000} kB")
    if size > MAX_BYTES:
        sys.exit(f"{path.name} has more than {MAX_BYTES // 1000} kB.")


def main() -> None:
    if chromium.executable() is None:
        sys.exit("chromium is not installed. On Debian: apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as project,
        chromium.running() as browser,
        visiting(browser, project) as operator,
        visiting(browser, project) as user,
    ):
        walk = Walk(operator, user)
        walk.complain()
        walk.enter()
        take(operator, "front-page")
        walk.find()
        take(operator, "session", height=1150)
        walk.look_into()
        take(operator, "parked-update", height=1100)
        walk.back()
        walk.repair()
        walk.replay()
        walk.back()
        walk.take_over()
        walk.is_asked("Are you a person?")
        walk.answer("I am.")
        take(operator, "takeover")
        take(user, "playground")
        walk.hand_back()
        walk.clear()
        walk.watch_deletion()
        take(operator, "deletion")
        walk.back()
        walk.erase()
        walk.watch_erasure()
        take(operator, "erasure")


if __name__ == "__main__":
    main()
