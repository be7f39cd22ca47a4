"""Conversations: linear code that waits, kept by a journal across restarts."""

from __future__ import annotations

import asyncio
import time as wall
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import Bot, Qualifier, Router, Session, SessionController, Talk, Update
from botsessions.exceptions import FlowFailed
from botsessions.models import BotSession, BotUpdate
from tests.flows.kit import Time, fire, flow, last, say, stopped_clock
from tests.kit import data, handle, message, running, status, texts

pytestmark = pytest.mark.django_db(transaction=True)

Order = Annotated[Session, Qualifier("order")]


@dataclass
class Form:
    answers: list[str] = field(default_factory=list)


@pytest.fixture
def time() -> Iterator[Time]:
    with stopped_clock() as time:
        yield time


def talking(function: Any, **options: Any) -> Router:
    """Return a router with this conversation, which the command begin begins."""
    router = Router()
    talk = router.conversation(**options)(function)

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(talk)

    @router.command("cancel", during_flows=True)
    async def cancel(session: Session) -> None:
        await session.end()

    @router.message()
    async def handler(update: Update, session: Session) -> None:
        await session.send(f"handler {update.text}")

    return router


def hooked(router: Router, name: str) -> Router:
    """Let each end of a flow be told."""
    flow = router.flows[name].flow

    @flow.timed_out
    async def timed_out(session: Session) -> None:
        await session.send("timed out")

    @flow.cancelled
    async def cancelled(session: Session) -> None:
        await session.send("cancelled")

    @flow.ended
    async def ended(session: Session) -> None:
        await session.send("ended")

    return router


async def names(talk: Talk, session: Session[Form]) -> None:
    """Asks two questions and keeps the answers."""
    await talk.send("First name?")
    first = await talk.wait()
    session.data.answers.append(first.text)
    await talk.send("Last name?")
    last = await talk.wait()
    session.data.answers.append(last.text)
    await talk.send(f"Hello, {first.text} {last.text}.")


async def test_one_line_of_thought() -> None:
    """P19: what was done is done once, however often the function is run."""
    with running(hooked(talking(names), "names")):
        assert await say("/begin", "Ann", "Lee", "x") == [
            "First name?", "Last name?", "Hello, Ann Lee.", "ended", "handler x"
        ]  # fmt: skip
        assert await data() == {"answers": ["Ann", "Lee"]}
        assert (await flow(), await last()) == (None, ("names", "ended"))


async def test_each_update_is_a_process_of_its_own() -> None:
    """P19: nothing lives in a process; each `handle` may as well be another one's."""
    said = []
    for part in ("/begin", "Ann", "Lee"):
        with running(talking(names)):  # a new router, and a new platform
            said += await say(part)
    assert said == ["First name?", "Last name?", "Hello, Ann Lee."]
    assert await data() == {"answers": ["Ann", "Lee"]}


async def test_wait_times_out(time: Time) -> None:
    """P20."""

    async def patient(talk: Talk) -> None:
        for _ in range(2):
            try:
                answer = await talk.wait(timeout=10)
                await talk.send(f"heard {answer.text}")
                return
            except TimeoutError:
                await talk.send("Are you there?")
        await talk.wait(timeout=timedelta(seconds=5))

    with running(hooked(talking(patient), "patient")):
        await say("/begin")
        assert [await time.passes(9.9), await time.passes(0.1)] == [0, 1]
        assert [await time.passes(10), await time.passes(4.9)] == [1, 0]
        assert await time.passes(0.1) == 1
        assert texts() == ["Are you there?", "Are you there?", "timed out"]
        assert await last() == ("patient", "timed_out")
        await say("/begin", user="ben")
        await time.passes(10)
        assert await say("yes", user="ben") == ["heard yes", "ended"]


async def test_timeout_of_its_own_is_no_timeout_of_the_conversation() -> None:
    """An error of the same class that comes from elsewhere is an error."""

    async def calls(talk: Talk) -> None:
        raise TimeoutError("of some server")

    with running(talking(calls), ATTEMPTS=1):
        one = message("/begin")
        await handle(one)
        assert await status(one) == "parked"
        assert await say("x") == ["handler x"]


async def test_conversation_has_a_timeout_for_waits_that_name_none(time: Time) -> None:
    async def waits(talk: Talk) -> None:
        await talk.wait()

    with running(hooked(talking(waits, timeout=7), "waits")):
        await say("/begin")
        assert [await time.passes(6.9), await time.passes(0.1)] == [0, 1]


async def test_wait_without_time_has_timed_out() -> None:
    async def hurried(talk: Talk) -> None:
        try:
            await talk.wait(timeout=0)
        except TimeoutError:
            await talk.send("none")

    with running(talking(hurried)):
        assert await say("/begin", "x") == ["none", "handler x"]


async def test_wait_wants_something(time: Time) -> None:
    """P22: what it does not want is answered, or goes to the handlers; the deadline stays."""

    async def picky(talk: Talk, session: Session) -> None:
        session.data["began"] = True
        number = await talk.wait(
            10, where=lambda update: update.text.isdigit(), otherwise="A number, please."
        )

        async def is_word(update: Update) -> bool:
            return update.text.isalpha() and session.data["began"]

        word = await talk.wait(10, where=is_word)
        await talk.send(f"{number.text} {word.text}")

    with running(hooked(talking(picky), "picky")):
        assert await say("/begin", "x", "y", "42", "43", "z") == [
            "A number, please.", "A number, please.", "handler 43", "42 z", "ended"
        ]  # fmt: skip
        await say("/begin")
        await time.passes(6)
        assert await say("x") == ["A number, please."]
        assert [await time.passes(3.9), await time.passes(0.1)] == [0, 1]


async def test_what_it_does_not_want_leaves_the_session_to_the_handlers() -> None:
    async def picky(talk: Talk, session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        await talk.wait(where=lambda update: update.text == "sesame")
        session.data["n"] += 100

    router = Router()
    talk = router.conversation()(picky)

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(talk)

    @router.message()
    async def count(session: Session) -> None:
        session.data["handled"] = session.data.get("handled", 0) + 1

    with running(router):
        await say("/begin", "a", "b", "sesame", "c")
        assert await data() == {"n": 101, "handled": 3}


async def test_buttons_where_they_are_asked_for() -> None:
    async def asks(talk: Talk) -> None:
        pressed = await talk.wait(types=["callback_query"])
        await talk.send(f"pressed {pressed.action}")

    import msgspec

    with running(talking(asks)):
        assert await say("/begin", "x") == ["handler x"]
        await handle(msgspec.structs.replace(message("?", type="callback_query"), action="yes"))
        assert texts()[-1] == "pressed yes"


async def test_actions_that_are_not_awaited_happen_in_order() -> None:
    async def lazy(talk: Talk, session: Session, bot: Bot) -> None:
        session.send("a")
        bot.send(session.chat, "b")
        await talk.wait()
        session.send("c")

    with running(talking(lazy)):
        assert await say("/begin", "x", "y") == ["a", "b", "c", "handler y"]


async def test_every_verb_is_done_once() -> None:
    """Whoever offers it: what a conversation does is journaled."""

    async def verbs(talk: Talk, session: Session, bot: Bot) -> None:
        await session.send("one")
        kept = await session.messages()
        assert [each.text for each in kept] == ["/begin", "one"][-len(kept) :]
        await talk.wait()
        assert await session.clear() >= 1
        await session.close()
        await talk.wait()
        await bot.send(session.chat, "two")
        await talk.wait()

    with running(talking(verbs)):
        await say("/begin", "a", "b")
        assert texts() == ["two"]
        await say("c")
        assert not (await BotSession.objects.aget()).is_open


async def test_side_effects_are_run_once() -> None:
    calls: list[Any] = []

    async def price(item: str, *, count: int) -> dict[str, Any]:
        calls.append((item, count))
        return {"total": count * 2, "call": len(calls)}

    def plain() -> int:
        calls.append("plain")
        return 7

    async def shop(talk: Talk) -> None:
        found = await talk.run(price, "tea", count=3)
        number = await talk.run(plain)
        await talk.wait()
        await talk.wait()
        await talk.send(f"{found} {number}")

    with running(talking(shop)):
        assert await say("/begin", "a", "b") == ["{'total': 6, 'call': 1} 7"]
        assert calls == [("tea", 3), "plain"]


async def test_time_and_chance_are_the_same_when_it_is_run_again(time: Time) -> None:
    seen: list[Any] = []

    async def dice(talk: Talk) -> None:
        rolled = [talk.now(), talk.random.random(), talk.random.randint(1, 6)]
        await talk.wait()
        later = talk.now()
        seen.append(([*rolled, talk.random.random()], later))
        await talk.wait()

    with running(talking(dice)):
        await say("/begin")
        await time.passes(5)
        await say("a")
        await time.passes(5)
        await say("b")
        assert seen[0] == seen[1]
        assert (seen[0][1] - seen[0][0][0]).total_seconds() == 5


async def test_data_is_changed_once() -> None:
    """Not once for each time that the function is run."""

    async def counts(talk: Talk, session: Session, order: Order) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        for _ in range(3):
            answer = await talk.wait()
            session.data["n"] += 10
            order.data.setdefault("items", []).append(answer.text)
        session.update(done=True)

    with running(talking(counts)):
        await say("/begin", "a", "b")
        assert await data() == {"n": 21}
        await say("c")
        assert await data() == {"n": 31, "done": True}
        assert await data(qualifier="order") == {"items": ["a", "b", "c"]}


async def test_data_that_others_changed_meanwhile_is_not_lost() -> None:
    async def counts(talk: Talk, session: Session) -> None:
        session.data["n"] = session.data.get("n", 0) + 1
        await talk.wait()
        session.data["n"] += 10

    router = Router()

    @router.command("more", during_flows=True)
    async def more(session: Session) -> None:
        session.data["n"] += 1000

    router.include(talking(counts))
    with running(router):
        await say("/begin", "/more", "x")
        assert await data() == {"n": 1011}


async def test_reset_and_delete_are_done_once() -> None:
    async def forgets(talk: Talk, session: Session[Form]) -> None:
        session.data.answers.append("a")
        await talk.wait()
        session.reset()
        await talk.wait()
        session.data.answers.append("b")
        await talk.wait()
        session.delete()
        await talk.wait()

    with running(talking(forgets)):
        seen = []
        for part in ("/begin", "1", "2", "3"):
            await say(part)
            seen.append(await data())
        assert seen == [{"answers": ["a"]}, {"answers": []}, {"answers": ["b"]}, None]


# Going back and forth


async def steps(talk: Talk, session: Session) -> None:
    for question in ("one", "two", "three"):
        await talk.send(f"{question}?")
        answer = await talk.wait()
        if answer.text == "back":
            await talk.back()
        elif answer.text == "far back":
            await talk.back(2)
        elif answer.text == "restart":
            await talk.restart()
        session.data[question] = answer.text
    await talk.send("done")


async def test_back_from_any_step() -> None:
    """P24."""
    with running(talking(steps)):
        assert await say("/begin", "1", "back", "I", "2", "back", "II", "3") == [
            "one?", "two?", "one?", "two?", "three?", "two?", "three?", "done"
        ]  # fmt: skip
        assert await data() == {"one": "I", "two": "II", "three": "3"}


async def test_far_back_and_back_to_the_beginning() -> None:
    """P24: data that a step had written is what it was before the step."""
    with running(talking(steps)):
        assert await say("/begin", "1", "2", "far back") == ["one?", "two?", "three?", "one?"]
        assert await data() == {}
        assert await say("1", "2", "restart") == ["two?", "three?", "one?"]
        assert await say("back", "a", "b", "c") == ["one?", "two?", "three?", "done"]
        assert await data() == {"one": "a", "two": "b", "three": "c"}


async def test_cancel_from_any_step() -> None:
    """P24."""
    with running(hooked(talking(steps), "steps")):
        for parts in ([], ["1"], ["1", "2"]):
            assert (await say("/begin", *parts, "/cancel"))[-1] == "cancelled"
            assert (await flow(), await last()) == (None, ("steps", "cancelled"))
            assert await say("x") == ["handler x"]


async def test_checkpoint_begins_again_with_its_state() -> None:
    async def sums(talk: Talk, session: Session) -> None:
        total = talk.state or 0
        if talk.state is None:
            await talk.send("Numbers, please.")
        while True:
            answer = await talk.wait()
            if answer.text == "done":
                break
            total += int(answer.text)
            session.data["total"] = total
            await talk.checkpoint(total)
        await talk.send(f"{total}")

    with running(talking(sums)):
        assert await say("/begin", "1", "2", "3") == ["Numbers, please."]
        assert "journal" not in await flow()
        assert await say("done") == ["6"]
        assert await data() == {"total": 6}


async def test_thousand_turns_cost_no_more_at_their_end() -> None:
    async def endless(talk: Talk, session: Session) -> None:
        turn = talk.state or 0
        await talk.wait()
        session.data["turns"] = turn + 1
        await talk.checkpoint(turn + 1)

    with running(talking(endless)):
        await say("/begin", *["x"] * 20)
        spent = []
        for number in range(1000):
            begun = wall.perf_counter()
            await handle(message(f"{number}"))
            spent.append(wall.perf_counter() - begun)
        assert await data() == {"turns": 1020}
        assert sorted(spent[-50:])[25] <= 3 * sorted(spent[:50])[25]


async def test_journal_that_grows_too_large_is_a_clear_error() -> None:
    async def endless(talk: Talk) -> None:
        while True:
            await talk.wait()

    with running(talking(endless), MAX_DATA_BYTES=4000):
        await say("/begin", "a")
        for _ in range(30):
            await handle(message("x" * 100))
        row = await BotUpdate.objects.aget(status="parked")
        assert "talk.checkpoint()" in row.error
        assert "MAX_DATA_BYTES is 4,000" in row.error
        assert await last() == ("endless", "failed")
        assert await say("y") == ["handler y"]


# Waiters within


def quizzing(timeout: float | None = 10) -> Router:
    router = Router()

    @router.waiter(timeout)
    async def quiz(update: Update, session: Session, control: SessionController) -> None:
        if update.text == "raise":
            raise ValueError("broken")
        if update.text == "fail":
            control.stop(ValueError("stopped"))
        elif update.text == "more":
            control.keep(100, reset_timeout=True)
        elif update.text == "right":
            session.data["points"] = session.data.get("points", 0) + 1
            control.stop()
        else:
            await session.send("wrong")

    @quiz.timed_out
    async def never(session: Session) -> None:
        await session.send("its own hook")

    @router.conversation()
    async def evening(talk: Talk, session: Session) -> None:
        await talk.send("begin")
        try:
            await talk.begin(quiz)
        except TimeoutError:
            await talk.send("late")
        except FlowFailed as error:
            await talk.send(f"{error}")
        else:
            await talk.send(f"{session.data['points']} points")
        await talk.wait()
        await talk.send("bye")

    @router.command("begin")
    async def begin(session: Session) -> None:
        await session.begin(evening)

    return router


async def test_waiter_within_a_conversation() -> None:
    with running(quizzing()):
        assert await say("/begin", "x", "y", "right", "z") == [
            "begin", "wrong", "wrong", "1 points", "bye"
        ]  # fmt: skip
        assert await last() == ("evening", "ended")


async def test_its_timeout_is_told_to_the_conversation(time: Time) -> None:
    """S55: to the opener, and to nobody else."""
    with running(quizzing()):
        await say("/begin", "more")
        assert [await time.passes(99), await time.passes(1)] == [0, 1]
        assert texts() == ["begin", "late"]
        assert await say("x") == ["bye"]


@pytest.mark.parametrize(("said", "why"), [("raise", "broken"), ("fail", "stopped")])
async def test_its_error_is_told_to_the_conversation(said: str, why: str) -> None:
    """S52, S56."""
    with running(quizzing()):
        assert await say("/begin", said, "x") == ["begin", f"quiz has failed: {why}", "bye"]


@pytest.mark.parametrize("timeout", [0, -5])
async def test_waiter_without_time_within_a_conversation(timeout: float) -> None:
    """S57."""
    router = Router()
    quiz = router.waiter(timeout)(steps)

    async def evening(talk: Talk) -> None:
        await talk.begin(quiz)
        await talk.send("at once")

    router.include(talking(evening))
    with running(router):
        assert await say("/begin") == ["at once"]


async def test_conversation_is_begun_without_a_timeout() -> None:
    async def waits(talk: Talk) -> None:
        await talk.wait()

    router = Router()
    talk = router.conversation()(waits)

    @router.message()
    async def begin(session: Session) -> None:
        await session.begin(talk, timeout=5)

    with running(router, ATTEMPTS=1):
        one = message("a")
        await handle(one)
        assert "timeouts of their own" in (await BotUpdate.objects.aget(update_id=one.id)).error


# Changed code


async def old(talk: Talk, session: Session) -> None:
    await talk.send("old question")
    await talk.wait()
    session.data["old"] = True
    await talk.send("old thanks")
    await talk.wait()


def changed(kind: str) -> Any:
    async def old(talk: Talk, session: Session) -> None:
        if kind != "no question":
            await talk.send("new question")
        if kind == "a call more":
            await talk.run(print, "")
        if kind == "shorter":
            return
        await talk.wait()
        session.data["new"] = True
        await talk.send("new thanks")

    return old


@pytest.mark.parametrize("kind", ["no question", "a call more", "shorter"])
async def test_changed_code_is_noticed_and_begins_anew(kind: str, caplog: Any) -> None:
    """P25: never silently."""
    with running(talking(old)):
        await say("/begin", "a")
    with running(talking(changed(kind))):
        await say("b")
        assert "of conversation 'old' was" in caplog.text
        row = await BotSession.objects.aget()
        assert row.last_flow is not None
        assert row.last_flow["outcome"] in ("diverged", "ended")
        assert row.data == {"old": True}
        if kind == "no question":
            await say("c")
            assert texts() == ["new thanks"]


async def test_changed_code_may_fail_to_the_operator() -> None:
    with running(talking(old)):
        await say("/begin", "x")
    with running(talking(changed("a call more"), on_change="fail"), ATTEMPTS=3):
        one = message("a")
        await handle(one)
        assert await status(one) == "parked"
        row = await BotUpdate.objects.aget(update_id=one.id)
        assert "Diverged" in row.error
        assert (await flow(), await last()) == (None, ("old", "diverged"))
        assert await say("x") == ["handler x"]


async def test_another_version_is_another_code() -> None:
    with running(talking(names)):
        await say("/begin", "Ann")
    with running(talking(names, version=2)):
        assert await say("Lee") == ["First name?"]
        assert await say("Ben", "Day") == ["Last name?", "Hello, Ben Day."]


async def test_changed_words_change_nothing() -> None:
    async def old(talk: Talk) -> None:
        await talk.send("another question")
        await talk.wait()
        await talk.send("thanks")

    with running(talking(old)):
        await say("/begin")
    with running(talking(old)):
        assert await say("a") == ["thanks"]


# Failures and races


async def test_crash_of_the_function_is_tried_again_where_it_was() -> None:
    tries: list[str] = []

    async def shaky(talk: Talk, session: Session) -> None:
        await talk.send("one")
        answer = await talk.wait()
        session.data["said"] = answer.text
        await talk.send("two")
        tries.append(answer.text)
        if len(tries) == 1:
            raise RuntimeError("the first time")
        await talk.send("three")

    with running(talking(shaky)):
        await say("/begin", "a")
        assert texts() == ["one", "two", "three"]  # P8: what went out does not go out again
        assert await data() == {"said": "a"}


async def test_code_that_catches_everything_pauses_all_the_same() -> None:
    async def greedy(talk: Talk) -> None:
        try:
            await talk.wait()
        except BaseException:
            await talk.send("this is never sent")
        await talk.send("thanks")

    with running(talking(greedy)):
        assert await say("/begin", "a") == ["thanks"]


async def test_answers_at_once_come_one_after_another() -> None:
    async def five(talk: Talk, session: Session) -> None:
        for _ in range(5):
            answer = await talk.wait()
            session.data.setdefault("said", []).append(answer.text)

    with running(talking(five)):
        await say("/begin")
        await handle(*[message(f"{n}") for n in range(5)])
        assert await data() == {"said": ["0", "1", "2", "3", "4"]}
        assert await flow() is None


async def test_answer_racing_its_timeout_has_one_winner(time: Time) -> None:
    """P21, with the two in one process; tests/processes has them in several."""

    async def one(talk: Talk, session: Session) -> None:
        try:
            answer = await talk.wait(1)
            session.data["won"] = [*session.data.get("won", []), answer.text]
        except TimeoutError:
            session.data["won"] = [*session.data.get("won", []), "timeout"]

    with running(talking(one)):
        for number in range(50):
            await say("/begin")
            time.now += timedelta(seconds=1)
            await asyncio.gather(fire(), handle(message(f"a{number}")))
        found = await data()
        assert len(found["won"]) == 50
        assert await flow() is None


def test_conversation_is_asynchronous() -> None:
    with pytest.raises(ImproperlyConfigured, match="must be an async function"):

        @Router().conversation()
        def plain(talk: Talk) -> None: ...


def test_policy_is_one_of_two() -> None:
    with pytest.raises(ImproperlyConfigured, match="'restart' or 'fail'"):
        Router().conversation(on_change="ignore")(names)
