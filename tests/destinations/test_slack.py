"""A Slack channel or person as a destination: what it posts, what it keeps, and what each of Slack's answers means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import responses
from conftest import Clock, new_item, rows

from config import ConfigError, Reader
from destinations.delivery import Delivery
from destinations.destination import Destination, LeaseLost, Sent
from destinations.slack import SLACK_VARIABLES, SlackDestination, SlackSettings
from inbox.database import Database
from inbox.gate import OPEN, UNAUTHORISED
from inbox.inbox import Inbox
from inbox.items import Draft, Item
from outbound import AuthFailed, Limited, Rejected, ServiceError, Unavailable
from sandbox.server import Server
from sandbox.slack import SCOPES, FakeSlack

TOKEN = "xoxb-made-up-slack-token"
ANN = "ann@acme.example"
BASE = "https://slack.example/api"
POST_MESSAGE = f"{BASE}/chat.postMessage"
TEXT = "My order never came, I am furious"
POST = {"entityId": "twitter:1", "text": TEXT, "author": "Jo Customer"}
New = Callable[[str], SlackDestination]


@pytest.fixture
def slack(clock: Clock) -> Iterator[FakeSlack]:
    slack = FakeSlack(clock=clock)
    with Server(slack.app) as server:
        slack.url = server.url  # type: ignore[attr-defined]
        yield slack


@pytest.fixture
def new(slack: FakeSlack) -> New:
    """Makes the destination for a target."""
    url = f"{slack.url}/api"  # type: ignore[attr-defined]
    return lambda target: SlackDestination(SlackSettings(TOKEN, url), target, f"slack:{target}")


@pytest.fixture
def crisis(new: New) -> SlackDestination:
    return new("#social-crisis")


@pytest.fixture
def answers() -> Iterator[responses.RequestsMock]:
    """Slack's answers in a test's own words."""
    with responses.RequestsMock() as answers:
        yield answers


@pytest.fixture
def elsewhere() -> SlackDestination:
    return SlackDestination(SlackSettings(TOKEN, BASE), "#social-crisis", "slack:#social-crisis")


def claimed(event: str = "e1", **changes: Any) -> Item:
    """An item as the inbox hands it out for composing."""
    item = Item(
        id=1,
        destination="slack:#social-crisis",
        event_uuid=event,
        subject_id="twitter:1",
        source="push",
        request_id=None,
        payload={"event": "stream-item-label-applied", "labels": ["VIP"], "matched": ["VIP"], "item": POST},
        age_s=0.0,
        attempts=1,
        sent_s_ago=None,
        draft=None,
        latest_reference=None,
        gate_version=0,
    )
    return replace(item, **changes)


def frozen(destination: SlackDestination, event: str = "e1", **changes: Any) -> Item:
    item = claimed(event, **changes)
    return replace(item, draft=destination.compose(item))


def no_refreeze(draft: Draft) -> Item:
    raise AssertionError("nothing is frozen anew here")


def deliver(destination: SlackDestination, event: str = "e1", **changes: Any) -> Sent:
    return destination.send(frozen(destination, event, **changes), no_refreeze)


def failure(destination: SlackDestination) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        deliver(destination)
    assert TOKEN not in str(raised.value) and TEXT not in str(raised.value)
    return raised.value


# Settings


def read(**environ: str) -> SlackSettings:
    reader = Reader(environ, SLACK_VARIABLES)
    settings = SlackSettings.read(reader)
    reader.finish()
    return settings


def test_a_bot_token_is_all_that_is_needed() -> None:
    settings = read(SLACK_BOT_TOKEN=TOKEN)
    assert settings == SlackSettings(TOKEN, "https://slack.com/api") and settings.secrets == (TOKEN,)
    assert TOKEN not in repr(settings)
    assert read(SLACK_BOT_TOKEN=TOKEN, SLACK_API_URL="http://127.0.0.1:9/api/").api_url == "http://127.0.0.1:9/api"


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "is missing"),
        ("xoxp-1-2", "is a user token, not a Bot User OAuth Token (xoxb-…)"),
        ("xapp-1-2", "is an app-level token, not"),
        ("xoxe.xoxb-1-2", "is a token that expires, not"),
        ("https://hooks.slack.com/services/T/B/s3cret", "is an address, not"),
        ("s3cret", "is another thing, not"),
        ("xoxb-1 2", "has a space"),
    ],
)
def test_another_kind_of_token_is_named_and_never_shown(value: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(SLACK_BOT_TOKEN=value)
    said = str(raised.value)
    assert f"SLACK_BOT_TOKEN {fault}" in said and "OAuth & Permissions" in said
    assert "s3cret" not in said and "1-2" not in said


def test_the_page_about_slack_asks_for_the_scopes_that_are_needed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "slack.md").read_text(encoding="utf-8")
    assert f"bot: [{', '.join(SCOPES)}]" in page
    assert all(scope in SLACK_VARIABLES["SLACK_BOT_TOKEN"] for scope in SCOPES)


# What it is


def test_it_keeps_to_the_protocol(crisis: SlackDestination) -> None:
    it: Destination = crisis
    assert (it.name, it.title, it.noun) == ("slack:#social-crisis", "Slack #social-crisis", "message")
    assert (it.parallel, it.pace_s, it.notice) == (1, 1.1, "")
    assert it.digest and it.digest.above == 20


# Drafts


def test_a_draft_is_pure_and_the_same_item_always_gives_the_same_bytes(crisis: SlackDestination) -> None:
    draft = crisis.compose(claimed())
    assert crisis.compose(claimed(id=77, age_s=9.0, attempts=5, request_id="r-1")) == draft
    keys = [
        json.loads(crisis.compose(item).body)["client_msg_id"]
        for item in (claimed(), claimed("e2"), claimed(subject_id="twitter:2"), claimed(destination="slack:#other"))
    ]
    assert len(set(keys)) == 4 and all(len(key) == 36 for key in keys)


def test_nothing_in_a_message_is_read_as_markup_or_unfolded(crisis: SlackDestination) -> None:
    body = json.loads(crisis.compose(claimed()).body)
    assert {name: body[name] for name in ("mrkdwn", "parse", "link_names", "unfurl_links", "unfurl_media")} == {
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


def test_a_post_that_has_a_message_gets_a_reply_in_its_thread(crisis: SlackDestination) -> None:
    draft = crisis.compose(claimed("e2", latest_reference="C01/1700000000.000100"))
    assert (draft.kind, draft.target) == ("reply", "C01/1700000000.000100")
    body = json.loads(draft.body)
    assert body["thread_ts"] == "1700000000.000100" and body["text"].startswith("This post came again")
    assert (crisis.compose(claimed("e2", latest_reference="")).kind, crisis.compose(claimed()).target) == (
        "message",
        None,
    )


# Sending


def test_a_message_arrives_in_its_channel(crisis: SlackDestination, slack: FakeSlack) -> None:
    sent = deliver(crisis)
    [message] = slack.messages_in("social-crisis")
    assert sent == Sent("message_posted", f"{message.channel}/{message.ts}", 200)
    assert message.text.startswith("Jo Customer on X") and message.mentions == []
    [call] = slack.calls
    assert call.headers["content-type"] == "application/json; charset=utf-8"


def test_the_same_bytes_leave_at_every_attempt(crisis: SlackDestination, slack: FakeSlack) -> None:
    item = frozen(crisis)
    slack.faults.reset(1)
    with pytest.raises(Unavailable):
        crisis.send(item, no_refreeze)
    crisis.send(replace(item, attempts=2, sent_s_ago=1.0), no_refreeze)
    assert len({call.body for call in slack.calls}) == 1 and len(slack.calls) == 2


def test_what_arrived_although_no_answer_came_is_not_posted_twice(crisis: SlackDestination, slack: FakeSlack) -> None:
    item = frozen(crisis)
    slack.faults.reset(1, effect=True)
    with pytest.raises(Unavailable):
        crisis.send(item, no_refreeze)
    assert crisis.send(item, no_refreeze).how == "already_posted"
    assert len(slack.messages) == 1


@pytest.mark.parametrize("code", ["duplicate_message_not_found", "duplicate_channel_not_found"])
def test_a_duplicate_counts_as_delivered(crisis: SlackDestination, slack: FakeSlack, code: str) -> None:
    slack.fail_with(2, code)
    assert deliver(crisis).reference == ""
    assert deliver(crisis, latest_reference="C00000000/1.5").reference == "C00000000/1.5"


def test_a_label_more_answers_in_the_thread_of_the_first_message(crisis: SlackDestination, slack: FakeSlack) -> None:
    first = deliver(crisis)
    second = deliver(crisis, "e2", latest_reference=first.reference)
    third = deliver(crisis, "e3", latest_reference=second.reference)
    assert (second.how, second.reference, third.reference) == ("reply_posted", first.reference, first.reference)
    parent, *replies = slack.messages
    assert [reply.thread_ts for reply in replies] == [parent.ts, parent.ts]
    assert [json.loads(call.body)["channel"] for call in slack.calls] == [
        "#social-crisis",
        parent.channel,
        parent.channel,
    ]


def test_when_the_thread_is_gone_a_message_of_its_own_is_posted(crisis: SlackDestination, slack: FakeSlack) -> None:
    first = deliver(crisis)
    slack.delete_message(slack.messages[0].ts)
    item, drafts = frozen(crisis, "e2", latest_reference=first.reference), []

    def refreeze(draft: Draft) -> Item:
        drafts.append(draft)
        return replace(item, draft=draft)

    sent = crisis.send(item, refreeze)
    [message] = slack.messages
    assert (sent.how, sent.reference) == ("message_posted", f"{message.channel}/{message.ts}")
    assert [draft.kind for draft in drafts] == ["message"] and message.thread_ts is None
    assert message.text.startswith("Jo Customer on X")


@pytest.mark.parametrize(
    "code",
    [
        "is_archived",
        "not_in_channel",
        "channel_not_found",
        "user_not_found",
        "users_not_found",
        "messages_tab_disabled",
        "restricted_action",
        "restricted_action_thread_locked",
        "cannot_reply_to_message",
        "thread_not_found",
    ],
)
@pytest.mark.parametrize("target", ["#social-crisis", ANN])
def test_a_reply_that_its_old_place_refuses_is_posted_where_the_name_leads_now(
    new: New, slack: FakeSlack, target: str, code: str
) -> None:
    """The channel may have been archived and made anew under its name: the old thread must not close the gate."""
    place = new(target)
    first = deliver(place)
    slack.fail_with(1, code)
    item = frozen(place, "e2", latest_reference=first.reference)
    sent = place.send(item, lambda draft: replace(item, draft=draft))
    assert sent.how == "message_posted" and len(slack.messages) == 2
    assert slack.messages[1].thread_ts is None and place.check()


@pytest.mark.parametrize("code", ["invalid_auth", "missing_scope", "invalid_blocks", "ratelimited"])
def test_a_reply_that_is_refused_for_another_reason_stays_a_reply(
    crisis: SlackDestination, slack: FakeSlack, code: str
) -> None:
    slack.fail_with(1, code)
    with pytest.raises(ServiceError, match=code):
        deliver(crisis, latest_reference="C00000000/1.5")
    assert len(slack.calls) == 1


def test_who_has_lost_the_lease_posts_no_second_message(crisis: SlackDestination, slack: FakeSlack) -> None:
    item = frozen(crisis, latest_reference="C00000000/1.5")

    def refreeze(draft: Draft) -> Item:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        crisis.send(item, refreeze)
    assert slack.messages == []


def test_an_answer_without_a_channel_or_ts_is_delivered_all_the_same(
    elsewhere: SlackDestination, answers: responses.RequestsMock
) -> None:
    answers.post(POST_MESSAGE, json={"ok": True})
    assert deliver(elsewhere).how == "message_posted"


# Persons


def test_a_person_is_looked_up_once_and_gets_a_direct_message(new: New, slack: FakeSlack) -> None:
    ann = new(ANN)
    for number in range(3):
        deliver(ann, f"e{number}")
    assert len(slack.messages_in(ANN)) == 3
    assert [call.path for call in slack.calls].count("/api/users.lookupByEmail") == 1


def test_a_person_by_id_needs_no_look_up(new: New, slack: FakeSlack) -> None:
    user = slack.add_user("bo@acme.example", "Bo")
    deliver(new(user.id))
    assert len(slack.messages_in("bo@acme.example")) == 1 and len(slack.calls) == 1


@pytest.mark.parametrize("code", ["user_not_found", "channel_not_found"])
def test_a_person_whose_id_is_gone_is_looked_up_again(new: New, slack: FakeSlack, code: str) -> None:
    ann = new(ANN)
    deliver(ann)
    slack.fail_with(1, code)
    with pytest.raises(AuthFailed):
        deliver(ann, "e2")
    deliver(ann, "e2")
    assert [call.path for call in slack.calls].count("/api/users.lookupByEmail") == 2


def test_nobody_with_that_address_is_said_and_nothing_is_posted(new: New, slack: FakeSlack) -> None:
    error = failure(new("nobody@acme.example"))
    assert isinstance(error, AuthFailed)
    assert "no member of the workspace is nobody@acme.example: correct ROUTES" in str(error)
    assert slack.messages == []


# Digests


def test_a_digest_is_one_message_about_all_and_its_thread_takes_the_replies(
    crisis: SlackDestination, slack: FakeSlack
) -> None:
    items = [frozen(crisis, f"e{n}", subject_id=f"twitter:{n}") for n in range(43)]
    assert crisis.digest
    sent = crisis.digest.send(items)
    [message] = slack.messages
    assert (sent.how, sent.reference) == ("digest_posted", f"{message.channel}/{message.ts}")
    assert message.text == "43 came in at once"
    assert deliver(crisis, "e99", latest_reference=sent.reference).how == "reply_posted"


def test_the_same_digest_again_is_not_posted_twice(crisis: SlackDestination, slack: FakeSlack) -> None:
    items = [frozen(crisis, f"e{n}") for n in range(21)]
    assert crisis.digest
    crisis.digest.send(items)
    assert crisis.digest.send(items).how == "already_posted"
    assert crisis.digest.send(items[:20]).how == "digest_posted"


# What an answer means


WAITS_LOUDLY = {
    "not_authed": "copy its Bot User OAuth Token (xoxb-…) into SLACK_BOT_TOKEN",
    "invalid_auth": "copy its Bot User OAuth Token",
    "account_inactive": "install the app again",
    "token_revoked": "install the app again",
    "token_expired": "install the app again",
    "not_allowed_token_type": "Bot User OAuth Token",
    "missing_scope": "add the scope chat:write",
    "no_permission": "add the scope",
    "org_login_required": "ask an admin to allow the app in #social-crisis",
    "access_denied": "ask an admin",
    "ekm_access_denied": "ask an admin",
    "team_access_not_granted": "ask an admin",
    "channel_not_found": "there is no #social-crisis; correct ROUTES, or in a private channel: /invite @",
    "not_in_channel": "invite the app to #social-crisis: /invite @",
    "is_archived": "#social-crisis is archived",
    "restricted_action": "ask an admin to allow the app in #social-crisis",
    "restricted_action_read_only_channel": "ask an admin",
    "restricted_action_thread_only_channel": "ask an admin",
    "user_not_found": "no member of the workspace is #social-crisis",
    "messages_tab_disabled": "switch on the Messages Tab",
}
PARKS = (
    "msg_too_long",
    "no_text",
    "invalid_blocks",
    "invalid_blocks_format",
    "msg_blocks_too_long",
    "a_new_word",
    "Invalid-Thing.2",
)


@pytest.mark.parametrize(("code", "advice"), WAITS_LOUDLY.items())
def test_what_every_message_here_would_meet_closes_the_channel_and_says_what_to_do(
    crisis: SlackDestination, slack: FakeSlack, code: str, advice: str
) -> None:
    slack.fail_with(1, code)
    error = failure(crisis)
    assert type(error) is AuthFailed and (error.status, error.code) == (200, code)
    assert str(error).startswith(f"Slack answered {code}: ") and advice in str(error)


@pytest.mark.parametrize("code", PARKS)
def test_a_refusal_of_the_message_parks_it_alone(crisis: SlackDestination, slack: FakeSlack, code: str) -> None:
    slack.fail_with(1, code)
    error = failure(crisis)
    assert type(error) is Rejected and error.code == code
    assert crisis.check()


@pytest.mark.parametrize("code", ["ratelimited", "rate_limited", "message_limit_exceeded"])
def test_a_limit_waits(crisis: SlackDestination, slack: FakeSlack, code: str) -> None:
    slack.fail_with(1, code)
    assert type(failure(crisis)) is Limited


@pytest.mark.parametrize(
    "code", ["service_unavailable", "fatal_error", "internal_error", "request_timeout", "team_added_to_org"]
)
def test_a_fault_of_slacks_is_an_outage(crisis: SlackDestination, slack: FakeSlack, code: str) -> None:
    slack.fail_with(1, code)
    error = failure(crisis)
    assert type(error) is Unavailable and error.code == code


def test_more_than_the_channel_takes_waits_as_long_as_slack_says(crisis: SlackDestination, clock: Clock) -> None:
    for number in range(5):
        deliver(crisis, f"e{number}")
    error = failure(crisis)
    assert type(error) is Limited and (error.status, error.retry_after_s) == (429, 1.0)
    assert error.request_id
    clock.advance(1)
    deliver(crisis)


def test_the_missing_scope_is_named(crisis: SlackDestination, new: New, slack: FakeSlack) -> None:
    slack.scopes = ("chat:write",)
    deliver(crisis)
    assert "add the scope users:read.email and" in str(failure(new(ANN)))
    slack.scopes = ("users:read",)
    assert "add the scope chat:write and" in str(failure(crisis))


def test_a_channel_the_app_is_not_in_is_named_with_the_apps_own_name(
    crisis: SlackDestination, slack: FakeSlack
) -> None:
    slack.scopes = ("chat:write",)
    slack.add_channel("social-crisis", member=False)
    crisis.check()
    assert str(failure(crisis)) == "Slack answered not_in_channel: invite the app to #social-crisis: /invite @relay"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>Sign in</html>"),
        (200, ""),
        (200, "[]"),
        (200, '"ok"'),
        (200, "{}"),
        (200, '{"ok": "true", "ts": "1"}'),
        (200, '{"ok": false}'),
        (200, '{"ok": false, "error": {"a": 1}}'),
        (302, "<html>Moved</html>"),
        (404, "<html>Not found</html>"),
        (500, '{"ok": false, "error": "invalid_blocks"}'),
        (503, "upstream"),
    ],
)
def test_an_answer_that_is_not_slacks_leaves_the_outcome_unknown(
    elsewhere: SlackDestination, answers: responses.RequestsMock, status: int, body: str
) -> None:
    answers.post(POST_MESSAGE, status=status, body=body, headers={"Location": "https://other.example/"})
    error = failure(elsewhere)
    assert type(error) is Unavailable and error.status == status


def test_a_limit_in_any_body_is_a_limit(elsewhere: SlackDestination, answers: responses.RequestsMock) -> None:
    answers.post(POST_MESSAGE, status=429, body="<html>", headers={"Retry-After": "30"})
    error = failure(elsewhere)
    assert type(error) is Limited and error.retry_after_s == 30.0


def test_an_error_in_other_words_is_not_repeated(elsewhere: SlackDestination, answers: responses.RequestsMock) -> None:
    answers.post(POST_MESSAGE, json={"ok": False, "error": f"{TEXT} {TOKEN}", "needed": TOKEN})
    assert "check SLACK_API_URL" in str(failure(elsewhere))


# The check


def test_the_check_names_the_app_and_the_workspace_and_posts_nothing(
    crisis: SlackDestination, slack: FakeSlack
) -> None:
    assert crisis.check() == "the app @relay in the workspace Acme"
    assert slack.messages == [] and [call.path for call in slack.calls] == ["/api/auth.test"]


def test_the_check_of_a_person_looks_the_address_up(new: New, slack: FakeSlack) -> None:
    assert new(ANN).check()
    with pytest.raises(AuthFailed, match="no member of the workspace"):
        new("nobody@acme.example").check()
    assert slack.messages == []


def test_the_check_notices_that_a_person_has_left_although_the_id_is_kept(new: New, slack: FakeSlack) -> None:
    user = slack.add_user("bo@acme.example", "Bo")
    bo = new("bo@acme.example")
    deliver(bo)
    slack.remove_user(user.id)
    with pytest.raises(AuthFailed, match="no member of the workspace is bo@acme.example"):
        bo.check()


def test_a_wrong_token_fails_the_check(slack: FakeSlack) -> None:
    settings = SlackSettings("xoxb-of-someone-else", f"{slack.url}/api")  # type: ignore[attr-defined]
    with pytest.raises(AuthFailed, match="invalid_auth"):
        SlackDestination(settings, "#social-care", "slack:#social-care").check()


def test_after_a_refusal_of_the_channel_the_check_fails_once_with_its_reason(
    crisis: SlackDestination, slack: FakeSlack
) -> None:
    """Slack has no call that asks whether the app may post: without this the channel would count as working."""
    slack.add_channel("social-crisis", archived=True)
    refused = failure(crisis)
    with pytest.raises(AuthFailed) as raised:
        crisis.check()
    assert str(raised.value) == str(refused)
    assert crisis.check()


def test_a_message_that_arrives_takes_the_refusal_back(crisis: SlackDestination, slack: FakeSlack) -> None:
    slack.fail_with(1, "not_in_channel")
    failure(crisis)
    deliver(crisis)
    assert crisis.check()


# Links


def test_a_reference_leads_to_the_message_once_the_workspace_is_known(
    crisis: SlackDestination, slack: FakeSlack
) -> None:
    reference = deliver(crisis).reference
    assert crisis.link(reference) is None
    crisis.check()
    channel, ts = reference.split("/")
    assert crisis.link(reference) == f"{slack.url}/archives/{channel}/p{ts.replace('.', '')}"  # type: ignore[attr-defined]
    assert crisis.link("") is None


# Through the inbox


CRISIS = "slack:#social-crisis"


@pytest.fixture
def delivery(inbox: Inbox, slack: FakeSlack, database: Database) -> Delivery:
    """The loop of a channel, with what it keeps in the same database of either kind."""
    settings = SlackSettings(TOKEN, f"{slack.url}/api")  # type: ignore[attr-defined]
    return Delivery(inbox, SlackDestination(settings, "#social-crisis", CRISIS))


def run(delivery: Delivery, clock: Clock, passes: int = 12) -> None:
    """Passes of the loop, two seconds apart."""
    for _ in range(passes):
        clock.advance(2)
        delivery.deliver_due()


def accept(inbox: Inbox, *events: str, post: str = "") -> None:
    inbox.accept([new_item(event, post or f"twitter:{event}", destination=CRISIS) for event in events])


def states(database: Database) -> list[str]:
    return [state for _, _, state, _ in rows(database)]


def test_messages_leave_one_a_second_without_running_into_the_limit(
    delivery: Delivery, inbox: Inbox, slack: FakeSlack, clock: Clock
) -> None:
    accept(inbox, *"abcdefgh")
    for _ in range(8):
        delivery.deliver_due()
        assert delivery.deliver_due() is not None  # within the same second
        clock.advance(1.2)
    assert len(slack.messages) == 8 and {call.status for call in slack.calls} == {200}


def test_a_backlog_is_one_message_and_each_of_its_posts_continues_in_that_thread(
    delivery: Delivery, inbox: Inbox, slack: FakeSlack, database: Database, clock: Clock
) -> None:
    accept(inbox, *[f"e{number}" for number in range(43)])
    run(delivery, clock, 1)
    assert [message.text for message in slack.messages] == ["43 came in at once"]
    assert set(states(database)) == {"delivered"}
    accept(inbox, "again", post="twitter:e30")
    run(delivery, clock, 1)
    assert slack.messages[1].thread_ts == slack.messages[0].ts


def test_a_reset_after_the_effect_makes_no_second_line(
    delivery: Delivery, inbox: Inbox, slack: FakeSlack, database: Database, clock: Clock
) -> None:
    slack.faults.reset(1, effect=True)
    accept(inbox, "e1")
    run(delivery, clock)
    assert len(slack.messages) == 1 and states(database) == ["delivered"]


def test_while_the_channel_is_archived_everything_waits_and_nothing_is_parked(
    delivery: Delivery, inbox: Inbox, slack: FakeSlack, database: Database, clock: Clock
) -> None:
    slack.add_channel("social-crisis", archived=True)
    accept(inbox, *"abcdefgh")
    run(delivery, clock, 30)
    gate, _ = inbox.gate(CRISIS)
    assert gate.state == UNAUTHORISED and "#social-crisis is archived" in gate.reason
    assert set(states(database)) == {"pending"}
    slack.add_channel("social-crisis", archived=False)
    clock.advance(60)
    run(delivery, clock)
    assert set(states(database)) == {"delivered"} and inbox.gate(CRISIS)[0].state == OPEN
    assert len(slack.messages) == 8


def test_a_message_that_slack_refuses_is_parked_alone(
    delivery: Delivery, inbox: Inbox, slack: FakeSlack, database: Database, clock: Clock
) -> None:
    slack.fail_with(1, "invalid_blocks")
    accept(inbox, *"abc")
    run(delivery, clock)
    assert states(database) == ["parked", "delivered", "delivered"] and inbox.gate(CRISIS)[0].state == OPEN
    [reason] = [reason for _, _, state, reason in rows(database) if state == "parked"]
    assert reason == "Slack answered invalid_blocks: it refuses this message"
