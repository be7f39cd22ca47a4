"""The bots that the API is about, and who asks."""

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache

from botsessions.api.models import ApiToken
from tests.api.kit import Api, everything, router
from tests.kit import running


@pytest.fixture(autouse=True)
def bots() -> Iterator[None]:
    cache.clear()
    with running(router, ATTEMPTS=1):
        yield


@pytest.fixture
def api(db: None) -> Api:
    """A program that may do everything."""
    return everything()


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """Let the test commit, and delete the users and tokens that it made."""
    yield
    ApiToken.objects.all().delete()
    User.objects.all().delete()
