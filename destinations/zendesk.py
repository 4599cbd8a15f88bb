"""The Zendesk account: one ticket for each post, a note when it is labelled again, a follow-up of a closed ticket."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from config import Reader, as_boolean, as_https_url, as_token
from destinations.destination import Destination, Sent
from destinations.zendesk_comment import Post
from destinations.zendesk_requester import Requester
from destinations.zendesk_words import (
    Style,
    label_tags,
    note_body,
    read_email,
    read_fields,
    read_requester,
    ticket_body,
    with_requester,
)
from events import Subject
from inbox.items import Draft, Item
from outbound import AuthFailed, Rejected, ServiceError, Unavailable
from zendesk_answers import SCOPE
from zendesk_client import API_TOKENS_END, Reply, Ticket, ZendeskClient

FieldsFor = Callable[[Subject], Mapping[str, Any]]
PARALLEL = 8
KEY_LIFE_S = 6900.0  # Zendesk forgets an idempotency key after two hours
TICKET, NOTE, FOLLOW_UP, REPLACEMENT = "ticket", "note", "follow_up", "replacement"  # kinds of drafts
UNADDRESSED = "unaddressed"  # a ticket that was never sent: its requester is not known yet
TAKES_NO_NOTE = ("closed", "archived", "deleted")  # statuses of a ticket
HOW = {TICKET: "ticket_created", FOLLOW_UP: "follow_up_created", REPLACEMENT: "ticket_created"}
ZENDESK_VARIABLES = {
    "ZENDESK_API_URL": "It is your Zendesk account's address, for example https://acme.zendesk.com",
    "ZENDESK_CLIENT_ID": "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients: Identifier",
    "ZENDESK_CLIENT_SECRET": "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients: Secret",
    "ZENDESK_TICKET_FIELDS": 'A JSON object merged into each ticket, for example {"group_id": 123, "tags": ["social"]}',
    "ZENDESK_COMMENT_PUBLIC": "Normally false; true makes the first comment public, which e-mails the requester",
    "ZENDESK_REQUESTER": "Normally agent; author makes a user of the post's author and needs the scope users:write",
    "ZENDESK_USER_EMAIL": "The agent an API token belongs to; only with ZENDESK_API_TOKEN, until 2027-04-30",
    "ZENDESK_API_TOKEN": "An API token made in Zendesk before 2026-10-27; Zendesk switches these off on 2027-04-30",
}


@dataclass(frozen=True)
class ZendeskSettings:
    """The account, its credentials, and what the deployer wants in each ticket. Secrets are left out of repr."""

    url: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    user_email: str = ""
    api_token: str = field(default="", repr=False)
    ticket_fields: Mapping[str, Any] = field(default_factory=dict)
    comment_public: bool = False
    requester: str = "agent"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        return self.client_secret, self.api_token

    @classmethod
    def read(cls, read: Reader) -> ZendeskSettings:
        """The settings in the environment; `read` keeps the faults."""
        settings = cls(
            url=read("ZENDESK_API_URL", _account_url, required=True),
            client_id=read("ZENDESK_CLIENT_ID", as_token, ""),
            client_secret=read("ZENDESK_CLIENT_SECRET", as_token, ""),
            user_email=read("ZENDESK_USER_EMAIL", read_email, ""),
            api_token=read("ZENDESK_API_TOKEN", lambda value: as_token(value.rpartition("/token:")[2]), ""),
            ticket_fields=read("ZENDESK_TICKET_FIELDS", read_fields, {}),
            comment_public=read("ZENDESK_COMMENT_PUBLIC", as_boolean, False),
            requester=read("ZENDESK_REQUESTER", read_requester, cls.requester),
        )
        read.need_a_pair(("ZENDESK_CLIENT_ID", "ZENDESK_CLIENT_SECRET"), ("ZENDESK_USER_EMAIL", "ZENDESK_API_TOKEN"))
        return settings


class ZendeskDestination(Destination):
    """See destinations/destination.py. `fields_for` gives a route's fields, `requester` the user of a post's author."""

    name, title, parallel, noun = "zendesk", "Zendesk", PARALLEL, "ticket"

    def __init__(
        self, client: ZendeskClient, url: str, style: Style, fields_for: FieldsFor, requester: Requester | None = None
    ) -> None:
        self._client, self._url, self._style, self._fields_for, self._requester = (
            client,
            url,
            style,
            fields_for,
            requester,
        )
        ends = f"Zendesk switches API tokens off on {API_TOKENS_END}: set ZENDESK_CLIENT_ID and ZENDESK_CLIENT_SECRET"
        self.notice = self._ends = ends if client.uses_api_token else ""

    def compose(self, item: Item) -> Draft:
        """A ticket, or a note when the post has one."""
        again = ("retry", item.attempts) if item.attempts > 1 else ()
        if item.latest_reference is None:
            kind, key = UNADDRESSED if self._requester else TICKET, _idempotency_key(item, *again)
            return Draft(kind, self._ticket_body(item), key)
        return self._note_draft(item, item.latest_reference)

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        """Creates the ticket or adds the note; looks first where a ticket may exist already."""
        draft = _draft(item)
        if draft.kind == NOTE:
            return self._send_note(item, refreeze)
        if _outcome_unknown(item):
            tickets = self._find_tickets(item)
            for ticket in tickets:
                if not ticket.description or item.event_uuid in ticket.description:
                    return Sent("ticket_found", str(ticket.id))
            if known := tickets[0].id if tickets else _other_reference(item):
                return self._send_note_instead(item, int(known), refreeze)
        if draft.kind == UNADDRESSED:
            item = refreeze(replace(draft, kind=TICKET, body=self._addressed(item, draft.body)))
        return self._create(item, refreeze)

    def check(self) -> str:
        """Whether Zendesk takes us for an agent. A token of our scopes may not ask who it is, and at times Zendesk does
        not answer that: we are accepted all the same, because the list was answered."""
        self._client.prove()
        try:
            of = f" of an {self._client.me()}"
        except ServiceError as error:
            if error.status != 403 and not isinstance(error, Unavailable):
                raise
            of = ""
        if self._requester:
            self.notice = self._requester.missing_right() or self._ends
        return f"an API token{of}" if self._client.uses_api_token else f"an OAuth client{of}, granted {SCOPE}"

    def link(self, reference: str) -> str | None:
        """Where an agent opens the ticket."""
        return f"{self._url}/agent/tickets/{reference}"

    def _addressed(self, item: Item, body: bytes) -> bytes:
        return self._requester.added(body, _post(item), item.age_s) if self._requester else body

    def _find_tickets(self, item: Item) -> list[Ticket]:
        """The post's tickets, newest first. The list leaves archived ones out, which are closed for months."""
        found = self._client.find_tickets(item.subject_id)
        with _none_when_refused():  # the list was answered, so we are accepted: this way finds nothing
            return found or self._client.find_archived(item.subject_id)
        return []

    def _create(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        """Creates the ticket of the item's draft. A follow-up that is refused, though we are accepted, becomes a plain
        ticket."""
        draft = _draft(item)
        try:
            reply = self._client.create_ticket(draft.body, draft.key)
            if reply.ticket.external_id not in ("", item.subject_id):
                raise Unavailable("Zendesk answered with the ticket of another post, not to our call")
            return _sent(HOW[draft.kind], reply)
        except (Rejected, AuthFailed) as error:
            made = (error.code or "").startswith("IdempotentRequestError")
            if made and (tickets := self._client.find_tickets(item.subject_id)):
                return Sent("ticket_found", str(tickets[0].id))
            if error.status == 401:
                raise
            if self._requester and not made and b'"requester_id"' in draft.body:
                body, key = with_requester(draft.body, None), _idempotency_key(item, "bare", item.attempts)
                sent = self._create(refreeze(replace(draft, body=body, key=key)), refreeze)
                self._requester.forget(_post(item))  # the user is suspended or was deleted
                return sent
            if draft.kind != FOLLOW_UP or draft.target is None:
                raise
            if isinstance(error, AuthFailed):
                self.check()
        body = self._addressed(item, self._ticket_body(item, in_place_of=int(draft.target)))
        plain = Draft(REPLACEMENT, body, _idempotency_key(item, "plain", item.attempts), draft.target)
        try:
            return self._create(refreeze(plain), refreeze)
        except (Rejected, AuthFailed):  # it was not about the follow-up
            refreeze(draft)
            raise

    def _send_note(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        """Adds the note, then the tags that the ticket lacks. When these fail, the next attempt finds the note."""
        ticket_id = int(_draft(item).target or 0)
        if (item.attempts > 1 or item.source == "poll") and self._has_note(ticket_id, item.event_uuid):
            self._add_tags(ticket_id, item)
            return Sent("note_found", str(ticket_id))
        try:
            reply = self._client.add_note(ticket_id, _draft(item).body)
        except ServiceError as refusal:
            if not (isinstance(refusal, Rejected | AuthFailed) or refusal.status == 409) or refusal.status == 401:
                raise
            return self._send_instead_of_note(item, ticket_id, refusal, refreeze)
        self._add_tags(ticket_id, item, reply.ticket.tags)
        return _sent("note_added", reply)

    def _has_note(self, ticket_id: int, event_uuid: str) -> bool:
        with _none_when_refused():  # whether the ticket takes the note shows what is wrong
            return self._client.has_note(ticket_id, event_uuid)
        return False

    def _add_tags(self, ticket_id: int, item: Item, known: Collection[str] = ()) -> None:
        """Adds the tags of the labels, but for those that the ticket has. The note counts without them when the ticket,
        or our role, takes no tags."""
        tags = [tag for tag in label_tags(_post(item)) if tag not in known]
        with suppress(Rejected, AuthFailed):
            if tags:
                self._client.add_tags(ticket_id, tags)

    def _send_note_instead(self, item: Item, ticket_id: int, refreeze: Callable[[Draft], Item]) -> Sent:
        return self._send_note(refreeze(self._note_draft(item, str(ticket_id))), refreeze)

    def _send_instead_of_note(
        self, item: Item, ticket_id: int, refusal: ServiceError, refreeze: Callable[[Draft], Item]
    ) -> Sent:
        """A closed ticket takes no note and gets a follow-up; one that was deleted gets a replacement. When the post
        has a newer ticket already, the note goes there, or that one is followed up."""
        tickets = self._client.find_tickets(item.subject_id)
        listed = next((ticket for ticket in tickets if ticket.id == ticket_id), None)
        status = listed.status if listed else self._status(ticket_id)  # the list leaves archived ones out
        if not status and "status" in (refusal.code or ""):
            status = "closed"  # Zendesk does not say, but the status is what the note was refused for
        if status not in TAKES_NO_NOTE:
            raise refusal
        if tickets and tickets[0].id > ticket_id:
            ticket_id, status = tickets[0].id, tickets[0].status
        if status not in TAKES_NO_NOTE:
            return self._send_note_instead(item, ticket_id, refreeze)
        kind = REPLACEMENT if status == "deleted" else FOLLOW_UP
        body = self._addressed(item, self._ticket_body(item, follow_up_of=ticket_id if kind == FOLLOW_UP else None))
        draft = Draft(kind, body, _idempotency_key(item, "instead", ticket_id, item.attempts), str(ticket_id))
        return self._create(refreeze(draft), refreeze)

    def _status(self, ticket_id: int) -> str:
        """The ticket's status, "" when Zendesk does not say."""
        with _none_when_refused():
            ticket = self._client.show_ticket(ticket_id)
            return ticket.status if ticket else "deleted"
        return ""

    def _ticket_body(self, item: Item, **options: int | None) -> bytes:
        style = self._style.with_fields(self._fields_for(Subject.parse(item.payload)))
        return ticket_body(_post(item), style, **options)

    def _note_draft(self, item: Item, reference: str) -> Draft:
        return Draft(NOTE, note_body(_post(item), self._style), _idempotency_key(item, "note", reference), reference)


@contextmanager
def _none_when_refused() -> Iterator[None]:
    """A look-up that our role may not make finds nothing. After a 401 nobody knows: it is raised."""
    try:
        yield
    except (Rejected, AuthFailed) as refusal:
        if refusal.status == 401:
            raise


def _outcome_unknown(item: Item) -> bool:
    """Whether to look for a ticket first: the key has expired, the event was polled, or the post got a ticket from
    another item after this one's draft was frozen."""
    forgotten = item.sent_s_ago is not None and not 0 <= item.sent_s_ago <= KEY_LIFE_S
    return item.source == "poll" or forgotten or _other_reference(item) is not None


def _other_reference(item: Item) -> str | None:
    """The post's ticket, when it got one from another item after this one's draft was frozen."""
    return item.latest_reference if item.latest_reference != _draft(item).target else None


def _sent(how: str, reply: Reply) -> Sent:
    return Sent(how, str(reply.ticket.id), reply.status, reply.request_id, reply.quota)


def _post(item: Item) -> Post:
    return Post.of(Subject.parse(item.payload), item.event_uuid)


def _draft(item: Item) -> Draft:
    if item.draft is None:
        raise ValueError("the inbox hands out no item without a draft")
    return item.draft


def _idempotency_key(item: Item, *more: object) -> str:
    """The same event and post always give the same key, even after the database was lost."""
    digest = hashlib.sha256(f"{item.event_uuid}\n{item.subject_id}".encode()).hexdigest()[:40]
    return "-".join([digest, *map(str, more)])


def _account_url(value: str) -> str:
    """The account's host, of whichever of its pages the address was copied. Raises ValueError."""
    host = re.sub(r"(?<=[^:/])[/?#].*", "", value)
    return as_https_url(re.sub(r"(?i)^http://(?=[\w-]+\.zendesk\.com$)", "https://", host))
