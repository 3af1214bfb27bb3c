"""The ledger only grows, and the balance is its sum (M2)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from control_money import book, give_credit, lines, set_price, store, transfer
from control_world import World
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from holdfast.control import audit, ledger
from holdfast.control.tables import LedgerEntry
from holdfast.errors import Forbidden, NotFound, UsageError


def test_credit_is_exact_and_larger_than_64_bits_of_femto(world: World) -> None:
    give_credit(world, "100000.000000000000001")
    give_credit(world, "-0.000000000000002")
    assert ledger.balance(world.again(world.account)) == Decimal("99999.999999999999999")
    assert [each.kind for each in lines(world)] == ["credit", "correction"]


def test_only_operators_give_credit(world: World) -> None:
    for who in (world.principal(), world.principal(world.operator_account, rights=["read"])):
        with pytest.raises(Forbidden), world.database.write() as tx:
            ledger.credit(tx, who, world.account.id, Decimal(5), note="mine", now=world.now)
    assert lines(world) == []


@pytest.mark.parametrize("amount", ["0", "0.0000000000000001", "NaN", "1e12"])
def test_amounts_that_mean_nothing_are_refused(world: World, amount: str) -> None:
    with pytest.raises(UsageError):
        give_credit(world, amount)


def test_an_unknown_account_is_told(world: World) -> None:
    with pytest.raises(NotFound), world.database.write() as tx:
        ledger.credit(tx, world.operator(), "nobody", Decimal(5), note="", now=world.now)


def test_credit_is_in_the_audit_of_both(world: World) -> None:
    """A5: who, what, before, after."""
    give_credit(world, "5")
    give_credit(world, "2.50")
    with world.database.read() as tx:
        for who in (world.operator(), world.principal()):
            found = audit.entries(tx, who, cursor=None, limit=10, action="account.credited")
            told = [(each.before, each.after) for each in found.items]
            assert told == [
                ({"balance": "5"}, {"balance": "7.5", "note": "test"}),
                ({"balance": "0"}, {"balance": "5", "note": "test"}),
            ]


@pytest.mark.parametrize("change", [update(LedgerEntry).values(note="x"), delete(LedgerEntry)])
def test_the_database_refuses_to_change_a_line(world: World, change: object) -> None:
    give_credit(world, "5")
    with pytest.raises(DBAPIError, match="never changed"), world.database.write() as tx:
        tx.execute(change)  # type: ignore[call-overload]
    assert len(lines(world)) == 1


def test_entries_are_listed_latest_first_for_the_account_alone(world: World) -> None:
    set_price(world, "1")
    store(world, "a", 1_000_000)
    give_credit(world, "5")
    give_credit(world, "7", world.add_account("Other"))
    transfer(world, "snapshot", "s", 1_000_000)
    world.advance(hours=3)
    book(world)
    who = world.principal(rights=["read"])
    with world.database.read() as tx:
        first = ledger.entries(tx, who, limit=3)
        rest = ledger.entries(tx, who, limit=3, cursor=first.next_cursor)
        kinds = [each.kind for each in (*first.items, *rest.items)]
        assert kinds == ["hourly"] * 3 + ["once", "credit"]
        assert rest.next_cursor is None
        one = ledger.entries(tx, who, kind="once")
        assert [each.resource_id for each in one.items] == ["s"]
        of_a = ledger.entries(tx, who, resource_id="a", since=world.now - timedelta(hours=1))
        assert len(of_a.items) == 1
        early = ledger.entries(tx, who, until=world.now - timedelta(hours=2))
        assert sorted(each.kind for each in early.items) == ["credit", "hourly", "once"]
        with pytest.raises(Forbidden):
            ledger.entries(tx, world.principal(rights=["create"]))


def test_an_account_whose_ledger_is_empty_is_known(world: World) -> None:
    with world.database.read() as tx:
        assert ledger.is_empty(tx, world.account.id)
    give_credit(world, "5")
    with world.database.read() as tx:
        assert not ledger.is_empty(tx, world.account.id)


def test_an_amount_is_readable_from_its_line(world: World) -> None:
    entry = give_credit(world, "-12.000000000000001")
    with world.database.read() as tx:
        row = tx.scalars(select(LedgerEntry).where(LedgerEntry.id == entry.id)).one()
    assert row.amount_femto == -12 * 10**15 - 1
    assert 0 <= row.amount_rest_femto < 10**9
