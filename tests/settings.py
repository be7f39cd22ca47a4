"""Settings of the tests: the project's, with a database of their own and nothing shared."""

import os
from pathlib import Path

import dj_database_url

os.environ["VAR_DIR"] = str(Path(__file__).resolve().parent.parent / "var" / "test")

from project.settings import *  # noqa: F403
from project.settings import SQLITE_OPTIONS, VAR_DIR
from tests.services import postgresql_url

if os.environ.get("TEST_DATABASE") == "postgresql":
    DATABASES = {"default": dj_database_url.parse(postgresql_url() or "")}
    # Tables that tests fill and empty, analyzed now and then, look large enough for compiled
    # statements, which take up to half a second each.
    DATABASES["default"].setdefault("OPTIONS", {})["options"] = "-c jit=off"
    TEST_NAME = f"test_botsessions_{os.getpid()}"
else:
    # A file as in production, so that threads can share it; only power cuts are not prepared for.
    options = SQLITE_OPTIONS | {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF"}
    TEST_NAME = str(VAR_DIR / f"test-{os.getpid()}.sqlite3")
    DATABASES = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": TEST_NAME, "OPTIONS": options}
    }
DATABASES["default"]["TEST"] = {"NAME": TEST_NAME}

CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
WHITENOISE_AUTOREFRESH = True  # no list of all static files for each client of a test
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
BOTSESSIONS = {"BOTS": {}}

CELERY_BROKER_URL = "memory://"
CELERY_BROKER_TRANSPORT = "memory"
CELERY_BROKER_TRANSPORT_OPTIONS = {}
CELERY_TASK_ALWAYS_EAGER = True
CELERY_TASK_EAGER_PROPAGATES = True
