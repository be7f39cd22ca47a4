"""Waiters: who gets what is said, when they end, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import (
    Bot,
    Message,
    Qualifier,
    Router,
    Scope,
    Session,
    SessionController,
    Update,
)
from botsessions.models import BotSession, BotUpdate, MailboxLease
from tests.flows.kit import Time, fire, flow, last, say, stopped_clock
from tests.kit import data, handle, message, running, status, texts

pytestmark = pytest.mark.django_db(transaction=True)

Room = Annotated[Session, Scope("chat")]
Order = Annotated[Session, Qualifier("order")]
Wizard = Annotated[Session, Qualifier("wizard:7")]


@pytest.fixture
def time() -> Iterator[Time]:
    with stopped_clock() as time:
        yield time


def bot(timeout: float | None = 30, **options: Any) -> Router:
    """Return a router with a waiter that does what it is told, and tells its ends."""
    router = Router()

    @router.waiter(timeout, **options)
    async def chain(control: SessionController, update: Update, session: Session) -> None:
        verb, _, rest = update.text.partition(" ")
        if verb == "stop":
            control.stop()
        elif verb == "fail":
            control.stop(ValueError(rest))
        elif verb == "keep":
            control.keep(float(rest), reset_timeout=True)
        elif verb == "move":
            control.keep(float(rest))
        elif verb == "again":
            control.keep()
        elif verb == "raise":
            raise RuntimeError(rest)
        elif verb == "history":
            said = [each.text for each in control.get_history_chains()]
            await session.send(" ".join(said) or "nothing")
            return
        await session.send(f"heard {update.text}")

    @chain.timed_out
    async def timed_out(session: Session) -> None:
        await session.send("too late")

    @chain.ended
    async def ended(session: Session) -> None:
        await session.send("over")

    @chain.cancelled
    async def cancelled(session: Session) -> None:
        await session.send("cancelled")

    @router.command("begin")
    async def begin(update: Update, session: Session) -> None:
        await session.begin(chain)
        await session.send("go on")

    @router.command("cancel", during_flows=True)
    async def cancel(session: Session) -> None:
        await session.send("yes" if await session.end() else "no")

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(f"handler {update.text}")

    return router


async def test_what_is_said_goes_to_the_waiter_alone() -> None:
    """S47, S48."""
    with running(bot()):
        assert await say("/begin", "a", "b") == ["go on", "heard a", "heard b"]
        assert await say("stop", "c") == ["heard stop", "over", "handler c"]


async def test_others_and_other_chats_pass_through() -> None:
    """S49: its identity is the session's key."""
    with running(bot()):
        await say("/begin", chat="-1")
        assert await say("a", user="ben", chat="-1") == ["handler a"]
        assert await say("a") == ["handler a"]
        assert await say("a", chat="-1") == ["heard a"]


async def test_waiter_on_a_chat_makes_the_group_one_session() -> None:
    """S50."""
    router = Router()

    @router.waiter()
    async def everybody(update: Update, session: Session) -> None:
        session.data["said"] = [*session.data.get("said", []), update.text]

    @router.command("begin")
    async def begin(room: Room) -> None:
        await room.begin(everybody)

    with running(router):
        await say("/begin", chat="-1")
        await say("a", user="ben", chat="-1")
        await say("b", user="cid", chat="-1")
        await say("c", user="cid", chat="-2")
        row = await BotSession.objects.aget(chat="-1", user="")
        assert row.data == {"said": ["a", "b"]}


async def test_run_that_says_nothing_leaves_the_deadline(time: Time) -> None:
    """S51."""
    with running(bot(timeout=10)):
        await say("/begin")
        assert await time.passes(6) == 0
        assert await say("a") == ["heard a"]
        assert await time.passes(3.9) == 0
        assert await time.passes(0.1) == 1
        assert texts()[-1] == "too late"
        assert await last() == ("chain", "timed_out")


@pytest.mark.parametrize(
    ("said", "ends_at"),
    [("move 0.2", 1.2), ("move -0.3", 0.7), ("again", 1), ("keep 2", 2.5), ("keep 0.1", 0.6)],
)
async def test_keep_moves_the_deadline(time: Time, said: str, ends_at: float) -> None:
    """S53, S54: as measured on the original, with a timeout of 1 s and a call at 0.5 s."""
    with running(bot(timeout=1)):
        await say("/begin")
        await time.passes(0.5)
        await say(said)
        assert await time.passes(ends_at - 0.5 - 0.001) == 0
        assert await time.passes(0.001) == 1
        assert texts()[-1] == "too late"


@pytest.mark.parametrize("said", ["keep 0", "keep -1", "move -0.5", "move -2", "stop"])
async def test_it_ends_normally_when_it_says_so(time: Time, said: str) -> None:
    """S52, S53, S54: a deadline that is not after now is no timeout."""
    with running(bot(timeout=1)):
        await say("/begin")
        await time.passes(0.5)
        assert await say(said) == [f"heard {said}", "over"]
        assert (await flow(), await last()) == (None, ("chain", "ended"))
        assert await time.passes(10) == 0


async def test_stop_is_idempotent() -> None:
    """S52."""
    router = Router()
    errors: list[str] = []

    @router.waiter()
    async def once(control: SessionController) -> None:
        control.stop(ValueError("first"))
        control.stop()
        control.stop(ValueError("second"))

    @once.failed
    async def failed(error: Exception) -> None:
        errors.append(str(error))

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(once)

    with running(router):
        await say("a", "b")
        assert errors == ["first"]
        assert await last() == ("once", "failed")


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0)])
async def test_waiter_without_time_ends_at_once_and_normally(timeout: Any) -> None:
    """S57."""
    with running(bot(timeout=timeout)):
        assert await say("/begin", "a") == ["go on", "over", "handler a"]
        assert await last() == ("chain", "ended")


async def test_waiter_without_a_timeout_waits_for_ever(time: Time) -> None:
    with running(bot(timeout=None)):
        await say("/begin")
        assert await time.passes(10_000_000) == 0
        assert await say("move 5") == ["heard move 5"]
        assert await time.passes(10_000_000) == 0


async def test_timeout_is_told_once(time: Time) -> None:
    """S55, also when several look at the same time."""
    with running(bot()):
        await say("/begin")
        time.now += timedelta(seconds=30)
        assert sum(await asyncio.gather(*[fire() for _ in range(5)])) == 1
        await time.passes(100)
        assert texts().count("too late") == 1
        assert await BotUpdate.objects.filter(type="deadline").acount() == 1


async def test_timed_out_may_ask_again(time: Time) -> None:
    """P20."""
    router = Router()

    @router.waiter(10)
    async def answer(control: SessionController, session: Session) -> None:
        control.stop()

    @answer.timed_out
    async def ask_again(control: SessionController, session: Session) -> None:
        session.data["asked"] = session.data.get("asked", 0) + 1
        if session.data["asked"] < 3:
            await session.send("Are you there?")
            control.keep(10, reset_timeout=True)

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(answer)

    with running(router):
        await say("a")
        assert [await time.passes(10) for _ in range(4)] == [1, 1, 1, 0]
        assert texts() == ["Are you there?"] * 2
        assert (await data(), await flow()) == ({"asked": 3}, None)


async def test_exception_ends_it_and_reaches_its_hook() -> None:
    """S56."""
    router = bot()
    seen: list[str] = []
    flows = router.flows["chain"].flow

    @flows.failed
    async def failed(error: Exception, session: Session) -> None:
        seen.append(str(error))
        await session.send("sorry")

    with running(router):
        assert await say("/begin", "raise it", "b") == ["go on", "sorry", "handler b"]
        assert seen == ["it"]
        assert await last() == ("chain", "failed")


async def test_without_a_hook_it_is_tried_again_and_ends_when_parked() -> None:
    """S56: nobody is stuck in a flow that always raises."""
    with running(bot(), ATTEMPTS=3):
        await say("/begin")
        broken = message("raise it")
        await handle(broken)
        assert await status(broken) == "parked"
        row = await BotSession.objects.aget()
        assert row.flow is None
        assert row.last_flow is not None
        assert (row.last_flow["outcome"], "it" in row.last_flow["error"]) == ("failed", True)
        assert await say("b") == ["handler b"]


async def test_hook_that_raises_leaves_nobody_stuck() -> None:
    router = Router()

    @router.waiter()
    async def answer(control: SessionController) -> None:
        control.stop()

    @answer.ended
    async def ended(session: Session) -> None:
        raise RuntimeError("of the hook")

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(answer, timeout=100)

    with running(router, ATTEMPTS=2):
        await say("/begin")
        one = message("a")
        await handle(one)
        assert await status(one) == "parked"
        assert (await flow(), await last()) == (None, ("answer", "failed"))


async def test_raising_run_changes_nothing(time: Time) -> None:
    """Neither its data, nor the deadline, nor the history."""
    router = Router()
    tries: list[int] = []

    @router.waiter(10, record_history=True)
    async def shaky(control: SessionController, session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        control.keep(100, reset_timeout=True)
        tries.append(len(control.get_history_chains()))
        if len(tries) == 1:
            raise RuntimeError("the first time")

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(shaky)

    with running(router):
        await say("a", "b")
        assert tries == [1, 1]
        assert await data() == {"n": 1}


async def test_history_is_recorded_where_asked() -> None:
    """S59."""
    with running(bot(record_history=True)):
        assert await say("/begin", "a", "b", "history") == [
            "go on", "heard a", "heard b", "a b history"
        ]  # fmt: skip
    with running(bot()):
        assert await say("/begin", "a", "history", user="ben") == ["go on", "heard a", "nothing"]


async def test_history_is_what_was_said_not_what_became_of_it() -> None:
    """S59: who changes what was returned changes nothing that is kept."""
    router = Router()
    lengths: list[int] = []

    @router.waiter(record_history=True)
    async def keeps(control: SessionController) -> None:
        history = control.get_history_chains()
        assert all(isinstance(each, Message) for each in history)
        lengths.append(len(history))
        history.clear()

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(keeps)

    with running(router):
        await say("a", "b", "c", "d")
        assert lengths == [1, 2, 3]


async def test_long_history_forgets_the_oldest() -> None:
    with running(bot(record_history=True), MAX_DATA_BYTES=3000):
        await say("/begin", *[f"{n:02} {'x' * 40}" for n in range(40)])
        [kept] = await say("history")
        assert kept.endswith("history")
        assert "39 x" in kept
        assert "00 x" not in kept


async def test_message_behind_a_run_that_stops_is_not_lost() -> None:
    """S58: one run at a time; what comes behind the end goes to the handlers."""
    router = Router()
    runs: list[str] = []

    @router.waiter()
    async def slow(control: SessionController, update: Update, session: Session) -> None:
        runs.append(f"+{update.text}")
        await asyncio.sleep(0.02)
        runs.append(f"-{update.text}")
        if update.text == "b":
            control.stop()

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(slow)

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        runs.append(f"handler {update.text}")

    with running(router):
        await say("/begin")
        await handle(message("a"), message("b"), message("c"))
        assert runs == ["+a", "-a", "+b", "-b", "handler c"]


async def test_nothing_is_left_of_it() -> None:
    """S60."""
    with running(bot()):
        for end in ("stop", "fail it", "keep 0", "/cancel"):
            await say("/begin", end)
            row = await BotSession.objects.aget()
            assert (row.flow, row.due_at) == (None, None), end
            assert await say("x") == ["handler x"]
        assert not await MailboxLease.objects.aexists()


async def test_cancel_tells_its_hook() -> None:
    """P24."""
    with running(bot()):
        assert await say("/begin", "/cancel", "/cancel", "a") == [
            "go on", "yes", "cancelled", "no", "handler a"
        ]  # fmt: skip
        assert await last() == ("chain", "cancelled")


async def test_handler_during_flows_may_stand_behind_one_that_takes_everything() -> None:
    """Without a flow the first that matches has the update, as always."""
    router = bot()

    @router.command("time", during_flows=True)
    async def tell_time(session: Session) -> None:
        await session.send("noon")

    with running(router):
        assert await say("/time", "/begin", "/time", "a") == [
            "handler /time", "go on", "noon", "heard a"
        ]  # fmt: skip


async def test_another_flow_takes_over() -> None:
    """The hook of the one that waited is called, after the handler."""
    router = Router()

    @router.waiter()
    async def other(update: Update, session: Session) -> None:
        await session.send(f"other {update.text}")

    @router.command("other", during_flows=True)
    async def begin_other(session: Session) -> None:
        await session.begin(other)
        await session.send("begun")

    router.include(bot())
    with running(router):
        assert await say("/begin", "/other", "a") == ["go on", "begun", "cancelled", "other a"]
        assert await last() == ("chain", "cancelled")


async def test_it_may_go_over_into_another() -> None:
    router = Router()

    @router.waiter()
    async def second(update: Update, session: Session, control: SessionController) -> None:
        await session.send(f"second {update.text}")
        control.stop()

    @router.waiter()
    async def first(update: Update, session: Session) -> None:
        await session.send(f"first {update.text}")
        await session.begin(second)

    @router.command("steps")
    async def steps(session: Session) -> None:
        await session.begin(first)

    router.include(bot())
    with running(router):
        assert await say("/steps", "a", "b", "c") == ["first a", "second b", "handler c"]


@pytest.mark.parametrize("asks", [True, False])
async def test_filtered_waiter_asks_again_or_lets_pass(asks: bool) -> None:
    """P22."""
    router = Router()

    def is_number(update: Update) -> bool:
        return update.text.isdigit()

    @router.waiter(where=is_number)
    async def age(control: SessionController, update: Update, session: Session) -> None:
        session.data["age"] = int(update.text)
        control.stop()

    if asks:

        @age.mismatched
        async def no_number(session: Session) -> None:
            await session.send("A number, please.")

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(age)

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(f"handler {update.text}")

    with running(router):
        expected = ["A number, please."] if asks else ["handler x"]
        assert await say("/begin", "x", "42") == expected
        assert await data() == {"age": 42}
        assert await say("7") == ["handler 7"]


async def test_filter_may_declare_sessions() -> None:
    router = Router()

    async def is_wanted(update: Update, session: Session, order: Order) -> bool:
        return update.text == order.data.get("word")

    @router.waiter(where=is_wanted)
    async def word(control: SessionController) -> None:
        control.stop()

    @router.command("begin")
    async def begin(session: Session, order: Order) -> None:
        order.data["word"] = "sesame"
        await session.begin(word)

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(update.text)

    with running(router):
        assert await say("/begin", "open", "sesame", "open") == ["open", "open"]


async def test_flow_reads_sessions_that_no_handler_declares() -> None:
    router = Router()

    @router.waiter()
    async def add(update: Update, order: Order) -> None:
        order.data["items"] = [*order.data.get("items", []), update.text]

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(add)

    with running(router):
        await say("/begin", "a", "b", "c")
        assert await data(qualifier="order") == {"items": ["a", "b", "c"]}


async def test_session_of_a_flow_is_the_one_in_which_it_waits() -> None:
    router = Router()

    @router.waiter()
    async def note(update: Update, session: Session) -> None:
        session.data["said"] = update.text

    @router.command("begin")
    async def begin(order: Order) -> None:
        await order.begin(note)

    with running(router):
        await say("/begin", "a")
        assert (await data(qualifier="order"), await data()) == ({"said": "a"}, None)


async def test_of_several_flows_the_last_begun_comes_first(time: Time) -> None:
    """P23: one consumer for each update."""
    router = Router()
    heard: list[str] = []

    for name in ("one", "two"):

        def make(name: str) -> None:
            @router.waiter(name=name)
            async def waits(update: Update, control: SessionController) -> None:
                heard.append(f"{name} {update.text}")
                if update.text == "stop":
                    control.stop()

            @router.command(name, during_flows=True)
            async def begin(update: Update, bot: Bot) -> None:
                assert update.chat is not None
                await bot.sessions.get(update.chat.id, "ann", name).begin(waits)

        make(name)

    with running(router):
        await say("/one")
        time.now += timedelta(seconds=1)
        await say("/two", "a", "stop", "b")
        assert heard == ["two a", "two stop", "one b"]


async def test_flow_that_closes_ends_the_tracking() -> None:
    """S84: a session for one wizard is closed when that is done."""
    router = Router()

    @router.waiter(closes=True)
    async def wizard(control: SessionController) -> None:
        control.stop()

    @router.command("begin")
    async def begin(session: Wizard) -> None:
        await session.send("?")
        await session.begin(wizard)

    with running(router):
        await say("/begin")
        row = await BotSession.objects.aget(qualifier="wizard:7")
        assert row.is_open
        await say("a")
        row = await BotSession.objects.aget(qualifier="wizard:7")
        assert not row.is_open
        assert not await row.messages.aexists()


async def test_flow_whose_code_is_gone_frees_the_session(caplog: Any) -> None:
    """P25: the declared fallback is called, and the message goes on to the handlers."""
    with running(bot()):
        await say("/begin")
        await say("/begin", user="ben")
    renamed = Router()

    @renamed.lost_flow
    async def lost(flow: str, session: Session) -> None:
        await session.send(f"{flow} is gone")

    @renamed.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(f"handler {update.text}")

    with running(renamed):
        assert await say("a", "b") == ["chain is gone", "handler a", "handler b"]
        row = await BotSession.objects.aget(user="ann")
        assert row.last_flow is not None
        assert (row.flow, row.last_flow["outcome"]) == (None, "lost")
        assert row.last_flow["state"]["name"] == "chain"
        assert "no flow 'chain'" in caplog.text
        with stopped_clock() as time:
            await time.passes(3600)
        assert texts("ben")[-1] == "chain is gone"


async def test_flow_may_be_begun_from_outside() -> None:
    """P10: in the same mailbox."""
    from botsessions.bots import bots

    router = bot()
    with running(router):
        async with bots["demo"].sessions.get("ann", "ann") as session:
            await session.begin(router.flows["chain"].flow)
        assert await say("a") == ["heard a"]
        async with bots["demo"].sessions.get("ann", "ann") as session:
            assert session.flow is not None
            assert session.flow.name == "chain"
            assert await session.end()
        assert await say("a") == ["handler a"]
        assert "cancelled" in texts()


async def test_pressed_button_goes_to_a_flow_that_takes_it() -> None:
    router = Router()

    @router.waiter(types=["message", "callback_query"])
    async def either(update: Update, session: Session) -> None:
        await session.send(update.action or update.text)

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(either)

    with running(router):
        await say("/begin", "a")
        pressed = message("?", type="callback_query")
        import msgspec

        await handle(msgspec.structs.replace(pressed, action="yes"))
        assert texts() == ["a", "yes"]


async def test_def_waiters_work_too() -> None:
    router = Router()

    @router.waiter()
    def slow(update: Update, session: Session, control: SessionController) -> None:
        session.send(f"heard {update.text}")
        control.stop()

    @slow.ended
    def over(session: Session) -> None:
        session.send("over")

    @router.message()
    def begin(session: Session) -> None:
        session.begin(slow)

    with running(router):
        assert await say("a", "b") == ["heard b", "over"]


async def test_middleware_and_error_handlers_stand_around_flows() -> None:
    router, inner = Router(), Router()
    calls: list[str] = []

    @router.middleware
    async def around(call_next: Any, update: Update) -> None:
        calls.append(update.text)
        await call_next()

    @router.error(KeyError)
    async def recover(error: KeyError, session: Session) -> None:
        await session.send("recovered")

    @inner.waiter()
    async def fails(update: Update, session: Session) -> None:
        if update.text == "b":
            raise KeyError
        await session.send("fine")

    @inner.message()
    async def begin(session: Session) -> None:
        await session.begin(fails)

    router.include(inner)
    with running(router):
        assert await say("a", "b", "c") == ["recovered", "fine"]
        assert calls == ["a", "b", "c"]


# What is declared wrongly


def test_name_is_given_once() -> None:
    router = bot()
    with pytest.raises(ImproperlyConfigured, match="two flows named 'chain'"):

        @router.waiter()
        async def chain() -> None: ...


def test_decorator_is_called() -> None:
    def chain() -> None: ...

    decorator = Router().waiter(chain)  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match=r"@router.waiter\(\)"):
        decorator(chain)


def test_hook_is_given_once() -> None:
    waiter = bot().flows["chain"].flow
    with pytest.raises(ImproperlyConfigured, match="timed_out already"):
        waiter.timed_out(lambda: None)


async def test_flow_of_another_router_is_an_error() -> None:
    router, foreign = Router(), bot()

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(foreign.flows["chain"].flow)

    with running(router, ATTEMPTS=1):
        one = message("a")
        await handle(one)
        row = await BotUpdate.objects.aget(update_id=one.id)
        assert "include its router" in row.error


async def test_control_outside_a_flow_is_an_error() -> None:
    router = Router()

    @router.message()
    async def handler(control: SessionController) -> None: ...

    with running(router, ATTEMPTS=1):
        one = message("a")
        await handle(one)
        row = await BotUpdate.objects.aget(update_id=one.id)
        assert "Only a waiter" in row.error
