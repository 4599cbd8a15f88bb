"""Reads a notification's body as well as can be: packed, in another charset, or not quite JSON."""

from __future__ import annotations

import json
import math
import re
import zlib
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote_plus

from werkzeug.exceptions import RequestEntityTooLarge

from events import read_number

BODY_LIMIT = 1024 * 1024  # bytes of one notification, also unpacked, and of what is committed together
PACKED_PIECE = 1024  # bytes that are unpacked at once: what comes before an error is kept
LAYERS = 4  # of packing
NOT_JSON, TOO_DEEP = "the body is not JSON", "the body is nested too deeply to be read"
NOT_TEXT = "the body is no text, or packed in an unknown way: it is kept as base64"
_begins_like_data = re.compile(rb"[\s\0\xef\xbb\xbf\xfe\xff]*([{\[\"]|\w{1,40}=)").match
_find_charset = re.compile(
    r"charset\s*=\s*[\"']?((?:iso|latin|win|cp|ibm|mac|utf|koi8|shift|sjis|euc|gb|big5)[\w.-]{0,30})"
)


@dataclass(frozen=True)
class Body:
    """What was read: the JSON values. Unless the body is plain JSON, `text` is all of it, in base64 when it is no text.
    `fault` says why some of it could not be read. An empty body has no values and no text."""

    raws: list[object]
    text: str = ""
    fault: str = ""


def unpacked(body: bytes, encoding: str) -> bytes:
    """The body as it was before it was packed, by gzip or deflate, once or more often. What it looks like counts more
    than the Content-Encoding; what cannot be unpacked stays as it is. Raises RequestEntityTooLarge."""
    for _ in range(LAYERS):
        if body[:1] in (b"{", b"["):
            break
        if _has_head(body):
            found = _inflated(body, zlib.MAX_WBITS + 32)
        else:
            found = _inflated(body, -zlib.MAX_WBITS) if "deflate" in encoding.lower() or not _is_utf8(body) else None
        if found is None:
            break
        body = found
    return body


def _has_head(data: bytes) -> bool:
    """Whether it begins like gzip, or like zlib by RFC 1950."""
    head = int.from_bytes(data[:2])
    return head == 0x1F8B or (head & 0x0F00 == 0x0800 and head % 31 == 0)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _inflated(body: bytes, wbits: int) -> bytes | None:
    """What comes out, up to an error; None when it makes no sense. Several packed parts may follow one another."""
    unpacker, found, at, step = zlib.decompressobj(wbits), bytearray(), 0, PACKED_PIECE
    while at < len(body):
        before = unpacker.copy() if step > 1 else unpacker
        try:
            found += unpacker.decompress(body[at : at + step], BODY_LIMIT + 1 - len(found))
        except zlib.error:
            if step == 1:
                break
            unpacker, step = before, 1  # up to the byte that is wrong
            continue
        if len(found) > BODY_LIMIT:
            raise RequestEntityTooLarge
        at = min(at + step, len(body)) - len(unpacker.unused_data)
        if unpacker.eof and (wbits < 0 or not _has_head(body[at : at + 2])):
            break
        if unpacker.eof:
            unpacker = zlib.decompressobj(wbits)
    is_whole = unpacker.eof and (wbits > 0 or at == len(body))
    makes_sense = _begins_like_data(found) or (found and body[:1] == b"\x1f")  # gzip's head is no coincidence
    return bytes(found) if is_whole or makes_sense else None


def parse_body(body: bytes, content_type: str = "") -> Body:
    """The values in an unpacked body: one, or each of an array. What is not plain JSON is searched for objects."""
    try:
        raw = _STRICT.decode(body.decode())
    except (ValueError, RecursionError):
        found = _objects_in(_decoded(body, content_type))
        if found.raws or not found.fault or _is_utf8(body) or _begins_like_data(body):
            return found
        return Body([], b64encode(body).decode(), NOT_TEXT)
    if isinstance(raw, str) and "{" in raw:  # JSON within JSON
        return _objects_in(raw)
    entries = _entries_of(raw) if isinstance(raw, list) else []
    return Body(entries if any(isinstance(one, dict) for one in entries) else [raw])


def _entries_of(array: list[object]) -> list[object]:
    """The entries of an array and of the arrays in it."""
    found: list[object] = []
    todo = array[::-1]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one[::-1]
        else:
            found.append(one)
    return found


def _decoded(body: bytes, content_type: str) -> str:
    """The body in the charset that it seems to have, otherwise in the declared one; bad bytes are replaced. Nothing but
    ASCII is in the declared one: it may be a charset of escapes."""
    seems = json.detect_encoding(body)
    if 2 * (body.count(b'"\0') + body.count(b'\0"')) < body.count(b'"'):  # in UTF-16 and 32 each is beside a NUL
        seems = "utf-8"
    declared = _find_charset.search(content_type.lower())
    charsets = [seems, declared[1]] if declared else [seems]
    for charset in reversed(charsets) if body.isascii() else charsets:
        try:
            return body.decode(charset)
        except (ValueError, LookupError):
            continue
    return body.decode(seems, "replace")


def _objects_in(text: str) -> Body:
    """Every object in the text, up to one that cannot be read. What stands around them has no brace and means
    nothing: a form's name, a separator, what a buffer had in it before."""
    text = text.strip("\ufeff\0 \t\r\n")
    if "{" not in text and "%7b" in text.lower():
        text = unquote_plus(text)
    found: list[object] = []
    at = text.find("{")
    while at >= 0:
        try:
            raw, end = _TOLERANT.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if "\0" in text:
                return _objects_in(text.replace("\0", ""))
            return Body(found, text, TOO_DEEP if isinstance(error, RecursionError) else NOT_JSON)
        found.append(raw)
        at = text.find("{", end)
    return Body(found, text, "" if found or not text else NOT_JSON)


def _nothing(constant: str) -> None:
    """NaN, Infinity and -Infinity are no JSON, and no destination takes them."""


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


_STRICT = json.JSONDecoder(parse_constant=_nothing, parse_float=_finite)
_TOLERANT = json.JSONDecoder(parse_constant=_nothing, parse_float=_finite, parse_int=read_number, strict=False)
