"""The other half of the simulation: work that stops wherever something may happen to it, and three services in memory.

Zendesk is modelled as documented: an idempotency key lives two hours and refuses another body, external_id is not
unique, a closed ticket takes no notes and nothing else can be followed up, a deleted one is gone. Slack knows no
idempotency and takes a digest; a webhook's receiver knows an id that it had before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from destinations.destination import Destination, Digest, Sent
from inbox.items import Draft, Item
from outbound import AuthFailed, Limited, Quota, Rejected, ServiceError, Unavailable
from zendesk_client import Reply, Ticket, ZendeskClient

KEY_LIFE_S = 7200.0


class Crash(BaseException):
    """The process dies here. No code of ours catches it."""


class Task:
    """Work in a thread of its own that runs only while `go_on` waits for it: up to its next pause, or to its end."""

    _here = threading.local()

    def __init__(self, work: Callable[[], object]) -> None:
        self.waits_at: object = None  # what the work paused with; None once it has ended
        self.since = 0.0  # when it got there, for whoever wants to know
        self._word: object = None
        self._error: BaseException | None = None
        self._mine, self._yours = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._yours.acquire()
        threading.Thread(target=self._run, args=(work,), daemon=True).start()
        self.go_on()

    def go_on(self, word: object = None) -> None:
        """Lets the work go on: its pause returns `word`, or raises it when it is Crash. Raises what broke the work."""
        self._word = word
        self._mine.release()
        if not self._yours.acquire(timeout=30):
            raise TimeoutError("the work neither pauses nor ends")
        if self._error is not None:
            raise self._error

    @classmethod
    def current(cls) -> Task | None:
        """The task this code runs in."""
        return getattr(cls._here, "task", None)

    def pause(self, at: object) -> object:
        """Called by the work: stops here until it may go on."""
        self.waits_at = at
        self._yours.release()
        self._mine.acquire()
        self.waits_at = None
        if self._word is Crash:
            raise Crash
        return self._word

    def _run(self, work: Callable[[], object]) -> None:
        self._mine.acquire()
        self._here.task = self
        try:
            work()
        except Crash:
            pass
        except BaseException as error:
            self._error = error
        self._yours.release()


def pause(at: object) -> object:
    """Stops the task this code runs in; outside of one it goes straight on, with None."""
    task = Task.current()
    return task.pause(at) if task else None


class Answer(Enum):
    """What the caller hears."""

    DONE = auto()  # what Zendesk says to it, be it a refusal
    REFUSED = auto()  # 422, for these words
    LIMITED = auto()  # 429
    LIMITED_ALONE = auto()  # 429 for this item, while there are calls left
    BROKEN = auto()  # 503, whether or not it was done
    BROKEN_FOR_LONG = auto()  # 503 with a Retry-After
    LOST = auto()  # a time-out or a reset, whether or not it was done
    UNAUTHORISED = auto()  # 401
    FAULT = auto()  # the relay's own


@dataclass
class Call:
    """A request on its way. The service doing it (`take`) and the caller hearing of it (`end`) are two things. `doubt`
    is called when the caller does not hear of what was done, or is late."""

    effect: Callable[[bool], Any] = field(repr=False)
    body: bytes | None = None
    doubt: Callable[[], object] = field(default=lambda: None, repr=False)
    refusal: Callable[[], ServiceError | None] = field(default=lambda: None, repr=False)
    taken: bool = False
    result: Any = None

    def take(self, late: bool) -> None:
        """The service does it, once. `late`: the caller's lease is over."""
        if late:
            self.doubt()
        if not self.taken:
            self.taken = True
            try:
                self.result = self.refusal() or self.effect(late)
            except Rejected as refusal:
                self.result = refusal

    def end(self, answer: Answer) -> Any:
        """What the caller hears. That nothing was done is only said when nothing was."""
        if self.taken and answer in (Answer.LOST, Answer.BROKEN, Answer.BROKEN_FOR_LONG, Answer.FAULT):
            self.doubt()
        if answer is Answer.FAULT:
            raise ValueError("what the relay cannot read")
        if answer is Answer.LOST:
            raise Unavailable("no answer came")
        if answer in (Answer.BROKEN, Answer.BROKEN_FOR_LONG):
            raise Unavailable("503", status=503, retry_after_s=12.0 if answer is Answer.BROKEN_FOR_LONG else None)
        if answer is Answer.LIMITED and not self.taken:
            raise Limited("429", status=429, retry_after_s=7.0)
        if answer is Answer.LIMITED_ALONE and not self.taken:
            raise Limited("429", status=429, retry_after_s=90.0, item_only=True)
        if answer is Answer.UNAUTHORISED and not self.taken:
            raise AuthFailed("401", status=401)
        self.take(late=False)
        if isinstance(self.result, ServiceError):
            raise self.result
        return self.result


@dataclass
class Made:
    """A ticket: its post, its first comment and its notes. `late` are notes from calls that outlived their lease:
    without idempotency keys for notes, such a one may be the second of its event."""

    id: int
    post: str
    words: str
    status: str = "open"
    notes: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    archived: bool = False  # closed for months: the list leaves it out

    def tells_of(self, event: str) -> bool:
        return any(event in text for text in (self.words, *self.notes, *self.late))

    def shown(self) -> Ticket:
        return Ticket(self.id, self.status, self.words)


# What a service may do to every call for a while: it is gone, or only its harmless call still works.
REFUSALS: dict[str, Callable[[], ServiceError]] = {
    "gone": lambda: Rejected("404", status=404, code="InvalidEndpoint"),
    "field": lambda: Rejected("422", status=422, code="RecordInvalid field"),
    "forbidden": lambda: AuthFailed("403", status=403),
    "failing": lambda: Unavailable("500", status=500),
}


class Service:
    """What the three have in common."""

    refuses: str | None = None  # the way in which it refuses everything

    def heard(self, call: Call) -> Any:
        """Pauses the call, and returns what its caller hears."""
        call.refusal = lambda: self._refusal(call)
        answer = pause(call)
        return call.end(answer if isinstance(answer, Answer) else Answer.DONE)

    def _refusal(self, call: Call) -> ServiceError | None:
        if self.refuses is None or (call.body is None and self.refuses != "gone"):
            return None
        return REFUSALS[self.refuses]()


class Account(Service):
    """A Zendesk account. What must never reach it is noted in `broken`: the relay would survive an exception."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.tickets: list[Made] = []  # deleted ones stay, with that status
        self.broken: list[str] = []
        self.accepted: set[str] = set()  # the events the relay has in its inbox
        self.refused: set[bytes] = set()  # what was refused is refused again, until a person has seen to it
        self.calls_left: int | None = None
        self.window_ends_at = 0.0
        self._keys: dict[str, tuple[bytes, Made, float]] = {}
        self._sent: dict[str, bytes] = {}  # every key ever sent, with its body

    def quota(self) -> Quota | None:
        """What an answer says of the limit."""
        left_s = self.window_ends_at - self.clock()
        return Quota(self.calls_left, left_s) if self.calls_left is not None and left_s > 0 else None

    def told(self, event: str, post: str) -> list[str]:
        """The comments about an event on the tickets of a post that are not deleted, without late ones."""
        comments = [text for ticket in self._alive(post) for text in (ticket.words, *ticket.notes)]
        return [text for text in comments if event in text]

    def hear(self, body: bytes, key: str | None) -> None:
        """Something that would change the account has left the relay."""
        if not any(event in body.decode() for event in self.accepted):
            self.broken.append("something is sent for an event that was not accepted")
        if key is not None and self._sent.setdefault(key, body) != body:
            self.broken.append("an idempotency key is sent with two bodies")

    def create(self, body: bytes, key: str) -> Ticket:
        first, made, at = self._keys.get(key, (b"", None, 0.0))
        if made and self.clock() - at < KEY_LIFE_S:
            if first != body:
                raise Rejected("400", status=400, code="IdempotentRequestError")
            return made.shown()
        self._admit(body)
        sent = json.loads(body)["ticket"]
        post, follows = sent["external_id"], sent.get("via_followup_source_id")
        if follows is not None and self.tickets[follows - 1].status != "closed":
            raise Rejected("422", status=422, code="RecordInvalid via_followup_source_id")
        others = self._alive(post)
        if any(other.status != "closed" for other in others):
            self.broken.append("a post has two open tickets")
        replaces = next((t.status == "deleted" for t in reversed(self.tickets) if t.post == post), True)
        if not (follows or replaces):
            self.broken.append("a second ticket neither follows a closed one nor replaces a deleted one")
        made = Made(len(self.tickets) + 1, post, sent["comment"]["html_body"])
        self.tickets.append(made)
        self._keys[key] = (body, made, self.clock())
        return made.shown()

    def find(self, post: str) -> list[Ticket]:
        return [ticket.shown() for ticket in reversed(self._alive(post)) if not ticket.archived]

    def find_archived(self, post: str) -> list[Ticket]:
        return [ticket.shown() for ticket in reversed(self._alive(post))]

    def show(self, ticket_id: int) -> Ticket | None:
        ticket = self.tickets[ticket_id - 1]
        return ticket.shown() if ticket.status != "deleted" else None

    def tag(self, ticket_id: int) -> None:
        if self._found(ticket_id).status == "closed":
            raise Rejected("422", status=422, code="RecordInvalid status")

    def note(self, ticket_id: int, body: bytes, late: bool) -> None:
        ticket = self._found(ticket_id)
        if ticket.status == "closed":
            raise Rejected("422", status=422, code="RecordInvalid status")
        self._admit(body)
        (ticket.late if late else ticket.notes).append(json.loads(body)["ticket"]["comment"]["html_body"])

    def has_note(self, ticket_id: int, words: str) -> bool:
        return self._found(ticket_id).tells_of(words)

    def _alive(self, post: str) -> list[Made]:
        return [ticket for ticket in self.tickets if ticket.post == post and ticket.status != "deleted"]

    def _found(self, ticket_id: int) -> Made:
        ticket = self.tickets[ticket_id - 1]
        if ticket.status == "deleted":
            raise Rejected("404", status=404, code="RecordNotFound")
        return ticket

    def _admit(self, body: bytes) -> None:
        if body in self.refused:
            raise Rejected("422", status=422, code="RecordInvalid base")


class ScriptedZendesk(ZendeskClient):
    """The client on an account in memory instead of the network. Each call pauses and goes on with its answer."""

    def __init__(self, account: Account) -> None:
        super().__init__("http://127.0.0.1:9", client_id="relay")
        self._account = account

    def create_ticket(self, body: bytes, idempotency_key: str) -> Reply:
        self._account.hear(body, idempotency_key)
        return self._reply(self._asked(lambda late: self._account.create(body, idempotency_key), body))

    def find_tickets(self, external_id: str) -> list[Ticket]:
        found: list[Ticket] = self._asked(lambda late: self._account.find(external_id))
        return found

    def find_archived(self, external_id: str) -> list[Ticket]:
        found: list[Ticket] = self._asked(lambda late: self._account.find_archived(external_id))
        return found

    def show_ticket(self, ticket_id: int) -> Ticket | None:
        ticket: Ticket | None = self._asked(lambda late: self._account.show(ticket_id))
        return ticket

    def add_tags(self, ticket_id: int, tags: Sequence[str]) -> None:
        self._asked(lambda late: self._account.tag(ticket_id))

    def add_note(self, ticket_id: int, body: bytes) -> Reply:
        self._account.hear(body, None)
        self._asked(lambda late: self._account.note(ticket_id, body, late), body)
        return self._reply(Ticket(ticket_id))

    def has_note(self, ticket_id: int, words: str) -> bool:
        return bool(self._asked(lambda late: self._account.has_note(ticket_id, words)))

    def me(self) -> str:
        return str(self._asked(lambda late: "agent"))

    def _reply(self, ticket: Ticket) -> Reply:
        return Reply(ticket, 200, None, self._account.quota())

    def _asked(self, effect: Callable[[bool], Any], body: bytes | None = None) -> Any:
        call = Call(effect, body)
        try:
            if self._account.quota() and self._account.calls_left is not None:
                if self._account.calls_left == 0:
                    return call.end(Answer.LIMITED)
                self._account.calls_left -= 1
            return self._account.heard(call)
        except ServiceError as error:
            error.quota = self._account.quota() if error.status else None
            raise


class Channel(Service):
    """A Slack channel: whatever is posted is a line in it, also a second time."""

    def __init__(self) -> None:
        self.lines: list[str] = []  # the events they tell of
        self.doubted: set[str] = set()  # events whose message may have been posted though the relay does not know it
        self.refused: set[str] = set()

    def post(self, events: list[str]) -> int:
        if self.refused & set(events):
            raise Rejected("invalid_blocks", status=200, code="invalid_blocks")
        self.lines += events
        return len(self.lines)


class ScriptedSlack(Destination):
    """The channel as a destination. A call pauses and goes on with its answer."""

    name, title, noun, parallel, pace_s = "slack:#crisis", "Slack #crisis", "message", 1, 1.0

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.digest = Digest(2, self._send_digest)

    def compose(self, item: Item) -> Draft:
        return Draft("message", item.event_uuid.encode())

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        return self._post("message_posted", [item.event_uuid])

    def _send_digest(self, items: Sequence[Item]) -> Sent:
        return self._post("digest_posted", [item.event_uuid for item in items])

    def check(self) -> str:
        return str(self._channel.heard(Call(lambda late: "bot")))

    def link(self, reference: str) -> str | None:
        return None

    def _post(self, how: str, events: list[str]) -> Sent:
        body, doubt = " ".join(events).encode(), lambda: self._channel.doubted.update(events)
        return Sent(how, str(self._channel.heard(Call(lambda late: self._channel.post(events), body, doubt))))


class Receiver(Service):
    """The receiver of a webhook: it knows an id that it had before, and may get it as often as need be."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}  # by id
        self.refused: set[str] = set()
        self.broken: list[str] = []

    def take(self, name: str, body: bytes) -> str:
        if name in self.refused:
            raise Rejected("400", status=400)
        if self.bodies.setdefault(name, body) != body:
            self.broken.append("an id comes with two bodies")
        return name


class ScriptedWebhook(Destination):
    """The receiver as a destination. A call pauses and goes on with its answer."""

    name, title, noun, parallel = "webhook:hooks.example/1", "Webhook hooks.example", "webhook", 4

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def compose(self, item: Item) -> Draft:
        return Draft("webhook", f"about {item.event_uuid}".encode(), item.event_uuid)

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        draft = item.draft or self.compose(item)
        return Sent(
            "webhook_sent",
            self._receiver.heard(Call(lambda late: self._receiver.take(draft.key, draft.body), draft.body)),
        )

    def check(self) -> str:
        return str(self._receiver.heard(Call(lambda late: "reached")))

    def link(self, reference: str) -> str | None:
        return None
