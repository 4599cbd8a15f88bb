"""The backup of docs/operations.md, made while the relay writes."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from claims import claimed
from conftest import new_item, rows

from inbox import open_database
from inbox.inbox import Inbox
from sandbox.relay import ROOT


def test_the_documented_backup_holds_everything_and_can_be_put_back(tmp_path: Path) -> None:
    [command] = re.findall(r"^python3 (-c .*)$", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)
    with closing(open_database(f"sqlite:///{tmp_path / 'relay.db'}")) as database:
        inbox = Inbox(database)
        inbox.accept([new_item("e1", "twitter:1"), new_item("e2", "twitter:2")])
        subprocess.run(f"{sys.executable} {command}", shell=True, cwd=tmp_path, check=True)  # noqa: S602 - our own words
        inbox.accept([new_item("later", "twitter:3")])
        before = rows(database)
    for part in tmp_path.glob("relay.db*"):
        part.unlink()
    (tmp_path / "backup.db").rename(tmp_path / "relay.db")
    with closing(open_database(f"sqlite:///{tmp_path / 'relay.db'}")) as database:
        assert rows(database) == before[:2]
        assert claimed(Inbox(database)) == ["e1", "e2"]


def test_a_copy_of_the_file_alone_has_no_tables(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'relay.db'}")) as database:
        Inbox(database).accept([new_item("e1")])
        copy = shutil.copy(tmp_path / "relay.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
