"""Settings of the project, all of them from the environment.

With nothing set, everything lives under `var/`: SQLite, a file-system broker, generated secrets.
`DATABASE_URL` and `REDIS_URL` move it to servers, without a change of code.
"""

import secrets
from pathlib import Path
from typing import Any

import environs
from django.core.exceptions import ImproperlyConfigured

from botsessions.schedule import beat_schedule
from project import secretfile

env = environs.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(env.str("VAR_DIR", str(BASE_DIR / "var"))).absolute()
VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)


def generated(name: str) -> str:
    """Return the secret kept under `name` in the data folder, made on the first start."""
    return secretfile.read_or_create(VAR_DIR / name, lambda: secrets.token_urlsafe(48))


# Security. HTTPS=true where a proxy in front of the server speaks it and sets X-Forwarded-Proto.

SECRET_KEY = env.str("SECRET_KEY", "") or generated("secret-key")
DEBUG = env.bool("DEBUG", False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
if env.bool("HTTPS", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 3600
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# Application

INSTALLED_APPS = [
    "botsessions",  # before the admin, whose front page it adds to
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "botsessions.api",
]
MIDDLEWARE = [
    "project.headers.middleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # the apps' own folders are served: no collectstatic
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Database

SQLITE_OPTIONS = {
    # Take the write lock when a transaction begins: one that reads first and writes later cannot
    # wait for it.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # What was acknowledged must last. In WAL mode a killed process loses nothing with either value
    # of `synchronous`; when the power fails, FULL keeps the last commits and NORMAL may lose them.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
}
# CONN_MAX_AGE stays 0: under ASGI each of Django's requests has a thread of its own, and no other
# would find the connection that it kept. The engine's one thread keeps its connection in any case.
DATABASES: dict[str, Any] = {
    "default": (
        env.dj_db_url("DATABASE_URL")
        if env.str("DATABASE_URL", "")
        else {"ENGINE": "django.db.backends.sqlite3", "NAME": VAR_DIR / "db.sqlite3"}
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = SQLITE_OPTIONS

# Cache and Celery

REDIS_URL = env.str("REDIS_URL", "")
CELERY_TIMEZONE = "UTC"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# Times of last runs are kept in memory: the stock scheduler pickles them into a file.
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"
if REDIS_URL:
    CACHES: dict[str, Any] = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": REDIS_URL,
            "OPTIONS": {
                "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
                "SOCKET_CONNECT_TIMEOUT": 2,
                "SOCKET_TIMEOUT": 2,
            },
        }
    }
    CELERY_BROKER_URL = REDIS_URL
else:
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    CELERY_BROKER_URL = "filesystem://localhost"
    CELERY_BROKER_TRANSPORT = "project.broker:Transport"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(VAR_DIR / "broker"),
        "data_folder_out": str(VAR_DIR / "broker"),
        "control_folder": str(VAR_DIR / "broker-control"),
    }
    CELERY_WORKER_ENABLE_REMOTE_CONTROL = False

# Bots

BOTSESSIONS: dict[str, Any] = {
    "PLAYGROUND": env.bool("PLAYGROUND", True),
    "METRICS_TOKEN": env.str("METRICS_TOKEN", ""),
    "BOTS": {
        "demo": {
            "PLATFORM": "botsessions.platforms.local.LocalPlatform",
            "ROUTER": "project.bots.router",
            "OPTIONS": {
                "path": str(VAR_DIR / "chat.sqlite3"),
                "secret": generated("demo-secret"),
            },
        },
    },
}
if env.str("TELEGRAM_TOKEN", ""):
    if not env.str("TELEGRAM_SECRET", ""):
        raise ImproperlyConfigured(
            "TELEGRAM_TOKEN is set without TELEGRAM_SECRET. Set the secret to 1 to 256 characters "
            "of A-Z, a-z, 0-9, _ and -. Telegram sends it with every update; what comes without "
            "it is refused."
        )
    BOTSESSIONS["BOTS"]["telegram"] = {
        "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
        "ROUTER": "project.bots.router",
        "OPTIONS": {
            "token": env.str("TELEGRAM_TOKEN"),
            "secret": env.str("TELEGRAM_SECRET"),
            "api_url": env.str("TELEGRAM_API_URL", "https://api.telegram.org"),
        },
    }

CELERY_BEAT_SCHEDULE = beat_schedule(BOTSESSIONS)

# Logging: to stderr, one line each, with the update that it is about. What repeats every few
# seconds is left out. LOG_FORMAT=json is for machines.

LOG_FORMAT = env.str("LOG_FORMAT", "", validate=environs.validate.OneOf(["", "line", "json"]))
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"update": {"()": "botsessions.logs.UpdateFilter"}},
    "formatters": {
        "line": {
            "format": "{asctime} {levelname:<7} {name}{about}: {message}",
            "datefmt": "%H:%M:%S",
            "style": "{",
        },
        "json": {"()": "botsessions.logs.JsonFormatter"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "filters": ["update"],
            "formatter": LOG_FORMAT or "line",
        },
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
    },
}
