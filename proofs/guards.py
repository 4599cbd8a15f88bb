"""The guards of the inbox, the gate and the delivery, each with the proof that fails without it."""

from __future__ import annotations

from proofs.mutation import Mutation, Proof, tests

SIMULATION = "tests/destinations/test_simulation.py::test_every_history_ends_with_one_ticket_or_note_for_each_event"
PROOFS = {
    "simulation": Proof(
        ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=1", SIMULATION),
        r"^E +AssertionError: (.*)$",
    ),
    "chaos": Proof(
        ("proofs/chaos.py", "--minutes", "0.4", "--seed", "1", "--database", "sqlite"),
        r"^  (acknowledged: .*[ ,][1-9][0-9]* (?:events lost|doubled).*)$",
    ),
    "delivery": tests("tests/destinations/test_delivery.py", "stall or under_way"),
    "inbox": tests("tests/inbox/test_inbox.py", "settled or postgresql", also="TimeoutError"),
    "gate": tests("tests/inbox/test_gate.py", "alike or clock or by_turns"),
    "refusals": tests("tests/inbox/test_inbox.py", "refused or frees"),
    "waits": tests("tests/inbox/test_inbox.py", "alone or hour or clock or pace", also="ValueError"),
    "people": tests("tests/inbox/test_inbox.py", "under_way or no_words", also="UnicodeEncodeError"),
    "blame": tests("tests/destinations/test_delivery.py", "check or exception or costs_no_other", also="OSError"),
    "schema": tests("tests/inbox/test_schema.py", "several_processes", also="DatabaseUnavailable"),
    "receive": tests("tests/khoros/test_receive.py", "token"),
    "servers": tests("tests/test_end_to_end.py", "no_server"),
}

MUTATIONS = [
    Mutation(
        "the lease: claims never exclude each other",
        "inbox/statements.py:_LEASE",
        "simulation",
        change=(r":clock \+ :lease_s", ":clock"),
    ),
    Mutation(
        "the owner: a late worker settles an item of another",
        "inbox/statements.py:_MINE",
        "inbox",
        change=(r" AND owner = :owner AND attempts = :attempts", ""),
    ),
    Mutation(
        "the owner: a late worker settles a delivered item",
        "inbox/statements.py:_MINE",
        "simulation",
        change=(r" AND \{IS_PENDING_UNINDEXED\} AND owner = :owner AND attempts = :attempts", ""),
    ),
    Mutation(
        "the frozen body: other words at each attempt",
        "inbox/rows.py:composed",
        "simulation",
        body="return replace(item, draft=compose(item))",
    ),
    Mutation(
        "the frozen body: the same key for other words",
        "inbox/rows.py:composed",
        "simulation",
        body="""
        if item.draft is not None:
            return replace(item, draft=replace(item.draft, body=item.draft.body + b" "))
        return replace(item, draft=compose(item))
        """,
    ),
    Mutation(
        "the unique constraint",
        "inbox/schema.py:STEPS",
        "simulation",
        change=(r",\s*CONSTRAINT items_one_row_per_subject UNIQUE \([^)]*\)", ""),
    ),
    Mutation(
        "the commit before the answer",
        "khoros/receive.py:Receiver._keep",
        "chaos",
        change=(
            r"self\._inbox\.accept\(",
            '(lambda new: __import__("threading").Timer(0.2, self._inbox.accept, [new]).start() or [True] * len(new))(',
        ),
    ),
    Mutation(
        "the refusal while nothing delivers",
        "khoros/receive.py:Receiver.receive",
        "servers",
        change=(r"not self\.open", "False"),
    ),
    Mutation(
        "the token",
        "khoros/receive.py:authorised",
        "receive",
        body="return True",
    ),
    Mutation(
        "the hold: items leave while the gate is closed",
        "inbox/gate.py:Gate.places",
        "simulation",
        change=(r"self\.held_for\(now\)", "False"),
    ),
    Mutation(
        "the order: two items of a post at a time",
        "inbox/statements.py:DUE",
        "simulation",
        change=(r"id <> item\.id", "1 = 0"),
    ),
    Mutation(
        "an item under way is not claimed again",
        "inbox/statements.py:DUE",
        "delivery",
        change=(r"AND item\.id NOT IN {{under_way}}", ""),
    ),
    Mutation(
        "the renewal before a claim",
        "destinations/delivery.py:Delivery._pass",
        "delivery",
        body="return None if self._stopping else self.deliver_due(self._hand_over)",
    ),
    Mutation(
        "the gate's lock: two processes claim at a time",
        "inbox/gates.py:locked_gate",
        "inbox",
        change=(r', "FOR UPDATE"', ""),
    ),
    Mutation(
        "the rows' lock: a claim waits for another session",
        "inbox/statements.py:DUE",
        "inbox",
        change=(" FOR UPDATE OF item SKIP LOCKED", ""),
    ),
    Mutation(
        "the row of refusals: all are parked one by one",
        "inbox/gate.py:Gate.after_failed_item",
        "gate",
        change=(r"len\(alike\) >= IN_A_ROW:", "False:"),
    ),
    Mutation(
        "the row of refusals: two items fill it alone",
        "inbox/gate.py:Gate.after_failed_item",
        "gate",
        change=(r" and str\(item_id\) not in alike", ""),
    ),
    Mutation(
        "the row of refusals: what was parked stays so",
        "inbox/settling.py:_settle_item",
        "refusals",
        change=(r"gate\.state == REFUSING and before\.state != REFUSING", "False"),
    ),
    Mutation(
        "the row of refusals: an item is refused again",
        "inbox/gates.py:moved_gate",
        "refusals",
        change=(r"again and gate\.state == OPEN", "False"),
    ),
    Mutation(
        "the row of refusals: the same words again",
        "inbox/settling.py:_settle_item",
        "refusals",
        change=(r'columns\["anew"\]', "False"),
    ),
    Mutation(
        "the blame: nothing is proved",
        "destinations/attempt.py:_blamed",
        "blame",
        body="return outcome",
    ),
    Mutation(
        "the blame: an item breaks the destination for ever",
        "destinations/attempt.py:attempt",
        "blame",
        change=(r"min\(item\.attempts for item in call\) >= PATIENCE", "False"),
    ),
    Mutation(
        "the blame: a fault of our own is no attempt",
        "destinations/attempt.py:attempt",
        "blame",
        change=("except Exception as error", "except MemoryError as error"),
    ),
    Mutation(
        "the record of the others",
        "destinations/delivery.py:Delivery.record",
        "blame",
        change=(r"answered if len\(answered\) > 1 else \(\)", "()"),
    ),
    Mutation(
        "the wait of an item that fails alone",
        "inbox/rows.py:settlement",
        "waits",
        change=(r"now \+ retry_delay_s\(failures, outcome\.retry_after_s\)", "now"),
    ),
    Mutation(
        "the hour after which an item needs a person",
        "inbox/rows.py:settlement",
        "waits",
        change=(r"failures >= MOST_FAILURES", "False"),
    ),
    Mutation(
        "the pace between two calls",
        "inbox/gate.py:Gate.paced_for",
        "simulation",
        body="return 0.0",
    ),
    Mutation(
        "the single probe: a digest leaves a closed gate",
        "inbox/inbox.py:Inbox._leaving",
        "simulation",
        change=(r" and gate\.state == OPEN", ""),
    ),
    Mutation(
        "the clock: a hold lasts longer",
        "inbox/gate.py:_remaining",
        "gate",
        change=("since <= now and ", ""),
    ),
    Mutation(
        "the clock: a long hold and a lease last longer",
        "inbox/inbox.py:Inbox._despite_clock",
        "waits",
        body="return gate",
    ),
    Mutation(
        "the clock: an item waits longer",
        "inbox/statements.py:_IS_DUE",
        "waits",
        change=(" OR held_at > :now", ""),
    ),
    Mutation(
        "the used up calls: an open gate waits in silence",
        "inbox/gates.py:moved_gate",
        "waits",
        change=(r"gate\.within_limit\(now\)", "gate"),
    ),
    Mutation(
        "what is under way: a person discards it",
        "inbox/statements.py:DISCARD",
        "people",
        change=(r" AND NOT \(\{IS_LEASED_NOW\}\)", ""),
    ),
    Mutation(
        "the words of an answer that no database takes",
        "inbox/items.py:storable",
        "people",
        body="return text",
    ),
    Mutation(
        "the lock around the tables",
        "inbox/postgresql.py:Postgresql.lock_schema",
        "schema",
        body="pass",
    ),
    Mutation(
        "the look-up when the key is two hours old",
        "destinations/zendesk.py:_outcome_unknown",
        "simulation",
        change=(" or forgotten", ""),
    ),
    Mutation(
        "the look-up when another item of the post was quicker",
        "destinations/zendesk.py:_outcome_unknown",
        "simulation",
        change=(r" or _other_reference\(item\) is not None", ""),
    ),
    Mutation(
        "the look-up before a note is sent again",
        "destinations/zendesk.py:ZendeskDestination._has_note",
        "simulation",
        body="return False",
    ),
    Mutation(
        "the follow-up's own key for each attempt",
        "destinations/zendesk.py:ZendeskDestination._send_instead_of_note",
        "simulation",
        change=(r"ticket_id, item\.attempts\)", 'ticket_id, "once")'),
    ),
]
