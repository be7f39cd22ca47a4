"""The arithmetic of sliding windows: never above the rate, and never empty for longer than it."""

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from botsessions.pacing.window import Request, Verdict, Window, decide
from botsessions.platforms import Rate
from tests.pacing.kit import most_in

LAG = 0.1
rates = st.builds(Rate, st.integers(1, 8), st.floats(0.1, 60))
#: Seconds between one who asks and the next.
pauses = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@given(rates, pauses, st.data())
def test_no_span_ever_has_more_than_the_rate(
    rate: Rate, pauses: list[float], data: st.DataObject
) -> None:
    """P28: wherever between asking and the end of the lag each of them arrives."""
    window, now, arrived = Window(), 1e9, []
    for pause in pauses:
        now += pause
        cost = data.draw(st.integers(1, rate.count))
        [verdict] = decide([Request([("w", rate)], cost)], {"w": window}, now, LAG)
        if not verdict.key:
            arrived += [now + data.draw(st.floats(0, LAG)) for _ in range(cost)]
    assert most_in(arrived, rate.seconds * (1 - 1e-6)) <= rate.count
    assert len(window.times) <= rate.count


@given(rates, pauses, st.integers(1, 30))
def test_who_comes_when_told_is_let_go(rate: Rate, pauses: list[float], cost: int) -> None:
    """P28: nobody starves, and nobody is told to wait for longer than the window lasts."""
    window, now = Window(), 1e9
    for pause in pauses:
        now += pause
        request = Request([("w", rate)], cost)
        [verdict] = decide([request], {"w": window}, now, LAG)
        if verdict.key:
            batches = -(-cost // rate.count)
            assert 0 < verdict.wait <= rate.seconds * batches + LAG + 1e-6
            now += verdict.wait + 1e-6
            [verdict] = decide([request], {"w": window}, now, LAG)
            assert verdict == Verdict(0.0, "", now + LAG)


@given(rates, st.integers(1, 50))
def test_what_is_more_than_the_rate_is_followed_by_as_long_a_pause(rate: Rate, cost: int) -> None:
    """P28: an album counts every message of it."""
    window = Window()
    window.book(rate, cost, 1e9)
    if cost >= rate.count:
        assert window.due(rate, 1) >= 1e9 + (cost // rate.count) * rate.seconds - 1e-6
    assert len(window.times) == min(cost, rate.count)


@given(rates, st.lists(st.floats(1e9, 1e9 + 60), max_size=20), st.integers(1, 8))
def test_the_moment_is_the_first_that_fits(rate: Rate, times: list[float], cost: int) -> None:
    window = Window(sorted(times)[-rate.count :])
    due, cost = window.due(rate, cost), min(cost, rate.count)

    def fits(now: float) -> bool:
        kept = window.times
        return len(kept) - bisect_right(kept, now - rate.seconds) + cost <= rate.count

    assert fits(due + 1e-6)
    assert due == 0.0 or not fits(due - 1e-6)


def test_a_request_is_granted_in_all_of_its_windows_or_in_none() -> None:
    one, bot = Rate(1, 1), Rate(2, 1)
    windows = {"a": Window(), "b": Window(), "bot": Window()}
    asked = [Request([(chat, one), ("bot", bot)], 1) for chat in ("a", "a", "b", "b")]
    granted = Verdict(0, "", 1e9)
    verdicts = decide(asked, windows, 1e9, 0.0)
    assert verdicts == [granted, Verdict(1, "a"), granted, Verdict(1, "b")]
    assert [len(each.times) for each in windows.values()] == [1, 1, 2]


def test_a_large_one_that_waits_is_not_overtaken_by_small_ones() -> None:
    """P28: or they would take the room that it waits for for ever."""
    bot = Rate(5, 1)
    windows = {"bot": Window([1e9 - 0.5])}
    asked = [Request([("bot", bot)], cost) for cost in (5, 1, 1)]
    assert decide(asked, windows, 1e9, 0.0) == [Verdict(0.5, "bot")] * 3
    assert decide(asked[1:], windows, 1e9, 0.0) == [Verdict(0.0, "", 1e9)] * 2


def test_a_pause_holds_up_what_costs_nothing_too() -> None:
    windows = {"a": Window(paused_until=1e9 + 3)}
    for cost, rate in ((0, None), (1, None), (1, Rate(1, 1))):
        [verdict] = decide([Request([("a", rate)], cost)], windows, 1e9, LAG)
        assert verdict == Verdict(3, "a")
        [verdict] = decide([Request([("a", rate)], 0)], windows, 1e9 + 3, LAG)
        assert not verdict.key
    assert not windows["a"].times


@given(rates, pauses, st.integers(1, 20))
def test_what_is_given_back_leaves_the_window_as_it_was(
    rate: Rate, pauses: list[float], cost: int
) -> None:
    """P28: who got room too late to use it changes it for other room."""
    window, now = Window(), 1e9
    for pause in pauses:
        now += pause
        before = list(window.times)
        [verdict] = decide([Request([("w", rate)], cost)], {"w": window}, now, LAG)
        if not verdict.key:
            window.give_back(rate, cost, verdict.booked)
            # Of what was there before, that alone is forgotten which holds nothing up any more.
            assert window.times == before[len(before) - len(window.times) :]
            assert all(at + rate.seconds <= now for at in before[: len(before) - len(window.times)])
            window.book(rate, cost, verdict.booked)


@given(
    rates,
    st.lists(st.tuples(st.integers(1, 8), st.floats(0, 20)), min_size=1, max_size=40),
    st.floats(0, 120),
)
def test_room_that_is_kept_is_no_room_above_the_rate(
    rate: Rate, senders: list[tuple[int, float]], patience: float
) -> None:
    """P28: whoever comes when told, others come meanwhile, and nothing is above the rate."""
    window, arrived = Window(), []
    coming = [(1e9 + at, number, cost, 0.0) for number, (cost, at) in enumerate(senders)]
    for _ in range(400):
        if not coming:
            break
        coming.sort()
        now, number, cost, booked = coming.pop(0)
        request = Request([("w", rate)], cost, booked, patience)
        [verdict] = decide([request], {"w": window}, now, LAG)
        if verdict.key:
            coming.append((now + verdict.wait + 1e-3, number, cost, verdict.booked))
        else:
            # What is more than the rate counts is so in one go, whatever is done.
            arrived += [now] * min(cost, rate.count)
        assert len(window.times) <= rate.count
    assert most_in(arrived, rate.seconds * (1 - 1e-6)) <= rate.count


def test_a_large_one_has_room_kept_for_it_while_it_waits() -> None:
    """P28: small ones of other processes do not take it."""
    rate = Rate(4, 1)
    large, small = Request([("w", rate)], 4, patience=5), Request([("w", rate)], 1, patience=5)
    windows = {"w": Window([1e9 - 0.5])}
    [told] = decide([large], windows, 1e9, 0.0)
    assert told == Verdict(0.5, "w", 1e9 + 0.5)
    assert decide([small], windows, 1e9 + 0.1, 0.0)[0].key == "w"
    [after] = decide([small], windows, 1e9 + 0.5, 0.0)
    assert after.wait == 1.0
    [granted] = decide([large._replace(booked=told.booked)], windows, 1e9 + 0.5, 0.0)
    assert granted == Verdict(0.0, "", 1e9 + 0.5)
    assert windows["w"].times == [1e9 + 0.5] * 4


def test_no_room_is_kept_for_who_does_not_wait_nor_where_it_is_far_off() -> None:
    rate, slow = Rate(4, 1), Rate(1, 60)
    windows = {"w": Window([1e9 - 0.5]), "slow": Window([1e9 - 1])}
    assert decide([Request([("w", rate)], 4)], windows, 1e9, 0.0) == [Verdict(0.5, "w")]
    assert windows["w"].times == [1e9 - 0.5]
    both = Request([("slow", slow), ("w", rate)], 2, patience=60)
    [verdict] = decide([both], windows, 1e9, 0.0)
    assert (verdict.key, verdict.wait, verdict.booked) == ("slow", 59, 1e9 + 59)
    assert windows["w"].times == [1e9 - 0.5]  # within a second of then it has none to keep yet
    assert windows["slow"].times == [1e9 + 119]


def test_what_was_made_is_booked_whatever_room_there_is() -> None:
    rate = Rate(2, 10)
    windows = {"w": Window([1e9, 1e9 + 1], paused_until=2e9)}
    made = Request([("w", rate)], 1, 1e9 + 1, is_made=True)
    assert decide([made], windows, 1e9 + 5, LAG) == [Verdict(0.0, "", 1e9 + 5)]
    assert windows["w"].times == [1e9, 1e9 + 5]
    assert decide([made], windows, 1e9 + 6, LAG) == [Verdict(0.0, "", 1e9 + 6)]
    assert windows["w"].times == [1e9 + 5, 1e9 + 6]


@given(rates, st.integers(1, 100))
def test_a_clock_that_is_put_back_holds_nothing_up_for_long(rate: Rate, cost: int) -> None:
    window = Window([1e9 + 1e6])
    [verdict] = decide([Request([("w", rate)], cost)], {"w": window}, 1e9, LAG)
    assert verdict.wait <= rate.seconds + 1e-6
    window = Window()
    window.book(rate, cost, 1e9 + LAG)
    booked = list(window.times)
    decide([Request([("w", rate)], 1)], {"w": window}, 1e9, LAG)
    assert set(window.times) >= set(booked)  # that much may be ahead
