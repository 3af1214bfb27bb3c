"""Low credit warns, none stops what is new, and nothing is removed in silence (M4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from control_money import book, give_credit, set_price, store
from control_world import World
from sqlalchemy import select

from holdfast.control import audit, credit
from holdfast.control.tables import Account, Event, Hold, Snapshot, Source
from holdfast.errors import CreditExhausted

GB = 1_000_000_000


@pytest.fixture
def account(world: World) -> Account:
    """An account that pays in advance, with a source and prices."""
    world.account = world.set(world.account, prepaid=True)
    set_price(world, "1")
    return world.account


@pytest.fixture
def source(world: World, account: Account) -> Source:
    return world.add_source(world.add_host())


@pytest.fixture
def snapshots(world: World, source: Source) -> list[Snapshot]:
    repository = world.add_repository()
    return [world.add_snapshot(source, repository) for _ in range(3)]


def update(world: World, **options: timedelta) -> int:
    with world.database.write() as tx:
        return credit.update_states(tx, now=world.now, **options)


def state(world: World) -> str:
    return world.again(world.account).credit_state


def told(world: World, *kinds: str) -> list[Event]:
    with world.database.read() as tx:
        found = select(Event).where(Event.account_id == world.account.id).order_by(Event.id)
        return [each for each in tx.scalars(found) if not kinds or each.kind in kinds]


def may_create(world: World) -> bool:
    with world.database.write() as tx:
        try:
            credit.check_may_create(tx, tx.get_one(Account, world.account.id))
        except CreditExhausted:
            return False
    return True


def statuses(world: World, snapshots: list[Snapshot]) -> list[str]:
    return [world.again(each).status for each in snapshots]


def exhaust(world: World) -> None:
    give_credit(world, "-1000")
    update(world)


def tick_days(world: World, days: float) -> None:
    """Again and again, as the clockwork would; to the hour."""
    left = int(days * 24)
    while left:
        step = min(left, 6 if days > 2 else 1)
        world.advance(hours=step)
        update(world)
        left -= step


def test_from_good_to_low_to_exhausted_and_back(world: World, account: Account) -> None:
    give_credit(world, "12")
    assert update(world) == 0
    store(world, "a", 2 * GB)
    world.advance(hours=3)
    book(world)
    assert update(world) == 0
    world.advance(hours=1)
    book(world)
    assert update(world) == 1
    assert (state(world), may_create(world)) == ("low", True)
    assert world.again(account).credit_state_since == world.now
    assert update(world) == 0, "it is said once"
    world.advance(hours=2)
    book(world)
    assert not may_create(world), "at zero, before anybody has noted it"
    assert update(world) == 1
    assert state(world) == "exhausted"
    give_credit(world, "0.01")
    assert may_create(world)
    update(world)
    assert state(world) == "low"
    give_credit(world, "100")
    update(world)
    assert state(world) == "good"
    assert [each.kind for each in told(world)] == [
        *("credit.low", "credit.exhausted", "credit.restored", "credit.restored")
    ]
    assert told(world)[0].data == {"state": "low", "balance": "4", "currency": "EUR"}


def test_an_account_that_pays_later_has_no_states(world: World) -> None:
    give_credit(world, "-1000")
    assert update(world) == 0
    assert (state(world), may_create(world)) == ("good", True)
    world.set(world.account, prepaid=True)
    update(world)
    assert state(world) == "exhausted"
    world.set(world.account, prepaid=False)
    update(world)
    assert (state(world), may_create(world)) == ("good", True)


def test_removal_is_announced_from_the_start_and_again(
    world: World, snapshots: list[Snapshot]
) -> None:
    exhaust(world)
    begin = world.now
    tick_days(world, 13.9)
    announcements = told(world, "deletion.ahead")
    assert [(each.at - begin).total_seconds() / 86400 for each in announcements] == [0, 7, 11, 13]
    assert {each.data["removal_at"] for each in announcements} == {
        (begin + timedelta(days=14)).isoformat()
    }
    assert statuses(world, snapshots) == ["COMPLETED"] * 3
    assert state(world) == "exhausted"


def test_after_the_grace_period_snapshots_go_to_the_recycle_bin(
    world: World, snapshots: list[Snapshot]
) -> None:
    exhaust(world)
    tick_days(world, 14)
    assert state(world) == "held"
    assert statuses(world, snapshots) == ["DELETED"] * 3
    row = world.again(snapshots[0])
    assert row.removed_because == credit.REASON
    assert row.purge_at == world.now + timedelta(days=7)
    assert row.purged_at is None
    assert len(told(world, "snapshot.deleted")) == 3
    with world.database.read() as tx:
        found = audit.entries(tx, world.principal(), cursor=None, limit=50)
    assert [each.action for each in found.items].count("snapshot.delete") == 3
    assert not may_create(world)
    assert update(world) == 0


def test_a_snapshot_under_a_hold_stays(world: World, snapshots: list[Snapshot]) -> None:
    """S4: nobody removes what is held; not this either."""
    hold = world.insert(
        Hold(
            account_id=world.account.id,
            snapshot_id=snapshots[1].id,
            reason="evidence",
            created_at=world.now,
            created_by="somebody",
        )
    )
    exhaust(world)
    tick_days(world, 20)
    assert statuses(world, snapshots) == ["DELETED", "COMPLETED", "DELETED"]
    world.set(hold, released_at=world.now)
    update(world)
    assert statuses(world, snapshots) == ["DELETED"] * 3


def test_what_completes_late_follows(world: World, snapshots: list[Snapshot]) -> None:
    late = world.set(snapshots[2], status="RUNNING")
    exhaust(world)
    tick_days(world, 15)
    assert statuses(world, snapshots) == ["DELETED", "DELETED", "RUNNING"]
    world.set(late, status="COMPLETED")
    assert update(world) == 1
    assert statuses(world, snapshots) == ["DELETED"] * 3


def test_new_credit_brings_back_what_went_for_want_of_it(
    world: World, snapshots: list[Snapshot]
) -> None:
    by_hand = world.set(
        snapshots[0],
        status="DELETED",
        removed_because="deleted by user somebody",
        removed_at=world.now,
        purge_at=world.now + timedelta(days=90),
    )
    exhaust(world)
    tick_days(world, 15)
    assert statuses(world, snapshots) == ["DELETED"] * 3
    give_credit(world, "5000")
    update(world)
    assert state(world) == "good"
    assert statuses(world, snapshots) == ["DELETED", "COMPLETED", "COMPLETED"]
    row = world.again(snapshots[1])
    assert (row.removed_at, row.removed_because, row.purge_at) == (None, None, None)
    assert world.again(by_hand).purge_at is not None
    assert "2 snapshots were taken back" in told(world, "credit.restored")[0].message
    assert len(told(world, "snapshot.recovered")) == 2


def test_what_is_past_its_recycle_period_does_not_come_back(
    world: World, snapshots: list[Snapshot]
) -> None:
    exhaust(world)
    tick_days(world, 14)
    world.advance(days=8)
    give_credit(world, "5000")
    update(world)
    assert state(world) == "good"
    assert statuses(world, snapshots) == ["DELETED"] * 3


def test_credit_within_the_grace_period_ends_it(world: World, snapshots: list[Snapshot]) -> None:
    exhaust(world)
    tick_days(world, 10)
    give_credit(world, "5000")
    update(world)
    tick_days(world, 10)
    assert statuses(world, snapshots) == ["COMPLETED"] * 3
    give_credit(world, "-9000")
    update(world)
    tick_days(world, 13)
    assert statuses(world, snapshots) == ["COMPLETED"] * 3, "the period begins anew"
    assert len(told(world, "deletion.ahead")) == 2 + 4


@pytest.mark.parametrize("away_days", [13.5, 14, 30])
def test_nothing_is_removed_before_the_last_announcement_is_a_day_old(
    world: World, snapshots: list[Snapshot], away_days: float
) -> None:
    """M4: nothing in silence, also when the control plane was away for weeks."""
    exhaust(world)
    world.advance(days=away_days)
    update(world)
    [_, announced] = told(world, "deletion.ahead")
    assert announced.data["removal_at"] == (world.now + timedelta(days=1)).isoformat()
    tick_days(world, 23 / 24)
    assert statuses(world, snapshots) == ["COMPLETED"] * 3
    tick_days(world, 2 / 24)
    assert statuses(world, snapshots) == ["DELETED"] * 3


@pytest.mark.parametrize("grace_days", [0, 0.5, 1, 2])
def test_a_short_grace_period_is_announced_as_well(
    world: World, snapshots: list[Snapshot], grace_days: float
) -> None:
    grace = timedelta(days=grace_days)
    give_credit(world, "-1")
    update(world, grace=grace)
    begin = world.now
    while statuses(world, snapshots)[0] == "COMPLETED":
        assert world.advance(hours=1) - begin < timedelta(days=4)
        update(world, grace=grace)
    last = told(world, "deletion.ahead")[-1]
    assert world.now - last.at >= timedelta(days=1)
    assert world.now - begin >= grace


def test_an_account_that_stores_nothing_is_not_threatened(world: World, source: Source) -> None:
    exhaust(world)
    tick_days(world, 15)
    assert told(world, "deletion.ahead") == []
    assert state(world) == "exhausted"
    late = world.add_snapshot(source, world.add_repository())
    tick_days(world, 0.5)
    assert len(told(world, "deletion.ahead")) == 1
    assert statuses(world, [late]) == ["COMPLETED"]
    tick_days(world, 1)
    assert statuses(world, [late]) == ["DELETED"]


def test_accounts_do_not_pay_for_each_other(world: World, snapshots: list[Snapshot]) -> None:
    other = world.add_account("Other", prepaid=True)
    give_credit(world, "100", other)
    exhaust(world)
    tick_days(world, 15)
    assert world.again(other).credit_state == "good"
    assert statuses(world, snapshots) == ["DELETED"] * 3


def test_refusal_says_what_to_do(world: World, account: Account) -> None:
    with pytest.raises(CreditExhausted, match="Top up"), world.database.write() as tx:
        credit.check_may_create(tx, tx.get_one(Account, account.id))


def test_the_balance_is_read_anew(world: World, account: Account) -> None:
    loaded: dict[str, Any] = {}
    with world.database.write() as tx:
        loaded["account"] = tx.get_one(Account, account.id)
        loaded["account"].balance_micro = 0
        tx.flush()
        with pytest.raises(CreditExhausted):
            credit.check_may_create(tx, loaded["account"])
