"""Accounts (A1, A3, A4): profile, limits, and what operators may do."""

from __future__ import annotations

from typing import Any

import pytest
from control_world import PROFILE, World
from sqlalchemy import select

from holdfast.control import accounts, members, sign_in
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Account, AuditEntry, LedgerEntry
from holdfast.errors import Forbidden, InUse, NotFound, UsageError


def edit(world: World, changes: dict[str, str | None], who: Principal | None = None) -> Account:
    with world.database.write() as tx:
        return accounts.edit_profile(tx, who or world.principal(), changes, now=world.now)


def test_a1_a_profile_is_complete_when_billing_has_what_it_needs(world: World) -> None:
    empty = world.add_account("New", profile=False)
    who = world.principal(empty)
    assert accounts.missing_profile_fields(empty) == list(accounts.PROFILE_FIELDS)
    for name, value in PROFILE.items():
        empty = edit(world, {name: value}, who)
        assert name not in accounts.missing_profile_fields(empty)
    assert accounts.missing_profile_fields(world.again(empty)) == []
    empty = edit(world, {"contact": None, "address": "  "}, who)
    assert accounts.missing_profile_fields(empty) == ["address", "contact"]


def test_a5_a_change_of_the_profile_says_what_changed(world: World) -> None:
    edit(world, {"country": "FR", "contact": PROFILE["contact"]})
    with world.database.read() as tx:
        entry = tx.scalars(select(AuditEntry)).one()
    assert (entry.before, entry.after) == ({"country": "DE"}, {"country": "FR"})


@pytest.mark.parametrize(
    "changes",
    [
        {"currency": "CHF"},
        {"currency": "eur"},
        {"country": "Germany"},
        {"country": "de"},
        {"email": "nobody"},
        {"legal_name": "x" * 201},
        {"contact": "a\0b"},
        {"vat": "1"},
    ],
    ids=str,
)
def test_a1_a_profile_takes_only_what_can_be_meant(world: World, changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        edit(world, {"address": "elsewhere", **changes})
    assert world.again(world.account).profile == PROFILE


def test_m1_the_currency_stays_once_something_was_booked(world: World) -> None:
    edit(world, {"currency": "USD"})
    world.insert(
        LedgerEntry(
            account_id=world.account.id,
            at=world.now,
            hour=world.now,
            kind="credit",
            currency="USD",
            amount_micro=1,
            amount_rest_femto=0,
        )
    )
    for stated in ("USD", None):  # without one, the ledger is kept in USD too
        edit(world, {"currency": stated})
        with pytest.raises(InUse, match="USD"):
            edit(world, {"currency": "EUR"})


def test_a2_a_profile_needs_the_right_for_the_whole_account(world: World) -> None:
    for who in (
        world.principal(rights=set(Right) - {Right.ADMINISTER}),
        world.principal(resources=frozenset({"x"})),
    ):
        with pytest.raises(Forbidden):
            edit(world, {"country": "FR"}, who)
        with world.database.write() as tx, pytest.raises(Forbidden):
            accounts.edit_settings(tx, who, name="x", now=world.now)


def test_a1_an_account_sets_what_is_its_own(world: World) -> None:
    with world.database.write() as tx:
        accounts.edit_settings(
            tx, world.principal(), name=" New ", recycle_days=30, low_credit_micro=1, now=world.now
        )
    row = world.again(world.account)
    assert (row.name, row.recycle_days, row.low_credit_micro) == ("New", 30, 1)
    bad: list[dict[str, Any]] = [
        {"name": " "},
        {"name": "x" * 101},
        {"recycle_days": 0},
        {"recycle_days": 91},
        {"low_credit_micro": -1},
        {"low_credit_micro": 1 << 63},
    ]
    for fields in bad:
        with world.database.write() as tx, pytest.raises(UsageError):
            accounts.edit_settings(tx, world.principal(), now=world.now, **fields)


def test_a3_operators_make_accounts_with_an_owner(world: World) -> None:
    operator = world.operator()
    with world.database.write() as tx:
        made = accounts.create_as(
            tx,
            operator,
            name="Lab",
            region_id=world.region.id,
            prepaid=True,
            owner_email="boss@lab.example",
            owner_password="a password",
            now=world.now,
        )
    row, secret = sign_in.sign_in(
        world.database, "boss@lab.example", "a password", address="a", now=world.now
    )
    assert row.account_id == made.id
    with world.database.read() as tx:
        who = sign_in.authenticate_cookie(tx, secret, address="", request_id="", now=world.now)
        assert [each.role for each in members.members(tx, who)] == ["owner"]
        assert accounts.get(tx, who).name == "Lab"
        logs = {
            account.id: [
                (each.actor_id, each.action)
                for each in tx.scalars(
                    select(AuditEntry).where(AuditEntry.account_id == account.id)
                )
            ]
            for account in (made, world.operator_account)
        }
    assert logs[made.id][0] == (operator.id, "account.create")
    assert logs[world.operator_account.id] == [(operator.id, "account.create")]
    assert (made.is_operator, made.prepaid, who.operator) == (False, True, False)


def test_a3_only_operators_see_and_limit_accounts(world: World) -> None:
    weak = world.principal(world.operator_account, {Right.READ})
    for who in (world.principal(), weak):
        with world.database.write() as tx:
            for act in (
                lambda tx=tx, who=who: accounts.accounts(tx, who, cursor=None, limit=9),
                lambda tx=tx, who=who: accounts.set_quotas(
                    tx, who, world.account.id, snapshots=None, now=world.now
                ),
                lambda tx=tx, who=who: accounts.create_as(
                    tx, who, name="x", region_id=world.region.id, now=world.now
                ),
            ):
                with pytest.raises(Forbidden):
                    act()
    with world.database.read() as tx:
        listed = accounts.accounts(tx, world.operator(), cursor=None, limit=9).items
    assert {each.name for each in listed} == {"Operator", "Customer"}


def test_a1_quotas_are_set_one_by_one_and_lifted(world: World) -> None:
    operator = world.operator()
    with world.database.write() as tx:
        accounts.set_quotas(
            tx, operator, world.account.id, stored_bytes=10, running_jobs=2, now=world.now
        )
    with world.database.write() as tx:
        row = accounts.set_quotas(
            tx, operator, world.account.id, stored_bytes=None, prepaid=True, now=world.now
        )
    assert (row.quota_stored_bytes, row.quota_snapshots, row.quota_running_jobs) == (None, None, 2)
    assert row.prepaid
    with world.database.read() as tx:
        of_account = tx.scalars(
            select(AuditEntry).where(AuditEntry.account_id == world.account.id)
        ).all()
    assert of_account[-1].before == {"quota_stored_bytes": 10, "prepaid": False}
    assert of_account[-1].after == {"quota_stored_bytes": None, "prepaid": True}
    for value in (-1, 1 << 63):
        with world.database.write() as tx, pytest.raises(UsageError):
            accounts.set_quotas(tx, operator, world.account.id, snapshots=value, now=world.now)
    with world.database.write() as tx, pytest.raises(NotFound):
        accounts.set_quotas(tx, operator, "none", snapshots=1, now=world.now)


def test_an_account_needs_a_name_and_a_region(world: World) -> None:
    with world.database.write() as tx:
        made = accounts.create(tx, name="A", region_id=world.region.id, now=world.now)
        assert accounts.missing_profile_fields(made) == list(accounts.PROFILE_FIELDS)
        with pytest.raises(UsageError):
            accounts.create(tx, name="", region_id=world.region.id, now=world.now)
        with pytest.raises(NotFound):
            accounts.create(tx, name="A", region_id="none", now=world.now)
