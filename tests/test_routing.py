"""Routers: which handler gets an update, with what around it, and what may be declared."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions import Bot, Router, Session, Update, UpdateType
from botsessions.models import BotUpdate
from tests.kit import data, handle, keyless, message, running, status, texts

pytestmark = pytest.mark.django_db


async def test_the_first_match_in_order_of_registration_wins() -> None:
    router, calls = Router(), []

    def short(update: Update) -> bool:
        return len(update.text) < 3

    @router.message(short)
    async def first(update: Update) -> None:
        calls.append(("short", update.text))

    @router.message(lambda update: "x" in update.text)
    async def second(update: Update) -> None:
        calls.append(("x", update.text))

    @router.message()
    async def last(update: Update) -> None:
        calls.append(("any", update.text))

    with running(router):
        for text in ("ab", "axxx", "abcd"):
            await handle(message(text))
    assert calls == [("short", "ab"), ("x", "axxx"), ("any", "abcd")]


async def test_a_filter_may_declare_a_session_and_be_asynchronous() -> None:
    router = Router()

    async def again(session: Session) -> bool:
        return "seen" in session.data

    @router.message(again)
    async def known(session: Session) -> None:
        session.data["seen"] += 1

    @router.message()
    async def new(session: Session) -> None:
        session.data["seen"] = 1

    with running(router):
        for _ in range(3):
            await handle(message())
        assert await data() == {"seen": 3}


@pytest.mark.parametrize(
    ("text", "matches"),
    [("/go", True), ("/go@shop_bot now", True), ("/gone", False), ("go", False), ("/", False)],
)
async def test_a_command_is_the_first_word(text: str, matches: bool) -> None:
    router, calls = Router(), []

    @router.command("go", "run")
    async def go(update: Update) -> None:
        calls.append(update.arguments)

    with running(router):
        await handle(message(text))
    assert bool(calls) is matches


async def test_types_and_button_presses() -> None:
    router, calls = Router(), []

    @router.action("yes")
    async def yes(update: Update) -> None:
        calls.append("yes")

    @router.action()
    async def other(update: Update) -> None:
        calls.append(str(update.action))

    @router.on(UpdateType.POLL, "poll_answer")
    async def polls(update: Update) -> None:
        calls.append(update.type)

    @router.on()
    async def rest(update: Update) -> None:
        calls.append("rest")

    with running(router):
        await handle(keyless("callback_query", action="yes"))
        await handle(keyless("callback_query", action="no"))
        await handle(keyless("poll_answer"))
        await handle(keyless("chat_boost"))
    assert calls == ["yes", "no", "poll_answer", "rest"]


async def test_an_update_that_nobody_wants_is_done() -> None:
    with running(Router()):
        update = message()
        assert await handle(update) == [None]
        assert await status(update) == "done"


async def test_middleware_goes_around_the_handlers_of_its_router_alone() -> None:
    outer, inner, calls = Router(), Router(), []

    @outer.middleware
    async def first(call_next: Any, update: Update) -> None:
        calls.append("outer")
        await call_next()
        calls.append("after")

    @inner.middleware
    async def second(call_next: Any, bot: Bot) -> None:
        calls.append(f"inner {bot.alias}")
        await call_next()

    @inner.command("inner")
    async def in_inner(update: Update) -> None:
        calls.append("handler")

    outer.include(inner)

    @outer.message()
    async def in_outer(update: Update) -> None:
        calls.append("own")

    with running(outer):
        await handle(message("/inner"))
        assert calls == ["outer", "inner demo", "handler", "after"]
        calls.clear()
        await handle(message("other"))
        assert calls == ["outer", "own", "after"]


async def test_a_handler_registered_after_an_include_is_found() -> None:
    outer, inner, calls = Router(), Router(), []
    outer.include(inner)
    with running(outer):
        await handle(message())

        @inner.message()
        async def late(update: Update) -> None:
            calls.append(update.text)

        await handle(message())
    assert calls == ["hello"]


async def test_an_error_handler_that_recovers_saves_the_session() -> None:
    """S26."""
    router = Router()

    @router.message()
    async def failing(session: Session) -> None:
        session.data["n"] = 1
        session.send("never")
        raise LookupError("on purpose")

    @router.error(LookupError)
    async def recover(error: LookupError, session: Session) -> None:
        session.data["error"] = str(error)
        session.send("sorry")

    with running(router):
        update = message()
        await handle(update)
        assert await status(update) == "done"
        assert await data() == {"n": 1, "error": "on purpose"}
        assert texts() == ["sorry"]


async def test_an_error_handler_that_fails_or_does_not_fit_saves_nothing() -> None:
    """S26."""
    router = Router()

    @router.message()
    async def failing(session: Session) -> None:
        session.data["n"] = 1
        raise LookupError("on purpose")

    @router.error(ValueError)
    async def other(error: ValueError) -> None: ...

    @router.error()
    async def fail(error: Exception) -> None:
        raise RuntimeError("worse")

    with running(router, ATTEMPTS=1):
        update = message()
        await handle(update)
        assert await status(update) == "parked"
        assert await data() is None
        error = (await BotUpdate.objects.aget()).error
        assert "worse" in error
        assert "on purpose" in error


def test_an_annotation_that_cannot_be_filled_names_handler_and_parameter() -> None:
    router = Router()
    with pytest.raises(ImproperlyConfigured, match=r"'when' of .*handler is annotated .*int"):

        @router.message()
        async def handler(update: Update, when: int) -> None: ...

    with pytest.raises(ImproperlyConfigured, match="'what'"):

        @router.message()
        async def unannotated(update: Update, what) -> None: ...  # type: ignore[no-untyped-def]


def test_annotations_that_are_known_to_type_checkers_only_are_refused() -> None:
    router = Router()

    async def handler(update: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ImproperlyConfigured, match="TYPE_CHECKING"):
        router.message()(handler)


def test_middleware_must_go_on() -> None:
    with pytest.raises(ImproperlyConfigured, match="call_next"):

        @Router().middleware
        async def stops(update: Update) -> None: ...


def test_a_router_cannot_include_itself() -> None:
    one, two = Router(), Router()
    one.include(two)
    with pytest.raises(ImproperlyConfigured, match="itself"):
        two.include(one)


def test_a_command_needs_a_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="name"):
        Router().command()
