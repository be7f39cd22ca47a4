"""The house rules: layers, public names, settings and their documentation."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import botsessions
from botsessions.conf import Settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "botsessions"

#: From the vocabulary up; a module may import its own layer and those below it.
LAYERS = [
    {"exceptions", "conf", "signals", "clock", "updates", "keys"},
    {"models", "stores", "mailboxes", "platforms", "migrations"},
    {
        "clearing", "context", "contents", "data", "marks", "session", "injection", "routing",
        "sessions", "access", "bots", "flows", "holding", "leases", "delivery", "turns", "upkeep",
        "engine", "webhook", "versions", "pacing", "retention", "metrics", "logs",
        "sending", "handling", "database_thread",
    },
    {"operations", "schedule", "tasks"},
    {
        "api", "apps", "health", "checks", "views", "urls", "asgi", "admin", "management",
        "playground", "templatetags", "testing",
    },
]  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def noun(module: str) -> str:
    """The part of a dotted path that stands in the table of layers; "" for the package itself."""
    return [*module.split("."), ""][1]


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(path: Path) -> set[str]:
    """What a file of the package imports from it; not what it imports for its type hints."""
    tree = ast.parse(path.read_text())
    found = set()
    hints = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hints:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("botsessions.")}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upward(path: Path) -> None:
    name = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if name == "__init__":
        return
    for imported in imports(path):
        assert layer(noun(imported)) <= layer(name), f"{name} imports {imported}"


def test_celery_is_imported_by_the_tasks_alone() -> None:
    users = [path.name for path in modules() if "celery" in path.read_text().lower().split()]
    importing = [
        path.name
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom | ast.Import) and "celery" in ast.unparse(node)
    ]
    assert set(importing) <= {"tasks.py"}, users


def test_every_public_name_is_there() -> None:
    for name in botsessions.__all__:
        assert getattr(botsessions, name).__module__.startswith("botsessions.")
    with pytest.raises(AttributeError):
        botsessions.nothing  # noqa: B018


def test_importing_the_public_names_loads_no_model() -> None:
    code = (
        "import botsessions, sys;"
        "[getattr(botsessions, name) for name in botsessions.__all__];"
        "assert 'botsessions.models' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_setting_is_documented() -> None:
    documented = (ROOT / "docs" / "settings.md").read_text()
    names = [name for name in vars(Settings) if name.isupper()]
    assert names
    for name in names:
        assert f"`{name}`" in documented, f"docs/settings.md has no row for {name}"


def test_nothing_unpickles() -> None:
    for path in modules():
        assert "pickle" not in path.read_text(), path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_a_few_pages(path: Path) -> None:
    """The contracts are longer: they are lists of cases."""
    if path.name == "contract.py":
        return
    assert len(path.read_text().splitlines()) <= 600
