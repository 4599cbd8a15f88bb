"""For the pages of both simulated services: their paths, their protection, their pictures and times."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from flask import Response, request

PAGES = ("/static/", "/_sandbox/", "/agent/", "/inbox/", "/archives/", "/tab/", "/favicon.ico")
SKINS = ("#f6d7c3", "#eabf9f", "#cf9a73", "#a06b48", "#6f4630")
HAIRS = ("#2b2320", "#4d3425", "#8a5a32", "#c59b5a", "#7b7f86")
CUTS = 4
_POLICY = ("default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self' data:", "connect-src 'self'",
           "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'")  # fmt: skip


def is_api(path: str) -> bool:
    """Whether `path` belongs to the simulated API and not to the pages that show it."""
    return path != "/" and not path.startswith(PAGES)


def protect(response: Response) -> Response:
    """Lets a page load and run nothing but our own files: strangers write the posts that it shows."""
    if not is_api(request.path):
        response.headers["Content-Security-Policy"] = "; ".join(_POLICY)
        response.headers["Referrer-Policy"] = "same-origin"  # no-referrer would make our own forms' Origin "null"
        response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def refuse_strangers() -> tuple[str, int] | None:
    """Refuses a POST that a foreign page makes to one of our pages. Requests from a shell name no origin."""
    if request.method in ("GET", "HEAD", "OPTIONS") or is_api(request.path):
        return None
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    ours = site in ("same-origin", "none") if site else origin in (None, request.host_url.rstrip("/"))
    return None if ours else ("This came from another page. Open the sandbox's own page and press its buttons.\n", 403)


class Portrait(NamedTuple):
    """The colours and hair of a person's picture."""

    hue: int  # degrees
    skin: str
    hair: str
    cut: int


def portrait(name: str) -> Portrait:
    """The picture for a name. It is the same in every run."""
    seed = zlib.crc32(name.encode("utf-8", "replace"))
    return Portrait(seed % 360, SKINS[seed // 7 % len(SKINS)], HAIRS[seed // 41 % len(HAIRS)], seed // 211 % CUTS)


def ago(seconds: float) -> str:
    """A time span as people say it: just now, 5 min ago."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"
