"""The tables and how they change from release to release: numbered steps, each made once, in one transaction.

Two releases share a database during every deploy, so a step must suit the release before it as well: it adds, and a
column is removed one release after its last use.
"""

from __future__ import annotations

PENDING, DELIVERED, PARKED, DISCARDED = "pending", "delivered", "parked", "discarded"
EMPTY = "{}"  # the payload of an item whose customer's text is no longer kept

# Literals, not parameters: the planner uses a partial index only for a literal.
IS_PENDING = f"state = '{PENDING}'"
IS_PARKED = f"state = '{PARKED}'"
IS_PURGEABLE = f"state <> '{PENDING}' AND (payload <> '{EMPTY}' OR kind IS NOT NULL)"  # a purge clears both
SETTLED_AT = "COALESCE(settled_at, received_at)"  # what could not be read is parked when it arrives
# For items that are found by id or subject. Statistics from before an outage say that few items are pending; by them
# PostgreSQL would read the partial index, and with it all that waits, for each item.
IS_PENDING_UNINDEXED = f"state || '' = '{PENDING}'"

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE items (
        id {id},
        destination VARCHAR(100) NOT NULL,  -- '' for what could not be read
        event_uuid VARCHAR(255) NOT NULL,
        subject_id VARCHAR(255) NOT NULL,  -- the post
        source VARCHAR(10) NOT NULL,  -- push or poll
        request_id VARCHAR(255),
        payload TEXT NOT NULL,  -- JSON
        received_at DOUBLE PRECISION NOT NULL,
        state VARCHAR(10) NOT NULL,
        reason VARCHAR(500),
        attempts INTEGER DEFAULT 0 NOT NULL,
        next_attempt_at DOUBLE PRECISION NOT NULL,
        owner VARCHAR(100),  -- the process that has it under way
        first_sent_at DOUBLE PRECISION,
        kind VARCHAR(20),  -- this and the next three: the draft, frozen before the first send
        body TEXT,
        key VARCHAR(255),
        target VARCHAR(255),
        reference VARCHAR(255),  -- what the destination made of it
        settled_at DOUBLE PRECISION,
        CONSTRAINT items_one_row_per_subject UNIQUE (event_uuid, subject_id, destination)
        )""",
        """CREATE TABLE attempts (
        id {id},
        item_id BIGINT NOT NULL,
        number INTEGER NOT NULL,  -- a missing one: that attempt has no recorded answer
        at DOUBLE PRECISION NOT NULL,
        took_s DOUBLE PRECISION NOT NULL,
        outcome VARCHAR(20) NOT NULL,
        status INTEGER,  -- HTTP's; null: no answer came
        code VARCHAR(500),  -- the destination's error code
        request_id VARCHAR(255)  -- the destination's name for the call
        )""",
        """CREATE TABLE gates (
        destination VARCHAR(100) NOT NULL PRIMARY KEY,
        state VARCHAR(20) NOT NULL,
        reason VARCHAR(500) NOT NULL,
        version INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        hold_until DOUBLE PRECISION NOT NULL,
        probe BIGINT,  -- the item that is tried while the gate is not open
        calls_left INTEGER,
        window_ends_at DOUBLE PRECISION NOT NULL
        )""",
        "CREATE TABLE facts (name VARCHAR(50) NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE INDEX items_subject ON items (subject_id, destination, id)",
        f"CREATE INDEX items_due ON items (destination, next_attempt_at, id, received_at) WHERE {IS_PENDING}",
        f"CREATE INDEX items_parked ON items (id, received_at) WHERE {IS_PARKED}",
        f"CREATE INDEX items_discarded ON items (id) WHERE state = '{DISCARDED}'",
        "CREATE INDEX items_reference ON items (reference) WHERE reference IS NOT NULL",
        f"CREATE INDEX items_purgeable ON items ({SETTLED_AT}) WHERE {IS_PURGEABLE}",
        "CREATE INDEX attempts_item ON attempts (item_id)",
        "CREATE INDEX attempts_at ON attempts (at)",
    ),
    (
        # The release before leaves these columns as they are, and its own rows have their defaults.
        "ALTER TABLE items ADD COLUMN held_at DOUBLE PRECISION",  # since when it is leased, or waits by itself
        "ALTER TABLE items ADD COLUMN failures INTEGER DEFAULT 0",  # though its destination worked
        "ALTER TABLE items ADD COLUMN failing_since DOUBLE PRECISION",
        "ALTER TABLE gates ADD COLUMN blame VARCHAR(200)",  # how the latest items failed alike
        "ALTER TABLE gates ADD COLUMN blamed VARCHAR(200)",  # their ids
        "ALTER TABLE gates ADD COLUMN delivered_at DOUBLE PRECISION",
        "ALTER TABLE gates ADD COLUMN paced_until DOUBLE PRECISION",
        "ALTER TABLE gates ADD COLUMN held_at DOUBLE PRECISION",
        "ALTER TABLE gates ADD COLUMN counted_at DOUBLE PRECISION",
        """CREATE TABLE unrouted (
        event_name VARCHAR(100) NOT NULL,
        word VARCHAR(255) NOT NULL,  -- the label or rule that no route names
        count INTEGER NOT NULL,
        first_at DOUBLE PRECISION NOT NULL,
        last_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (event_name, word)
        )""",
    ),
    (
        """CREATE TABLE tickets (
        destination VARCHAR(100) NOT NULL,
        reference VARCHAR(255) NOT NULL,
        subject_id VARCHAR(255) NOT NULL,
        state VARCHAR(20) NOT NULL,  -- Zendesk's word (new, open, pending, hold, solved, closed), missing or deleted
        seen_at DOUBLE PRECISION NOT NULL,  -- when it had this state; 0 makes the relay ask once more
        PRIMARY KEY (destination, reference)
        )""",
        """CREATE TABLE requesters (
        author VARCHAR(255) NOT NULL PRIMARY KEY,  -- twitter:1234
        user_id VARCHAR(50) NOT NULL,
        at DOUBLE PRECISION NOT NULL
        )""",
    ),
)
UNNUMBERED = (
    "the database holds the tables of a version before the first release. Nothing of it is read; "
    "set DATABASE_URL to an empty database, or move the file away"
)
LATER = "the database was made by a later release, schema {there} where this one knows {known}; deploy that one again"
