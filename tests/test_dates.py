"""A date of Khoros' is read in its own zone, or not at all."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dates import date_words, read_date


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Wed Apr 12 09:01:11 CDT 2017", "2017-04-12T14:01:11+00:00", id="as published: Chicago, summer"),
        pytest.param("Thu Jan 12 09:01:11 CST 2017", "2017-01-12T15:01:11+00:00", id="Chicago, winter"),
        pytest.param("Wed Apr 12 09:01:11 PDT 2017", "2017-04-12T16:01:11+00:00", id="Los Angeles"),
        pytest.param("Wed Apr 12 09:01:11 BST 2017", "2017-04-12T08:01:11+00:00", id="London, summer"),
        pytest.param("Wed Apr 12 09:01:11 IST 2017", "2017-04-12T03:31:11+00:00", id="Kolkata, half an hour"),
        pytest.param("Wed Apr 12 09:01:11 UTC 2017", "2017-04-12T09:01:11+00:00", id="UTC"),
        pytest.param("Wed Apr 12 09:01:11 GMT 2017", "2017-04-12T09:01:11+00:00", id="GMT"),
        pytest.param("Wed Apr 12 09:01:11 GMT-03:00 2017", "2017-04-12T12:01:11+00:00", id="Java, three hours behind"),
        pytest.param("Wed Apr 12 09:01:11 GMT+05:30 2017", "2017-04-12T03:31:11+00:00", id="Java, ahead"),
        pytest.param("Wed Apr 12 2017 09:01:11 GMT-0500 (CDT)", "2017-04-12T14:01:11+00:00", id="JavaScript"),
        pytest.param("Wed, 12 Apr 2017 09:01:11 GMT", "2017-04-12T09:01:11+00:00", id="as in HTTP"),
        pytest.param("2017-04-12 09:01:11 CDT", "2017-04-12T14:01:11+00:00", id="ISO with a zone's name"),
        pytest.param("2017-04-12 09:01:11.5 +02:00", "2017-04-12T07:01:11.500000+00:00", id="ISO with blanks"),
        pytest.param("2011-05-26T18:23:31.000Z", "2011-05-26T18:23:31+00:00", id="as published: ISO"),
        pytest.param("2011-05-26T18:23:31.000+0200", "2011-05-26T16:23:31+00:00", id="ISO with an offset"),
        pytest.param(1306434211500, "2011-05-26T18:23:31.500000+00:00", id="milliseconds"),
        pytest.param("1306434211500", "2011-05-26T18:23:31.500000+00:00", id="milliseconds as text"),
    ],
)
def test_a_date_of_khoros_is_read_in_its_own_zone(value: object, expected: str) -> None:
    assert read_date(value) == datetime.fromisoformat(expected).timestamp()


ZONES = {
    **{"CST": -6, "CDT": -5, "EST": -5, "EDT": -4, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9, "AKDT": -8},
    **{"HST": -10, "AST": -4, "ADT": -3, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2},
    **{"EET": 2, "EEST": 3, "MSK": 3, "SAST": 2, "IST": 5.5, "HKT": 8, "JST": 9, "KST": 9, "AWST": 8, "ACST": 9.5},
    **{"ACDT": 10.5, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13},
}


@pytest.mark.parametrize("zone", ZONES)
def test_a_zone_is_known_by_its_name(zone: str) -> None:
    at = datetime.fromisoformat("2017-04-12T09:01:11+00:00").timestamp() - ZONES[zone] * 3600
    assert read_date(f"Wed Apr 12 09:01:11 {zone} 2017") == read_date(f"2017-04-12 09:01:11 {zone}") == at


@pytest.mark.parametrize("offset", ["+99:99", "+25:00", "-24:00"])
def test_a_date_with_an_impossible_offset_is_none(offset: str) -> None:
    assert read_date(f"2011-05-26T18:23:31{offset}") is None
    assert read_date(f"Thu May 26 18:23:31 GMT{offset} 2011") is None


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.sampled_from("Apr 12 2017 09:01:11 CDT +0500 -0000 GMT- 9:: ² , Z T".split()) | st.text(max_size=5)))
def test_no_words_break_the_reading_of_a_date(words: list[str]) -> None:
    assert isinstance(read_date(" ".join(words)), float | None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        [],
        "soon",
        "2017",
        "09:01",
        "Wed Apr 12 09:01:11 XYZ 2017",
        "Wed Apr 12 09:01:11 Pacific/Auckland 2017",
        "Wed Apr 12 09:01:11 2017",
        "Wed Apr 12 09:01:11 -0000 2017",
        "Wed Apr 12 09:01:11 GMT-03:75 2017",
        "Wed Apr 12 09:01:11 CDT 17",
        "Wed Apr 32 09:01:11 CDT 2017",
        "2017-04-12T09:01:11.123456789XYZ",
        "2011-05-26T18:23:31",
        "2011-05-26",
        "2011-99-99T18:23:31Z",
        "12:01 20179999999999999999999 UTC",
        "1306434211",
    ],
    ids=ascii,
)
def test_a_date_that_is_not_sure_is_none(value: object) -> None:
    assert read_date(value) is None


@pytest.mark.parametrize(
    "text",
    ["Wed Apr 12 09:01:11 CDT 0001", "0001-01-01T00:00:00Z", "Wed Apr 12 09:01:11 +1200 0017", "12 Apr 17 09:01 +1000"],
)
def test_a_year_before_1000_is_no_date(text: str) -> None:
    assert read_date(text) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2026-11-27T02:07:31.000Z", "27 Nov 2026, 02:07 UTC"),
        ("Wed Apr 12 09:01:11 CDT 2017", "12 Apr 2017, 14:01 UTC"),
        ("1795745251000", "27 Nov 2026, 02:07 UTC"),
        ("lately", "lately"),
        ("9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59-12:00"),
        ("", ""),
    ],
)
def test_a_date_is_written_as_people_read_it(value: str, words: str) -> None:
    assert date_words(value) == words
