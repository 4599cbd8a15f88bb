"""What Khoros says in its events beside labels: messages that a company publishes, rules, social accounts.

Field by field as published, with the oddities of the published examples: a time that is 0, a picture's address without
its scheme, labels that are objects in one place and texts in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SITES = {
    "FACEBOOK": "https://facebook.example/AcmeCoffee/posts/{id}",
    "TWITTER": "https://x.example/AcmeCoffee/status/{id}",
    "INSTAGRAM": "https://instagram.example/p/{id}",
    "LINKEDIN": "https://linkedin.example/feed/update/{id}",
    "TIKTOK": "https://tiktok.example/@acmecoffee/video/{id}",
    "YOUTUBE": "https://youtube.example/watch?v={id}",
}
KINDS = ("Status", "ImageShare", "ImageShareList", "Video")
Label = str | dict[str, Any]


def content_of(kind: str, text: str) -> dict[str, Any]:
    """A message's content. A kind that Khoros does not publish has its words in `text`."""
    picture = {
        "temporaryImageUrl": "//images.khoros.example/tmp/4f2.jpg?Expires=1",
        "temporaryThumbnailUrl": "//images.khoros.example/tmp/4f2-small.jpg?Expires=1",
    }
    contents: dict[str, dict[str, Any]] = {
        "Status": {"text": text, "shareLink": None},
        "ImageShare": {"caption": text, **picture},
        "ImageShareList": {"caption": text, "images": [picture, picture]},
        "Video": {"videoTitle": "From bean to cup", "description": text, "tags": ["coffee"]},
    }
    return {"sfEntityType": kind, **contents.get(kind, {"text": text})}


def result_of(service: str, number: int, status: str, at: float) -> dict[str, Any]:
    """What became of a message on one account. Only a published one has a permalink and a date."""
    live = status == "PUBLISHED"
    link = SITES.get(service, "https://network.example/{id}").format(id=number)
    return {
        "accountId": "9001",
        "datePublished": int(at * 1000) if live else None,
        "serviceId": str(number) if live else None,
        "serviceLink": link if live else None,
        "status": status,
    }


def new_message(
    number: int,
    at: float,
    *,
    service: str,
    text: str,
    title: str,
    labels: Sequence[Label],
    kind: str,
) -> dict[str, Any]:
    """A message as Khoros shows it before it is sent anywhere; `at` is when it is scheduled for."""
    return {
        "sfEntityType": "Message",
        "id": number,
        "content": content_of(kind, text),
        "title": title,
        "labels": list(labels),
        "service": service,
        "targetAccountIds": ["9001"],
        "organicVisibility": "VISIBLE",
        "delegationStatus": None,
        "publicationResults": [],
        "scheduledPublishDate": int(at * 1000),
        "notes": [],
        "links": [],
    }


def rule_data(company_id: int, rule_id: str, rule_name: str, item: dict[str, Any]) -> dict[str, Any]:
    """The data of a rule-applied event."""
    rule = {"ruleId": rule_id, "ruleName": rule_name}
    return {"companyId": company_id, "timeStamp": 0, "ruleMatched": rule, "items": [item]}


def account_data(account_id: str, service: str) -> dict[str, Any]:
    """The data of an event about a social account. No example is published."""
    return {"sfEntityType": "Credential", "id": account_id, "service": service, "displayName": "Acme Coffee"}


def label_sets_of(labels: Sequence[str]) -> list[dict[str, Any]]:
    """The company's label sets, with these labels."""
    listed = [{"id": 500 + n, "name": name, "status": "ACTIVE"} for n, name in enumerate(labels)]
    return [{"id": 41, "name": "General Labels", "status": "ACTIVE", "labels": listed}]
