"""Breaks the relay on purpose, one guard at a time, and demands that a proof fails.

.venv/bin/python proofs/mutations.py            # all of them, one after the other
.venv/bin/python proofs/mutations.py lease key  # those with one of these words in their name

Each is tried on a copy of the project. The exit status is 1 when a proof passes without the guard, and also when it
fails on the whole project.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from proofs import guards, guards_outside
from proofs.mutation import Mutation, Proof

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.db*", "node_modules")
PATIENCE_S = 900.0
PROOFS = guards.PROOFS | guards_outside.PROOFS
MUTATIONS = guards.MUTATIONS + guards_outside.MUTATIONS


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
