"""The three steps of the demo's page, from the first look to the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox.steps import BACK, DOWN, KILL, START, Burst, Facts, posts, steps

FIRST = Facts(post="x:1")
LABELLED = replace(FIRST, ticket="One label, one ticket: #1001.")
BROKEN = replace(LABELLED, zendesk_is_down=True)
STORED = replace(BROKEN, stored=True, waiting=201, burst=Burst(200, 0, 0))
DEAD = replace(STORED, killed=True, running=False)
AGAIN = replace(DEAD, running=True)
FOLLOWING = replace(AGAIN, zendesk_is_down=False, burst=Burst(200, 143, 0))
END = replace(FOLLOWING, waiting=0, burst=Burst(200, 200, 0), finished=True)


@pytest.mark.parametrize(
    ("facts", "done", "button", "says"),
    [
        (replace(FIRST, ready=False), 0, "Label it now", "One moment: the relay is not ready."),
        (FIRST, 0, "Label it now", "Watch: one post gets CreateCase by itself."),
        (LABELLED, 1, DOWN.name, "Where do the posts go?"),
        (BROKEN, 1, "Label 200 posts", "It answers 503 to everything."),
        (STORED, 2, KILL.name, "At once, like a power cut."),
        (DEAD, 2, START.name, "201 posts are safe in the database."),
        (AGAIN, 2, BACK.name, "It is back: 201 posts are still here."),
        (FOLLOWING, 2, None, "143 of 200 have their ticket."),
        (replace(FOLLOWING, burst=None), 2, None, "It fetches what it missed."),
        (END, 3, None, "200 posts, 200 tickets: none lost, none twice."),
        (replace(END, burst=Burst(200, 200, 1)), 3, None, "200 posts, 200 tickets: none lost, 1 twice."),
        (replace(END, burst=Burst(200, 3, 0)), 3, None, "It runs again and has forgotten nothing."),
    ],
)
def test_each_step_ticks_itself_off_and_only_the_next_one_has_a_button(
    facts: Facts, done: int, button: str | None, says: str
) -> None:
    shown = steps(facts, "CreateCase", 200)
    current = min(done, 2)
    assert [step.done for step in shown] == [True] * done + [False] * (3 - done)
    assert [step.button and step.button.name for step in shown] == [
        button if number == current else None for number in range(3)
    ]
    assert shown[current].says == says


def test_the_page_presses_the_first_button_by_itself_when_the_relay_is_ready() -> None:
    for ready in (False, True):
        button = steps(replace(FIRST, ready=ready), "CreateCase", 200)[0].button
        assert button and button.alone == ready and button.fields == {"post": "x:1", "label": "CreateCase"}


def test_a_number_of_posts_has_its_verb() -> None:
    assert [posts(n) for n in (0, 1, 1201)] == ["0 posts are", "1 post is", "1,201 posts are"]
