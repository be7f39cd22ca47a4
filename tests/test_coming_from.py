"""The page for those who come from another framework: our names in it are there, as written."""

import ast
import inspect
import re
from types import ModuleType
from typing import Annotated, Any, cast

import pytest

import botsessions
from botsessions import (
    Chat,
    Message,
    Router,
    Session,
    SessionKey,
    Update,
    User,
    exceptions,
    models,
    session,
    stores,
    testing,
)
from botsessions.bots import OPTIONS, bots
from botsessions.conf import Settings
from botsessions.keys import STRATEGIES
from botsessions.mailboxes.base import Tracked
from botsessions.management.commands.bots import Command
from botsessions.marks import SessionSpec
from botsessions.platforms import Platform
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.telegram import TelegramPlatform
from botsessions.sessions import StoredSession
from tests.kit import handle, message, running, texts
from tests.test_docs import ROOT, blocks, run

PAGE = "docs/coming-from.md"
SYSTEMS = ["AstrBot", "vendelieu/telegram-bot", "Televerse", "Bottender", "GramIO"]
#: What a cell of the middle column begins with where we have no name for theirs.
WITHOUT = ("not yet", "not there", "not needed")


def classes(*modules: ModuleType) -> dict[str, Any]:
    """The public classes of some modules, by name."""
    return {
        name: each
        for module in modules
        for name, each in vars(module).items()
        if isinstance(each, type) and not name.startswith("_")
    }


CLASSES = {
    **classes(exceptions, models, session, stores),
    **{name: getattr(testing, name) for name in testing.__all__},
    **{name: getattr(botsessions, name) for name in botsessions.__all__},
    "Annotated": Annotated,
    "LocalPlatform": LocalPlatform,
    "Platform": Platform,
    "StoredSession": StoredSession,
    "T": Any,
    "TelegramPlatform": TelegramPlatform,
    "Tracked": Tracked,
}
SETTINGS = {
    *(name for name in dir(Settings) if name.isupper()),
    *OPTIONS,
    *(name for each in vars(stores).values() for name in getattr(each, "known_options", ())),
}


def sections() -> dict[str, list[list[str]]]:
    """The rows of each system's table, without its head, by the heading above it."""
    found: dict[str, list[list[str]]] = {}
    for section in (ROOT / PAGE).read_text().split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        lines = [line for line in rest.splitlines() if line.startswith("|")]
        found[heading] = [
            [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines[2:]
        ]
    return found


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


OURS = sorted({span for rows in sections().values() for row in rows for span in spans(row[1])})


class Names(ast.NodeVisitor):
    """Looks up every name in a piece of code, and how it is called."""

    def __init__(self, roots: dict[str, Any]) -> None:
        self.roots = roots

    def resolve(self, node: ast.expr) -> Any:
        """Return what a name or a dotted name stands for, an attribute's value where it has one."""
        if isinstance(node, ast.Name):
            assert node.id in self.roots, f"there is no {node.id}"
            return self.roots[node.id]
        assert isinstance(node, ast.Attribute), ast.unparse(node)
        owner = self.resolve(node.value)
        assert node.attr in dir(owner), f"{ast.unparse(node.value)} has no {node.attr}"
        # On an object without an update behind it a property may have no value.
        is_property = isinstance(getattr(type(owner), node.attr, None), property)
        return getattr(owner, node.attr, None) if is_property else getattr(owner, node.attr)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id.isupper() and node.id != "T":
            assert node.id in SETTINGS, f"there is no setting {node.id}"
        else:
            self.resolve(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.resolve(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Check that it takes these arguments; lower-case names among them stand for anything."""
        given = {each.arg: each.value for each in node.keywords if each.arg}
        inspect.signature(self.resolve(node.func)).bind(*node.args, **given)
        for argument in [*node.args, *given.values()]:
            if not isinstance(argument, ast.Name) or not argument.id.islower():
                self.visit(argument)

    def visit_Assign(self, node: ast.Assign) -> None:
        [target] = node.targets
        self.visit(target)
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
            value = node.value.value
            assert target.id != "KEY" or value in STRATEGIES or "." in str(value)

    def visit_With(self, node: ast.With) -> None:
        [item] = node.items
        assert "__exit__" in dir(self.resolve(item.context_expr))


def check(code: str) -> None:
    """Raise `AssertionError` or `TypeError` where a piece of code names what is not there."""
    if code.startswith("manage.py bots "):
        command = Command().create_parser("manage.py", "bots")
        command.parse_args([*code.split()[2:], "demo"])
        return
    key = SessionKey("demo", "team", "ann")
    place, person = Chat("team", "group"), User("ann")
    said = Message("1", place, person)
    with running(Router()):
        bot = bots["demo"]
        roots = CLASSES | {
            "bot": bot,
            "router": bot.router,
            "session": Session[dict[str, Any]](cast(Any, None), key, SessionSpec(), None),
            "update": Update("demo", "1", "message", place, person, said),
        }
        source = code.removeprefix("@") + (" pass" if code.endswith(":") else "")
        Names(roots).visit(ast.parse(source))


def test_every_system_has_a_table_of_three_columns() -> None:
    found = sections()
    assert len(found) == len(SYSTEMS)
    for system, (heading, rows) in zip(SYSTEMS, found.items(), strict=True):
        assert heading.startswith(system)
        assert len(rows) > 15
        assert {len(row) for row in rows} == {3}


def test_every_row_has_our_name_or_says_that_there_is_none() -> None:
    for rows in sections().values():
        for theirs, ours, _ in rows:
            names = re.sub("^(" + "|".join(WITHOUT) + ")(; |$)", "", ours)
            assert theirs
            assert ours
            assert re.fullmatch(r"(`[^`]+`(, |$))*", names), f"{theirs}: {ours}"


@pytest.mark.parametrize("code", OURS)
def test_our_name_exists(code: str) -> None:
    check(code)


@pytest.mark.parametrize(
    "code",
    [
        "session.vanish()",
        "session.vanish",
        "session.key.vanish",
        "session.clear(1, 2, 3)",
        "session.clear(whence=where)",
        "bot.sessions.vanish()",
        "@router.vanish",
        "update.chat.vanish",
        "Store.vanish",
        "Vanish(after)",
        "VANISH = 1",
        'KEY = "vanish"',
        "with bot:",
        "vanish",
    ],
)
def test_a_name_that_is_not_there_is_found_out(code: str) -> None:
    with pytest.raises((AssertionError, TypeError)):
        check(code)


@pytest.mark.django_db
async def test_the_game_that_stands_in_for_a_waiter() -> None:
    router = run("idioms_bot", *blocks(PAGE))["router"]
    assert isinstance(router, Router)
    with running(router):
        for text in ("tiger", "/idioms", "tiger", "bird", "exit", "bird"):
            await handle(message(text))
        assert texts() == [
            "Send an idiom.",
            "It has four characters.",
            "Next one, please.",
            "1 rounds.",
        ]
