"""Bodies as real senders write them: packed, in other charsets, and not quite JSON."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.exceptions import RequestEntityTooLarge

from khoros.body import BODY_LIMIT, LAYERS, NOT_JSON, TOO_DEEP, Body, parse_body, unpacked

VALUE = {"text": "My “crème brûlée” never came"}
PLAIN = json.dumps(VALUE).encode()
NOTED = json.dumps({"text": "crème brûlée " * 300, "numbers": list(range(2000))}, ensure_ascii=False).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def small_window(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=9)
    return packer.compress(data) + packer.flush()


PACKINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "its old name": ("x-gzip", gzip.compress),
    "in capitals": ("GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate with a small window": ("deflate", small_window),
    "raw deflate": ("Deflate", raw_deflate),
    "both": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "both, raw": ("deflate, gzip", lambda data: gzip.compress(raw_deflate(data))),
    "twice": ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    "declared as the other": ("deflate", gzip.compress),
    "not declared": ("", gzip.compress),
    "not declared, deflate": ("identity", zlib.compress),
    "declared as gzip and plain": ("gzip", bytes),
    "declared as deflate and plain": ("deflate", bytes),
    "declared as something unknown and plain": ("br", bytes),
    "plain behind a blank": ("deflate", lambda data: b" " + data),
    "with something behind it": ("gzip", lambda data: gzip.compress(data) + b"\0" * 2000),
}


@pytest.mark.parametrize("data", [PLAIN, NOTED], ids=["short", "long"])
@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
def test_a_packed_body_is_unpacked_whatever_is_declared(packing: Any, data: bytes) -> None:
    encoding, pack = packing
    assert unpacked(pack(data), encoding).lstrip() == data


def test_what_is_not_packed_or_makes_no_sense_stays_as_it_is() -> None:
    for data in (b"", b"x", b"\x1f\x8b", b"\x1f\x8b" + PLAIN, b"x\x9c" + b"\xff" * 3000, b"\xfe\xdc" * 3000):
        for encoding in ("gzip", "deflate", "br", ""):
            assert unpacked(data, encoding) == data


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_of_what_breaks_off_or_is_damaged_the_beginning_is_kept(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(NOTED)
    damaged = packed[:3000] + bytes(byte ^ 0xFF for byte in packed[3000:])
    for data in (packed[:-200], damaged):
        found = unpacked(data, "deflate")
        assert len(found) > 500 and NOTED.startswith(found[:500])


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate, lambda d: gzip.compress(gzip.compress(d))])
def test_the_limit_holds_for_what_is_unpacked_and_a_bomb_costs_no_memory(pack: Callable[[bytes], bytes]) -> None:
    fits, bomb = b"{".ljust(BODY_LIMIT), pack(b"{".ljust(200 * BODY_LIMIT))
    assert unpacked(pack(fits), "deflate") == fits
    tracemalloc.start()
    with pytest.raises(RequestEntityTooLarge):
        unpacked(bomb, "deflate")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * BODY_LIMIT


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_nothing_stays_nothing(pack: Callable[[bytes], bytes]) -> None:
    assert unpacked(pack(b""), "deflate") == b""


def test_nothing_is_unpacked_for_ever() -> None:
    data = PLAIN
    for _ in range(LAYERS + 2):
        data = gzip.compress(data)
    assert unpacked(unpacked(data, "gzip"), "gzip") == PLAIN


# Charsets


@pytest.mark.parametrize(
    "charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "windows-1252"]
)
@pytest.mark.parametrize("form", ["application/json; charset={}", 'text/plain;CHARSET = "{}"; q=1'])
def test_a_body_in_another_charset_is_read(charset: str, form: str) -> None:
    body = json.dumps(VALUE, ensure_ascii=False).encode(charset)
    assert parse_body(body, form.format(charset.upper())).raws == [VALUE]
    if charset.startswith("utf"):
        for declared in ("", "charset=", "charset=nonsense", "charset=iso-8859-1", "charset=idna", "charset=\0"):
            assert parse_body(body, declared).raws == [VALUE]


@pytest.mark.parametrize("charset", ["iso-8859-1", "latin1", "ISO-8859-15", "macroman", "cp850"])
def test_a_declared_charset_of_one_byte_is_read(charset: str) -> None:
    assert parse_body('{"text": "crème brûlée"}'.encode(charset), f"charset={charset}").raws == [
        {"text": "crème brûlée"}
    ]


@pytest.mark.parametrize("charset", ["shift_jis", "euc-jp", "iso-2022-jp", "gb18030", "big5", "utf-7"])
def test_charsets_of_the_east_and_of_escapes_are_read(charset: str) -> None:
    body = '{"text": "日本\n語"}'.encode(charset)
    assert parse_body(body, f"application/json; charset={charset}").raws == [{"text": "日本\n語"}]


@pytest.mark.parametrize("content_type", ["", "charset=utf-8", "charset=x-none", "charset=utf-99"])
def test_a_bad_byte_is_replaced_and_the_rest_is_read(content_type: str) -> None:
    body = '{"text": "crème br'.encode() + b'\xfbl\xe9e"}'
    assert parse_body(body, content_type).raws == [{"text": "crème br\ufffdl\ufffde"}]


# Not quite JSON


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "one\ntwo"}',
        b'{"text": "one\ntwo"}\0\0\0',
        b'\xef\xbb\xbf {"text": "one\\ntwo"}',
        b'{"text": "one\\ntwo"}}',
        b'{"text": "one\\ntwo"}\r\n--boundary--\r\n',
        b'[{"text": "one\\ntwo"},]',
        b'data={"text": "one\\ntwo"}',
        b"data=%7B%22text%22%3A+%22one%5Cntwo%22%7D&x=1",
        b'callback({"text": "one\\ntwo"});',
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n{"text": "one\\ntwo"}\r\n--b--',
        b'"{\\"text\\": \\"one\\\\ntwo\\"}"',
        b'{"text": "?", "text": "one\\ntwo"}',
    ],
)
def test_an_object_that_any_eye_finds_is_read(body: bytes) -> None:
    assert parse_body(body).raws == [{"text": "one\ntwo"}] and parse_body(body).fault == ""


def test_control_characters_in_a_text_are_read() -> None:
    text = "".join(map(chr, range(0x20)))
    assert parse_body(f'{{"text": "{text}"}}'.encode()).raws == [{"text": text}]


def test_numbers_that_are_no_json_are_nothing() -> None:
    body = b'{"a": NaN, "b": [Infinity, -Infinity, 1e999, 1.5], "c": -0.0}'
    assert parse_body(body) == Body([{"a": None, "b": [None, None, None, 1.5], "c": -0.0}])


def test_objects_one_after_the_other_and_in_an_array_are_read_one_by_one() -> None:
    assert parse_body(b'[{"a": 1}, 2, {"b": 3}]').raws == [{"a": 1}, 2, {"b": 3}]
    assert parse_body(b'{"a": 1}\n{"b": 3}\n').raws == [{"a": 1}, {"b": 3}]
    assert parse_body(b"[]") == Body([[]]) and parse_body(b"[1, 2]") == Body([[1, 2]])


@pytest.mark.parametrize("body", [b"", b"\0\0", b" \r\n\t", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_an_empty_body_has_nothing(body: bytes) -> None:
    assert parse_body(body) == Body([])


@pytest.mark.parametrize("value", [None, True, 1, 1.5, {}, [], {"a": []}, "", "\0", "hello"])
def test_every_other_value_is_read(value: Any) -> None:
    assert parse_body(json.dumps(value).encode()) == Body([value])


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"hello", NOT_JSON),
        (b'{"a": 1', NOT_JSON),
        (b"{'a': 1}", NOT_JSON),
        (b'{"a": ' + b"9" * 5000 + b"}", NOT_JSON),
        (b'{"a":' * 90_000, TOO_DEEP),
        (b"[" * 200_000 + b"]" * 200_000, NOT_JSON),
    ],
)
def test_what_cannot_be_read_is_text(body: bytes, fault: str) -> None:
    assert parse_body(body) == Body([], body.decode(), fault)


def test_what_follows_a_readable_object_is_text_when_it_may_hold_another() -> None:
    assert parse_body(b'{"a": 1} {"b":') == Body([{"a": 1}], '{"a": 1} {"b":', NOT_JSON)
    assert parse_body(b'{"a": 1} and so on') == Body([{"a": 1}], '{"a": 1} and so on')


def test_every_byte_may_come() -> None:
    body = parse_body(b"\x89PNG\r\n" + bytes(range(256)) * 4)
    assert body.raws == [] and body.fault == NOT_JSON and "ABCDEF" in body.text
