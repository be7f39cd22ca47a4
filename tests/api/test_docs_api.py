"""The commands of docs/api.md do what it says."""

import json
import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import pytest
from django.test import Client, override_settings

from botsessions.api import problems
from tests.api.kit import deletion_of, everything, router, session_of, update_of
from tests.api.test_permissions import READS, WRITES
from tests.kit import configured

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()


def commands() -> list[tuple[str, str]]:
    """The curl commands of the page, each with what is shown of the answer."""
    blocks = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
    return re.findall(r"^\$ curl (.*)\n((?:(?!\$).*\n)*)", blocks, re.MULTILINE)


def curl(command: str) -> Any:
    """Do what curl would do, as far as the page makes use of it."""
    method, headers, body, url = "", {}, None, ""
    words = iter(shlex.split(command))
    for word in words:
        match word:
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-X":
                method = next(words)
            case "--json":
                body = next(words)
            case "-i":
                pass
            case _:
                url = word
    method = method or ("GET" if body is None else "POST")
    given: dict[str, Any] = {} if body is None else {"data": body}
    return Client().generic(method, url, **given, content_type="application/json", headers=headers)


@pytest.mark.django_db
def test_the_commands_work() -> None:
    bot = configured(router)["BOTS"]["demo"]
    with override_settings(BOTSESSIONS={"BOTS": {"shop": bot}}):
        names = {
            "API": "/api",
            "TOKEN": everything().headers["Authorization"].removeprefix("Bearer "),
            "SESSION": session_of("shop", "4711", "4711", data={"items": []}, version=1).pk,
            "UPDATE": update_of("shop").pk,
            "DELETION": deletion_of("shop").pk,
        }
        found = commands()
        assert len(found) > 20
        for command, shown in found:
            response = curl(Template(command).substitute(names))
            assert response.status_code < 300, (command, response.content)
            if shown.startswith("ETag: "):
                assert f"ETag: {response['ETag']}\n" == shown
            elif shown:
                assert response.json() == json.loads(shown)


def test_every_code_and_permission_is_documented() -> None:
    codes = {kind.code for kind in problems.KINDS.values()}
    codes |= {"precondition_required", "bot_not_configured", "throttled", "invalid"}
    for word in codes | {each.permission for each in READS + WRITES}:
        assert f"`{word}`" in PAGE, word
