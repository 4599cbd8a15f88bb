"""Breaks the relay on purpose, one guard at a time, and demands that a proof fails.

.venv/bin/python proofs/mutations.py            # all of them, one after the other
.venv/bin/python proofs/mutations.py lease key  # those with one of these words in their name

Each is tried on a copy of the project. The exit status is 1 when a proof passes without the guard, and also when it
fails on the whole project.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.db*", "node_modules")
PATIENCE_S = 900.0

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Proof:
    """A command, and the line of its output with the broken promise. A proof that fails for another reason proves
    nothing."""

    command: tuple[str, ...]
    reason: str


def tests(path: str, named: str, *, also: str = "AssertionError") -> Proof:
    """Some tests of a file. `also` is the error of a broken promise, beside a failed assertion."""
    command = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", path, "-k", named)
    return Proof(command, rf"^FAILED \S+?::(.+?) - (?:assert|AssertionError|Failed|\S*{also})")


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


@dataclass(frozen=True)
class Mutation:
    """A change to one definition that `proof` has to notice.

    `place` names the definition: the file and the function, method or constant in it. `change` replaces a part of its
    source, which a regular expression finds, `body` its whole body.
    """

    name: str
    place: str
    proof: str
    change: tuple[str, str] | None = None
    body: str | None = None

    def apply(self, folder: Path) -> None:
        """Changes the copy. Raises ValueError when the definition or its part is not there exactly once."""
        file, _, name = self.place.partition(":")
        path = folder / file
        path.write_text(self.changed(path.read_text(encoding="utf-8"), name), encoding="utf-8")

    def changed(self, source: str, name: str) -> str:
        """The source of a module with the mutation in its definition `name`."""
        definition, lines = find(source, name), source.splitlines(keepends=True)
        first = definition.lineno - 1
        if self.body is not None:
            if not isinstance(definition, ast.FunctionDef):
                raise ValueError(f"{self.place} is not a function")
            first = definition.body[0].lineno - 1
            text = indent(dedent(self.body).strip("\n") + "\n", " " * definition.body[0].col_offset)
        else:
            part, new = self.change or ("", "")
            text, count = re.subn(part, lambda _: new, "".join(lines[first : definition.end_lineno]))
            if count != 1:
                raise ValueError(f"{count} times in {self.place}, not once: {part!r}")
        return "".join([*lines[:first], text, *lines[definition.end_lineno :]])


def find(source: str, name: str) -> Definition:
    """The function, method, class or constant with this name, like `Inbox.claim`. Raises ValueError unless there is
    exactly one."""
    statements = ast.parse(source).body
    for part in name.split("."):
        found = [s for s in statements if isinstance(s, Definition) and part in names_of(s)]
        if len(found) != 1:
            raise ValueError(f"{len(found)} definitions of {part} for {name}, not one")
        statements = found[0].body if isinstance(found[0], ast.ClassDef | ast.FunctionDef) else []
    return found[0]


def names_of(statement: Definition) -> list[str]:
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return [statement.name]


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
        change=(r"len\(alike\) >= STREAK:", "False:"),
    ),
    Mutation(
        "the row of refusals: two items fill it alone",
        "inbox/gate.py:Gate.after_failed_item",
        "gate",
        change=(r" and str\(item_id\) not in alike", ""),
    ),
    Mutation(
        "the row of refusals: what was parked stays so",
        "inbox/inbox.py:Inbox._settle",
        "refusals",
        change=(r"gate\.state == REFUSING and before\.state != REFUSING", "False"),
    ),
    Mutation(
        "the row of refusals: an item is refused again",
        "inbox/gates.py:moved_gate",
        "refusals",
        change=(r"outcome\.how == REFUSED and past\.refused and gate\.state == OPEN", "False"),
    ),
    Mutation(
        "the row of refusals: the same words again",
        "inbox/inbox.py:Inbox._settle",
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
        change=(r"max\(item\.attempts for item in call\) >= PATIENCE", "False"),
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
        "inbox/inbox.py:Inbox.claim",
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
        change=(" or overtaken", ""),
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


@dataclass(frozen=True)
class Outcome:
    """The result of a proof: whether it passed, its duration in seconds, and the promise that it found broken."""

    passed: bool
    took_s: float
    reason: str
    output: str


def prove(proof: Proof, mutation: Mutation | None = None) -> Outcome:
    """Runs the proof on a copy of the project with this mutation."""
    with tempfile.TemporaryDirectory(prefix="relay-mutation-") as parent:
        folder = Path(parent) / "relay"
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        if mutation:
            mutation.apply(folder)
        histories = "10000" if mutation else "1000"  # it stops at the first one that breaks a promise
        environ = {**os.environ, "HISTORIES": histories, "SHRINK": "0", "COLUMNS": "500"}  # pytest cuts its lines
        began_at = time.monotonic()
        run = subprocess.run(  # noqa: S603 - our own proofs
            [sys.executable, *proof.command],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    found = re.search(proof.reason, run.stdout, re.MULTILINE)
    return Outcome(run.returncode == 0, time.monotonic() - began_at, found[1] if found else "", run.stdout + run.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks the relay on purpose and demands that a proof fails.")
    parser.add_argument("words", nargs="*", help="only the mutations with one of these in their name")
    words = parser.parse_args().words
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    sound = {proof for proof in sorted({mutation.proof for mutation in chosen}) if is_sound(proof)}
    noticed = [mutation for mutation in chosen if mutation.proof in sound and is_noticed(mutation)]
    print(f"{len(noticed)} of {len(chosen)} mutations were noticed.")
    return 0 if chosen and len(noticed) == len(chosen) else 1


def is_sound(proof: str) -> bool:
    """Whether the proof passes on the whole project. Otherwise its mutations are not tried."""
    outcome = prove(PROOFS[proof])
    show("the whole project", proof, outcome, "passes" if outcome.passed else f"FAILS: {outcome.output[-2000:]}")
    return outcome.passed


def is_noticed(mutation: Mutation) -> bool:
    """Whether the proof finds a broken promise without the guard."""
    outcome = prove(PROOFS[mutation.proof], mutation)
    noticed = not outcome.passed and bool(outcome.reason)
    failure = "NOT NOTICED" if outcome.passed else f"BROKE: {outcome.output[-2000:]}"
    show(mutation.name, mutation.proof, outcome, f"noticed: {outcome.reason}" if noticed else failure)
    return noticed


def show(name: str, proof: str, outcome: Outcome, result: str) -> None:
    print(f"{name:53}  {proof:10}  {outcome.took_s:4.0f} s  {result}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
