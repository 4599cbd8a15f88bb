"""Values that nobody should send and that somebody will send: none may crash, leak or mislead."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import responses

from app import Settings
from config import ConfigError
from destinations.zendesk_comment import Post, subject
from destinations.zendesk_words import Style, ticket_body
from events import LABEL_APPLIED, StreamItem
from inbox.gate import OPEN, Gate
from khoros_client import KhorosClient
from log import Formatter, field
from outbound import Answer, ServiceError, Unavailable
from zendesk_answers import read_zendesk_answer
from zendesk_client import ZendeskClient

ENVIRON = {
    "SPREDFAST_API_TOKEN": "khoros-access-token",
    "SPREDFAST_COMPANY_ID": "4711",
    "SPREDFAST_LABEL_NAME": "CreateCase",
    "NOTIFICATION_BEARER_TOKEN": "n0tification-bearer-token",
    "ZENDESK_API_URL": "https://acme.zendesk.com",
    "ZENDESK_CLIENT_ID": "relay",
    "ZENDESK_CLIENT_SECRET": "zendesk-client-secret",
}
BASE = "https://acme.zendesk.com"


def test_netrc_is_not_sent_with_the_request_for_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine acme.zendesk.com login someone password netrc-secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with responses.RequestsMock() as zendesk:
        zendesk.post(f"{BASE}/oauth/tokens", status=201, json={"access_token": "t"})
        zendesk.get(f"{BASE}/api/v2/users/me", json={"user": {"id": 1, "role": "agent"}})
        ZendeskClient(BASE, client_id="relay", client_secret="s").me()
        assert "Authorization" not in zendesk.calls[0].request.headers


def test_a_nonsense_reset_does_not_blind_the_gate_to_all_later_counts() -> None:
    gate = Gate().counted(1000.0, 500, 1_763_938_800.0)  # an epoch date where seconds belong
    gate = gate.counted(2000.0, 3, 30.0)
    assert (gate.calls_left, gate.window_ends_at) == (3, 2030.0)


def test_a_nonsense_reset_does_not_leave_it_limited_for_ever() -> None:
    gate = Gate().counted(1000.0, 0, 1_763_938_800.0).after_success(1000.0, 0)
    gate = gate.counted(5000.0, 700, 60.0)
    assert gate.after_success(5000.0, gate.version).state == OPEN


@pytest.mark.parametrize(
    "value", ["Wed, 21 Oct 99999999999999999999 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 +99999999999999"]
)
def test_a_retry_after_beyond_all_dates_is_none(value: str) -> None:
    assert Answer(503, {"Retry-After": value}).retry_after_s is None


def test_a_host_that_no_name_server_accepts_is_unavailable() -> None:
    with pytest.raises(ServiceError):
        ZendeskClient(f"https://{'a' * 70}.com", user_email="a", api_token="b").me()


def test_an_email_address_that_cannot_be_sent_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="ZENDESK_USER_EMAIL"):
        Settings.from_env(ENVIRON | {"ZENDESK_USER_EMAIL": "agent\u2028x@acme.example", "ZENDESK_API_TOKEN": "t"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("ZENDESK_TICKET_FIELDS", "[" * 100_000, id="RecursionError in json"),
        pytest.param(
            "ZENDESK_TICKET_FIELDS", '{"group_id": NaN}', id="NaN is no JSON: Zendesk would refuse each ticket"
        ),
        pytest.param("ZENDESK_API_URL", "https://acme zendesk.com", id="a space in the host"),
        pytest.param("ZENDESK_API_URL", "https://ac\nme.zendesk.com", id="a line break in the host"),
        pytest.param("PUBLIC_URL", "https://relay.example?", id="an empty query stays in the address"),
        pytest.param("PUBLIC_URL", "https://relay.example/#", id="an empty fragment stays in the address"),
        pytest.param("DATABASE_URL", "sqlite:///file::memory:?uri=true", id="in memory after all"),
    ],
)
def test_a_value_that_cannot_work_is_refused_in_the_one_message(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.from_env(ENVIRON | {name: value})


@pytest.mark.parametrize("char", ["\x9b", "\ud800", "\u202e", "\u200b"], ids=ascii)
def test_a_character_that_is_not_printable_never_stands_bare(char: str) -> None:
    assert char not in field(f"a{char}b")


def test_a_line_with_half_an_emoji_can_be_written() -> None:
    field("a\ud800b").encode()


@pytest.mark.parametrize("secrets", [['a-secret-"in-quotes"'], ["abcdefgh-old", "abcdefgh-old-and-longer"]], ids=str)
def test_secrets_with_quotes_or_that_begin_alike_are_masked_whole(secrets: list[str]) -> None:
    record = logging.LogRecord("urllib3", logging.INFO, "a.py", 1, "token %s", (secrets[-1],), None)
    line = Formatter(secrets).format(record)
    assert line.endswith('message="token [secret]"')


def test_no_beginning_of_a_secret_is_left_where_a_value_is_cut() -> None:
    record = logging.LogRecord("urllib3", logging.INFO, "a.py", 1, "x" * 490 + "s3cret-token-of-ours", (), None)
    assert "s3cret-tok" not in Formatter(["s3cret-token-of-ours"]).format(record)


def test_a_web_page_after_blank_lines_is_no_success() -> None:
    with responses.RequestsMock() as khoros:
        khoros.post("https://k.example/events/subscription", body="\r\n" * 150 + "<html>Sign in</html>")
        with pytest.raises(Unavailable):
            KhorosClient("https://k.example", "t", 1).subscribe(
                event_name=LABEL_APPLIED,
                external_id="x",
                notification_uri="https://a.example",
                query="q",
                bearer_token="b",
            )


@pytest.mark.parametrize("answer", [{"comments": 5}, {"comments": True}], ids=str)
def test_comments_that_are_no_list_are_no_crash(answer: Any) -> None:
    with responses.RequestsMock() as zendesk:
        zendesk.get(f"{BASE}/api/v2/tickets/1/comments", json=answer)
        with pytest.raises(Unavailable):
            ZendeskClient(BASE, user_email="a", api_token="b").has_note(1, "uuid-1")


@pytest.mark.parametrize("char", ["\x00", "\ud800", "\n"], ids=ascii)
def test_a_code_can_be_stored_and_logged(char: str) -> None:
    with pytest.raises(ServiceError) as caught:
        read_zendesk_answer(Answer(422, {}, json.dumps({"error": f"a{char}b"}).encode()))
    assert str(caught.value).isprintable()


def test_a_refused_client_keeps_zendesks_name_for_the_call() -> None:
    with responses.RequestsMock() as zendesk:
        zendesk.post(f"{BASE}/oauth/tokens", status=401, headers={"x-zendesk-request-id": "z-1"})
        with pytest.raises(ServiceError) as caught:
            ZendeskClient(BASE, client_id="relay", client_secret="s").me()
        assert caught.value.request_id == "z-1"


def post(**changes: object) -> Post:
    return Post(StreamItem.parse({"entityId": "twitter:1", "text": "a", **changes}), "e-1")


def html(**changes: object) -> str:
    body: str = json.loads(ticket_body(post(**changes), Style()))["ticket"]["comment"]["html_body"]
    return body


def test_an_author_of_control_characters_is_named_by_the_screen_name() -> None:
    assert '<a href="https://a.example">ada\'s profile</a>' in html(
        author="\x00", authorScreenName="ada", authorLink="https://a.example"
    )


def test_a_network_without_a_name_is_still_named() -> None:
    assert " on :" not in subject(post(entityId=":1").item)


def test_an_emoji_is_not_cut_in_half_at_the_end_of_a_subject() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
    for spare in range(7):
        line = subject(post(author="Ada", text="x" * (141 - 7 - spare) + family * 3).item)
        assert not line.removesuffix("\u2026").endswith("\u200d")
