"""What Zendesk's answers mean: from an answer to its object, or to the error that says what to do next. Pure functions.

https://developer.zendesk.com/api-reference/introduction/requests/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from outbound import Answer, AuthFailed, Limited, Quota, Rejected, ServiceError, Unavailable

SCOPE = "tickets:read tickets:write"
RESET_UNKNOWN_S = 1.0  # how long a remaining count holds when Zendesk does not say when it is renewed
OAUTH_REFUSALS = {
    "invalid_client": "it knows no such Identifier with this Secret, copy both again",
    "invalid_scope": f"the OAuth client may not have the scopes {SCOPE}, allow them",
    "unauthorized_client": "the OAuth client may not use client credentials, its kind must be Confidential",
    "unsupported_grant_type": "the OAuth client may not use client credentials, its kind must be Confidential",
}
NO_ACCOUNT = "no account works at ZENDESK_API_URL: the address is wrong, or it was renamed, is suspended or has ended"
UNKNOWN = "something that the ticket refers to does not exist: see the ids in ZENDESK_TICKET_FIELDS and ROUTES"
UNNAMED = "it names no field: give all that your form requires in ZENDESK_TICKET_FIELDS or ROUTES, then send again"
NOT_FROM_SETTINGS = set("comment description external_id subject status via_followup_source_id".split())
_read_count = re.compile(r"([0-9]{1,9})(?:\.[0-9]*)?(?![^,; ])").match  # "650", "650.0", "650, 650"
_draft_count = re.compile(r"\b(?:r|remaining)=([0-9]{1,9})\b").search  # RateLimit: "default";r=650;t=30
_is_word = re.compile(r"[\w.:/\[\]-]{1,80}", re.ASCII).fullmatch
_is_system_field = re.compile("Field(Assignee|Description|Group|Priority|Status|Subject|TicketType)").fullmatch
_attribute = re.compile(r"\bthe ([a-z][a-z0-9_.]{0,60}) attribute\b").search
_pointed = re.compile(r"[A-Za-z_][\w.\[\]-]*|[0-9]{3,}", re.ASCII).findall  # names and ids in a path, no positions


def read_zendesk_answer(answer: Answer, *, of_item: bool = True) -> dict[str, Any]:
    """The object in a good answer; otherwise raises the error that says what to do next.

    Rejected is Zendesk's own word about this one request; what a lost account, or another web server, answers to
    everything is AuthFailed. `of_item`: the call is about one item, so that a limit or a refusal may be its own.
    """
    status, payload, quota = answer.status, answer.json(), read_quota(answer.headers)
    if 200 <= status < 300 and isinstance(payload, dict):
        return payload
    refusals = list(_refusals(payload))
    code = _error_code(payload, refusals)
    own_word = isinstance(payload, dict) and any(payload.get(name) for name in ("error", "errors", "details"))
    said = f"Zendesk answered {status}{f' {code}' if code else ''}"
    kind: type[ServiceError] = Unavailable
    if 200 <= status < 300:
        said += " with something that is not JSON: see whether ZENDESK_API_URL is the account's own address"
    elif status in (401, 403):
        kind, said = AuthFailed, f"{said}: it refuses our credentials or their rights"
    elif 300 <= status < 400:
        kind = AuthFailed
        said += f", a redirect{_target(answer)}: ZENDESK_API_URL is not the account's own address"
    elif status == 429:
        kind = Limited
    elif status == 404 and code == "RecordNotFound" and of_item:
        kind, said = Rejected, f"{said}: {UNKNOWN}"
    elif (status in (413, 422) or (status == 400 and own_word)) and of_item:
        kind = Rejected
        said = _reason(refusals, f"{status} {code}") or (said if status == 413 else f"{said}: {UNNAMED}")
    elif 400 <= status < 500 and status not in (408, 409, 425):
        kind, said = AuthFailed, f"{said}: {NO_ACCOUNT}"
    alone = kind is Limited and of_item and (quota.calls_left > 0 if quota else _has_endpoint_limit(answer))
    call_id, wait_s = read_request_id(answer.headers), answer.retry_after_s
    raise kind(said, status=status, code=code, request_id=call_id, retry_after_s=wait_s, quota=quota, item_only=alone)


def read_token_answer(answer: Answer) -> dict[str, Any]:
    """The object in a good answer to a request for a token; otherwise raises what `read_zendesk_answer` raises, but
    nothing about one item."""
    payload = answer.json()
    code = _error_code(payload, [("", why) for _, why in _refusals(payload)])
    if answer.status == 401 or (answer.status in (400, 403, 422) and code):
        said = f"Zendesk answered {' '.join(filter(None, [str(answer.status), code]))} to ZENDESK_CLIENT_ID and "
        said += f"ZENDESK_CLIENT_SECRET: {OAUTH_REFUSALS.get(code or '', 'check both')}"
        raise AuthFailed(said, status=answer.status, code=code, request_id=read_request_id(answer.headers))
    return read_zendesk_answer(answer, of_item=False)


def read_request_id(headers: Mapping[str, str]) -> str | None:
    """Zendesk's name for the call."""
    given = headers.get("x-zendesk-request-id") or headers.get("x-request-id") or ""
    return "".join(char for char in given if char.isprintable())[:200] or None  # what a column can keep


def read_quota(headers: Mapping[str, str]) -> Quota | None:
    """What is left of the account's rate limit."""
    names = ("X-Rate-Limit-Remaining", "X-RateLimit-Remaining", "ratelimit-remaining")
    left = next(filter(None, (_read_count(headers.get(name, "")) for name in names)), None)
    left = left or _draft_count(headers.get("RateLimit", ""))
    reset = _read_count(headers.get("ratelimit-reset", ""))
    return Quota(int(left[1]), float(reset[1]) if reset else RESET_UNKNOWN_S) if left else None


def _has_endpoint_limit(answer: Answer) -> bool:
    """Whether it names a limit of its own that is used up: Zendesk-RateLimit-tickets-update: total=30; remaining=0."""
    own = (text for name, text in answer.headers.items() if name.lower().startswith("zendesk-ratelimit-"))
    return any(left and not int(left[1]) for left in map(_draft_count, own))


def _target(answer: Answer) -> str:
    """ " to acme-inc.zendesk.com": where a redirect leads."""
    host = re.match(r"https?://([\w.-]{1,80})(?![\w.:@-])", answer.headers.get("Location", ""))
    return f" to {host[1]}" if host else ""


def _refusals(payload: object) -> Iterator[tuple[str, str]]:
    """The refused fields, each with Zendesk's code for the reason or "": ("360001", "BlankValue"). Descriptions stay
    out: they are localised and quote customers."""
    said = payload if isinstance(payload, dict) else {}
    error = said.get("error")
    if isinstance(error, dict) and (named := _attribute(str(error.get("message")))):
        yield named[1], ""
    own = error if isinstance(error, dict) else {"field": said.get("field")}
    if any(_word(own.get(name)) for name in ("code", "field")):
        yield _refused_field("", own), _word(own.get("code"))
    for name, fault in [*_faults(said.get("errors")), *_faults(said.get("details"))]:
        codes = map(_word, (fault.get(key) for key in ("error", "type", "code")))
        refusal = _refused_field(name, fault), next(filter(None, codes), "")
        if any(refusal):
            yield refusal


def _faults(listed: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each fault of a list, or of an object from names to one fault or several, with its name."""
    for name, faults in listed.items() if isinstance(listed, dict) else [("", listed)]:
        for fault in faults if isinstance(faults, list) and faults else [faults]:
            yield _word(name) or ("base" if name else ""), fault if isinstance(fault, dict) else {}


def _refused_field(name: str, fault: Mapping[str, Any]) -> str:
    if system := _is_system_field(str(fault.get("ticket_field_type"))):
        return system[1].lower()
    source = fault.get("source")
    sources = source if isinstance(source, dict) else {"pointer": source}
    own = [fault.get(key) for key in ("ticket_field_id", "field_id", "attribute", "field")]
    own += [sources.get(key) for key in ("field_id", "pointer", "parameter", "attribute")]
    named = next(filter(None, map(_word, own)), "")
    parts = [part for part in _pointed(named) if part != "value"] if "/" in named else [named]
    return (parts and parts[-1]) or name


def _error_code(payload: object, refusals: Sequence[tuple[str, str]]) -> str | None:
    """Zendesk's error code with the refused fields and why: "RecordInvalid requester:UserSuspended". Sentences stay
    out."""
    error = payload.get("error") if isinstance(payload, dict) else None
    words = [_word(error.get("title") if isinstance(error, dict) else error)]
    words += dict.fromkeys(":".join(filter(None, pair)) for pair in refusals)
    return " ".join(list(filter(None, words))[:6]) or None


def _reason(refusals: Sequence[tuple[str, str]], answered: str) -> str:
    """What is wrong with a ticket and what to do about it; "" when Zendesk names no field."""
    said: dict[str, list[str]] = {}
    for field, code in refusals:
        if field:
            said.setdefault(_complaint(field, code), []).append(field)
    reasons = [complaint.format(" and ".join(dict.fromkeys(fields[:5]))) for complaint, fields in said.items()]
    return f"{'; '.join(reasons[:3])} ({answered[:120]})" if reasons else ""


def _complaint(field: str, code: str) -> str:
    """A sentence with a place for the names of all fields that it is true of."""
    why = f" ({code})" if code else ""
    if field == "base":
        return f"Zendesk refuses the ticket{why}: {UNNAMED}"
    if field in NOT_FROM_SETTINGS:
        return f"Zendesk does not accept the {{}} of this ticket{why}"
    if re.search("blank|missing|required|empty", code, re.IGNORECASE):
        return "Zendesk requires the field {}: add it to ZENDESK_TICKET_FIELDS, then send again"
    how = "correct it in ZENDESK_TICKET_FIELDS or ROUTES, then send again"
    return f"Zendesk does not accept the field {{}}{why}: {how}"


def _word(value: object) -> str:
    """A name or a code that is safe to show; "" for anything else."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if _is_word(text) else ""
