"""The examples of docs/testing.md run, as a project's own tests with the plugin."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT

SETTINGS = """
from tests.settings import *

BOTSESSIONS = {
    "BOTS": {
        "shop": {
            "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
            "ROUTER": "shop.bots.router",
        }
    }
}
"""
#: What makes a project of the documentation's files.
PROJECT = {
    "shop/__init__.py": "",
    "shop/settings.py": SETTINGS,
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = shop.settings\nfilterwarnings = error\n",
}


def examples() -> dict[str, str]:
    """The files of the guide, by the path in their first line."""
    guide, _, _ = (
        (ROOT / "docs/testing.md").read_text().partition("\n## The race and crash harness")
    )
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == guide.count("```python")
    return dict(blocks)


def run_pytest(
    tmp_path: Path, files: dict[str, str], database: str
) -> subprocess.CompletedProcess[str]:
    """Run the tests in these files in a process of their own, in which the plugin is loaded."""
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "TEST_DATABASE": database,
        "PYTEST_ADDOPTS": "",
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "botsessions.testing.plugin"),
            *("-p", "no:asyncio", "-p", "no:randomly", "-q", "--import-mode=importlib", "."),
        ],
        cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--database"))


def test_the_guide_runs(tmp_path: Path, database: str) -> None:
    finished = run_pytest(tmp_path, PROJECT | examples(), database)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "10 passed" in finished.stdout


def test_clients_are_closed_after_each_test(tmp_path: Path, database: str) -> None:
    tests = """
        from botsessions import clock
        from botsessions.bots import bots

        kept = []

        def test_first(bot_client):
            kept.extend([bot_client("shop"), clock.now])

        def test_second():
            client, now = kept
            assert clock.now is not now
            assert "shop" not in bots._made
        """
    source = "\n".join(line[8:] for line in tests.splitlines())
    files = PROJECT | {"test_order.py": source, "shop/bots.py": examples()["shop/bots.py"]}
    finished = run_pytest(tmp_path, files, database)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "2 passed" in finished.stdout


def test_the_plugin_needs_no_settings_to_be_imported() -> None:
    code = (
        "import botsessions.testing.plugin, sys;"
        "from django.conf import settings;"
        "assert not settings.configured;"
        "assert not [name for name in sys.modules if name.startswith('django.db')];"
        "assert 'botsessions.bots' not in sys.modules;"
        "assert 'aiohttp' not in sys.modules"
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"
    }
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_the_plugin_is_found_by_its_entry_point() -> None:
    assert 'botsessions = "botsessions.testing.plugin"' in (ROOT / "pyproject.toml").read_text()


def test_every_public_name_is_there() -> None:
    from botsessions import testing

    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing  # noqa: B018
