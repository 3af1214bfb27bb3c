"""Replicas that start at once, each a process of its own, share one database (I3)."""

from __future__ import annotations

import subprocess
import sys

from holdfast.control import migrate
from holdfast.control.database import Database

PROGRAM = """
import sys
from holdfast.control import migrate
from holdfast.control.database import Database

database = Database(sys.argv[1])
sys.stdin.readline()
migrate.upgrade(database)
assert migrate.is_current(database)
database.close()
"""


def test_i3_replicas_in_processes_of_their_own_may_start_at_once(empty_database_url: str) -> None:
    """Nothing but the database's own lock stands between them."""
    children = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, empty_database_url], stdin=subprocess.PIPE)
        for _ in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    database = Database(empty_database_url)
    assert migrate.is_current(database)
    database.close()
