"""The end users of the simulated Zendesk, and how often they may be changed.

https://developer.zendesk.com/api-reference/ticketing/users/users/#create-or-update-user
These classes do not lock. FakeZendesk does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sandbox.zendesk_state import AGENT_ID, Clock, iso

FIRST_USER_ID = 700_001
SECONDS_PER_CALL, MOST_FOR_USER, MOST_WINDOW_S = 1.0, 5, 60.0
_WRITABLE = ("name", "external_id", "remote_photo_url", "details", "notes", "tags")


@dataclass(frozen=True)
class FakeUser:
    """An end user at one moment: a change makes a new object. A picture is never fetched: pages draw one instead."""

    id: int
    name: str
    external_id: str = ""
    remote_photo_url: str = ""
    details: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    suspended: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0

    def as_json(self, base_url: str) -> dict[str, Any]:
        """The user as the API shows it."""
        photo = {"content_url": f"{base_url}/system/photos/{self.id}.png", "content_type": "image/png"}
        return {
            "id": self.id,
            "url": f"{base_url}/api/v2/users/{self.id}.json",
            "name": self.name,
            "email": None,
            "external_id": self.external_id or None,
            "role": "end-user",
            "active": True,
            "suspended": self.suspended,
            "verified": False,
            "details": self.details,
            "notes": self.notes,
            "tags": [*self.tags],
            "photo": photo if self.remote_photo_url else None,
            "created_at": iso(self.created_at),
            "updated_at": iso(self.updated_at),
        }


AGENT = FakeUser(AGENT_ID, "Relay Service")


class Users:
    """The users by id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made = 0  # users ever
        self._users: dict[int, FakeUser] = {}
        self._called_at: dict[str, list[float]] = {}  # by external id in small letters; "" is any call

    @property
    def all(self) -> list[FakeUser]:
        return list(self._users.values())

    def get(self, user_id: object) -> FakeUser | None:
        """The user, or the agent, with this id."""
        return AGENT if user_id == AGENT_ID else self._users.get(user_id) if isinstance(user_id, int) else None

    def take(self, external_id: str) -> int:
        """Counts one call of create_or_update. Returns 0, or the seconds until one is allowed again: one a second for
        the account, five a minute for the same user."""
        now, waits = self._clock(), [0.0]
        limits = [("", 1, SECONDS_PER_CALL), (external_id.lower(), MOST_FOR_USER, MOST_WINDOW_S)]
        for name, most, window_s in limits if external_id else limits[:1]:
            self._called_at[name] = [at for at in self._called_at.get(name, []) if now - at < window_s]
            if len(self._called_at[name]) >= most:
                waits.append(self._called_at[name][0] + window_s - now)
        if not any(waits):
            for name in {"", external_id.lower()}:
                self._called_at[name].append(now)
        return math.ceil(max(waits))

    def create_or_update(self, sent: Mapping[str, Any]) -> tuple[FakeUser, bool]:
        """The user of this request, and whether it is new. One is found by its external id, small letters or not;
        without an external id each call makes another user."""
        now, name = self._clock(), str(sent.get("external_id") or "").lower()
        known = next((user for user in self._users.values() if name and user.external_id.lower() == name), None)
        if known is None:
            self._made += 1
        user = known or FakeUser(FIRST_USER_ID + self._made - 1, "", created_at=now)
        changes: dict[str, Any] = {key: sent[key] or "" for key in _WRITABLE if key in sent and key != "tags"}
        if "tags" in sent:
            changes["tags"] = tuple(sent["tags"] or ())
        self._users[user.id] = user = replace(user, **changes, updated_at=now)
        return user, known is None

    def suspend(self, user_id: int, suspended: bool = True) -> None:
        """Raises KeyError for an unknown user."""
        self._users[user_id] = replace(self._users[user_id], suspended=suspended)

    def delete(self, user_id: int) -> None:
        """Raises KeyError for an unknown user."""
        del self._users[user_id]


def _text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_web_address(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.startswith(("http://", "https://")))


# The writable keys that the sandbox knows, and the check of each. The other ones of the contract are not needed here.
USER_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and 0 < len(value.strip()) <= 255, "is too short or too long"),
    "external_id": (lambda value: _text_or_none(value) and len(value or "") <= 255, "must be text"),
    "remote_photo_url": (_is_web_address, "must be a web address"),
    "details": (_text_or_none, "must be text"),
    "notes": (_text_or_none, "must be text"),
    "skip_verify_email": (lambda value: isinstance(value, bool), "must be true or false"),
    "tags": (lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value), "must be a list"),
}


def user_refusals(user: object) -> dict[str, list[dict[str, Any]]]:
    """The reasons to refuse `user`, by field, as in the details of RecordInvalid. Empty when it is good."""
    if not isinstance(user, dict):
        return {"user": [{"description": "User: must be an object", "error": "InvalidValue"}]}
    faults = {
        name: USER_KEYS[name][1] if name in USER_KEYS else "is not a key that this sandbox knows"
        for name, value in user.items()
        if name not in USER_KEYS or not USER_KEYS[name][0](value)
    }
    if "name" not in user:
        faults["name"] = "is too short (minimum is 1 characters)"
    return {name: [{"description": f"{name}: {said}", "error": "InvalidValue"}] for name, said in faults.items()}
