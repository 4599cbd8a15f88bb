"""The simulated Slack behaves like the documented one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from conftest import Clock

from sandbox.server import Server
from sandbox.slack import FakeSlack
from sandbox.slack_blocks import mentions, refusal

TEXT = {"type": "text", "text": "Hello"}
SECTION = {"type": "rich_text_section", "elements": [TEXT]}


@pytest.fixture
def slack(clock: Clock) -> Iterator[FakeSlack]:
    slack = FakeSlack(clock=clock, burst=2)
    with Server(slack.app) as server:
        slack.url = server.url  # type: ignore[attr-defined]
        yield slack


def call(slack: FakeSlack, method: str = "chat.postMessage", token: str | None = None, **arguments: Any) -> Any:
    headers = {"Authorization": f"Bearer {token or slack.bot_token}"}
    url = f"{slack.url}/api/{method}"  # type: ignore[attr-defined]
    return requests.post(url, json=arguments, headers=headers, timeout=10)


def error(slack: FakeSlack, **arguments: Any) -> str:
    answer = call(slack, **{"channel": "#social-care", "text": "Hello", **arguments})
    assert answer.status_code == 200 and answer.json()["ok"] is False
    return str(answer.json()["error"])


def test_a_message_gets_a_channel_a_ts_and_a_request_id(slack: FakeSlack) -> None:
    answer = call(slack, channel="#social-care", text="Hello")
    [message] = slack.messages_in("social-care")
    assert answer.json()["ok"] is True and answer.headers["x-slack-req-id"]
    assert (answer.json()["channel"], answer.json()["ts"]) == (message.channel, message.ts)


def test_a_person_gets_a_direct_message_in_a_channel_of_its_own(slack: FakeSlack) -> None:
    url = f"{slack.url}/api/users.lookupByEmail"  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {slack.bot_token}"}
    user = requests.get(url, params={"email": "ann@acme.example"}, headers=headers, timeout=10).json()["user"]
    assert call(slack, channel=user["id"], text="Hello").json()["channel"].startswith("D")
    assert len(slack.messages_in("ann@acme.example")) == 1
    slack.remove_user(user["id"])
    assert error(slack, channel=user["id"]) == "channel_not_found"


def test_form_and_query_are_read_too(slack: FakeSlack) -> None:
    url = f"{slack.url}/api/chat.postMessage"  # type: ignore[attr-defined]
    headers, form = (
        {"Authorization": f"Bearer {slack.bot_token}"},
        {"channel": "social-care", "text": "Hi", "blocks": "[]"},
    )
    assert requests.post(url, data=form, headers=headers, timeout=10).json()["ok"]
    bad = requests.post(url, data={**form, "blocks": "["}, headers=headers, timeout=10).json()
    assert bad["error"] == "invalid_blocks_format"
    broken = requests.post(url, data=b"[]", headers={**headers, "Content-Type": "application/json"}, timeout=10).json()
    assert broken["error"] == "invalid_json"


def test_each_refusal_has_slacks_own_word(slack: FakeSlack) -> None:
    assert call(slack, token="xoxb-other").json()["error"] == "invalid_auth"
    assert requests.post(f"{slack.url}/api/auth.test", timeout=10).json()["error"] == "not_authed"  # type: ignore[attr-defined]
    assert error(slack, channel="#nowhere") == "channel_not_found"
    assert error(slack, text="") == "no_text"
    assert error(slack, text="x" * 40_001) == "msg_too_long"
    assert error(slack, thread_ts="1.5") == "thread_not_found"
    slack.add_channel("old", archived=True)
    slack.add_channel("secret", private=True, member=False)
    user = slack.add_user("bo@acme.example", "Bo", messages_tab=False)
    assert [error(slack, channel=name) for name in ("old", "secret", user.id)] == [
        "is_archived",
        "channel_not_found",
        "messages_tab_disabled",
    ]
    assert call(slack, "users.lookupByEmail", email="nobody@x").json()["error"] == "users_not_found"
    slack.scopes = ("chat:write",)
    slack.add_channel("open", member=False)
    assert error(slack, channel="open") == "not_in_channel"
    slack.scopes = ()
    assert call(slack, channel="#social-care", text="x").json()["needed"] == "chat:write"


def test_the_same_client_msg_id_is_a_duplicate(slack: FakeSlack) -> None:
    call(slack, channel="#social-care", text="Hello", client_msg_id="a")
    assert error(slack, client_msg_id="a") == "duplicate_message_not_found"
    assert call(slack, channel="#social-crisis", text="Hello", client_msg_id="a").json()["ok"]


def test_each_channel_takes_a_burst_and_then_one_message_a_second(slack: FakeSlack, clock: Clock) -> None:
    def status(channel: str = "#social-care") -> int:
        return int(call(slack, channel=channel, text="Hello").status_code)

    assert [status() for _ in range(3)] == [200, 200, 429]
    assert call(slack, channel="#social-care", text="Hello").headers["Retry-After"] == "1"
    assert status("#social-crisis") == 200
    clock.advance(1)
    assert [status(), status()] == [200, 429]
    slack.per_second = None
    assert status() == 200


def test_the_next_errors_are_scripted_before_or_after_the_effect(slack: FakeSlack) -> None:
    slack.fail_with(1, "is_archived")
    slack.fail_with(1, "fatal_error", effect=True)
    assert [error(slack), error(slack)] == ["is_archived", "fatal_error"]
    assert len(slack.messages) == 1
    slack.fail_with(None, "token_revoked", path="/api/")
    assert [error(slack), call(slack, "auth.test").json()["error"]] == ["token_revoked", "token_revoked"]
    slack.faults.clear()
    assert call(slack, "auth.test").json()["team"] == "Acme"


RICH = {"type": "rich_text", "elements": [SECTION]}
PLAIN = {"type": "plain_text", "text": "Hello"}


@pytest.mark.parametrize(
    "blocks",
    [
        "text",
        [RICH] * 51,
        ["text"],
        [{"type": "image"}],
        [{"type": "header", "text": {**PLAIN, "text": "x" * 151}}],
        [{"type": "header", "text": {**PLAIN, "type": "mrkdwn"}}],
        [{"type": "section"}],
        [{"type": "section", "text": {**PLAIN, "text": "x" * 3_001}}],
        [{"type": "section", "text": {**PLAIN, "text": ""}}],
        [{"type": "section", "text": {"type": "mrkdwn", "text": "x", "emoji": False}}],
        [{"type": "context", "elements": []}],
        [{"type": "context", "elements": [PLAIN] * 11}],
        [{"type": "rich_text", "elements": []}],
        [{"type": "rich_text", "elements": [TEXT]}],
        [{"type": "rich_text", "elements": [{**SECTION, "elements": []}]}],
        [{"type": "rich_text", "elements": [{**SECTION, "elements": [{**TEXT, "text": ""}]}]}],
        [{"type": "rich_text", "elements": [{**SECTION, "elements": [{"type": "link", "url": "javascript:x"}]}]}],
        [{"type": "rich_text", "elements": [{**SECTION, "elements": [{**TEXT, "style": {"big": True}}]}]}],
        [{"type": "rich_text", "elements": [{"type": "rich_text_list", "elements": [SECTION]}]}],
        [{"type": "rich_text", "elements": [{"type": "rich_text_list", "style": "bullet", "elements": [TEXT]}]}],
    ],
)
def test_blocks_that_break_a_rule_are_refused(blocks: object) -> None:
    found = refusal({"text": "x", "blocks": blocks})
    assert found and found[0] == "invalid_blocks"


def test_good_blocks_are_taken_and_too_many_words_are_not() -> None:
    context = {"type": "context", "elements": [{"type": "mrkdwn", "text": "*x*"}]}
    header = {"type": "header", "text": PLAIN}
    assert (
        refusal({"blocks": [header, {"type": "divider"}, {"type": "section", "fields": [PLAIN]}, context, RICH]})
        is None
    )
    many = {"type": "section", "text": {**PLAIN, "text": "x" * 3_000}}
    assert refusal({"text": "x", "blocks": [many] * 5}) == (
        "msg_blocks_too_long",
        "more than 13200 characters in blocks",
    )


def test_every_way_to_mention_someone_is_seen() -> None:
    user = {"type": "user", "user_id": "U1"}
    blocks = [
        {"type": "rich_text", "elements": [{**SECTION, "elements": [user, {"type": "broadcast", "range": "here"}]}]},
        {"type": "section", "text": {"type": "mrkdwn", "text": "<!channel> <@U2>"}},
        {"type": "section", "text": {"type": "plain_text", "text": "<!channel> <@U3>"}},
    ]
    assert mentions({"text": "<!everyone> &lt;!here&gt; @here", "blocks": blocks}) == [
        "!everyone",
        "U1",
        "here",
        "!channel",
        "@U2",
    ]
    assert mentions({"text": "@here a@channel", "link_names": True}) == ["here"]
