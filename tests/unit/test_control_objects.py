"""Objects: put, copied, listed, deleted and hidden, and who may do that."""

from __future__ import annotations

import re
from typing import Any

import pytest
from control_shelf import MB, Shelf
from control_world import World
from sqlalchemy import event, select, text

from holdfast.control import objects
from holdfast.control.bodies import Piece
from holdfast.control.object_list import end_of
from holdfast.control.principal import ALL_RIGHTS, Right
from holdfast.control.tables import AuditEntry, Body, Bucket, StoredObject
from holdfast.errors import (
    Changed,
    CreditExhausted,
    Forbidden,
    NoSuchBucket,
    NoSuchKey,
    NotReady,
    QuotaExceeded,
    UsageError,
)


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world)


@pytest.fixture
def bucket(shelf: Shelf) -> Bucket:
    return shelf.bucket()


def head(shelf: Shelf, bucket: Bucket, key: str, **fields: Any) -> StoredObject:
    with shelf.world.database.read() as tx:
        return objects.head(tx, shelf.who, bucket, key, **fields)


def test_an_object_is_what_was_put(shelf: Shelf, bucket: Bucket) -> None:
    pieces = shelf.pieces(bucket, 3, 4)
    shelf.put(bucket, "a/ü", pieces=pieces, etag="tag", content_type="text/plain",
              headers={"x-amz-meta-a": "b"})  # fmt: skip
    found = head(shelf, bucket, "a/ü")
    assert found.bodies == [{"id": each.id, "bytes": each.bytes} for each in pieces]
    assert (found.size_bytes, found.etag, found.content_type) == (7, "tag", "text/plain")
    assert (found.headers, found.modified_at) == ({"x-amz-meta-a": "b"}, shelf.world.now)
    row = shelf.world.again(bucket)
    assert (row.objects, row.stored_bytes) == (1, 7)
    shelf.check()


def test_an_object_may_be_empty(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "a", pieces=[], etag="d41d8cd98f00b204e9800998ecf8427e")
    assert head(shelf, bucket, "a").size_bytes == 0
    shelf.check()


def test_replacing_gives_the_bytes_back(shelf: Shelf, bucket: Bucket) -> None:
    old = shelf.put(bucket, "a", 10)
    shelf.world.advance(hours=1)
    shelf.put(bucket, "a", 3)
    assert (shelf.stored(bucket), shelf.world.again(bucket).objects) == (3, 1)
    with shelf.world.database.read() as tx:
        body = tx.get_one(Body, old.bodies[0]["id"])
    assert (body.uses, body.used_by) == (0, [])
    assert body.due_at is not None
    shelf.check()


def test_a_put_that_is_repeated_is_found_done(shelf: Shelf, bucket: Bucket) -> None:
    pieces = shelf.pieces(bucket, 10)
    first = shelf.put(bucket, "a", pieces=pieces)
    shelf.world.advance(minutes=1)
    only_new = shelf.world.principal(rights=ALL_RIGHTS - {Right.DELETE})
    again = shelf.put(bucket, "a", pieces=pieces, who=only_new)
    assert (again.id, again.modified_at) == (first.id, first.modified_at)
    shelf.check()


def test_a_put_of_only_a_new_object_that_is_repeated_is_found_done(
    shelf: Shelf, bucket: Bucket
) -> None:
    """A gateway whose answer was lost asks again with the bodies that it has stored."""
    pieces = shelf.pieces(bucket, 10)
    first = shelf.put(bucket, "a", pieces=pieces, only_new=True)
    assert shelf.put(bucket, "a", pieces=pieces, only_new=True).id == first.id
    with pytest.raises(Changed, match="nothing was changed"):
        shelf.put(bucket, "a", 10, only_new=True)
    with pytest.raises(Changed):
        shelf.copy(bucket, "a", bucket, "a", only_new=True)
    assert head(shelf, bucket, "a").etag == first.etag
    shelf.put(bucket, "empty", pieces=[], only_new=True)
    with pytest.raises(Changed):
        shelf.put(bucket, "empty", pieces=[], only_new=True)
    shelf.delete(bucket, "a")
    shelf.put(bucket, "a", 10, only_new=True)
    shelf.check()


def test_bodies_that_were_given_up_make_no_object(shelf: Shelf, bucket: Bucket) -> None:
    pieces = shelf.pieces(bucket, 10)
    shelf.world.advance(hours=24)
    with pytest.raises(NotReady, match="again"):
        shelf.put(bucket, "a", pieces=pieces)
    with pytest.raises(NotReady):
        shelf.put(bucket, "a", pieces=[Piece("00000000-0000-4000-8000-000000000000", 1)])
    assert shelf.keys(bucket) == []
    shelf.check()


def test_bodies_of_another_repository_make_no_object(shelf: Shelf, bucket: Bucket) -> None:
    other = Shelf(shelf.world, shelf.world.principal(shelf.world.add_account("Other")))
    theirs = other.put(other.bucket(), "secret", 10)
    pieces = [Piece(each["id"], each["bytes"]) for each in theirs.bodies]
    with pytest.raises(NotReady):
        shelf.put(bucket, "a", pieces=pieces)
    shelf.check()


def test_sizes_must_agree(shelf: Shelf, bucket: Bucket) -> None:
    pieces = shelf.pieces(bucket, 10)
    with pytest.raises(UsageError, match="10 bytes"), shelf.world.database.write() as tx:
        objects.put(
            tx, shelf.who, bucket, "a", bodies=pieces, size=11, etag="t", now=shelf.world.now
        )
    shelf.put(bucket, "a", pieces=pieces)
    with pytest.raises(UsageError, match="and not 9"):
        shelf.put(bucket, "b", pieces=[Piece(pieces[0].id, 9)])
    shelf.check()


@pytest.mark.parametrize("key", ["", "a" * 1025, "ü" * 513, "a\0b", "\udc80"])
def test_what_cannot_be_a_key(shelf: Shelf, bucket: Bucket, key: str) -> None:
    for act in (
        lambda: shelf.put(bucket, key, pieces=[]),
        lambda: shelf.delete(bucket, key),
        lambda: shelf.hide(bucket, key),
        lambda: head(shelf, bucket, key),
    ):
        with pytest.raises(UsageError):
            act()


def test_a_key_may_have_1024_bytes_and_any_character(shelf: Shelf, bucket: Bucket) -> None:
    odd = ["ü" * 512, "../a", "/", "a//b", " ", "\n", "a\U0010ffff", "%_\\"]
    for key in odd:
        shelf.put(bucket, key, 1)
    assert shelf.keys(bucket) == sorted(odd, key=str.encode)


def test_headers_are_limited(shelf: Shelf, bucket: Bucket) -> None:
    for headers in ({"a": "b" * 8192}, {"a": "\0"}, {"a": "\ud800"}):
        with pytest.raises(UsageError):
            shelf.put(bucket, "a", headers=headers)


def test_a_list_is_in_byte_order_and_within_the_prefix(shelf: Shelf, bucket: Bucket) -> None:
    keys = ["a", "a/", "a/b", "a0", "B", "b", "Z", "é", "e\u0301", "\ud7ff", "\ue000", "\U0001f600",
            "\ufffd", "a/\U0010ffff", "a/\U0010ffff\U0010ffff"]  # fmt: skip
    other = shelf.bucket("other")
    for key in keys:
        shelf.put(bucket, key, 1)
        shelf.put(other, f"{key}x", 1)
    ordered = sorted(keys, key=str.encode)
    assert shelf.keys(bucket) == ordered
    for prefix in ["", "a", "a/", "a/\U0010ffff", "B", "\ud7ff", "\U0010ffff", "é", "x"]:
        wanted = [each for each in ordered if each.startswith(prefix)]
        assert shelf.keys(bucket, prefix=prefix) == wanted
        for after in [*keys, "0", "\U0010ffff\U0010ffff"]:
            behind = [each for each in wanted if each > after]
            assert shelf.keys(bucket, prefix=prefix, after=after) == behind
            assert shelf.keys(bucket, prefix=prefix, after=after, limit=2) == behind[:2]
            at = [each for each in wanted if each >= after]
            assert shelf.keys(bucket, prefix=prefix, begin_at=after) == at


def test_a_directory_is_listed_as_far_as_something_is_seen(shelf: Shelf, bucket: Bucket) -> None:
    """Hidden keys (-) are listed until then: a view may show one of that name."""
    many = [f"many/{number:03}" for number in range(150)]
    for key in (*many, "flat", "hid/a", "hid/b", "hid/c", "none/a", "odd//b", "z/only"):
        shelf.put(bucket, key, 1)
    for key in ("hid/a", "none/a", "many/000"):
        shelf.hide(bucket, key)
    listed = [
        "flat",
        "-hid/a",
        "hid/b",
        "-many/000",
        "many/001",
        "-none/a",
        "odd//b",
        "z/only",
    ]
    assert shelf.keys(bucket, delimiter="/") == listed
    assert shelf.keys(bucket, delimiter="/", limit=4) == listed[:4]
    assert shelf.keys(bucket, delimiter="/", after="many/100") == ["many/101", *listed[5:]]
    assert shelf.keys(bucket, prefix="many/", delimiter="/") == ["-many/000", *many[1:]]
    assert shelf.keys(bucket, prefix="odd/", delimiter="/") == ["odd//b"]
    assert shelf.keys(bucket, prefix="odd/", delimiter="//") == ["odd//b"]


def test_a_directory_is_passed_over_by_its_end() -> None:
    assert end_of("a/") == "a0"
    assert end_of("a\U0010ffff") == "b"
    assert end_of("\ud7ff") == "\ue000"
    assert end_of("") is None
    assert end_of("\U0010ffff") is None


@pytest.mark.parametrize("wrong", ["a\0", "\ud800"])
def test_positions_that_no_database_knows(shelf: Shelf, bucket: Bucket, wrong: str) -> None:
    for fields in ({"prefix": wrong}, {"after": wrong}, {"begin_at": wrong}):
        with pytest.raises(UsageError):
            shelf.keys(bucket, **fields)


def test_deleting_returns_what_was_there(shelf: Shelf, bucket: Bucket) -> None:
    for key in ("a", "b", "c"):
        shelf.put(bucket, key, 5)
    assert shelf.delete(bucket, "c", "nothing", "a", "a") == ["a", "c"]
    assert shelf.delete(bucket, "c") == []
    assert (shelf.keys(bucket), shelf.stored(bucket)) == (["b"], 5)
    shelf.check()
    with pytest.raises(UsageError, match="1000"):
        shelf.delete(bucket, *map(str, range(1001)))


def test_hiding_removes_the_object_and_hides_the_files_of_views(
    shelf: Shelf, bucket: Bucket
) -> None:
    shelf.put(bucket, "a", 5)
    assert shelf.hide(bucket, "b", "a") == ["a", "b"]
    assert shelf.keys(bucket) == ["-a", "-b"]
    assert (shelf.stored(bucket), shelf.world.again(bucket).objects) == (0, 0)
    for key in ("a", "b"):
        assert head(shelf, bucket, key, hidden=True).hidden
        with pytest.raises(NoSuchKey):
            head(shelf, bucket, key)
    assert shelf.delete(bucket, "a") == []
    assert shelf.keys(bucket) == ["-a", "-b"]
    shelf.put(bucket, "b", 7)
    assert shelf.keys(bucket) == ["-a", "b"]
    shelf.check()


def test_what_is_hidden_is_put_without_the_right_to_delete(shelf: Shelf, bucket: Bucket) -> None:
    shelf.hide(bucket, "a")
    member = shelf.world.principal(rights=[Right.CREATE])
    shelf.put(bucket, "a", who=member)
    with pytest.raises(Forbidden, match="delete"):
        shelf.put(bucket, "a", who=member)
    shelf.check()


def test_a_copy_shares_the_bodies(shelf: Shelf, bucket: Bucket) -> None:
    source = shelf.put(bucket, "a", 5, content_type="text/x", headers={"h": "1"})
    shelf.world.advance(minutes=1)
    plain = shelf.copy(bucket, "a", bucket, "b")
    assert (plain.bodies, plain.etag, plain.content_type, plain.headers) == (
        source.bodies, source.etag, "text/x", {"h": "1"},
    )  # fmt: skip
    assert plain.modified_at == shelf.world.now
    other = shelf.copy(bucket, "a", bucket, "c", content_type="text/y", headers={})
    assert (other.content_type, other.headers) == ("text/y", {})
    assert (shelf.stored(bucket), shelf.world.again(bucket).objects) == (5, 3)
    shelf.check()
    shelf.delete(bucket, "a", "b")
    assert shelf.stored(bucket) == 5
    shelf.delete(bucket, "c")
    assert shelf.stored(bucket) == 0
    shelf.check()


def test_a_copy_onto_itself_changes_the_headers(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "a", 5)
    shelf.copy(bucket, "a", bucket, "a", headers={"h": "2"})
    assert head(shelf, bucket, "a").headers == {"h": "2"}
    assert shelf.stored(bucket) == 5
    shelf.check()


def test_what_is_not_there_is_not_copied(shelf: Shelf, bucket: Bucket) -> None:
    shelf.hide(bucket, "hidden")
    for key in ("nothing", "hidden"):
        for target in ("b", key):
            with pytest.raises(NoSuchKey):
                shelf.copy(bucket, key, bucket, target)
    assert shelf.keys(bucket) == ["-hidden"]


def test_rights_are_words_of_their_own(shelf: Shelf, bucket: Bucket) -> None:
    world = shelf.world
    shelf.put(bucket, "a")

    def without(right: Right) -> Shelf:
        return Shelf(world, world.principal(rights=ALL_RIGHTS - {right}))

    with pytest.raises(Forbidden, match="create"):
        without(Right.CREATE).put(bucket, "b")
    with pytest.raises(Forbidden, match="create"):
        without(Right.CREATE).copy(bucket, "a", bucket, "b")
    keeper = without(Right.DELETE)
    for act in (
        lambda: keeper.delete(bucket, "a"),
        lambda: keeper.hide(bucket, "a"),
        lambda: keeper.put(bucket, "a"),
        lambda: keeper.copy(bucket, "a", bucket, "a"),
    ):
        with pytest.raises(Forbidden, match="delete"):
            act()
    with pytest.raises(Forbidden, match="read"):
        without(Right.READ).keys(bucket)
    with pytest.raises(Forbidden, match="read"):
        head(without(Right.READ), bucket, "a")
    assert without(Right.DELETE).put(bucket, "b")
    shelf.check()


def test_a_host_reads_and_changes_nothing(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "a")
    agent = Shelf(shelf.world, shelf.world.agent(shelf.world.add_host(keeper=True)))
    assert agent.keys(bucket) == ["a"]
    for act in (
        lambda: agent.put(bucket, "b"),
        lambda: agent.copy(bucket, "a", bucket, "b"),
        lambda: agent.delete(bucket, "a"),
        lambda: agent.hide(bucket, "a"),
        lambda: agent.begin(bucket, "b"),
        lambda: agent.bucket("new"),
    ):
        with pytest.raises(Forbidden, match="host's own credential"):
            act()


def test_without_credit_nothing_is_put_and_all_is_read(shelf: Shelf, bucket: Bucket) -> None:
    world = shelf.world
    shelf.put(bucket, "a")
    upload = shelf.begin(bucket, "u")
    part = shelf.part(bucket, upload, 1)
    world.set(world.account, prepaid=True)
    for act in (
        lambda: shelf.put(bucket, "b"),
        lambda: shelf.copy(bucket, "a", bucket, "b"),
        lambda: shelf.begin(bucket, "b"),
        lambda: shelf.part(bucket, upload, 2),
    ):
        with pytest.raises(CreditExhausted):
            act()
    assert shelf.keys(bucket) == ["a"]
    assert shelf.complete(bucket, upload, [part])  # its bytes are stored already
    assert shelf.delete(bucket, "a") == ["a"]
    shelf.check()


def test_the_quota_counts_what_no_meter_has_seen_yet(shelf: Shelf, bucket: Bucket) -> None:
    world = shelf.world
    world.set(world.account, quota_stored_bytes=10 * MB, quota_snapshots=0)
    shelf.put(bucket, "a", 6 * MB)
    with pytest.raises(QuotaExceeded):
        shelf.put(bucket, "b", 5 * MB)
    upload = shelf.begin(bucket, "u")
    shelf.part(bucket, upload, 1, 3 * MB)
    with pytest.raises(QuotaExceeded):
        shelf.part(bucket, upload, 2, 2 * MB)
    shelf.put(bucket, "b", MB)
    shelf.copy(bucket, "a", bucket, "c")  # adds nothing
    with pytest.raises(QuotaExceeded):
        shelf.begin(bucket, "v")
    assert len(shelf.keys(bucket)) == 3


def test_what_is_deleted_is_audited_once_for_a_request(shelf: Shelf, bucket: Bucket) -> None:
    for key in ("a", "b", "c", "d"):
        shelf.put(bucket, key)
    shelf.delete(bucket, "a", "b")
    shelf.delete(bucket, "a", "b")
    shelf.hide(bucket, "c", "x")
    with shelf.world.database.read() as tx:
        entries = tx.scalars(select(AuditEntry).where(AuditEntry.action == "bucket.delete_objects"))
        assert [(each.subject_id, each.before) for each in entries] == [
            (bucket.id, {"bucket": "results", "objects": 2, "first": "a"}),
            (bucket.id, {"bucket": "results", "objects": 2, "first": "c"}),
        ]


def test_nothing_is_put_into_a_bucket_that_is_gone(shelf: Shelf, bucket: Bucket) -> None:
    with shelf.world.database.write() as tx:
        tx.delete(tx.get_one(Bucket, bucket.id))
    for act in (
        lambda: shelf.put(bucket, "a", pieces=[]),
        lambda: shelf.delete(bucket, "a"),
        lambda: shelf.hide(bucket, "a"),
        lambda: shelf.begin(bucket, "a"),
    ):
        with pytest.raises(NoSuchBucket):
            act()


def plan(shelf: Shelf, **fields: Any) -> list[str]:
    """How the database reads a page."""
    database, sent = shelf.world.database, []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "FROM objects" in statement:
            sent.append((statement, values))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        shelf.keys(**fields)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    ((statement, values),) = sent
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{explain} {statement}", values).all()
    return [str(row[-1]) for row in rows]


SPANS: list[dict[str, Any]] = [
    {},
    {"prefix": "logs/2026"},
    {"after": "logs/2026"},
    {"prefix": "logs/", "after": "logs/2026"},
    {"prefix": "logs/", "begin_at": "logs/2026"},
]


def test_a_page_of_a_hundred_thousand_is_read_from_the_index_in_its_order(
    shelf: Shelf, bucket: Bucket
) -> None:
    """By the database's own plan: a span of the index of keys, and nothing sorted."""
    with shelf.world.database.write() as tx:
        numbers = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
            if shelf.world.database.is_sqlite
            else "WITH n(i) AS (SELECT generate_series(1, 100000))"
        )
        tx.execute(
            text(
                "INSERT INTO objects (id, bucket_id, key, hidden, size_bytes, etag, content_type, "
                f"headers, bodies, modified_at) {numbers} SELECT 'id-' || i, :bucket, "
                "'logs/' || (2000 + i % 50) || '/' || i, :no, 1, 'x', 'y', '{}', '[]', "
                "'2026-11-02 10:00:00' FROM n"
            ),
            {"bucket": bucket.id, "no": False},
        )
    if not shelf.world.database.is_sqlite:
        with shelf.world.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("ANALYZE objects"))
    for fields in SPANS:
        found = plan(shelf, bucket=bucket, **fields)
        assert any("uq_objects_bucket_id_key" in each for each in found), found
        assert not any("Sort" in each or "TEMP B-TREE" in each for each in found), found
        bounds = next(each for each in found if each.lstrip().startswith(("Index Cond", "SEARCH")))
        assert re.search(r"key ?>", bounds) or not fields, found
