"""What Slack refuses in a message, and whom a message mentions.

https://docs.slack.dev/reference/block-kit/blocks/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

BLOCKS, TEXT, SECTION_TEXT, HEADER_TEXT, CONTEXT_ELEMENTS = 50, 40_000, 3_000, 150, 10
ALL_TEXT = 13_200  # characters of all blocks together; not documented, met by others
_STYLES = {"bold", "italic", "strike", "code", "underline"}
_MARKUP_MENTION = re.compile(r"<(![a-z^]+|@[UW][A-Z0-9]*|#C[A-Z0-9]*)[^>]*>")
_PLAIN_MENTION = re.compile(r"(?<![\w.])@(channel|here|everyone)\b")

Raw = dict[str, Any]


class InvalidBlocks(Exception):
    """The blocks break a rule; the message says which."""


def refusal(message: Raw) -> tuple[str, str] | None:
    """The error code with which Slack refuses a message and what is wrong, or None when it takes it."""
    text, blocks = message.get("text") or "", message.get("blocks") or []
    if not text and not blocks:
        return "no_text", "neither text nor blocks"
    if len(text) > TEXT:
        return "msg_too_long", f"text of more than {TEXT} characters"
    try:
        _need(isinstance(blocks, list) and len(blocks) <= BLOCKS, f"blocks must be a list of at most {BLOCKS}")
        for block in blocks:
            _check_block(block)
    except InvalidBlocks as fault:
        return "invalid_blocks", str(fault)
    if sum(len(part.get("text") or "") for part in parts(blocks) if isinstance(part.get("text"), str)) > ALL_TEXT:
        return "msg_blocks_too_long", f"more than {ALL_TEXT} characters in blocks"
    return None


def mentions(message: Raw) -> list[str]:
    """Whom a message that Slack has taken notifies: users, @channel and the like, however they were written."""
    found = _mentions_in_markup(message.get("text") or "", message)
    for part in parts(message.get("blocks") or []):
        if part.get("type") in ("user", "usergroup", "broadcast"):
            found.append(str(part.get("user_id") or part.get("usergroup_id") or part.get("range")))
        if part.get("type") == "mrkdwn":
            found += _mentions_in_markup(part.get("text") or "", message)
    return found


def _mentions_in_markup(text: str, message: Raw) -> list[str]:
    linked = message.get("link_names") or message.get("parse") == "full"
    return _MARKUP_MENTION.findall(text) + (_PLAIN_MENTION.findall(text) if linked else [])


def parts(value: object) -> Iterator[Raw]:
    """Every typed object in the blocks, however deep."""
    if isinstance(value, dict) and "type" in value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


def _check_block(block: object) -> None:
    checks = {"header": _header, "section": _section, "context": _context, "rich_text": _rich_text}
    _need(isinstance(block, dict), "a block must be an object")
    assert isinstance(block, dict)  # noqa: S101 - for the type checker
    kind = block.get("type")
    _need(kind == "divider" or kind in checks, f"unsupported type: {kind}")
    if kind in checks:
        checks[kind](block)


def _header(block: Raw) -> None:
    _text_object(block.get("text"), HEADER_TEXT, ("plain_text",))


def _section(block: Raw) -> None:
    _need("text" in block or block.get("fields"), "a section needs text or fields")
    for text in [block["text"]] if "text" in block else block["fields"]:
        _text_object(text, SECTION_TEXT)


def _context(block: Raw) -> None:
    elements = block.get("elements")
    _need(isinstance(elements, list) and 1 <= len(elements) <= CONTEXT_ELEMENTS, "context needs 1 to 10 elements")
    for element in elements or []:
        _text_object(element, SECTION_TEXT)


def _text_object(text: Any, limit: int, kinds: tuple[str, ...] = ("plain_text", "mrkdwn")) -> None:
    _need(isinstance(text, dict) and text.get("type") in kinds, f"needs a text object of {' or '.join(kinds)}")
    _need(isinstance(text.get("text"), str) and text["text"], "must be more than 0 characters")
    _need(len(text["text"].encode("utf-16-le")) <= 2 * limit, f"must be less than {limit + 1} characters")
    _need("emoji" not in text or text["type"] == "plain_text", "emoji is for plain_text only")


def _rich_text(block: Raw) -> None:
    elements = block.get("elements")
    _need(isinstance(elements, list) and elements, "rich_text needs elements")
    for element in elements or []:
        _rich_part(element, ("rich_text_section", "rich_text_list", "rich_text_quote", "rich_text_preformatted"))


def _rich_part(part: Any, kinds: tuple[str, ...]) -> None:
    _need(isinstance(part, dict) and part.get("type") in kinds, "unsupported element of rich_text")
    elements = part.get("elements")
    _need(isinstance(elements, list) and elements, "an element of rich_text needs elements")
    if part["type"] == "rich_text_list":
        _need(part.get("style") in ("bullet", "ordered"), "a list needs a style")
        for element in elements:
            _rich_part(element, ("rich_text_section",))
    else:
        for element in elements:
            _rich_leaf(element)


def _rich_leaf(leaf: Any) -> None:
    needed = {"text": "text", "link": "url", "emoji": "name", "user": "user_id", "broadcast": "range"}
    _need(isinstance(leaf, dict) and leaf.get("type") in needed, "unsupported rich text object")
    value = leaf.get(needed[leaf["type"]])
    _need(isinstance(value, str) and value, "must be more than 0 characters")
    style = leaf.get("style", {})
    _need(isinstance(style, dict) and set(style) <= _STYLES, "unknown style")
    _need(leaf["type"] != "link" or re.match("(https?|mailto):", value), "invalid url")


def _need(condition: object, rule: str) -> None:
    if not condition:
        raise InvalidBlocks(rule)
