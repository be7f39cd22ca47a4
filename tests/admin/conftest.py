"""A bot that is configured, for every test of the admin."""

from collections.abc import Iterator

import pytest
from django.test import Client, override_settings

from tests.admin.kit import router, superuser
from tests.kit import configured


@pytest.fixture(autouse=True)
def bots() -> Iterator[None]:
    with override_settings(BOTSESSIONS=configured(router, ATTEMPTS=1)):
        yield


@pytest.fixture
def operator() -> Client:
    """A client with every permission there is."""
    return superuser()
