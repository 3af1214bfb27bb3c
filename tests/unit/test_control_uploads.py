"""Multipart uploads: their parts, their end, and what a repeated request gets."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from control_shelf import PART, Shelf
from control_world import World

from holdfast.control import uploads
from holdfast.control.principal import ALL_RIGHTS, Right
from holdfast.control.tables import Body, Bucket, Upload
from holdfast.errors import (
    Changed,
    Forbidden,
    InvalidPart,
    NoSuchUpload,
    PartTooSmall,
    UsageError,
)


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world)


@pytest.fixture
def bucket(shelf: Shelf) -> Bucket:
    return shelf.bucket()


def listed(shelf: Shelf, bucket: Bucket, **fields: object) -> list[tuple[str, str]]:
    with shelf.world.database.read() as tx:
        found = uploads.uploads(tx, shelf.who, bucket, **fields)  # type: ignore[arg-type]
    return [(each.key, each.id) for each in found]


def test_parts_become_one_object_in_their_order(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big", content_type="text/x", headers={"h": "1"})
    third = shelf.part(bucket, upload, 3, 7)
    first = shelf.part(bucket, upload, 1)
    left = shelf.part(bucket, upload, 9, 11)
    assert shelf.stored(bucket) == PART + 7 + 11
    shelf.world.advance(hours=1)
    made = shelf.complete(bucket, upload, [first, third])
    assert made.bodies == [*first.bodies, *third.bodies]
    digest = hashlib.md5(bytes.fromhex(first.etag) + bytes.fromhex(third.etag)).hexdigest()
    assert (made.etag, made.size_bytes) == (f"{digest}-2", PART + 7)
    assert (made.content_type, made.headers) == ("text/x", {"h": "1"})
    assert made.modified_at == shelf.world.now
    assert (shelf.stored(bucket), shelf.world.again(bucket).objects) == (PART + 7, 1)
    with shelf.world.database.read() as tx:
        assert tx.get_one(Body, left.bodies[0]["id"]).uses == 0
    assert listed(shelf, bucket) == []
    shelf.check()


def test_completed_twice_it_is_the_same_object(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    parts = [shelf.part(bucket, upload, 1), shelf.part(bucket, upload, 2)]
    first = shelf.complete(bucket, upload, parts)
    shelf.world.advance(minutes=1)
    again = shelf.complete(bucket, upload, parts)
    assert (again.id, again.etag, again.modified_at) == (first.id, first.etag, first.modified_at)
    for others in (parts[:1], parts[::-1][:1], [(1, "nonsense"), (2, parts[1].etag)]):
        with pytest.raises(NoSuchUpload):
            shelf.complete(bucket, upload, others)
    shelf.put(bucket, "big", 1)
    with pytest.raises(NoSuchUpload):
        shelf.complete(bucket, upload, parts)
    shelf.check()


def test_etags_are_taken_as_clients_write_them(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    part = shelf.part(bucket, upload, 1)
    made = shelf.complete(bucket, upload, [(1, f'"{part.etag.upper()}"')])
    assert made.etag == uploads.etag_of([part.etag])


def test_only_a_new_object_is_made_and_otherwise_the_upload_stays(
    shelf: Shelf, bucket: Bucket
) -> None:
    shelf.put(bucket, "big", 5)
    upload = shelf.begin(bucket, "big")
    part = shelf.part(bucket, upload, 1, 3)
    with pytest.raises(Changed):
        shelf.complete(bucket, upload, [part], only_new=True)
    shelf.delete(bucket, "big")
    made = shelf.complete(bucket, upload, [part], only_new=True)
    assert shelf.complete(bucket, upload, [part], only_new=True).id == made.id
    shelf.check()


def test_the_object_replaces_what_was_there(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "big", 5)
    upload = shelf.begin(bucket, "big")
    part = shelf.part(bucket, upload, 1, 3)
    member = Shelf(shelf.world, shelf.world.principal(rights=ALL_RIGHTS - {Right.DELETE}))
    with pytest.raises(Forbidden, match="delete"):
        member.complete(bucket, upload, [part])
    shelf.check()
    shelf.complete(bucket, upload, [part])
    assert shelf.stored(bucket) == 3
    shelf.check()


def test_a_part_that_is_sent_again_replaces_the_first(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    old = shelf.part(bucket, upload, 1, 10)
    new = shelf.part(bucket, upload, 1, 20)
    assert shelf.stored(bucket) == 20
    with pytest.raises(InvalidPart, match="Part 1"):
        shelf.complete(bucket, upload, [(1, old.etag)])
    shelf.complete(bucket, upload, [new])
    shelf.check()


def test_a_part_whose_report_is_repeated_counts_once(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    pieces = shelf.pieces(bucket, 4, 6)
    for _ in range(2):
        shelf.part(bucket, upload, 1, pieces=pieces)
    assert shelf.stored(bucket) == 10
    shelf.check()


def test_parts_that_cannot_make_an_object(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    one, two = shelf.part(bucket, upload, 1, PART - 1), shelf.part(bucket, upload, 2, 1)
    with pytest.raises(PartTooSmall, match="Part 1 "):
        shelf.complete(bucket, upload, [one, two])
    for wrong in ([], [two, one], [one, one], [(3, one.etag)], [(1, two.etag)], [(1, "")]):
        with pytest.raises(InvalidPart):
            shelf.complete(bucket, upload, wrong)
    many = [(number, one.etag) for number in range(1, 10_002)]
    with pytest.raises(InvalidPart, match="10000"):
        shelf.complete(bucket, upload, many)
    assert shelf.complete(bucket, upload, [one]).size_bytes == PART - 1
    shelf.check()


@pytest.mark.parametrize("number", [0, 10_001])
def test_numbers_and_etags_of_parts(shelf: Shelf, bucket: Bucket, number: int) -> None:
    upload = shelf.begin(bucket, "big")
    with pytest.raises(UsageError):
        shelf.part(bucket, upload, number)
    with pytest.raises(UsageError):
        shelf.part(bucket, upload, 1, etag="no md5")


def test_an_upload_is_one_of_its_bucket_and_key(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    part = shelf.part(bucket, upload, 1)
    for other in (
        Upload(id=upload.id, key="another"),
        Upload(id="no\0id", key="big"),
        Upload(id="00000000-0000-4000-8000-000000000000", key="big"),
    ):
        for act in (
            lambda other=other: shelf.part(bucket, other, 1),
            lambda other=other: shelf.complete(bucket, other, [part]),
            lambda other=other: shelf.abort(bucket, other),
        ):
            with pytest.raises(NoSuchUpload):
                act()
    elsewhere = shelf.bucket("elsewhere")
    with pytest.raises(NoSuchUpload):
        shelf.complete(elsewhere, upload, [part])
    with pytest.raises(NoSuchUpload), shelf.world.database.read() as tx:
        uploads.parts(tx, shelf.who, elsewhere, "big", upload.id)


def test_aborting_gives_the_parts_back(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    part = shelf.part(bucket, upload, 1)
    shelf.abort(bucket, upload)
    assert shelf.stored(bucket) == 0
    for act in (
        lambda: shelf.abort(bucket, upload),
        lambda: shelf.part(bucket, upload, 2),
        lambda: shelf.complete(bucket, upload, [part]),
    ):
        with pytest.raises(NoSuchUpload):
            act()
    shelf.check()


def test_parts_are_listed_by_number(shelf: Shelf, bucket: Bucket) -> None:
    upload = shelf.begin(bucket, "big")
    for number in (7, 2, 5):
        shelf.part(bucket, upload, number, number)
    with shelf.world.database.read() as tx:
        found, parts = uploads.parts(tx, shelf.who, bucket, "big", upload.id, after=2, limit=5)
    assert (found.id, [(each.number, each.size_bytes) for each in parts]) == (
        upload.id,
        [(5, 5), (7, 7)],
    )


def test_uploads_are_listed_by_key_and_id(shelf: Shelf, bucket: Bucket) -> None:
    keys = ["b", "a", "b", "c/d", "b"]
    all_ = sorted((key, shelf.begin(bucket, key).id) for key in keys)
    shelf.begin(shelf.bucket("other"), "a")
    assert listed(shelf, bucket) == all_
    assert listed(shelf, bucket, limit=2) == all_[:2]
    assert listed(shelf, bucket, prefix="c/") == all_[-1:]
    assert listed(shelf, bucket, after_key="b") == all_[-1:]
    for place, (key, upload_id) in enumerate(all_):
        rest = listed(shelf, bucket, after_key=key, after_id=upload_id)
        assert rest == all_[place + 1 :]


def test_old_uploads_are_aborted(shelf: Shelf, bucket: Bucket) -> None:
    world, other = shelf.world, shelf.bucket("other")
    for number in range(25):
        shelf.part(bucket, shelf.begin(bucket, f"{number}"), 1, 10)
    shelf.part(other, shelf.begin(other, "a"), 1, 10)
    world.advance(hours=1)
    young = shelf.begin(bucket, "young")
    shelf.part(bucket, young, 1, 10)

    def tick(after: timedelta) -> list[int]:
        counts: list[int] = []
        while not counts or counts[-1]:
            counts.append(
                world.database.transact(lambda tx: uploads.abort_old(tx, now=world.now + after))
            )
        return counts

    assert tick(timedelta(days=7, hours=-1, seconds=-1)) == [0]
    assert sum(tick(timedelta(days=7, hours=-1))) == 26
    assert listed(shelf, bucket) == [("young", young.id)]
    assert (shelf.stored(bucket), shelf.stored(other)) == (10, 0)
    shelf.check()
