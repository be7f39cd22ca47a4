"""The examples of docs/operations.md run."""

from typing import Any

import pytest
from django.test import override_settings

from botsessions import Router, operations
from botsessions.models import Erasure, MessageDeletion
from botsessions.retention import terms
from botsessions.testing import BotClient
from tests.kit import configured
from tests.test_docs import blocks, run


@pytest.mark.django_db(transaction=True)
def test_the_examples_about_operations_run() -> None:
    router = Router()
    bot = configured(router)["BOTS"]["demo"]
    with override_settings(BOTSESSIONS={"BOTS": {"shop": bot}}):
        page: dict[str, Any] = run(
            "operations_guide", *blocks("docs/operations.md"), router=router, BOTSESSIONS={}
        )
        assert "botsessions.sweep" in page["CELERY_BEAT_SCHEDULE"]
        assert terms("shop", page["RETENTION"])["PARKED"].after is not None
        assert {each.kind for each in Erasure.objects.all()} == {"user", "chat"}
        with BotClient("shop") as client:
            assert client.say("/wipe") == []
            operations.delete_messages()
        assert {each.status for each in MessageDeletion.objects.all()} == {"done"}
