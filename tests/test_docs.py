"""The examples of the documentation run."""

import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from asgiref.sync import async_to_sync

from botsessions import Bot, Router, Session, Update, clock
from botsessions.models import BotSession, TrackedMessage
from botsessions.operations import sweep
from tests.kit import handle, message, running, texts

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str) -> list[str]:
    """The Python blocks of a document, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run(name: str, *sources: str, **given: object) -> dict[str, object]:
    """Run blocks one after another in one module, as a reader would, who has what is `given`."""
    module = ModuleType(name)
    vars(module).update(Update=Update, Session=Session, Bot=Bot, **given)
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


@pytest.mark.django_db(transaction=True)
def test_the_examples_about_sessions_run() -> None:
    guide = run("sessions_guide", *blocks("docs/sessions.md"))
    router, remind, add = guide["router"], guide["remind"], guide["add"]
    assert isinstance(router, Router)
    say = async_to_sync(handle)
    with running(router):
        for user in ("ann", "ben", "ann"):
            say(message("/count", user=user, chat="room"))
        assert texts("room") == ["1 of 1", "1 of 2", "2 of 3"]

        say(message("/data"))
        assert texts() == ["{'items': []}"]

        say(message("/order", user="eve"))
        say(message("tea", user="eve"))
        say(message("/done", user="eve"))
        assert texts("eve") == ["4 messages, 1 of them mine, 1 kept, 1 of the last 1 wiped."]

        say(message("/answer", user="gus"))
        assert texts("gus") == ["Noted!"]
        say(message("/team", user="gus"), message("/team", user="hal"))
        assert BotSession.objects.get(chat="team").data == {"n": 2}
        BotSession.objects.filter(chat="team").update(is_open=False)

        say(message("/both", user="dan"))
        say(message("/plain", user="dan"))
        said = ["This one is wiped later.", "This one is not.", "In order,", "without await."]
        assert texts("dan") == said

        say(message("/digits", user="fay"))
        say(message("no", user="fay"))
        say(message("42", user="fay"))
        tracked = TrackedMessage.objects.filter(session__user="fay", session__qualifier="order")
        assert [each.text for each in tracked] == ["42"]

        BotSession.objects.filter(user="ann").delete()
        now = clock.now()
        BotSession.objects.create(
            bot="demo", chat="ann", user="ann", qualifier="old", data=["kept"], version=1,
            created_at=now, updated_at=now,
        )  # fmt: skip
        say(message("/old"))
        assert BotSession.objects.get(qualifier="old").data == {"items": ["kept", "new"]}

        look = guide["look"]
        assert callable(look)
        BotSession.objects.update(is_open=False)
        assert "demo:ann:ann::old" in async_to_sync(look)(message(user="ida"))

        assert callable(remind)
        assert callable(add)
        async_to_sync(remind)("gil")
        add("gil")
        row = BotSession.objects.get(user="gil", qualifier="order")
        assert row.data == {"items": ["a gift", "from synchronous code"]}
        assert texts("gil") == ["Still 1 in your cart.", "A single verb takes its turn by itself."]

        passed = clock.now() - timedelta(seconds=1)
        BotSession.objects.filter(user="gil").update(expires_at=passed)
        assert sweep() == 2
        assert texts("gil")[2:] == ["Your basket was emptied."]
        assert not BotSession.objects.filter(user="gil").exists()
