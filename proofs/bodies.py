"""Bodies for the fuzz: JSON of every kind, Khoros' published examples with changed parts, and broken bytes.

They are sent as they are, packed, in other charsets, or with something around them.

A seed and a number always give the same body.
"""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote_plus

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

EXAMPLES: list[Any] = json.loads((Path(__file__).parent / "examples.json").read_text(encoding="utf-8"))
CANARIES = ("canaryword", "Canaryname")  # words of the examples' posts and authors, which no log may contain
DRAWN_AT_MOST = 10_000

_texts = st.text(max_size=20) | st.sampled_from(["EVENT", "twitter:POST", "CreateCase", "123", "\ud800", "\x00", "<b>"])
_numbers = st.integers() | st.floats() | st.sampled_from([10**400, -0.0, 1e308, 2**63])
_leaves = st.none() | st.booleans() | _numbers | _texts
_json = st.recursive(_leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4))
_edits = st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["set", "drop", "double", "wrap"]), _json), max_size=4)
_TOKENS = (
    *(
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\\u0000",
        b"\\ud800",
        b"\\",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
    ),
    *(
        b":",
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-",
        b"9" * 4301,
        b"[" * 2000,
        b'{"a":' * 2000,
        b" " * 2000,
    ),
    *(b"\r\n", b"\r\n\r\n", b"/*", b"EVENT", b'"items":', b'"data":', b'"eventName":', b'"entityId":'),
)


@dataclass(frozen=True)
class Sent:
    """A body, and what its headers say about it."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Bodies:
    """Body number 0, 1, 2 … of a run with this seed. Hypothesis draws the first ones; the rest are these with changed
    bytes or values. `EVENT` and `POST` in them become the body's number, so that most are new to the relay."""

    def __init__(self, count: int, seed_: int) -> None:
        self._seed = seed_
        self._drawn = drawn(min(max(1, count // 10), DRAWN_AT_MOST), seed_)

    def __getitem__(self, number: int) -> Sent:
        rounds, index = divmod(number, len(self._drawn))
        body = self._drawn[index]
        random = Random(f"{self._seed}:{number}")  # noqa: S311 - to be repeated, not to be secret
        if rounds:
            body = changed(body, random) if random.random() < 0.3 else self._spliced(body, random)
        if random.random() < 0.1:
            several = [body, *random.choices(self._drawn, k=random.choice([1, 1, 5]))]
            body = random.choice([b"\n".join(several), b"[" + b",".join(several) + b"]"])
        body = body.replace(b"EVENT", b"%d-%d" % (self._seed, number)).replace(b"POST", b"%d" % number)
        return random.choice(_FORMS)(body, random) if random.random() < 0.5 else Sent(body)

    def _spliced(self, body: bytes, random: Random) -> bytes:
        """The body with values of another one at some places, when both are JSON."""
        try:
            value, other = json.loads(body), json.loads(random.choice(self._drawn))
        except ValueError:
            return changed(body, random)
        hows = [random.choice(["set", "drop", "double", "wrap"]) for _ in range(random.choice([0, 1, 1, 2]))]
        parts = [holder[key] for holder, key in _places([other])]
        edits = [(random.randrange(1000), how, random.choice(parts)) for how in hows]
        return json.dumps(edited(value, edits)).encode()


def drawn(count: int, seed_: int) -> list[bytes]:
    """About `count` bodies from Hypothesis."""
    found: list[bytes] = []

    @seed(seed_)
    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_notifications() | _notifications() | _json, st.booleans())
    def draw(value: Any, ascii_only: bool) -> None:
        found.append(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))

    draw()
    return found


def _notifications() -> st.SearchStrategy[Any]:
    return st.builds(edited, st.sampled_from(EXAMPLES), _edits)


def edited(example: Any, edits: Sequence[tuple[int, str, Any]]) -> Any:
    """The example with some of its values, at any depth, replaced, dropped, doubled or wrapped."""
    root = [copy.deepcopy(example)]
    for place, how, value in edits:
        places = list(_places(root))
        holder, key = places[place % len(places)]
        if how == "drop" and holder is not root:
            del holder[key]
        else:
            old = holder[key]
            made = {"double": [old, old], "wrap": {"name": old}}.get(how, value)
            holder[key] = copy.deepcopy(made)  # a later edit could put it into itself
    return root[0]


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """Every value in a document, as its container and its key or index there."""
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    inner = [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return [(holder, key) for key in keys] + [place for value in inner for place in _places(value)]


def changed(body: bytes, random: Random) -> bytes:
    """The bytes with one to four changes: flipped, cut, doubled, moved or inserted."""
    for _ in range(random.randint(1, 4)):
        body = random.choice(_CHANGES)(body, random)
    return body


def _slice(body: bytes, random: Random) -> tuple[int, int]:
    start = random.randint(0, len(body))
    return start, min(len(body), start + int(random.expovariate(0.1)))


def _flip(body: bytes, random: Random) -> bytes:
    at = random.randrange(len(body)) if body else 0
    return body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]


def _cut(body: bytes, random: Random) -> bytes:
    start, end = _slice(body, random)
    return body[:start] + body[end:]


def _double(body: bytes, random: Random) -> bytes:
    start, end = _slice(body, random)
    return body[:end] + body[start:end] * random.choice([1, 1, 1, 50]) + body[end:]


def _move(body: bytes, random: Random) -> bytes:
    start, end = _slice(body, random)
    rest = body[:start] + body[end:]
    at = random.randint(0, len(rest))
    return rest[:at] + body[start:end] + rest[at:]


def _insert(body: bytes, random: Random) -> bytes:
    at = random.randint(0, len(body))
    return body[:at] + random.choice(_TOKENS) + body[at:]


def _truncate(body: bytes, random: Random) -> bytes:
    return body[: random.randint(0, len(body))]


_CHANGES: Sequence[Callable[[bytes, Random], bytes]] = (_flip, _flip, _cut, _double, _move, _insert, _insert, _truncate)


# Forms in which a sender may put a body


def _packed(body: bytes, random: Random) -> Sent:
    """Packed once or more often, declared right or wrong, and now and then damaged."""
    names = random.choice([["gzip"], ["deflate"], ["raw"], ["deflate", "gzip"], ["gzip", "raw"], ["gzip"] * 5, []])
    for name in names:
        packer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw": -15}[name])
        body = packer.compress(body) + packer.flush()
    declared = ", ".join(names).replace("raw", "deflate")
    if random.random() < 0.2:
        declared = random.choice(["gzip", "deflate", "identity", "br", "gzip, gzip", "x" * 200, ""])
    if random.random() < 0.2:
        body = changed(body, random)
    return Sent(body, {"Content-Encoding": declared})


def _bomb(body: bytes, random: Random) -> Sent:
    packed = gzip.compress(body.ljust(random.choice([2**20, 2**20 + 1, 2**24])), mtime=0)  # the time would differ
    return Sent(packed, {"Content-Encoding": "gzip"})


def _in_a_charset(body: bytes, random: Random) -> Sent:
    charset = random.choice(
        ["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "latin-1", "cp1252", "shift_jis", "utf-7"]
    )
    declared = random.choice([charset, charset, charset, "utf-8", "x-none", "idna", "zlib", "punycode", ""])
    text = body.decode("utf-8", "replace").encode(charset, "replace")
    return Sent(text, {"Content-Type": f"application/json; charset={declared}"})


def _as_a_form(body: bytes, random: Random) -> Sent:
    data = random.choice([quote_plus(body).encode(), body])
    return Sent(b"data=" + data, {"Content-Type": "application/x-www-form-urlencoded"})


def _with_raw_characters(body: bytes, random: Random) -> Sent:
    return Sent(body.replace(b" ", random.choice([b"\n", b"\t", b"\x01", b"\x7f", b"\xff", b"\xa0"])))


def _with_something_around_it(body: bytes, random: Random) -> Sent:
    around = [b"\0", b"\0" * 2000, b"}", b"\xef\xbb\xbf", b"--b--\r\n", b";", b"callback(", b")", b'{"a":', b"\xff"]
    return Sent(random.choice([b"", b"", random.choice(around)]) + body + random.choice(around))


_FORMS: Sequence[Callable[[bytes, Random], Sent]] = (
    *(_packed, _packed, _packed, _packed, _in_a_charset, _in_a_charset),
    *(_as_a_form, _with_raw_characters, _with_something_around_it, _bomb),
)
