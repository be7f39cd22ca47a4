"""The keyboard alone: what Tab reaches, and going to a control by it."""

from __future__ import annotations

from playwright.sync_api import Locator, Page

#: How often Tab is pressed at most.
MAX_TABS = 200

#: Every control that a person can see and use, numbered. Options of a group are one stop.
NUMBER_CONTROLS = """() => {
  const controls = "a[href], button, input, select, textarea, summary";
  const groups = new Set();
  let count = 0;
  const names = [];
  for (const element of document.querySelectorAll(`${controls}, [tabindex="0"]`)) {
    if (element.disabled || element.type === "hidden") continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.type === "radio") {
      if (groups.has(element.name)) continue;
      groups.add(element.name);
      element.dataset.group = element.name;
    }
    const text = element.labels?.[0]?.textContent || element.textContent || element.name;
    names.push(`${element.localName} ${text.trim().slice(0, 40)}`);
    element.dataset.stop = count++;
  }
  return names;
}"""

#: Which of them has the focus, and lets it be seen: by an outline, a shadow or another colour than
#: without it, of its own or beside it. -1 for any other, null where it is not seen.
FOCUSED = """() => {
  const element = document.activeElement;
  const first = element.type === "radio"
    ? document.querySelector(`[data-group="${CSS.escape(element.name)}"]`) : element;
  const near = [element, element.nextElementSibling, element.parentElement].filter(Boolean);
  const look = () => near.map((each) => {
    const style = getComputedStyle(each);
    return [style.outlineStyle, style.outlineWidth, style.boxShadow, style.borderColor,
            style.backgroundColor, style.color, style.textDecorationLine].join();
  }).join();
  const focused = look();
  element.blur();
  const blurred = look();
  element.focus();
  return focused === blurred ? null : Number(first?.dataset.stop ?? -1);
}"""


def unreached(page: Page) -> list[str]:
    """Press Tab all around a page; return the controls that were not reached, or not visibly."""
    names: list[str] = page.evaluate(NUMBER_CONTROLS)
    missing = dict(enumerate(names))
    for _ in range(2 * len(names) + 2):  # from wherever the focus is, past the end of the page
        if not missing:
            break
        page.keyboard.press("Tab")
        missing.pop(page.evaluate(FOCUSED), None)
    return list(missing.values())


def go_to(page: Page, control: Locator) -> None:
    """Press Tab until a control has the focus. Raises `AssertionError` where it never gets it."""
    control.wait_for()
    for _ in range(MAX_TABS):
        if control.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {control} at {page.url}.")


def press(page: Page, control: Locator) -> None:
    """Go to a control and press Enter."""
    go_to(page, control)
    page.keyboard.press("Enter")


def write(page: Page, control: Locator, text: str) -> None:
    """Go to a field and write into it, in place of what is there."""
    go_to(page, control)
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
