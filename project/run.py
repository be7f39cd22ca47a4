"""Start the project on this machine: web, Celery worker and beat, with one command.

`python -m project.run [--port PORT]` migrates, makes the operator on the first start, prints the
addresses and runs until Ctrl-C, or until one of the three processes ends: the others end too.
"""

import argparse
import os
import secrets
import shlex
import signal
import socket
import sys

import django
import honcho.manager
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError, connections
from environs import EnvError
from honcho.printer import Printer

from project import secretfile

HOST = "127.0.0.1"
STOPPED_BY_US = {128 + signal.SIGINT, 128 + signal.SIGTERM}

# Seconds from the first process that ends to the kill of those that have not: within this time
# updates being handled are finished or given back.
honcho.manager.KILL_WAIT = 15


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m project.run", description=__doc__)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8000"))
    port = parser.parse_args().port
    require_free(port)

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    try:
        django.setup()
        call_command("migrate", interactive=False, verbosity=0)
    except (ImproperlyConfigured, EnvError) as error:
        sys.exit(f"The settings are wrong. {error}")
    except OperationalError as error:
        sys.exit(
            "The database cannot be used. Check DATABASE_URL, or unset it to use SQLite. "
            f"It said:\n{error}"
        )
    login = ensure_operator()
    connections.close_all()

    print(f"Playground  http://{HOST}:{port}/playground/")
    print(f"Admin       http://{HOST}:{port}/admin/   {login}")
    print("Ctrl-C stops everything.", flush=True)
    return run(port)


def require_free(port: int) -> None:
    """Exit with a message where the web server could not listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            sys.exit(
                f"Cannot listen on {HOST}:{port} ({error}). "
                "Stop what uses the port, or choose another: make run PORT=8001"
            )


def ensure_operator() -> str:
    """Create the operator where there is none, and return what to print about the login.

    The password is shown once, when the operator is made, and stays in a file that only its owner
    reads.
    """
    path = settings.VAR_DIR / "operator-login"
    login = secretfile.read_or_create(path, lambda: f"operator {secrets.token_urlsafe(12)}")
    username, password = login.split()
    users = get_user_model()._default_manager
    if users.filter(username=username).exists():
        return f"user {username}, password in {path}"
    call_command("createsuperuser", interactive=False, verbosity=0, username=username, email="")
    user = users.get(username=username)
    user.set_password(password)
    user.save()
    return f"user {username}, password {password} (kept in {path})"


def run(port: int) -> int:
    """Run the processes until they end, and return the exit code: 0 where we were asked to stop."""
    python = shlex.quote(sys.executable)
    workers = int(os.environ.get("WEB_WORKERS", "1"))
    commands = {
        "web": (
            f"uvicorn --host {HOST} --port {port} --workers {workers} "
            "--http httptools --loop uvloop --ws none --no-access-log --log-level warning "
            "--no-server-header --no-proxy-headers --timeout-graceful-shutdown 5 "
            "project.asgi:application"
        ),
        "worker": (
            "celery --quiet -A project worker --pool threads --concurrency 2 --loglevel INFO "
            "--without-gossip --without-mingle --without-heartbeat"
        ),
        "beat": "celery --quiet -A project beat --loglevel INFO",
    }
    manager = honcho.manager.Manager(Printer(sys.stdout, time_format=""))  # our lines have the time
    for name, command in commands.items():
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        manager.add_process(name, f"exec {python} -m {command}", env=environment)
    manager.loop()
    return 0 if manager.returncode in STOPPED_BY_US else manager.returncode or 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(0)
