"""Checks a ticket in a request by Zendesk's published rules.

Stricter than Zendesk, which silently drops unknown keys: here they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

COMMENT_LIMIT = 65_536  # characters
STATUSES = ("new", "open", "pending", "hold", "solved", "closed")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str) and not _SURROGATE.search(value)


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _custom_field(value: Any) -> bool:
    return isinstance(value, dict) and _integer(value.get("id")) and "value" in value and len(value) == 2


def _requester(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, (value.get("name", ""), value.get("email", ""))))


# The writable keys of a ticket, and the check of each.
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{name: (_integer, "must be a number") for name in (
        "assignee_id", "brand_id", "custom_status_id", "group_id", "macro_id", "organization_id", "problem_id",
        "requester_id", "submitter_id", "ticket_form_id", "via_followup_source_id", "via_id",
    )},
    **{name: (_text, "must be text") for name in (
        "assignee_email", "description", "due_at", "raw_subject", "recipient", "subject", "updated_stamp",
    )},
    **{name: (_list_of(_integer), "must be a list of numbers") for name in (
        "attribute_value_ids", "collaborator_ids", "macro_ids", "sharing_agreement_ids",
    )},
    **{name: (_list_of(_custom_field), "must be a list of {id, value}") for name in ("custom_fields", "fields")},
    **{name: (lambda value: isinstance(value, list), "must be a list") for name in (
        "additional_collaborators", "collaborators", "email_ccs", "followers",
    )},
    "external_id": (lambda value: _text(value) and bool(value), "must be text and not empty"),
    "metadata": (lambda value: isinstance(value, dict), "must be an object"),
    "priority": (_one_of("urgent", "high", "normal", "low"), "is not included in the list"),
    "requester": (_requester, "must be an object with a name or an email"),
    "safe_update": (lambda value: isinstance(value, bool), "must be true or false"),
    "status": (_one_of(*STATUSES), "is not included in the list"),
    "tags": (_list_of(_text), "must be a list of words"),
    "type": (_one_of("problem", "incident", "question", "task"), "is not included in the list"),
}  # fmt: skip
COMMENT_KEYS = {"author_id", "body", "html_body", "metadata", "public", "type", "uploads"}

Details = dict[str, list[dict[str, Any]]]


def refusals(ticket: object, *, creating: bool) -> Details:
    """The reasons to refuse `ticket`, by field, as in the details of RecordInvalid. Empty when it is good."""
    if not isinstance(ticket, dict):
        return _because("ticket", "Ticket: must be an object", "InvalidValue")
    details: Details = {}
    for name, value in ticket.items():
        if name == "comment":
            details |= _comment_refusals(value)
        elif name not in KEYS:
            details |= _because(name, f"{name}: is not a key of a ticket", "UnknownKey")
        elif not KEYS[name][0](value):
            details |= _because(name, f"{name}: {KEYS[name][1]}", "InvalidValue")
    if creating:
        for name in ("comment", "external_id"):
            if name not in ticket:
                details |= _because(name, f"{name}: cannot be blank", "BlankValue")
    return details


def split_tags(tags: Sequence[str]) -> list[str]:
    """The tags as Zendesk keeps them: in small letters, once each, and one with a blank or a comma in it is several."""
    return list(dict.fromkeys(word for tag in tags for word in re.split(r"[\s,]+", tag.lower()) if word))


def missing_fields(ticket: Mapping[str, Any], required: Mapping[int, str]) -> Details:
    """The refusal of a ticket without a value for each required custom field, given as id and kind, in an account whose
    language is German."""
    given = {field["id"] for field in ticket.get("custom_fields", []) if field["value"]}
    faults = [
        {
            "description": f"Feld {id}: darf nicht leer sein",
            "error": "BlankValue",
            "ticket_field_id": id,
            "ticket_field_type": kind,
        }
        for id, kind in required.items()
        if id not in given
    ]
    return {"base": faults} if faults else {}


def comment_html(comment: Mapping[str, Any]) -> str:
    """The comment's text, sent as html_body or as body."""
    return str(comment.get("html_body") or comment.get("body") or "")


def _comment_refusals(comment: object) -> Details:
    if not isinstance(comment, dict):
        return _because("comment", "Comment: must be an object", "InvalidValue")
    if unknown := sorted(set(comment) - COMMENT_KEYS):
        return _because("comment", f"Comment: {unknown[0]} is not a key of a comment", "UnknownKey")
    texts = [comment[name] for name in ("body", "html_body") if name in comment]
    if not texts or not all(_text(text) and text.strip() for text in texts):
        return _because("comment", "Comment: cannot be blank", "BlankValue")
    if max(map(len, texts)) > COMMENT_LIMIT:
        return _because("comment", f"Comment: is too long (maximum is {COMMENT_LIMIT} characters)", "TooLong")
    if not isinstance(comment.get("public", False), bool):
        return _because("comment", "Comment: public must be true or false", "InvalidValue")
    return {}


def _because(name: str, description: str, error: str) -> Details:
    return {name: [{"description": description, "error": error}]}
