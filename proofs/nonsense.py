"""Raw HTTP for the fuzz: wrong request lines, headers, lengths and chunks, alone and pipelined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from proofs.bodies import changed

_METHODS = (b"GET", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"post", b"P\x00ST", b"", b"X" * 5000)
_TARGETS = (
    *(b"/health", b"/", b"*", b"notifications", b"//x", b"/%00", b"/%", b"/notifications?x=" + b"y" * 5000, b"/\xff"),
    *(b"http://other.example/notifications", b"/../../etc/passwd", b"/static/style.css"),
)
_VERSIONS = (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/9", b"http/1.1", b"")
_HEADERS = (
    *(
        b"X-Request-Id: " + b"r" * 300,
        b"X-Request-Id: \xff\x01",
        b"Content-Type: application/json",
        b"Content-Encoding: gzip",
    ),
    *(
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Connection: close",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"TE: trailers",
    ),
    *(
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: rot13",
        b"Transfer-Encoding: chunked",
    ),
    *(
        b"Content-Length: 0",
        b"Content-Length: -1",
        b"Content-Length: 1e3",
        b"Content-Length: " + b"9" * 30,
        b"Content-Length: 5, 5",
    ),
    *(
        b"Content-Length : 5",
        b" folded: line",
        b"No colon",
        b": no name",
        b"N\x00l: x",
        b"Nul: \x00",
        b"Long: " + b"x" * 9000,
        b"\xff: x",
    ),
    *(
        b"X-Forwarded-For: ::1, nonsense",
        b"X-Forwarded-Proto: gopher",
        b"X-Forwarded-Proto: http",
        b"Host: other.example",
        b"Host: ",
    ),
    *(
        b"Forwarded: for=x",
        b"X_Under_Score: 1",
        b"Cookie: a=b; c",
        b"Range: bytes=0-",
        b"If-None-Match: *",
        b"Authorization: Bearer x",
    ),
    *(
        b"Authorization: Basic !!",
        b"Sec-WebSocket-Key: x",
        b"Proxy-Connection: keep-alive",
        b"Date: never",
        b"Accept: \xf0\x9f\x92\xa9",
    ),
)
_CHUNK_ENDS = (
    b"0\r\n\r\n",
    b"0\r\n\r\n",
    b"0\r\nX-Trailer: 1\r\n\r\n",
    b"0\r\nbad trailer\r\n\r\n",
    b"0\r\n",
    b"",
    b"00;ext\r\n\r\n",
    b"0\n\n",
)


def nonsense(number: int, seed: int, token: str, body: bytes) -> bytes:
    """The bytes for one connection: one to five requests, most of them wrong in some place."""
    random = Random(f"{seed}:nonsense:{number}")  # noqa: S311 - to be repeated, not to be secret
    requests = b"".join(_request(random, token, body) for _ in range(random.choice([1, 1, 1, 2, 5])))
    return changed(requests, random) if random.random() < 0.3 else requests


def _request(random: Random, token: str, body: bytes) -> bytes:
    method = _mostly(random, b"POST", _METHODS)
    line = b" ".join([method, _mostly(random, b"/notifications", _TARGETS), _mostly(random, b"HTTP/1.1", _VERSIONS)])
    headers = [b"Host: relay", _mostly(random, b"Authorization: Bearer " + token.encode(), [b"X-No: token"])]
    headers += [random.choice(_HEADERS) for _ in range(random.choice([0, 0, 0, 1, 1, 2, 120]))]
    framing, content = random.choice(_FRAMINGS)(random, body)
    headers += framing
    random.shuffle(headers)
    end = _mostly(random, b"\r\n", [b"\n"])
    return end.join([line, *headers, b"", b""]) + content


def _mostly(random: Random, right: bytes, others: Sequence[bytes]) -> bytes:
    return right if random.random() < 0.85 else random.choice(others)


def _counted(random: Random, body: bytes) -> tuple[list[bytes], bytes]:
    wrong = random.choice([0, 0, 0, 1, -1, 1000, -1000])
    return [b"Content-Length: %d" % max(0, len(body) + wrong)], body


def _chunked(random: Random, body: bytes) -> tuple[list[bytes], bytes]:
    step = random.choice([1, 7, 100, 100_000])
    pieces = [body[at : at + step] for at in range(0, min(len(body), 50 * step), step)]
    size = _mostly(random, b"%x", [b"%X", b"0%x", b"0x%x", b"%x;a=b", b"%x ", b"-%x", b"%xg"])
    chunks = b"".join(size % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces)
    return [b"Transfer-Encoding: chunked"], chunks + _mostly(random, b"0\r\n\r\n", _CHUNK_ENDS)


def _both(random: Random, body: bytes) -> tuple[list[bytes], bytes]:
    (length, _), (coding, chunks) = _counted(random, body), _chunked(random, body)
    return length + coding, chunks


def _neither(random: Random, body: bytes) -> tuple[list[bytes], bytes]:
    return [], random.choice([b"", body])


_FRAMINGS: Sequence[Callable[[Random, bytes], tuple[list[bytes], bytes]]] = (
    _counted,
    _counted,
    _chunked,
    _chunked,
    _both,
    _neither,
)
