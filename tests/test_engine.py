"""The engine in one process: duplicates, failures, acknowledgements, limits, stopping."""

import asyncio
import gc
import weakref
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import override_settings

from botsessions import Bot, Router, Session, SessionKey, Update, clock, context
from botsessions.engine import Engine, current_engine
from botsessions.exceptions import Forbidden, Unavailable
from botsessions.mailboxes.base import Arrival, Commit, Effect, Save
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.models import BotSession, BotUpdate, MailboxLease
from tests.kit import configured, data, handle, keyless, message, running, status, texts

pytestmark = pytest.mark.django_db

counting = Router()


@counting.message()
async def count(session: Session) -> None:
    session.data["n"] = session.data.get("n", 0) + 1


async def test_updates_of_one_session_at_once_lose_nothing() -> None:
    """S89."""
    with running(counting):
        await handle(*[message() for _ in range(100)])
        assert await data() == {"n": 100}
        assert not await MailboxLease.objects.aexists()


async def test_the_same_update_has_one_effect() -> None:
    """P4: five times at once, and again later; a lower id after a higher one still runs."""
    with running(counting):
        update = message(id="900")
        assert await handle(*[update] * 5) == [None] * 5
        assert await handle(update) == [None]
        assert await data() == {"n": 1}
        await handle(message(id="899"))
        assert await data() == {"n": 2}


async def test_updates_of_one_mailbox_run_in_order_while_others_run_at_once() -> None:
    router, order = Router(), []
    free = asyncio.Event()

    @router.message()
    async def handler(update: Update) -> None:
        if update.text == "slow":
            await asyncio.wait_for(free.wait(), 5)
        order.append(update.text)
        if update.text == "other":
            free.set()

    with running(router):
        slow = [message("slow")] + [message(f"{number}") for number in range(20)]
        await handle(*slow, message("other", user="ben"))
    assert order == ["other", "slow", *[f"{number}" for number in range(20)]]


async def test_a_failing_update_is_tried_again_then_parked_and_the_next_one_runs() -> None:
    """P7."""
    router, tries = Router(), []

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        tries.append(update.text)
        session.data["last"] = update.text
        if update.text == "poison":
            raise LookupError("on purpose")

    with running(router, ATTEMPTS=3):
        poison, fine = message("poison"), message("fine")
        await handle(poison, fine)
        assert tries == ["poison", "poison", "poison", "fine"]
        assert await data() == {"last": "fine"}
        assert await status(fine) == "done"
        row = await BotUpdate.objects.aget(status="parked")
        assert row.update_id == poison.id
        assert row.attempts == 3
        assert "LookupError: on purpose" in row.error
        assert (row.payload or {})["text"] == "poison"
        assert not await MailboxLease.objects.aexists()


async def test_an_error_that_cannot_pass_is_parked_at_once() -> None:
    router, tries = Router(), []

    @router.on("poll")
    async def handler(session: Session) -> None: ...

    @router.message()
    async def blocked(bot: Bot) -> None:
        tries.append(1)
        raise Forbidden("the user has blocked the bot", method="sendMessage", code=403)

    with running(router):
        await handle(keyless("poll"), message())
        assert await BotUpdate.objects.filter(status="parked", attempts=1).acount() == 2
    assert tries == [1]


async def test_a_filter_or_key_that_raises_fails_like_a_handler() -> None:
    router = Router()

    def broken(update: Update) -> bool:
        raise LookupError("in a filter")

    @router.message(broken)
    async def handler(update: Update) -> None: ...

    def strategy(update: Update) -> Any:
        raise LookupError("in a key strategy")

    for changes, text in (({}, "in a filter"), ({"key": strategy}, "in a key strategy")):
        with running(router, ATTEMPTS=1, **changes):
            update = message()
            assert await handle(update) == [None]
            assert await status(update) == "parked"
            assert text in (await BotUpdate.objects.aget(update_id=update.id)).error


async def test_a_key_that_cannot_be_kept_is_a_clear_error() -> None:
    cases: list[tuple[Any, str]] = [
        (lambda update: "text", "SessionKey('demo', ...)"),
        (lambda update: SessionKey("other", "1"), "SessionKey('demo', ...)"),
        (lambda update: SessionKey("demo", "x" * 161), "at most 160"),
    ]
    for strategy, text in cases:
        with running(counting, ATTEMPTS=1, key=strategy):
            update = message()
            await handle(update)
            assert text in (await BotUpdate.objects.aget(update_id=update.id)).error


async def test_a_slow_handler_does_not_delay_the_acknowledgement() -> None:
    router = Router()
    free = asyncio.Event()

    @router.message()
    async def slow(session: Session) -> None:
        await asyncio.wait_for(free.wait(), 5)
        session.data["done"] = True

    with running(router, ack_after=0.05):
        engine = current_engine()
        engine.is_lasting = True
        update = message()
        await asyncio.wait_for(engine.submit(update), 2)
        assert await status(update) == "pending"
        free.set()
        await engine.drain()
        assert await status(update) == "done"
        assert await data() == {"done": True}


async def test_ack_after_zero_stores_before_it_handles() -> None:
    router, seen = Router(), []

    @router.message()
    async def handler(update: Update) -> None:
        seen.append(await status(update))

    with running(router, ack_after=0):
        update = message()
        await handle(update)
        assert seen == ["pending"]
        assert await status(update) == "done"


async def test_a_send_stores_the_update_so_that_it_can_be_acknowledged() -> None:
    router, seen = Router(), []

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send("hi")
        row = await BotUpdate.objects.aget()
        seen.append((row.status, [entry["ordinal"] for entry in row.journal or ()]))

    with running(router):
        update = message()
        await handle(update)
        row = await BotUpdate.objects.aget()
        assert seen == [("pending", [0])]
        assert (row.status, row.journal, row.payload) == ("done", None, None)


async def test_beyond_the_limit_updates_are_stored_and_taken_up_when_there_is_room() -> None:
    router = Router()
    free = asyncio.Event()

    @router.message()
    async def handler(session: Session) -> None:
        await asyncio.wait_for(free.wait(), 5)
        session.data["n"] = session.data.get("n", 0) + 1

    with running(router, MAX_IN_FLIGHT=2, ack_after=0.01):
        engine = current_engine()
        engine.is_lasting = True
        updates = [message(user=f"user{number}") for number in range(7)]
        for update in updates:
            await asyncio.wait_for(engine.submit(update), 2)
        assert await BotUpdate.objects.filter(status="pending").acount() == 7
        assert len(engine._handling) == 2
        free.set()
        await engine.drain()
        assert await BotUpdate.objects.filter(status="done").acount() == 7


async def test_what_a_crashed_process_left_is_recovered_in_order() -> None:
    router, seen = Router(), []

    @router.message()
    async def handler(update: Update) -> None:
        seen.append(update.text)

    with running(router):
        crashed = DatabaseMailbox()
        arrivals = [
            Arrival(message(f"{number}"), "demo:ann:ann", store_first=True) for number in range(5)
        ]
        await sync_to_async(crashed.admit)(arrivals, "crashed")
        engine = current_engine()
        assert await engine.recover() == 0
        await MailboxLease.objects.aupdate(expires_at=clock.now() - timedelta(seconds=1))
        assert await engine.recover() == 1
        await engine.drain()
    assert seen == ["0", "1", "2", "3", "4"]


async def test_what_waits_for_its_next_attempt_is_not_abandoned() -> None:
    with running(counting):
        later = clock.now() + timedelta(minutes=1)
        for number in range(150):
            await BotUpdate.objects.acreate(
                bot="demo", update_id=f"late {number}", type="message", mailbox=f"demo:{number}",
                status="pending", attempts=1, due_at=later, received_at=clock.now(),
                payload={"bot": "demo", "id": f"late {number}", "type": "poll"},
            )  # fmt: skip
        engine = current_engine()
        assert await engine.recover() == 0
        await asyncio.wait_for(engine.drain(), 5)
        await BotUpdate.objects.aupdate(due_at=clock.now() - timedelta(minutes=1))
        await engine.recover()
        await asyncio.wait_for(engine.drain(), 20)
        assert engine.recovered == 150
        assert not await BotUpdate.objects.exclude(status="done").aexists()


async def test_a_session_saved_by_somebody_else_is_handled_again_on_fresh_data() -> None:
    router, seen = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        seen.append(dict(session.data))
        if len(seen) == 1:
            await BotSession.objects.acreate(
                bot="demo", chat="ann", user="ann", data={"n": 10}, version=3,
                created_at=clock.now(), updated_at=clock.now(),
            )  # fmt: skip
        session.data["n"] = session.data.get("n", 0) + 1

    with running(router):
        update = message()
        await handle(update)
        assert seen == [{}, {"n": 10}]
        assert await data() == {"n": 11}
        assert (await BotSession.objects.aget()).version == 4


async def test_a_session_that_others_keep_saving_waits_and_is_not_parked_for_it() -> None:
    """P12: a conflict is no fault of the handler, so it counts as no attempt."""
    router, seen = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        seen.append(1)
        session.data["n"] = len(seen)
        if len(seen) == 8:
            return
        await BotSession.objects.aupdate_or_create(
            bot="demo", chat="ann", user="ann",
            defaults={
                "version": 100 + len(seen), "created_at": clock.now(), "updated_at": clock.now()
            },
        )  # fmt: skip

    with running(router, ATTEMPTS=1):
        update = message()
        await handle(update)
        assert len(seen) == 8
        assert (await data(), await status(update)) == ({"n": 8}, "done")


async def test_one_update_that_cannot_be_written_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Router()

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        session.data["text"] = update.text

    commit = DatabaseMailbox.commit

    def picky(mailbox: DatabaseMailbox, commits: list[Commit]) -> Any:
        for each in commits:
            if each.effect is Effect.DONE and any(b"poison" in save.data for save in _saves(each)):
                raise ValueError("the database will not take this")
        return commit(mailbox, commits)

    def _saves(entry: Commit) -> list[Any]:
        return [save for save in entry.saves if isinstance(save, Save) and save.data]

    monkeypatch.setattr(DatabaseMailbox, "commit", picky)
    with running(router, ATTEMPTS=1):
        updates = [message(text, user=text) for text in ("a", "poison", "b")]
        assert await handle(*updates) == [None] * 3
        assert await data("a") == {"text": "a"}
        assert await data("b") == {"text": "b"}
        assert await status(updates[1]) == "parked"


async def test_an_update_of_a_bot_that_is_gone_is_parked() -> None:
    with running(counting):
        update = message()
        await BotUpdate.objects.acreate(
            bot="gone", update_id="1", type="message", mailbox="gone:1", status="pending",
            payload={"bot": "gone", "id": "1", "type": "message"}, received_at=clock.now(),
        )  # fmt: skip
        await current_engine().recover()
        await handle(update)
        row = await BotUpdate.objects.aget(bot="gone")
        assert row.status == "parked"
        assert "'gone' is not configured" in row.error


async def test_an_engine_that_does_not_last_is_not_captured_by_a_busy_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A WSGI request, or a script, ends although others go on filling its mailbox."""
    router = Router()
    handled = 0

    @router.message()
    async def endless(update: Update) -> None:
        nonlocal handled
        handled += 1
        if handled < 10_000:
            await BotUpdate.objects.acreate(
                bot="demo", update_id=f"more {handled}", type="message", mailbox="demo:ann:ann",
                status="pending", received_at=clock.now(),
                payload={"bot": "demo", "id": f"more {handled}", "type": "message"},
            )  # fmt: skip

    monkeypatch.setattr("botsessions.engine.PATIENCE", 0.3)
    with running(router):
        engine = current_engine()
        await engine.submit(message())
        await asyncio.wait_for(engine.drain(), 10)
    assert 1 < handled < 10_000
    assert not await MailboxLease.objects.aexists()


def hanging() -> tuple[Router, asyncio.Event]:
    """Return a router whose handler does not end by itself, and the event that it has begun."""
    router, begun = Router(), asyncio.Event()

    @router.message()
    async def handler(update: Update) -> None:
        begun.set()
        await asyncio.sleep(60)

    return router, begun


async def test_stopping_lets_handlers_finish() -> None:
    router = Router()
    begun = asyncio.Event()

    @router.message()
    async def handler(session: Session) -> None:
        begun.set()
        await asyncio.sleep(0.1)
        session.data["done"] = True

    with running(router):
        engine = Engine()
        acknowledged = engine.submit(message())
        await begun.wait()
        await engine.stop(5)
        assert acknowledged.done()
        assert await data() == {"done": True}
        with pytest.raises(Unavailable):
            engine.submit(message())


async def test_stopping_gives_back_what_does_not_finish() -> None:
    router, begun = hanging()

    with running(router, ack_after=0):
        engine = Engine()
        update = message()
        acknowledged = engine.submit(update)
        await begun.wait()
        await engine.stop(0.05)
        assert acknowledged.done()
        assert await status(update) == "pending"
        assert not await MailboxLease.objects.aexists()


async def test_stopping_refuses_what_was_not_acknowledged() -> None:
    router, begun = hanging()

    with running(router):
        engine = Engine()
        acknowledged = engine.submit(message())
        await begun.wait()
        await engine.stop(0.05)
        with pytest.raises(Unavailable):
            await acknowledged
        assert not await BotUpdate.objects.aexists()
        assert not await MailboxLease.objects.aexists()


async def test_work_of_our_own_enters_the_same_mailbox() -> None:
    """P10."""
    with running(counting):
        ours = [
            Update("demo", f"cron:{number}", "message", chat=each.chat, user=each.user)
            for number, each in enumerate([message()] * 20)
        ]
        await handle(*ours, *[message() for _ in range(20)])
        assert await data() == {"n": 40}


async def test_a_recorded_send_waits_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 9: what went out is recorded once the database is back, and not sent again."""
    router, tries = Router(), []
    record = DatabaseMailbox.record

    def away(mailbox: DatabaseMailbox, sent: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("The database is away.")
        record(mailbox, sent)

    monkeypatch.setattr(DatabaseMailbox, "record", away)
    monkeypatch.setattr("botsessions.engine.COMEBACK", 0.01)

    @router.message()
    async def handler(session: Session) -> None:
        await session.send("once")

    with running(router):
        update = message()
        await handle(update)
        assert texts() == ["once"]
        assert await status(update) == "done"
    assert len(tries) == 3


async def test_points_are_passed_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    router, points = Router(), []

    @router.message()
    async def handler(session: Session) -> None:
        await session.send("hi")

    monkeypatch.setattr(Engine, "at_point", lambda point, delivery: points.append(point))
    with running(router):
        await handle(message())
    assert points == ["admitted", "handling", "sent", "stored", "before_commit", "committed"]


async def test_settings_are_read_late() -> None:
    with override_settings(BOTSESSIONS=configured(counting)):
        await handle(message())
    with running(counting):
        await handle(message())
        assert await data() == {"n": 2}


def test_engines_go_with_their_event_loops() -> None:
    """Under WSGI each request has a loop of its own."""
    engines: list[weakref.ref[Engine]] = []

    async def request() -> None:
        await handle(message())
        engines.append(weakref.ref(current_engine()))

    with running(counting):
        for _ in range(10):
            async_to_sync(request)()
    gc.collect()  # the loops
    gc.collect()  # and what was kept for them
    assert sum(engine() is not None for engine in engines) <= 2


async def test_what_is_left_of_an_update_needs_no_garbage_collector() -> None:
    """Looking for the cycles of each update was a sixth of the server's time."""
    left: list[weakref.ref[Any]] = []
    router = Router()

    @router.message()
    async def handler(session: Session) -> None:
        session.data["said"] = True
        await session.send("Yes.")
        left.extend(map(weakref.ref, (session, context.running())))

    with running(router):
        gc.collect()
        gc.disable()
        try:
            await handle(*[message(chat=f"{number}") for number in range(20)])
            await asyncio.sleep(0)
            assert len(left) == 40
            assert [each for each in left if each() is not None] == []
        finally:
            gc.enable()
