"""Strangers' text made safe and short."""

from __future__ import annotations

import pytest

from destinations.text import clean, cut, one_line, service_name


def test_characters_that_hide_or_reverse_others_are_taken_out() -> None:
    assert clean("a\u202egnp.exe\u2066b\u2069\x00\x1b[31m\ud83d") == "agnp.exeb[31m"
    assert clean("a\r\nb\rc\u2028d\te ") == "a\nb\nc\nd e"
    assert one_line("  a\n\n b\u00a0c ") == "a b c"


def test_emoji_and_the_marks_of_arabic_and_hebrew_stay() -> None:
    assert clean("👩‍👩‍👧 \u200fשלום") == "👩‍👩‍👧 \u200fשלום"


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("ab cd", 4, "ab…"),
        ("😀😀", 4, "😀😀"),
        ("😀😀😀", 4, "😀…"),
        ("ab👍🏽", 5, "ab…"),
        ("ab👩‍👩‍👧x", 8, "ab…"),
        ("ae\u0301b", 3, "a…"),
        ("ab☕\ufe0fc", 4, "ab…"),
        ("\u0301" * 9, 3, "…"),
    ],
)
def test_no_character_is_cut_in_two(text: str, limit: int, shown: str) -> None:
    assert cut(text, limit) == shown


def test_a_network_has_the_name_that_people_use() -> None:
    words = ("twitter", "FACEBOOK", "MULTI_CHANNEL", "TikTok", "", "x" * 99)
    assert [service_name(word) for word in words] == [
        "X",
        "Facebook",
        "Multi channel",
        "TikTok",
        "Khoros",
        "X" + "x" * 38 + "…",
    ]
