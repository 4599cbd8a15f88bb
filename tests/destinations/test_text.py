"""Strangers' text made safe and short."""

from __future__ import annotations

import pytest

from destinations.text import clean, cut, isolated, one_line, service_name, visible_line


def test_characters_that_hide_or_reverse_others_are_taken_out() -> None:
    assert clean("a\u202egnp.exe\u2066b\u2069\x00\x1b[31m\ud83d") == "agnp.exeb[31m"
    assert clean("a\r\nb\rc\u2028d\te ") == "a\nb\nc\nd e"
    assert clean("a\x0bb\x0cc\x85d\u2029e") == "a\nb\nc\nd\ne"
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
        ("🇩🇪🇫🇷🇮🇹", 9, "🇩🇪🇫🇷…"),
        ("🇩🇪🇫🇷🇮🇹", 11, "🇩🇪🇫🇷…"),
        ("ab🇩🇪🇫🇷", 8, "ab🇩🇪…"),
        ("ab🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007fxy", 10, "ab…"),
        ("ab1\ufe0f\u20e3cd", 5, "ab…"),
        ("नमस्ते दुनिया", 5, "नम…"),
        ("กำลังทำ", 3, "กำ…"),
        ("ab\u1112\u1161\u11abc", 5, "ab…"),
        ("abﾊﾟc", 4, "ab…"),
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


@pytest.mark.parametrize(
    "text", ["", " \u00a0", "\u200b\u2060\ufeff", "\u3164\u115f", "\u2800", "\u202e", "\u0301", "\ufe0f"]
)
def test_a_name_that_nobody_can_see_is_none(text: str) -> None:
    assert visible_line(text) == ""


@pytest.mark.parametrize("text", ["Ada", "👩‍👩‍👧", "e\u0301", "\u200bx", "名", "…"])
def test_a_name_that_can_be_seen_stays_whole(text: str) -> None:
    assert visible_line(f" {text}\n") == text


@pytest.mark.parametrize("text", ["דנה", "ليلى", "a \u200f!"])
def test_what_is_written_from_right_to_left_is_closed_off(text: str) -> None:
    assert isolated(text) == f"\u2068{text}\u2069"
    assert isolated("Ada 日本 👩‍👩‍👧") == "Ada 日本 👩‍👩‍👧"
