"""Settings for running these tests on a MariaDB or MySQL at its standard port, by hand:

pip install PyMySQL
pytest tests/mailboxes --ds=tests.mailboxes.mariadb
"""

import os
from importlib import import_module

from tests.settings import *  # noqa: F403

import_module("pymysql").install_as_MySQLdb()

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.mysql",
        "HOST": "127.0.0.1",
        "USER": "root",
        "NAME": "botsessions",
        "OPTIONS": {"isolation_level": os.environ.get("ISOLATION", "read committed")},
        "TEST": {
            "NAME": f"test_botsessions_{os.getpid()}",
            "CHARSET": "utf8mb4",
            "COLLATION": "utf8mb4_nopad_bin",
        },
    }
}
# Conditions of indexes and constraints are left out there.
SILENCED_SYSTEM_CHECKS = ["models.W036", "models.W037"]
