"""The sessions of a bot: outside handlers, of several scopes, that expire, that do not fit."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import (
    Bot,
    Chat,
    Expires,
    Initial,
    Message,
    OnMisfit,
    Qualifier,
    Router,
    Scope,
    Session,
    SessionKey,
    Update,
    clock,
)
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.exceptions import (
    InvalidRequest,
    InvalidSessionData,
    LeaseLost,
    MailboxBusy,
    SessionConflict,
    SessionsDisabled,
    Unavailable,
)
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from botsessions.sessions import SessionHandle, SessionManager
from tests.kit import Moment, data, handle, keyless, message, running, status, texts

pytestmark = pytest.mark.django_db

#: A bot that takes everything and says nothing.
quiet = Router()
#: A bot that counts what it is told.
counting = Router()


@quiet.on()
async def listen(update: Update) -> None: ...


@counting.message()
async def count(session: Session) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


@dataclass
class Counter:
    n: int = 0
    words: list[str] = field(default_factory=list)


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    stopped = Moment()
    monkeypatch.setattr(clock, "now", stopped)
    return stopped


def sessions(bot: str = "demo") -> SessionManager:
    return bots[bot].sessions


async def store(value: Any) -> None:
    """Store a value as the data of ann's session, whatever reads it."""
    moment = clock.now()
    await BotSession.objects.acreate(
        bot="demo", chat="ann", user="ann", data=value, version=1,
        created_at=moment, updated_at=moment,
    )  # fmt: skip


async def stored(**key: str) -> Any:
    """Return the data of one session."""
    return (await BotSession.objects.aget(**key)).data


# Finding a session


async def test_a_session_is_the_same_however_often_it_is_asked_for() -> None:
    """S62: outside handlers by equal handles; opened once."""
    with running(quiet):
        one, two = sessions().get("team", "ann", "order"), sessions().get("team", "ann", "order")
        assert one == two
        assert hash(one) == hash(two)
        assert len({one, two}) == 1
        for other in (
            sessions().get("team", "ann"),
            sessions().get("team", "ben", "order"),
            sessions().get("den", "ann", "order"),
            sessions().get("team", qualifier="order"),
            sessions("other").get("team", "ann", "order"),
        ):
            assert other != one
        assert one != "demo:team:ann::order"
        await one.open()
        await two.open()
        row = await BotSession.objects.aget()
        assert (row.chat, row.user, row.qualifier, row.is_open) == ("team", "ann", "order", True)
        assert one.key == SessionKey("demo", "team", "ann", "", "order")
        assert type(one) is SessionHandle
        assert repr(one) == "<SessionHandle demo:team:ann::order>"


async def test_within_a_handler_it_is_the_session_of_the_handler() -> None:
    """S62: the same object, open and committed with the others."""
    router, seen = Router(), []

    @router.message()
    async def handler(update: Update, session: Session, bot: Bot) -> None:
        got = bot.sessions.get("ann", "ann")
        order = bot.sessions.get("ann", "ann", "order")
        seen.append(got is session)
        seen.append(bot.sessions.get("ann", "ann") is got)
        seen.append(bot.sessions.of(update) is session)
        seen.append(bot.sessions.of(update, "order") is order)
        async with order:
            order.data["n"] = 1
        session.data["n"] = 2

    with running(router):
        await handle(message())
        assert seen == [True] * 4
        assert await data() == {"n": 2}
        assert await data(qualifier="order") == {"n": 1}
        rows = [(each.is_open, each.version) async for each in BotSession.objects.all()]
        assert rows == [(True, 1)] * 2


async def test_of_finds_the_session_of_an_update_by_the_strategy() -> None:
    """S63: None without a chat."""
    update = message(chat="team")
    expected = {
        "chat_user": SessionKey("demo", "team", "ann"),
        "chat": SessionKey("demo", "team"),
        "user": SessionKey("demo", user="ann"),
        "auto": SessionKey("demo", "team", "ann"),
    }
    for strategy, key in expected.items():
        with running(quiet, key=strategy):
            assert sessions().of(update).key == key
            assert sessions().of(update, "order").key == key.qualified("order")
            assert sessions().of(update) == sessions().get(key.chat, key.user)
    with running(quiet):
        assert sessions().of(keyless()) is None
        assert sessions().of(keyless("poll"), "order") is None


async def test_a_key_that_cannot_be_kept_is_refused() -> None:
    with running(quiet), pytest.raises(ValueError, match="at most 160"):
        sessions().get("x" * 161)


async def test_a_bot_without_a_store_has_no_sessions_outside_handlers_either() -> None:
    """S28."""
    with running(quiet, store=None):
        with pytest.raises(SessionsDisabled, match="STORE: None"):
            sessions().get("ann")
        with pytest.raises(SessionsDisabled):
            sessions().of(message())


# Using it outside handlers


async def test_a_block_commits_on_leaving() -> None:
    with running(quiet):
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            session.send("not awaited")
            await session.send("awaited")
            assert (session.chat, session.bot.alias) == ("ann", "demo")
            assert session.user is not None
            assert session.user.id == "ann"
            assert await data() is None
        row = await BotSession.objects.aget()
        assert (row.data, row.version, row.is_open) == ({"n": 1}, 1, True)
        assert texts() == ["not awaited", "awaited"]
        async with sessions().get("ann", "ann") as session:
            assert session.data == {"n": 1}
        assert (await BotSession.objects.aget()).version == 1
        assert not await MailboxLease.objects.aexists()
        assert not await BotUpdate.objects.aexists()


async def test_a_block_that_raises_saves_nothing() -> None:
    """What it has sent is recorded all the same, what it had not sent yet is not sent."""

    async def fail(user: str, *said: str) -> None:
        async with sessions().get(user, user) as session:
            session.data["n"] = 1
            for text in said:
                await session.send(text)
            session.send("never")
            raise LookupError("on purpose")

    with running(quiet):
        with pytest.raises(LookupError, match="on purpose"):
            await fail("ann", "happened")
        assert await data() is None
        assert texts() == ["happened"]
        assert [each.text async for each in TrackedMessage.objects.all()] == ["happened"]
        with pytest.raises(LookupError, match="on purpose"):
            await fail("ben")
        assert texts("ben") == []
        assert not await BotSession.objects.filter(user="ben").aexists()
        assert not await MailboxLease.objects.aexists()


async def test_a_block_whose_last_send_fails_saves_nothing() -> None:

    async def fail() -> None:
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            session.send("")

    with running(quiet):
        with pytest.raises(InvalidRequest):
            await fail()
        assert not await BotSession.objects.aexists()
        assert not await MailboxLease.objects.aexists()


@pytest.mark.django_db(transaction=True)
def test_a_block_in_synchronous_code_commits_on_leaving() -> None:

    def fail() -> None:
        with sessions().get("ann", "ann") as session:
            session.data["n"] = 2
            raise LookupError("on purpose")

    with running(quiet):
        with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            session.send("hi")
        row = BotSession.objects.get()
        assert (row.data, row.is_open) == ({"n": 1}, True)
        assert texts() == ["hi"]
        with pytest.raises(LookupError, match="on purpose"):
            fail()
        assert BotSession.objects.get().data == {"n": 1}
        assert not MailboxLease.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_within_a_block_in_synchronous_code_the_bots_sends_are_in_its_slice() -> None:
    """S73."""
    with running(quiet):
        with sessions().get("ann", "ann"):
            bots["demo"].send(None, "hi")
        assert texts() == ["hi"]
        assert TrackedMessage.objects.get().text == "hi"


async def test_a_single_verb_has_a_turn_of_its_own() -> None:
    with running(quiet):
        ann = sessions().get("ann", "ann")
        sent = await ann.send("one")
        await ann.call("album", texts=["two", "three"])
        await ann.reply("four")
        assert texts() == ["one", "two", "three", "four"]
        found = await ann.messages()
        assert [each.text for each in found] == ["one", "two", "three", "four"]
        assert found[0].message_id == str(sent["message_id"])
        assert await ann.forget(lambda each: each.text == "one") == 1
        assert await ann.clear() == 3
        assert texts() == ["one"]
        await ann.close()
        assert await sessions().is_idle()


async def test_what_a_block_tracks_and_then_sends_is_all_in_the_slice() -> None:
    with running(quiet):
        async with sessions().get("ann", "ann") as session:
            await session.track(Message("m1", Chat("ann"), text="tracked"))
            await session.send("sent")
            session.track(Message("m2", Chat("ann"), text="tracked later"))
        found = await sessions().get("ann", "ann").messages()
        assert [each.text for each in found] == ["tracked", "sent", "tracked later"]


async def test_a_block_that_opens_with_a_matcher_and_then_sends_keeps_the_matcher() -> None:
    """S64."""
    router = Router()

    @router.matcher
    def shouted(update: Update) -> bool:
        return update.text.isupper()

    with running(router):
        async with sessions().get("ann", "ann") as session:
            await session.open(shouted)
            await session.send("hi")
        assert (await BotSession.objects.aget()).matcher == "shouted"


async def test_bot_sends_of_a_block_are_in_its_slice() -> None:
    """S73."""
    with running(quiet):
        async with sessions().get("ann", "ann"):
            await bots["demo"].send(None, "here")
            await bots["demo"].send("ben", "there")
        await bots["demo"].send("ann", "outside")
        found = await sessions().get("ann", "ann").messages()
        assert [(each.chat, each.text) for each in found] == [("ann", "here"), ("ben", "there")]


async def test_typed_data_outside_handlers() -> None:
    with running(quiet):
        async with sessions().get("ann", "ann", type=Counter) as session:
            session.data.n += 1
            session.data.words.append("hi")
        async with sessions().get("ann", "ann", type=Counter) as session:
            assert session.data == Counter(1, ["hi"])


async def test_a_session_asked_for_in_a_handler_is_read_before_its_data_is_used() -> None:
    router, problems = Router(), []

    @router.message()
    async def handler(update: Update, bot: Bot) -> None:
        team = bot.sessions.get("team")
        for use in (lambda: team.data, lambda: team.update(n=1), team.reset, team.delete):
            with pytest.raises(RuntimeError, match="async with session"):
                use()
            problems.append(1)
        async with team:
            team.data["n"] = team.data.get("n", 0) + 1
        if update.text == "fail":
            raise LookupError("on purpose")

    with running(router, ATTEMPTS=1):
        await handle(message(), message(user="ben"))
        await handle(message("fail"))
        assert await stored(chat="team") == {"n": 2}
    assert len(problems) >= 12


async def test_a_session_asked_for_in_a_handler_can_be_closed_unread() -> None:
    router = Router()

    @router.message()
    async def handler(bot: Bot) -> None:
        await bot.sessions.unsubscribe(SessionKey("demo", "team"))
        await bot.sessions.get("den").close()

    with running(router, ATTEMPTS=1):
        await sessions().get("team").open()
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert await sessions().is_idle()


async def test_a_session_asked_for_in_a_handler_says_whether_it_is_open_unread() -> None:
    router, seen = Router(), []

    @router.message()
    async def handler(bot: Bot) -> None:
        team = bot.sessions.get("team")
        await team.send("hi")
        seen.append(team.is_open)

    with running(router, ATTEMPTS=1):
        await handle(message())
        assert seen == [True]


# Turns


async def test_a_handle_waits_for_its_turn_and_what_arrives_meanwhile_for_the_handle() -> None:
    router, order = Router(), []
    begun, free = asyncio.Event(), asyncio.Event()

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        order.append(update.text)
        if update.text == "slow":
            begun.set()
            await asyncio.wait_for(free.wait(), 5)
        session.data["last"] = update.text

    async def outside() -> None:
        async with sessions().get("ann", "ann") as session:
            order.append("outside")
            assert session.data == {"last": "b"}
            await asyncio.gather(*[engine.submit(message(each)) for each in ("c", "d")])
            await handle(message("other", user="ben"))
            order.append("outside still")
            session.data["last"] = "outside"

    with running(router):
        engine = current_engine()
        engine.is_lasting = True
        acknowledged = [engine.submit(message(each)) for each in ("slow", "a", "b")]
        await asyncio.wait_for(begun.wait(), 5)
        waiting = asyncio.create_task(outside())
        await asyncio.sleep(0.1)
        assert order == ["slow"]
        free.set()
        await asyncio.wait_for(waiting, 10)
        await asyncio.gather(*acknowledged)
        await engine.drain()
        assert order == ["slow", "a", "b", "outside", "other", "outside still", "c", "d"]
        assert await data() == {"last": "d"}


async def test_what_is_stored_and_nobody_works_on_comes_before_a_handle() -> None:
    router, order = Router(), []

    @router.message()
    async def handler(update: Update) -> None:
        order.append(update.id)

    with running(router):
        for number in ("1", "2"):
            await BotUpdate.objects.acreate(
                bot="demo", update_id=number, type="message", mailbox="demo:ann:ann",
                status="pending", received_at=clock.now(),
                payload={"bot": "demo", "id": number, "type": "message"},
            )  # fmt: skip
        async with sessions().get("ann", "ann"):
            order.append("outside")
        assert order == ["1", "2", "outside"]


async def test_a_handle_that_does_not_get_its_turn_says_so() -> None:
    router = Router()
    begun, free = asyncio.Event(), asyncio.Event()

    @router.message()
    async def handler(session: Session) -> None:
        begun.set()
        await asyncio.wait_for(free.wait(), 5)
        session.data["done"] = True

    with running(router):
        engine = current_engine()
        engine.is_lasting = True
        engine.submit(message())
        await asyncio.wait_for(begun.wait(), 5)
        with pytest.raises(MailboxBusy, match=r"demo:ann:ann was not free in 0\.05 s"):
            async with sessions().get("ann", "ann", wait=0.05):
                pytest.fail("the handler has the mailbox")
        with pytest.raises(MailboxBusy):
            await sessions().get("ann", "ann", wait=0).send("never")
        async with sessions().get("ben", "ben", wait=0.05) as session:
            session.data["free"] = True
        free.set()
        await engine.drain()
        assert await data() == {"done": True}
        assert await data("ben") == {"free": True}
        assert texts() == []


async def test_handles_at_once_lose_nothing() -> None:
    """P1, P10: with updates among them."""

    async def outside(shared: Any) -> None:
        async with shared or sessions().get("ann", "ann") as session:
            n = session.data.get("n", 0)
            await asyncio.sleep(0.001)
            session.data["n"] = n + 1

    with running(counting):
        shared = sessions().get("ann", "ann")
        await asyncio.gather(
            *[outside(None) for _ in range(4)],
            *[outside(shared) for _ in range(3)],
            handle(*[message() for _ in range(5)]),
        )
        assert await data() == {"n": 12}
        assert not await MailboxLease.objects.aexists()


async def test_a_block_whose_session_somebody_else_saves_says_so() -> None:
    """P3, P12: nothing of it is saved, and the mailbox is free."""

    async def be_late() -> None:
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 2
            await BotSession.objects.aupdate(data={"n": 7}, version=2)

    with running(quiet):
        await store({"n": 1})
        with pytest.raises(SessionConflict, match="demo:ann:ann"):
            await be_late()
        assert await data() == {"n": 7}
        assert not await MailboxLease.objects.aexists()


async def test_a_block_that_outlives_its_lease_saves_nothing() -> None:
    """P3: whoever has taken the mailbox over is not overwritten."""

    async def sleep() -> None:
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            await asyncio.sleep(1.1)
            async with sessions().get("ann", "ann") as other:
                other.data["n"] = 2

    with running(quiet, LEASE=1, RENEW_EVERY=10):
        with pytest.raises(LeaseLost):
            await sleep()
        assert await data() == {"n": 2}


async def test_a_block_keeps_its_lease_for_as_long_as_it_lasts() -> None:
    """P3."""
    with running(quiet, LEASE=1.5, RENEW_EVERY=0.1):
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            await asyncio.sleep(1.6)
            with pytest.raises(MailboxBusy):
                await sessions().get("ann", "ann", wait=0).open()
            await session.send("still")
        assert await data() == {"n": 1}


async def test_a_renewal_that_fails_does_not_cost_the_block_its_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the database is away for a moment, the lease is renewed the next time."""
    tries, renew = [], DatabaseMailbox.renew

    def away(mailbox: DatabaseMailbox, leases: Any) -> set[str]:
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("The database is away.")
        return renew(mailbox, leases)

    monkeypatch.setattr(DatabaseMailbox, "renew", away)
    with running(quiet, RENEW_EVERY=0.02):
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            async with asyncio.timeout(10):
                while len(tries) < 2:
                    await asyncio.sleep(0.01)
        assert await data() == {"n": 1}
        assert not await MailboxLease.objects.aexists()


async def test_a_task_that_outlives_its_handler_goes_on_sending() -> None:
    """`Context.close`: a verb called from now on happens without the handler."""
    router = Router()
    over = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def later(bot: Bot) -> None:
        await asyncio.wait_for(over.wait(), 5)
        await bot.send("ann", "later")
        await bot.sessions.get("ann", "ann").send("later still")

    @router.message()
    async def handler(bot: Bot) -> None:
        tasks.append(asyncio.create_task(later(bot)))

    with running(router, LEASE=1, RENEW_EVERY=10):
        await handle(message())
        await asyncio.sleep(1.1)
        over.set()
        await tasks[0]
        assert texts() == ["later", "later still"]


# All of them


async def test_is_idle_says_whether_any_session_is_open() -> None:
    """S67."""
    with running(counting):
        assert await sessions().is_idle()
        await handle(message())
        assert await sessions().is_idle()
        ann = sessions().get("ann", "ann")
        await ann.open()
        assert not await sessions().is_idle()
        assert await sessions("other").is_idle()
        await ann.close()
        assert await sessions().is_idle()


async def test_a_session_that_has_expired_is_open_no_more(moment: Moment) -> None:
    """S67, S45."""
    with running(quiet, expires=60):
        await sessions().get("ann", "ann").open()
        moment.advance(61)
        await handle(message())
        assert not await TrackedMessage.objects.aexists()
        assert await sessions().is_idle()


async def test_subscribe_and_unsubscribe_open_and_close_by_key() -> None:
    """S64, S80."""
    router = Router()

    @router.matcher
    def shouted(update: Update) -> bool:
        return update.text.isupper()

    @router.message()
    async def handler(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    key = SessionKey("demo", "ann", "ann")
    with running(router):
        await sessions().subscribe(key, shouted)
        await handle(message("quiet"), message("LOUD"))
        ann = sessions().get("ann", "ann")
        assert [each.text for each in await ann.messages()] == ["LOUD"]
        await sessions().unsubscribe(key)
        assert await sessions().is_idle()
        await handle(message("LOUD"))
        assert not await TrackedMessage.objects.aexists()
        assert await data() == {"n": 3}
        with pytest.raises(ImproperlyConfigured, match="nothing"):
            await sessions().subscribe(key, "nothing")


async def test_all_lists_the_live_sessions_of_the_bot(moment: Moment) -> None:
    """S36."""
    with running(quiet, expires=60):
        await sessions("other").get("ann", "ann").open()
        for user in ("ann", "ben", "cem"):
            async with sessions().get(user, user, "order") as session:
                session.data["user"] = user
                if user == "cem":
                    await session.close()
            moment.advance(30)
        found = [each async for each in sessions().all()]
        # The first one's last moment was reached only now by the clock: 60 s after its write
        # the second is live, 90 s after its write the first is not.
        assert [each.key.user for each in found] == ["ben", "cem"]
        assert found[0].key == SessionKey("demo", "ben", "ben", "", "order")
        assert [(each.data, each.version, each.is_open) for each in found] == [
            ({"user": "ben"}, 1, True),
            ({"user": "cem"}, 1, False),
        ]
        assert found[0].expires_at == moment.now
        assert found[1].updated_at == moment.now - timedelta(seconds=30)


async def test_all_tells_the_data_wherever_it_is_kept() -> None:
    """S36."""
    stores = {"default": {"BACKEND": "botsessions.stores.CacheStore"}}
    with running(counting, STORES=stores):
        await handle(message())
        [found] = [each async for each in sessions().all()]
        assert found.data == {"n": 1}


# Keys and scopes


async def test_sessions_of_several_scopes_are_committed_together() -> None:
    """P12."""
    router = Router()

    @router.message()
    async def handler(
        update: Update,
        own: Session,
        team: Annotated[Session, Scope("chat")],
        person: Annotated[Session[Counter], Scope("user")],
        order: Annotated[Session, Scope("chat"), Qualifier("order")],
    ) -> None:
        own.data["n"] = own.data.get("n", 0) + 1
        team.data["n"] = team.data.get("n", 0) + 1
        person.data.n += 1
        order.data["last"] = update.text
        if update.text == "fail":
            raise LookupError("on purpose")

    with running(router, ATTEMPTS=1):
        await handle(message("a", user="ann", chat="team"))
        await handle(message("b", user="ben", chat="team"))
        await handle(message("c", user="ann", chat="den"))
        await handle(message("fail", user="ann", chat="team"))
        assert await stored(chat="team", user="ann") == {"n": 1}
        assert await stored(chat="team", user="", qualifier="") == {"n": 2}
        assert await stored(chat="team", user="", qualifier="order") == {"last": "b"}
        assert await stored(chat="den", user="", qualifier="") == {"n": 1}
        assert (await stored(chat="", user="ann"))["n"] == 2
        assert (await stored(chat="", user="ben"))["n"] == 1


async def test_everybody_in_a_chat_at_once_loses_nothing_of_its_session() -> None:
    """P12: twenty at once, in one mailbox, so that none runs again."""
    router, runs = Router(), []

    @router.message()
    async def handler(own: Session, team: Annotated[Session, Scope("chat")]) -> None:
        runs.append(1)
        own.data["n"] = own.data.get("n", 0) + 1
        n = team.data.get("n", 0)
        await asyncio.sleep(0)
        team.data["n"] = n + 1

    with running(router):
        await handle(*[message(user=f"user{number}", chat="team") for number in range(20)])
        assert await stored(chat="team", user="") == {"n": 20}
        assert await BotSession.objects.filter(data__n=1).acount() == 20
    assert len(runs) == 20


async def test_a_person_in_many_chats_at_once_loses_nothing_of_their_session() -> None:
    """P12, S5: no mailbox orders these, the version of the session does."""
    router = Router()

    @router.message()
    async def handler(person: Annotated[Session, Scope("user")]) -> None:
        n = person.data.get("n", 0)
        await asyncio.sleep(0)
        person.data["n"] = n + 1

    with running(router):
        updates = [message(chat=f"chat{number}") for number in range(8)]
        await handle(*updates)
        assert await stored(user="ann") == {"n": 8}
        assert await BotUpdate.objects.filter(status="done").acount() == 8


async def test_a_scope_of_its_own_gives_an_update_without_a_chat_a_session() -> None:
    """P11, S7."""
    router = Router()

    @router.on("inline_query")
    async def handler(person: Annotated[Session, Scope("user")], own: Session | None) -> None:
        person.data["n"] = person.data.get("n", 0) + 1
        assert own is None

    with running(router):
        await handle(keyless(), keyless())
        assert await stored(chat="", user="ann") == {"n": 2}


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'room'.*chat_user"):
        Scope("room")


async def slow_key(update: Update) -> SessionKey | None:
    """Keep one session for each first letter, for messages alone."""
    await asyncio.sleep(0.001)
    if update.type != "message" or not update.text:
        return None
    return SessionKey(update.bot, update.text[0])


def first_letter(update: Update) -> SessionKey | None:
    if update.type != "message" or not update.text:
        return None
    return SessionKey(update.bot, update.text[0])


@pytest.mark.parametrize(
    "key",
    [
        "tests.test_bot_sessions.slow_key",
        "tests.test_bot_sessions.first_letter",
        slow_key,
        first_letter,
    ],
    ids=["slow path", "path", "slow function", "function"],
)
async def test_a_key_function_decides_by_the_whole_update(key: Any) -> None:
    """S6: None for some types, whose handlers have no session."""
    router, seen = Router(), []

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        session.data.setdefault("texts", []).append(update.text)

    @router.on("edited_message")
    async def edited(session: Session | None) -> None:
        seen.append(session)

    with running(router, key=key):
        words = ["apple", "bean", "apricot", "beet", "avocado"]
        await handle(*[message(word) for word in words], message("axe", type="edited_message"))
        assert await stored(chat="a") == {"texts": ["apple", "apricot", "avocado"]}
        assert await stored(chat="b") == {"texts": ["bean", "beet"]}
        assert await BotSession.objects.acount() == 2
    assert seen == [None]


async def test_of_follows_a_key_function_unless_it_is_slow() -> None:
    """S63, S6."""
    with running(quiet, key=first_letter):
        assert sessions().of(message("apple")).key == SessionKey("demo", "a")
        assert sessions().of(keyless()) is None
    with (
        running(quiet, key=slow_key),
        pytest.raises(ImproperlyConfigured, match=r"Bot 'demo'.*sessions\.get"),
    ):
        sessions().of(message("apple"))


async def test_posts_without_a_sender_in_two_channels_are_two_sessions() -> None:
    """S2, S10."""
    router = Router()

    @router.on("channel_post")
    async def posted(update: Update, session: Session) -> None:
        session.data.setdefault("texts", []).append(update.text)

    with running(router):
        await handle(
            message("one", user="", chat="news", type="channel_post"),
            message("two", user="", chat="views", type="channel_post"),
            message("three", user="", chat="news", type="channel_post"),
        )
        assert await stored(chat="news") == {"texts": ["one", "three"]}
        assert await stored(chat="views") == {"texts": ["two"]}


# Data that does not fit


def counter(*marks: Any) -> Router:
    """Return a router whose handler counts in a typed session with these marks."""
    router = Router()
    declared: Any = Session[Counter]
    for mark in marks:
        declared = Annotated[declared, mark]

    @router.message()
    async def handler(session: declared) -> None:
        session.data.n += 1

    return router


def lengths(value: Any) -> Any:
    """Make what fits of what was stored before."""
    return {"n": len(value["n"])}


@pytest.mark.parametrize("marked", [False, True], ids=["bot", "session"])
@pytest.mark.parametrize(
    ("policy", "left", "put_aside"),
    [("quarantine", 1, {"n": "many"}), ("reset", 1, None), (lengths, 5, None)],
    ids=["quarantine", "reset", "function"],
)
async def test_data_that_does_not_fit_is_treated_as_declared(
    policy: Any, left: int, put_aside: Any, *, marked: bool
) -> None:
    """P14: by the bot or by the session, which comes first; nobody is stuck."""
    router = counter(OnMisfit(policy)) if marked else counter()
    with running(router, on_misfit="raise" if marked else policy):
        await store({"n": "many"})
        await handle(message())
        row = await BotSession.objects.aget()
        assert (row.data, row.quarantined) == ({"n": left, "words": []}, put_aside)
        await handle(message())
        row = await BotSession.objects.aget()
        assert (row.data, row.quarantined) == ({"n": left + 1, "words": []}, put_aside)


async def test_quarantine_is_what_happens_unless_said_otherwise() -> None:
    """P14: what does not fit is kept also where the handler changes nothing."""
    router = Router()

    @router.message()
    async def read(session: Session[Counter]) -> None:
        assert session.data == Counter()

    with running(router):
        await store(["no", "counter"])
        await handle(message())
        row = await BotSession.objects.aget()
        assert (row.data, row.quarantined) == ({"n": 0, "words": []}, ["no", "counter"])


@pytest.mark.parametrize("marked", [False, True], ids=["bot", "session"])
async def test_data_that_does_not_fit_fails_the_update_where_that_is_declared(
    *, marked: bool
) -> None:
    """P14: what is stored stays."""
    router = counter(OnMisfit("raise")) if marked else counter()
    with running(router, **({} if marked else {"on_misfit": "raise"})):
        await store({"n": "many"})
        update = message()
        await handle(update)
        assert await status(update) == "parked"
        error = (await BotUpdate.objects.aget()).error
        assert InvalidSessionData.__name__ in error
        assert "demo:ann:ann" in error
        row = await BotSession.objects.aget()
        assert (row.data, row.version, row.quarantined) == ({"n": "many"}, 1, None)


async def test_what_a_policy_returns_has_to_fit() -> None:
    """P14."""
    with running(counter(OnMisfit(lambda value: {"n": "still many"}))):
        await store({"n": "many"})
        update = message()
        await handle(update)
        assert await status(update) == "parked"
        row = await BotUpdate.objects.aget()
        assert InvalidSessionData.__name__ in row.error
        assert "demo:ann:ann" in row.error
        assert await stored() == {"n": "many"}


@pytest.mark.parametrize("wrong", ["delete", 7])
def test_an_unknown_policy_is_refused(wrong: Any) -> None:
    with (
        running(quiet, on_misfit=wrong),
        pytest.raises(ImproperlyConfigured, match=r"'demo'.*ON_MISFIT.*quarantine, reset, raise"),
    ):
        sessions()


async def test_a_pydantic_model_is_data() -> None:
    """S31, P14."""
    pydantic = pytest.importorskip("pydantic")
    model: Any = pydantic.create_model("Model", n=(int, 0), words=(list[str], []))
    router, kinds = Router(), []

    @router.message()
    async def handler(session: Session[model]) -> None:
        kinds.append(type(session.data))
        session.data.n += 1
        session.update(words=[*session.data.words, "hi"])

    with running(router):
        await handle(message())
        await handle(message())
        assert await data() == {"n": 2, "words": ["hi", "hi"]}
        assert kinds == [model, model]
        await BotSession.objects.aupdate(data={"n": "many"})
        await handle(message())
        row = await BotSession.objects.aget()
        assert row.data == {"n": 1, "words": ["hi"]}
        assert row.quarantined == {"n": "many"}


# Expiry


@pytest.mark.parametrize("expires", [60, 60.0, timedelta(minutes=1)])
async def test_a_session_expires_so_long_after_its_last_write(expires: Any, moment: Moment) -> None:
    """S43, S44, S45: of exactly that age it is live, older it begins anew."""
    with running(counting, expires=expires):
        await handle(message())
        moment.advance(60)
        await handle(message())
        assert await data() == {"n": 2}
        moment.advance(60)
        await handle(message())
        assert await data() == {"n": 3}
        moment.advance(60.000001)
        await handle(message())
        row = await BotSession.objects.aget()
        assert row.data == {"n": 1}
        assert row.expires_at == moment.now + timedelta(seconds=60)
        assert row.updated_at == moment.now


async def test_reading_does_not_put_off_the_expiry(moment: Moment) -> None:
    """S44."""
    router, seen = Router(), []

    @router.command("look")
    async def look(session: Session) -> None:
        seen.append(dict(session.data))

    router.include(counting)
    with running(router, expires=60):
        await handle(message())
        for seconds in (50, 10, 1):
            moment.advance(seconds)
            await handle(message("/look"))
    assert seen == [{"n": 1}, {"n": 1}, {}]


async def test_without_an_expiry_a_session_never_expires(moment: Moment) -> None:
    """S43."""
    with running(counting):
        await handle(message())
        moment.advance(10**9)
        await handle(message())
        row = await BotSession.objects.aget()
        assert (row.data, row.expires_at) == ({"n": 2}, None)


@pytest.mark.parametrize("wrong", [0, -1, timedelta(0), True, "60"])
def test_an_expiry_that_is_none_is_refused(wrong: Any) -> None:
    """S43."""
    with (
        running(quiet, expires=wrong),
        pytest.raises(ImproperlyConfigured, match="'demo': EXPIRES"),
    ):
        sessions()


@pytest.mark.parametrize("after", [600, timedelta(minutes=10)])
async def test_a_session_may_have_an_expiry_of_its_own(after: Any, moment: Moment) -> None:
    """S43."""
    with running(counter(Expires(after)), expires=60):
        await handle(message())
        moment.advance(600)
        await handle(message())
        assert (await data())["n"] == 2
        moment.advance(601)
        await handle(message())
        assert (await data())["n"] == 1


@pytest.mark.parametrize("verb", ["send", "open"])
async def test_what_opens_a_session_leaves_its_own_expiry_alone(verb: str, moment: Moment) -> None:
    """S43."""
    router = Router()

    @router.message()
    async def handler(
        update: Update, session: Annotated[Session, Expires(timedelta(hours=1))]
    ) -> None:
        if update.text == "first":
            session.data["kept"] = True
        elif verb == "send":
            await session.send("hi")
        else:
            await session.open()

    with running(router, expires=60):
        await handle(message("first"))
        await handle(message("second"))
        assert (await BotSession.objects.aget()).expires_at == moment.now + timedelta(hours=1)


async def test_a_handler_says_when_its_session_expires(moment: Moment) -> None:
    """S43: and the next write keeps that moment."""
    router = Router()

    @router.command("soon")
    async def soon(session: Session) -> None:
        session.expire_in(timedelta(seconds=10))

    @router.command("never")
    async def never(session: Session) -> None:
        session.expire_in(None)
        assert session.expires_at is None

    router.include(counting)
    with running(router):
        await handle(message())
        await handle(message("/soon"))
        moment.advance(9)
        await handle(message())
        moment.advance(1)
        await handle(message())
        assert await data() == {"n": 3}
        moment.advance(1)
        await handle(message())
        assert await data() == {"n": 1}
        await handle(message("/soon"))
        await handle(message("/never"))
        moment.advance(10**6)
        await handle(message())
        assert await data() == {"n": 2}


@pytest.mark.parametrize("after", [10, None])
async def test_an_expiry_said_outside_handlers_counts(after: Any, moment: Moment) -> None:
    """S43."""
    with running(quiet, expires=60):
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            session.expire_in(after)
        expected = None if after is None else moment.now + timedelta(seconds=10)
        assert (await BotSession.objects.aget()).expires_at == expected


@pytest.mark.django_db(transaction=True)
async def test_an_expired_session_that_has_a_slice_can_be_deleted(moment: Moment) -> None:
    """S23, S45."""
    router = Router()

    @router.message()
    async def handler(session: Session) -> None:
        session.delete()

    with running(router, expires=60, ATTEMPTS=1):
        await sessions().get("ann", "ann").send("hi")
        moment.advance(61)
        update = message()
        await handle(update)
        assert await status(update) == "done"
        await handle(message())


# Verbs of the data


async def test_update_changes_some_fields_and_leaves_the_others() -> None:
    """S21."""
    router = Router()

    @router.message()
    async def handler(
        session: Session, typed: Annotated[Session[Counter], Qualifier("typed")]
    ) -> None:
        session.data = {"a": 1, "b": {"deep": 2}}
        session.update(a=3, b={"new": 4})
        session.update(c=5)
        typed.data.words.append("kept")
        typed.update(n=7)
        with pytest.raises(AttributeError, match="Counter has no field 'm'"):
            typed.update(n=8, m=9)

    with running(router):
        await handle(message())
        assert await data() == {"a": 3, "b": {"new": 4}, "c": 5}
        assert await data(qualifier="typed") == {"n": 7, "words": ["kept"]}


async def test_reset_begins_anew_with_a_value_of_its_own() -> None:
    """S22."""
    router, begun = Router(), {"list": [1]}

    def begin(update: Update) -> Any:
        return {"list": list(begun["list"])}

    @router.command("reset")
    async def reset(session: Annotated[Session, Initial(begin)]) -> None:
        session.reset()
        assert session.data == {"list": [1]}

    @router.message()
    async def handler(session: Annotated[Session, Initial(begin)]) -> None:
        session.data["list"].append(2)

    with running(router):
        await handle(message())
        await handle(message("/reset"))
        assert await data() == {"list": [1]}
        await handle(message())
        assert await data() == {"list": [1, 2]}
    assert begun == {"list": [1]}


async def test_delete_leaves_nothing_unless_something_is_changed_later() -> None:
    """S23."""
    router, seen = Router(), []

    @router.command("delete")
    async def delete(update: Update, session: Session) -> None:
        session.delete()
        seen.append((dict(session.data), session.is_stored))
        if update.arguments:
            session.data["n"] = 7

    router.include(counting)
    with running(router):
        await handle(message("/delete"))
        assert not await BotSession.objects.aexists()
        await handle(message())
        await handle(message("/delete and go on"))
        assert await data() == {"n": 7}
        await handle(message("/delete"))
        assert not await BotSession.objects.aexists()
    assert seen == [({}, False)] * 3


async def test_delete_leaves_an_open_session_open() -> None:
    """S23, S80."""
    with running(quiet):
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            await session.send("hi")
        async with sessions().get("ann", "ann") as session:
            session.delete()
        row = await BotSession.objects.aget()
        assert (row.data, row.is_open) == (None, True)
        assert await TrackedMessage.objects.acount() == 1


async def test_dump_tells_all_of_a_session_as_json(moment: Moment) -> None:
    """S33, S29."""
    with running(quiet, expires=60):
        async with sessions().get("ann", "ann", "order", type=Counter) as session:
            session.data.n = 3
        async with sessions().get("ann", "ann", "order", type=Counter) as session:
            assert session.dump() == {
                "key": {"bot": "demo", "chat": "ann", "user": "ann", "qualifier": "order"},
                "data": {"n": 3, "words": []},
                "version": 1,
                "is_open": True,
                "expires_at": (moment.now + timedelta(seconds=60)).isoformat(),
            }


async def test_a_change_after_the_handler_warns_and_is_not_saved() -> None:
    """S27."""
    router, kept = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        session.data["n"] = 1
        kept.append(session)

    def assign(session: Session) -> None:
        session.data = {"n": 3}

    changes: list[Any] = [
        lambda session: session.update(n=2),
        assign,
        lambda session: session.reset(),
        lambda session: session.delete(),
        lambda session: session.expire_in(10),
    ]
    with running(router):
        await handle(message())
        async with sessions().get("ben", "ben") as outside:
            outside.data["n"] = 1
        for session, user in ((kept[0], "ann"), (outside, "ben")):
            for change in changes:
                with pytest.warns(RuntimeWarning, match=f"demo:{user}:{user} was changed after"):
                    change(session)
            assert await data(user) == {"n": 1}


async def test_the_marks_of_a_later_declaration_count() -> None:
    """S16, S43: a middleware that wants any session takes nothing from its handler."""
    router = Router()

    @router.middleware
    async def around(call_next: Any, session: Session) -> None:
        await call_next()

    @router.message()
    async def handler(
        session: Annotated[Session, Initial(lambda update: {"n": 40}), Expires(60)],
    ) -> None:
        session.data["n"] += 2

    with running(router, ATTEMPTS=1):
        await handle(message())
        assert await data() == {"n": 42}
        assert (await BotSession.objects.aget()).expires_at is not None


async def test_a_session_asked_for_by_type_in_a_handler_is_of_that_type() -> None:
    """S31."""
    router = Router()

    @router.message()
    async def handler(session: Session, bot: Bot) -> None:
        typed = bot.sessions.get("ann", "ann", type=Counter)
        typed.data.n += 1

    with running(router, ATTEMPTS=1):
        await handle(message())
        assert (await data())["n"] == 1
