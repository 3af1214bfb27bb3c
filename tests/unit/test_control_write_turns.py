"""Writers of one process take turns on SQLite, and none is left out when another fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from holdfast.control import database as module
from holdfast.control.database import Database
from holdfast.errors import DatabaseUnavailable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'control.db'}")
    with opened.write() as tx:
        tx.execute(text("CREATE TABLE numbers (number INTEGER)"))
    yield opened
    opened.close()


def numbers(database: Database) -> list[int]:
    with database.read() as tx:
        return sorted(tx.scalars(text("SELECT number FROM numbers")).all())


def test_every_writer_gets_its_turn(database: Database) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            with database.write() as tx:
                tx.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60)
    assert numbers(database) == sorted(list(range(8)) * 20)


def test_a_writer_that_fails_gives_its_turn_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as tx:
        tx.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": 1 // tx.scalar(text("SELECT 0"))})
    with database.write() as tx:
        tx.execute(text("INSERT INTO numbers VALUES (2)"))
    assert numbers(database) == [2]


def test_whose_turn_does_not_come_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SQLITE_BUSY_SECONDS", 0.02)
    told: list[DatabaseUnavailable] = []

    def write() -> None:
        try:
            with database.write() as tx:
                tx.execute(text("INSERT INTO numbers VALUES (3)"))
        except DatabaseUnavailable as error:
            told.append(error)

    with database.write() as tx:
        tx.execute(text("INSERT INTO numbers VALUES (4)"))
        other = threading.Thread(target=write)
        other.start()
        other.join(timeout=60)
    assert len(told) == 1
    assert "writing" in told[0].message
    assert numbers(database) == [4]
    write()
    assert numbers(database) == [3, 4]


def test_who_reads_waits_for_nobody(database: Database) -> None:
    with database.write() as tx:
        tx.execute(text("INSERT INTO numbers VALUES (5)"))
        assert numbers(database) == []
