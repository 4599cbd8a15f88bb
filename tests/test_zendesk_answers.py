"""What each of Zendesk's answers means: what to do next, whom it is about, and what people read."""

from __future__ import annotations

import json

import pytest
from contracts import validate

from outbound import Answer, AuthFailed, Limited, Rejected, ServiceError, Unavailable
from zendesk_answers import UNNAMED, read_token_answer, read_zendesk_answer


def test_an_object_is_the_answer_whatever_kind_of_success() -> None:
    for status in (200, 201, 202):
        assert read_zendesk_answer(Answer(status, {}, b'{"ticket": {"id": 1}}')) == {"ticket": {"id": 1}}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"OK", b'{"ticket": {"id": 1'])
def test_a_success_without_an_object_is_an_unknown_outcome(body: bytes) -> None:
    with pytest.raises(Unavailable, match="answered 201 with something that is not JSON: see whether ZENDESK_API_URL"):
        read_zendesk_answer(Answer(201, {}, body))


@pytest.mark.parametrize("body", [b"", b"<html>", b"Oops", b'{"error": "E"}', b"[]"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, Unavailable) for status in (408, 409, 425, 500, 502, 503, 504, 599, 600)],
        *[(status, Rejected) for status in (413, 422)],
        *[(status, AuthFailed) for status in (401, 402, 403, 404, 405, 406, 410, 414, 415, 451, 301, 302, 304, 307)],
        (429, Limited),
    ],
)
def test_the_status_decides_what_to_do_next_whatever_the_body(
    status: int, kind: type[ServiceError], body: bytes
) -> None:
    with pytest.raises(ServiceError) as caught:
        read_zendesk_answer(Answer(status, {}, body))
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert str(caught.value).startswith(f"Zendesk answered {status}")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Rate-Limit-Remaining": "650"},
        {"ratelimit-remaining": "1", "ratelimit-reset": "30"},
        {"X-Rate-Limit-Remaining": "650", "Retry-After": "600"},
        {"X-RateLimit-Remaining": "650"},
        {"X-Rate-Limit-Remaining": "650, 650"},
        {"X-Rate-Limit-Remaining": "650.0"},
        {"RateLimit": '"default";r=650;t=30'},
        {"RateLimit": "limit=700, remaining=650, reset=30"},
        {"zendesk-ratelimit-tickets-update": "total=30; remaining=0; resets=600"},
    ],
    ids=str,
)
def test_a_429_while_calls_are_left_is_about_one_item(headers: dict[str, str]) -> None:
    with pytest.raises(Limited) as caught:
        read_zendesk_answer(Answer(429, headers, b"{}"))
    assert caught.value.item_only
    assert caught.value.retry_after_s == (600.0 if "Retry-After" in headers else None)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Rate-Limit-Remaining": "0"},
        {"X-Rate-Limit-Remaining": "many"},
        {"X-Rate-Limit-Remaining": "1e3"},
        {"X-Rate-Limit-Remaining": "0", "Zendesk-RateLimit-tickets-update": "remaining=0"},
        {"RateLimit": '"default";r=0;t=30'},
        {"Zendesk-RateLimit-tickets-update": "total=30; remaining=7; resets=600"},
    ],
    ids=str,
)
def test_a_429_without_evidence_limits_the_account(headers: dict[str, str]) -> None:
    with pytest.raises(Limited) as caught:
        read_zendesk_answer(Answer(429, headers, b"{}"))
    assert not caught.value.item_only


@pytest.mark.parametrize("status", [403, 409, 422, 503])
def test_calls_that_are_left_make_nothing_else_about_one_item(status: int) -> None:
    with pytest.raises(ServiceError) as caught:
        read_zendesk_answer(Answer(status, {"X-Rate-Limit-Remaining": "650"}, b"{}"))
    assert not caught.value.item_only


def test_a_404_about_a_record_refuses_this_request_and_names_the_settings() -> None:
    with pytest.raises(Rejected, match="see the ids in ZENDESK_TICKET_FIELDS and ROUTES"):
        read_zendesk_answer(Answer(404, {}, b'{"error": "RecordNotFound", "description": "Not found"}'))


SUSPENDED = {"requester": [{"description": "Requester: Jo is suspended.", "error": "UserSuspended"}]}
FIX = "correct it in ZENDESK_TICKET_FIELDS or ROUTES, then send again"


def of_base(**entry: object) -> dict[str, object]:
    """Zendesk's refusal of a field, in German."""
    return {"error": "RecordInvalid", "details": {"base": [{"description": "Jo: darf nicht leer sein", **entry}]}}


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        pytest.param(
            of_base(error="BlankValue", ticket_field_id=360001, ticket_field_type="FieldTagger"),
            "RecordInvalid 360001:BlankValue",
            "Zendesk requires the field 360001: add it to ZENDESK_TICKET_FIELDS, then send again",
            id="a required field",
        ),
        pytest.param(
            of_base(error="InvalidValue", ticket_field_id=360001, ticket_field_type="FieldInteger"),
            "RecordInvalid 360001:InvalidValue",
            f"Zendesk does not accept the field 360001 (InvalidValue): {FIX}",
            id="a wrong value of a field",
        ),
        pytest.param(
            of_base(error=None, ticket_field_id=360001, ticket_field_type="FieldTagger"),
            "RecordInvalid 360001",
            f"Zendesk does not accept the field 360001: {FIX}",
            id="a field without a code",
        ),
        pytest.param(
            of_base(error="BlankValue", ticket_field_id=7, ticket_field_type="FieldPriority"),
            "RecordInvalid priority:BlankValue",
            "Zendesk requires the field priority: add it to ZENDESK_TICKET_FIELDS, then send again",
            id="a field of the system",
        ),
        pytest.param(
            of_base(error="BlankValue", ticket_field_id=7, ticket_field_type="FieldDescription"),
            "RecordInvalid description:BlankValue",
            "Zendesk does not accept the description of this ticket (BlankValue)",
            id="a field that comes from the post",
        ),
        pytest.param(
            of_base(error="BlankValue"),
            "RecordInvalid base:BlankValue",
            f"Zendesk refuses the ticket (BlankValue): {UNNAMED}",
            id="no field",
        ),
        pytest.param(
            of_base(error="InvalidValue", attribute="group_id"),
            "RecordInvalid group_id:InvalidValue",
            f"Zendesk does not accept the field group_id (InvalidValue): {FIX}",
            id="an attribute",
        ),
        pytest.param(
            {"error": "RecordInvalid", "details": {"value": [{"type": "blank", "description": "Jo"}]}},
            "RecordInvalid value:blank",
            "Zendesk requires the field value: add it to ZENDESK_TICKET_FIELDS, then send again",
            id="a type for a code",
        ),
        pytest.param(
            {
                "error": "RecordInvalid",
                "details": {
                    "base": [
                        {"error": "BlankValue", "ticket_field_id": 1},
                        {"error": "BlankValue", "ticket_field_id": 2},
                    ],
                    "group": [{"error": "InvalidValue"}],
                },
            },
            "RecordInvalid 1:BlankValue 2:BlankValue group:InvalidValue",
            "Zendesk requires the field 1 and 2: add it to ZENDESK_TICKET_FIELDS, then send again; "
            f"Zendesk does not accept the field group (InvalidValue): {FIX}",
            id="several fields",
        ),
        pytest.param(
            {"error": "RecordInvalid", "description": "Jo", "details": SUSPENDED},
            "RecordInvalid requester:UserSuspended",
            f"Zendesk does not accept the field requester (UserSuspended): {FIX}",
            id="details",
        ),
        pytest.param(
            {
                "errors": [
                    {"code": "MissingValue", "title": "Jo", "source": {"pointer": "/ticket/custom_fields/360001"}}
                ]
            },
            "360001:MissingValue",
            "Zendesk requires the field 360001: add it to ZENDESK_TICKET_FIELDS, then send again",
            id="the source of an error",
        ),
        pytest.param(
            {"errors": [{"code": "InvalidValue", "source": {"parameter": "brand_id"}}]},
            "brand_id:InvalidValue",
            f"Zendesk does not accept the field brand_id (InvalidValue): {FIX}",
            id="the parameter of an error",
        ),
        pytest.param(
            {"errors": [{"code": "InvalidValue", "source": "brand_id"}]},
            "brand_id:InvalidValue",
            f"Zendesk does not accept the field brand_id (InvalidValue): {FIX}",
            id="the source as text",
        ),
        pytest.param(
            {
                "error": {
                    "title": "Invalid attribute",
                    "message": "You passed an invalid value for the group_id attribute. Jo must be an integer",
                }
            },
            "group_id",
            f"Zendesk does not accept the field group_id: {FIX}",
            id="an attribute in a message",
        ),
        pytest.param({"error": {"title": "Forbidden", "message": "Jo"}}, "Forbidden", None, id="title and message"),
        pytest.param({"errors": [{"code": "TooMany", "title": "Jo", "detail": "Jo"}]}, "TooMany", None, id="errors"),
        pytest.param({"error": "Couldn't authenticate you"}, None, None, id="a sentence"),
        pytest.param({"error": "no end user jo@acme.example"}, None, None, id="a sentence with an address"),
        pytest.param({"error": {"title": "Jo is wrong", "message": "Jo"}}, None, None, id="a sentence for a title"),
        pytest.param(
            {"errors": [{"code": "required", "source": {"pointer": "/data/ticket/custom_fields/0/value"}}]},
            "custom_fields:required",
            "Zendesk requires the field custom_fields: add it to ZENDESK_TICKET_FIELDS, then send again",
            id="a place in a list",
        ),
        pytest.param(
            {"errors": [{"code": "BlankValue", "source": {"field_id": 360001}}]},
            "360001:BlankValue",
            "Zendesk requires the field 360001: add it to ZENDESK_TICKET_FIELDS, then send again",
            id="the field of a source",
        ),
        pytest.param(
            {"errors": {"group_id": ["Jo is invalid"]}},
            "group_id",
            f"Zendesk does not accept the field group_id: {FIX}",
            id="errors as an object",
        ),
        pytest.param(
            {"error": "RecordInvalid", "details": {"base": {"error": "InvalidValue", "ticket_field_id": 360001}}},
            "RecordInvalid 360001:InvalidValue",
            f"Zendesk does not accept the field 360001 (InvalidValue): {FIX}",
            id="a detail as an object",
        ),
        pytest.param(
            {"error": "RecordInvalid", "details": [{"field": "group_id", "error": "InvalidValue"}]},
            "RecordInvalid group_id:InvalidValue",
            f"Zendesk does not accept the field group_id (InvalidValue): {FIX}",
            id="details as a list of objects",
        ),
        pytest.param(
            {"error": {"code": "InvalidValue", "field": "group_id", "message": "Jo"}},
            "group_id:InvalidValue",
            f"Zendesk does not accept the field group_id (InvalidValue): {FIX}",
            id="code and field",
        ),
        pytest.param(
            {"error": "InvalidValue", "field": "group_id", "description": "Jo"},
            "InvalidValue group_id",
            f"Zendesk does not accept the field group_id: {FIX}",
            id="a field beside the error",
        ),
        pytest.param("plain text about Jo", None, None, id="plain text"),
        pytest.param(["Jo"], None, None, id="a list"),
        pytest.param({}, None, None, id="nothing"),
        pytest.param({"error": None}, None, None, id="null"),
        pytest.param({"error": 42}, "42", None, id="a number"),
        pytest.param({"error": ["Jo"]}, None, None, id="error as a list"),
        pytest.param({"error": {"message": "Jo"}}, None, None, id="no title"),
        pytest.param({"errors": []}, None, None, id="no errors"),
        pytest.param({"errors": ["Jo"]}, None, None, id="errors as texts"),
        pytest.param({"errors": [{"title": "Jo"}]}, None, None, id="errors without a code"),
        pytest.param({"errors": [{"code": "Jo is wrong", "source": "for Jo"}]}, None, None, id="sentences for codes"),
        pytest.param(
            {"details": {"subject": ["Jo"]}},
            "subject",
            "Zendesk does not accept the subject of this ticket",
            id="only details",
        ),
        pytest.param(
            {"details": {"subject": "Jo"}},
            "subject",
            "Zendesk does not accept the subject of this ticket",
            id="a detail as text",
        ),
        pytest.param({"details": ["Jo"]}, None, None, id="details as a list"),
    ],
)
def test_every_shape_of_error_body_gives_its_code_and_a_reason_to_act_on_and_no_customers_text(
    body: object, code: str | None, reason: str | None
) -> None:
    with pytest.raises(Rejected) as caught:
        read_zendesk_answer(Answer(422, {}, json.dumps(body).encode()))
    assert caught.value.code == code
    assert "Jo" not in repr(caught.value)
    answered = f"422 {code}" if code else "422"
    assert str(caught.value) == (f"{reason} ({answered})" if reason else f"Zendesk answered {answered}: {UNNAMED}")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": "x" * 999, "details": {"y" * 99: []}}, "base"),
        ({"error": "E", "details": {f"f{n}": [] for n in range(99)}}, "E f0 f1 f2 f3 f4"),
        ({"error": "E", "details": {f"{n}" + "f" * 79: [{"error": "e" * 80}] for n in range(99)}}, None),
    ],
    ids=["long ones", "many refused fields", "many long ones"],
)
def test_a_reason_is_short_enough_to_be_kept(body: object, code: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        read_zendesk_answer(Answer(422, {}, json.dumps(body).encode()))
    assert code is None or caught.value.code == code
    assert len(str(caught.value)) < 1_500


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": "IdempotentRequestError", "description": "…"}, Rejected, "IdempotentRequestError"),
        (400, {"error": {"title": "Invalid attribute", "message": "…"}}, Rejected, None),
        (401, {"error": "Couldn't authenticate you"}, AuthFailed, None),
        (403, {"error": {"title": "Forbidden", "message": "…"}}, AuthFailed, "Forbidden"),
        (404, {"error": "RecordNotFound", "description": "…"}, Rejected, "RecordNotFound"),
        (409, {"error": "DatabaseConflict", "description": "…"}, Unavailable, "DatabaseConflict"),
        (422, {"error": "RecordInvalid", "details": SUSPENDED}, Rejected, "RecordInvalid requester:UserSuspended"),
        (429, {"error": "APIRateLimitExceeded", "description": "…"}, Limited, "APIRateLimitExceeded"),
        (503, {"error": "DatabaseDeadlock", "description": "…"}, Unavailable, "DatabaseDeadlock"),
    ],
)
def test_every_published_error_is_understood(
    status: int, body: object, kind: type[ServiceError], code: str | None
) -> None:
    validate(body, "zendesk", "error")
    with pytest.raises(ServiceError) as caught:
        read_zendesk_answer(Answer(status, {}, json.dumps(body).encode()))
    assert (type(caught.value), caught.value.code) == (kind, code)


@pytest.mark.parametrize(
    "target", ["", "/login", "https://user:pass@evil.example/", "https://evil.example:8080/", "x" * 99]
)
def test_only_the_plain_host_of_a_redirect_is_shown(target: str) -> None:
    with pytest.raises(AuthFailed, match="^Zendesk answered 302, a redirect: ZENDESK_API_URL"):
        read_zendesk_answer(Answer(302, {"Location": target}))


def test_nothing_that_is_answered_to_a_request_for_a_token_is_about_one_ticket() -> None:
    for status in (400, 404, 413, 422):
        with pytest.raises(AuthFailed):
            read_token_answer(Answer(status, {}, b'{"error": "RecordNotFound"}'))


@pytest.mark.parametrize(
    "body",
    [
        {"error": "invalid_client", "error_description": "Jo"},
        {"error": {"code": "invalid_client"}},
        {"errors": [{"code": "invalid_client", "detail": "Jo"}]},
    ],
    ids=str,
)
def test_an_unknown_oauth_client_is_named_in_whatever_shape_zendesk_says_it(body: object) -> None:
    with pytest.raises(AuthFailed, match="knows no such Identifier") as caught:
        read_token_answer(Answer(400, {}, json.dumps(body).encode()))
    assert caught.value.code == "invalid_client"


def test_a_request_id_keeps_only_what_a_column_can_keep() -> None:
    """PostgreSQL refuses NUL, and with it the record of every attempt in the same commit."""
    with pytest.raises(Rejected) as refusal:
        read_zendesk_answer(Answer(422, {"x-zendesk-request-id": "a\x00b\x1f" + "c" * 300}, b"{}"))
    assert refusal.value.request_id == "ab" + "c" * 198
