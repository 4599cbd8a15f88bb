"""A thin client of Khoros Marketing's Notifications API, version 2.

API reference: https://developer.khoros.com/khorosmarketingdevdocs/reference/notification-overview
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from events import as_object, read_text, read_texts
from outbound import Answer, AuthFailed, Bearer, Rejected, ServiceError, Unavailable, new_session, send

PAGE_SIZE = 100


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


class KhorosClient:
    """The API with one access token, for one company. Each method makes one attempt. It raises Unavailable (Khoros is
    down, or its answer makes no sense), Rejected (Khoros refuses this request) or AuthFailed (it refuses the token)."""

    def __init__(self, url: str, token: str, company_id: int) -> None:
        self._url, self._token, self._company_id = url, token, company_id
        self._session = new_session(url, pool_size=2)

    def subscribe(
        self, event_name: str, notification_uri: str, query: str, *, external_id: str, bearer_token: str
    ) -> Subscription:
        """Creates the subscription named `external_id`, or updates the one with this name. An empty
        `notification_uri` makes one that is polled (reference/create-a-subscription)."""
        body = {"companyId": self._company_id, "externalId": external_id, "eventName": event_name, "query": query}
        body |= {"bearerToken": bearer_token, **({"notificationUri": notification_uri} if notification_uri else {})}
        return Subscription.parse(as_object(self._call("POST", "/events/subscription", json=body)))

    def subscriptions(self) -> list[Subscription]:
        """The company's subscriptions, 1,000 at most (reference/list-subscriptions)."""
        listed: dict[str, Subscription] = {}
        for page in range(10):
            params = {"pageNumber": page, "pageSize": PAGE_SIZE}
            entries = _objects(self._call("GET", "/events/subscription", params=params))
            new = [s for s in map(Subscription.parse, entries) if s.uuid not in listed]
            listed |= {s.uuid: s for s in new}
            if len(entries) < PAGE_SIZE or not new:
                break
        return list(listed.values())

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

    def events(self, uuid: str, *, offset: int, limit: int) -> list[dict[str, Any]]:
        """A page of the subscription's raw events, in no published order (reference/retrieve-subscription-events)."""
        return _objects(self._call("GET", f"/events/data/{uuid}", params={"offset": offset, "limit": limit}))

    def whoami(self) -> dict[str, Any]:
        """The token's owner: {id, email, firstName, lastName, companies: [{id, name, products}]}."""
        data = self._call("GET", "/whoami/")
        if not isinstance(data, dict):
            raise Unavailable("Khoros answered without an object")
        return data

    def _call(self, method: str, path: str, **options: Any) -> Any:
        headers = {"x-sf-company-id": str(self._company_id)}
        answer = send(self._session, method, self._url + path, auth=Bearer(self._token), headers=headers, **options)
        return read_khoros_answer(answer)


def read_khoros_answer(answer: Answer) -> Any:
    """The payload of an answer, bare or out of its envelope. Raises the error that says what to do next.

    The content decides before the status: the answer to an expired token is a page that reads "Developer Inactive".
    """
    payload, status = answer.json(), answer.status
    if payload is None and b"developer inactive" in answer.body.lower():
        message = "Khoros says Developer Inactive: SPREDFAST_API_TOKEN has expired or was revoked"
        raise AuthFailed(message, status=status, code="DeveloperInactive")
    envelope = as_object(as_object(payload).get("status"))
    if 200 <= status < 300 and envelope.get("succeeded") is not False:
        if payload is None and answer.body.lstrip().startswith(b"<"):
            raise Unavailable(f"Khoros answered {status} with a web page instead of data", status=status)
        return as_object(payload).get("data", payload)
    raise _khoros_error(answer, as_object(envelope.get("error")))


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


def _objects(data: object) -> list[dict[str, Any]]:
    """The objects of a list, which may be bare or inside an object. Raises Unavailable when there is no list."""
    if isinstance(data, dict):
        data = next((data[key] for key in ("items", "data", "content") if isinstance(data.get(key), list)), None)
    if not isinstance(data, list):
        raise Unavailable("Khoros answered without a list")
    return [entry for entry in data if isinstance(entry, dict)]
