"""The relay's log in sentences."""

from __future__ import annotations

import pytest

from sandbox.loglines import LogLine, read_line
from sandbox.sentences import CUT, MARK, STARTED, Diary, Sentence

BURST = 200


class Posts:
    """Posts whose number is above 100 were labelled together."""

    def name_of(self, subject: str) -> str:
        return f"{subject}'s post"

    def subject_of(self, event_uuid: str) -> str:
        return event_uuid.removeprefix("of-")

    def burst_of(self, subject: str) -> int:
        return 1 if subject.isdigit() and int(subject) > 100 else 0

    def took(self, ticket: str) -> str:
        return {"1001": "62 ms"}.get(ticket, "")


def told(*lines: str | LogLine) -> list[str]:
    """The sentences about these lines, oldest first."""
    return ["".join((one.before, one.link, one.after)) for one in sentences(*lines)]


def sentences(*lines: str | LogLine) -> list[Sentence]:
    diary = Diary(Posts())
    for number, line in enumerate(lines):
        diary.read(read_line(number, line) if isinstance(line, str) else line._replace(number=number))
    return diary.newest(100)[::-1]


def mark(event: str, **fields: str) -> LogLine:
    return LogLine(0, MARK, event, list(fields.items()))


def accepted(post: object, source: str = "push", new: int = 2) -> str:
    return (
        f"at=info event=notification_accepted accepted={new} duplicates={2 - new} event_uuid=of-{post} source={source}"
    )


def made(event: str, post: object, destination: str = "zendesk", **fields: object) -> str:
    more = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"at=info event={event} {more} destination={destination} post={post} attempts=1"


OUTAGE = 'at=warning event=outage destination=zendesk reason="Zendesk answered 503"'
RECOVERED = "at=info event=recovered destination=zendesk was=outage"


@pytest.mark.parametrize(
    ("line", "said", "href"),
    [
        (made("ticket_created", "Mara", ticket=1001), "Mara's post → ticket #1001, 62 ms", "/agent/tickets/1001"),
        (made("ticket_found", "Mara", ticket=1003), "Mara's post → ticket #1003", "/agent/tickets/1003"),
        (made("follow_up_created", "Mara", ticket=1003), "Mara's post → a follow-up, ticket #1003",
         "/agent/tickets/1003"),
        (made("note_added", "Mara", ticket=1001), "Mara's post, labelled again → a note on ticket #1001",
         "/agent/tickets/1001"),
        (made("message_posted", "Mara", "slack:#care", message="C1/17.1"), "Mara's post → Slack #care",
         "/tab/slack/C1"),
        (made("reply_posted", "Mara", "slack:#care", message="C1/17.1"), "Mara's post → the thread in Slack #care",
         "/tab/slack/C1"),
        (made("digest_posted", "Mara", "slack:#care", message="C1/17.1"),
         "Mara's post → one message in Slack #care", "/tab/slack/C1"),
        (made("message_posted", "Mara", "slack:a…@acme.example", message="D1/17.1"), "Mara's post → a person in Slack",
         "/tab/slack/D1"),
        (made("webhook_sent", "Mara", "webhook:x.example/1"), "Mara's post → the webhook's receiver", "/tab/webhook"),
        ("at=info event=ticket_solved ticket=1001 post=Mara", "Ticket #1001 is solved.", "/agent/tickets/1001"),
        ("at=error event=parked destination=zendesk post=Mara status=422",
         "Zendesk refuses Mara's post. It needs attention; the others go on.", ""),
        (OUTAGE, "Zendesk does not answer. Posts wait in the database.", ""),
        ("at=error event=unauthorised destination=slack:#a reason=no",
         "Slack #a refuses the relay's login. Posts wait in the database.", ""),
        (RECOVERED, "Zendesk works again. What waited, follows.", ""),
        (accepted("Mara", new=0), "Mara's post came twice. The relay knows it and does nothing twice.", ""),
        (accepted("Mara", "poll"), "Mara's post got its label while the relay was away: fetched now.", ""),
        ('at=error event=database_unavailable reason="disk is full"', "database_unavailable: disk is full", ""),
    ],
)  # fmt: skip
def test_a_line_is_a_sentence(line: str, said: str, href: str) -> None:
    assert told(line) == [said] and sentences(line)[0].href == href


@pytest.mark.parametrize(
    "line",
    [
        accepted("Mara"),  # its ticket is made in the same moment
        "at=warning event=not_delivered destination=zendesk post=Mara",  # the outage tells it
        "at=info event=request method=POST path=/notifications status=202",
        "at=info event=purged items=2",
    ],
)
def test_what_tells_nothing_new_is_no_sentence(line: str) -> None:
    assert told(line) == []


def test_a_burst_is_one_sentence_for_each_thing_that_happens_to_it() -> None:
    burst = range(101, 101 + BURST)
    lines = [accepted(post) for post in burst[:2]] + [made("ticket_created", 101, ticket=7), OUTAGE]
    lines += [accepted(post) for post in burst[2:]] + [RECOVERED]
    lines += [made("ticket_created", post, ticket=post - 93) for post in burst[1:]]
    assert told(*lines) == [
        "200 posts came in: they are safe in the database.",
        "101's post → ticket #7",
        "Zendesk does not answer. Posts wait in the database.",
        "Zendesk works again. What waited, follows.",
        "199 posts → tickets #9 to #207",
    ]


def test_a_digest_is_one_sentence_and_so_is_what_was_fetched() -> None:
    digest = [made("digest_posted", name, "slack:#care", message="C1/17.1") for name in ("Mara", "Jonas")]
    fetched = [accepted(name, "poll") for name in ("Mara", "Jonas")]
    assert told(*digest) == ["2 posts → one message in Slack #care"]
    assert told(*fetched) == ["2 posts got their label while the relay was away: fetched now."]


def test_while_a_destination_is_down_a_single_post_is_said_to_be_safe() -> None:
    assert told(OUTAGE, accepted("Mara"))[1] == "Mara's post came in: it is safe in the database."
    assert told(OUTAGE, RECOVERED, accepted("Mara"))[2:] == []


def test_a_kill_and_a_start_are_told_and_each_start_connects_again() -> None:
    connected = [
        "at=info event=connected destination=zendesk found=x",
        "at=info event=subscribed event_name=rule-applied subscription=1",
    ]
    assert told(*connected, mark(CUT, safe="201 posts are safe in the database."), mark(STARTED), *connected) == [
        "The relay is connected to Khoros, Zendesk.",
        "The relay was killed. 201 posts are safe in the database.",
        "The relay starts and reads its database.",
        "The relay is connected to Khoros, Zendesk.",
    ]


def test_a_post_that_zendesk_refused_counts_as_refused_until_it_has_a_ticket() -> None:
    diary = Diary(Posts())
    diary.read(read_line(0, "at=error event=parked destination=zendesk post=Mara status=422"))
    diary.read(read_line(1, made("message_posted", "Mara", "slack:#care", message="C1/17.1")))
    assert diary.refused == {"Mara"}
    diary.read(read_line(2, made("ticket_created", "Mara", ticket=1001)))
    assert diary.refused == set()
