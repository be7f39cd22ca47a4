"""The smallest project with bots, for the servers under test; the rest is in the environment."""

from environs import Env

env = Env()

#: Where the servers leave what a test wants to see: the chat network, and what ran.
FOLDER = env.path("PROCESSES_FOLDER")

SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "botsessions"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "tests.processes.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {"default": env.dj_db_url("DATABASE_URL")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": env.float("SQLITE_TIMEOUT", 20),
        # A killed process loses nothing with either value of `synchronous`.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    }

BOT = {
    "PLATFORM": "botsessions.platforms.local.LocalPlatform",
    "ROUTER": "tests.processes.bots.router",
    "OPTIONS": {"secret": env.str("BOT_SECRET"), "path": str(FOLDER / "chat.sqlite3")},
}
#: A bot that may say little, to a stub of Telegram; its servers share its rates in a Redis or not.
PACED = {
    "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
    "ROUTER": "tests.processes.bots.paced",
    "OPTIONS": {
        "token": env.str("BOT_API_TOKEN", "1:none"),
        "secret": "a-secret-of-the-tests",
        "api_url": env.str("BOT_API_URL", "http://127.0.0.1:1"),
    },
    "RATES": {"chat": (1, 0.6), "group": (3, 1.0), "bot": (5, 0.4)},
}
if env.str("RATE_REDIS_URL", ""):
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": env.str("RATE_REDIS_URL"),
            "KEY_PREFIX": f"botsessions-tests-{FOLDER.name}",
            "OPTIONS": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"},
        }
    }
BOTSESSIONS = {
    "BOTS": {
        # As a platform that delivers again what was not acknowledged: handled first.
        "chat": BOT | {"ACK_AFTER": env.float("ACK_AFTER")},
        # As one that does not: stored first.
        "stored": BOT | {"ACK_AFTER": 0},
        "paced": PACED | {"ACK_AFTER": env.float("ACK_AFTER")},
    },
    "LEASE": env.float("LEASE"),
    "RENEW_EVERY": env.float("RENEW_EVERY"),
    "RECOVER_EVERY": env.float("RECOVER_EVERY"),
    "RETRY_DELAY": env.float("RETRY_DELAY"),
    "SHUTDOWN_TIMEOUT": env.float("SHUTDOWN_TIMEOUT"),
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
