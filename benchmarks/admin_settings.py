"""The benchmarks' project with Django's admin and the API, as a project has them, and four bots."""

from benchmarks.settings import *  # noqa: F403
from benchmarks.settings import BOTSESSIONS as MEASURED

INSTALLED_APPS = [
    "botsessions",
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
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "benchmarks.admin_urls"
STATIC_URL = "static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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

_telegram = MEASURED["BOTS"]["bench"]
BOTSESSIONS = {
    # In the order of their size; see `crowd`.
    "BOTS": {
        "shop": _telegram,
        "help": _telegram,
        "news": _telegram,
        "pilot": {
            "PLATFORM": "botsessions.platforms.local.LocalPlatform",
            "ROUTER": "benchmarks.bots.router",
            "OPTIONS": {"secret": SECRET_KEY},  # noqa: F405
        },
    },
    "API_RATE": None,
}
