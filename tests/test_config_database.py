"""What people have in DATABASE_URL: understood, or named with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import alone

from app import Settings
from config import ConfigError


def database_url(value: str) -> str:
    return Settings.from_env(alone(Path(), DATABASE_URL=value)).config.database_url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("postgres://u:p@h/d?pgbouncer=true", "postgresql://u:p@h/d", id="Prisma's pgbouncer"),
        pytest.param(
            "postgres://u:p@h:6543/d?pgbouncer=true&connection_limit=1&pool_timeout=20&sslmode=require",
            "postgresql://u:p@h:6543/d?connection_limit=1&sslmode=require",
            id="Prisma's pool",
        ),
        pytest.param("postgres://h/d?schema=ours", "postgresql://h/d?schema=ours", id="Prisma's schema"),
        pytest.param("postgres://h/d?currentSchema=ours", "postgresql://h/d?schema=ours", id="Java's schema"),
        pytest.param("postgres://h/d?search_path=ours,public", "postgresql://h/d?schema=ours", id="Go's schema"),
        pytest.param("jdbc:postgresql://h/d?user=u", "postgresql://h/d?user=u", id="Java's prefix"),
        pytest.param("postgresql+asyncpg://h/d?ssl=require", "postgresql://h/d?sslmode=require", id="asyncpg's TLS"),
        pytest.param("postgres://h/d?ssl=true", "postgresql://h/d?sslmode=require", id="node's TLS"),
        pytest.param("postgres://h/d?sslmode=no-verify", "postgresql://h/d?sslmode=require", id="node's sslmode"),
        pytest.param("postgres://h/d?sslmode=verify-full", "postgresql://h/d?sslmode=verify-full", id="strict TLS"),
        pytest.param("pgsql://h/d?charset=utf8&serverVersion=16", "postgresql://h/d", id="PHP's"),
        pytest.param("postgres://h/d?pool=5&prepared_statements=false", "postgresql://h/d", id="Rails'"),
        pytest.param(
            "psql 'postgresql://u:p@h/d?sslmode=require&channel_binding=require'",
            "postgresql://u:p@h/d?sslmode=require&channel_binding=require",
            id="the command that Neon's page shows",
        ),
        pytest.param('"postgres://u:p#w@h/d"', "postgresql://u:p%23w@h/d", id="quotes that Docker's --env-file keeps"),
        pytest.param("postgres://u:p?ssl=w@h/d", "postgresql://u:p%3Fssl%3Dw@h/d", id="a ? in the password"),
        pytest.param("postgres://u@server:p@h/d", "postgresql://u%40server:p@h/d", id="Azure's user name"),
        pytest.param("postgres://u@h:5433/d?user=a@b", None, id="no password"),
        pytest.param("postgres://a,b:5433/d?target_session_attrs=read-write", None, id="two hosts"),
        pytest.param("postgres://u:p@/d?host=/cloudsql/project:region:name", None, id="a socket"),
        pytest.param("postgres://h/d?options=-c%20search_path%3Dours", None, id="libpq's options"),
    ],
)
def test_an_address_made_for_another_library_is_understood(given: str, expected: str | None) -> None:
    assert database_url(given) == (expected or given.replace("postgres://", "postgresql://"))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        pytest.param(
            "postgres://h/d?sslmode=true-ish", "must have one of these as its sslmode: disable, ", id="sslmode"
        ),
        pytest.param(
            "postgres://h/d?connection_limit=many", "whole number from 1 on as its connection_limit", id="limit"
        ),
        pytest.param("postgres://h/d?connection_limit=0", "whole number from 1 on as its connection_limit", id="none"),
        pytest.param("postgres://h/d?sslca=x", "PostgreSQL knows no setting sslca, take that out", id="other"),
        pytest.param("postgres://u:a/b?hush=hush@h/d", "write a ? in its password as %3F", id="a ? in the password"),
        pytest.param(
            "postgres://u:[YOUR-PASSWORD]@h/d", "still has [YOUR-PASSWORD] in it", id="Supabase's placeholder"
        ),
        pytest.param("${{Postgres.DATABASE_URL}}", "must begin with sqlite:/// or postgres://", id="a reference"),
    ],
)
def test_a_setting_that_nobody_understands_is_named_and_no_password_is(given: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        database_url(given)
    assert fault in raised.value.message and "hush" not in raised.value.message
