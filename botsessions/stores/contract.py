"""What every store is tested with: the suite behind `botsessions.testing.StoreContract`."""

# ruff: noqa: RUF001, S101 - these are tests

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, ClassVar, cast
from unittest import SkipTest

import msgspec
from django.core.checks import CheckMessage

from botsessions.keys import LONGEST, SessionKey
from botsessions.mailboxes.contract.races import at_once
from botsessions.stores.base import Store, Value

ANN, BEN = SessionKey("demo", "ann", "ann"), SessionKey("demo", "ben", "ben")

#: Data as sessions have it.
VALUES: Mapping[str, Any] = {
    "empty": {},
    "list": [],
    "text": "",
    "zero": 0,
    "false": False,
    "nested": {"": {"a": [None, True, 1, -1.5, "x"]}, "null": None, "deep": [[[[]]], {}, [{}]]},
    "numbers": [2**53 + 1, 2**63 - 1, -(2**63), 0.1, 1e20],
    "date": "2026-01-01T00:00:00Z",
    "quotes": 'it\'s "quoted" \\ back\\\\slashed \\u0041 \\n \t\n 100% %s {} $1 ; -- /* \x01\x7f',
    "unicode": "😀👩‍👩‍👧 𝔘𝕟𝕚 مرحبا \u202eשלום\u202c ꧁ \u2028\ufeff\ufffd ключ",
    "keys": {"😀": 1, "a b": 2, "%": 3, "a.b": 4, "$a": 5},
    "64 KiB": {"text": "x" * (64 * 1024 - 11)},
    "64 KiB of emoji": "😀" * (16 * 1024 - 1),
}

#: Parts of a key that have gone wrong somewhere: separators, escapes, paths, globs, case, length.
PARTS = (
    "", "a", "A", "a ", " a", "a:", ":a", ":", "a:a", "%", "%3A", "%25", "a%3Aa", "~", "%~", "-",
    "+", "a+a", "/", "a/b", "..", ".", "../a", "\\", "*", "a*", "?", "[a]", "'", '"', "a\n", "\t",
    "\x7f", "ä", "a\u0308", "😀", "null", "con", "a.json", "0", "-1001234567890", "x" * 64,
)  # fmt: skip


class StoreContract:
    """What every store keeps (S34, S31, S32, P39); see `Store`.

    A subclass says how to make the store (`store`), which is empty before each test, and where
    there can be several, one beside it (`other`). Two threads are to see what each other saved: a
    store in the database needs real transactions, with Django's classes a `TransactionTestCase`.
    """

    #: The shortest life of a value that the store tells from none, in seconds.
    shortest_life: ClassVar[float] = 0.05

    def store(self) -> Store:
        """Return the store. Every call in a test returns one that holds the same."""
        raise NotImplementedError

    def other(self) -> Store:
        """Return an empty store of the same kind that must not see what the first one holds."""
        raise SkipTest("there is one store of this kind, whatever its options")

    def wait(self, seconds: float) -> None:
        """Let time pass for the store."""
        time.sleep(seconds)

    # Load and save

    def test_missing_is_none(self) -> None:
        assert self.store().load([ANN]) == [None]
        assert self.store().load([ANN, BEN, ANN]) == [None, None, None]

    def test_nothing_to_do_is_no_error(self) -> None:
        store = self.store()
        assert store.load([]) == []
        store.save([])
        assert store.delete([]) == 0
        assert store.clear_expired() == 0

    def test_what_was_saved_is_loaded(self) -> None:
        self.store().save([saved(ANN, {"n": 1}), saved(BEN, {"n": 2})])
        assert loaded(self.store(), BEN, ANN) == [{"n": 2}, {"n": 1}]

    def test_last_save_counts(self) -> None:
        store = self.store()
        for number in range(3):
            store.save([saved(ANN, {"n": number}), saved(BEN, "same")])
            assert loaded(store, ANN, BEN) == [{"n": number}, "same"]

    def test_key_may_stand_in_a_list_twice(self) -> None:
        store = self.store()
        store.save([saved(ANN, 1), saved(BEN, 2), saved(ANN, 3)])
        assert loaded(store, ANN, BEN, ANN) == [3, 2, 3]
        assert store.delete([ANN, ANN]) == 1

    def test_data_of_every_kind_survives(self) -> None:
        store = self.store()
        for name, value in VALUES.items():
            store.save([saved(SessionKey("demo", name), value)])
        keys = [SessionKey("demo", name) for name in VALUES]
        for value, (name, expected) in zip(loaded(store, *keys), VALUES.items(), strict=True):
            assert value == expected, name
            assert type(value) is type(expected), name

    def test_value_is_bytes_and_a_copy(self) -> None:
        store = self.store()
        store.save([(ANN, b'{"items":["tea"]}', None)])
        first, second = store.load([ANN, ANN])
        assert type(first) is type(second) is bytes
        changed = msgspec.json.decode(first)
        changed["items"].append("milk")
        assert loaded(store, ANN) == [{"items": ["tea"]}]

    def test_batch_of_hundreds_keeps_its_order_and_gaps(self) -> None:
        store = self.store()
        keys = [SessionKey("demo", f"{number}", f"{number % 7}") for number in range(300)]
        store.save([saved(key, n) for n, key in enumerate(keys) if n % 3])
        order = list(range(300))
        random.Random(1).shuffle(order)  # noqa: S311
        expected = [number if number % 3 else None for number in order]
        assert loaded(store, *(keys[number] for number in order)) == expected
        store.save([saved(key, -n) for n, key in enumerate(keys)])
        assert loaded(store, *keys) == [-number for number in range(300)]
        assert store.delete(keys[::2]) == 150
        assert loaded(store, *keys[:4]) == [None, -1, None, -3]

    # Keys

    def test_keys_that_differ_in_one_part_are_told_apart(self) -> None:
        parts = tuple(LONGEST)
        keys = [ANN] + [
            SessionKey(**{**msgspec.structs.asdict(ANN), part: "other"}) for part in parts
        ]
        keys += [
            SessionKey("demo", **{part: "same"}) for part in parts[1:]
        ]  # each in another place
        self._check_apart(keys)

    def test_keys_whose_parts_hold_anything_are_told_apart(self) -> None:
        self._check_apart(
            [
                *(SessionKey("demo", part) for part in PARTS),
                *(SessionKey("demo", "a", part) for part in PARTS),
                *(SessionKey("demo", "a", "b", part, "c") for part in PARTS),
            ]
        )

    def test_separators_in_parts_do_not_make_another_key(self) -> None:
        parts = ("", "a", ":", "a:", ":a", "%3A", "%", "~", "+")
        self._check_apart([SessionKey("demo", *each) for each in product(parts, repeat=3)])

    def test_longest_keys_are_told_apart(self) -> None:
        for letter in ("x", "😀", ":"):
            whole = {part: letter * longest for part, longest in LONGEST.items()}
            keys = [SessionKey(**whole)]
            keys += [SessionKey(**(whole | {part: whole[part][:-1] + "y"})) for part in whole]
            self._check_apart(keys)

    def _check_apart(self, keys: list[SessionKey]) -> None:
        keys, store = list(dict.fromkeys(keys)), self.store()
        store.save([saved(key, number) for number, key in enumerate(keys)])
        assert loaded(store, *keys) == list(range(len(keys)))
        assert store.delete(keys[::2]) == len(keys[::2])
        assert loaded(store, *keys[::2]) == [None] * len(keys[::2])
        assert loaded(store, *keys[1::2]) == list(range(len(keys)))[1::2]
        assert store.delete(keys) == len(keys[1::2])

    # Delete

    def test_delete_counts_what_was_there(self) -> None:
        store = self.store()
        assert store.delete([ANN]) == 0
        store.save([saved(ANN, 1), saved(BEN, 2)])
        assert store.delete([ANN, SessionKey("demo", "nobody")]) == 1
        assert loaded(store, ANN, BEN) == [None, 2]
        assert store.delete([ANN, BEN]) == 1
        assert loaded(store, ANN, BEN) == [None, None]

    def test_deleted_key_can_be_saved_again(self) -> None:
        store = self.store()
        for number in range(3):
            store.save([saved(ANN, number)])
            assert loaded(store, ANN) == [number]
            assert store.delete([ANN]) == 1

    def test_clear_deletes_everything(self) -> None:
        store = self.store()
        store.save([saved(ANN, 1), saved(BEN, 2), saved(SessionKey("demo", "😀 " * 50), 3)])
        try:
            assert store.clear() == 3
        except NotImplementedError as error:
            raise SkipTest(str(error)) from error
        assert loaded(store, ANN, BEN) == [None, None]
        assert store.clear() == 0
        store.save([saved(ANN, 4)])
        assert loaded(store, ANN) == [4]

    # Expiry

    def test_value_expires_after_its_seconds_and_not_before(self) -> None:
        store, life = self.store(), self.shortest_life
        store.save([saved(ANN, 1, life), saved(BEN, 2, life + 60)])
        assert loaded(store, BEN) == [2]
        self.wait(life * 1.1 + 0.05)
        assert loaded(store, ANN, BEN) == [None, 2]
        assert store.delete([ANN]) == 0

    def test_value_is_live_within_its_seconds(self) -> None:
        store = self.store()
        store.save([saved(ANN, 1, 60), saved(BEN, 2, 0.5 + self.shortest_life)])
        assert loaded(store, ANN, BEN) == [1, 2]
        assert store.clear_expired() == 0
        assert loaded(store, ANN, BEN) == [1, 2]

    def test_value_without_seconds_never_expires(self) -> None:
        """Neither at once nor after any default of the backend, which nobody waits for here."""
        store = self.store()
        store.save([saved(ANN, 1, self.shortest_life)])
        store.save([saved(ANN, 2)])
        self.wait(self.shortest_life * 1.1 + 0.05)
        assert store.clear_expired() == 0
        assert loaded(store, ANN) == [2]

    def test_save_renews_the_seconds(self) -> None:
        store, life = self.store(), self.shortest_life
        store.save([saved(ANN, 1, life)])
        store.save([saved(ANN, 2, life + 60)])
        self.wait(life * 1.1 + 0.05)
        assert loaded(store, ANN) == [2]

    def test_what_has_expired_is_cleared_and_no_more(self) -> None:
        store, life = self.store(), self.shortest_life
        keys = [SessionKey("demo", f"{number}") for number in range(30)]
        store.save([saved(key, n, life if n % 2 else None) for n, key in enumerate(keys)])
        self.wait(life * 1.1 + 0.05)
        assert store.clear_expired() in (0, 15)
        assert store.clear_expired() == 0
        expected = [None if number % 2 else number for number in range(30)]
        assert loaded(store, *keys) == expected
        store.save([saved(keys[1], "again")])
        assert loaded(store, keys[1]) == ["again"]

    # Beside others

    def test_stores_apart_do_not_see_each_other(self) -> None:
        store, other = self.store(), self.other()
        store.save([saved(ANN, "one"), saved(BEN, "one")])
        assert loaded(other, ANN, BEN) == [None, None]
        other.save([saved(ANN, "other")])
        assert loaded(store, ANN) == ["one"]
        assert other.delete([ANN, BEN]) == 1
        assert loaded(store, ANN, BEN) == ["one", "one"]
        other.save([saved(ANN, "other")])
        try:
            assert store.clear() == 2
        except NotImplementedError:
            assert store.delete([ANN, BEN]) == 2
        assert loaded(other, ANN) == ["other"]

    def test_saves_at_once_end_in_one_of_the_values_whole(self) -> None:
        store, threads = self.store(), 4
        keys = [SessionKey("demo", f"{number}") for number in range(10)]

        def save(thread: int) -> None:
            for number in range(5):
                order = keys if thread % 2 else keys[::-1]
                store.save([saved(key, f"{thread}{number}" * 5000) for key in order])

        at_once(*(partial(save, thread) for thread in range(threads)))
        allowed = {f"{thread}4" * 5000 for thread in range(threads)}
        for value in loaded(store, *keys):
            assert value in allowed

    def test_reader_beside_a_writer_sees_whole_values(self) -> None:
        store, rounds = self.store(), 20
        store.save([saved(ANN, "0" * 20_000)])

        def write() -> None:
            for number in range(rounds):
                store.save([saved(ANN, f"{number % 10}" * 20_000)])

        def read() -> list[Any]:
            return [loaded(store, ANN)[0] for _ in range(rounds)]

        _, values = at_once(write, read)
        for value in values:
            assert value is not None
            assert len(value) == 20_000
            assert len(set(value)) == 1

    # Settings

    def test_own_options_are_sound(self) -> None:
        assert errors(self.store().check()) == []

    def test_unknown_option_is_told(self) -> None:
        store = self.store()
        wrong = type(store)(store.alias, {**store.options, "COLOUR": "red"})
        [error] = errors(wrong.check())
        assert "COLOUR" in error.msg
        assert store.alias in error.msg
        assert error.hint


def saved(key: SessionKey, value: Any, seconds: float | None = None) -> Value:
    """Return what is to be saved, as JSON."""
    return key, msgspec.json.encode(value), seconds


def loaded(store: Store, *keys: SessionKey) -> list[Any]:
    """Return the values of these keys as Python has them."""
    values = store.load(keys)
    assert len(values) == len(keys)
    return [None if each is None else cast(Any, msgspec.json.decode(each)) for each in values]


def errors(messages: Iterator[CheckMessage]) -> list[CheckMessage]:
    return [each for each in messages if each.id == "botsessions.E007"]
