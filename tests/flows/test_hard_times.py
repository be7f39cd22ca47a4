"""Flows in hard times: hooks that raise, deadlines found late, groups that move, broken rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import msgspec
import pytest
from asgiref.sync import sync_to_async

from botsessions import Bot, Router, Scope, Session, SessionController, Talk, Update
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.flows.base import Waiter
from botsessions.flows.deadlines import passed
from botsessions.flows.state import read
from botsessions.models import BotSession, BotUpdate
from botsessions.operations import sweep
from botsessions.upkeep import Upkeep
from tests.flows.kit import Time, flow, last, say, stopped_clock
from tests.flows.test_conversations import talking
from tests.kit import data, handle, keyless, message, running, status, texts

pytestmark = pytest.mark.django_db(transaction=True)

Mine = Annotated[Session, Scope("user")]
Room = Annotated[Session, Scope("chat")]

BUSINESS = "business/c/1"


@dataclass
class Form:
    answers: list[str] = field(default_factory=list)


@pytest.fixture
def time() -> Iterator[Time]:
    with stopped_clock() as time:
        yield time


def waiting(
    function: Callable[..., Any], timeout: float | None = None, **options: Any
) -> tuple[Router, Waiter]:
    """Return a router with a waiter of this function, which the command begin begins, and it."""
    router = Router()
    waiter = router.waiter(timeout, **options)(function)

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(waiter)

    @router.command("cancel", during_flows=True)
    async def cancel(session: Session) -> None:
        await session.end()

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(f"handler {update.text}")

    return router, waiter


def outlasted(hook: Callable[..., Any], timeout: float = 5) -> Router:
    """Return a router with a waiter that nobody answers, and this hook for its timeout."""
    router, waiter = waiting(ignore, timeout)
    waiter.timed_out(hook)
    return router


async def ignore() -> None: ...


async def listen(update: Update, session: Session) -> None:
    await session.send(f"heard {update.text}")


async def stop(control: SessionController) -> None:
    control.stop()


async def late(session: Session) -> None:
    await session.send("late")


async def raises() -> None:
    raise RuntimeError("of the function")


async def parked() -> int:
    return await BotUpdate.objects.filter(status="parked").acount()


def moves(old: str, new: str) -> Update:
    """Return the update in which a group says where it has gone."""
    said = message("", chat=old)
    assert said.message is not None
    moved = msgspec.structs.replace(said.message, migrated_to=new)
    return msgspec.structs.replace(said, message=moved)


# Functions and hooks that raise


async def test_hook_for_a_failure_that_raises_leaves_nobody_stuck() -> None:
    """S56."""
    router, waiter = waiting(raises)

    @waiter.failed
    async def failed(error: Exception) -> None:
        raise KeyError("of the hook")

    with running(router, ATTEMPTS=2):
        assert await say("/begin", "a", "b") == ["handler b"]
        assert (await flow(), await last()) == (None, ("raises", "failed"))
        assert await parked() == 1


async def test_filter_that_raises_leaves_nobody_stuck() -> None:
    """P22, S56."""

    def is_wanted(update: Update) -> bool:
        raise KeyError("of the filter")

    router, _ = waiting(stop, where=is_wanted)
    with running(router, ATTEMPTS=2):
        assert await say("/begin", "a", "b") == ["handler b"]
        assert (await flow(), await last()) == (None, ("stop", "failed"))
        assert await parked() == 1


async def test_hook_for_a_timeout_that_raises_leaves_nobody_stuck(time: Time) -> None:
    """S55, S56: and is not told again for ever."""

    async def raises() -> None:
        raise KeyError("of the hook")

    with running(outlasted(raises), ATTEMPTS=2):
        await say("/begin")
        assert [await time.passes(5), await time.passes(1000)] == [1, 0]
        assert (await flow(), await last(), await parked()) == (None, ("ignore", "failed"), 1)
        assert await say("a") == ["handler a"]


async def test_failed_run_changes_nothing() -> None:
    """S56: what it wrote before it raised is not kept, and what the hook writes is."""

    async def halves(session: Session) -> None:
        session.data["half"] = True
        raise ValueError

    router, waiter = waiting(halves)

    @waiter.failed
    async def failed(error: Exception, session: Session) -> None:
        session.data["failed"] = True

    with running(router):
        await say("/begin", "a")
        assert await data() == {"failed": True}


async def test_hook_of_a_cancelled_flow_that_raises_leaves_nobody_stuck() -> None:
    """P24: the update is parked, and the session free; nobody else's is."""
    router, waiter = waiting(listen)

    @waiter.cancelled
    async def cancelled(session: Session) -> None:
        await session.send("cancelled")
        raise KeyError("of the hook")

    with running(router, ATTEMPTS=2):
        await say("/begin", user="ben")
        await say("/begin")
        cancel = message("/cancel")
        await handle(cancel)
        assert await status(cancel) == "parked"
        assert (await flow(), await last()) == (None, ("listen", "failed"))
        assert await say("a") == ["handler a"]
        assert await say("a", user="ben") == ["heard a"]


def taking_over() -> Router:
    """Return a router with three waiters; the second tells with an error that it is cancelled."""
    router = Router()
    flows = {}

    for name in ("one", "two", "three"):

        def make(name: str) -> Waiter:
            @router.waiter(None, name=name)
            async def waits(update: Update, session: Session) -> None:
                await session.send(f"{name} {update.text}")

            return waits

        flows[name] = make(name)

    @flows["two"].cancelled
    async def cancelled() -> None:
        raise KeyError("of the hook")

    @router.command("begin", during_flows=True)
    async def begin(update: Update, session: Session) -> None:
        for name in update.text.split()[1:]:
            await session.begin(flows[name])

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(f"handler {update.text}")

    return router


async def test_hook_of_a_flow_that_never_waited_frees_nobody() -> None:
    """The update has come to nothing: what waited before it waits on."""
    with running(taking_over(), ATTEMPTS=2):
        await say("/begin one")
        assert await say("/begin two three", "a") == ["one a"]
        assert await parked() == 1


async def test_flow_whose_hook_raises_is_freed_and_the_other_has_not_begun() -> None:
    """The one that took over comes to nothing with its update; the one that waited is gone."""
    with running(taking_over(), ATTEMPTS=2):
        await say("/begin two")
        assert await say("/begin three", "a") == ["handler a"]
        assert (await last(), await parked()) == (("two", "failed"), 1)


async def test_conversation_that_cannot_begin_frees_nobody() -> None:
    router = Router()

    async def broken(talk: Talk) -> None:
        raise ValueError

    conversation = router.conversation()(broken)

    @router.command("broken", during_flows=True)
    async def begin_broken(session: Session) -> None:
        await session.begin(conversation)

    router.include(waiting(listen)[0])
    with running(router, ATTEMPTS=2):
        assert await say("/begin", "/broken", "a") == ["heard a"]
        assert await parked() == 1


async def test_hook_that_sends_leaves_a_flow_that_closes_closed() -> None:
    """S84."""
    router, waiter = waiting(stop, closes=True)

    @waiter.ended
    async def ended(session: Session) -> None:
        await session.send("bye")

    with running(router):
        assert await say("/begin", "a") == ["bye"]
        row = await BotSession.objects.aget()
        assert not row.is_open


# Waiters within conversations


def nested(function: Callable[..., Any], **options: Any) -> Router:
    """Return a router with the conversation nested, which begins a waiter, and another waiter."""
    router = Router()
    inner = router.waiter(None, name="inner", **options)(function)
    router.waiter(None, name="other")(listen)

    async def nested(talk: Talk) -> None:
        await talk.begin(inner)
        await talk.send("out")
        await talk.wait()

    router.include(talking(nested))

    @router.flows["nested"].flow.cancelled
    async def cancelled(session: Session) -> None:
        await session.send("cancelled")

    return router


async def test_long_history_within_a_conversation_forgets_the_oldest() -> None:
    """S59: it is what the session holds that may not be too large."""

    async def stops(update: Update, control: SessionController) -> None:
        if update.text == "stop":
            control.stop()

    with running(nested(stops, record_history=True), MAX_DATA_BYTES=4000):
        await say("/begin", *["x" * 200] * 25)
        assert await parked() == 0
        assert await say("stop") == ["out"]


@pytest.mark.parametrize("stops", [True, False])
async def test_waiter_may_begin_another_flow_in_place_of_its_conversation(stops: bool) -> None:
    async def goes_over(session: Session, control: SessionController) -> None:
        other = router.flows["other"].flow
        await session.begin(other)
        if stops:
            control.stop()

    router = nested(goes_over)
    with running(router):
        assert await say("/begin", "a", "b") == ["cancelled", "heard b"]
        assert await last() == ("nested", "cancelled")


@pytest.mark.parametrize("stops", [True, False])
async def test_waiter_may_end_its_conversation(stops: bool) -> None:
    """P24."""

    async def leaves(session: Session, control: SessionController) -> None:
        await session.end()
        if stops:
            control.stop()

    with running(nested(leaves)):
        assert await say("/begin", "a", "b") == ["cancelled", "handler b"]
        assert (await flow(), await last()) == (None, ("nested", "cancelled"))


async def test_waiter_whose_code_is_gone_is_called_by_its_name(caplog: Any) -> None:
    """P25: its conversation is there."""
    with running(nested(listen)):
        await say("/begin")

    async def nested_no_more(talk: Talk) -> None:
        await talk.wait()

    router = talking(nested_no_more, name="nested")

    @router.lost_flow
    async def lost(flow: str, session: Session) -> None:
        await session.send(f"{flow} is gone")

    with running(router):
        assert await say("a") == ["inner is gone", "handler a"]
        assert "no flow 'inner'" in caplog.text
        assert await last() == ("nested", "lost")


# Deadlines that are found late, or in hard times


async def test_row_that_cannot_be_read_keeps_no_other_from_its_deadline(time: Time) -> None:
    """P20: and its session is freed with the next thing that is said."""
    with running(outlasted(late)):
        await say("/begin")
        await say("/begin", user="ben")
        await BotSession.objects.filter(user="ben").aupdate(flow={"bogus": 1})
        assert await time.passes(5) == 1
        assert texts() == ["late"]
        assert await say("a", user="ben") == ["handler a"]
        assert (await flow("ben"), (await last("ben"))[1]) == (None, "lost")


async def test_slow_hook_keeps_no_other_from_its_deadline() -> None:
    """P20: a server does not wait until one is told before it looks for the next."""
    told: list[str] = []
    is_told = asyncio.Event()
    router = Router()

    @router.waiter()
    async def waits() -> None: ...

    @waits.timed_out
    async def hook(session: Session) -> None:
        if session.key.user == "ann":
            told.append("ann waits")
            await asyncio.wait_for(is_told.wait(), 10)
        told.append(session.key.user)
        is_told.set()

    @router.message()
    async def begin(update: Update, session: Session) -> None:
        await session.begin(waits, timeout=float(update.text))

    with running(router, ack_after=60):
        engine = current_engine()
        await engine.start()
        try:
            said = message("0.1"), message("0.6", user="ben")
            await asyncio.gather(*[engine.submit(each) for each in said])
            await asyncio.wait_for(is_told.wait(), 10)
            await engine.drain()
        finally:
            await engine.stop()
        assert told == ["ann waits", "ben", "ann"]


async def test_look_that_fails_is_not_the_last_one() -> None:
    """P20: whatever went wrong in it."""
    looks: list[int] = []
    has_looked = asyncio.Event()

    async def look() -> int:
        looks.append(1)
        if len(looks) < 3:
            raise ValueError("of the look")
        has_looked.set()
        return 0

    upkeep = Upkeep(asyncio.get_running_loop().create_task)
    upkeep.every(0.01, look)
    try:
        await asyncio.wait_for(has_looked.wait(), 10)
    finally:
        upkeep.cancel()


async def test_deadline_on_its_way_while_the_group_moves_is_told_once(time: Time) -> None:
    """P17, P20: in the supergroup, by a later look."""
    with running(outlasted(late)):
        await say("/begin", chat="group")
        time.now += timedelta(seconds=5)
        engine = current_engine()
        [(key, encoded)] = await engine.ask(lambda mailbox: mailbox.due(["demo"], 10))
        await handle(moves("group", "big"))
        row = await BotSession.objects.aget(flow__isnull=False)
        assert row.chat == "big"
        await engine.submit(passed(key, read(encoded)))
        await engine.drain()
        assert [await time.passes(11) for _ in range(3)].count(1) == 1
        assert (texts("big"), texts("group")) == (["late"], [])


async def test_deadline_of_a_group_that_has_moved_comes_from_the_supergroup(time: Time) -> None:
    """P17: the update that a hook is given too."""

    async def tell(update: Update, bot: Bot) -> None:
        assert update.chat is not None
        await bot.send(update.chat.id, "late")

    with running(outlasted(tell)):
        await say("/begin", chat="group")
        await handle(moves("group", "big"))
        assert await time.passes(5) == 1
        assert (texts("group"), texts("big")) == ([], ["late"])


# Sessions of other keys, and business chats


async def test_business_chat_is_where_its_deadline_and_its_expiry_come_from(time: Time) -> None:
    """P11, P18: with the sessions that their hooks declare in other scopes."""
    seen: list[str] = []

    async def tell(room: Room) -> None:
        seen.append(f"late {room.key.chat}")

    router = outlasted(tell)

    @router.expired
    async def expired(room: Room) -> None:
        seen.append(f"expired {room.key.chat}")

    with running(router, expires=60):
        async with bots["demo"].sessions.get(BUSINESS, "ann") as session:
            session.data["n"] = 1
            await session.begin(router.flows["ignore"].flow)
        assert await time.passes(5) == 1
        time.now += timedelta(seconds=61)
        await sync_to_async(sweep)()
        assert seen == [f"late {BUSINESS}", f"expired {BUSINESS}"]


async def test_hook_of_an_expired_session_has_typed_data(time: Time) -> None:
    """P18, P14: it is told what there was, and its session begins anew."""
    router = Router()

    @router.expired
    async def expired(data: Any, session: Session[Form], bot: Bot) -> None:
        await bot.send(session.chat, f"gone: {data}")
        session.data.answers.append("new")

    @router.message()
    async def put(update: Update, session: Session[Form]) -> None:
        session.data.answers.append(update.text)

    with running(router, expires=60):
        await say("tea")
        time.now += timedelta(seconds=61)
        await sync_to_async(sweep)()
        assert texts() == ["gone: {'answers': ['tea']}"]
        assert await data() == {"answers": ["new"]}


async def test_flow_of_a_user_hears_what_belongs_to_no_chat() -> None:
    """S88."""
    heard: list[str | None] = []
    router = Router()

    @router.waiter(None, types=["callback_query"])
    async def presses(update: Update) -> None:
        heard.append(update.action)

    @router.command("begin")
    async def begin(mine: Mine) -> None:
        await mine.begin(presses)

    with running(router):
        await say("/begin")
        await handle(keyless("callback_query", action="yes"))
        assert heard == ["yes"]


async def test_flow_of_a_user_and_that_of_a_chat_hear_one_after_the_other() -> None:
    """P23: the last begun first, and the other when that has ended."""
    heard: list[str] = []
    router = Router()

    @router.waiter(None)
    async def one(update: Update, control: SessionController) -> None:
        heard.append(f"one {update.text}")
        control.stop()

    @router.waiter(None)
    async def everybody(update: Update) -> None:
        heard.append(f"everybody {update.text}")

    @router.command("one", during_flows=True)
    async def begin_one(session: Session) -> None:
        await session.begin(one)

    @router.command("everybody", during_flows=True)
    async def begin_everybody(room: Room) -> None:
        await room.begin(everybody)

    with running(router):
        await say("/everybody", "/one", "a", "b", chat="-1")
        await say("c", chat="-1", user="ben")
        assert heard == ["one a", "everybody b", "everybody c"]


async def test_updates_without_a_message_reach_a_flow_that_takes_them() -> None:
    """S88: a waiter, with its history, and a conversation, which is to name them too."""
    heard: list[str] = []
    router = Router()

    @router.waiter(None, record_history=True, types=["message_reaction"])
    async def reacts(update: Update, control: SessionController) -> None:
        heard.append(f"waiter {update.type} {len(control.get_history_chains())}")
        control.stop()

    async def asks(talk: Talk) -> None:
        await talk.begin(reacts)
        update = await talk.wait(types=["message_reaction"])
        heard.append(f"conversation {update.type}")

    router.include(talking(asks, types=["message", "message_reaction"]))
    with running(router):
        await say("/begin")
        for _ in range(3):
            reaction = msgspec.structs.replace(message(), type="message_reaction", message=None)
            await handle(reaction)
        assert heard == ["waiter message_reaction 0", "conversation message_reaction"]
        assert (await flow(), await last()) == (None, ("asks", "ended"))


# Conflicts, stores, threads and handles


async def test_update_that_is_run_again_is_for_whom_it_then_is() -> None:
    """P1, P23: what a waiter sent is not what the handler sends that has the update after it."""
    router = Router()
    is_second = asyncio.Event()
    runs: list[str] = []

    @router.waiter(None)
    async def once(update: Update, bot: Bot, control: SessionController) -> None:
        assert update.chat is not None
        runs.append(update.text)
        if len(runs) == 2:
            is_second.set()
        await bot.send(update.chat.id, f"waiter {update.text}")
        await asyncio.wait_for(is_second.wait(), 10)
        control.stop()

    @router.command("begin")
    async def begin(mine: Mine) -> None:
        await mine.begin(once)

    @router.message()
    async def handler(update: Update, bot: Bot) -> None:
        assert update.chat is not None
        await bot.send(update.chat.id, f"handler {update.text}")

    with running(router):
        await say("/begin")
        await handle(message("a", chat="-1"), message("b", chat="-2"))
        said = texts("-1") + texts("-2")
        assert sorted(runs) == ["a", "b"]
        assert sum(each.startswith("handler") for each in said) == 1


async def test_conversation_lives_in_the_row_and_its_data_in_the_store() -> None:
    """Also where the data is deleted on the way, and the flow that waits stays."""

    async def counts(talk: Talk, session: Session) -> None:
        session.data["n"] = 1
        await talk.wait(where=lambda update: update.text != "no", otherwise="no?")
        session.data["n"] += 1
        await talk.wait()
        session.data["n"] += 1
        session.delete()
        await talk.wait()
        await talk.send("done")

    stores = {
        "default": {"BACKEND": "botsessions.stores.DatabaseStore"},
        "fast": {"BACKEND": "botsessions.stores.CacheStore"},
    }
    with running(talking(counts), STORES=stores, store="fast"):
        await say("/begin")
        seen = []
        for text in ("no", "a", "b", "c"):
            await say(text)
            async with bots["demo"].sessions.get("ann", "ann") as session:
                seen.append(session.data.get("n"))
        assert seen == [1, 2, None, None]
        assert texts() == ["no?", "done"]


async def test_failure_leaves_the_data_in_the_store() -> None:
    """S56: where the flow ends with an update that is parked."""

    async def counts(update: Update, session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        if update.text == "raise":
            raise ValueError

    router, _ = waiting(counts)
    stores = {
        "default": {"BACKEND": "botsessions.stores.DatabaseStore"},
        "fast": {"BACKEND": "botsessions.stores.CacheStore"},
    }
    with running(router, STORES=stores, store="fast", ATTEMPTS=2):
        await say("/begin", "a", "raise")
        assert (await flow(), await last()) == (None, ("counts", "failed"))
        async with bots["demo"].sessions.get("ann", "ann") as session:
            assert session.data == {"n": 1}


async def test_plain_functions_of_two_conversations_run_at_once() -> None:
    """In the engine's threads, not one after another in that of the database."""
    both = threading.Barrier(2)

    def meet() -> bool:
        both.wait(10)
        return True

    async def meets(talk: Talk, session: Session) -> None:
        session.data["met"] = await talk.run(meet)

    with running(talking(meets), ack_after=20, ATTEMPTS=1):
        engine = current_engine()
        await engine.start()
        try:
            said = [message("/begin", user=user) for user in ("ann", "ben")]
            await asyncio.gather(*[engine.submit(each) for each in said])
            await engine.drain()
        finally:
            await engine.stop()
        assert [await data("ann"), await data("ben")] == [{"met": True}] * 2


async def test_handle_begins_and_ends_a_flow_by_itself() -> None:
    """P10: each verb in a turn of its own."""
    router, waiter = waiting(listen)

    @waiter.cancelled
    async def cancelled(session: Session) -> None:
        await session.send("cancelled")

    with running(router):
        handle_ = bots["demo"].sessions.get("ann", "ann")
        await handle_.begin(waiter)
        assert await say("a") == ["heard a"]
        assert await handle_.end()
        assert not await handle_.end()
        assert await say("b") == ["handler b"]
        assert texts() == ["heard a", "cancelled", "handler b"]
