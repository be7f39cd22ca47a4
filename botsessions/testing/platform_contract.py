"""What every platform is tested with: the suite behind `botsessions.testing.PlatformContract`."""

# ruff: noqa: S101 - asserting is what tests do

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, ClassVar

import msgspec

from botsessions.exceptions import MalformedBody, PlatformError, Unauthorized
from botsessions.platforms.base import Deletion, Platform, Rate
from botsessions.updates import Message, Update

#: Bodies that no platform sends: each is refused as malformed, or holds no update worth trouble.
RUBBISH: tuple[bytes, ...] = (
    b"",
    b" ",
    b"\0",
    b"null",
    b"true",
    b"17",
    b'"text"',
    b"[]",
    b"[[]]",
    b"[1, 2]",
    b"{}",
    b"{",
    b'{"update_id": 1',
    b'{"update_id": 1} {}',
    b'{"update_id": NaN}',
    b'{"update_id": 1, "message": Infinity}',
    b'{"update_id": 1e999}',
    b'{"update_id": true}',
    b'{"update_id": ' + b"9" * 5000 + b"}",
    b'{"update_id": 1, "message": "\\ud800"}',
    b'{"update_id": 1, "message": "\xed\xa0\x80"}',
    b'{"update_id": 1, "message": "\xff"}',
    b'{"update_id": 1, "mess\\u0000age": "\\u0000"}',
    b'{"update_id": 1, "message": []}',
    b'{"update_id": 1, "message": {"message_id": {}, "chat": 3, "from": [], "date": "x"}}',
    b'{"update_id": 1, "message": {"message_id": 1, "chat": {"id": "' + b"7" * 10_000 + b'"}}}',
    b"[" * 65 + b"]" * 65,
    b'{"update_id": 1, "message": ' + b'{"a":' * 65 + b"1" + b"}" * 66,
    b'{"update_id": 1, "message": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"a" * 1024 * 1024,
    b'{"update_id": "' + b"a" * 1024 * 1024 + b'"}',
    b"[" + b"[]," * 300_000 + b"[]]",
    b"\x1f\x8b\x08\x00",
    b"payload=%7B%7D",
)


class PlatformContract:
    """What every platform keeps; see `Platform`.

    Subclasses say how to make one (`platform`), what a genuine request looks like (`headers`,
    `bodies`) and, where there is something to call, how to reach it (`online`, `chat`).
    """

    #: A chat that takes messages from the bot.
    chat: ClassVar[str] = "1"
    #: An id that no message of that chat has.
    missing_id: ClassVar[str] = "999999"
    #: The method that the platform does not have.
    unknown_method: ClassVar[str] = "noSuchMethod"

    def platform(self) -> Platform:
        """Return a platform, with a secret."""
        raise NotImplementedError

    def headers(self, platform: Platform, body: bytes) -> dict[bytes, bytes]:
        """Return those headers of a genuine request that prove it."""
        raise NotImplementedError

    def bodies(self) -> Iterable[bytes]:
        """Return genuine bodies, each with an update or more."""
        raise NotImplementedError

    def unknown(self) -> bytes:
        """Return a well-formed body whose update is of a type that does not exist yet."""
        raise NotImplementedError

    def online(self) -> AbstractContextManager[Platform]:
        """Return a platform that can send and delete, for as long as the context lasts."""
        return nullcontext(self.platform())

    # Receiving

    def test_genuine_request_is_let_in(self) -> None:
        platform = self.platform()
        for body in self.bodies():
            platform.authenticate(self.headers(platform, body), body)

    def test_request_without_its_secret_is_refused(self) -> None:
        platform = self.platform()
        body = self._body()
        genuine = self.headers(platform, body)
        with raised(Unauthorized):
            platform.authenticate({}, body)
        for name in genuine:
            rest = {other: value for other, value in genuine.items() if other != name}
            with raised(Unauthorized):
                platform.authenticate(rest, body)

    def test_request_with_a_wrong_secret_is_refused(self) -> None:
        platform = self.platform()
        body = self._body()
        genuine = self.headers(platform, body)
        for name, value in genuine.items():
            wrong = [b"", b"wrong", value[:-1], value + b"x", b"\xff\xfe\x00", "ключ".encode()]
            for secret in wrong:
                with raised(Unauthorized):
                    platform.authenticate(genuine | {name: secret}, body)

    def test_refusal_does_not_quote_the_secret(self) -> None:
        platform = self.platform()
        body = self._body()
        with raised(Unauthorized) as errors:
            platform.authenticate({}, body)
        for secret in self.headers(platform, body).values():
            assert secret.decode() not in str(errors[0])

    def test_genuine_body_gives_updates(self) -> None:
        platform = self.platform()
        for body in self.bodies():
            assert platform.parse(body), body

    def test_update_survives_its_way_through_json(self) -> None:
        platform = self.platform()
        for body in self.bodies():
            for update in platform.parse(body):
                check_update(update, platform)

    def test_same_body_gives_the_same_update(self) -> None:
        for body in self.bodies():
            assert self.platform().parse(body) == self.platform().parse(body)

    def test_unknown_type_is_left_out(self) -> None:
        assert self.platform().parse(self.unknown()) == []

    def test_rubbish_is_refused_and_nothing_worse(self) -> None:
        platform = self.platform()
        for body in RUBBISH:
            self.check_body(platform, body)

    def check_body(self, platform: Platform, body: bytes) -> None:
        """Check what comes of any bytes: a `MalformedBody`, or updates that are sound."""
        try:
            updates = platform.parse(body)
        except MalformedBody as refused:
            assert str(refused)  # noqa: PT017
            return
        for update in updates:
            check_update(update, platform)

    # Sending

    def test_message_sent_is_found_in_the_answer(self) -> None:
        async def run(platform: Platform) -> None:
            async with platform:
                result = await platform.send(self.chat, "Good morning")
                (message,) = platform.messages(result)
                assert [*platform.messages(result, self.chat)] == [message]
                assert message.chat.id == self.chat
                assert message.text == "Good morning"
                check_message(message)

        with self.online() as platform:
            asyncio.run(run(platform))

    def test_answer_without_a_message_holds_none(self) -> None:
        platform = self.platform()
        results: tuple[Any, ...] = (None, True, 0, "", "text", [], [True], {}, {"a": 1}, [[]])
        for result in (*results, 7, [7], "7", ["7"]):
            assert list(platform.messages(result)) == []
            assert list(platform.messages(result, self.chat)) == []

    def test_call_is_aimed_at_a_chat_unless_it_names_one(self) -> None:
        platform = self.platform()
        parameters = {"text": "Good morning"}
        assert platform.target(parameters) == platform.business(parameters) == ""
        aimed = platform.aim(parameters, self.chat)
        assert aimed.items() > parameters.items()
        assert platform.target(aimed) == self.chat
        assert platform.aim(aimed, self.missing_id) == aimed
        assert platform.aim(parameters, "") == parameters == {"text": "Good morning"}

    def test_platform_serves_one_event_loop_after_another(self) -> None:
        async def run(platform: Platform) -> None:
            await platform.send(self.chat, "Good morning")

        with self.online() as platform:
            asyncio.run(run(platform))
            asyncio.run(run(platform))

    def test_platform_can_be_used_again_after_it_was_closed(self) -> None:
        async def run(platform: Platform) -> None:
            for _ in range(2):
                await platform.send(self.chat, "Good morning")
                await platform.close()
            await platform.close()

        with self.online() as platform:
            asyncio.run(run(platform))

    def test_failing_call_raises_a_platform_error(self) -> None:
        async def run(platform: Platform) -> None:
            async with platform:
                with raised(PlatformError) as errors:
                    await platform.call(self.unknown_method)
                assert isinstance(errors[0], PlatformError)
                assert errors[0].method == self.unknown_method
                assert errors[0].permanent

        with self.online() as platform:
            asyncio.run(run(platform))

    def test_rates_are_sound(self) -> None:
        platform = self.platform()
        assert platform.rates.keys() <= {"chat", "group", "bot"}
        for rate in platform.rates.values():
            assert isinstance(rate, Rate)
            assert rate.count >= 1
            assert rate.seconds > 0
        for chat in (self.chat, "", "-", "@", "ä", "x" * 100):
            assert isinstance(platform.is_group(chat), bool)

    def test_messages_of_a_call_are_counted_whatever_its_parameters_are(self) -> None:
        platform = self.platform()
        lists = ("media", "message_ids", "messages", "texts", "to")
        for method in ("send", "sendMessage", "sendMediaGroup", "copyMessages", "album", ""):
            assert platform.messages_in(method, {}) >= 0
            for value in (None, 7, "7", [], [1, 2], (1,), {"a": 1}):
                assert platform.messages_in(method, dict.fromkeys(lists, value)) >= 0
        assert platform.messages_in(self.unknown_method, {"text": "hi"}) == 0

    def test_deletion_has_an_outcome_for_each_id(self) -> None:
        async def run(platform: Platform) -> None:
            async with platform:
                sent = [
                    message.id
                    for text in ("one", "two", "three")
                    for message in platform.messages(await platform.send(self.chat, text))
                ]
                asked = [*sent, self.missing_id, "", sent[0]]
                outcome = await platform.delete_messages(self.chat, asked)
                assert set(outcome) == set(asked)
                assert all(isinstance(result, Deletion) for result in outcome.values())
                assert {outcome[id] for id in sent} == {Deletion.DELETED}
                assert outcome[self.missing_id] in (Deletion.DELETED, Deletion.GONE)
                assert outcome[""] == Deletion.GONE
                again = await platform.delete_messages(self.chat, sent)
                assert set(again.values()) <= {Deletion.DELETED, Deletion.GONE}

        with self.online() as platform:
            asyncio.run(run(platform))

    def test_limits_of_deleting_are_sound(self) -> None:
        platform = self.platform()
        assert platform.delete_batch_size > 0
        assert platform.deletable_for is None or platform.deletable_for > timedelta()

    def test_deleting_what_is_gone_is_no_error(self) -> None:
        async def run(platform: Platform) -> None:
            async with platform:
                assert await platform.delete_messages(self.chat, []) == {}
                outcome = await platform.delete_messages(self.chat, [self.missing_id])
                assert outcome == {self.missing_id: Deletion.GONE}

        with self.online() as platform:
            asyncio.run(run(platform))

    def _body(self) -> bytes:
        return next(iter(self.bodies()))


def check_update(update: Update, platform: Platform) -> None:
    """Check that an update can wait in a mailbox and be recognised when it comes again."""
    assert update.bot == platform.alias
    assert isinstance(update.id, str)
    assert update.id
    assert isinstance(update.type, str)
    assert update.type
    encoded = msgspec.json.encode(update)
    assert b"\\u0000" not in encoded
    assert msgspec.json.decode(encoded, type=Update) == update
    # What reads an update never stumbles over what somebody typed.
    assert isinstance(update.command + update.arguments + update.conversation, str)
    if update.message is not None:
        check_message(update.message)
        assert update.chat == update.message.chat
    assert all(isinstance(id, str) and id for id in update.deleted)


def check_message(message: Message) -> None:
    """Check that a message's ids are strings, whatever the platform has, and its dates aware."""
    for id in (message.id, message.chat.id, message.thread, message.reply_to, message.album):
        assert isinstance(id, str)
    for id in (message.business, message.migrated_to, message.migrated_from):
        assert isinstance(id, str)
    assert message.chat.id
    assert message.kind
    assert message.user is None or message.user.id
    for date in (message.date, message.edited):
        assert date is None or date.tzinfo is not None


@contextmanager
def raised(*kinds: type[Exception]) -> Iterator[list[Exception]]:
    """Check that the block raises one of these; it is then in the list."""
    found: list[Exception] = []
    try:
        yield found
    except kinds as error:
        found.append(error)
    if not found:
        raise AssertionError(f"expected one of {[kind.__name__ for kind in kinds]}, raised nothing")
