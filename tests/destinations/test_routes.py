"""Which destinations an event goes to, and for which of its words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import new_routes, notification

from config import ConfigError, Reader
from destinations.routes import ROUTES_VARIABLES, Routes, mask_emails
from events import CREDENTIALS, LABEL_APPLIED, MESSAGE_PUBLISHED, MESSAGE_SENT, MESSAGES, RULE_APPLIED, Event, Subject

LABELS = 'label CreateCase -> zendesk; label VIP -> slack #crisis; label Bill.* -> zendesk {"group_id": 7}'


def event(**changes: Any) -> Event:
    return Event.parse(notification(**changes))


def rule_applied(rule_id: str, name: str) -> Event:
    data = {"ruleMatched": {"ruleId": rule_id, "ruleName": name}, "items": [{"entityId": "twitter:1"}]}
    return event(eventName=RULE_APPLIED, data=data)


def message(name: str = MESSAGE_PUBLISHED, **data: Any) -> Event:
    return event(eventName=name, data={"id": "1", **data})


def read(routes: str = "", label: str = "") -> Routes:
    """The routes in these variables. Raises ConfigError."""
    reader = Reader({"ROUTES": routes, "SPREDFAST_LABEL_NAME": label}, ROUTES_VARIABLES)
    found = Routes.read(reader)
    reader.finish()
    return found


# Labels


@pytest.mark.parametrize(
    ("labels", "matches"),
    [
        (("CreateCase",), {"zendesk": ("CreateCase",)}),
        (("Praise", "CreateCase"), {"zendesk": ("CreateCase",)}),
        (("General Labels - CreateCase",), {"zendesk": ("CreateCase",)}),
        (("VIP",), {"slack:#crisis": ("VIP",)}),
        (("VIP", "CreateCase"), {"zendesk": ("CreateCase",), "slack:#crisis": ("VIP",)}),
        (("Billing", "CreateCase", "Billing"), {"zendesk": ("CreateCase", "Billing")}),
        (("Praise",), {}),
    ],
    ids=str,
)
def test_an_event_goes_to_each_of_its_destinations_once_with_the_labels_that_fit(
    labels: tuple[str, ...], matches: dict[str, tuple[str, ...]]
) -> None:
    assert new_routes(LABELS).matches(event(labels=labels)) == matches


def test_an_event_without_labels_goes_where_the_only_label_leads() -> None:
    labels: Any
    for labels in ((), None, [""], {}):
        assert new_routes("label CreateCase -> zendesk").matches(event(labels=labels)) == {"zendesk": ("CreateCase",)}
        assert new_routes("label Create.* -> zendesk").matches(event(labels=labels)) == {"zendesk": ()}


def test_an_event_without_labels_has_the_only_labels_name_and_fields_also_when_it_has_several_lines() -> None:
    routes = new_routes('label VIP -> slack #crisis; label VIP -> zendesk {"group_id": 7}')
    assert routes.matches(event(labels=())) == {"slack:#crisis": ("VIP",), "zendesk": ("VIP",)}
    assert routes.fields_for(subject()) == {"group_id": 7}
    assert new_routes('label V.* -> zendesk {"group_id": 7}').fields_for(subject()) == {"group_id": 7}


def test_an_event_without_labels_goes_where_the_labels_of_all_its_posts_lead() -> None:
    posts = [{"entityId": f"x:{number}", "labels": [f"old {number}", {"name": "Set - VIP"}]} for number in (1, 2)]
    assert new_routes(LABELS).matches(event(labels=[], data={"items": posts})) == {"slack:#crisis": ("VIP",)}


@pytest.mark.parametrize("labels", [[], ["Praise"], [None], "Praise"])
def test_an_event_that_shows_no_label_of_ours_goes_to_every_labels_destination(labels: Any) -> None:
    data = {"items": [{"entityId": "x:1", "labels": labels}, {"entityId": "x:2", "labels": ["VIP"]}, "junk"]}
    routes = new_routes(f"{LABELS}; rule Recall -> slack #care; published -> slack #news")
    assert routes.matches(event(data=data)) == {"zendesk": (), "slack:#crisis": ()}


def test_without_a_route_nothing_goes_anywhere() -> None:
    assert Routes().matches(event()) == Routes().matches(event(labels=())) == {}
    assert new_routes("rule Recall -> slack #x").matches(event(labels=())) == {}


# Rules


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (("1001", "Product recall"), {"slack:#care": ("Product recall",)}),
        (("1002", "EMEA - Product recall"), {"slack:#care": ("EMEA - Product recall",)}),
        (("42", "Anything"), {"zendesk": ("Anything",)}),
        (("42", ""), {"zendesk": ("42",)}),
        (("1001", "Product recalls"), {}),
        (("", ""), {}),
    ],
)
def test_a_rule_is_named_by_its_name_or_its_id(rule: tuple[str, str], matches: dict[str, tuple[str, ...]]) -> None:
    routes = new_routes("rule Product recall -> slack #care; rule 42 -> zendesk; label .* -> slack #all")
    assert routes.matches(rule_applied(*rule)) == matches


# Messages and accounts


@pytest.mark.parametrize(
    ("line", "data", "words"),
    [
        ("published -> slack #x", {}, ()),
        ("published FACEBOOK -> slack #x", {"service": "FACEBOOK"}, ("FACEBOOK",)),
        ("published facebook -> slack #x", {"service": "Facebook"}, ("FACEBOOK",)),
        ("published (FACEBOOK|TIKTOK) -> slack #x", {"service": "TIKTOK"}, ("TIKTOK",)),
        ("published Ideas -> slack #x", {"service": "X", "labels": ["General Labels - Ideas"]}, ("Ideas",)),
        ("published Ideas -> slack #x", {"labels": [{"name": "Ideas"}, {"title": "No"}]}, ("Ideas",)),
        ("published FACEBOOK -> slack #x", {"service": "TWITTER"}, None),
        ("published FACEBOOK -> slack #x", {}, None),
        ("published X -> slack #x", {"service": "TWITTER"}, ("TWITTER",)),
        ("published x -> slack #x", {"service": "TWITTER"}, ("TWITTER",)),
        ("published Multi channel -> slack #x", {"service": "MULTI_CHANNEL"}, ("MULTI_CHANNEL",)),
        ("published Khoros -> slack #x", {}, None),
        ("sent -> slack #x", {}, None),
    ],
)
def test_a_message_is_chosen_by_its_service_or_a_label(line: str, data: Any, words: tuple[str, ...] | None) -> None:
    assert new_routes(line).matches(message(**data)) == ({} if words is None else {"slack:#x": words})


def test_each_event_of_a_message_or_an_account_has_lines_of_its_own() -> None:
    lines = "published -> slack #a; sent -> slack #b; needs-approval -> slack #c; disconnected -> slack #d"
    routes = new_routes(f"{lines}; {CREDENTIALS[1]} -> slack #e")
    for name, place in zip(MESSAGES, "abc", strict=True):
        assert routes.matches(message(name)) == {f"slack:#{place}": ()}
    assert routes.matches(event(eventName=CREDENTIALS[0], data=None)) == {"slack:#d": ()}
    assert routes.matches(event(eventName=CREDENTIALS[1], data={})) == {"slack:#d": (), "slack:#e": ()}


@pytest.mark.parametrize("name", ["Stream-Item-Label-Applied", "credential-auth", "pass-conversation-control"])
def test_another_event_goes_nowhere_whatever_its_labels(name: str) -> None:
    assert new_routes(f"{LABELS}; published -> slack #x").matches(event(eventName=name)) == {}


# The fields of a line


def subject(*labels: str, raw: Any = None, name: str = LABEL_APPLIED, **more: Any) -> Subject:
    return Subject(name, "", labels, more.pop("matched", ()), more.pop("rule", None), raw or {"entityId": "x:1"})


FIELDS = (
    'label Billing -> slack #x; label Bill.* -> zendesk {"group_id": 7}; label Billing -> zendesk {"group_id": 8}; '
    'rule Recall -> zendesk {"priority": "high"}; label CreateCase -> zendesk'
)


@pytest.mark.parametrize(
    ("of", "fields"),
    [
        (subject("Set - Billing"), {"group_id": 7}),
        (subject("CreateCase", "Billing"), {"group_id": 7}),
        (subject("CreateCase"), {}),
        (subject("Praise"), {}),
        (subject("cut off", matched=("Billing",)), {"group_id": 7}),
        (subject(), {}),
        (subject(raw={"labels": ["Billing"]}), {}),
        (subject(matched=("Billing",)), {"group_id": 7}),
        (subject(raw={"labels": ["CreateCase"]}), {}),
        (subject(name=RULE_APPLIED, rule=rule_applied("1", "Recall").rule), {"priority": "high"}),
    ],
)
def test_a_posts_fields_are_those_of_the_first_line_that_leads_it_to_zendesk(of: Subject, fields: Any) -> None:
    assert new_routes(FIELDS).fields_for(of) == fields


# The queries


def test_only_the_labels_have_a_query() -> None:
    routes = new_routes(f"{LABELS}; rule Recall -> slack #x; sent FACEBOOK -> slack #x; disconnected -> slack #x")
    assert list(routes.queries) == [LABEL_APPLIED, RULE_APPLIED, MESSAGE_SENT, *CREDENTIALS]
    assert {name: query for name, query in routes.queries.items() if query} == {
        LABEL_APPLIED: routes.queries[LABEL_APPLIED]
    }
    for label in ("CreateCase", "General Labels - VIP", "Billing", "Bill\u00a0shock"):
        assert re.fullmatch(routes.queries[LABEL_APPLIED], label)
    assert not re.search(routes.queries[LABEL_APPLIED], "General Labels - Praise")


def test_an_event_that_no_line_wants_has_no_query() -> None:
    assert list(new_routes("published -> slack #x").queries) == [MESSAGE_PUBLISHED]


# The settings


def test_the_lines_come_first_and_the_label_behind_them() -> None:
    routes = read('label VIP -> slack #x\nlabel Bill.* -> zendesk {"group_id": 7}', "CreateCase")
    assert routes.route_words() == ["Label VIP → Slack #x", "Label Bill.* → Zendesk", "Label CreateCase → Zendesk"]
    assert [route.line for route in routes.routes] == [1, 2, 0]
    assert list(routes.destinations) == ["slack:#x", "zendesk"]
    assert routes.destinations["zendesk"].fields == {"group_id": 7}


def test_the_label_alone_is_enough_and_so_are_lines() -> None:
    assert read(label="CreateCase").route_words() == ["Label CreateCase → Zendesk"]
    assert read("published -> slack #x").route_words() == ["Published → Slack #x"]


@pytest.mark.parametrize("label", ['"Create Case"', "“Create Case”", "\ufeffCreate\u00a0Case\u200b", "Create  Case"])
def test_the_label_is_cleaned_as_lines_are(label: str) -> None:
    assert read(label=label).matches(event(labels=("Create Case",))) == {"zendesk": ("Create Case",)}


def test_a_label_with_an_arrow_in_it_is_a_label() -> None:
    assert read(label="Sales -> Care").matches(event(labels=("Sales -> Care",))) == {"zendesk": ("Sales -> Care",)}


@pytest.mark.parametrize("whole", ['"{}"', "'{}'", "“{}”", "\ufeff{}\u200b", "{};"])
def test_the_whole_value_may_be_quoted_and_hold_what_cannot_be_seen(whole: str) -> None:
    assert read(whole.format("label VIP -> slack #x; published -> slack #y")).route_words() == [
        "Label VIP → Slack #x",
        "Published → Slack #y",
    ]


def test_a_line_twice_is_one_route_to_one_destination() -> None:
    routes = read("label CreateCase -> zendesk; label CreateCase -> zendesk", "CreateCase")
    assert routes.route_words() == ["Label CreateCase → Zendesk"]
    assert routes.matches(event()) == {"zendesk": ("CreateCase",)}


@pytest.mark.parametrize("routes", ["", "  ", "# label VIP -> slack #x", ";;\n"])
def test_at_least_one_line_is_needed(routes: str) -> None:
    with pytest.raises(ConfigError, match="SPREDFAST_LABEL_NAME is missing") as error:
        read(routes)
    assert "ROUTES" in str(error.value)


def test_one_message_names_every_faulty_line_and_only_those() -> None:
    with pytest.raises(ConfigError) as error:
        read("label VIP slack #x\n# comment\nlabel A -> zendesk\nrule -> slack #x; published -> zendesk", "(a+)+")
    lines = re.findall(r"^ +(.*)$", str(error.value), re.MULTILINE)
    assert [line.split("; for example")[0] for line in lines[:4]] == [
        "ROUTES has faulty lines. Lines like: label VIP -> slack #social-crisis; docs/routes.md explains them.",
        'line 1 "label VIP" has no ->',
        'line 4 "rule" must name a rule: one that matches a hashtag can match thousands of posts an hour',
        'line 4 "published" cannot lead to zendesk, where a ticket is about a post',
    ]
    assert lines[4].startswith("SPREDFAST_LABEL_NAME") and len(lines) == 5
    assert "SPREDFAST_LABEL_NAME uses more than" in str(error.value)


def test_in_a_text_of_one_line_the_routes_are_counted() -> None:
    with pytest.raises(ConfigError, match=r'\n +route 3 "label C" has no ->'):
        read("label A -> zendesk; label B -> zendesk; # a comment; label C")


def test_a_faulty_line_does_not_make_the_label_missing() -> None:
    with pytest.raises(ConfigError) as error:
        read("label VIP slack #x")
    assert "SPREDFAST_LABEL_NAME" not in str(error.value)


# Words for people


def test_in_public_the_words_mask_e_mail_addresses() -> None:
    routes = new_routes(
        "published -> slack ann.lee@acme.example; label VIP -> slack #x; published -> slack b@c.example"
    )
    assert routes.route_words() == [
        "Published → Slack ann.lee@acme.example",
        "Label VIP → Slack #x",
        "Published → Slack b@c.example",
    ]
    assert [mask_emails(words) for words in routes.route_words()] == [
        "Published → Slack a…@acme.example",
        "Label VIP → Slack #x",
        "Published → Slack b…@c.example",
    ]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("slack:ann@acme.example", "slack:a…@acme.example"),
        ("Slack ann@acme.example", "Slack a…@acme.example"),
        ("slack:#social-crisis", "slack:#social-crisis"),
        ("zendesk", "zendesk"),
    ],
)
def test_names_of_destinations_are_masked_too(text: str, masked: str) -> None:
    assert mask_emails(text) == masked


def test_masked_addresses_that_would_look_alike_differ_by_a_short_hash() -> None:
    names = ["slack:ann@acme.example", "slack:amy@acme.example", "slack:bob@acme.example", "slack:#ann"]
    shown = [mask_emails(name, names) for name in names]
    assert len({*shown}) == 4 and shown[2:] == ["slack:b…@acme.example", "slack:#ann"]
    assert all(re.fullmatch("slack:a…@acme.example/[0-9a-f]{8}", one) for one in shown[:2])
    assert mask_emails("Published → Slack amy@acme.example", names) == shown[1].replace("slack:", "Published → Slack ")
    assert mask_emails("slack:ann@acme.example", names[:1] * 2) == "slack:a…@acme.example"
