"""How the pages show an item, and the chart of the last day."""

from __future__ import annotations

from typing import Any

import pytest

from events import CREDENTIAL_DEAUTH, LABEL_APPLIED, MESSAGE_PUBLISHED, Subject
from inbox.records import AttemptRecord, Hour, Record
from inbox.schema import DELIVERED, PARKED
from operations.pages import (
    CANNOT_BE_SENT,
    FIRST_WORDS,
    LEAST_HEIGHT,
    PLOT_HEIGHT,
    SEND_OR_GIVE_UP,
    Glance,
    columns,
    glance,
    groups,
    long_waits,
    readable,
    reference_words,
    remedy,
    tab_title,
    top_of,
)
from operations.verdict import Verdict


def record(subject_id: str = "twitter:1", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "id": 1,
        "destination": "zendesk",
        "event_uuid": "e1",
        "subject_id": subject_id,
        "source": "push",
        "request_id": None,
        "state": DELIVERED,
        "reason": None,
        "attempts": 1,
        "received_at": 0.0,
        "next_attempt_at": 0.0,
        "settled_at": 1.0,
        "reference": "1042",
        "payload_kept": True,
        "link": None,
        "under_way": False,
        "reference_state": None,
    }
    return Record(**{**values, **changes})


def subject(raw: object, event: str = LABEL_APPLIED) -> Subject:
    raw = {"entityId": "twitter:1", **raw} if isinstance(raw, dict) else raw
    return Subject.parse({"event": event, "item": raw})


@pytest.mark.parametrize(
    ("subject_id", "about", "shown"),
    [
        ("twitter:1", subject({"author": "Mara", "text": "My\norder"}), Glance("X", "Mara", "My\norder")),
        ("facebook:1", subject({"authorScreenName": "mara"}), Glance("Facebook", "mara")),
        ("facebook:1", subject({"text": "Hi"}), Glance("Facebook", "facebook:1", "Hi")),
        ("twitter:1", subject({"author": "Ma\u202era\x00", "text": "a\u202eb"}), Glance("X", "Mara", "ab")),
        ("twitter:1", None, Glance("X", "twitter:1")),  # hidden, or not kept any more
        ("twitter:1", subject("x"), Glance("X", "twitter:1")),
        ("twitter:1", subject({"entityId": ""}), Glance("X", "twitter:1")),
        ("twitter:1", subject({"text": "18 &lt; 36"}), Glance("X", "twitter:1", "18 < 36")),  # X writes it so
        ("", subject(None), Glance("Khoros", "Not readable")),
        ("native-1", None, Glance("Native-1", "native-1")),
        (
            "message-published:7",
            subject({"service": "FACEBOOK", "content": {"text": "New roast"}}, MESSAGE_PUBLISHED),
            Glance("Facebook", "Published message", "New roast"),
        ),
        ("message-published:7", None, Glance("Published message", "message-published:7")),
        (
            "credential-deauth:7",
            subject({"service": "TWITTER", "name": "@acme"}, CREDENTIAL_DEAUTH),
            Glance("X", "Disconnected account", "@acme"),
        ),
        ("twitter:1", subject({"ticket": "1606", "link": "x"}, "ticket-solved"), Glance("X", "Ticket #1606 solved")),
    ],
)
def test_an_item_is_recognised_by_network_author_and_words(
    subject_id: str, about: Subject | None, shown: Glance
) -> None:
    assert glance(record(subject_id), about) == shown


def test_a_row_has_the_first_words_on_one_line() -> None:
    words = Glance("X", "Mara", "word\n" * 100).first_words
    assert "\n" not in words and len(words) <= FIRST_WORDS and words.endswith("…")


def test_a_long_name_is_cut() -> None:
    assert len(glance(record(), subject({"author": "M" * 500})).author) == 80


def test_a_number_is_a_tickets_and_any_other_reference_is_not_read_out() -> None:
    assert reference_words(record(), "ticket") == "Ticket #1042"
    assert reference_words(record(reference="C1/1503435956.000247"), "message") == "message"
    assert reference_words(record(reference=None), "ticket") == "ticket"


def test_what_could_never_be_read_is_not_to_be_sent_again() -> None:
    assert remedy(record(state=PARKED)) == SEND_OR_GIVE_UP
    assert remedy(record(state=PARKED, destination="")) == CANNOT_BE_SENT
    assert remedy(record(state=PARKED, payload_kept=False)) == CANNOT_BE_SENT


def test_only_items_that_were_refused_alike_stand_together() -> None:
    def parked(item_id: int, reason: str | None, **changes: Any) -> Record:
        return record(id=item_id, state=PARKED, reason=reason, **changes)

    items = [
        parked(1, "a"),
        record(id=2),
        parked(3, "b"),
        parked(4, "a"),
        record(id=5),
        parked(6, "a", payload_kept=False),
    ]
    items.append(parked(7, "a", destination="slack:#crisis"))
    assert [[one.id for one in group] for group in groups(items)] == [[1, 4], [2], [3], [5], [6], [7]]


def test_a_wait_is_counted_from_the_end_of_the_attempt_before() -> None:
    def attempt(number: int, at: float, took_s: float = 0.1) -> AttemptRecord:
        return AttemptRecord(1, number, at, took_s, "outage", 503, None, None)

    made = {one.number: one for one in (attempt(1, 38.0, 20.0), attempt(2, 60.0), attempt(3, 70.1), attempt(5, 500.0))}
    assert long_waits(record(attempts=5), made) == {1: 38.0, 3: pytest.approx(10.0)}  # nobody knows when 4 ended
    assert long_waits(record(attempts=1), {}) == {}


def test_a_tab_shows_the_verdict_at_a_glance() -> None:
    assert [tab_title(Verdict(level, "So.")) for level in ("good", "wait", "bad")] == ["✓ So.", "… So.", "! So."]


def test_what_cannot_be_seen_in_a_payload_is_spelt_out() -> None:
    assert readable({"a": "é\u202e\x00😀"}) == '{\n  "a": "é\\u202e\\u0000😀"\n}'


# The chart


def day(**last: int) -> list[Hour]:
    return [*(Hour(n * 3600.0) for n in range(23)), Hour(23 * 3600.0, **last)]


@pytest.mark.parametrize(
    ("most", "top"),
    [(0, 1), (1, 1), (3, 3), (7, 8), (10, 10), (11, 20), (60, 60), (61, 80), (601, 800), (9_999, 10_000)],
)
def test_the_scale_ends_at_a_round_number(most: int, top: int) -> None:
    assert top_of(day(delivered=most)) == top


def test_a_column_is_as_high_as_its_posts_are_many() -> None:
    found = columns([Hour(0.0, delivered=20), *day(delivered=10, pending=5, parked=5)[1:]])
    assert found[0] == [("delivered", 0.0, PLOT_HEIGHT)]
    assert found[1] == []
    assert found[23] == [("parked", 75.0, 25.0), ("pending", 50.0, 25.0), ("delivered", 0.0, 50.0)]


def test_one_parked_post_of_six_hundred_is_seen() -> None:
    [*_, last] = columns(day(delivered=599, parked=1))
    rest = PLOT_HEIGHT - LEAST_HEIGHT
    assert last == [("parked", rest, LEAST_HEIGHT), ("delivered", 0.0, rest)]


def test_no_column_leaves_the_plot() -> None:
    for hour in (Hour(0.0, 1_000, 1, 1), Hour(0.0, 1, 1_000, 1), Hour(0.0, 1, 1, 1_000), Hour(0.0, 1, 1, 1)):
        [column, *_] = columns([hour, *day()[1:]])
        assert sum(height for _, _, height in column) <= PLOT_HEIGHT
        for (_, below, _), (_, top, height) in zip(column, column[1:], strict=False):
            assert top >= 0 and top + height == pytest.approx(below, abs=0.02)
