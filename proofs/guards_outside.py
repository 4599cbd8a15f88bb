"""The guards of what comes from outside and goes there, each with the tests that fail without it."""

from __future__ import annotations

from proofs.mutation import Mutation, tests

PROOFS = {
    "outbound": tests("tests/test_outbound.py", "however_slowly or not_the_final_one"),
    "zendesk": tests("tests/destinations/test_zendesk.py", "archived_ticket_is_followed_up or gets_its_tag"),
    "slack ids": tests("tests/destinations/test_slack.py", "posted_twice"),
    "slack": tests("tests/destinations/test_slack.py", "answers_in_the_thread or one_a_second"),
    "slack words": tests("tests/destinations/test_slack_words.py", "mentions_anyone"),
    "webhook": tests(
        "tests/destinations/test_webhook.py", "id_is_the_same or was_frozen or not_followed or called_no_more"
    ),
    "routes": tests("tests/destinations/test_routes.py", "first_line_that_leads"),
    "filters": tests("tests/destinations/test_filters.py", "on_the_screen"),
    "catch-up": tests(
        "tests/khoros/test_catch_up.py",
        "has_met or of_one_uuid or listed_late or unreadable_events or as_text or first_deploy or own_clock",
        also="Unreadable",
    ),
    "body": tests("tests/khoros/test_body.py", "costs_no_memory or one_by_one"),
    "kept": tests("tests/khoros/test_receive.py", "cannot_be_read_is_kept or breaks_off"),
    "sqlite": tests(
        "tests/inbox/test_database_faults.py", "though_the_log_is_not or very_commit", also="OperationalError"
    ),
}

MUTATIONS = [
    Mutation(
        "outbound: an answer may drip for ever",
        "outbound.py:_BoundedReader.readinto",
        "outbound",
        body="return self._raw.readinto(buffer)",
    ),
    Mutation(
        "outbound: a 1xx is taken for the answer",
        "outbound.py:_BoundedResponse.begin",
        "outbound",
        body="super().begin()",
    ),
    Mutation(
        "zendesk: what the list leaves out counts as deleted",
        "destinations/zendesk.py:ZendeskDestination._send_instead_of_note",
        "zendesk",
        change=(r"self\._status\(ticket_id\)", '"deleted"'),
    ),
    Mutation(
        "zendesk: a note that was found gets no tag",
        "destinations/zendesk.py:ZendeskDestination._send_note",
        "zendesk",
        change=(r"self\._add_tags\(ticket_id, item\)\n\s+return", "return"),
    ),
    Mutation(
        "slack: markup in the notification's line",
        "destinations/slack_words.py:_message",
        "slack words",
        change=(r'\.replace\("<", "&lt;"\)', ""),
    ),
    Mutation(
        "slack: a stranger's text is no plain text",
        "destinations/slack_words.py:_message",
        "slack words",
        change=(
            r'"blocks": \[',
            '"blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": notification}}, ',
        ),
    ),
    Mutation(
        "slack: another client_msg_id at each attempt",
        "destinations/slack.py:SlackDestination._post",
        "slack ids",
        change=(r"\*\*json\.loads\(body\)", '**json.loads(body), "client_msg_id": str(__import__("uuid").uuid4())'),
    ),
    Mutation(
        "slack: a client_msg_id that another item has",
        "destinations/slack.py:_body",
        "slack",
        change=(r"\{item\.event_uuid\}", ""),
    ),
    Mutation(
        "slack: no thread",
        "destinations/slack.py:SlackDestination.compose",
        "slack",
        change=(r'item\.latest_reference or ""', '""'),
    ),
    Mutation(
        "slack: no pace",
        "destinations/slack.py:SlackDestination",
        "slack",
        change=(r'"message", 1, 1\.1', '"message", 1, 0.0'),
    ),
    Mutation(
        "webhook: another id each time",
        "destinations/webhook.py:WebhookDestination.compose",
        "webhook",
        change=(r"\{item\.subject_id\}", "{item.subject_id}{time.time_ns()}"),
    ),
    Mutation(
        "webhook: the body is not frozen",
        "destinations/webhook.py:WebhookDestination.send",
        "webhook",
        change=(r"item\.draft or self\.compose\(item\)", "self.compose(item)"),
    ),
    Mutation(
        "webhook: a redirect is followed",
        "outbound.py:send",
        "webhook",
        change=("allow_redirects=False", "allow_redirects=True"),
    ),
    Mutation(
        "webhook: an address that is gone is called again",
        "destinations/webhook.py:WebhookDestination.send",
        "webhook",
        change=(r"Answer\(410\) if self\._gone else ", ""),
    ),
    Mutation(
        "routes: the last line's fields",
        "destinations/routes.py:Routes.fields_for",
        "routes",
        change=(r"self\._matching\(event\) if", "self._matching(event)[::-1] if"),
    ),
    Mutation(
        "routes: a plain name is only a pattern",
        "destinations/filters.py:Filter.form",
        "filters",
        change=(r"name == self\.text or name\.endswith\(.*\):", "False:"),
    ),
    Mutation(
        "catch-up: a known event is handed in again",
        "khoros/catch_up.py:CatchUp._take",
        "catch-up",
        change=(r"key in self\._met or ", ""),
    ),
    Mutation(
        "catch-up: the uuid alone says what is known",
        "khoros/catch_up.py:_key",
        "catch-up",
        body='return hash(str(as_object(raw).get("eventUuid")))',
    ),
    Mutation(
        "catch-up: only the head is read",
        "khoros/catch_up.py:CatchUp._read_list",
        "catch-up",
        change=(r"while_new=1\)\n        if ended:", "while_new=1)\n        if True:"),
    ),
    Mutation(
        "catch-up: one bad event stops the others",
        "khoros/catch_up.py:CatchUp._take",
        "catch-up",
        change=("except Unreadable:", "except RecursionError:"),
    ),
    Mutation(
        "catch-up: one event that is no JSON stops the others",
        "khoros/catch_up.py:CatchUp._page",
        "catch-up",
        change=(r"isinstance\(error, Garbled\) and ", "False and "),
    ),
    Mutation(
        "catch-up: last year's events become tickets",
        "khoros/catch_up.py:CatchUp._take",
        "catch-up",
        change=(r"date < poll\.source\.since", "False"),
    ),
    Mutation(
        "catch-up: our own clock says what is too old",
        "khoros/subscription.py:Subscriber._upsert",
        "catch-up",
        change=(r"made\.date - CLOCKS_DIFFER_S if made\.date else", "now - CLOCKS_DIFFER_S if made.date else"),
    ),
    Mutation(
        "receive: a body is unpacked without a bound",
        "khoros/body.py:_inflated",
        "body",
        change=("raise RequestEntityTooLarge", "break"),
    ),
    Mutation(
        "receive: an array is one event",
        "khoros/body.py:parse_body",
        "body",
        change=(r"if isinstance\(raw, list\) else", "if False else"),
    ),
    Mutation(
        "receive: what is unreadable is not kept",
        "khoros/reading.py:read_body",
        "kept",
        change=("if reason:", "if False:"),
    ),
    Mutation(
        "sqlite: a commit into a log that is gone",
        "inbox/sqlite.py:Sqlite._check_still_there",
        "sqlite",
        change=(r"if now == session\.files", "if now[0] == session.files[0]"),
    ),
    Mutation(
        "sqlite: no look at the log after the commit",
        "inbox/sqlite.py:Sqlite._writing",
        "sqlite",
        change=(r"self\._check_still_there\(session\)  #", "pass  #"),
    ),
]
