"""Which servers answer on this machine, asked once in each run of the tests."""

import os
from functools import cache

import psycopg
import redis

TIMEOUT = 3


@cache
def postgresql_url() -> str | None:
    """Return the address of a PostgreSQL where the tests may create databases, or None.

    TEST_DATABASE_URL alone counts where it is set; otherwise the standard port is tried, then the
    local socket.
    """
    if configured := os.environ.get("TEST_DATABASE_URL"):
        candidates = [configured]
    else:
        candidates = ["postgresql://postgres@127.0.0.1:5432/postgres", "postgresql:///postgres"]
    return next((url for url in candidates if postgresql_answers(url)), None)


def postgresql_answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=TIMEOUT) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@cache
def redis_url() -> str | None:
    """Return the address of a Redis for the tests, or None.

    TEST_REDIS_URL alone counts where it is set; otherwise the last database on the standard port.
    """
    url = os.environ.get("TEST_REDIS_URL") or "redis://127.0.0.1:6379/15"
    client = redis.Redis.from_url(url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)
    try:
        client.ping()
    except redis.RedisError:
        return None
    finally:
        client.close()
    return url
