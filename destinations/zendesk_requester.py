"""The post's author as the requester of its ticket: a user of the Zendesk account, made at the author's first post."""

from __future__ import annotations

import time
from collections.abc import Callable

import log
from destinations.zendesk_comment import Post
from destinations.zendesk_words import author_key, user_body, with_requester
from inbox.database import DatabaseUnavailable
from inbox.requesters import Requesters
from outbound import AuthFailed, ServiceError, Unavailable
from zendesk_client import ZendeskClient

TURN_PATIENCE_S = 3.0  # a post waits so long for its turn, counted from its arrival
PAUSES_S = ((AuthFailed, 600.0), (Unavailable, 10.0))  # how long no user is asked for after such a failure
USERS_PAUSE_S = 3600.0  # whatever Zendesk says
NAMELESS = b'{"user": {"name": ""}}'
GIVE_RIGHT = "give the OAuth client the scope users:write, and its agent a role that may manage end users"


class Requester:
    """Never stops a ticket: without a user it has no requester of its own. Every method raises DatabaseUnavailable."""

    def __init__(self, client: ZendeskClient, users: Requesters, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._users, self._clock = client, users, clock
        self._asks_again_at = 0.0

    def added(self, body: bytes, post: Post, age_s: float) -> bytes:
        """The request body of a ticket with the author as the requester; as it is when the author has no name of its
        own, or Zendesk gives no user within a few seconds. `age_s` is how long the post has waited already. Raises
        ServiceError when Zendesk takes no call at all: then the post waits as it is."""
        try:
            user_id = self._user_id(post, age_s)
            return with_requester(body, user_id) if user_id else body
        except (ServiceError, DatabaseUnavailable):
            raise
        except Exception as error:  # a fault of ours, which no ticket must wait for
            self._say(post, log.where(error))
            return body

    def _user_id(self, post: Post, age_s: float) -> str | None:
        if not (author := author_key(post.item)):
            return None
        try:
            if self._clock() >= self._asks_again_at and self._users.wait_for_turn(author, TURN_PATIENCE_S - age_s):
                self._users.remember(author, self._client.make_user(user_body(post.item), author))
        except ServiceError as error:
            pause_s = next((pause_s for kind, pause_s in PAUSES_S if isinstance(error, kind)), 0.0)
            pause_s = max(pause_s, min(error.retry_after_s or 0.0, USERS_PAUSE_S))
            self._asks_again_at = self._clock() + pause_s
            self._say(post, _no_user(error))
            self._client.prove()
        return self._users.recall(author)

    def _say(self, post: Post, reason: str) -> None:
        log.warning("no_requester", post=post.item.entity_id, event_uuid=post.event_uuid, reason=reason)

    def forget(self, post: Post) -> None:
        """The author's user is suspended or was deleted: the next post asks anew."""
        self._users.forget(author_key(post.item))

    def missing_right(self) -> str:
        """What to do when we may not make users, "" when we may or nobody knows. It tries to make a user without a
        name, which is refused in any case."""
        try:
            if self._users.wait_for_turn("", TURN_PATIENCE_S):
                self._client.make_user(NAMELESS)
        except AuthFailed as refusal:
            return f"tickets have no requester of their own ({_no_user(refusal)}): {GIVE_RIGHT}"
        except ServiceError:
            pass  # it refuses the name, or does not say
        self._asks_again_at = 0.0
        return ""


def _no_user(error: ServiceError) -> str:
    """Why there is no user. The error's own sentence speaks of a ticket."""
    if not error.status:
        return str(error)
    return f"Zendesk gave no user for the author: it answered {error.status} {error.code or ''}".rstrip()
