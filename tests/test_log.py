"""Every log line is one line of logfmt, whatever is put into it, and holds no secret."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import log
from log import Formatter, field, where

SECRET = "a-secret-of-some-length"
PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')


@pytest.fixture
def logs() -> Iterator[None]:
    """Gives the process' logging back as it was."""
    loggers = [logging.getLogger(name) for name in (None, "relay", "gunicorn.error")]
    kept = [(logger, logger.level, logger.handlers, logger.propagate) for logger in loggers]
    logging.getLogger().handlers = []
    yield
    for logger, level, handlers, propagate in kept:
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate


def record(message: str, *args: object, name: str = "urllib3", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, "app.py", 1, message, args, None)


def line_of(**fields: object) -> str:
    made = record("ticket_created", name="relay")
    made.fields = fields
    return Formatter().format(made)


# Values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("twitter:34", "twitter:34", id="plain"),
        pytest.param("grüße-日本-👍", "grüße-日本-👍", id="other scripts and emoji"),
        pytest.param(422, "422", id="number"),
        pytest.param(0.25, "0.25", id="fraction"),
        pytest.param(True, "true", id="true"),
        pytest.param(False, "false", id="false"),
        pytest.param("", '""', id="empty"),
        pytest.param("two words", '"two words"', id="space"),
        pytest.param("a=b", '"a=b"', id="equals sign"),
        pytest.param('say "no"', '"say \\"no\\""', id="quotes"),
        pytest.param("C:\\new", '"C:\\\\new"', id="backslash"),
        pytest.param("a\nat=error", '"a\\nat=error"', id="line break"),
        pytest.param("a\r\tb", '"a\\r\\tb"', id="carriage return and tab"),
        pytest.param("a\x00\x1b[31m\x7fb", '"a  [31m b"', id="control characters"),
        pytest.param("a\u2028b\u2029c\x85d", '"a b c d"', id="other line breaks"),
        pytest.param("a b\ud800\u202ec", '"a b  c"', id="half an emoji and a change of direction"),
        pytest.param(ValueError("no way"), '"no way"', id="an error"),
    ],
)
def test_a_value_is_bare_when_plain_and_quoted_on_one_line_otherwise(value: object, expected: str) -> None:
    assert field(value) == expected


@pytest.mark.parametrize(
    ("value", "length"),
    [("x" * 500, 500), ("x" * 501, 500), (" " * 9000, 502), ("\n" * 9000, 1002)],
    ids=["500 stay", "501 are cut", "in quotes", "escaped"],
)
def test_a_value_has_500_characters_at_most(value: str, length: int) -> None:
    assert len(field(value)) == length


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(' "=\\\n\r\u2028a'))), max_size=4))
def test_no_value_can_forge_another_field_or_line(values: list[str]) -> None:
    names = ["post", "reason", "request_id", "error"][: len(values)]
    line = line_of(**dict(zip(names, values, strict=True)))
    assert len(line.splitlines()) == 1
    pairs = PAIR.findall(line)
    assert [name for name, _ in pairs] == ["at", "event", *names]
    assert " ".join(f"{name}={value}" for name, value in pairs) == line


# Our lines


def test_a_line_has_a_constant_name_and_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "relay"):
        log.info("ticket_created", ticket=7, post="twitter:34", request_id=None)
    (made,) = caplog.records
    assert Formatter().format(made) == "at=info event=ticket_created ticket=7 post=twitter:34"


@pytest.mark.parametrize("at", ["debug", "info", "warning", "error"])
def test_a_line_says_how_bad_it_is(caplog: pytest.LogCaptureFixture, at: str) -> None:
    with caplog.at_level(logging.DEBUG, "relay"):
        getattr(log, at)("outage", reason="Zendesk answered 503")
        log.write(logging.getLevelNamesMapping()[at.upper()], "outage", reason="Zendesk answered 503")
    lines = [Formatter().format(made) for made in caplog.records]
    assert lines == [f'at={at} event=outage reason="Zendesk answered 503"'] * 2


def test_a_field_may_have_any_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "relay"):
        log.info("renamed", name="new", level=3)
    assert Formatter().format(caplog.records[0]) == "at=info event=renamed name=new level=3"


def test_a_line_below_the_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "relay"):
        log.warning("ticket_created")
    assert caplog.records == []


def test_a_name_with_a_percent_sign_is_not_a_template() -> None:
    assert line_of(reason="100 %s") == 'at=info event=ticket_created reason="100 %s"'


# Other people's lines


def test_nobody_outside_can_write_control_codes_or_a_second_line_into_a_field() -> None:
    assert line_of(path="/\x1b[2J\x00\x9b1mé\r\nat=error").endswith('path="/ [2J  1mé\\r\\nat=error"')


def test_a_librarys_message_becomes_a_field() -> None:
    made = record("Retrying %s\nnow", "x=1", level=logging.WARNING)
    assert Formatter().format(made) == 'at=warning event=message logger=urllib3 message="Retrying x=1\\nnow"'


def test_an_exception_shows_its_kind_and_place_and_not_its_words() -> None:
    made = record("it broke", level=logging.ERROR)
    try:
        raise ValueError("a customer's text")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = Formatter().format(made)
    assert re.search(r'message="it broke" error="ValueError at test_log.py:\d+"$', line)
    assert "customer" not in line


def test_an_exception_that_never_was_adds_nothing() -> None:
    made = record("it broke")
    made.exc_info = (None, None, None)
    assert Formatter().format(made) == 'at=info event=message logger=urllib3 message="it broke"'


# Where an error came from


def raised(depth: int) -> Exception:
    def sink(depth: int) -> None:
        if not depth:
            raise KeyError("a customer's text")
        sink(depth - 1)

    try:
        sink(depth)
    except KeyError as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_last_three_places_are_named_innermost_first_and_the_message_is_not() -> None:
    said = where(raised(9))
    assert re.fullmatch(r"KeyError at (test_log\.py:\d+)( < test_log\.py:\d+){2}", said)
    inner, outer, _ = re.findall(r":(\d+)", said)
    assert int(inner) == int(outer) - 1


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert where(KeyError("a customer's text")) == "KeyError"


# Secrets


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(record("Bearer %s", SECRET), id="in a library's message"),
        pytest.param(record("x", name=SECRET), id="in a name"),
    ],
)
def test_a_secret_that_slips_in_is_masked(made: logging.LogRecord) -> None:
    line = Formatter([SECRET]).format(made)
    assert SECRET not in line
    assert "[secret]" in line


def test_a_secret_in_a_field_is_masked_everywhere() -> None:
    made = record("outage", name="relay")
    made.fields = {"reason": f"{SECRET}, {SECRET}", "url": SECRET}
    assert Formatter(["", SECRET]).format(made) == 'at=info event=outage reason="[secret], [secret]" url=[secret]'


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("slack:ann@acme.example", "slack:a…@acme.example"),
        ("Slack (ann.b+c@acme.example): not found", '"Slack (a…@acme.example): not found"'),
        ("ann@acme.example,bob@acme.example", "a…@acme.example,b…@acme.example"),
        ("a…@acme.example", "a…@acme.example"),
        ("slack:@bot twitter:@acme", '"slack:@bot twitter:@acme"'),
    ],
)
def test_of_an_e_mail_address_only_the_first_letter_and_the_domain_are_logged(text: str, masked: str) -> None:
    assert line_of(destination=text) == f"at=info event=ticket_created destination={masked}"


def test_what_is_too_short_to_be_a_secret_does_not_blank_the_log() -> None:
    made = record("outage", name="relay")
    made.fields = {"post": "twitter:1"}
    assert Formatter(["t", "twitter", ""]).format(made) == "at=info event=outage post=twitter:1"


# The process


def test_every_line_of_the_process_goes_to_stdout_in_this_form(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", [SECRET])
    log.info("subscribed", url=f"https://acme.example/{SECRET}")
    log.debug("details")
    logging.getLogger("urllib3").info("of no interest")
    logging.getLogger("urllib3").warning("of interest")
    logging.getLogger("gunicorn.error").warning("Worker exiting")
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "at=info event=subscribed url=https://acme.example/[secret]",
        'at=warning event=message logger=urllib3 message="of interest"',
        'at=warning event=message logger=gunicorn.error message="Worker exiting"',
    ]
    assert output.err == ""


def test_the_chosen_level_is_that_of_our_lines(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("ERROR")
    log.warning("subscribed")
    log.error("parked")
    assert capsys.readouterr().out == "at=error event=parked\n"


def test_configuring_twice_does_not_log_twice(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO")
    log.configure("INFO")
    log.info("subscribed")
    assert capsys.readouterr().out == "at=info event=subscribed\n"


def test_a_command_logs_to_a_stream_of_its_own(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Its stdout is for the data that it prints."""
    stream = io.StringIO()
    log.configure("INFO", stream=stream)
    log.info("subscribed")
    assert (stream.getvalue(), capsys.readouterr().out) == ("at=info event=subscribed\n", "")


# A log that nobody reads


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds 4 KB."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


def test_a_log_that_nobody_reads_stops_nobody_and_says_later_what_is_missing(
    logs: None, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    monkeypatch.setattr(log, "READER_WAIT_S", 0.01)
    with open(writer, "w", closefd=False) as stream:
        log.configure("INFO", stream=stream)
        for number in range(200):
            log.info("ticket_created", ticket=number, post="twitter:34", reason="x" * 80)
        written = os.read(reader, 65536).decode().splitlines()
        log.info("subscribed")
        after = os.read(reader, 65536).decode().splitlines()
    assert 0 < len(written) < 200 and written[-1].startswith(f"at=info event=ticket_created ticket={len(written) - 1} ")
    assert after == [f"at=warning event=log_lines_lost lines={200 - len(written)}", "at=info event=subscribed"]


def test_a_log_whose_reader_is_gone_stops_nobody(
    logs: None, pipe: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = pipe
    os.close(reader)
    with open(writer, "w", closefd=False) as stream:
        log.configure("INFO", stream=stream)
        log.info("subscribed")
    assert capfd.readouterr() == ("", "")


def test_a_long_line_is_written_as_soon_as_there_is_room(logs: None, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with open(writer, "w", closefd=False) as stream:
        log.configure("INFO", stream=stream)
        read: list[bytes] = []
        thread = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(reader, 512), b"")))
        thread.start()
        log.info("parked", **{f"reason_{letter}": "\u00e4" * 500 for letter in "abcdefghij"})
        os.close(writer)
        thread.join()
    assert len(b"".join(read)) > 10_000 and b"".join(read).endswith(b"\n")


def test_a_line_that_cannot_be_formed_stops_nobody() -> None:
    stream = io.StringIO()
    lines = log.Lines(stream)
    lines.setFormatter(Formatter())
    lines.emit(record("of interest: %d", "a customer's words"))
    lines.emit(record("of interest: %d", 7))
    assert stream.getvalue().splitlines() == [
        "at=warning event=log_lines_lost lines=1",
        'at=info event=message logger=urllib3 message="of interest: 7"',
    ]


def test_without_stdout_the_log_goes_to_stderr_and_without_both_nowhere(
    logs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", stderr)
    log.configure("INFO")
    log.info("subscribed")
    monkeypatch.setattr(sys, "stderr", None)
    log.configure("INFO")
    log.info("unheard")
    assert stderr.getvalue() == "at=info event=subscribed\n"
