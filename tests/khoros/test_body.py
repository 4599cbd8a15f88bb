"""Bodies as real senders write them: packed, in other charsets, and not quite JSON."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.exceptions import RequestEntityTooLarge

from khoros.body import BODY_LIMIT, LAYERS, NOT_JSON, NOT_TEXT, TOO_DEEP, Body, parse_body, unpacked

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
    "in two parts": ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "in two parts, deflate": ("deflate", lambda data: zlib.compress(data[:9]) + zlib.compress(data[9:])),
    "with an empty part in it": ("", lambda data: gzip.compress(b"") + gzip.compress(data) + gzip.compress(b"")),
    "not declared, raw deflate": ("", raw_deflate),
    "declared as gzip, raw deflate": ("gzip", raw_deflate),
    "with a wrong checksum": ("gzip", lambda data: gzip.compress(data)[:-8] + b"\0" * 8),
    "without its checksum, behind a line break": ("gzip", lambda data: gzip.compress(b"\n" + data)[:-8]),
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


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_what_breaks_off_in_another_charset_is_read_up_to_there(charset: str, pack: Callable[[bytes], bytes]) -> None:
    body = json.dumps(VALUE, ensure_ascii=False).encode(charset)
    assert parse_body(unpacked(pack(body)[:-4], "deflate")).raws == [VALUE]


def test_of_a_form_that_breaks_off_the_object_is_read() -> None:
    body = gzip.compress(b"payload=%7B%22text%22%3A+%22x%22%7D")[:-8]
    assert parse_body(unpacked(body, "gzip")).raws == [{"text": "x"}]


def test_a_small_body_that_is_damaged_is_kept_up_to_the_damage() -> None:
    body = json.dumps({"numbers": list(range(300))}).encode()
    packed = gzip.compress(body)
    damaged = packed[:-200] + bytes(byte ^ 0xFF for byte in packed[-200:])
    found = parse_body(unpacked(damaged, "gzip"))
    assert len(packed) < 1024 and found.fault == NOT_JSON and found.text[:200] == body[:200].decode()


@pytest.mark.parametrize(
    "body",
    [b"\x28\xb5\x2f\xfd" + bytes(range(200, 256)), b"\x8b\x07\x80abc", b"\x1f\x9d\x90" + b"\xc3" * 50, b"\xff" * 9],
    ids=["zstd", "br", "compress", "nothing known"],
)
def test_what_is_no_text_is_kept_in_base64_so_that_nothing_is_lost(body: bytes) -> None:
    found = parse_body(unpacked(body, "br"))
    assert (found.raws, found.fault, b64decode(found.text)) == ([], NOT_TEXT, body)


def test_a_thousand_empty_parts_are_nothing() -> None:
    assert unpacked(gzip.compress(b"") * 1000, "gzip") == b""


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


@pytest.mark.parametrize("nuls", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("at", [0, 1, 8])
def test_nuls_in_a_body_do_not_make_it_another_charset(nuls: int, at: int) -> None:
    body = json.dumps(VALUE, ensure_ascii=False).encode()
    assert parse_body(body[:at] + b"\0" * nuls + body[at:]).raws == [VALUE]


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


@pytest.mark.parametrize("more", [b"", b" "])
def test_a_number_of_thousands_of_digits_is_text_and_others_are_numbers(more: bytes) -> None:
    body = b'{"a": ' + b"9" * 5000 + b', "b": 12, "c": -' + b"8" * 3000 + b"}" + more
    assert parse_body(body).raws == [{"a": "9" * 5000, "b": 12, "c": -int("8" * 3000)}]


def test_objects_one_after_the_other_and_in_an_array_are_read_one_by_one() -> None:
    assert parse_body(b'[{"a": 1}, 2, {"b": 3}]').raws == [{"a": 1}, 2, {"b": 3}]
    assert parse_body(b'{"a": 1}\n{"b": 3}\n').raws == [{"a": 1}, {"b": 3}]
    assert parse_body(b'[[{"a": 1}], [2, [{"b": 3}, []]]]').raws == [{"a": 1}, 2, {"b": 3}]
    assert parse_body(b"[" * 900 + b"{}" + b"]" * 900).raws == [{}]
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
    data = b"\x89PNG\r\n" + bytes(range(256)) * 4
    assert parse_body(b'["' + data).text.count("ABCDEF") == 4 and parse_body(b'["' + data).fault == NOT_JSON
    assert b64decode(parse_body(data).text) == data
