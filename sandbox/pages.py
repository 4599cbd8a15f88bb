"""The pages of both fakes: which paths they are, what protects them, and a few words on them."""

from __future__ import annotations

from flask import Response, request

PAGES = ("/static/", "/_sandbox/", "/agent/", "/inbox/", "/favicon.ico")
_POLICY = ("default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self' data:", "connect-src 'self'",
           "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'")  # fmt: skip


def is_api(path: str) -> bool:
    """Whether `path` belongs to the imitated service, not to the pages that show it."""
    return path != "/" and not path.startswith(PAGES)


def protect(response: Response) -> Response:
    """Lets a page load nothing from elsewhere and run no script but its own file: posts are written by strangers."""
    if not is_api(request.path):
        response.headers["Content-Security-Policy"] = "; ".join(_POLICY)
        response.headers["Referrer-Policy"] = "no-referrer"
    return response


def initials(name: str) -> str:
    """Up to two letters to stand for somebody's picture."""
    words = [word for word in name.replace(".", " ").split() if word[0].isalnum()]
    return "".join(word[0] for word in words[:2]).upper() or "?"


def hue(name: str) -> int:
    """A colour for a name, in degrees; the same in every run."""
    return sum(ord(char) * 37 for char in name) % 360


def ago(seconds: float) -> str:
    """How long ago something was, in people's words."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"
