"""What people write and how much of it."""

# ruff: noqa: RUF001, S101, S311 - these are tests

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Admitted, Arrival, Committed, Outcome, Sent
from botsessions.mailboxes.contract.cases import (
    DUPLICATE,
    HANDLE,
    HANDLE_STORED,
    MailboxCases,
    arrival,
    done,
    failed,
    names,
    save,
    sent,
    update,
    value,
)
from botsessions.updates import Chat, Message

#: What people and tracebacks hold, but for NUL.
TEXT = (
    'it\'s "quoted" \\ back\\\\slashed \\u0000 \\n \t\n 100% %s %(x)s {} {0} $1 :x ; -- /* \x01\x7f'
    " 😀👩‍👩‍👧 𝔘𝕟𝕚 مرحبا \u202eשלום\u202c ꧁ \u2028\ufeff\ufffd null"
)
TEXTS = {
    "plain": (TEXT, TEXT),
    "nul": ("\0a\0\0b\\\0\\\\0\0", "\ufffda\ufffd\ufffdb\\\ufffd\\\\0\ufffd"),
    "long": (TEXT * 2000, TEXT * 2000),
}
VALUES: tuple[Any, ...] = (
    {},
    [],
    "",
    0,
    False,
    {"": {"a": [None, True, 1, -1.5, "x"]}, "null": None, TEXT: TEXT},
    [[[[]]], {}, [{}]],
    2**53 + 1,
    2**64,
    0.1,
    "2026-01-01T00:00:00Z",
)


class ContentContract(MailboxCases):
    """Batches of any size, and any text in them."""

    def test_nothing_to_do_is_no_error(self) -> None:
        assert self.mailbox.admit([], "one") == Admitted("one", [], [], [])
        assert self.mailbox.load([]) == []
        assert self.mailbox.load([[], []]) == [[], []]
        self.mailbox.store([])
        self.mailbox.record([])
        assert self.mailbox.commit([]) == Committed([], [])
        self.mailbox.forget([])
        assert self.mailbox.renew([]) == set()
        assert self.mailbox.recover(10, "one") == []

    def test_batch_of_hundreds(self) -> None:
        number = 500
        keys = [SessionKey("demo", f"{each % 100}", f"{each}") for each in range(number)]
        arrivals = [
            arrival(f"{each}", str(key), sessions=[key], store_first=each % 2 == 0)
            for each, key in enumerate(keys)
        ]
        admitted = self.admit(*arrivals)
        assert admitted.decisions == [HANDLE_STORED, HANDLE] * (number // 2)
        self.mailbox.record(
            [
                sent(one, 0, one.update.id, session=key)
                for one, key in zip(arrivals, keys, strict=True)
            ]
        )
        self.mailbox.store(arrivals)
        assert len(self.mailbox.renew([(each.mailbox, "one") for each in arrivals])) == number
        committed = self.commit(
            *(
                done(one, "one", save(key, {"n": one.update.id}))
                for one, key in zip(arrivals, keys, strict=True)
            )
        )
        assert committed == Committed([Outcome.COMMITTED] * number, [])
        rows = self.mailbox.load([[key] for key in keys])
        assert [value(row)["n"] for (row,) in rows] == [str(each) for each in range(number)]
        assert self.admit(*arrivals).decisions == [DUPLICATE] * number

    def test_hundreds_in_one_mailbox_keep_their_order(self) -> None:
        arrivals = [arrival(f"{each:03}") for each in range(200)]
        random.Random(1).shuffle(arrivals)
        self.admit(*arrivals)
        order = [each.update.id for each in arrivals]
        for number, one in enumerate(arrivals[:5]):
            assert names(self.commit(done(one)).waiting) == [order[number + 1]]

    def test_payload_survives(self) -> None:
        """P7: NUL characters cannot be stored; they come back as U+FFFD."""
        for name, (text, expected) in TEXTS.items():
            original = update(name, text=text, payload={"text": text, "nested": [{"a": text}]})
            self.mailbox.admit([Arrival(original, f"demo:{name}", room=False)], "one")
            (waiting,) = self.mailbox.recover(10, "two")
            assert waiting.update.text == expected
            assert waiting.update.payload == {"text": expected, "nested": [{"a": expected}]}
            assert waiting.update.chat == original.chat

    def test_error_and_journal_survive(self) -> None:
        for name, (text, expected) in TEXTS.items():
            first = arrival(name, f"demo:{name}")
            self.admit(first)
            self.mailbox.record([Sent(first.update, first.mailbox, 0, {"text": text})])
            (waiting,) = self.commit(failed(first, error=text)).waiting
            assert waiting.journal == [{"ordinal": 0, "result": {"text": expected}}]

    def test_error_that_is_no_unicode_is_stored_all_the_same(self) -> None:
        first = arrival("1")
        self.admit(first)
        committed = self.commit(failed(first, error="half an emoji: \ud83d"))
        assert committed.outcomes == [Outcome.COMMITTED]
        assert names(committed.waiting) == ["1"]

    def test_tracked_text_survives(self) -> None:
        key = SessionKey("demo", "ann")
        for name, (text, _) in TEXTS.items():
            first = arrival(name, f"demo:{name}")
            self.admit(first)
            message = Message(name, Chat("ann"), text=text, date=datetime.now(UTC))
            self.mailbox.record([Sent(first.update, first.mailbox, 0, None, key, [message])])
        assert [each.message_id for each in self.mailbox.tracked(key)] == list(TEXTS)

    def test_data_goes_to_json_and_back(self) -> None:
        keys = [SessionKey("demo", str(number)) for number in range(len(VALUES))]
        one = arrival()
        self.admit(one)
        saves = [save(key, each) for key, each in zip(keys, VALUES, strict=True)]
        self.commit(done(one, "one", *saves))
        assert [value(row) for row in self.load(*keys)] == list(VALUES)

    def test_data_of_every_text_survives(self) -> None:
        for name, (text, expected) in TEXTS.items():
            one, key = arrival(), SessionKey("demo", name)
            self.admit(one)
            self.commit(done(one, "one", save(key, {"text": [text]})))
            assert value(self.load(key)[0]) == {"text": [expected]}

    def test_ids_of_every_text_are_told_apart(self) -> None:
        ids = ["", " ", "a", "A", "a ", "ä", "a\u0308", "%", "_", "'", '"', "\\", "😀", "👍", "𝔘"]
        keys = [SessionKey("demo", id, id, id, id) for id in ids]
        arrivals = [arrival(f"id{id}", f"demo:{id}", sessions=keys) for id in ids]
        assert self.admit(*arrivals).decisions == [HANDLE] * len(ids)
        entries = zip(arrivals, keys, ids, strict=True)
        committed = self.commit(*(done(one, "one", save(key, id)) for one, key, id in entries))
        assert committed.outcomes == [Outcome.COMMITTED] * len(ids)
        admitted = self.admit(*arrivals, arrival(sessions=keys))
        assert admitted.decisions == [DUPLICATE] * len(ids) + [HANDLE]
        assert [value(row) for row in admitted.sessions[-1].named] == ids
