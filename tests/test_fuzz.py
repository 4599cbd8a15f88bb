"""Short runs of the long proofs, and that they can fail."""

from __future__ import annotations

import hmac
import random

import pytest

from proofs.bodies import Bodies, Sent
from proofs.fuzz import Findings, judge, run, world
from proofs.nonsense import nonsense
from proofs.token_timing import LENGTH, LIMIT, measure

TOKEN = "0123456789abcdef" * 4


def test_a_few_hundred_odd_bodies_break_nothing() -> None:
    findings = run(bodies=400, seed=5)
    assert findings.problems == []
    assert findings.answers[202] > 50 and findings.answers[422] > 50 and findings.answers[413] > 1
    assert sum(findings.raw_answers.values()) > 10 and findings.accepted > 50


def test_the_same_seed_sends_the_same_again() -> None:
    first, second, other = Bodies(60, 7), Bodies(60, 7), Bodies(60, 8)
    assert [first[number] for number in range(60)] == [second[number] for number in range(60)]
    assert [first[number] for number in range(60)] != [other[number] for number in range(60)]
    assert nonsense(3, 7, TOKEN, b"{}") == nonsense(3, 7, TOKEN, b"{}") != nonsense(3, 8, TOKEN, b"{}")


def test_the_fuzz_finds_what_is_wrong() -> None:
    findings = Findings()
    body = b'{"eventName": "stream-item-label-applied", "eventUuid": "e", "data": {"items": [{"entityId": "t:1"}]}}'
    findings.answered(1, Sent(body), 202, b'{"accepted": 1}')  # a false yes: nothing was sent
    findings.answered(2, Sent(body), 500, b"")
    findings.answered(3, Sent(b"{"), 400, b"")  # thrown away
    findings.answered(4, Sent(b" "), 422, b"")
    findings.answered(5, Sent(body.ljust(2_000_000)), 202, b'{"accepted": 0}')
    findings.answered_raw(3, [502])
    with world() as it:
        it.relay.output.append('at=error event=request_broken error="KeyError at app.py:1"')
        it.relay.output.append("at=info event=x reason=canaryword")
        findings.good_s, findings.rss = [9.0], [0, 10**9]
        judge(it, findings)
    text = "\n".join(findings.problems)
    for what in ("answered 500", "answered [502]", "2 accepted rows are not", "1 were acknowledged as new, 0", "9.0 s"):
        assert what in text
    for what in ("answered 400, not 422", "answered 422, not 400", "answered 202, not 413"):
        assert what in text
    for what in ("grew by 953 MiB", "in the log: at=error event=request_broken", "in the log: at=info event=x"):
        assert what in text


@pytest.mark.parametrize(("leaky", "found"), [(True, True), (False, False)])
def test_the_timing_of_a_leaky_comparison_is_noticed(leaky: bool, found: bool) -> None:
    def check(header: str) -> bool:
        given = header.removeprefix("Bearer ")
        if not leaky:
            return hmac.compare_digest(given.encode(), TOKEN.encode())
        return all(left == right for left, right in zip(given, TOKEN, strict=False))

    z = measure(check, TOKEN, 300, random.Random(1))
    assert any(abs(value) > LIMIT for name, value in z.items() if name != LENGTH) == found
