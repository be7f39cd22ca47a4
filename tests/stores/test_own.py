"""The store of the documentation keeps the contract (P39)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from botsessions.stores import Store
from botsessions.testing import StoreContract

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "stores.md"


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What the last two blocks of the document define."""
    *_, store, suite = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "documented"}
    exec(compile(store + suite, DOCUMENT.name, "exec"), names)  # noqa: S102
    return names


class TestDocumented(StoreContract):
    @pytest.fixture(autouse=True)
    def _suite(self, documented: dict[str, Any]) -> None:
        self.documented = documented["TestDictStore"]()
        documented["DictStore"].values.clear()

    def store(self) -> Store:
        made: Store = self.documented.store()
        return made
