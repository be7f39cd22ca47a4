"""Conversations that are run again: what is around them, code that changed, data, and rewinding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import Bot, Router, Session, SessionController, Talk, Update
from botsessions.models import BotSession, BotUpdate
from tests.flows.kit import Time, flow, last, say, stopped_clock
from tests.flows.test_conversations import hooked, talking
from tests.kit import data, handle, message, running, status, texts

pytestmark = pytest.mark.django_db(transaction=True)

CallNext = Callable[[], Awaitable[Any]]


@pytest.fixture
def time() -> Iterator[Time]:
    with stopped_clock() as time:
        yield time


async def two(talk: Talk) -> None:
    """Asks twice."""
    await talk.send("one?")
    await talk.wait()
    await talk.send("two?")
    await talk.wait()
    await talk.send("done")


ALL = ["one?", "two?", "done"]


def quizzing() -> Router:
    """Return a router with the waiter quiz, which takes one answer."""
    router = Router()

    @router.waiter(10)
    async def quiz(control: SessionController) -> None:
        control.stop()

    return router


def with_quiz(conversation: Callable[[Any], Any]) -> Router:
    """Return a router with the conversation that is made of the quiz, and the quiz."""
    router = quizzing()
    router.include(talking(conversation(router.flows["quiz"].flow), name="conv"))
    return router


async def is_noticed(name: str = "conv") -> bool:
    """Is it stored that the conversation's code has changed?"""
    return await last() == (name, "diverged")


# Middleware and error handlers


async def test_what_a_middleware_sends_is_no_step() -> None:
    """P19: it is sent for each update, and the conversation goes on."""
    router = talking(two)

    @router.middleware
    async def logs(call_next: CallNext, bot: Bot) -> None:
        await bot.send("log", "before")
        await call_next()
        await bot.send("log", "after")

    with running(router):
        assert await say("/begin", "a", "b") == ALL
        # The command, the conversation's beginning, and two answers.
        assert len(texts("log")) == 8


@pytest.mark.parametrize("is_before", [True, False])
async def test_what_a_middleware_reads_and_writes_is_no_step(is_before: bool) -> None:
    """P19: it counts the command, the conversation's beginning, and two answers."""
    router = talking(two)

    @router.middleware
    async def counts(call_next: CallNext, session: Session) -> None:
        if not is_before:
            await call_next()
        session.data["n"] = session.data.get("n", 0) + 1
        if is_before:
            await call_next()

    with running(router):
        assert await say("/begin", "a", "b") == ALL
        assert await data() == {"n": 4}


async def test_what_a_middleware_keeps_from_it_was_not_said() -> None:
    router = talking(two)

    @router.middleware
    async def no_spam(call_next: CallNext, update: Update) -> None:
        if update.text != "spam":
            await call_next()

    with running(router):
        assert await say("/begin", "spam", "a", "spam", "b") == ALL


async def test_error_that_a_handler_takes_is_a_failure_all_the_same() -> None:
    """S56."""

    async def breaks(talk: Talk) -> None:
        await talk.wait()
        raise ValueError

    router = hooked(talking(breaks), "breaks")

    @router.error(ValueError)
    async def recover(error: ValueError, session: Session) -> None:
        await session.send("sorry")

    with running(router):
        assert await say("/begin", "a", "b") == ["sorry", "handler b"]
        assert (await flow(), await last()) == (None, ("breaks", "failed"))


async def test_what_an_error_handler_does_is_no_step() -> None:
    """Though the function raised where it had gone on before."""
    is_broken: list[bool] = []

    async def breaks(talk: Talk) -> None:
        await talk.wait()
        if is_broken:
            raise ValueError
        await talk.send("two")
        await talk.wait()
        await talk.send("three")

    router = talking(breaks)

    @router.error(ValueError)
    async def recover(error: ValueError, session: Session) -> None:
        session.data["error"] = True
        await session.send("sorry")

    with running(router):
        assert await say("/begin", "a") == ["two"]
        is_broken.append(True)
        assert await say("b", "c") == ["sorry", "handler c"]
        assert (await data(), await flow()) == ({"error": True}, None)
        assert not await BotUpdate.objects.filter(status="parked").aexists()


# Data


async def test_error_on_the_way_leaves_the_data_as_it_is_stored() -> None:
    """And not as it had been where the function raised."""
    is_broken: list[bool] = []

    async def breaks(talk: Talk, session: Session) -> None:
        session.data["n"] = 1
        await talk.wait()
        if is_broken:
            raise ValueError
        session.data["n"] = 2
        await talk.wait()

    router = talking(breaks)

    @router.flows["breaks"].flow.failed
    async def failed(session: Session, error: Exception) -> None:
        await session.send(f"failed at {session.data['n']}")

    with running(router):
        await say("/begin", "a")
        is_broken.append(True)
        assert await say("b") == ["failed at 2"]
        assert await data() == {"n": 2}


async def test_data_may_be_held_across_a_wait() -> None:
    async def holds(talk: Talk, session: Session) -> None:
        held = session.data
        held["n"] = 1
        await talk.wait()
        held["n"] += 10
        await talk.wait()
        held["n"] += 100

    with running(talking(holds)):
        await say("/begin", "a")
        assert await data() == {"n": 11}
        await say("b")
        assert await data() == {"n": 111}


# Going back and forth


async def test_back_takes_back_what_the_step_had_written() -> None:
    """P24."""

    async def lists(talk: Talk, session: Session) -> None:
        session.data["items"] = []
        for question in ("a?", "b?", "c?"):
            await talk.send(question)
            answer = await talk.wait()
            if answer.text == "back":
                await talk.back()
            session.data["items"].append(answer.text)

    with running(talking(lists)):
        assert await say("/begin", "1", "2", "back") == ["a?", "b?", "c?", "b?"]
        assert await data() == {"items": ["1"]}
        await say("II", "3")
        assert await data() == {"items": ["1", "II", "3"]}


async def test_wait_behind_a_checkpoint_has_all_its_time(time: Time) -> None:
    """P20: and not what was left of the wait before."""

    async def endless(talk: Talk) -> None:
        try:
            await talk.wait(timeout=10)
        except TimeoutError:
            await talk.send("late")
            return
        await talk.checkpoint()

    with running(talking(endless)):
        await say("/begin")
        assert await time.passes(6) == 0
        await say("a")
        assert [await time.passes(9.9), await time.passes(0.1)] == [0, 1]
        assert texts() == ["late"]


@pytest.mark.parametrize("verb", ["checkpoint", "restart"])
async def test_timeout_may_begin_it_again(time: Time, verb: str) -> None:
    """P20, P24: as often as it comes, and as the same conversation."""

    async def patient(talk: Talk) -> None:
        try:
            await talk.wait(timeout=10)
        except TimeoutError:
            await talk.send("late")
            await (talk.checkpoint() if verb == "checkpoint" else talk.restart())
        await talk.send("thanks")

    with running(talking(patient)):
        await say("/begin")
        assert [await time.passes(10) for _ in range(5)] == [1] * 5
        assert texts() == ["late"] * 5
        assert (await BotSession.objects.aget()).last_flow is None
        assert await say("a") == ["thanks"]
        assert await time.passes(100) == 0


# Changed code


async def test_waiter_that_became_a_wait_is_noticed(time: Time) -> None:
    """P25: with the waiter's deadline, which is told once."""

    def before(quiz: Any) -> Any:
        async def conv(talk: Talk) -> None:
            await talk.begin(quiz)
            await talk.send("old")

        return conv

    def after(_: Any) -> Any:
        async def conv(talk: Talk) -> None:
            await talk.wait(10)
            await talk.send("new")

        return conv

    with running(with_quiz(before)):
        await say("/begin")
    with running(with_quiz(after)):
        assert [await time.passes(each) for each in (10, 1, 1)] == [1, 0, 0]
        assert await is_noticed()
        assert await say("a", "b") == ["new", "handler b"]


async def test_wait_that_became_a_waiter_is_noticed() -> None:
    """P25."""

    def before(_: Any) -> Any:
        async def conv(talk: Talk) -> None:
            await talk.wait()

        return conv

    def after(quiz: Any) -> Any:
        async def conv(talk: Talk) -> None:
            await talk.begin(quiz)
            await talk.send("new")

        return conv

    with running(with_quiz(before)):
        await say("/begin")
    with running(with_quiz(after)):
        assert await say("a") == []
        assert await is_noticed()
        assert await say("b") == ["new"]


async def test_step_before_the_wait_that_waits_is_noticed_and_taken_once() -> None:
    """P25: not once for each message that the wait does not want."""
    charged: list[int] = []

    def charge() -> None:
        charged.append(1)

    def is_yes(update: Update) -> bool:
        return update.text == "yes"

    async def before(talk: Talk) -> None:
        await talk.send("Yes?")
        await talk.wait(where=is_yes)

    async def after(talk: Talk) -> None:
        await talk.send("Yes?")
        await talk.run(charge)
        await talk.wait(where=is_yes)
        await talk.send("thanks")

    with running(talking(before, name="conv")):
        await say("/begin")
    with running(talking(after, name="conv")):
        assert await say("x", "y", "z", "yes") == ["Yes?", "handler y", "handler z", "thanks"]
        assert (charged, await flow()) == ([1], None)


async def test_checkpoint_before_the_wait_that_waits_is_noticed() -> None:
    """P25: the answer is not lost without a word."""

    async def before(talk: Talk) -> None:
        await talk.wait()
        await talk.wait()
        await talk.send("bye")

    async def after(talk: Talk) -> None:
        if talk.state is None:
            await talk.wait()
            await talk.checkpoint(1)
        await talk.wait()
        await talk.send("bye")

    with running(talking(before, name="conv")):
        await say("/begin", "1")
    with running(talking(after, name="conv")):
        assert await say("2") == []
        assert await is_noticed()
        assert await say("3", "4") == ["bye"]


async def test_code_that_catches_everything_is_noticed_too() -> None:
    """P25."""

    async def before(talk: Talk) -> None:
        for _ in range(3):
            await talk.wait()

    async def after(talk: Talk) -> None:
        with suppress(Exception):
            await talk.send("new")
        for _ in range(3):
            await talk.wait()

    with running(talking(before, name="conv")):
        await say("/begin", "1")
    with running(talking(after, name="conv")):
        assert await say("2") == ["new"]
        assert await is_noticed()


async def test_timeout_that_is_not_caught_any_more_is_noticed(time: Time) -> None:
    """P25: it is no timeout of the conversation, which had gone on; it asks anew."""

    async def before(talk: Talk) -> None:
        await talk.send("old?")
        try:
            await talk.wait(10)
        except TimeoutError:
            await talk.send("late")
        await talk.wait()

    async def after(talk: Talk) -> None:
        await talk.send("new?")
        await talk.wait(10)
        await talk.send("thanks")
        await talk.wait()

    with running(talking(before, name="conv")):
        await say("/begin")
        await time.passes(10)
        assert texts() == ["old?", "late"]
    with running(hooked(talking(after, name="conv"), "conv")):
        assert await say("a") == ["new?"]
        assert await is_noticed()
        assert await say("b") == ["thanks"]


# What it does while it is run again


async def test_what_a_finally_sends_is_not_sent_at_a_pause() -> None:
    """An action that nobody awaits, where the function is left for a while."""

    async def tidy(talk: Talk, session: Session) -> None:
        try:
            await talk.wait()
        finally:
            session.send("tidy")
        await talk.send("thanks")

    with running(talking(tidy)):
        assert await asyncio.wait_for(say("/begin"), 10) == []
        assert await asyncio.wait_for(say("a", "b"), 10) == ["tidy", "thanks", "handler b"]


async def test_bound_method_of_a_manager_is_run_once() -> None:
    async def counts(talk: Talk) -> None:
        number = await talk.run(BotSession.objects.acount)
        await talk.wait()
        await talk.wait()
        await talk.send(f"{number}")

    with running(talking(counts)):
        await say("/begin", user="ben")
        before = await BotSession.objects.acount()
        await say("/begin", "a")
        assert await BotSession.objects.acount() > before
        assert await say("b") == [f"{before}"]


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("is_late", [True, False])
async def test_it_may_end_itself(goes_on: bool, is_late: bool) -> None:
    """P24: it is cancelled, once, and does not wait any more."""

    async def leaves(talk: Talk, session: Session) -> None:
        if is_late:
            await talk.wait()
        assert await session.end()
        await talk.send("left")
        if goes_on:
            await talk.wait()
            await talk.send("never")

    with running(hooked(talking(leaves), "leaves")):
        said = ["/begin", "a"] if is_late else ["/begin"]
        assert await say(*said) == ["left", "cancelled"]
        assert (await flow(), await last()) == (None, ("leaves", "cancelled"))
        assert await say("b") == ["handler b"]


# What is declared wrongly


def test_conversation_has_no_hook_for_what_it_does_not_want() -> None:
    conversation = talking(two).flows["two"].flow
    with pytest.raises(ImproperlyConfigured, match=r"two is a conversation: use talk.wait\(where"):
        conversation.mismatched(lambda: None)


async def test_conversation_begins_no_conversation() -> None:
    """An error at once, and nobody waits in it."""
    router = Router()
    inner: Any = router.conversation()(two)

    async def outer(talk: Talk) -> None:
        await talk.begin(inner)

    router.include(talking(outer))
    with running(router, ATTEMPTS=1):
        begin = message("/begin")
        await handle(begin)
        assert await status(begin) == "parked"
        row = await BotUpdate.objects.aget(update_id=begin.id)
        assert "<Conversation two> is no waiter" in row.error
        assert await flow() is None
        assert await say("a") == ["handler a"]
