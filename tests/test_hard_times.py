"""Stores and databases that are away, waiters that give up, values that are large."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import override_settings

from botsessions import (
    Bot,
    Chat,
    Initial,
    OnMisfit,
    Router,
    Session,
    SessionKey,
    Update,
    User,
    clock,
    operations,
)
from botsessions.bots import bots
from botsessions.engine import Engine, current_engine
from botsessions.exceptions import Unavailable
from botsessions.mailboxes.base import Admitted, Arrival, Commit, Committed, Found, Waiting
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from botsessions.sessions import SessionManager
from botsessions.stores.envelope import opened
from botsessions.updates import ACCESS
from tests.kit import LOCAL, Moment, data, handle, keyless, message, running, status, texts
from tests.test_contents import Held

pytestmark = pytest.mark.django_db

#: Seconds in which what nothing keeps is done; far less than a LEASE.
SOON = 5
ANN = SessionKey("demo", "ann", "ann")


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    stopped = Moment()
    monkeypatch.setattr(clock, "now", stopped)
    return stopped


class Flaky(Held):
    """A store that is away for the first so many calls of one verb, once it is told."""

    def __init__(self, verb: str) -> None:
        super().__init__()
        self.verb = verb
        self.failures = 0

    def load(self, keys: Any) -> list[bytes | None]:
        self.fail("load")
        return super().load(keys)

    def save(self, values: Any) -> None:
        self.fail("save")
        super().save(values)

    def fail(self, verb: str) -> None:
        if verb == self.verb and self.failures:
            self.failures -= 1
            raise Unavailable("The store is away.")


class Busy:
    """A bot whose handler of "slow" keeps its mailbox until it is `free`."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.begun, self.free = asyncio.Event(), asyncio.Event()
        self.router = Router()

        @self.router.message()
        async def handler(update: Update, session: Session) -> None:
            self.order.append(update.text)
            if update.text == "slow":
                self.begun.set()
                await asyncio.wait_for(self.free.wait(), 10)
            session.data["last"] = update.text

    async def begin(self) -> Engine:
        """Let it be busy in an engine that lasts."""
        engine = current_engine()
        engine.is_lasting = True
        engine.submit(message("slow"))
        await asyncio.wait_for(self.begun.wait(), SOON)
        return engine


def sessions(bot: str = "demo") -> SessionManager:
    return bots[bot].sessions


async def leases() -> list[str]:
    return [key async for key in MailboxLease.objects.values_list("key", flat=True)]


def accesses() -> Any:
    """The accesses that wait for their turn."""
    return BotUpdate.objects.filter(type=ACCESS, status="pending")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + SOON
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def store(chat: str, value: Any) -> None:
    """Store a value as the data of a chat's session."""
    now = clock.now()
    await BotSession.objects.acreate(
        bot="demo", chat=chat, data=value, version=1, created_at=now, updated_at=now
    )


# Values that are large


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", [1, 12])
def test_large_payloads_are_stored_and_read_back(number: int) -> None:
    """What the socket does not take at once goes as the server reads it."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL is spoken to through a socket of our own")
    text = 'it\'s \\ said: "é" €\n' * (900 * 1024 // 24)
    updates = [
        msgspec.structs.replace(message(user=f"user{each}"), payload={"text": text, "n": each})
        for each in range(number)
    ]
    assert len(msgspec.json.encode(updates[0])) > 900 * 1024
    arrivals = [Arrival(each, f"demo:large {index}") for index, each in enumerate(updates)]
    read: list[Update] = []

    def work() -> None:
        try:
            mailbox = DatabaseMailbox()
            mailbox.store(arrivals)
            for each in arrivals:
                read.extend(found.update for found in mailbox.claim(each.mailbox, "one"))
        finally:
            connection.close()

    thread = Thread(target=work, daemon=True)
    begun = time.monotonic()
    thread.start()
    thread.join(20)
    took = time.monotonic() - begun
    for _ in range(10):  # let it go, for the tests that come after it
        if thread.is_alive():
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            thread.join(1)
    assert took < 20
    assert read == updates


# Keys that are looked up


async def test_an_update_whose_key_has_become_another_ends_in_the_mailbox_it_was_stored_in() -> (
    None
):
    """P3, P6: it is handled under the lease of that mailbox, which is given back."""
    busy, asked = Busy(), []

    async def key(update: Update) -> SessionKey:
        asked.append(update.text)
        moved = update.text == "two" and asked.count("two") > 1
        return SessionKey("demo", "elsewhere" if moved else "team")

    with running(busy.router, key=key):
        engine = await busy.begin()
        two = message("two")
        await asyncio.wait_for(engine.submit(two), SOON)
        assert (asked, await status(two)) == (["slow", "two"], "pending")
        busy.free.set()
        await asyncio.wait_for(engine.drain(), SOON)
        assert asked == ["slow", "two", "two"]
        assert await status(two) == "done"
        assert (await BotSession.objects.aget(chat="elsewhere")).data == {"last": "two"}
        assert await leases() == []
        three = message("three")
        await handle(three)
        assert (busy.order, await status(three)) == (["slow", "two", "three"], "done")
        assert await leases() == []


async def test_an_update_whose_key_was_not_found_at_first_is_handled_once_it_is() -> None:
    """P7: it is tried again, under its key then, and leaves no lease."""
    busy, asked = Busy(), []

    async def key(update: Update) -> SessionKey:
        asked.append(update.text)
        if len(asked) == 1:
            raise RuntimeError("The register did not answer.")
        return SessionKey("demo", "team")

    with running(busy.router, key=key):
        update = message("one")
        await asyncio.wait_for(handle(update), SOON)
        assert asked == ["one", "one"]
        assert busy.order == ["one"]
        assert await status(update) == "done"
        assert (await BotSession.objects.aget()).data == {"last": "one"}
        assert await leases() == []
        assert (await BotUpdate.objects.aget()).attempts == 2


# Stores that are away


@pytest.mark.parametrize("verb", ["load", "save"])
@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
async def test_what_waits_for_its_store_keeps_its_place(
    verb: str, failures: int, *, at_once: bool
) -> None:
    """P2: what came after it is not handled before it."""
    router, held = Router(), Flaky(verb)

    @router.message()
    async def note(update: Update, session: Session) -> None:
        session.data["texts"] = [*session.data.get("texts", ()), update.text]

    with running(router, store=held, RETRY_DELAY=0.1, ATTEMPTS=1):
        await handle(message("zero"))
        held.failures = failures
        updates = [message(text) for text in ("one", "two", "three")]
        if at_once:
            await asyncio.wait_for(handle(*updates), SOON)
        else:
            engine = current_engine()
            engine.is_lasting = True
            for update in updates:
                await asyncio.wait_for(engine.submit(update), SOON)
            await asyncio.wait_for(engine.drain(), SOON)
        assert held.failures == 0
        assert [await status(each) for each in updates] == ["done"] * 3
        stored = opened(held.values[ANN], (await BotSession.objects.aget()).version)
        assert stored is not None
        assert msgspec.json.decode(stored) == {"texts": ["zero", "one", "two", "three"]}
        assert await leases() == []


async def test_one_bots_store_that_is_away_keeps_nobody_elses_commit_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P12: of a turn the rest is written; what waits is saved once, when the store is back."""
    router, held, together = Router(), Held(), []
    real = DatabaseMailbox.commit

    def commit(self: DatabaseMailbox, commits: Sequence[Commit]) -> Committed:
        together.append({each.update.bot for each in commits if each.update is not None})
        return real(self, commits)

    @router.message()
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    bot = {"PLATFORM": LOCAL, "ROUTER": router, "OPTIONS": {"secret": "s"}, "ACK_AFTER": 1}
    configured = {"BOTS": {"demo": bot | {"STORE": held}, "other": bot}, "RETRY_DELAY": 0.05}
    monkeypatch.setattr(DatabaseMailbox, "commit", commit)
    with override_settings(BOTSESSIONS=configured | {"ATTEMPTS": 1}):
        held.is_away = True
        ours = message()
        others = [message(user="ben", bot="other"), message(user="cem", bot="other")]
        waiting = asyncio.create_task(handle(ours, *others))

        async def saved() -> bool:
            return [await status(each) for each in others] == ["done", "done"]

        await until(saved)
        assert {"demo", "other"} in together
        assert await data("ben", bot="other") == {"n": 1}
        assert await data("cem", bot="other") == {"n": 1}
        assert await status(ours) in ("", "pending")
        assert held.values == {}
        held.is_away = False
        assert await asyncio.wait_for(waiting, SOON) == [None] * 3
        assert await status(ours) == "done"
        row = await BotSession.objects.aget(bot="demo")
        assert (row.version, opened(held.values[ANN], 1)) == (1, b'{"n":1}')
        assert [each.version async for each in BotSession.objects.filter(bot="other")] == [1, 1]
        assert await leases() == []


async def test_a_block_whose_store_is_away_says_so_and_gives_its_mailbox_back() -> None:
    """P10: like a block whose lease was lost."""
    held = Held()
    with running(Busy().router, store=held):
        held.is_away = True
        with pytest.raises(Unavailable, match="away"):
            async with sessions().get("ann", "ann") as session:
                session.data["n"] = 1
        assert await leases() == []
        held.is_away = False
        async with sessions().get("ann", "ann") as session:
            assert session.data == {}
            session.data["n"] = 2
        assert opened(held.values[ANN], 1) == b'{"n":2}'


@pytest.mark.parametrize("backend", ["DatabaseStore", "CacheStore"])
async def test_a_session_whose_row_has_expired_is_empty_wherever_its_data_is(
    backend: str, moment: Moment, tmp_path: Path
) -> None:
    """S45, S44: also data that was stored for ever, before its bot had an expiry."""
    router, seen = Router(), []

    @router.command("count")
    async def count(session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1

    @router.command("say")
    async def say(session: Session) -> None:
        await session.send("hello")

    @router.command("show")
    async def show(session: Session) -> None:
        seen.append((dict(session.data), session.is_stored))

    memory = {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": str(tmp_path),
    }
    stores = {"default": {"BACKEND": f"botsessions.stores.{backend}"}}
    with override_settings(CACHES={"default": memory}):
        with running(router, STORES=stores):
            await handle(message("/count"))
            assert (await BotSession.objects.aget()).expires_at is None
        with running(router, STORES=stores, expires=60):
            await handle(message("/say"))
            moment.advance(60)
            await handle(message("/show"))
            moment.advance(1)
            await handle(message("/show"))
            assert seen == [({"n": 1}, True), ({}, False)]
            await handle(message("/count"), message("/count"), message("/show"))
            assert seen[-1] == ({"n": 2}, True)
            moment.advance(61)
            async with sessions().get("ann", "ann") as session:
                assert (session.data, session.is_stored) == ({}, False)
            await handle(message("/show"))
            assert seen[-1] == ({}, False)


# Waiters that give up


async def test_a_wait_that_times_out_leaves_nothing_in_the_queue() -> None:
    """P10: what waits behind it is handled as soon as the mailbox is free."""
    busy = Busy()

    async def send_within(limit: asyncio.Timeout) -> None:
        async with limit:
            await sessions().get("ann", "ann").send("never")

    with running(busy.router):
        engine = await busy.begin()
        limit = asyncio.timeout(None)
        sending = asyncio.create_task(send_within(limit))
        await until(accesses().aexists)
        behind = message("behind")
        await engine.submit(behind)
        limit.reschedule(0)
        with pytest.raises(TimeoutError):
            await sending
        assert not await accesses().aexists()
        busy.free.set()
        await asyncio.wait_for(engine.drain(), SOON)
        assert busy.order == ["slow", "behind"]
        assert await status(behind) == "done"
        assert await leases() == []
        async with sessions().get("ann", "ann", wait=0) as session:
            assert session.data == {"last": "behind"}
        assert texts() == []


async def test_a_wait_that_ends_just_as_its_turn_comes_gives_the_turn_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P10: where the database is away when its session is to be read."""
    busy, failures = Busy(), [1]
    real = DatabaseMailbox.find

    def find(self: DatabaseMailbox, arrivals: Sequence[Arrival]) -> list[Found]:
        if arrivals[0].update.type == ACCESS and failures:
            failures.pop()
            raise Unavailable("The database is away.")
        return real(self, arrivals)

    monkeypatch.setattr(DatabaseMailbox, "find", find)
    with running(busy.router):
        engine = await busy.begin()
        sending = asyncio.create_task(sessions().get("ann", "ann").send("never"))
        await until(accesses().aexists)
        behind = message("behind")
        await engine.submit(behind)
        busy.free.set()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(sending, SOON)
        await asyncio.wait_for(engine.drain(), SOON)
        assert failures == []
        assert busy.order == ["slow", "behind"]
        assert await status(behind) == "done"
        assert not await accesses().aexists()
        assert await leases() == []
        assert texts() == []
        await sessions().get("ann", "ann", wait=0).send("now")
        assert texts() == ["now"]


async def test_a_wait_during_which_the_database_is_away_leaves_nothing_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P10: who waited is told, and what came behind is handled in its turn."""
    busy, failures = Busy(), [1]
    real = DatabaseMailbox.claim

    def claim(self: DatabaseMailbox, mailbox: str, token: str) -> list[Waiting]:
        if failures:
            failures.pop()
            raise Unavailable("The database is away.")
        return real(self, mailbox, token)

    monkeypatch.setattr(DatabaseMailbox, "claim", claim)
    with running(busy.router):
        engine = await busy.begin()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(sessions().get("ann", "ann").send("never"), SOON)
        assert failures == []
        assert not await accesses().aexists()
        behind = message("behind")
        await engine.submit(behind)
        busy.free.set()
        await asyncio.wait_for(engine.drain(), SOON)
        assert busy.order == ["slow", "behind"]
        assert await status(behind) == "done"
        assert await leases() == []
        assert texts() == []


@pytest.mark.parametrize("is_busy", [False, True], ids=["free", "busy"])
async def test_a_wait_that_is_cancelled_while_it_asks_for_its_mailbox_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, *, is_busy: bool
) -> None:
    """P10: the database may have given it the mailbox when nobody is there any more."""
    busy = Busy()
    asked: list[str] = []
    real = DatabaseMailbox.admit

    def admit(self: DatabaseMailbox, arrivals: Sequence[Arrival], token: str) -> Admitted:
        admitted = real(self, arrivals, token)
        if arrivals and arrivals[0].update.type == ACCESS and not asked:
            asked.append(token)
            time.sleep(0.3)
        return admitted

    monkeypatch.setattr(DatabaseMailbox, "admit", admit)
    with running(busy.router):
        engine = current_engine()
        engine.is_lasting = True
        if is_busy:
            await busy.begin()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sessions().get("ann", "ann").send("never"), 0.1)
        assert len(asked) == 1
        assert await leases() == (["demo:ann:ann"] if is_busy else [])
        assert not await accesses().aexists()
        busy.free.set()
        await asyncio.wait_for(engine.drain(), SOON)
        await asyncio.wait_for(handle(message("after")), SOON)
        assert busy.order == (["slow", "after"] if is_busy else ["after"])
        assert await leases() == []
        assert texts() == []


async def test_a_block_that_is_cancelled_while_it_is_left_is_cancelled() -> None:
    """P10: also where it waits for no more than its renewal to end."""
    went_on = []

    async def block() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            await asyncio.sleep(0)  # the renewal begins
            asyncio.get_running_loop().call_soon(task.cancel)
        went_on.append(1)

    with running(Busy().router):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(block())
        assert went_on == []
        await asyncio.wait_for(current_engine().drain(), SOON)
        assert await leases() == []


async def test_a_block_that_is_cancelled_while_it_is_committed_lets_its_mailbox_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P10, P6: what waits in the mailbox comes then."""
    busy, committing = Busy(), asyncio.Event()
    real = DatabaseMailbox.commit

    async def block() -> None:
        async with sessions().get("ann", "ann") as session:
            session.data["n"] = 1
            behind = message("behind")
            await engine.submit(behind)
            monkeypatch.setattr(DatabaseMailbox, "commit", commit)

    def commit(self: DatabaseMailbox, commits: Sequence[Commit]) -> Committed:
        monkeypatch.setattr(DatabaseMailbox, "commit", real)
        loop.call_soon_threadsafe(committing.set)
        time.sleep(0.2)
        return real(self, commits)

    with running(busy.router):
        loop, engine = asyncio.get_running_loop(), current_engine()
        engine.is_lasting = True
        leaving = asyncio.create_task(block())
        await asyncio.wait_for(committing.wait(), SOON)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.sleep(0.5)
        await asyncio.wait_for(engine.drain(), SOON)
        assert busy.order == ["behind"]
        assert await leases() == []


# Two bots at once


def waiting(bot: str) -> BotUpdate:
    """Return an update of ann's that is stored, and that nobody works on."""
    update = message(f"waits for {bot}", bot=bot)
    return BotUpdate(
        bot=bot, update_id=update.id, type="message", mailbox=f"{bot}:ann:ann",
        status="pending", received_at=clock.now(), payload=msgspec.to_builtins(update),
    )  # fmt: skip


async def test_a_handler_that_uses_a_session_of_another_bot_ends() -> None:
    """P12: where an update waits in that mailbox, and no engine lasts to handle it."""
    router, order = Router(), []

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        order.append(update.text)
        session.data["last"] = update.text
        if update.bot == "demo":
            async with bots["other"].sessions.get("ann", "ann", wait=2) as other:
                other.data["from"] = "demo"

    with running(router):
        stored = waiting("other")
        await stored.asave()
        engine = current_engine()
        assert not engine.is_lasting
        update = message("hello")
        await asyncio.wait_for(asyncio.gather(engine.submit(update), engine.drain()), SOON)
        assert order == ["hello", "waits for other"]
        assert await status(update) == "done"
        assert await data() == {"last": "hello"}
        assert await data(bot="other") == {"last": "waits for other", "from": "demo"}
        await stored.arefresh_from_db()
        assert stored.status == "done"
        assert await leases() == []


async def test_blocks_of_two_bots_one_in_the_other_end() -> None:
    """P12: what waited in their mailboxes is handled first."""
    busy = Busy()
    with running(busy.router):
        await BotUpdate.objects.abulk_create([waiting("demo"), waiting("other")])

        async def both() -> None:
            async with sessions().get("ann", "ann", wait=2) as ours:
                async with sessions("other").get("ann", "ann", wait=2) as theirs:
                    theirs.data["from"] = "demo"
                ours.data["from"] = "other"

        await asyncio.wait_for(both(), SOON)
        assert busy.order == ["waits for demo", "waits for other"]
        assert await data() == {"last": "waits for demo", "from": "other"}
        assert await data(bot="other") == {"last": "waits for other", "from": "demo"}
        assert await leases() == []


# Sessions that others save meanwhile


@pytest.mark.parametrize(
    "update",
    [
        keyless("poll_answer"),
        Update("demo", "member", "my_chat_member", Chat("g", "group"), User("ann")),
    ],
    ids=["nowhere", "in a chat"],
)
async def test_a_handler_that_loses_its_race_sees_what_the_winner_saved(update: Update) -> None:
    """P1, P12: also where nothing but the handler names the session; it is run again once."""
    router, seen = Router(), []

    @router.on()
    async def answer(bot: Bot) -> None:
        async with bot.sessions.get("team") as session:
            seen.append((session.version, dict(session.data)))
            if len(seen) == 1:
                await BotSession.objects.aupdate(data={"n": 7}, version=2)
            session.data["n"] += 1

    with running(router):
        await store("team", {"n": 1})
        await asyncio.wait_for(handle(update), SOON)
        assert seen == [(1, {"n": 1}), (2, {"n": 7})]
        assert await status(update) == "done"
        row = await BotSession.objects.aget()
        assert (row.data, row.version) == ({"n": 8}, 3)


# What a session begins with


async def begin(update: Update) -> dict[str, Any]:
    """Return how a session begins, after a look elsewhere."""
    await asyncio.sleep(0)
    return {"n": 0, "words": []}


@pytest.mark.parametrize("verb", ["reset", "delete"])
async def test_beginning_anew_with_a_slow_factory_wants_the_session_loaded(verb: str) -> None:
    """S15, S22: and says so; what is stored stays as it is."""
    router, raised = Router(), []

    @router.message()
    async def anew(session: Annotated[Session, Initial(begin)]) -> None:
        try:
            getattr(session, verb)()
        except RuntimeError as error:
            raised.append(str(error))

    with running(router):
        update = message()
        await store_ann({"n": 5})
        await handle(update)
        [said] = raised
        assert "session.load()" in said
        assert await status(update) == "done"
        assert await data() == {"n": 5}


@pytest.mark.parametrize("verb", ["reset", "delete"])
async def test_a_loaded_session_begins_anew_with_a_slow_factory(verb: str) -> None:
    """S15, S22: with a value of its own each time."""
    router, seen = Router(), []

    @router.message()
    async def anew(session: Annotated[Session, Initial(begin)]) -> None:
        await session.load()
        assert session.data["n"] == 5
        for _ in range(2):
            getattr(session, verb)()
            seen.append(msgspec.to_builtins(session.data))
            session.data["words"].append("changed")
        getattr(session, verb)()

    with running(router):
        update = message()
        await store_ann({"n": 5, "words": ["old"]})
        await handle(update)
        assert await status(update) == "done"
        assert seen == [{"n": 0, "words": []}] * 2
        assert await data() == ({"n": 0, "words": []} if verb == "reset" else None)
        assert await BotSession.objects.aexists() == (verb == "reset")


async def store_ann(value: Any) -> None:
    await store("ann", value)
    await BotSession.objects.aupdate(user="ann")


# What is refused


@pytest.mark.parametrize("policy", ["quarantin", "", "Reset", None])
def test_a_misfit_policy_that_there_is_not_is_refused(policy: Any) -> None:
    """P14: when it is declared, not when stored data does not fit."""
    with pytest.raises(ImproperlyConfigured, match="quarantine"):
        OnMisfit(policy)


async def test_a_session_of_nobody_is_refused() -> None:
    """S63, S7: in handlers too; it would be a bucket that all share."""
    router, refused = Router(), []

    @router.message()
    async def ask(bot: Bot) -> None:
        nobodys: list[dict[str, Any]] = [{}, {"qualifier": "order"}, {"user": ""}, {"thread": "7"}]
        for options in nobodys:
            try:
                bot.sessions.get(**options)
            except ValueError as error:
                refused.append(str(error))

    with running(router):
        with pytest.raises(ValueError, match="a chat or a user"):
            sessions().get()
        with pytest.raises(ValueError, match="a chat or a user"):
            sessions().get("", "", "order")
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert len(refused) == 4
        assert not await BotSession.objects.aexists()


async def test_a_key_of_another_bot_is_refused() -> None:
    """S64, S8: a bot opens and closes its own sessions."""
    theirs = SessionKey("other", "ann", "ann")
    with running(Busy().router):
        with pytest.raises(ValueError, match="another bot than 'demo'"):
            await sessions().subscribe(theirs, "")
        assert not await BotSession.objects.aexists()
        await sessions("other").subscribe(theirs, "")
        with pytest.raises(ValueError, match="another bot than 'demo'"):
            await sessions().unsubscribe(theirs)
        row = await BotSession.objects.aget()
        assert (row.bot, row.is_open) == ("other", True)


# Sessions that expire


async def test_an_open_session_whose_data_is_deleted_expires_all_the_same(moment: Moment) -> None:
    """S46, S43: its row and its slice are swept."""
    router = Router()

    @router.command("open")
    async def open_(session: Session) -> None:
        session.data["n"] = 1
        await session.send("hello")

    @router.command("delete")
    async def delete(session: Session) -> None:
        session.delete()

    with running(router, expires=60):
        await handle(message("/open"))
        moment.advance(10)
        await handle(message("/delete"))
        row = await BotSession.objects.aget()
        assert (row.is_open, row.data) == (True, None)
        assert row.expires_at == moment.now + timedelta(seconds=60)
        sweep = sync_to_async(operations.sweep)
        moment.advance(60)
        assert await sweep() == 0
        moment.advance(1)
        assert await sweep() == 1
        assert not await BotSession.objects.aexists()
        assert not await TrackedMessage.objects.aexists()


@pytest.mark.parametrize("way", ["open", "send", "saved, then opened", "saved and sent"])
async def test_a_session_that_has_expired_begins_without_its_matcher(
    way: str, moment: Moment
) -> None:
    """S64, S45: opened again without one it tracks everything, whatever wrote its row."""
    router = Router()

    @router.matcher
    def digits(update: Update) -> bool:
        return update.text.isdigit()

    @router.command("save")
    async def save(session: Session) -> None:
        session.data["n"] = 1

    @router.command("both")
    async def both(session: Session) -> None:
        session.data["n"] = 1
        await session.send("hello")

    @router.on()
    async def listen(update: Update) -> None: ...

    async def tracked(*said: str) -> list[str]:
        found = TrackedMessage.objects.filter(text__in=said).order_by("id")
        return [each.text async for each in found]

    with running(router, expires=60):
        ann = sessions().get("ann", "ann")
        await ann.open(digits)
        await handle(message("before"), message("1"))
        assert await tracked("before", "1") == ["1"]
        moment.advance(61)
        await handle(message("meanwhile"), message("2"))
        if way == "open":
            await ann.open()
        elif way == "send":
            await ann.send("hello")
        elif way == "saved and sent":
            await handle(message("/both"))
        else:
            await handle(message("/save"))
            assert not (await BotSession.objects.aget()).is_open
            await ann.open()
        row = await BotSession.objects.aget()
        assert (row.is_open, row.matcher) == (True, "")
        await handle(message("after"), message("3"))
        assert await tracked("before", "1", "meanwhile", "2", "after", "3") == ["after", "3"]
