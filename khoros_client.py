"""A thin client of Khoros Marketing's Notifications API, version 2.

API reference: https://developer.khoros.com/khorosmarketingdevdocs/reference/notification-overview
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, TypeVar

from dates import read_date
from events import as_list, as_object, read_number, read_text, read_texts
from outbound import Answer, AuthFailed, Bearer, Rejected, ServiceError, Unavailable, new_session, send

PAGE_SIZE = 100
WHOAMI = "/whoami/"
T = TypeVar("T")
OVERLONG = "Khoros lists an event of more than 8 MiB: look at it in Khoros"
_LIVE = {"ACTIVE", ""}  # a label, or a set, that agents can use


class WrongCompany(AuthFailed):
    """The number of our company is none of the access token's companies, which the message lists."""


class Garbled(Unavailable):
    """An answer that begins like data cannot be read to its end, maybe for one bad event. `text` is what came, or
    OVERLONG."""

    def __init__(self, text: str) -> None:
        super().__init__("Khoros answered 200 with data that cannot be read", status=200)
        self.text = text


@dataclass(frozen=True)
class Subscription:
    """A subscription as Khoros shows it; a value that Khoros leaves out is empty. `status` is ACTIVE, PAUSED or
    DISABLED."""

    uuid: str
    external_id: str
    company_id: str
    event_name: str
    notification_uri: str
    query: str
    status: str
    created_date: str

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Subscription:
        """Reads a subscription; what it does not say itself may be in its key."""
        said = {**as_object(raw.get("key")), **{name: value for name, value in raw.items() if value}}
        texts = read_texts(said, *(field.name for field in fields(cls)))
        return cls(**{**texts, "status": texts["status"].upper()})


@dataclass(frozen=True)
class Upserted:
    """The answer to `subscribe`. `date` is when Khoros gave it, by Khoros' own clock, in seconds since 1970; None when
    the answer has no readable Date header."""

    subscription: Subscription
    date: float | None


@dataclass(frozen=True)
class Company:
    """A company that the token's owner belongs to."""

    id: str
    name: str


@dataclass(frozen=True)
class Label:
    """A label of the company's, and the set that it belongs to."""

    name: str
    set_name: str
    active: bool


class KhorosClient:
    """The API with one access token, for one company; `companies` does without its number. Each method
    makes one attempt. It raises Unavailable (Khoros is down, or its answer makes no sense), Rejected (Khoros refuses
    this request) or AuthFailed (it refuses the token)."""

    def __init__(self, url: str, token: str, company_id: int = 0) -> None:
        self._url, self._token, self._company_id = url, token, company_id
        self._session = new_session(url, pool_size=2)

    def subscribe(
        self, event_name: str, notification_uri: str, query: str, *, external_id: str, bearer_token: str
    ) -> Upserted:
        """Creates the subscription named `external_id`, or updates the one with this name. An empty
        `notification_uri` makes one that is polled, an empty `query` one for every event of this name
        (reference/create-a-subscription)."""
        body = {"companyId": self._company_id, "externalId": external_id, "eventName": event_name}
        body |= {"bearerToken": bearer_token, **({"query": query} if query else {})}
        body |= {"notificationUri": notification_uri} if notification_uri else {}
        answer = self._send("POST", "/events/subscription", json=body)
        made = Subscription.parse(as_object(read_khoros_answer(answer)))
        return Upserted(made, read_date(answer.headers.get("Date")))

    def subscriptions(self) -> list[Subscription]:
        """The company's subscriptions, 1,000 at most (reference/list-subscriptions). It is not published whether the
        first page is number 0 or 1: an empty page 0 does not end the list."""
        return self._pages("/events/subscription", 0, Subscription.parse, lambda one: one.uuid)

    def labels(self) -> list[Label]:
        """The labels of the company's first 1,000 label sets (reference/get-label-sets)."""
        sets = self._pages("/labelsets/", 1, dict, lambda one: read_text(one.get("id")) or read_text(one.get("name")))
        return [
            Label(label["name"], read_text(one.get("name")), {label["status"], read_text(one.get("status"))} <= _LIVE)
            for one in sets
            for label in (read_texts(raw, "name", "status") for raw in as_list(one.get("labels")) if as_object(raw))
        ]

    def set_status(self, uuid: str, status: str) -> None:
        """Makes a subscription ACTIVE, PAUSED or DISABLED (reference/update-a-subscription)."""
        self._call("PUT", f"/events/subscription/{uuid}/{status}")

    def delete(self, uuid: str) -> None:
        """Deletes a subscription; one that does not exist is no error (reference/delete-a-subscription)."""
        try:
            self._call("DELETE", f"/events/subscription/{uuid}")
        except Rejected as error:
            if error.status != 404:
                raise

    def events(self, uuid: str, *, offset: int, limit: int) -> list[Any]:
        """A page of the subscription's raw events, in no published order (reference/retrieve-subscription-events). An
        entry that is no object is returned as it is. Raises Garbled too."""
        try:
            answer = self._send("GET", f"/events/data/{uuid}", params={"offset": offset, "limit": limit})
        except Unavailable as error:
            if error.status == 200:  # it began well and did not end
                raise Garbled(OVERLONG) from error
            raise
        return _entries(read_khoros_answer(answer))

    def companies(self) -> list[Company]:
        """The companies that the token's owner belongs to; none when Khoros does not say (GET /v2/whoami)."""
        user = self._call("GET", WHOAMI)
        if not isinstance(user, dict):
            raise Unavailable("Khoros answered without an object")
        listed = map(as_object, as_list(user.get("companies")))
        return [Company(**read_texts(one, "id", "name")) for one in listed if one.get("id")]

    def explain(self, refusal: ServiceError) -> ServiceError:
        """WrongCompany when Khoros has refused a call because our company is none of the access token's; otherwise the
        refusal itself."""
        if isinstance(refusal, Unavailable):
            return refusal
        ours, names = str(self._company_id), dict[str, str]()
        with suppress(ServiceError):
            names = {one.id: one.name for one in self.companies()}
        if not names or ours in names:
            return refusal
        listed = ", ".join(f"{number} ({name})" for number, name in islice(names.items(), 10))
        return WrongCompany(f"SPREDFAST_COMPANY_ID {ours} is no company of the access token, which has: {listed}")

    def _pages(self, path: str, first: int, parse: Callable[[Any], T], key: Callable[[T], str]) -> list[T]:
        """The entries of up to ten pages, each once by its key."""
        listed: dict[str, T] = {}
        for page in range(first, first + 10):
            params, known = {"pageNumber": page, "pageSize": PAGE_SIZE}, len(listed)
            entries = [one for one in _entries(self._call("GET", path, params=params)) if isinstance(one, dict)]
            for one in map(parse, entries):
                listed.setdefault(key(one), one)
            if (entries or page) and (len(entries) < PAGE_SIZE or len(listed) == known):
                break
        return list(listed.values())

    def _call(self, method: str, path: str, **options: Any) -> Any:
        return read_khoros_answer(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"x-sf-company-id": str(self._company_id)} if path != WHOAMI else {}
        url, auth = self._url + path, Bearer(self._token)
        return send(self._session, method, url, service="Khoros", auth=auth, headers=headers, **options)


def read_khoros_answer(answer: Answer) -> Any:
    """The payload of an answer, bare or out of its envelope. Raises the error that says what to do next.

    The content decides before the status: the answer to an expired token is a page that reads "Developer Inactive".
    """
    text, status = _read_body(answer).strip(" \t\r\n\0"), answer.status
    payload = _read_json(text)
    if payload is None and "developer inactive" in text.lower():
        message = "Khoros says Developer Inactive: SPREDFAST_API_TOKEN has expired or was revoked"
        raise AuthFailed(message, status=status, code="DeveloperInactive")
    envelope = as_object(as_object(payload).get("status"))
    if 200 <= status < 300 and envelope.get("succeeded") is not False:
        if payload is None and text.startswith("<"):
            raise Unavailable(f"Khoros answered {status} with a web page instead of data", status=status)
        if payload is None and text.startswith(("{", "[")):
            raise Garbled(text)
        return as_object(payload).get("data", payload)
    raise _khoros_error(answer, as_object(envelope.get("error")))


def _read_body(answer: Answer) -> str:
    """The body as text. Where it is not UTF-8 or UTF-16, the declared charset counts; bad bytes are replaced."""
    encoding = json.detect_encoding(answer.body)
    try:
        return answer.body.decode(encoding)
    except UnicodeDecodeError:
        declared = re.search(r"charset=[\"']?([\w.:-]+)", answer.headers.get("Content-Type", ""), re.IGNORECASE)
    try:
        return answer.body.decode(declared[1] if declared else encoding, "replace")
    except (LookupError, UnicodeError):
        return answer.body.decode("utf-8", "replace")


def _read_json(text: str) -> Any:
    """The JSON value, or None when it is something else. A raw line break or tab in a text is no harm."""
    try:
        return json.loads(text, strict=False, parse_int=read_number)
    except (ValueError, RecursionError):
        return None


def _khoros_error(answer: Answer, error: Mapping[str, Any]) -> ServiceError:
    status, code = answer.status, read_text(error.get("code"))[:60] or None
    message = f"Khoros answered {status}{f' {code}' if code and code != str(status) else ''}"
    if "does not allow the application" in read_text(error.get("message")):
        message += ": the company does not allow this application; ask Khoros to enable it for SPREDFAST_COMPANY_ID"
        return AuthFailed(message, status=status, code=code)
    if status in (401, 403) or code in ("401", "403"):
        return AuthFailed(f"{message}: it refuses SPREDFAST_API_TOKEN", status=status, code=code)
    if status == 586 or 300 <= status < 400:
        return Rejected(f"{message}: KHOROS_API_URL does not lead to the API", status=status, code=code)
    if status in (408, 425, 429) or status >= 500:
        return Unavailable(message, status=status, code=code, retry_after_s=answer.retry_after_s)
    return Rejected(message, status=status, code=code)


def _entries(data: object) -> list[Any]:
    """The entries of a list, which may be bare or inside an object. Raises Unavailable when there is no list."""
    if isinstance(data, dict):
        data = next((data[key] for key in ("items", "data", "content") if isinstance(data.get(key), list)), None)
    if not isinstance(data, list):
        raise Unavailable("Khoros answered without a list")
    return data
