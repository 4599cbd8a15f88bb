"""PostgreSQL refuses: the reason says what is wrong and what to do, and who may only read can still read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import new_item
from sessions import execute

from inbox import open_database
from inbox.database import DatabaseUnavailable
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Records
from inbox.refusals import remedy_for

PASSWORD = "made-up-password"


@pytest.fixture
def owner(emptied: Callable[[], str]) -> str:
    """The address of an empty database as its owner uses it."""
    return emptied()


@pytest.fixture
def guest(owner: str) -> Iterator[str]:
    """Its address for another role, which has no rights yet."""
    execute(owner, f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'", "GRANT USAGE ON SCHEMA public TO guest")
    yield owner.replace("postgres:@", f"guest:{PASSWORD}@")
    execute(owner, "DROP OWNED BY guest", "DROP ROLE guest")


def refusal(url: str, use: Callable[[Inbox], object] = Inbox.check_writable) -> str:
    """What is said when the database refuses."""
    with closing(open_database(url)) as database, pytest.raises(DatabaseUnavailable) as raised:
        use(Inbox(database))
    said = str(raised.value)
    assert PASSWORD not in said and "\n" not in said and len(said) <= 500
    return said


def fill(url: str) -> None:
    with closing(open_database(url)) as database:
        Inbox(database).accept([new_item("e1")])
        Facts(database).remember("kept", "yes")


def test_a_role_that_may_not_make_tables_is_named(guest: str) -> None:
    said = refusal(guest)
    assert "permission denied for schema public" in said and "GRANT USAGE, CREATE ON SCHEMA public to it" in said


def test_the_schema_of_the_address_is_named(owner: str, guest: str) -> None:
    execute(owner, "CREATE SCHEMA ours", "GRANT USAGE ON SCHEMA ours TO guest")
    assert "the role may not make tables: GRANT USAGE, CREATE ON SCHEMA ours to it" in refusal(f"{guest}&schema=ours")
    assert "the role sees no such schema: CREATE SCHEMA nowhere" in refusal(f"{owner}&schema=nowhere")


def test_a_role_that_may_not_use_the_tables_is_named(owner: str, guest: str) -> None:
    fill(owner)
    said = refusal(guest)
    assert "permission denied for table" in said and "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES" in said


GRANTS = {
    "it may only select": ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest", "the plan may be full"),
    "the plan is full, as on Heroku": (
        "GRANT SELECT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest",
        "the plan may be full",
    ),
    "the plan is full, as elsewhere": (
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest; ALTER ROLE guest SET default_transaction_read_only = on",
        "it is a replica, or its plan is full",
    ),
}


@pytest.mark.parametrize(("grant", "remedy"), GRANTS.values(), ids=GRANTS.keys())
def test_who_may_only_read_can_read_all_the_same(grant: str, remedy: str, owner: str, guest: str) -> None:
    fill(owner)
    execute(owner, *grant.split("; "))
    assert remedy in refusal(guest)
    assert remedy in refusal(guest, lambda inbox: inbox.accept([new_item("e2")]))
    with closing(open_database(guest)) as database:
        inbox, records = Inbox(database), Records(database)
        assert (inbox.counts().pending, Facts(database).recall("kept")) == (1, "yes")
        [record] = records.latest()
        assert records.find("e1") == [record] and records.by_state()["pending"] == 1
        with pytest.raises(DatabaseUnavailable):
            inbox.check_writable()
        assert records.latest() == [record]  # also after a refused write


def test_a_statement_that_takes_too_long_is_named(owner: str) -> None:
    def wait(inbox: Inbox) -> None:
        with database.reading() as session:
            session.rows("SELECT pg_sleep(60)")

    database = open_database(f"{owner}&options=-c%20statement_timeout%3D50ms")
    with closing(database), pytest.raises(DatabaseUnavailable, match="or raise statement_timeout"):
        wait(Inbox(database))


def test_connections_that_are_used_up_are_named(owner: str, guest: str) -> None:
    execute(owner, "ALTER ROLE guest CONNECTION LIMIT 0")
    assert "each process of the relay takes up to 4: lower WEB_CONCURRENCY" in refusal(guest)


def test_a_database_and_a_role_that_are_not_there_are_named(owner: str) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(owner)["dbname"])
    assert "the server has no such database" in refusal(owner.replace(f"/{name}?", "/nowhere?"))
    assert "the server does not know the user" in refusal(owner.replace("postgres:@", "nobody:@"))


@pytest.fixture
def entry(owner: str) -> Iterator[Callable[[str], None]]:
    """Puts a line before all others in the server's pg_hba.conf, until the test ends."""
    with psycopg.connect(owner, autocommit=True) as admin:
        file = Path(str((admin.execute("SHOW hba_file").fetchone() or [""])[0]))
        before = file.read_text()

        def put(line: str) -> None:
            file.write_text(f"{line}\n{before}")
            admin.execute("SELECT pg_reload_conf()")

        yield put
        file.write_text(before)
        admin.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ("scram-sha-256", "refuses the user or the password: copy DATABASE_URL again"),
        ("reject", "add the address to its allowed addresses or to pg_hba.conf"),
    ],
)
def test_who_is_not_let_in_learns_why(
    method: str, remedy: str, guest: str, entry: Callable[[str], None], said_in_time: Callable[[str], str]
) -> None:
    entry(f"local all guest {method}")
    assert remedy in said_in_time(guest.replace(PASSWORD, "another-password"))


@pytest.fixture
def said_in_time() -> Callable[[str], str]:
    """The refusal, as soon as the server has read its settings again."""

    def wait(url: str) -> str:
        for _ in range(200):
            try:
                psycopg.connect(url).close()
            except psycopg.OperationalError:
                break
        return refusal(url)

    return wait


# What this server cannot be made to say

CODES = {
    "25006": "it is a replica, or its plan is full",
    "28P01": "copy DATABASE_URL again",
    "28000": "add them to its allowed addresses or pg_hba.conf",
    "3D000": "no such database",
    "42501": "may not use the tables",
    "53100": "the server's disk is full: free some space",
    "53200": "out of memory: give it more",
    "53300": "no connection is free",
    "57014": "raise statement_timeout",
    "57P01": "the server restarts or recovers",
    "57P02": "the server restarts or recovers",
    "57P03": "the server restarts or recovers",
    "58030": "look at the disk where the database lies",
    "XX001": "restore a backup",
    "08006": "the relay opens another one",
}


@pytest.mark.parametrize(("code", "remedy"), CODES.items(), ids=CODES.keys())
def test_an_error_is_known_by_its_code_in_every_language(code: str, remedy: str) -> None:
    assert remedy in remedy_for(psycopg.errors.lookup(code)("das geht nicht"), "")


FAILED = 'connection failed: connection to server at "db.acme.example" (192.0.2.1), port 5432 failed: '
WORDS = {
    "FATAL:  the database system is starting up": "the server restarts or recovers",
    "FATAL:  the database system is not yet accepting connections": "the server restarts or recovers",
    "FATAL:  sorry, too many clients already": "no connection is free",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": "no connection is free",
    "FATAL:  MaxClientsInSessionMode: max clients reached": "no connection is free",
    "FATAL:  no more connections allowed (max_client_conn)": "no connection is free",
    'FATAL:  no pg_hba.conf entry for host "192.0.2.2", user "u", database "d", no encryption': "?sslmode=require",
    'FATAL:  no pg_hba.conf entry for host "192.0.2.2", user "u", database "d", SSL encryption': "allowed addresses",
    "FATAL:  SSL required": "?sslmode=require",
    "ERROR:  connection is insecure (try using `sslmode=require`)": "?sslmode=require",
    "server does not support SSL, but SSL was required": "the server has no TLS",
    "SSL error: certificate verify failed": "?sslrootcert=FILE",
    'root certificate file "/root/.postgresql/root.crt" does not exist': "?sslrootcert=FILE",
    "fe_sendauth: no password supplied": "copy DATABASE_URL again",
    "FATAL:  Tenant or user not found": "a pooler may want another user name",
    "FATAL:  unsupported startup parameter: options": "?schema=NAME replaces search_path",
    "Connection refused": "start the database, or correct host and port",
    "timeout expired": "whether a firewall lets the relay through",
    "server closed the connection unexpectedly": "the relay opens another one",
    "FATAL:  server login has been failing, try again later (server_login_retry)": "the relay opens another one",
}


@pytest.mark.parametrize(("words", "remedy"), WORDS.items(), ids=WORDS.keys())
def test_a_refused_connection_is_known_by_its_words(words: str, remedy: str) -> None:
    assert remedy in remedy_for(psycopg.OperationalError(FAILED + words), "")


OTHERS = {
    "failed to resolve host 'db.acme.example': [Errno -2] Name or service not known": "no host has this name",
    "connection timeout expired": "whether a firewall lets the relay through",
    "the connection is lost": "the relay opens another one",
    "the connection is closed": "the relay opens another one",
    "consuming input failed: SSL connection has been closed unexpectedly": "the relay opens another one",
    "must be owner of table items": "another role owns the tables",
}


@pytest.mark.parametrize(("words", "remedy"), OTHERS.items(), ids=OTHERS.keys())
def test_other_words_of_the_driver_are_known(words: str, remedy: str) -> None:
    assert remedy in remedy_for(psycopg.OperationalError(words), "")


def test_an_owners_error_is_told_from_a_missing_right() -> None:
    assert "another role owns" in remedy_for(psycopg.errors.InsufficientPrivilege("must be owner of table items"), "")


def test_nobody_is_told_something_wrong_about_an_unknown_error() -> None:
    assert remedy_for(psycopg.errors.UniqueViolation("duplicate key value"), "") == ""


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_addresses_of_a_host_the_one_that_answered_counts(order: int) -> None:
    attempts = [
        "- host: 'db', port: '5432', hostaddr: '2001:db8::1': connection failed: Network is unreachable",
        "- host: 'db', port: '5432', hostaddr: '192.0.2.1': connection failed: FATAL:  password authentication failed",
    ][::order]
    error: Any = psycopg.OperationalError(
        "\n".join(["Multiple connection attempts failed. All failures were:", *attempts])
    )
    with closing(open_database("postgresql://db/relay")) as database:
        said = database.reason_of(error)
    assert "192.0.2.1" in said and "copy DATABASE_URL again" in said
