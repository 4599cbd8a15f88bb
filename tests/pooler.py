"""A real PgBouncer in transaction mode, in front of the tests' PostgreSQL.

Nothing is downloaded: without PgBouncer on this machine the tests that need it are deselected. .ci/run installs it and
sets POOLER_TESTS=required: there they fail instead.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sandbox.relay import free_port

SETTINGS = """[databases]
* = host={socket_folder} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
"""


def deselect_pooler_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes the tests out of `items` that need a PgBouncer which this machine does not have."""
    if os.environ.get("POOLER_TESTS") == "required" or find_pooler():
        return
    without = [item for item in items if "pooled" in getattr(item, "fixturenames", ())]
    if without:
        items[:] = [item for item in items if item not in without]
        config.hook.pytest_deselected(items=without)


def find_pooler() -> str | None:
    """The path of this machine's PgBouncer."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def running(server: Any, folder: Path, pool_size: int) -> Iterator[int]:
    """PgBouncer in front of a PostgreSQL server, with `pool_size` connections for each database; gives its port."""
    path, port = find_pooler(), free_port()
    assert path, "PgBouncer is not on the PATH: apt-get install pgbouncer"
    socket_folder = psycopg.conninfo.conninfo_to_dict(server.get_uri())["host"]
    settings = folder / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(socket_folder=socket_folder, port=port, pool_size=pool_size))
    command = [path, "--quiet", str(settings)]
    if os.geteuid() == 0:  # it refuses to run as root
        command[1:1] = ["--user", pwd.getpwuid(Path(str(socket_folder)).stat().st_uid).pw_name]
    with (folder / "pgbouncer.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as pooler:  # noqa: S603 - found on the PATH
        try:
            _wait_until_it_answers(port, folder)
            yield port
        finally:
            pooler.terminate()


def _wait_until_it_answers(port: int, folder: Path) -> None:
    end_at = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"postgresql://relay@127.0.0.1:{port}/postgres").close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < end_at, (folder / "pgbouncer.log").read_text()
            time.sleep(0.05)


@pytest.fixture(scope="session")
def pooled(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Gives the address of a database by way of a pooler that has three connections for each."""
    folder = tmp_path_factory.mktemp("pooler")
    with running(postgresql, folder, pool_size=3) as port:

        def by_way_of_it(url: str) -> str:
            name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
            return f"postgresql://relay:made-up-password@127.0.0.1:{port}/{name}"

        yield by_way_of_it
