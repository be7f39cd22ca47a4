"""Who sends within a transaction: nobody waits for it, and its end takes back no room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction

from botsessions import Router, Session, Update
from botsessions.bots import bots
from botsessions.engine import current_engine
from botsessions.exceptions import Unavailable
from botsessions.models import RateWindow
from botsessions.pacing import asking, database
from botsessions.pacing.asking import Asker
from botsessions.pacing.shared import is_joined, shared
from botsessions.pacing.window import Request
from botsessions.platforms import Rate
from tests.kit import message, running
from tests.pacing.kit import Noting, most_in, platform

commits = pytest.mark.usefixtures("transactional_db")
locks_rows = pytest.mark.skipif(
    "connection.vendor == 'sqlite'", reason="SQLite has one lock: whoever writes has it"
)

router = Router()


@router.message()
async def say(update: Update, session: Session) -> None:
    await session.send(update.text)


def send(chat: str, text: str) -> None:
    """Send as a view does that is no coroutine."""
    async_to_sync(bots["demo"].send(chat, text)._alone)()


@contextmanager
def thread(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Run something beside the block, with connections of its own."""

    def worked() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(worked)


@commits
@locks_rows
def test_a_transaction_that_is_rolled_back_takes_no_room_back() -> None:
    """P28: what was sent was sent."""
    with running(router, platform=Noting, rates={"chat": (1, 0.5)}):
        for text in "abc":
            try:
                with transaction.atomic():
                    send("ann", text)
                    raise LookupError
            except LookupError:
                pass
        assert platform().texts() == list("abc")
        assert most_in(platform().times(), 0.5) == 1


@commits
@locks_rows
def test_a_long_transaction_that_has_sent_something_holds_up_nobody() -> None:
    """P28: as a view does that then renders a report."""
    sent, free = threading.Event(), threading.Event()

    def view() -> None:
        with transaction.atomic():
            send("x", "from a view")
            send("x", "and more")
            sent.set()
            free.wait(20)

    async def work() -> float:
        engine = current_engine()
        await engine.start()
        began = time.monotonic()
        try:
            await asyncio.gather(
                engine.submit(message("a", user="ann")),
                engine.submit(message("b", user="ben", bot="other")),
            )
            return time.monotonic() - began
        finally:
            free.set()
            await engine.stop(1)

    with running(router, platform=Noting, rates={"bot": (30, 1.0)}), thread(view) as viewed:
        assert sent.wait(10)
        assert asyncio.run(work()) < 5
        viewed.result(10)
        assert platform().texts("ann") == ["a"]


@commits
@locks_rows
def test_two_transactions_that_send_to_the_same_chats_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2)

    def view(*chats: str) -> None:
        with transaction.atomic():
            send(chats[0], "1")
            both.wait(10)
            send(chats[1], "2")

    with (
        running(router, platform=Noting, rates={"chat": (5, 1.0)}),
        thread(lambda: view("x", "y")) as one,
        thread(lambda: view("y", "x")) as other,
    ):
        one.result(20)
        other.result(20)
        assert sorted(platform().texts("x")) == ["1", "2"]


@commits
@locks_rows
def test_a_row_that_somebody_has_locked_is_waited_for_but_shortly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P28: sends then wait, and nothing else does."""
    monkeypatch.setattr(database, "LOCKED_FOR", 100)
    asked = Request((("demo:chat:1", Rate(1, 5.0)),), 1)

    def ask() -> Any:
        return async_to_sync(shared.acquire)([asked], 0.1)

    ask()
    with transaction.atomic():
        RateWindow.objects.select_for_update().get(key="demo:chat:1")
        with thread(ask) as asking, pytest.raises(Unavailable, match="too busy"):
            asking.result(10)
    [verdict] = ask()
    assert verdict.key == "demo:chat:1"


@pytest.mark.django_db
def test_in_a_test_that_is_a_transaction_it_is_joined() -> None:
    """Nothing that the test wrote could be seen from elsewhere; nor is anything left behind."""
    assert is_joined()
    with running(router, platform=Noting, rates={"chat": (1, 5)}):
        send("ann", "a")
    assert RateWindow.objects.get().key == "demo:chat:ann"
    shared.close()


@commits
def test_in_a_transaction_of_the_project_it_is_not() -> None:
    """But for SQLite, where nobody could write beside it."""
    assert not is_joined()
    with transaction.atomic():
        assert is_joined() == (connection.vendor == "sqlite")
    with running(router, platform=Noting, rates={"chat": (1, 5)}), transaction.atomic():
        send("ann", "a")


# The thread


async def ask(asker: Asker, question: Callable[[], Any]) -> Any:
    return await asker.ask(question)


async def test_a_question_that_hangs_is_given_up_and_the_next_are_refused() -> None:
    asker, free = Asker("The wall", 1.0), threading.Event()
    with pytest.raises(Unavailable, match="The wall did not answer"):
        await asker.ask(lambda: free.wait(10))
    assert not asker.is_free
    with pytest.raises(Unavailable, match="still owes"):
        await asker.ask(lambda: 1)
    free.set()
    while not asker.is_free:
        await asyncio.sleep(0.01)
    assert await asker.ask(lambda: 2) == 2


async def test_errors_come_through_and_the_thread_goes_on() -> None:
    asker = Asker("It", 5)
    with pytest.raises(ZeroDivisionError):
        await asker.ask(lambda: 1 // 0)
    assert await asker.ask(threading.get_ident) == await asker.ask(threading.get_ident)


async def test_a_thread_that_is_asked_nothing_closes_what_it_has_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "IDLE", 0.05)
    closed: list[int] = []
    asker = Asker("It", 5, lambda: closed.append(threading.get_ident()))
    first = await asker.ask(threading.current_thread)
    while first.is_alive():
        await asyncio.sleep(0.01)
    assert closed == [first.ident]
    assert await asker.ask(lambda: 1) == 1
    asker.end()
    assert len(closed) == 2
    asker.end()
