"""Buckets: named, made, removed, metered, and what is seen in them."""

from __future__ import annotations

from typing import Any

import pytest
from control_money import set_price
from control_shelf import MB, Shelf
from control_world import World
from sqlalchemy import select

from holdfast.control import (
    amounts,
    buckets,
    clockwork,
    metering,
    quotas,
    statements,
    views,
)
from holdfast.control.bucket_name import check_bucket_name
from holdfast.control.principal import ALL_RIGHTS, Principal, Right
from holdfast.control.tables import AuditEntry, Bucket, LedgerEntry, Meter, Snapshot, View
from holdfast.errors import (
    BucketNotEmpty,
    CreditExhausted,
    Forbidden,
    NoSuchBucket,
    QuotaExceeded,
    UsageError,
)


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world)


@pytest.fixture
def bucket(shelf: Shelf) -> Bucket:
    return shelf.bucket()


def named(world: World, who: Principal | None = None) -> list[str]:
    with world.database.read() as tx:
        return [each.name for each in buckets.buckets(tx, who or world.principal())]


def get(world: World, name: str, who: Principal | None = None) -> Bucket:
    with world.database.read() as tx:
        return buckets.get(tx, who or world.principal(), name)


def open_meters(world: World) -> dict[str, int]:
    with world.database.read() as tx:
        rows = tx.scalars(select(Meter).where(Meter.until.is_(None))).all()
    assert {(each.what, each.resource_kind) for each in rows} <= {("stored", "bucket")}
    return {each.resource_id: each.quantity_bytes for each in rows}


def seen(shelf: Shelf, bucket: Bucket) -> list[tuple[str, str]]:
    with shelf.world.database.read() as tx:
        return [(each.prefix, each.snapshot_id) for each in views.views(tx, bucket)]


def add_snapshot(shelf: Shelf, bucket: Bucket, **fields: Any) -> Snapshot:
    world = shelf.world
    source = world.add_source(world.add_host(), "/job", kind="task")
    with world.database.read() as tx:
        repository = tx.get_one(Bucket, bucket.id).repository_id
    fields = {"manifest_id": "aa" * 32, "status": "COMPLETED"} | fields
    return world.insert(
        Snapshot(
            account_id=world.account.id,
            source_id=source.id,
            host_id=source.host_id,
            repository_id=repository,
            created_at=world.now,
            kind="task",
            **fields,
        )
    )


def show(shelf: Shelf, bucket: Bucket, prefix: str, snapshot: Snapshot) -> bool:
    return shelf.world.database.transact(
        lambda tx: views.show(tx, bucket, prefix, snapshot, now=shelf.world.now)
    )


# Names


@pytest.mark.parametrize("name", ["abc", "a" * 63, "0-a.b", "my-bucket.2026", "1.2.3", "a.1.2.3"])
def test_names_that_s3_takes(name: str) -> None:
    assert check_bucket_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "ab", "a" * 64, "Abc", "a_b", "a b", "-ab", "ab-", ".ab", "ab.", "a..b", "a.-b", "a-.b",
     "192.168.0.1", "xn--abc", "abc-s3alias", "abc--ol-s3", "sthree-a", "äbc", "a/b", "abc\n",
     "abc\0"],
)  # fmt: skip
def test_names_that_s3_does_not_take(world: World, name: str) -> None:
    with pytest.raises(UsageError):
        Shelf(world).bucket(name)
    with pytest.raises(NoSuchBucket):
        get(world, name)


# Making and finding


def test_a_bucket_is_the_accounts_own(shelf: Shelf, bucket: Bucket) -> None:
    world = shelf.world
    other = Shelf(world, world.principal(world.add_account("Other")))
    assert get(world, "results").id == bucket.id
    assert (named(world), named(world, other.who)) == (["results"], [])
    with pytest.raises(NoSuchBucket):
        get(world, "results", other.who)
    theirs = other.bucket("results")  # names are of an account
    assert theirs.id != bucket.id
    assert theirs.repository_id != bucket.repository_id


def test_made_again_it_is_the_same(shelf: Shelf, bucket: Bucket) -> None:
    for who in (shelf.who, shelf.world.principal(rights=[Right.CREATE])):
        with shelf.world.database.write() as tx:
            again, made = buckets.create(
                tx, who, "results", keys=shelf.world.keys, now=shelf.world.now
            )
        assert (again.id, made) == (bucket.id, False)
    with shelf.world.database.read() as tx:
        entries = tx.scalars(select(AuditEntry).where(AuditEntry.subject_kind == "bucket")).all()
    assert [(each.action, each.after) for each in entries] == [
        ("bucket.create", {"name": "results"})
    ]


def test_a_bucket_for_results_is_made_by_holdfast_itself(world: World) -> None:
    with world.database.write() as tx:
        row = buckets.ensure(tx, world.account.id, "results", keys=world.keys, now=world.now)
    assert named(world) == ["results"]
    assert (row.account_id, row.region_id) == (world.account.id, world.region.id)


def test_lists_are_by_name_and_newest_first(shelf: Shelf) -> None:
    world = shelf.world
    for name in ("bbb", "ccc", "aaa"):
        shelf.bucket(name)
        world.advance(seconds=1)
    assert named(world) == ["aaa", "bbb", "ccc"]
    with world.database.read() as tx:
        first = buckets.listed(tx, shelf.who, limit=2)
        rest = buckets.listed(tx, shelf.who, limit=2, cursor=first.next_cursor)
    assert [each.name for each in [*first.items, *rest.items]] == ["aaa", "ccc", "bbb"]


def test_a_narrowed_token_extends_to_its_buckets(shelf: Shelf, bucket: Bucket) -> None:
    world = shelf.world
    shelf.bucket("other")
    one = world.principal(resources=frozenset({bucket.id}))
    kind = world.principal(kinds=frozenset({"bucket"}))
    paths = world.principal(kinds=frozenset({"path"}))

    def listed(who: Principal) -> list[str]:
        with world.database.read() as tx:
            page = buckets.listed(tx, who)
        assert sorted(each.name for each in page.items) == named(world, who)
        return named(world, who)

    assert listed(one) == ["results"]
    assert listed(kind) == ["other", "results"]
    assert listed(paths) == []
    for who in (one, paths):
        with pytest.raises(NoSuchBucket):
            get(world, "other", who)
        for name in ("other", "fresh"):
            with pytest.raises(Forbidden, match="limited"):
                shelf.bucket(name, who)
    assert shelf.bucket("fresh", kind).name == "fresh"
    assert shelf.bucket("results", one).id == bucket.id


def test_what_making_needs(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    world = shelf.world
    with pytest.raises(Forbidden):
        shelf.bucket("abc", world.principal(rights=ALL_RIGHTS - {Right.CREATE}))
    with pytest.raises(Forbidden, match="read"):
        named(world, world.principal(rights=[Right.CREATE]))
    shelf.bucket("abc")
    monkeypatch.setattr(buckets, "MOST", 1)
    with pytest.raises(QuotaExceeded, match="1 buckets"):
        shelf.bucket("abd")
    world.set(world.account, prepaid=True)
    with pytest.raises(CreditExhausted):
        shelf.bucket("abd")
    assert shelf.bucket("abc")


# Removing


def test_only_an_empty_bucket_is_removed(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "a")
    with pytest.raises(BucketNotEmpty, match="1 objects"):
        shelf.remove("results")
    shelf.delete(bucket, "a")
    upload = shelf.begin(bucket, "a")
    with pytest.raises(BucketNotEmpty):
        shelf.remove("results")
    shelf.abort(bucket, upload)
    shelf.hide(bucket, "hidden")
    with pytest.raises(Forbidden, match="delete"):
        Shelf(shelf.world, shelf.world.principal(rights=[Right.CREATE])).remove("results")
    shelf.remove("results")
    assert named(shelf.world) == []
    with pytest.raises(NoSuchBucket):
        shelf.remove("results")
    with shelf.world.database.read() as tx:
        (entry,) = tx.scalars(select(AuditEntry).where(AuditEntry.action == "bucket.remove"))
    assert (entry.subject_id, entry.before) == (bucket.id, {"name": "results"})


def test_a_bucket_with_views_goes_when_they_show_nothing(shelf: Shelf, bucket: Bucket) -> None:
    snapshot = add_snapshot(shelf, bucket)
    show(shelf, bucket, "20261102100000/", snapshot)
    with pytest.raises(BucketNotEmpty, match="Snapshots"):
        shelf.remove("results")
    shelf.remove("results", views_empty=True)
    assert shelf.world.again(snapshot).status == "COMPLETED"


def test_its_costs_end_with_it(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "a", 3 * MB)
    shelf.meter()
    shelf.delete(bucket, "a")
    shelf.remove("results")
    assert open_meters(shelf.world) == {}


def test_contents_are_removed_in_batches_that_can_be_taken_up_again(
    shelf: Shelf, bucket: Bucket
) -> None:
    other = shelf.bucket("other")
    for number in range(5):
        shelf.put(bucket, f"{number}", 10)
    shelf.copy(bucket, "0", other, "kept")
    shelf.part(bucket, shelf.begin(bucket, "u"), 1, 10)
    shelf.hide(bucket, "hidden")
    show(shelf, bucket, "", add_snapshot(shelf, bucket))
    assert shelf.clear("results", limit=2) == [1, 2, 2, 1, 0]
    shelf.check()
    assert (shelf.stored(bucket), shelf.stored(other)) == (0, 10)
    assert seen(shelf, bucket) == []
    assert shelf.clear("results") == [0]
    shelf.remove("results")
    assert named(shelf.world) == ["other"]
    with shelf.world.database.read() as tx:
        found = select(AuditEntry).where(AuditEntry.action == "bucket.delete_objects")
        counts = [(each.before or {})["objects"] for each in tx.scalars(found)]
    assert sum(counts) == 5 + 1  # hiding is deleting, too


# Views


def test_a_view_is_seen_while_its_snapshot_is_there(shelf: Shelf, bucket: Bucket) -> None:
    first, second = (add_snapshot(shelf, bucket) for _ in range(2))
    for _ in range(2):
        assert show(shelf, bucket, "b/", first)
    shelf.world.advance(seconds=1)
    show(shelf, bucket, "", second)
    show(shelf, bucket, "c/", first)
    both = seen(shelf, bucket)
    assert both[0] == ("b/", first.id)
    assert sorted(both[1:]) == [("", second.id), ("c/", first.id)]
    shelf.world.set(first, status="DELETED")
    assert seen(shelf, bucket) == [("", second.id)]
    shelf.world.set(first, status="COMPLETED")
    with shelf.world.database.write() as tx:
        (row,) = tx.scalars(select(View).where(View.prefix == ""))
        row.removed_at = shelf.world.now
    assert [prefix for prefix, _ in seen(shelf, bucket)] == ["b/", "c/"]
    with shelf.world.database.read() as tx:
        view = views.views(tx, bucket)[0]
    assert (view.manifest_id, view.captured_path) == ("aa" * 32, "/job")
    assert view.repository_id == bucket.repository_id


def test_where_a_view_cannot_be(shelf: Shelf, bucket: Bucket) -> None:
    snapshot = add_snapshot(shelf, bucket)
    with pytest.raises(UsageError, match="slash"):
        show(shelf, bucket, "a", snapshot)
    shelf.remove("results")
    assert not show(shelf, bucket, "a/", snapshot)
    other = Shelf(shelf.world, shelf.world.principal(shelf.world.add_account("Other")))
    with pytest.raises(UsageError, match="own account"):
        show(shelf, other.bucket(), "", snapshot)


# Costs


def test_meters_follow_what_is_stored(shelf: Shelf, bucket: Bucket) -> None:
    world, other = shelf.world, shelf.bucket("other")
    theirs = Shelf(world, world.principal(world.add_account("Other")))
    foreign = theirs.bucket()
    shelf.put(bucket, "a", 3 * MB)
    shelf.copy(bucket, "a", other, "a")
    theirs.put(foreign, "a", 7 * MB)
    assert shelf.meter() == 2
    assert open_meters(world) == {bucket.id: 3 * MB, foreign.id: 7 * MB}
    assert shelf.meter() == 0
    shelf.delete(bucket, "a")
    assert shelf.meter() == 2
    assert open_meters(world) == {other.id: 3 * MB, foreign.id: 7 * MB}


def test_a_tick_meters_a_bounded_number(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_METERED_AT_ONCE", 2)
    for name in ("aaa", "bbb", "ccc"):
        shelf.put(shelf.bucket(name), "a")
    assert [shelf.meter() for _ in range(3)] == [2, 1, 0]


def test_nothing_to_meter_costs_one_look_at_an_index(shelf: Shelf, bucket: Bucket) -> None:
    from test_control_list_plans import plan
    from test_control_list_plans import statements as sent_in

    with sent_in(shelf.world.database) as sent:
        assert shelf.meter() == 0
    ((text, values),) = sent
    found = plan(shelf.world.database, text, values)
    assert any("ix_buckets_unmetered" in line for line in found), found


def test_usage_is_what_lies_there_and_not_what_was_metered(shelf: Shelf, bucket: Bucket) -> None:
    shelf.put(bucket, "a", 3 * MB)

    def used() -> int:
        with shelf.world.database.read() as tx:
            return quotas.usage(tx, shelf.who).stored_bytes

    assert used() == 3 * MB
    shelf.meter()
    assert used() == 3 * MB
    shelf.delete(bucket, "a")
    assert used() == 0


def test_the_clockwork_meters_aborts_and_books(shelf: Shelf, bucket: Bucket) -> None:
    world = shelf.world
    shelf.put(bucket, "a", 2 * MB)
    shelf.part(bucket, shelf.begin(bucket, "u"), 1, MB)
    ticking = clockwork.Clockwork(world.database, world.keys, replica_id="one")
    ticking.tick(world.now)
    assert open_meters(world) == {bucket.id: 3 * MB}
    ticking.tick(world.advance(days=7, minutes=1))
    ticking.tick(world.advance(hours=2))
    assert open_meters(world) == {bucket.id: 2 * MB}
    with world.database.read() as tx:
        lines = tx.scalars(select(LedgerEntry).order_by(LedgerEntry.hour)).all()
    assert {each.resource_kind for each in lines} == {"bucket"}
    assert [each.quantity_mb for each in lines][:2] == [3, 3]
    assert lines[-1].quantity_mb == 2


@pytest.mark.parametrize("group_by", ["resource", "label", "schedule", "snapshot"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_statement_names_buckets(
    shelf: Shelf, bucket: Bucket, group_by: str, *, gone: bool
) -> None:
    world = shelf.world
    set_price(world, "1")
    shelf.put(bucket, "a", 1000 * MB)
    shelf.meter()
    world.advance(hours=3)
    world.database.transact(lambda tx: metering.book_hours(tx, now=world.now))
    if gone:
        shelf.delete(bucket, "a")
        shelf.remove("results")
    with world.database.read() as tx:
        (line,) = statements.statement(tx, shelf.who, year=2026, month=11, group_by=group_by).lines
    named = ("(none)", "(none)") if group_by == "label" else (bucket.id, "bucket results")
    assert (line.group, line.name) == named
    assert (line.quantity, amounts.exact(line.cost_femto)) == (3000, "3")


def test_s2_the_list_is_read_in_the_order_of_an_index(shelf: Shelf, bucket: Bucket) -> None:
    from test_control_list_plans import check
    from test_control_list_plans import statements as sent_in

    shelf.bucket("other")
    for who in (shelf.who, shelf.world.principal(resources=frozenset({bucket.id}))):
        with sent_in(shelf.world.database) as sent, shelf.world.database.read() as tx:
            page = buckets.listed(tx, who, limit=1)
            if page.next_cursor is not None:
                buckets.listed(tx, who, limit=1, cursor=page.next_cursor)
        check(shelf.world.database, sent)
