"""The audit log (A5): what an entry holds, who reads it, and that it only grows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from control_world import World
from sqlalchemy import Executable, delete, select, text, update
from sqlalchemy.exc import DBAPIError

from holdfast.control import audit
from holdfast.control.principal import Right
from holdfast.control.tables import AuditEntry, LedgerEntry
from holdfast.errors import Forbidden


def only_entry(world: World) -> AuditEntry:
    with world.database.read() as tx:
        return tx.scalars(select(AuditEntry)).one()


def test_a5_an_entry_says_who_from_where_what_before_and_after(world: World) -> None:
    who = world.principal()
    with world.database.write() as tx:
        audit.record(
            tx,
            who,
            "host.changed",
            "host",
            "h1",
            now=world.now,
            before={"name": "a", "labels": {"x": "1"}, "max_jobs": 2},
            after={"name": "b", "labels": {"x": "1"}, "max_jobs": 2},
        )
    entry = only_entry(world)
    assert (entry.actor_kind, entry.actor_id) == ("user", who.id)
    assert (entry.address, entry.request_id) == ("192.0.2.1", "request")
    assert (entry.action, entry.subject_kind, entry.subject_id) == ("host.changed", "host", "h1")
    assert entry.at == world.now
    assert (entry.before, entry.after) == ({"name": "a"}, {"name": "b"})


def test_a5_secrets_are_not_written_at_any_depth(world: World) -> None:
    state = {
        "password": "p",
        "Sealed_Options": "p",
        "secret_sha256": "p",
        "nested": [{"credentials": "p", "kept": {3, 1}}],
        "at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    with world.database.write() as tx:
        audit.record(tx, world.principal(), "x", "x", "x", now=world.now, after=state)
    assert only_entry(world).after == {
        "nested": [{"kept": [1, 3]}],
        "at": "2026-01-01T00:00:00+00:00",
    }


def test_a5_a_change_that_fails_leaves_no_entry(world: World) -> None:
    def act() -> None:
        with world.database.write() as tx:
            audit.record(tx, world.principal(), "x", "x", "x", now=world.now)
            raise Forbidden("no")

    with pytest.raises(Forbidden):
        act()
    with world.database.read() as tx:
        assert tx.scalars(select(AuditEntry)).all() == []


def test_a4_each_account_reads_its_own_log(world: World) -> None:
    other = world.add_account("Other")
    with world.database.write() as tx:
        for account in (world.account, other):
            for number in range(3):
                audit.record(
                    tx, world.principal(account), f"a{number}", "x", account.id, now=world.now
                )
    with world.database.read() as tx:
        mine = audit.entries(tx, world.principal(), cursor=None, limit=2)
        rest = audit.entries(tx, world.principal(), cursor=mine.next_cursor, limit=2)
        assert [each.action for each in mine.items + rest.items] == ["a2", "a1", "a0"]
        assert {each.account_id for each in mine.items} == {world.account.id}
        one = audit.entries(tx, world.principal(), cursor=None, limit=9, action="a1")
        assert [each.action for each in one.items] == ["a1"]
        none = audit.entries(tx, world.principal(), cursor=None, limit=9, subject_id=other.id)
        assert none.items == []


def test_a2_the_log_needs_the_right_to_administer_the_whole_account(world: World) -> None:
    reader = world.principal(rights={Right.READ, Right.RESTORE})
    narrowed = world.principal(kinds=frozenset({"path"}))
    for who in (reader, narrowed):
        with world.database.read() as tx, pytest.raises(Forbidden):
            audit.entries(tx, who, cursor=None, limit=9)


@pytest.mark.parametrize("table", [AuditEntry, LedgerEntry])
def test_a5_m2_the_database_refuses_to_change_or_remove_rows(
    world: World, table: type[AuditEntry] | type[LedgerEntry]
) -> None:
    with world.database.write() as tx:
        audit.record(tx, world.principal(), "x", "x", "x", now=world.now)
        tx.add(
            LedgerEntry(
                account_id=world.account.id,
                at=world.now,
                hour=world.now,
                kind="credit",
                currency="EUR",
                amount_micro=1,
                amount_rest_femto=0,
            )
        )
    statements: list[Executable] = [update(table).values(account_id="z"), delete(table)]
    if not world.database.is_sqlite:
        statements.append(text(f"TRUNCATE {table.__tablename__}"))
    for statement in statements:
        with (
            pytest.raises(DBAPIError, match="never changed or removed"),
            world.database.write() as tx,
        ):
            tx.execute(statement)
    with world.database.read() as tx:
        assert tx.scalars(select(table.account_id)).all() == [world.account.id]
