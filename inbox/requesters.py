"""Which of a destination's users an author is, and whose turn it is to ask for one more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from inbox.database import Database
from inbox.facts import Facts

PACE_S, STEP_S = 1.1, 0.25  # the account takes one such call a second
_REMEMBER = """INSERT INTO requesters (author, user_id, at) VALUES (:author, :user_id, :clock)
    ON CONFLICT (author) DO UPDATE SET user_id = excluded.user_id, at = excluded.at"""


class Requesters:
    """The users by author ("twitter:1234"), for all processes. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database, sleep: Callable[[float], object] = time.sleep) -> None:
        self._database, self._facts, self._sleep = database, Facts(database), sleep

    def recall(self, author: str) -> str | None:
        """The id of the author's user, None when it is not known. What is no id counts as not known."""
        with self._database.reading() as db:
            found = db.rows("SELECT user_id FROM requesters WHERE author = :author", {"author": author})
        return str(found[0][0]) if found and re.fullmatch("[1-9][0-9]{0,18}", str(found[0][0])) else None

    def remember(self, author: str, user_id: str) -> None:
        """Keeps the id of the author's user."""
        with self._database.transaction() as db:
            db.change(_REMEMBER, {"author": author, "user_id": user_id})

    def forget(self, author: str) -> None:
        """Forgets the author's user: it was deleted or suspended."""
        with self._database.transaction() as db:
            db.change("DELETE FROM requesters WHERE author = :author", {"author": author})

    def wait_for_turn(self, author: str, patience_s: float) -> bool:
        """Whether this process may ask for the author's user now. It waits about `patience_s` seconds for its turn at
        most, and no longer than until somebody else has asked."""
        for step in range(1 + max(0, round(patience_s / STEP_S))):
            if step:
                self._sleep(STEP_S)
            if self.recall(author):
                return False
            if self._facts.take_turn("requesters", PACE_S):
                return True
        return False
