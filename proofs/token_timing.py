"""Shows that the time of the token's check does not depend on how much of a guess is right.

python -m proofs.token_timing [--pairs 10000] [--seed N]

Times the check of two wrong headers in turn, in a random order, and compares the means: Welch's z must stay within 3.
The slowest tenth is left out: those are interruptions of the machine. A longer header takes longer; this difference is
printed and not judged, because a token's length is no secret.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Callable

from khoros.receive import authorised

LIMIT = 3.0
CALLS, REPEATS = 10, 5  # in each measurement: one call takes about one step of the clock
TRIES = 5  # chance exceeds the limit in 1 of 370 comparisons, a leak in every one

LENGTH = "a character short, the right length (not judged)"

Check = Callable[[str], object]


def guesses(token: str) -> dict[str, tuple[str, str]]:
    """Pairs of wrong headers for which a leaky check needs different times."""
    wrong = token.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))  # as long, and all wrong
    return {
        "no character right, all but the last right": (f"Bearer {wrong}", f"Bearer {token[:-1]}{wrong[-1]}"),
        "first half right, second half right": (
            f"Bearer {token[: len(token) // 2]}{wrong[len(token) // 2 :]}",
            f"Bearer {wrong[: len(token) // 2]}{token[len(token) // 2 :]}",
        ),
        LENGTH: (f"Bearer {wrong[:-1]}", f"Bearer {wrong}"),
    }


def welch_z(check: Check, left: str, right: str, pairs: int, chance: random.Random) -> float:
    """The distance of the two mean times in standard errors."""
    times: dict[bool, list[int]] = {False: [], True: []}
    gc.disable()
    try:
        for _ in range(pairs):
            first = chance.random() < 0.5
            for which in (first, not first):
                times[which].append(_took_ns(check, right if which else left))
    finally:
        gc.enable()
    kept = [sorted(times[which])[: len(times[which]) * 9 // 10] for which in (False, True)]
    apart = statistics.fmean(kept[1]) - statistics.fmean(kept[0])
    return apart / math.sqrt(sum(statistics.variance(sample) / len(sample) for sample in kept))


def _took_ns(check: Check, header: str) -> int:
    """The shortest time of a few: the others include interrupts and other processes."""
    header = header[:7] + header[7:]  # a new object each time, as from the network: its place in memory matters too
    quickest = sys.maxsize
    for _ in range(REPEATS):
        started = time.perf_counter_ns()
        for _ in range(CALLS):
            check(header)
        quickest = min(quickest, time.perf_counter_ns() - started)
    return quickest


def measure(check: Check, token: str, pairs: int, chance: random.Random) -> dict[str, float]:
    """For each pair of guesses the z nearest to 0 of up to TRIES comparisons: a leak is there in each."""
    found: dict[str, float] = {}
    for name, (left, right) in guesses(token).items():
        for _ in range(TRIES):
            found[name] = min(found.get(name, math.inf), welch_z(check, left, right, pairs, chance), key=abs)
            if abs(found[name]) < LIMIT or name == LENGTH:
                break
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Times the check of the bearer token.")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)  # noqa: S311 - to be repeated, not to be secret
    print(f"PAIRS={options.pairs} SEED={options.seed}", flush=True)
    tokens = tuple(f"{chance.getrandbits(256):064x}" for _ in range(2))
    found = measure(lambda header: authorised(header, tokens), tokens[0], options.pairs, chance)
    for name, z in found.items():
        print(f"z = {z:+.2f}  {name}")
    return 0 if all(abs(z) < LIMIT for name, z in found.items() if name != LENGTH) else 1


if __name__ == "__main__":
    sys.exit(main())
