"""Breaks the relay on purpose, one line at a time, and demands that a proof goes red.

.venv/bin/python proofs/mutations.py            # all of them, one after the other
.venv/bin/python proofs/mutations.py lease key  # those with one of these words in their name

Each is tried on a copy of the project. Exits with 1 when a proof stays green, and also when it is red on the whole
project: then it proves nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.db*", "node_modules")
PATIENCE_S = 900.0

HISTORIES = "tests/test_simulation.py::test_every_history_ends_with_one_ticket_or_note_for_each_event"
PROOFS = {
    "simulation": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=1", HISTORIES],
    "chaos": ["proofs/chaos.py", "--minutes", "0.4", "--seed", "1", "--database", "sqlite"],
}
# How each says that a rule of its own was broken: a proof that fails for another reason has proven nothing.
REASONS = {
    "simulation": r"^E +AssertionError: (.*)$",
    "chaos": r"^  (acknowledged: .*[ ,][1-9][0-9]* (?:events lost|doubled).*)$",
}


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in `file`; `proof` has to notice."""

    name: str
    file: str
    old: str
    new: str
    proof: str = "simulation"

    def apply(self, folder: Path) -> None:
        """Changes the copy. Raises ValueError when the line is not there, or there twice: the product has moved on."""
        path = folder / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {text.count(self.old)} times in {self.file}, not once: {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


MUTATIONS = [
    Mutation(
        "the lease: claims never exclude",
        "inbox.py",
        '"attempts": item.attempts, "next_attempt_at": now + lease_s}',
        '"attempts": item.attempts, "next_attempt_at": now}',
    ),
    Mutation(
        "the frozen body: other words at each attempt",
        "inbox.py",
        'request=None if body is None else Request(body.encode("ascii"), idempotency_key, note_on),',
        "request=None,",
    ),
    Mutation(
        "the frozen body: the same key for the other words",
        "inbox.py",
        "    if item.request is not None:\n        return item\n",
        "    if item.request is not None:\n"
        '        return replace(item, request=replace(item.request, body=item.request.body + b" "))\n',
    ),
    Mutation(
        "the unique constraint",
        "store.py",
        "DOUBLE PRECISION,\n        CONSTRAINT inbox_one_row_per_event_and_post UNIQUE (event_uuid, entity_id)\n",
        "DOUBLE PRECISION\n",
    ),
    Mutation(
        "the commit before the answer",
        "intake.py",
        "return self._inbox.accept([item",
        'return (lambda new: __import__("threading").Timer(0.2, self._inbox.accept, [new]).start()'
        " or [True] * len(new))([item",
        proof="chaos",
    ),
    Mutation(
        "the hold: everything leaves at once",
        "gate.py",
        "        if self.held_for(now):\n            return 0\n",
        "",
    ),
    Mutation(
        "the order: two items of a post at a time",
        "inbox.py",
        "AND (other.id < item.id OR other.owner IS NOT NULL AND other.next_attempt_at > :now))",
        "AND other.id < 0)",
    ),
    Mutation(
        "the look-up when the key is two hours old",
        "delivery.py",
        "not 0 <= item.sent_s_ago <= KEY_LIFE_S",
        "item.sent_s_ago > 1e9",
    ),
    Mutation(
        "the look-up when another item of the post was quicker",
        "delivery.py",
        'return item.source == "poll" or forgotten or self._overtaken(item)',
        'return item.source == "poll" or forgotten',
    ),
    Mutation(
        "the look-up before a note is sent again",
        "delivery.py",
        '(item.attempts > 1 or item.source == "poll") and self._noted(item, ticket_id)',
        "False",
    ),
    Mutation(
        "the follow-up's own key for each attempt",
        "delivery.py",
        '_key(item, "instead", ticket_id, item.attempts)',
        '_key(item, "instead", ticket_id, "once")',
    ),
    Mutation(
        "the owner: a late worker settles what another has",
        "inbox.py",
        'f"id = :of_id AND {_OURS} AND attempts = :of_attempts"',
        '"id = :of_id"',
    ),
]


@dataclass(frozen=True)
class Outcome:
    """How a proof went: green or not, in how many seconds, and which of its rules it says was broken."""

    green: bool
    took_s: float
    reason: str
    output: str


def prove(proof: str, mutation: Mutation | None = None) -> Outcome:
    """Runs the proof on a copy of the project with this mutation."""
    with tempfile.TemporaryDirectory(prefix="relay-mutation-") as parent:
        folder = Path(parent) / "relay"
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        if mutation:
            mutation.apply(folder)
        environ = {**os.environ, "HISTORIES": "1000", "SHRINK": "0"}
        began_at = time.monotonic()
        run = subprocess.run(  # noqa: S603 - our own proofs
            [sys.executable, *PROOFS[proof]],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    found = re.search(REASONS[proof], run.stdout, re.MULTILINE)
    return Outcome(run.returncode == 0, time.monotonic() - began_at, found[1] if found else "", run.stdout + run.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks the relay on purpose and demands that a proof goes red.")
    parser.add_argument("words", nargs="*", help="only the mutations with one of these in their name")
    words = parser.parse_args().words
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    width, failed = max(len(mutation.name) for mutation in chosen), 0
    for proof in sorted({mutation.proof for mutation in chosen}):
        outcome = prove(proof)
        failed += not outcome.green
        word = "green" if outcome.green else f"RED: {outcome.output[-2000:]}"
        print(f"{'nothing taken out':{width}}  {proof:10}  {outcome.took_s:4.0f} s  {word}", flush=True)
    for mutation in chosen:
        outcome = prove(mutation.proof, mutation)
        killed = not outcome.green and bool(outcome.reason)
        failed += not killed
        word = (
            f"red: {outcome.reason}" if killed else "SURVIVED" if outcome.green else f"BROKE: {outcome.output[-2000:]}"
        )
        print(f"{mutation.name:{width}}  {mutation.proof:10}  {outcome.took_s:4.0f} s  {word}", flush=True)
    print("Every mutation was noticed." if not failed else f"{failed} FAILED.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
