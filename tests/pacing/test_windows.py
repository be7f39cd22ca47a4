"""What processes share: the same contract in the database and in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.cache import caches
from django.db import DatabaseError, OperationalError, connection, connections, transaction

from botsessions import clock
from botsessions.exceptions import Unavailable
from botsessions.mailboxes.rerunning import ATTEMPTS
from botsessions.models import RateWindow
from botsessions.pacing.database import DatabaseWindows
from botsessions.pacing.redis import NAME, RedisWindows
from botsessions.pacing.window import Request, Verdict, Windows
from botsessions.platforms import Rate
from tests.pacing.kit import redis_cache

LAG = 0.05
GRANTED = Verdict(0.0, "")


@pytest.fixture
def bot() -> str:
    """A bot that no other test knows."""
    return f"bot-{uuid4().hex[:8]}"


def room(*windows: tuple[str, Rate | None], cost: int = 1) -> Request:
    return Request(windows, cost)


class WindowsContract:
    """What every place keeps in which processes share their windows."""

    def windows(self) -> Windows:
        raise NotImplementedError

    def book(self, key: str, at: float) -> None:
        """Let a window have a message of that moment."""
        raise NotImplementedError

    def ask(self, *requests: Request) -> list[Verdict]:
        """Return what becomes of each, without when it was booked for."""
        return [each._replace(booked=0.0) for each in self.windows().acquire(requests, LAG)]

    def test_what_there_is_room_for_is_granted_once(self, bot: str) -> None:
        chat = f"{bot}:chat:1"
        asked = room((chat, Rate(2, 5.0)))
        first, second, third = self.ask(asked, asked, asked)
        assert first == second == GRANTED
        assert third.key == chat
        assert third.wait == pytest.approx(5 + LAG, abs=0.01)
        [again] = self.ask(asked)
        assert again.key == chat
        assert 4 < again.wait <= third.wait

    def test_room_comes_back_when_the_window_has_passed(self, bot: str) -> None:
        asked = room((f"{bot}:chat:1", Rate(1, 0.1)))
        assert self.ask(asked) == [GRANTED]
        [refused] = self.ask(asked)
        time.sleep(refused.wait + 0.002)
        assert self.ask(asked) == [GRANTED]

    def test_a_request_is_granted_in_all_windows_or_in_none(self, bot: str) -> None:
        chats = [f"{bot}:chat:{number}" for number in range(3)]
        one, all_ = Rate(1, 5.0), (f"{bot}:bot", Rate(2, 5.0))
        first, held, second, third = self.ask(
            room((chats[0], one), all_),
            room((chats[0], one), all_),
            room((chats[1], one), all_),
            room((chats[2], one), all_),
        )
        assert [first.key, held.key, second.key, third.key] == ["", chats[0], "", f"{bot}:bot"]
        assert self.ask(room((chats[2], one))) == [GRANTED]

    def test_a_large_one_is_not_overtaken(self, bot: str) -> None:
        all_ = (f"{bot}:bot", Rate(5, 5.0))
        assert self.ask(room(all_)) == [GRANTED]
        large, small = self.ask(room(all_, cost=5), room(all_))
        assert large.key == small.key == f"{bot}:bot"

    def test_what_is_more_than_the_rate_is_followed_by_as_long_a_pause(self, bot: str) -> None:
        chat = (f"{bot}:chat:1", Rate(1, 1.0))
        assert self.ask(room(chat, cost=10)) == [GRANTED]
        [after] = self.ask(room(chat))
        assert after.wait == pytest.approx(10 + LAG, abs=0.5)

    def test_a_pause_holds_up_its_window_alone(self, bot: str) -> None:
        paused, other = f"{bot}:chat:1", f"{bot}:chat:2"
        rate = Rate(5, 1.0)
        self.windows().pause(paused, 0.3)
        self.windows().pause(paused, 0.1)  # is shorter
        held, aside, free = self.ask(
            room((paused, rate)), room((paused, None), cost=0), room((other, rate))
        )
        assert held.key == aside.key == paused
        assert 0.1 < held.wait <= 0.3
        assert free == GRANTED
        time.sleep(held.wait + 0.002)
        [held, aside] = self.ask(room((paused, rate)), room((paused, None), cost=0))
        assert held == aside == GRANTED

    def test_what_costs_nothing_is_not_counted(self, bot: str) -> None:
        chat = f"{bot}:chat:1"
        for _ in range(3):
            assert self.ask(room((chat, None), cost=0)) == [GRANTED]
        asked = room((chat, Rate(1, 5.0)))
        assert [each.key for each in self.ask(asked, asked)] == ["", chat]

    def test_a_pause_leaves_what_was_counted(self, bot: str) -> None:
        asked = room((f"{bot}:chat:1", Rate(1, 5.0)))
        assert self.ask(asked) == [GRANTED]
        self.windows().pause(f"{bot}:chat:1", 0.01)
        [verdict] = self.ask(asked)
        assert verdict.wait > 4

    @pytest.mark.parametrize("cost", [1, 3])
    def test_what_came_too_late_is_given_back_for_other_room(self, bot: str, cost: int) -> None:
        windows = ((f"{bot}:chat:1", Rate(2, 5.0)), (f"{bot}:bot", Rate(4, 5.0)))
        [late] = self.windows().acquire([Request(windows, cost)], LAG)
        again = Request(windows, cost, late.booked)
        [changed] = self.windows().acquire([again], LAG)
        assert changed.key == ""
        assert late.booked < changed.booked < late.booked + 4
        self.windows().pause(f"{bot}:chat:1", 0.05)
        assert [each.key for each in self.ask(again._replace(booked=changed.booked))] != [""]
        time.sleep(0.06)
        assert self.ask(Request(windows[1:], 4)) == [GRANTED]

    def test_room_is_kept_for_a_large_one_that_waits(self, bot: str) -> None:
        """P28."""
        windows = ((f"{bot}:chat:1", Rate(2, 1.5)), (f"{bot}:bot", Rate(4, 1.5)))
        small = room(windows[1])
        assert self.ask(small) == [GRANTED]
        [impatient] = self.windows().acquire([Request(windows, 4)], LAG)
        assert (impatient.key, impatient.booked) == (f"{bot}:bot", 0.0)
        assert self.ask(small) == [GRANTED]
        [told] = self.windows().acquire([Request(windows, 4, patience=5)], LAG)
        assert told.key == f"{bot}:bot"
        assert told.booked > 1e9
        [refused] = self.ask(small)
        assert refused.wait > told.wait
        time.sleep(told.wait + 0.002)
        assert self.ask(small) != [GRANTED]
        again = Request(windows, 4, told.booked, patience=5)
        [granted] = self.windows().acquire([again], LAG)
        assert granted.key == ""
        assert told.booked <= granted.booked < told.booked + 1.5

    def test_what_was_made_is_booked_for_now_whatever_room_there_is(self, bot: str) -> None:
        """P28: it took longer than its room was for."""
        windows = ((f"{bot}:chat:1", Rate(1, 10.0)),)
        [first] = self.windows().acquire([Request(windows, 1)], LAG)
        began = time.monotonic()
        time.sleep(0.2)
        made = Request(windows, 1, first.booked, is_made=True)
        [booked] = self.windows().acquire([made], LAG)
        assert booked.key == ""
        assert 0.1 <= booked.booked - first.booked < time.monotonic() - began + 0.1
        assert self.ask(room(*windows))[0].wait == pytest.approx(10, abs=3)

    def test_a_server_whose_clock_was_put_back_holds_nothing_up_for_long(self, bot: str) -> None:
        asked = room((f"{bot}:chat:1", Rate(1, 0.3)))
        self.book(f"{bot}:chat:1", time.time() + 7200)
        [verdict] = self.ask(asked)
        assert 0 < verdict.wait < 0.5
        time.sleep(verdict.wait + 0.05)
        assert self.ask(asked) == [GRANTED]

    def test_a_lower_rate_holds_at_once(self, bot: str) -> None:
        chat = f"{bot}:chat:1"
        assert self.ask(room((chat, Rate(5, 1.0)), cost=5)) == [GRANTED]
        [verdict] = self.ask(room((chat, Rate(1, 5.0))))
        assert verdict.wait > 4

    def test_two_at_once_are_never_both_granted_the_same_room(self, bot: str) -> None:
        """P28: also not in rows that are not there yet, and whatever order they are named in."""
        rates = [(f"{bot}:chat:{number}", Rate(3, 30.0)) for number in range(4)]
        threads = 4
        begin = Barrier(threads)

        def ask(number: int) -> int:
            windows, granted = self.windows(), 0
            begin.wait()
            try:
                for _ in range(4):
                    asked = [room(rate) for rate in (rates if number % 2 else rates[::-1])]
                    granted += sum(not each.key for each in windows.acquire(asked, LAG))
            finally:
                connections.close_all()
            return granted

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(ask, range(threads))) == 3 * len(rates)

    def test_no_span_has_more_than_the_rate_with_several_at_once(self, bot: str) -> None:
        """P28."""
        rate, threads, until = Rate(3, 0.2), 3, time.monotonic() + 10
        gone: list[int] = []
        asked = [room((f"{bot}:chat:1", rate))]

        def ask(number: int) -> list[tuple[float, float]]:
            windows, spans = self.windows(), []
            try:
                while len(gone) < 6 and (begun := time.monotonic()) < until:
                    [verdict] = windows.acquire(asked, LAG)
                    if verdict.key:
                        time.sleep(min(verdict.wait, 0.02))
                    else:
                        spans.append((begun, time.monotonic()))
                        gone.append(number)
            finally:
                connections.close_all()
            return spans

        with ThreadPoolExecutor(threads) as pool:
            spans = sorted(span for each in pool.map(ask, range(threads)) for span in each)
        assert len(spans) >= 6
        for (begun, _), (_, ended) in zip(spans, spans[rate.count :], strict=False):
            assert ended - begun >= rate.seconds, list(pairwise(spans))

    def test_the_clock_of_this_machine_means_nothing(
        self, bot: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P28: machines whose clocks differ agree."""
        asked = room((f"{bot}:chat:1", Rate(1, 5.0)))
        assert self.ask(asked) == [GRANTED]
        self.windows().pause(f"{bot}:chat:2", 5.0)
        real, real_now = time.time, clock.now
        for hours in (-1, 1):
            monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
            later = timedelta(hours=hours)
            monkeypatch.setattr(clock, "now", lambda later=later: real_now() + later)
            for verdict in self.ask(asked, room((f"{bot}:chat:2", None))):
                assert 4 < verdict.wait <= 5 + LAG


@pytest.mark.usefixtures("transactional_db")
class TestInDatabase(WindowsContract):
    def windows(self) -> Windows:
        return DatabaseWindows()

    def book(self, key: str, at: float) -> None:
        RateWindow.objects.create(key=key, times=[at], updated_at=clock.now())

    @pytest.mark.parametrize("error", [OperationalError("away"), None])
    def test_a_database_that_is_away_is_unavailable(
        self, bot: str, monkeypatch: pytest.MonkeyPatch, error: DatabaseError | None
    ) -> None:
        asked = room((f"{bot}:chat:1", Rate(1, 5.0)))

        def fail(*_: Any) -> None:
            raise error or rerun()

        with monkeypatch.context() as patch:
            patch.setattr(DatabaseWindows, "_lock", fail)
            with pytest.raises(Unavailable, match="The database is"):
                self.ask(asked)
        assert self.ask(asked) == [GRANTED]

    def test_a_transaction_is_run_again_when_the_database_asks(
        self, bot: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock, errors = DatabaseWindows._lock, [rerun() for _ in range(ATTEMPTS - 1)]

        def fail(windows: DatabaseWindows, keys: set[str]) -> Any:
            found = lock(windows, keys)
            if errors:
                raise errors.pop()
            return found

        monkeypatch.setattr(DatabaseWindows, "_lock", fail)
        asked = room((f"{bot}:chat:1", Rate(1, 5.0)))
        assert self.ask(asked) == [GRANTED]
        assert not errors

    def test_other_errors_come_through(self, bot: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise DatabaseError("odd")

        monkeypatch.setattr(DatabaseWindows, "_lock", fail)
        with pytest.raises(DatabaseError, match="odd"):
            self.ask(room((f"{bot}:chat:1", Rate(1, 5.0))))

    def test_a_connection_that_has_died_is_replaced(self, bot: str) -> None:
        connection.ensure_connection()
        connection.connection.close()
        try:
            verdicts = self.ask(room((f"{bot}:chat:1", Rate(1, 5.0))))
        except DatabaseError:
            assert connection.vendor == "sqlite"  # where Django's own close means no loss
            connection.close()
        else:
            assert verdicts == [GRANTED]

    def test_within_a_transaction_it_is_a_part_of_that(self, bot: str) -> None:
        asked = room((f"{bot}:chat:1", Rate(1, 5.0)))
        with transaction.atomic():
            assert self.ask(asked) == [GRANTED]
            transaction.set_rollback(True)
        assert self.ask(asked) == [GRANTED]

    def test_rows_say_when_they_were_last_of_use(self, bot: str) -> None:
        before = clock.now() - timedelta(seconds=5)
        self.ask(room((f"{bot}:chat:1", Rate(1, 5.0))), room((f"{bot}:chat:2", Rate(1, 5.0))))
        self.windows().pause(f"{bot}:chat:3", 600)
        rows = {row.key[-1]: row for row in RateWindow.objects.filter(key__startswith=bot)}
        assert len(rows) == 3
        assert all(row.updated_at > before for row in rows.values())
        assert rows["3"].updated_at > before + timedelta(seconds=600)
        assert len(rows["1"].times) == 1


def rerun() -> DatabaseError:
    """Return the error with which this database asks to run a transaction again."""
    if connection.vendor != "postgresql":
        return OperationalError("database is locked")
    error = OperationalError("deadlock detected")
    error.__cause__ = psycopg.errors.DeadlockDetected()
    return error


@pytest.mark.redis
class TestInRedis(WindowsContract):
    @pytest.fixture(autouse=True)
    def cache(self, redis: str) -> Iterator[None]:
        with redis_cache(redis):
            yield

    def windows(self) -> Windows:
        return RedisWindows("rates")

    def book(self, key: str, at: float) -> None:
        cache: Any = caches["rates"]
        name = cache.make_key(NAME % tuple(key.split(":", 1)))
        cache.client.get_client().hset(name, "times", f"[{at}]")

    @pytest.mark.parametrize("error", [ValueError("port of redis://:secret@x"), KeyError("secret")])
    def test_a_password_is_in_no_error(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken:
            def __getitem__(self, alias: str) -> None:
                raise error

        monkeypatch.setattr("botsessions.pacing.redis.caches", Broken())
        with pytest.raises(Unavailable) as raised:
            self.windows().pause("demo:chat:1", 1)
        assert (
            f"{raised.value}" == f"The Redis of the cache 'rates' is away: {type(error).__name__}"
        )

    def test_windows_vanish_when_they_can_hold_nothing_up(self, bot: str) -> None:
        cache: Any = caches["rates"]
        client = cache.client.get_client()
        name = cache.make_key(f"botsessions:rate:{{{bot}}}:chat:1")
        asked = room((f"{bot}:chat:1", Rate(1, 5.0)))
        self.ask(asked)
        assert 5_000 < client.pttl(name) <= 6_100
        self.windows().pause(f"{bot}:chat:1", 60)
        assert 60_000 < client.pttl(name) <= 61_000
        self.windows().pause(f"{bot}:chat:1", 1)
        assert client.pttl(name) > 59_000
        self.ask(room((f"{bot}:chat:2", None), cost=0))
        assert not client.exists(cache.make_key(f"botsessions:rate:{{{bot}}}:chat:2"))

    def test_a_redis_that_is_away_is_unavailable(self, bot: str) -> None:
        with redis_cache("redis://127.0.0.1:1/0", clear=False):
            with pytest.raises(Unavailable, match="cache 'rates' is away: Conn"):
                self.ask(room((f"{bot}:chat:1", Rate(1, 5.0))))
            with pytest.raises(Unavailable, match="away"):
                self.windows().pause(f"{bot}:chat:1", 1)
