"""The gate in front of a destination: when items may leave, how many at once, and how each outcome moves it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inbox.gate import (
    AUTH_BACKOFF_S,
    BACKOFF_S,
    LIMITED,
    MAX_HOLD_S,
    OPEN,
    OUTAGE,
    PATIENCE,
    UNAUTHORISED,
    Gate,
    retry_delay_s,
)

NOW = 1_800_000_000.0  # a database's clock
CLOSED = [LIMITED, OUTAGE, UNAUTHORISED]


def closed(state: str, for_s: float, **changes: int) -> Gate:
    return Gate(state, "reason", version=3, hold_until=NOW + for_s, **changes)


def failed(gate: Gate, state: str = OUTAGE, retry_after_s: float | None = None) -> Gate:
    return gate.after_failure(NOW, gate.version, state, "Zendesk answered 503", retry_after_s)


# Holding


@pytest.mark.parametrize(
    ("hold_until", "expected"),
    [
        (0.0, 0.0),
        (NOW - 1, 0.0),
        (NOW, 0.0),
        (NOW + 0.5, 0.5),
        (NOW + MAX_HOLD_S, MAX_HOLD_S),
        (NOW + MAX_HOLD_S + 1, 0.0),
        (float("inf"), 0.0),
    ],
    ids=["never held", "over", "just over", "half a second", "an hour", "more than an hour", "for ever"],
)
def test_a_hold_ends_at_its_time_and_after_an_hour_at_most(hold_until: float, expected: float) -> None:
    assert Gate(OUTAGE, hold_until=hold_until).held_for(NOW) == expected


# Places


def test_an_open_gate_lets_everything_leave() -> None:
    assert Gate().places(NOW, under_way=3, free=5) == 5


@pytest.mark.parametrize("state", CLOSED)
@pytest.mark.parametrize(
    ("for_s", "free", "expected"), [(1.0, 8, 0), (0.0, 8, 1), (0.0, 0, 0)], ids=["held", "a probe", "nobody is free"]
)
def test_a_closed_gate_lets_one_probe_leave_when_its_time_has_come(
    state: str, for_s: float, free: int, expected: int
) -> None:
    assert closed(state, for_s).places(NOW, under_way=0, free=free) == expected


@pytest.mark.parametrize(
    ("calls_left", "under_way", "free", "expected"),
    [
        pytest.param(100, 0, 8, 8, id="plenty"),
        pytest.param(7, 0, 8, 3, id="two calls for each"),
        pytest.param(7, 2, 8, 1, id="those under way count"),
        pytest.param(7, 3, 8, 0, id="all under way"),
        pytest.param(7, 9, 8, 0, id="more under way than are left"),
        pytest.param(1, 0, 8, 0, id="one call is not enough"),
        pytest.param(0, 0, 8, 0, id="none left"),
    ],
)
def test_no_more_leave_than_the_rate_limit_has_calls_for(
    calls_left: int, under_way: int, free: int, expected: int
) -> None:
    gate = Gate(calls_left=calls_left, window_ends_at=NOW + 30)
    assert gate.places(NOW, under_way, free) == expected


@pytest.mark.parametrize("ends_in_s", [-1.0, 0.0, MAX_HOLD_S + 1], ids=["over", "just over", "more than an hour away"])
def test_the_count_of_another_window_limits_nothing(ends_in_s: float) -> None:
    assert Gate(calls_left=0, window_ends_at=NOW + ends_in_s).places(NOW, 0, 8) == 8


# Probing


@pytest.mark.parametrize("state", CLOSED)
def test_a_closed_gate_knows_its_probe_until_the_next_change(state: str) -> None:
    gate = closed(state, 0.0, failures=2)
    probing = gate.probing(7)
    assert probing == replace(gate, probe=7)
    assert probing.after_success(NOW, version=3).probe is None
    assert failed(probing, state).probe is None


def test_an_open_gate_has_no_probes() -> None:
    assert Gate().probing(7) == Gate()


# Counting


@pytest.mark.parametrize(
    ("gate", "calls_left", "reset_s", "expected"),
    [
        pytest.param(Gate(), 700, 60.0, (700, NOW + 60), id="the first count"),
        pytest.param(Gate(calls_left=10, window_ends_at=NOW + 30), 9, 30.0, (9, NOW + 30), id="one less"),
        pytest.param(Gate(calls_left=10, window_ends_at=NOW + 30), 12, 30.0, (10, NOW + 30), id="overtaken"),
        pytest.param(Gate(calls_left=10, window_ends_at=NOW + 30), 12, 28.0, (10, NOW + 28), id="whole seconds, early"),
        pytest.param(Gate(calls_left=10, window_ends_at=NOW + 30), 12, 32.0, (10, NOW + 32), id="whole seconds, late"),
        pytest.param(Gate(calls_left=10, window_ends_at=NOW + 30), 700, 60.0, (700, NOW + 60), id="the next window"),
        pytest.param(Gate(calls_left=699, window_ends_at=NOW + 60), 3, 5.0, (699, NOW + 60), id="the one before"),
        pytest.param(Gate(calls_left=0, window_ends_at=NOW), 700, 60.0, (700, NOW + 60), id="after the window's end"),
        pytest.param(Gate(calls_left=0, window_ends_at=NOW - 1), 700, 0.0, (700, NOW), id="after it, and over"),
    ],
)
def test_within_a_window_the_lowest_count_is_kept(
    gate: Gate, calls_left: int, reset_s: float, expected: tuple[int, float]
) -> None:
    counted = gate.counted(NOW, calls_left, reset_s)
    assert (counted.calls_left, counted.window_ends_at) == expected
    assert (counted.state, counted.version) == (gate.state, gate.version)


@pytest.mark.parametrize(
    ("calls_left", "ends_in_s", "known"),
    [(None, 30.0, None), (7, 30.0, 7), (0, 30.0, 0), (7, 0.0, None), (7, MAX_HOLD_S + 1, None)],
)
def test_the_calls_left_are_known_only_within_their_window(
    calls_left: int | None, ends_in_s: float, known: int | None
) -> None:
    assert Gate(calls_left=calls_left, window_ends_at=NOW + ends_in_s).calls_known(NOW) == known


# Success


@pytest.mark.parametrize("state", CLOSED)
def test_a_success_opens_the_gate_and_clears_the_failures(state: str) -> None:
    opened = closed(state, 9.0, failures=4).after_success(NOW, version=3)
    assert opened == Gate(OPEN, "", version=4, failures=0, hold_until=0.0)


def test_a_success_does_not_change_an_open_gate() -> None:
    gate = Gate(version=3, calls_left=2, window_ends_at=NOW + 30)
    assert gate.after_success(NOW, version=3) == gate


@pytest.mark.parametrize("state", [OPEN, *CLOSED])
@pytest.mark.parametrize("calls_left", [0, 1])
def test_a_success_with_the_last_calls_closes_the_gate_until_the_next_window(state: str, calls_left: int) -> None:
    gate = Gate(state, version=3, calls_left=calls_left, window_ends_at=NOW + 30)
    limited = gate.after_success(NOW, version=3)
    assert (limited.state, limited.version, limited.held_for(NOW)) == (LIMITED, 4, 30.0)
    assert "used up" in limited.reason
    assert limited.places(NOW + 30, 0, 8) == 1


def test_the_last_calls_of_a_window_that_is_over_are_no_limit() -> None:
    gate = Gate(LIMITED, version=3, calls_left=0, window_ends_at=NOW)
    assert gate.after_success(NOW, version=3).state == OPEN


# Failure


@pytest.mark.parametrize("state", CLOSED)
def test_a_failure_closes_the_gate_with_a_reason(state: str) -> None:
    gate = failed(Gate(version=3), state)
    assert (gate.state, gate.reason, gate.version, gate.failures) == (state, "Zendesk answered 503", 4, 1)
    assert gate.held_for(NOW) > 0


@pytest.mark.parametrize(
    ("state", "steps"),
    [(OUTAGE, BACKOFF_S), (LIMITED, BACKOFF_S), (UNAUTHORISED, AUTH_BACKOFF_S)],
    ids=["outage", "limited", "unauthorised"],
)
def test_each_failed_probe_waits_longer_up_to_a_last_step(state: str, steps: tuple[float, ...]) -> None:
    gate, waits = Gate(), []
    for _ in range(len(steps) + 2):
        gate = failed(gate, state)
        waits.append(gate.held_for(NOW))
    assert waits == [*steps, steps[-1], steps[-1]]


def test_an_outage_is_probed_after_a_second_then_less_often_and_every_30_s_at_most() -> None:
    assert (BACKOFF_S[0], BACKOFF_S[-1]) == (1.0, 30.0)
    assert list(BACKOFF_S) == sorted(BACKOFF_S)


def test_trouble_of_another_kind_starts_at_the_first_step() -> None:
    gate = failed(failed(failed(Gate())), UNAUTHORISED)
    assert (gate.failures, gate.held_for(NOW)) == (1, AUTH_BACKOFF_S[0])


@pytest.mark.parametrize(
    ("state", "failures", "retry_after_s", "wait_s"),
    [
        pytest.param(LIMITED, 0, 42.0, 42.0, id="as long as it asks"),
        pytest.param(LIMITED, 5, 2.0, 2.0, id="no longer, when limited"),
        pytest.param(LIMITED, 5, 0.0, 1.0, id="a second at least"),
        pytest.param(OUTAGE, 0, 42.0, 42.0, id="an outage that says how long"),
        pytest.param(OUTAGE, 4, 2.0, 16.0, id="an outage that says too little"),
        pytest.param(UNAUTHORISED, 0, 0.0, 5.0, id="unauthorised"),
        pytest.param(LIMITED, 0, 99_999.0, MAX_HOLD_S, id="more than an hour"),
        pytest.param(LIMITED, 0, float("inf"), MAX_HOLD_S, id="for ever"),
    ],
)
def test_the_wait_is_as_long_as_the_destination_asks(
    state: str, failures: int, retry_after_s: float, wait_s: float
) -> None:
    gate = failed(Gate(state, failures=failures), state, retry_after_s)
    assert gate.held_for(NOW) == wait_s


# Late answers


@pytest.mark.parametrize("state", [OPEN, *CLOSED])
@pytest.mark.parametrize("version", [2, 4])
def test_answers_to_calls_of_another_version_are_ignored(state: str, version: int) -> None:
    gate = closed(state, 5.0, failures=1)
    assert gate.after_success(NOW, version) is gate
    assert gate.after_failure(NOW, version, OUTAGE, "late", 60.0) is gate


def test_a_burst_of_failures_counts_as_one() -> None:
    gate = Gate()
    for _ in range(8):
        gate = gate.after_failure(NOW, 0, OUTAGE, "Zendesk answered 503", None)
    assert (gate.failures, gate.held_for(NOW)) == (1, BACKOFF_S[0])


# One item's own trouble


def test_an_item_that_failed_often_does_not_close_an_open_gate() -> None:
    gate = Gate(version=3)
    assert gate.after_failure(NOW, 3, OUTAGE, "500", None, attempts=PATIENCE).state == OUTAGE
    assert gate.after_failure(NOW, 3, OUTAGE, "500", None, attempts=PATIENCE + 1) is gate


@pytest.mark.parametrize("state", CLOSED)
def test_an_item_that_failed_often_keeps_a_closed_gate_closed(state: str) -> None:
    gate = closed(state, 0.0, failures=1).after_failure(NOW, 3, OUTAGE, "500", None, attempts=PATIENCE + 1)
    assert gate.held_for(NOW) > 0


def test_an_item_waits_longer_with_each_attempt_after_the_first_few_and_a_minute_at_most() -> None:
    assert [retry_delay_s(attempts) for attempts in range(1, 14)] == [0, 0, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60]
    assert retry_delay_s(5_000) == 60.0


# Whatever happens

History = list[tuple[str, float | None, int, float, int]]
histories = st.lists(
    st.tuples(
        st.sampled_from(["success", "probe", *CLOSED]),
        st.none() | st.floats(0, 10_000),
        st.integers(0, 700),
        st.floats(0, 120),
        st.integers(-1, 0),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None, database=None)
@given(histories)
def test_no_history_closes_the_gate_for_good_or_lets_more_leave_than_are_free(history: History) -> None:
    gate, now = Gate(), NOW
    for outcome, retry_after_s, calls_left, reset_s, lag in history:
        before, version = gate, gate.version + lag
        gate = gate.counted(now, calls_left, reset_s)
        if outcome == "success":
            gate = gate.after_success(now, version)
        elif outcome == "probe":
            gate = gate.probing(7)
        else:
            gate = gate.after_failure(now, version, outcome, "reason", retry_after_s)
        assert gate.version - before.version in (0, 1)
        assert 0 <= gate.places(now, 2, 5) <= 5
        assert gate.places(now + MAX_HOLD_S + 1, 0, 5) >= 1
        now += 1.5
