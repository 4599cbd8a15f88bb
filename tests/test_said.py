"""The search for secrets and customers' words in the log of the test run finds them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from conftest import TEXT, TOKEN, alone
from said import Said

from sandbox.posts import posts_at
from sandbox.relay import Relay


def test_a_line_with_a_secret_or_a_customers_words_is_found() -> None:
    said = Said(TOKEN, TEXT)
    said.lines = ["at=info event=x token=abc", f"at=info token={TOKEN}", f'at=info reason="about {TEXT}"']
    said.lines += [f"at=info text={post['text']!r}" for post in posts_at(0) if post["text"]]
    assert len(said.leaks()) > 5
    assert said.lines[0] not in said.leaks() and set(said.lines[1:3]) <= set(said.leaks())


def test_the_secrets_and_lines_of_a_process_count(tmp_path: Path) -> None:
    said, relay = Said(), Relay(env=alone(tmp_path, ZENDESK_CLIENT_SECRET="another-made-up-secret"))
    relay.output = ["at=info event=ready", "at=info event=x reason=another-made-up-secret"]
    said.relays.append(relay)
    leaks = said.leaks()
    relay.output.clear()  # the run's own watch sees it too
    assert leaks == ["at=info event=x reason=another-made-up-secret"]


def test_while_it_listens_every_record_and_every_process_is_kept(tmp_path: Path, said: Said) -> None:
    logging.getLogger("a.library").warning("kept by %s", "the test run")
    relay = Relay(env=alone(tmp_path))
    assert "at=warning event=message logger=a.library" in "\n".join(said.lines)
    assert relay in said.relays


@pytest.mark.parametrize("private", [TOKEN, "made-up-khoros-token", TEXT])
def test_the_run_knows_what_is_private(private: str, said: Said) -> None:
    said.lines.append(private)
    try:
        assert said.leaks() == [private]
    finally:
        said.lines.remove(private)
