"""Pages of a list: nothing twice, nothing left out, and cursors that cannot be misused."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import paging
from holdfast.control.paging import MAX_LIMIT, Order, page
from holdfast.control.tables import User
from holdfast.errors import UsageError

ORDERS: dict[str, list[Order]] = {
    "newest": [User.created_at.desc(), User.id.desc()],
    "oldest": [User.created_at, User.id],
    "mixed": [User.created_at.desc(), User.email, User.id.asc()],
}


def add_users(world: World, count: int) -> None:
    """Three at a time at the same instant, so that the order has ties."""
    with world.database.write() as tx:
        for number in range(count):
            at = world.now + timedelta(microseconds=number // 3)
            tx.add(User(email=f"{number % 5}-{number}@x", password_hash="!", created_at=at))


def read_all(world: World, order: list[Order], limit: int) -> list[User]:
    found: list[User] = []
    cursor = None
    while True:
        with world.database.read() as tx:
            one = page(tx, select(User), order=order, cursor=cursor, limit=limit)
        assert len(one.items) <= limit
        found += one.items
        cursor = one.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("limit", [1, 4, 20, 21])
def test_s2_pages_together_are_the_whole_list_in_order(
    world: World, order: list[Order], limit: int
) -> None:
    add_users(world, 20)
    with world.database.read() as tx:
        whole = list(tx.scalars(select(User).order_by(*order)))
    assert [each.id for each in read_all(world, order, limit)] == [each.id for each in whole]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("looked_at", [1, 4, 19, 20, 21])
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_s2_pages_through_a_sieve_together_are_the_list(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    order: list[Order],
    looked_at: int,
    limit: int,
) -> None:
    """Also where a page is short, or empty, because enough rows were looked at for it."""
    monkeypatch.setattr(paging, "LOOKED_AT", looked_at)
    add_users(world, 20)
    sieve = [User.email.like("3-%")]
    with world.database.read() as tx:
        whole = list(tx.scalars(select(User).where(*sieve).order_by(*order)))
    assert len(whole) == 4
    found, cursor, sizes = [], None, []
    while True:
        with world.database.read() as tx:
            one = page(tx, select(User), order=order, cursor=cursor, limit=limit, sieve=sieve)
        found += one.items
        sizes.append(len(one.items))
        cursor = one.next_cursor
        if cursor is None:
            break
    assert [each.id for each in found] == [each.id for each in whole]
    assert max(sizes) <= limit
    assert len(sizes) >= 20 // looked_at


def test_a_row_that_comes_meanwhile_neither_repeats_nor_hides_one(world: World) -> None:
    add_users(world, 6)
    order = ORDERS["newest"]
    with world.database.read() as tx:
        first = page(tx, select(User), order=order, cursor=None, limit=3)
    world.insert(User(email="new@x", password_hash="!", created_at=world.advance(days=1)))
    with world.database.read() as tx:
        second = page(tx, select(User), order=order, cursor=first.next_cursor, limit=3)
    assert len({each.id for each in [*first.items, *second.items]}) == 6
    assert second.next_cursor is None


def cursor_of(world: World, order: list[Order]) -> str:
    with world.database.read() as tx:
        cursor = page(tx, select(User), order=order, cursor=None, limit=1).next_cursor
    assert cursor is not None
    return cursor


def forged(cursor: str, position: int, value: object) -> str:
    document = json.loads(urlsafe_b64decode(cursor + "=="))
    document[position] = value
    return urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_a_bad_cursor_is_the_callers_error(world: World) -> None:
    add_users(world, 3)
    order = ORDERS["newest"]
    good = cursor_of(world, order)
    bad = [
        "",
        "x",
        "ä",
        "W10=",
        "[" * 3000,
        urlsafe_b64encode(b"[" * 2000).decode(),
        cursor_of(world, ORDERS["oldest"]),
        forged(good, 1, "2026-01-01T00:00:00"),
        forged(good, 1, "0001-01-01T00:00:00+23:00"),
        forged(good, 1, 5),
        forged(good, 2, "a\0b"),
        forged(good, 2, "\ud800"),
        forged(good, 2, None),
        forged(good, 2, 2**70),
    ]
    for cursor in bad:
        with world.database.read() as tx, pytest.raises(UsageError, match="cursor"):
            page(tx, select(User), order=order, cursor=cursor, limit=1)


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_a_page_has_bounds(world: World, limit: int) -> None:
    with world.database.read() as tx, pytest.raises(UsageError, match=str(MAX_LIMIT)):
        page(tx, select(User), order=[User.id], cursor=None, limit=limit)
