"""What people have in DATABASE_URL, as the database's drivers understand it."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import quote, unquote_to_bytes

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# What DATABASE_URL may say to other libraries: about their pools and prepared statements, and that text is UTF-8.
OF_OTHER_LIBRARIES = frozenset(
    "pgbouncer pool pool_timeout pool_size pool_mode pool_max_conns max_overflow statement_cache_size charset encoding "
    "prepared_statements prepareThreshold prepared_statement_cache_size socket_timeout binary_parameters serverVersion "
    "sslaccept uselibpqcompat workaround supa default_query_exec_mode statement_cache_mode client_encoding".split()
)


def read_database_url(value: str) -> str:
    """sqlite:///FILE or postgresql://…, where `schema` and `connection_limit` are for inbox/postgresql.py. Raises
    ValueError with words that follow the variable's name, and no password."""
    value = re.sub(r"^psql\s+", "", value).strip("'\"").removeprefix("jdbc:")  # as providers' pages show it
    kind, _, rest = value.partition("://")
    if kind == "sqlite":
        if not re.fullmatch(r"/[^?]+", rest) or ":memory:" in rest:
            raise ValueError("must name a file on the disk, in which ? is not allowed")
        return value
    if not re.fullmatch(r"(postgres|postgresql|pgsql)(\+\w+)?", kind):
        raise ValueError("must begin with sqlite:/// or postgres://")
    if "[YOUR-PASSWORD]" in rest:
        raise ValueError("still has [YOUR-PASSWORD] in it: put the password there")
    try:
        address, _, query = re.sub(r"^([^:/?]*):([^?]*|[^/]*)@", _quoted, rest).partition("?")
    except UnicodeError:  # it would repeat the password
        raise ValueError("is not a database address") from None
    settings = [setting for pair in query.split("&") if (setting := _postgresql_setting(pair))]
    ours = [setting for setting in settings if setting.startswith(("schema=", "connection_limit="))]
    _check_postgresql(f"postgresql://{address}?{'&'.join(one for one in settings if one not in ours)}")
    return f"postgresql://{address}" + (f"?{'&'.join(settings)}" if settings else "")


def _check_postgresql(address: str) -> None:
    from psycopg import ProgrammingError, pq  # time and memory that a relay on SQLite does not need
    from psycopg.conninfo import conninfo_to_dict

    query = address.partition("?")[2]
    with suppress(ProgrammingError, UnicodeError):  # they would repeat the password
        if re.fullmatch(r"[0-9,]*", str(conninfo_to_dict(address).get("port", ""))):
            return
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    unknown = {name for name in (pair.partition("=")[0] for pair in query.split("&") if pair) if name not in known}
    fault = "is not a database address"
    if unknown and "@" in query:
        fault += ": write a ? in its password as %3F"
    elif unknown and re.fullmatch(r"[\w&]{1,40}", "&".join(sorted(unknown))):
        fault += f": PostgreSQL knows no setting {' or '.join(sorted(unknown))}, take that out"
    raise ValueError(fault)


def _postgresql_setting(pair: str) -> str:
    """A setting behind the ? of a PostgreSQL address, as libpq spells it. schema and connection_limit are for
    inbox/postgresql.py; "" for one that only other libraries need."""
    name, _, value = pair.partition("=")
    if name in ("schema", "currentSchema", "search_path"):
        return f"schema={value.partition(',')[0]}"
    if name == "connection_limit" and not re.fullmatch("[1-9][0-9]{0,3}", value):
        raise ValueError("must have a whole number from 1 on as its connection_limit")
    if name in ("ssl", "sslmode"):
        value = {"true": "require", "1": "require", "no-verify": "require", "false": "disable", "0": "disable"}.get(
            value, value
        )
        if value not in SSL_MODES:
            raise ValueError(f"must have one of these as its sslmode: {', '.join(SSL_MODES)}")
        return f"sslmode={value}"
    return "" if name in OF_OTHER_LIBRARIES else pair


def _quoted(login: re.Match[str]) -> str:
    """User and password, whose signs may stand as they are or, as PostgreSQL wants them, as %XX."""
    return f"{quote(unquote_to_bytes(login[1]), safe='')}:{quote(unquote_to_bytes(login[2]), safe='')}@"
