"""What must be so before anything begins, each with what to do about it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from django.db.backends.sqlite3 import base as sqlite3
from django.db.migrations.executor import MigrationExecutor

from botsessions.testing.harness.history import Options


class Refused(Exception):
    """The harness cannot run like this; the message says what to do."""


def set_up() -> None:
    """Set Django up with the project's settings. Raises `Refused`."""
    if not hasattr(signal, "SIGSTOP"):
        raise Refused("This system has no SIGKILL and SIGSTOP: run the harness on Linux or macOS.")
    name = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not name:
        raise Refused(
            "No settings are named. Say --settings shop.settings, with your own module, or set "
            "DJANGO_SETTINGS_MODULE."
        )
    try:
        django.setup()
    except (ImportError, ImproperlyConfigured) as error:
        raise Refused(f"The settings {name} cannot be used: {error}") from error
    if not apps.is_installed("botsessions"):
        raise Refused(f"INSTALLED_APPS of {name} lacks 'botsessions'.")


def check(options: Options) -> None:
    """Raise `Refused` unless the database and what the options name can be used."""
    from botsessions.conf import settings
    from botsessions.stores.base import make_store
    from botsessions.testing.harness.mailbox import mailbox_class

    try:
        mailbox_class(options.mailbox)
        if options.store not in settings.STORES:
            raise ImproperlyConfigured(
                f"--store {options.store} is not in BOTSESSIONS['STORES'] "
                f"({', '.join(sorted(settings.STORES))})."
            )
        make_store(options.store, settings.STORES[options.store])
    except ImproperlyConfigured as error:
        raise Refused(str(error)) from error
    _check_database(settings.DATABASE)


def _check_database(alias: str) -> None:
    if alias not in connections:
        raise Refused(f"BOTSESSIONS['DATABASE'] is {alias!r}, which is not in DATABASES.")
    connection = connections[alias]
    if isinstance(connection, sqlite3.DatabaseWrapper) and connection.is_in_memory_db():
        raise Refused(
            f"Database {alias!r} is SQLite in memory, which processes cannot share: name a file."
        )
    try:
        missing = list(_missing_migrations(alias))
    except Error as error:
        raise Refused(f"Database {alias!r} does not answer: {str(error).strip()}") from error
    finally:
        connection.close()
    if missing:
        raise Refused(
            f"Database {alias!r} lacks migrations ({', '.join(missing)}): run "
            f"manage.py migrate botsessions --database {alias}."
        )


def _missing_migrations(alias: str) -> Iterator[str]:
    executor = MigrationExecutor(connections[alias])
    leaves = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "botsessions"]
    for migration, _ in executor.migration_plan(leaves):
        if migration.app_label == "botsessions":
            yield migration.name
