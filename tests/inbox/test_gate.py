"""The gate in front of a destination: when items may leave, how many at once, and how each outcome moves it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inbox.gate import (
    AUTH_BACKOFF_S,
    BACKOFF_S,
    IN_A_ROW,
    LIMITED,
    MAX_HOLD_S,
    OPEN,
    OUTAGE,
    REFUSING,
    ROUND_S,
    UNAUTHORISED,
    Gate,
    retry_delay_s,
)

NOW = 1_800_000_000.0  # a database's clock
CLOSED = [LIMITED, OUTAGE, UNAUTHORISED, REFUSING]


def closed(state: str, for_s: float, **changes: Any) -> Gate:
    return Gate(state, "reason", version=3, hold_until=NOW + for_s, **changes)


def failed(gate: Gate, state: str = OUTAGE, retry_after_s: float | None = None) -> Gate:
    return gate.after_failure(NOW, gate.version, state, "Zendesk answered 503", retry_after_s)


def failed_item(gate: Gate, item_id: int, likeness: str = "refused 422", state: str = REFUSING, **more: Any) -> Gate:
    """The gate after an item failed though the destination works."""
    version, again = more.get("version", gate.version), more.get("again", False)
    return gate.after_failed_item(NOW, version, state, "Zendesk answered 422", None, likeness, item_id, again)


def refusing(state: str = REFUSING) -> Gate:
    """The gate after so many items failed alike that it is the destination: those with the ids 1, 2, …"""
    gate = Gate()
    for item_id in range(1, IN_A_ROW + 1):
        gate = failed_item(gate, item_id, state=state)
    return gate


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


@pytest.mark.parametrize("back_s", [1.0, 60.0, 1800.0, 3600.0])
@pytest.mark.parametrize("state", CLOSED)
def test_a_hold_is_over_when_the_clock_was_set_back_to_before_it_began(state: str, back_s: float) -> None:
    gate = failed(Gate(), state, retry_after_s=8.0)
    assert gate.held_for(NOW) == 8.0
    assert gate.held_for(NOW - back_s) == 0.0
    assert refusing().held_for(NOW) > refusing().held_for(NOW - back_s) == 0.0


def test_the_wait_between_two_calls_is_never_longer_than_the_pace() -> None:
    gate = Gate(paced_until=NOW + 1.0)
    assert [gate.paced_for(NOW + moved, 1.0) for moved in (0.0, 0.75, 1.0, 2.0)] == [1.0, 0.25, 0.0, 0.0]
    assert [gate.paced_for(NOW - back, 1.0) for back in (0.5, 1800.0)] == [0.0, 0.0]
    assert gate.paced_for(NOW, 0.0) == 0.0


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
        pytest.param(11, 0, 8, 3, id="three calls for each"),
        pytest.param(11, 2, 8, 1, id="those under way count"),
        pytest.param(11, 3, 8, 0, id="all under way"),
        pytest.param(11, 9, 8, 0, id="more under way than are left"),
        pytest.param(2, 0, 8, 0, id="two calls are not enough"),
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


def test_a_count_from_before_the_clock_was_set_back_limits_nothing_and_the_next_one_counts() -> None:
    gate = Gate().counted(NOW, calls_left=0, reset_s=30.0)
    assert (gate.places(NOW, 0, 8), gate.places(NOW - 1800, 0, 8)) == (0, 8)
    again = gate.counted(NOW - 1800, calls_left=7, reset_s=20.0)
    assert (again.calls_left, again.window_ends_at) == (7, NOW - 1780)


# Probing


@pytest.mark.parametrize("state", CLOSED)
def test_a_closed_gate_knows_its_probe_until_the_next_change(state: str) -> None:
    gate = closed(state, 0.0, failures=2)
    probing = gate.probing(NOW, 7)
    assert (probing.probe, probing.state, probing.version) == (7, state, gate.version)
    assert probing.after_success(NOW, version=3).probe is None
    assert failed(probing, state).probe is None


def test_an_open_gate_has_no_probes() -> None:
    assert Gate().probing(NOW, 7) == Gate()


# Rounds


def test_while_all_are_refused_alike_those_not_tried_yet_leave_together_every_few_seconds() -> None:
    gate = refusing()
    for _ in range(4):
        gate = failed_item(gate, 1, again=True)
    assert (gate.held_for(NOW), gate.round_places(NOW + ROUND_S - 0.1, 0, 8)) == (60.0, 0)
    assert (gate.round_places(NOW + ROUND_S, 0, 8), gate.places(NOW + ROUND_S, 0, 8)) == (8, 0)
    left = gate.probing(NOW + ROUND_S, 7)
    assert [left.round_places(NOW + after_s, 0, 8) for after_s in (ROUND_S, 2 * ROUND_S)] == [0, 8]
    assert left.held_for(NOW + ROUND_S) == 55.0


def test_a_round_keeps_to_the_calls_that_are_left() -> None:
    gate = replace(refusing(), hold_until=NOW).counted(NOW, calls_left=11, reset_s=30.0)
    assert (gate.round_places(NOW, 2, 8), gate.round_places(NOW, 3, 8)) == (1, 0)


@pytest.mark.parametrize("gate", [Gate(), closed(OUTAGE, 0.0), refusing(LIMITED), failed(refusing())])
def test_there_are_no_rounds_in_another_state(gate: Gate) -> None:
    assert gate.round_places(NOW + MAX_HOLD_S - 1, 0, 8) == 0


def test_all_answers_of_a_round_count_and_make_no_hold_longer() -> None:
    gate = first = refusing()
    for item_id in range(6, 14):
        gate = failed_item(gate, item_id, version=first.version)
        assert (gate.state, gate.held_for(NOW), gate.failures) == (REFUSING, ROUND_S, 1)
    assert failed_item(gate, 14, "refused 404", version=first.version).state == OPEN
    assert gate.after_success(NOW, first.version).state == OPEN


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
    assert opened == Gate(OPEN, "", version=4, failures=0, hold_until=0.0, delivered_at=NOW, held_at=NOW)


def test_a_success_does_not_change_the_state_of_an_open_gate_and_is_remembered() -> None:
    gate = Gate(version=3, calls_left=2, window_ends_at=NOW + 30)
    assert gate.after_success(NOW, version=3) == replace(gate, delivered_at=NOW)


@pytest.mark.parametrize("calls_left", [0, 1, 2])
def test_an_open_gate_that_no_item_may_pass_closes_until_the_next_window_and_says_why(calls_left: int) -> None:
    """However the count came: a refusal, or the answer to a call of before, says it too."""
    gate = Gate(version=3, calls_left=calls_left, window_ends_at=NOW + 30)
    limited = gate.within_limit(NOW)
    assert (limited.state, limited.version, limited.held_for(NOW)) == (LIMITED, 4, 30.0)
    assert "used up" in limited.reason
    assert limited.places(NOW + 30, 0, 8) == 1


@pytest.mark.parametrize(
    "gate",
    [
        Gate(calls_left=3, window_ends_at=NOW + 30),
        Gate(calls_left=0, window_ends_at=NOW),
        Gate(),
        closed(OUTAGE, 5.0, calls_left=0),
    ],
    ids=["enough", "the window is over", "not known", "closed already"],
)
def test_a_gate_within_its_limit_stays_as_it_is(gate: Gate) -> None:
    assert gate.within_limit(NOW) is gate


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
    assert gate.after_success(NOW, version) == replace(gate, delivered_at=NOW)
    assert gate.after_failure(NOW, version, OUTAGE, "late", 60.0) is gate
    assert failed_item(gate, 7, version=version) is gate
    assert gate.after_check(NOW, version, opens=True) is gate


def test_a_burst_of_failures_counts_as_one() -> None:
    gate = Gate()
    for _ in range(8):
        gate = gate.after_failure(NOW, 0, OUTAGE, "Zendesk answered 503", None)
    assert (gate.failures, gate.held_for(NOW)) == (1, BACKOFF_S[0])


# Items that fail though the destination works


def test_one_item_that_fails_leaves_the_gate_open_however_often() -> None:
    gate = Gate(version=3)
    for _ in range(3 * IN_A_ROW):
        gate = failed_item(gate, 7)
    assert (gate.state, gate.version, gate.blamed) == (OPEN, 3, "7")


def test_two_items_that_fail_by_turns_leave_the_gate_open() -> None:
    gate = Gate()
    for item_id in (7, 8) * IN_A_ROW:
        gate = failed_item(gate, item_id)
    assert (gate.state, gate.blamed) == (OPEN, "7 8")


def test_five_different_items_in_a_row_that_are_refused_alike_close_the_gate() -> None:
    gate = refusing()
    assert (gate.state, gate.version, gate.blamed, gate.held_for(NOW)) == (REFUSING, 1, "1 2 3 4 5", AUTH_BACKOFF_S[0])
    assert gate.reason == "Zendesk answered 422: 5 different posts in a row were refused alike"


@pytest.mark.parametrize("state", [UNAUTHORISED, OUTAGE, LIMITED])
def test_five_different_items_in_a_row_that_fail_alike_close_the_gate_in_the_state_it_is_told(state: str) -> None:
    gate = Gate()
    for item_id in range(1, IN_A_ROW + 1):
        gate = failed_item(gate, item_id, f"{state} 403", state)
    assert (gate.state, gate.all_alike) == (state, True)
    assert gate.reason.endswith("failed alike")


def test_what_fails_otherwise_or_is_taken_breaks_the_row() -> None:
    for between in (lambda gate: failed_item(gate, 4, "refused 404"), lambda gate: gate.after_success(NOW, 0)):
        gate = between(failed_item(failed_item(failed_item(failed_item(Gate(), 1), 2), 3), 4))
        gate = failed_item(gate, 5)
        assert (gate.state, gate.blamed) == (OPEN, "5")


@pytest.mark.parametrize("state", [OUTAGE, LIMITED, UNAUTHORISED])
def test_an_item_that_fails_alone_proves_that_the_destination_works_again(state: str) -> None:
    gate = failed_item(closed(state, 0.0), 7)
    assert (gate.state, gate.version, gate.blamed) == (OPEN, 4, "7")


@pytest.mark.parametrize("state", CLOSED)
def test_when_all_fail_alike_a_probe_that_fails_so_too_holds_longer(state: str) -> None:
    gate = refusing(state=state)
    waits = []
    for item_id in (6, 1, 7, 8):
        gate = failed_item(gate, item_id, state=state, again=True)
        waits.append(gate.held_for(NOW))
        assert (gate.state, gate.all_alike, gate.blamed) == (state, True, "1 2 3 4 5")
    assert waits == [15.0, 30.0, 60.0, 60.0]


def test_when_all_fail_alike_a_probe_that_fails_otherwise_opens() -> None:
    gate = failed_item(refusing(), 6, "refused 404")
    assert (gate.state, gate.blame, gate.blamed) == (OPEN, "refused 404", "6")


@pytest.mark.parametrize("version", [0, 1])
def test_when_all_fail_alike_any_success_opens(version: int) -> None:
    """Also of a call that was under way already: the destination takes others."""
    gate = refusing().after_success(NOW, version)
    assert (gate.state, gate.blame, gate.blamed, gate.version) == (OPEN, "", "", 2)


def test_an_outage_between_two_probes_does_not_make_forget_that_all_fail_alike() -> None:
    gate = failed(refusing())
    assert (gate.state, gate.all_alike) == (OUTAGE, True)
    assert failed_item(gate, 6).state == REFUSING


def test_a_check_opens_a_closed_gate_but_when_all_fail_alike_it_only_ends_the_hold() -> None:
    assert closed(OUTAGE, 9.0).after_check(NOW, 3, opens=False).state == OPEN
    gate = refusing()
    probing = gate.after_check(NOW, gate.version, opens=False)
    assert (probing.state, probing.held_for(NOW), probing.all_alike) == (REFUSING, 0.0, True)
    opened = gate.after_check(NOW, gate.version, opens=True)
    assert (opened.state, opened.blamed) == (OPEN, "")


def test_a_check_of_an_open_gate_changes_nothing() -> None:
    gate = failed_item(Gate(), 1)
    assert gate.after_check(NOW, gate.version, opens=True) is gate


def test_the_reason_fits_its_column() -> None:
    gate = Gate(blame="refused", blamed="1 2 3 4").after_failed_item(NOW, 0, REFUSING, "é" * 900, None, "refused", 5)
    assert len(gate.reason) <= 500 and gate.reason.endswith("refused alike")


def test_an_item_that_fails_alone_waits_longer_each_time_and_a_minute_at_most() -> None:
    assert [retry_delay_s(failures) for failures in range(1, 9)] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert retry_delay_s(5_000) == 60.0


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"),
    [(600.0, 600.0), (0.5, 8.0), (0.0, 8.0), (99_999.0, MAX_HOLD_S), (float("inf"), 3600.0)],
)
def test_an_item_that_fails_alone_waits_as_long_as_the_destination_asks(retry_after_s: float, wait_s: float) -> None:
    assert retry_delay_s(3, retry_after_s) == wait_s


# Whatever happens

History = list[tuple[str, float | None, int, float, int]]
histories = st.lists(
    st.tuples(
        st.sampled_from(["success", "probe", "item", "other item", *CLOSED]),
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
            gate = gate.probing(now, 7)
        elif outcome.endswith("item"):
            gate = gate.after_failed_item(now, version, REFUSING, "422", retry_after_s, outcome[:3], calls_left)
        else:
            gate = gate.after_failure(now, version, outcome, "reason", retry_after_s)
        gate = gate.within_limit(now)
        assert gate.version - before.version in (0, 1, 2)
        assert 0 <= gate.places(now, 2, 5) <= 5
        assert gate.places(now + MAX_HOLD_S + 1, 0, 5) >= 1
        now += 1.5
