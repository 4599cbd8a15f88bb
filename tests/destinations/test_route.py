"""A line of ROUTES says which events go where. A faulty one says what is wrong, and shows a line that works."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from destinations.filters import Filter
from destinations.route import EVENTS, EXAMPLES, WORDS, Route, first_words, read_line, split_lines

HOOK = "https://adtech.example/hooks/khoros?key=made-up-secret"


@pytest.mark.parametrize(
    ("line", "words", "destination"),
    [
        ("label CreateCase -> zendesk", "Label CreateCase → Zendesk", "zendesk"),
        ("label VIP -> slack #social-crisis", "Label VIP → Slack #social-crisis", "slack:#social-crisis"),
        ("rule Product recall -> slack #care", "Rule Product recall → Slack #care", "slack:#care"),
        ("published -> slack ann@acme.example", "Published → Slack ann@acme.example", "slack:ann@acme.example"),
        ("needs-approval -> slack U024BE7LH", "Needs approval → Slack U024BE7LH", "slack:U024BE7LH"),
        ("disconnected -> slack C024BE91L", "Disconnected → Slack C024BE91L", "slack:C024BE91L"),
        (
            f"sent FACEBOOK -> webhook {HOOK}",
            "Sent FACEBOOK → Webhook adtech.example",
            "webhook:adtech.example/e9a88000",
        ),
        ("sent -> webhook http://127.0.0.1:80/x", "Sent → Webhook 127.0.0.1:80", "webhook:127.0.0.1:80/f1a6313f"),
    ],
)
def test_a_line_is_said_in_plain_words_and_names_its_destination(line: str, words: str, destination: str) -> None:
    assert (read_line(line).words, read_line(line).destination) == (words, destination)


@pytest.mark.parametrize("host", ["a" * 63, ".".join(["a" * 60] * 4), "xn--e1afmkfd.example"])
def test_a_destinations_name_fits_into_its_column_and_holds_no_secret(host: str) -> None:
    route = read_line(f"published -> webhook https://{host}/services/T0/B0/made-up-secret")
    assert len(route.destination) <= 100
    assert "secret" not in f"{route!r} {route.destination} {route.words}" and "B0" not in repr(route)


def test_each_address_is_a_destination_of_its_own() -> None:
    first, second = (read_line(f"published -> webhook https://a.example/{path}") for path in ("one", "two"))
    assert first.destination != second.destination
    assert first.destination == read_line("sent -> webhook https://a.example/one").destination


SAME = [
    "label VIP -> slack #crisis",
    "  label   VIP->slack   #crisis  ",
    "LABEL VIP -> Slack #Crisis",
    'label "VIP" -> slack "#crisis"',
    "label “VIP” → slack #crisis",
    "label 'VIP' => slack #crisis",
    "label VIP --> slack #crisis",
    "label VIP –> slack #crisis",
    "label VIP —> slack #crisis",
    "label VIP −> slack #crisis",
    "label VIP ➔ slack #crisis",
    "label VIP ⟶ slack #crisis",
    "label VIP ➡ slack #crisis",
    "label VIP －＞ slack #crisis",
    "label VIP -&gt; slack #crisis",
    "label VIP &rarr; slack #crisis",
    "label „VIP“ -> slack „#crisis“",
    "label `VIP` -> slack #crisis",
    "label\u00a0VIP\u00a0->\u00a0slack\u2009#crisis",
    "label\tVIP\t->\tslack\t#crisis",
    "stream-item-label-applied VIP -> slack #crisis",
]


@pytest.mark.parametrize("line", SAME)
def test_a_line_may_be_written_as_people_and_word_processors_write_it(line: str) -> None:
    [(_, line)] = split_lines(line)
    route = read_line(line)
    assert (route.event_names, route.filter, route.destination) == (
        WORDS["label"],
        Filter("VIP", None),
        "slack:#crisis",
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('label "a -> zendesk" -> slack #x', "a -> zendesk"),
        ("label a -> b -> slack #x", "a -> b"),
        ("rule Children's toys -> slack #x", "Children's toys"),
        ('rule 5" pizza -> slack #x', '5" pizza'),
        ("label 'tis the season -> slack #x", "'tis the season"),
        ("label Customers' -> slack #x", "Customers'"),
        ("label rock 'n' roll -> slack #x", "rock 'n' roll"),
        ("label 'n' roll -> slack #x", "'n' roll"),
        ('label "\'tis" -> slack #x', "'tis"),
        ("label VIP (gold) -> slack #x", "VIP (gold)"),
        ("label {VIP} -> slack #x", "{VIP}"),
        ("label A, B -> slack #x", "A, B"),
        ("rule 1001 -> slack #x", "1001"),
        ("published FACEBOOK -> slack #x", "FACEBOOK"),
    ],
)
def test_a_name_may_have_any_sign_in_it(line: str, name: str) -> None:
    found = read_line(line).filter
    assert found is not None and found.text == name


@pytest.mark.parametrize("apostrophe", ["'", "’"])
@pytest.mark.parametrize("between", ["; ", "\n", "\\n"], ids=["semicolon", "line break", "backslash n"])
def test_an_apostrophe_in_one_line_does_not_reach_into_the_next(apostrophe: str, between: str) -> None:
    names = ["'tis", "B'", "Fish 'n chips", "Children's", "Customers'"]
    names = [name.replace("'", apostrophe) for name in names]
    lines = [line for _, line in split_lines(between.join(f"label {name} -> slack #x" for name in names))]
    found = [read_line(line).filter for line in lines]
    assert [one and one.text for one in found] == names


@pytest.mark.parametrize(
    ("json", "fields"),
    [
        ('{"group_id": 360001, "priority": "high"}', {"group_id": 360001, "priority": "high"}),
        ("{“group_id”: 360001}", {"group_id": 360001}),
        ('{"tags": ["a -> slack #b", "“c”"]}', {"tags": ["a -> slack #b", "“c”"]}),
        ('{\n  "group_id": 1\n}', {"group_id": 1}),
        ("{}", {}),
    ],
)
def test_a_zendesk_line_may_have_fields(json: str, fields: dict[str, object]) -> None:
    assert read_line(f"label Billing -> zendesk {json}").fields == fields
    assert read_line(f"rule Billing->zendesk{json}").fields == fields


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("label VIP slack #x", "has no ->"),
        ("https://hooks.example/made-up-secret", "has no ->"),
        ("-> zendesk", "must begin with one of label, rule,|must have"),
        ("labels VIP -> slack #x", "must begin with one of label, rule, published, sent, needs-approval, disconnected"),
        ("credential-auth -> slack #x", "must begin with one of label"),
        ("label: VIP -> slack #x", "must begin with one of label"),
        ("label VIP -> email ann@acme.example", "must have zendesk, slack or webhook behind ->"),
        ("label VIP -> slacker #x", "must have zendesk, slack or webhook behind ->"),
        ("label VIP ->", "must have zendesk, slack or webhook behind ->"),
        ("label -> zendesk", "must name a label"),
        ('label "" -> zendesk', "has a name that is empty"),
        ("rule -> slack #x", "must name a rule: .* thousands"),
        ("rule-applied -> slack #x", "must name a rule"),
        ("disconnected FACEBOOK -> slack #x", "has a name behind disconnected"),
        ("label (a+)+ -> zendesk", "has a name that uses more than"),
        ("label a*b*c*d* -> zendesk", "has a name that repeats too much"),
        ("published -> zendesk", "cannot lead to zendesk"),
        ("disconnected -> zendesk", "cannot lead to zendesk"),
        ("label VIP -> zendesk #x", "has words behind zendesk"),
        ("label VIP -> slack", "must have a #channel"),
        ("label VIP -> slack social-crisis", "must have a #channel"),
        ("label VIP -> slack @ann", "must have a #channel"),
        ("label VIP -> slack #a #b", "must have a #channel"),
        ("label VIP -> slack #a, #b", "must have a #channel"),
        ("label VIP -> slack ann@acme", "must have a #channel"),
        ("label VIP -> slack c024be91l", "must have a #channel"),
        (f"label VIP -> slack {'a' * 90}@acme.example", "must have a #channel"),
        ("label VIP -> webhook", "has an address that is not a web address"),
        ("label VIP -> webhook adtech/made-up-secret", "has an address that is not a web address"),
        ("label VIP -> webhook http://adtech.example/made-up-secret", "has an address that must begin with https://"),
        (
            "label VIP -> webhook https://me:made-up-secret@adtech.example",
            "has an address that must be a plain address",
        ),
        ("label VIP -> webhook https://a.example/made-up-secret https://b.example", "must be a plain address"),
        ('label VIP -> webhook https://a.example/x {"a": 1}', r"has \{…\} behind webhook"),
        ('label VIP -> zendesk: {"group_id": 1}', "has words behind zendesk"),
        ('label VIP -> slack #x {"a": 1}', r"has \{…\} behind slack; only zendesk takes it"),
        ("label VIP -> zendesk {group: 1}", r"has \{…\} that is not JSON"),
        ('label VIP -> zendesk {"group_id": 1', r"has \{…\} that is not JSON"),
        ('label VIP -> zendesk {"group_id": 1} now', r"has \{…\} that is not JSON"),
        ('label VIP -> zendesk {"subject": "made-up-secret"}', r"has \{…\} that may not set subject"),
        ('label VIP -> zendesk {"tags": "vip"}', r"has \{…\} that needs its tags as a list"),
    ],
)
def test_a_faulty_line_says_what_is_wrong_and_shows_one_that_works(line: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as error:
        read_line(line)
    words, _, example = str(error.value).partition("; for example: ")
    assert read_line(example).words
    assert "made-up-secret" not in words


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_the_examples_work(example: str) -> None:
    assert read_line(example).words


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_has_a_word_and_its_own_name(name: str) -> None:
    assert (
        read_line(f"{name}{'' if 'cred' in name or name == 'disconnected' else ' x'} -> slack #x").event_names
        == EVENTS[name]
    )


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(
        st.sampled_from(["label", "rule", "->", "zendesk", "slack", "#x", "{", "}", '"', "'", ";", "\n", " ", "x"])
    )
)
def test_no_words_break_the_reading(words: list[str]) -> None:
    for _, line in split_lines(" ".join(words)):
        try:
            assert isinstance(read_line(line), Route)
        except ValueError as fault:
            assert "; for example: " in str(fault)


@pytest.mark.parametrize("path", ["{id}/x", "x{", "x;y?z=1", "x;y=2;z={1}", "x;lab"])
def test_an_address_may_have_braces_and_semicolons(path: str) -> None:
    lines = [line for _, line in split_lines(f"sent -> webhook https://a.example/{path}; label VIP -> slack #x")]
    assert [read_line(line).target for line in lines] == [f"https://a.example/{path}", "#x"]


def test_a_line_may_follow_an_address_without_a_blank() -> None:
    lines = split_lines("sent -> webhook https://a.example/x;Label VIP -> slack #x;# no more;")
    assert [line for _, line in lines] == ["sent -> webhook https://a.example/x", "Label VIP -> slack #x"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("labels VIP -> slack #x", ' "labels VIP"'),
        ("label VIP slack #x", ' "label VIP"'),
        ("-> zendesk", ""),
        ("label https://hooks.example/made-up-secret", ' "label"'),
        ("https://hooks.example/made-up-secret", ""),
        ("made-up-secret&key=1", ""),
        ("label ann@acme.example -> slack", ' "label"'),
        (f"rule {'x' * 99} -> slack", f' "rule {"x" * 35}"'),
    ],
)
def test_a_faulty_line_is_known_by_its_first_words_but_never_by_a_secret(line: str, words: str) -> None:
    assert first_words(line) == words


# Lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb", [(1, "a"), (2, "b")]),
        ("a\r\nb\rc", [(1, "a"), (2, "b"), (3, "c")]),
        ("a; b;;c;", [(1, "a"), (2, "b"), (3, "c")]),
        ("a; b\nc; d", [(1, "a"), (1, "b"), (2, "c"), (2, "d")]),
        (r"a\nb", [(1, "a"), (2, "b")]),
        ("\n\n a \n# b\n#c; d\ne", [(3, "a"), (6, "e")]),
        ("# a; b", [(1, "b")]),
        ("a; # b; c", [(1, "a"), (2, "c")]),
        (r"# a; b\nc", [(2, "c")]),
        ("# a; b\r\nc", [(2, "c")]),
        ('label "a; b" -> x; c', [(1, 'label "a; b" -> x'), (2, "c")]),
        ("label “a; b” -> x; c", [(1, "label “a; b” -> x"), (2, "c")]),
        ("label 'a; b' -> x; c", [(1, "label 'a; b' -> x"), (2, "c")]),
        ("it's a; it's b", [(1, "it's a"), (2, "it's b")]),
        ('5" a; 6" b', [(1, '5" a'), (2, '6" b')]),
        ('"a; b', [(1, '"a'), (2, "b")]),
        ('a {"b": "c; }"}; d', [(1, 'a {"b": "c; }"}'), (2, "d")]),
        ('a {\n"b": {"c": 1}\n}\nd', [(1, 'a {\n"b": {"c": 1}\n}'), (4, "d")]),
        ("a {; b", [(1, "a {"), (2, "b")]),
        ('# {\na\n# } "\nb\n\n  # "\nc', [(2, "a"), (4, "b"), (7, "c")]),
        (r"# a\nb; #c", [(2, "b")]),
        ("x{2}; b", [(1, "x{2}"), (2, "b")]),
        ("", []),
        (" ; \n # only this", []),
    ],
)
def test_a_line_ends_at_a_break_or_semicolon_outside_quotes_and_braces(text: str, lines: list[tuple[int, str]]) -> None:
    assert list(split_lines(text)) == lines


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(st.sampled_from('ab {}";\n\\#'), max_size=30))
def test_no_sign_is_lost_between_lines(text: str) -> None:
    joined = "".join(line for _, line in split_lines(text))
    comment = r"(?:^|(?<=[;\n])) *#[^\n]*" if "\n" in text else "(?:^|(?<=;)) *#[^;]*"
    rest = re.sub(comment, "", text) if '"' not in text and "{" not in text else ""
    assert set(joined) <= set(text)
    if rest and "\\" not in text:
        assert re.sub(r"[\s;]", "", joined) == re.sub(r"[\s;]", "", rest)
