"""The containers: what is started, as whom, and with which secrets. No engine runs them here."""

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"web", "worker", "beat", "migrate"}
SECRETS = {"SECRET_KEY": "a-key", "POSTGRES_PASSWORD": "a1password"}

compose = pytest.importorskip("yaml").safe_load((ROOT / "compose.yaml").read_text())


@cache
def command() -> list[str] | None:
    """Return what runs Compose here: the plugin of Docker's client, or the program of its own."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            answer = subprocess.run([*words, "version"], capture_output=True)
            if answer.returncode == 0:
                return words
    return None


def config(**environment: str) -> subprocess.CompletedProcess[str]:
    words = command()
    if words is None:
        pytest.skip("there is neither `docker compose` nor `docker-compose`")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with tempfile.NamedTemporaryFile() as empty:  # not the file .env of whoever runs the tests
        return subprocess.run(
            [*words, "--env-file", empty.name, "config"],
            env=kept | environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
        )


def test_compose_takes_it() -> None:
    resolved = config(**SECRETS, ALLOWED_HOSTS="bots.example.org")
    assert resolved.returncode == 0, resolved.stderr
    for service in (*OURS, "postgres", "redis"):
        assert f"  {service}:" in resolved.stdout
    assert "postgresql://botsessions:a1password@postgres:5432/botsessions" in resolved.stdout
    assert "127.0.0.1,localhost,bots.example.org" in resolved.stdout


@pytest.mark.parametrize("missing", SECRETS)
def test_what_is_missing_is_named(missing: str) -> None:
    resolved = config(**{name: value for name, value in SECRETS.items() if name != missing})
    assert resolved.returncode != 0
    assert f"Set {missing} in .env" in resolved.stderr


def test_no_secret_is_written_down() -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("SECRET|PASSWORD|TOKEN", variable):
                assert re.fullmatch(r"\$\{\w+:[-?][^}]*\}", value), f"{name}: {variable}"
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert not re.search("SECRET|PASSWORD|TOKEN", dockerfile)


def test_everything_starts_in_its_turn() -> None:
    services = compose["services"]
    assert set(services) == OURS | {"postgres", "redis"}
    for name in ("web", "worker", "beat"):
        needed = services[name]["depends_on"]
        assert needed["migrate"]["condition"] == "service_completed_successfully"
        assert needed["redis"]["condition"] == "service_healthy"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["migrate"]["restart"] == "no"
    for name in ("web", "postgres", "redis"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert "/readyz" in services["web"]["healthcheck"]["test"][-1]
    assert "ports" not in services["postgres"] | services["redis"]


def test_our_containers_may_do_little() -> None:
    for name in OURS:
        service: dict[str, Any] = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert not {"user", "privileged", "cap_add"} & set(service)
    last = (ROOT / "Dockerfile").read_text().rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root\b|0\b)\w+", last, re.MULTILINE)


def test_the_image_has_what_runs_and_nothing_else() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY ([^-]\S*) ", dockerfile, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    # What the Dockerfile leaves out of the requirements is what follows this line.
    assert "/^# Tests$/,$d" in dockerfile
    needed, _, others = (ROOT / "requirements.txt").read_text().partition("\n# Tests\n")
    for package in (
        "Django~",
        "celery[redis]~",
        "uvicorn~",
        "prometheus-client~",
        "psycopg",
        "environs",
    ):
        assert package in needed
    assert "pytest~" in others
    assert "pytest" not in needed
