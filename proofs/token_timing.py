"""Can the bearer token be guessed from how long its check takes? It must not matter how much of a guess is right.

python -m proofs.token_timing [--pairs 10000] [--seed N]

Times app's check of two wrong headers in turn, in an order drawn at random, and compares the means: Welch's z must stay
within 3. The slowest tenth of each is left out, since those are the machine's interruptions. A longer header takes
longer whatever the token is; that difference is shown, not judged: a token's length is no secret.
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

from door import authorised

LIMIT = 3.0
CALLS, REPEATS = 10, 5  # in each measurement: one call takes about a clock's step
TRIES = 5  # chance alone exceeds the limit in 1 of 370 comparisons; a leak does so every time

LENGTH = "a character short, the right length (not judged)"

Check = Callable[[str], object]


def guesses(token: str) -> dict[str, tuple[str, str]]:
    """Pairs of wrong headers that a leaky check would tell apart."""
    wrong = token.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))  # as plausible, and nowhere right
    return {
        "no character right, all but the last right": (f"Bearer {wrong}", f"Bearer {token[:-1]}{wrong[-1]}"),
        "first half right, second half right": (
            f"Bearer {token[: len(token) // 2]}{wrong[len(token) // 2 :]}",
            f"Bearer {wrong[: len(token) // 2]}{token[len(token) // 2 :]}",
        ),
        LENGTH: (f"Bearer {wrong[:-1]}", f"Bearer {wrong}"),
    }


def welch_z(check: Check, left: str, right: str, pairs: int, chance: random.Random) -> float:
    """How many standard errors the mean times of the two lie apart."""
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
    """The quickest of a few: what came between, an interrupt or another process, is left out."""
    header = header[:7] + header[7:]  # a new one each time, as from the network, or where it lies in memory would show
    quickest = sys.maxsize
    for _ in range(REPEATS):
        started = time.perf_counter_ns()
        for _ in range(CALLS):
            check(header)
        quickest = min(quickest, time.perf_counter_ns() - started)
    return quickest


def measure(check: Check, token: str, pairs: int, chance: random.Random) -> dict[str, float]:
    """For each pair of guesses the z that is nearest to 0 of up to TRIES: a leak is there every time."""
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
    chance = random.Random(options.seed)  # noqa: S311 - it must be the same again
    print(f"PAIRS={options.pairs} SEED={options.seed}", flush=True)
    tokens = tuple(f"{chance.getrandbits(256):064x}" for _ in range(2))
    found = measure(lambda header: authorised(header, tokens), tokens[0], options.pairs, chance)
    for name, z in found.items():
        print(f"z = {z:+.2f}  {name}")
    return 0 if all(abs(z) < LIMIT for name, z in found.items() if name != LENGTH) else 1


if __name__ == "__main__":
    sys.exit(main())
