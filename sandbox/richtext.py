"""A comment's HTML for the page, with only harmless tags, and as plain text."""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from urllib.parse import urlsplit

KEPT = {"a", "b", "blockquote", "br", "code", "em", "hr", "i", "li", "ol", "p", "pre", "small", "strong", "u", "ul"}
EMPTY = {"br", "hr"}
HIDDEN = {"script", "style", "title", "template"}
BLOCKS = {"p", "div", "li", "br", "hr", "blockquote", "pre", "ul", "ol"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.html: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in HIDDEN
        if tag in BLOCKS and self.text and not self.text[-1].endswith("\n"):
            self.text.append("\n")
        href = dict(attrs).get("href") or ""
        if tag not in KEPT or self._hidden or (tag == "a" and _scheme(href) not in ("http", "https")):
            return
        link = f'<a href="{escape(href)}" rel="noopener noreferrer" target="_blank">'
        way = ' dir="auto"' if dict(attrs).get("dir") == "auto" else ""
        self.html.append(link if tag == "a" else f"<{tag}{way}>")
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        if tag in BLOCKS - EMPTY and self.text and not self.text[-1].endswith("\n"):
            self.text.append("\n")
        if tag in self._open:
            while (last := self._open.pop()) != tag:
                self.html.append(f"</{last}>")
            self.html.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.html.append(escape(data))
            self.text.append(data)

    def close(self) -> None:
        super().close()
        self.html += [f"</{tag}>" for tag in reversed(self._open)]
        self._open.clear()


def _scheme(url: str) -> str:
    """The scheme of `url`. Empty when it has none."""
    try:
        return urlsplit(url.strip()).scheme.lower()
    except ValueError:
        return ""


def safe_html(html: str) -> str:
    """`html` with only harmless tags, all of them closed, and only links to web addresses."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.html)


def plain_text(html: str) -> str:
    """The text of `html` without markup. Paragraphs and line breaks become new lines."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.text).strip()
