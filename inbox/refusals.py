"""What PostgreSQL's refusals mean, and what a person can do about each.

An error of a statement has an SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html). A refused
connection has none in psycopg, only the words of libpq, the server or the pooler in front of it.
"""

from __future__ import annotations

import re

import psycopg

MAY_NOT_MAKE = "the role may not make tables: GRANT USAGE, CREATE ON SCHEMA {schema} to it, or use the owner's role"
NOT_THE_OWNER = "another role owns the tables, and only that one can change them: use it in DATABASE_URL for one start"
MAY_NOT_USE = (
    "the role may not use the tables: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES and USAGE ON ALL SEQUENCES "
    "IN SCHEMA {schema} to it. If this worked before, the plan may be full (Heroku takes INSERT away): free space"
)
READ_ONLY = "the database is read-only: it is a replica, or its plan is full. Use the primary, or free space there"
TOO_MANY = (
    "no connection is free, and each process of the relay takes up to 4: lower WEB_CONCURRENCY, add "
    "?connection_limit=2 to DATABASE_URL, or use a pooler or a larger plan"
)
RESTARTS = "the server restarts or recovers: the relay goes on by itself afterwards. If it lasts, look at its own log"
DISK_FULL = "the server's disk is full: free some space where the database lies, or take a larger plan"
NO_MEMORY = "the server is out of memory: give it more, or let it take fewer connections"
TOO_SLOW = "the server stopped a slow statement: look what keeps it busy, or raise statement_timeout for the role"
WRONG_PASSWORD = "the server refuses the user or the password: copy DATABASE_URL again"  # noqa: S105 - says so
NO_ROLE = "the server does not know the user: copy DATABASE_URL again (a pooler may want another user name)"
NO_DATABASE = "the server has no such database: correct the name at the end of DATABASE_URL, or create it"
NO_SCHEMA = "the role sees no such schema: CREATE SCHEMA {schema}, or GRANT USAGE, CREATE on it, or correct ?schema="
NOT_LET_IN = "the server lets in neither this address nor this user: add them to its allowed addresses or pg_hba.conf"
WANTS_TLS = (
    "the server wants TLS: write ?sslmode=require at the end of DATABASE_URL. Or it does not let this address in: add "
    "the address to its allowed addresses or to pg_hba.conf"
)
NO_TLS = "the server has no TLS: take sslmode out of DATABASE_URL, or switch TLS on there"
BAD_CERTIFICATE = "the server's certificate cannot be checked: add ?sslrootcert=FILE, or ask for less: ?sslmode=require"
POOLER_REFUSES = "the pooler takes no such setting: take it out of DATABASE_URL; ?schema=NAME replaces search_path"
NO_HOST = "no host has this name: correct DATABASE_URL"
NOTHING_LISTENS = "nothing answers at this address: start the database, or correct host and port in DATABASE_URL"
NO_ANSWER = "the server does not answer in time: look whether it is up, and whether a firewall lets the relay through"
BROKE_OFF = "the connection broke off: the relay opens another one. If it lasts, look whether the server is up"
DAMAGED = "the database is damaged: restore a backup"

# By the whole code, or else by the two characters that begin it.
BY_CODE = {
    "25006": READ_ONLY,
    "28P01": WRONG_PASSWORD,
    "28": NOT_LET_IN,
    "3D000": NO_DATABASE,
    "3F000": NO_SCHEMA,
    "42501": MAY_NOT_USE,
    "53100": DISK_FULL,
    "53200": NO_MEMORY,
    "53300": TOO_MANY,
    "57014": TOO_SLOW,
    "57": RESTARTS,
    "58": "the server cannot use its disk: look at the disk where the database lies, its space and its quota",
    "XX001": DAMAGED,
    "XX002": DAMAGED,
    "08": BROKE_OFF,
}
# The first one that fits counts.
BY_WORDS = {
    "permission denied for schema|permission denied for database": MAY_NOT_MAKE,
    "must be owner": NOT_THE_OWNER,
    "password authentication failed|no password supplied|SASL|wrong password": WRONG_PASSWORD,
    "role .* does not exist|no such user|user not found": NO_ROLE,
    "database .* does not exist|no such database": NO_DATABASE,
    "no encryption|SSL off|insecure|(SSL|TLS|encryption)\\S* (connection )?(is )?required": WANTS_TLS,
    "pg_hba|not allowed|not permitted to log in|allow list": NOT_LET_IN,
    "does not support SSL": NO_TLS,
    "certificate": BAD_CERTIFICATE,
    "too many (clients|connections)|connection slots|max_client_conn|max clients": TOO_MANY,
    "starting up|shutting down|recovery|accepting connections|terminating connection": RESTARTS,
    "startup parameter": POOLER_REFUSES,
    "resolve host|translate host": NO_HOST,
    "refused|No such file": NOTHING_LISTENS,
    "time-?out|timed out|No route|unreachable": NO_ANSWER,
    "connection .*(closed|lost)|closed the connection|server_login|cannot connect|server conn": BROKE_OFF,
    "No space left": DISK_FULL,
}


def remedy_for(error: psycopg.Error, schema: str) -> str:
    """What is wrong and what to do about it; "" when nobody knows."""
    code, said = error.sqlstate or "", str(error)
    by_words = next((remedy for words, remedy in BY_WORDS.items() if re.search(words, said)), "")
    by_code = BY_CODE.get(code) or BY_CODE.get(code[:2], "")
    use_words = not by_code or code == "42501"  # one code for three refusals
    return ((use_words and by_words) or by_code).format(schema=schema or "public")
