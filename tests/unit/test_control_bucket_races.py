"""Many requests for one bucket at the same time: nothing is lost, leaks or counts twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from control_shelf import Shelf
from control_world import World
from sqlalchemy import select
from test_control_job_races import at_once

from holdfast.control import uploads
from holdfast.control.tables import Body, Bucket, Meter, StoredObject
from holdfast.errors import BucketNotEmpty, Changed, NoSuchBucket, NoSuchUpload

ROUNDS = 6


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world)


def kinds(results: Sequence[Any], *expected: type[BaseException]) -> list[BaseException]:
    """The failures, all of which are expected."""
    failures = [each for each in results if isinstance(each, BaseException)]
    for each in failures:
        assert isinstance(each, expected), each
    return failures


def test_of_many_puts_on_one_key_one_wins_and_no_body_leaks(shelf: Shelf) -> None:
    bucket = shelf.bucket()
    for key in "abcdef":
        every = [shelf.pieces(bucket, size) for size in range(1, 9)]
        kinds(at_once([partial(shelf.put, bucket, key, pieces=each) for each in every]))
        shelf.check()
    with shelf.world.database.read() as tx:
        used = tx.scalars(select(Body).where(Body.uses > 0)).all()
    assert len(used) == 6
    assert shelf.keys(bucket) == list("abcdef")


def test_of_many_who_put_only_a_new_object_one_does(shelf: Shelf) -> None:
    """`If-None-Match: *`: it is decided where the object becomes one, also an empty one."""
    bucket = shelf.bucket()
    shelf.put(bucket, "source", 10)
    for number in range(2 * ROUNDS):
        key = f"lock-{number}"
        if number % 2:
            shelf.hide(bucket, key)
        upload = shelf.begin(bucket, key)
        parts = [shelf.part(bucket, upload, 1)]
        put = partial(shelf.put, bucket, key, only_new=True)
        acts: list[Callable[[], object]] = [
            *(partial(put, pieces=shelf.pieces(bucket, size)) for size in range(1, 4)),
            *[partial(put, pieces=[], etag="d41d8cd98f00b204e9800998ecf8427e")] * 3,
            *[partial(shelf.copy, bucket, "source", bucket, key, only_new=True)] * 2,
            partial(shelf.complete, bucket, upload, parts, only_new=True),
        ]
        results = at_once(acts)
        assert len(kinds(results, Changed)) == len(acts) - 1
        (done,) = (each for each in results if isinstance(each, StoredObject))
        assert shelf.world.again(done).etag == done.etag
        shelf.check()


def test_counters_hold_when_all_write_at_once(shelf: Shelf) -> None:
    one, two = shelf.bucket("one"), shelf.bucket("two")
    for key in "abcd":
        shelf.put(one, key, 10)
        shelf.put(two, key, 100)
    acts: list[Callable[[], object]] = [
        lambda: shelf.copy(one, "a", two, "a"),
        lambda: shelf.copy(two, "a", one, "b"),
        lambda: shelf.put(one, "a", 1),
        lambda: shelf.put(two, "b", 2),
        lambda: shelf.copy(one, "b", one, "c"),
        lambda: shelf.delete(two, "b", "d", "c"),
        lambda: shelf.hide(one, "d", "e"),
        shelf.meter,
    ]
    for _ in range(ROUNDS):
        kinds(at_once(acts))
        shelf.check()


def test_with_a_quota_the_account_comes_first_for_everybody(shelf: Shelf) -> None:
    """Those who put lock the account, and so does the clockwork, each before any bucket."""
    world = shelf.world
    world.set(world.account, quota_stored_bytes=1000)
    one, two = shelf.bucket("one"), shelf.bucket("two")
    for key in "abcdef":
        puts = [partial(shelf.put, bucket, key, 1) for bucket in (one, two)]
        acts: list[Callable[[], object]] = [*puts, shelf.meter, shelf.meter]
        kinds(at_once(acts))
    shelf.meter()
    with world.database.read() as tx:
        meters = tx.scalars(select(Meter).where(Meter.until.is_(None))).all()
    assert {each.resource_id: each.quantity_bytes for each in meters} == {one.id: 6, two.id: 6}


def test_an_object_is_put_or_its_bucket_is_removed(shelf: Shelf) -> None:
    for _ in range(ROUNDS):
        bucket = shelf.bucket()
        puts = [partial(shelf.put, bucket, key, pieces=shelf.pieces(bucket, 5)) for key in "abc"]
        begin, hide = partial(shelf.begin, bucket, "u"), partial(shelf.hide, bucket, "h")
        acts: list[Callable[[], object]] = [*puts, begin, hide, shelf.remove]
        results = at_once(acts)
        failures = kinds(results, NoSuchBucket, BucketNotEmpty)
        shelf.check()
        if isinstance(results[-1], BucketNotEmpty):
            assert len(failures) == 1
            shelf.clear()
            shelf.remove()
        else:  # only what is hidden could have come before
            assert {type(each) for each in failures} == {NoSuchBucket}
            assert len(failures) in (4, 5)


def test_writers_that_are_in_a_bucket_already_let_its_removal_wait(shelf: Shelf) -> None:
    """Some hold the bucket, a removal waits for them, and others come: no circle."""
    bucket = shelf.bucket()
    for key in "ab":
        shelf.put(bucket, key, 1)
    acts: list[Callable[[], object]] = [
        lambda: shelf.put(bucket, "a", 1),
        lambda: shelf.put(bucket, "b", 1),
        shelf.remove,
        lambda: shelf.put(bucket, "a", 1),
        lambda: shelf.copy(bucket, "a", bucket, "b"),
        shelf.remove,
    ]
    for _ in range(ROUNDS):
        assert len(kinds(at_once(acts), BucketNotEmpty)) == 2
        shelf.check()


def test_completed_by_many_it_is_one_object(shelf: Shelf) -> None:
    bucket = shelf.bucket()
    for _ in range(ROUNDS):
        upload = shelf.begin(bucket, "big")
        parts = [shelf.part(bucket, upload, 1), shelf.part(bucket, upload, 2, 7)]
        found = at_once([partial(shelf.complete, bucket, upload, parts)] * 6)
        assert not kinds(found)
        assert len({(each.id, each.etag) for each in found}) == 1  # type: ignore[union-attr]
        shelf.check()


def test_an_upload_is_completed_or_aborted_and_late_parts_are_refused(shelf: Shelf) -> None:
    world, bucket = shelf.world, shelf.bucket()

    def abort_old() -> int:
        with world.database.write() as tx:
            return uploads.abort_old(tx, now=world.now + uploads.LASTS)

    for _ in range(ROUNDS):
        upload = shelf.begin(bucket, "big")
        part = shelf.part(bucket, upload, 1)
        acts: list[Callable[[], object]] = [
            partial(shelf.complete, bucket, upload, [part]),
            partial(shelf.abort, bucket, upload),
            partial(shelf.part, bucket, upload, 2, pieces=shelf.pieces(bucket, 9)),
            abort_old,
        ]
        kinds(at_once(acts), NoSuchUpload)
        shelf.check()


def test_of_many_who_make_a_bucket_all_get_the_same(shelf: Shelf) -> None:
    found = at_once([partial(shelf.bucket, "fresh")] * 8)
    assert not kinds(found)
    assert len({each.id for each in found if isinstance(each, Bucket)}) == 1
