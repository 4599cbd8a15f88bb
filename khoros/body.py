"""Reads a notification's body as well as can be: packed, in another charset, or not quite JSON."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import dataclass
from urllib.parse import unquote_plus

from werkzeug.exceptions import RequestEntityTooLarge

BODY_LIMIT = 1024 * 1024  # bytes of one notification, also unpacked, and of what is committed together
PACKED_PIECE = 1024  # bytes that are unpacked at once: what comes before an error is kept
LAYERS = 4  # of packing
NOT_JSON, TOO_DEEP = "the body is not JSON", "the body is nested too deeply to be read"
_find_charset = re.compile(
    r"charset\s*=\s*[\"']?((?:iso|latin|win|cp|ibm|mac|utf|koi8|shift|sjis|euc|gb|big5)[\w.-]{0,30})"
)


@dataclass(frozen=True)
class Body:
    """What was read: the JSON values. Unless the body is plain JSON, `text` is all of it; `fault` says why some of it
    could not be read. An empty body has no values and no text."""

    raws: list[object]
    text: str = ""
    fault: str = ""


def unpacked(body: bytes, encoding: str) -> bytes:
    """The body as it was before it was packed, by gzip or deflate, once or more often. What it looks like counts more
    than the Content-Encoding; what cannot be unpacked stays as it is. Raises RequestEntityTooLarge."""
    for _ in range(LAYERS):
        head = int.from_bytes(body[:2])
        if body[:1] in (b"{", b"["):
            break
        if body[:2] == b"\x1f\x8b" or (head & 0x0F00 == 0x0800 and head % 31 == 0):  # gzip, or zlib by RFC 1950
            found = _inflated(body, zlib.MAX_WBITS + 32)
        else:
            found = _inflated(body, -zlib.MAX_WBITS) if "deflate" in encoding.lower() else None
        if found is None:
            break
        body = found
    return body


def _inflated(body: bytes, wbits: int) -> bytes | None:
    """What comes out, up to an error; None when it makes no sense."""
    unpacker, found = zlib.decompressobj(wbits), bytearray()
    for at in range(0, len(body), PACKED_PIECE):
        try:
            found += unpacker.decompress(body[at : at + PACKED_PIECE], BODY_LIMIT + 1 - len(found))
        except zlib.error:
            break
        if len(found) > BODY_LIMIT:
            raise RequestEntityTooLarge
        if unpacker.eof:
            return bytes(found)
    return bytes(found) if found.lstrip().startswith((b"{", b"[")) else None


def parse_body(body: bytes, content_type: str = "") -> Body:
    """The values in an unpacked body: one, or each of an array. What is not plain JSON is searched for objects."""
    try:
        raw = _STRICT.decode(body.decode())
    except (ValueError, RecursionError):
        return _objects_in(_decoded(body, content_type))
    if isinstance(raw, str) and "{" in raw:  # JSON within JSON
        return _objects_in(raw)
    is_array = isinstance(raw, list) and any(isinstance(one, dict) for one in raw)
    return Body(raw if is_array else [raw])


def _decoded(body: bytes, content_type: str) -> str:
    """The body in the charset that it seems to have, otherwise in the declared one; bad bytes are replaced. Nothing but
    ASCII is in the declared one: it may be a charset of escapes."""
    seems = json.detect_encoding(body)
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
_TOLERANT = json.JSONDecoder(parse_constant=_nothing, parse_float=_finite, strict=False)
