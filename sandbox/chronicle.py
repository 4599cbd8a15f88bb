"""What has happened in the demo: the relay's log, in lines and in sentences, and the names of the posts in it."""

from __future__ import annotations

import threading

from sandbox.khoros import FakeKhoros
from sandbox.loglines import LogLine, is_noise, read_line
from sandbox.relay import Relay
from sandbox.sentences import MARK, Diary, Sentence
from sandbox.zendesk import FakeZendesk
from sandbox.zendesk_state import FakeTicket


class Chronicle:
    """The log of `relay` since its first start, and what the two simulated services know about its posts."""

    def __init__(self, khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay) -> None:
        self.khoros, self.zendesk, self.relay = khoros, zendesk, relay
        self.in_burst: dict[str, int] = {}  # the number of the burst with which a post was labelled
        self.labelled_at: dict[str, float] = {}  # by post; of those that were labelled alone
        self._diary, self._log, self._read = Diary(self), list[LogLine](), 0
        self._reading = threading.Lock()

    @property
    def refused(self) -> set[str]:
        """The posts that Zendesk has refused."""
        return self._diary.refused

    def log(self) -> list[LogLine]:
        """The log without the server's own lines, and when the relay was killed and started."""
        with self._reading:
            new = self.relay.output[self._read :]
            self._read += len(new)
            for line in new:
                if not is_noise(line):
                    self._write(read_line(len(self._log), line))
            return list(self._log)

    def newest(self, limit: int) -> list[Sentence]:
        """The newest sentences, newest first."""
        with self._reading:
            return self._diary.newest(limit)

    def mark(self, event: str, **fields: str) -> None:
        """Writes a line into the log that is not the relay's."""
        self.log()  # what came before
        with self._reading:
            self._write(LogLine(len(self._log), MARK, event, list(fields.items())))

    def begin_burst(self, posts: list[str]) -> None:
        """Says that these posts are labelled together."""
        self.in_burst |= dict.fromkeys(posts, max(self.in_burst.values(), default=0) + 1)

    def name_of(self, subject: str) -> str:
        if post := self.khoros.posts.get(subject):
            return f"{str(post['author']).split(' ')[0]}'s post"
        message = self.khoros.messages.get(subject.partition(":")[2])
        return f"The message {message['title']}" if message else "A post"

    def subject_of(self, event_uuid: str) -> str:
        try:
            data = self.khoros.event(event_uuid)["data"]
        except KeyError:
            return ""
        return str(data["items"][0]["entityId"] if data.get("items") else f"message:{data.get('id', '')}")

    def burst_of(self, subject: str) -> int:
        return self.in_burst.get(subject, 0)

    def took(self, ticket: str) -> str:
        made = next((one for one in self.zendesk.tickets if str(one.id) == ticket), None)
        labelled_at = self.labelled_at.get(made.external_id or "") if made else None
        if not made or not labelled_at:
            return ""
        took_s = made.created_at - labelled_at
        return f"{took_s * 1000:.0f} ms" if took_s < 5 else f"{took_s:.0f} s"

    def ticket_of(self, post: str) -> FakeTicket | None:
        return next((ticket for ticket in self.zendesk.tickets if ticket.external_id == post), None)

    def became(self, ticket: FakeTicket) -> str:
        """A sentence about a ticket and how long it took."""
        took = self.took(str(ticket.id))
        return f"{self.name_of(ticket.external_id or '')} became ticket #{ticket.id}{took and f' in {took}'}."

    def _write(self, line: LogLine) -> None:
        self._log.append(line)
        self._diary.read(line)
