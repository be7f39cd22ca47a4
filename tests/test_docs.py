"""The examples of the documentation run."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from botsessions import Bot, Router, Session, Update
from tests.kit import handle, message, running, texts

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str) -> list[str]:
    """The Python blocks of a document, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run(name: str, *sources: str) -> dict[str, object]:
    """Run blocks one after another in one module, as a reader would."""
    module = ModuleType(name)
    vars(module).update(Update=Update, Session=Session, Bot=Bot)
    sys.modules[name] = module  # where annotations are looked up
    for source in sources:
        exec(compile(source, name, "exec"), vars(module))  # noqa: S102
    return vars(module)


@pytest.mark.django_db
async def test_the_bot_of_the_readme_keeps_a_cart() -> None:
    router = run("readme_bot", blocks("README.md")[0])["router"]
    assert isinstance(router, Router)
    with running(router):
        await handle(message("/cart"))
        await handle(message("tea"))
        await handle(message("milk"))
        await handle(message("/cart"))
        assert texts() == ["Your cart is empty.", "Added tea.", "Added milk.", "tea, milk"]


@pytest.mark.django_db
async def test_the_handlers_of_the_guide_run() -> None:
    router = run("guide_bot", *blocks("docs/writing-a-bot.md"))["router"]
    assert isinstance(router, Router)
    with running(router):
        await handle(message("/start"))
        await handle(message("41"))
        await handle(message("hello"))
        assert texts() == ["Hello!", "Noted."]
