"""One of the processes of test_pooler.py: it accepts, claims and settles through a pooler, and prints what went wrong.

python tests/inbox/pooled_work.py ADDRESS NAME NUMBER
"""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from typing import Any

from inbox import open_database
from inbox.database import DatabaseUnavailable
from inbox.inbox import Inbox
from inbox.items import Draft, Item, NewItem, Outcome

LEASE_S = 60.0


def payload_of(event: str) -> dict[str, Any]:
    return {"labels": ["CreateCase"], "item": {"entityId": f"twitter:{event}", "text": f"text of {event}"}}


def compose(item: Item) -> Draft:
    return Draft("made up", f"body of {item.event_uuid}".encode(), f"key of {item.event_uuid}", item.latest_reference)


def accept(inbox: Inbox, name: str, number: int) -> None:
    for n in range(number):
        event = f"{name}-{n}"
        kept = inbox.accept([NewItem("zendesk", event, f"twitter:{event}", payload_of(event))])
        if kept != [True]:
            print("not new:", event)


def deliver(inbox: Inbox, all_in: threading.Event) -> None:
    while True:
        last_look = all_in.is_set()
        items = inbox.claim("zendesk", 3, LEASE_S, compose).items
        for item in items:
            if item.payload != payload_of(item.event_uuid) or item.draft != compose(item):
                print("mixed up:", item)
        if items:
            inbox.renew([item.id for item in items], LEASE_S)
            outcomes = [(item, Outcome("ticket_created", 0.1, f"of {item.event_uuid}", status=201)) for item in items]
            if not all(settled.ours for settled in inbox.settle(outcomes)):
                print("not ours:", items)
        elif last_look:
            return


def guarded(work: Any, *arguments: Any) -> threading.Thread:
    def run() -> None:
        try:
            work(*arguments)
        except DatabaseUnavailable as error:
            print(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def main(address: str, name: str, number: str) -> None:
    all_in = threading.Event()
    with closing(open_database(address)) as database:
        inbox = Inbox(database)
        accepting = [guarded(accept, inbox, f"{name}-{n}", int(number)) for n in range(2)]
        delivering = [guarded(deliver, inbox, all_in) for _ in range(2)]
        for thread in accepting:
            thread.join()
        all_in.set()
        for thread in delivering:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
