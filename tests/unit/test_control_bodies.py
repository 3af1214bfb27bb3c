"""Bodies: reserved, used, counted once, given up, and gone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from control_shelf import Shelf
from control_world import World
from sqlalchemy import select

from holdfast.control import bodies, regions
from holdfast.control.tables import Body, Bucket, StoredObject
from holdfast.errors import NotFound, NotReady


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world)


@pytest.fixture
def bucket(shelf: Shelf) -> Bucket:
    return shelf.bucket()


def due(shelf: Shelf, limit: int = 100) -> list[str]:
    with shelf.world.database.read() as tx:
        found = bodies.due(tx, limit=limit, keys=shelf.world.keys, now=shelf.world.now)
    return [each.id for each in found]


def removed(shelf: Shelf, *ids: str) -> int:
    return shelf.world.database.transact(lambda tx: bodies.removed(tx, ids, now=shelf.world.now))


def all_bodies(shelf: Shelf) -> set[str]:
    with shelf.world.database.read() as tx:
        return set(tx.scalars(select(Body.id)))


def test_a_reserved_body_that_is_not_reported_is_given_up_after_a_day(
    shelf: Shelf, bucket: Bucket
) -> None:
    (body,) = shelf.pieces(bucket, 1)
    shelf.world.advance(hours=24)
    assert due(shelf) == []
    shelf.world.advance(minutes=1)
    assert due(shelf) == [body.id]
    assert removed(shelf, body.id) == 1
    assert removed(shelf, body.id) == 0
    assert all_bodies(shelf) == set()


def test_no_body_is_used_from_the_moment_it_may_be_given_out(shelf: Shelf, bucket: Bucket) -> None:
    """Also where the one who puts has a clock that is a little behind."""
    pieces = shelf.pieces(bucket, 1)
    shelf.world.advance(hours=24, seconds=-1)
    shelf.put(bucket, "a", pieces=pieces)
    late = shelf.pieces(bucket, 1)
    shelf.world.advance(hours=24)
    with pytest.raises(NotReady):
        shelf.put(bucket, "b", pieces=late)
    assert due(shelf) == []


def test_what_was_removed_can_be_read_to_its_end(shelf: Shelf, bucket: Bucket) -> None:
    row = shelf.put(bucket, "a", 5)
    shelf.delete(bucket, "a")
    shelf.world.advance(minutes=15)
    assert due(shelf) == []
    shelf.world.advance(minutes=1)
    assert due(shelf) == [row.bodies[0]["id"]]


def test_those_that_wait_longest_come_first(shelf: Shelf, bucket: Bucket) -> None:
    first = [each.id for each in shelf.pieces(bucket, 1, 2)]
    shelf.world.advance(hours=1)
    second = [each.id for each in shelf.pieces(bucket, 1, 2)]
    shelf.world.advance(days=2)
    assert set(due(shelf, 2)) == set(first)
    assert set(due(shelf)) == {*first, *second}


def test_where_a_due_body_lies(world: World) -> None:
    world.database.transact(
        lambda tx: regions.set_options(
            tx, world.operator(), world.region.id, {"token": "x"}, keys=world.keys, now=world.now
        )
    )
    shelf = Shelf(world)
    bucket = shelf.bucket()
    (body,) = shelf.pieces(bucket, 1)
    world.advance(days=2)
    with world.database.read() as tx:
        (found,) = bodies.due(tx, limit=9, keys=world.keys, now=world.now)
    assert (found.id, found.repository_id) == (body.id, bucket.repository_id)
    assert (found.location, found.options) == ("/srv/holdfast", {"token": "x"})


def test_a_body_in_use_is_never_forgotten(shelf: Shelf, bucket: Bucket) -> None:
    row = shelf.put(bucket, "a", 5)
    (fresh,) = shelf.pieces(bucket, 1)
    assert removed(shelf, row.bodies[0]["id"], fresh.id) == 0
    assert all_bodies(shelf) == {row.bodies[0]["id"], fresh.id}


def test_a_body_that_was_released_and_is_there_still_can_be_put_again(
    shelf: Shelf, bucket: Bucket
) -> None:
    """A gateway repeats a put whose answer was lost, after another one has replaced it."""
    pieces = shelf.pieces(bucket, 5)
    shelf.put(bucket, "a", pieces=pieces)
    shelf.put(bucket, "a", 7)
    shelf.put(bucket, "a", pieces=pieces)
    assert shelf.stored(bucket) == 5
    shelf.check()


def test_reserving_needs_a_repository(world: World) -> None:
    with pytest.raises(NotFound), world.database.write() as tx:
        bodies.reserve(tx, "00000000-0000-4000-8000-000000000000", 1, now=world.now)


def test_shared_bytes_are_counted_once_where_they_came_first(shelf: Shelf, bucket: Bucket) -> None:
    second, third = shelf.bucket("second"), shelf.bucket("third")
    shelf.put(bucket, "a", 10)
    shelf.copy(bucket, "a", second, "b")
    shelf.copy(second, "b", third, "c")
    shelf.copy(second, "b", second, "d")

    def counted() -> tuple[int, ...]:
        shelf.check()
        return tuple(shelf.stored(each) for each in (bucket, second, third))

    assert counted() == (10, 0, 0)
    shelf.delete(second, "b")
    assert counted() == (10, 0, 0)
    shelf.delete(bucket, "a")
    assert counted() == (0, 10, 0)
    shelf.copy(second, "d", bucket, "a")
    assert counted() == (0, 10, 0)
    shelf.delete(second, "d")
    assert counted() == (0, 0, 10)
    shelf.delete(third, "c")
    assert counted() == (10, 0, 0)
    shelf.delete(bucket, "a")
    assert counted() == (0, 0, 0)


def test_a_body_may_be_in_an_object_twice(shelf: Shelf, bucket: Bucket) -> None:
    (piece,) = shelf.pieces(bucket, 5)
    shelf.put(bucket, "a", pieces=[piece, piece])
    assert shelf.stored(bucket) == 5
    shelf.check()
    shelf.delete(bucket, "a")
    assert shelf.stored(bucket) == 0
    shelf.check()


def test_an_object_of_very_many_bodies(shelf: Shelf, bucket: Bucket) -> None:
    pieces = shelf.pieces(bucket, *range(1, 2501))
    shelf.put(bucket, "a", pieces=pieces)
    assert shelf.stored(bucket) == 2500 * 2501 // 2
    shelf.check()
    shelf.delete(bucket, "a")
    shelf.world.advance(days=1)
    assert len(due(shelf, 5000)) == 2500
    with shelf.world.database.read() as tx:
        assert tx.scalar(select(StoredObject)) is None


def test_due_bodies_are_found_by_their_index(shelf: Shelf, bucket: Bucket) -> None:
    from test_control_list_plans import plan, statements

    with statements(shelf.world.database) as sent:
        due(shelf)
    lines = [line for text, values in sent for line in plan(shelf.world.database, text, values)]
    assert any("ix_bodies_due_at" in each for each in lines), lines
    assert timedelta(minutes=1) < bodies.RELEASED_FOR
