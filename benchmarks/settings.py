"""The smallest Django project that has a bot; what differs between rows is in the environment."""

from environs import Env

env = Env()

SECRET_KEY = "only-for-benchmarks"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "botsessions"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "benchmarks.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {"default": env.dj_db_url("DATABASE_URL", conn_max_age=None)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # FULL: an acknowledged update survives a power cut, as it does on PostgreSQL with its defaults.
    synchronous = env.str("BENCH_SQLITE_SYNCHRONOUS", "FULL")
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": f"PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};",
    }

BOTSESSIONS = {
    "BOTS": {
        "bench": {
            "PLATFORM": "botsessions.platforms.telegram.TelegramPlatform",
            "ROUTER": env.str("BENCH_ROUTER", "benchmarks.bots.router"),
            "RATES": None,  # the peers have none, and the stub takes everything
            "OPTIONS": {
                "token": env.str("BENCH_TOKEN"),
                "secret": env.str("BENCH_SECRET"),
                "api_url": env.str("BENCH_API_URL"),
            },
        },
    },
}
