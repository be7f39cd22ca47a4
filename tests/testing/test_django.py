"""The test client in Django's own test cases, which pytest runs as Django's runner does."""

from django.test import TestCase, TransactionTestCase
from django.test.utils import override_settings

from botsessions.models import BotSession
from botsessions.testing import BotClient
from tests.testing.bots import settings


@override_settings(BOTSESSIONS=settings())
class ClientTests(TestCase):
    """In the transaction of each test."""

    @classmethod
    def setUpTestData(cls) -> None:
        with BotClient("demo") as client:
            client.say("hi")

    def setUp(self) -> None:
        self.chat = self.enterContext(BotClient("demo"))

    def test_synchronous(self) -> None:
        assert self.chat.say("hi") == ["hi 2"]
        assert self.chat.session().data == {"count": 2}
        assert BotSession.objects.get().data == {"count": 2}

    def test_transactions_are_rolled_back(self) -> None:
        self.test_synchronous()

    async def test_asynchronous(self) -> None:
        assert await self.chat.say("hi") == ["hi 2"]
        state = await self.chat.session()
        assert state is not None
        assert state.data == {"count": 2}

    async def test_asynchronous_again(self) -> None:
        await self.test_asynchronous()

    def test_crash(self) -> None:
        with self.chat.crash_at("before_commit"):
            assert self.chat.say("hi") == ["hi 2"]
        assert self.chat.say("hi") == ["hi 3"]

    def test_time(self) -> None:
        self.chat.say("/brief", user="ben")
        self.chat.advance(hours=1)
        assert self.chat.session("ben") is None


@override_settings(BOTSESSIONS=settings())
class CommittingClientTests(TransactionTestCase):
    """With commits."""

    def setUp(self) -> None:
        self.chat = BotClient("demo")
        self.addCleanup(self.chat.close)

    def test_synchronous(self) -> None:
        assert self.chat.say("hi") == ["hi 1"]
        with self.chat.crash_at("handling"):
            assert self.chat.say("hi") == ["hi 2"]

    async def test_asynchronous(self) -> None:
        assert await self.chat.say("hi") == ["hi 1"]
        assert await self.chat.interleave(("ann", "a"), ("ann", "b")) == ["a 2", "b 3"]
