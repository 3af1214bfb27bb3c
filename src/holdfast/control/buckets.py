"""Buckets: named places of an account for objects, and for snapshots that are seen in them.

A bucket lies in the account's region and its bodies in the account's repository there. Its
row carries what is stored, changed in the transaction that changes its objects; the
clockwork brings its meter after it.

Everything that changes what is in a bucket locks in this order, so that nobody waits in a
circle: account, bucket (shared: it is not removed meanwhile), upload, objects by key, bodies
by id, buckets' counters by id. All of it comes behind the order of `completion`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import delete, exists, func, literal_column, select
from sqlalchemy.exc import IntegrityError

from holdfast.control import audit, credit, metering, regions, views
from holdfast.control.bucket_name import check_bucket_name
from holdfast.control.database import Tx
from holdfast.control.ledger import lock_account
from holdfast.control.paging import DEFAULT_LIMIT, Order, Page, page
from holdfast.control.prices import STORED
from holdfast.control.principal import Principal, Right, system
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account, Bucket, StoredObject, Upload, View
from holdfast.errors import BucketNotEmpty, Forbidden, NoSuchBucket, QuotaExceeded

KIND: Final = "bucket"
"""What a token is narrowed to that extends to buckets only, and what meters call them."""

MOST: Final = 1000
_METERED_AT_ONCE: Final = 500


def create(
    tx: Tx, who: Principal, name: str, *, keys: MasterKeys, now: datetime
) -> tuple[Bucket, bool]:
    """The account's bucket of that name, and whether it was made now; again is no error."""
    may_write(who, Right.CREATE)
    check_bucket_name(name)
    found = _find(tx, who.account_id, name)
    if found is not None and who.covers(KIND, found.id):
        return found, False
    if not who.covers(KIND):
        raise Forbidden(
            "This token is limited to parts of the account and cannot make a bucket; use one "
            "that is not, or have the bucket made."
        )
    account = tx.get_one(Account, who.account_id)
    credit.check_may_create(tx, account)
    if tx.scalars(select(func.count()).where(Bucket.account_id == account.id)).one() >= MOST:
        raise QuotaExceeded(f"An account has at most {MOST} buckets; remove some first.")
    repository = regions.repository_for(tx, account.id, account.region_id, keys=keys, now=now)
    row = Bucket(
        account_id=account.id,
        region_id=repository.region_id,
        repository_id=repository.id,
        name=name,
        created_at=now,
        objects=0,
        stored_bytes=0,
        metered_bytes=0,
    )
    try:
        with tx.begin_nested():
            tx.add(row)
    except IntegrityError:  # another transaction made it meanwhile
        return get(tx, who, name), False
    audit.record(tx, who, "bucket.create", KIND, row.id, now=now, after={"name": name})
    return row, True


def ensure(tx: Tx, account_id: str, name: str, *, keys: MasterKeys, now: datetime) -> Bucket:
    """The account's bucket of that name, made by Holdfast itself where there is none."""
    return create(tx, system(account_id), name, keys=keys, now=now)[0]


def get(tx: Tx, who: Principal, name: str) -> Bucket:
    """A bucket by its name; `NoSuchBucket`. What may be done in it is for others to check."""
    row = _find(tx, who.account_id, name)
    if row is None or not who.covers(KIND, row.id):
        raise NoSuchBucket(
            f"There is no bucket {name[:80]!r} in this account; list its buckets, or make it."
        )
    return row


def show(tx: Tx, who: Principal, name: str) -> Bucket:
    """A bucket by its name, for somebody who may see what there is."""
    who.require(Right.READ)
    return get(tx, who, name)


def buckets(tx: Tx, who: Principal) -> list[Bucket]:
    """All buckets that the one who asks extends to, by name."""
    who.require(Right.READ)
    found = select(Bucket).where(Bucket.account_id == who.account_id).order_by(Bucket.name)
    return [each for each in tx.scalars(found) if who.covers(KIND, each.id)]


def listed(
    tx: Tx, who: Principal, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[Bucket]:
    """The buckets that the one who asks extends to, newest first."""
    who.require(Right.READ)
    found = select(Bucket).where(Bucket.account_id == who.account_id)
    if who.kinds and KIND not in who.kinds:
        found = found.where(literal_column("1") == 0)
    sieve = [Bucket.id.in_(sorted(who.resources))] if who.resources else []
    order: list[Order] = [Bucket.created_at.desc(), Bucket.id.desc()]
    return page(tx, found, order=order, cursor=cursor, limit=limit, sieve=sieve)


def remove(tx: Tx, who: Principal, name: str, *, views_empty: bool = False, now: datetime) -> None:
    """Remove a bucket in which nothing is; `BucketNotEmpty` otherwise.

    Whether views show any file only a gateway can tell, by `views_empty`; else a bucket with
    views is not empty. Their snapshots stay.
    """
    may_write(who, Right.DELETE)
    row = get(tx, who, name)
    lock_account(tx, row.account_id)
    row = _locked(tx, row)
    if row.objects or _has(tx, StoredObject, row) or _has(tx, Upload, row):
        raise BucketNotEmpty(
            f"The bucket {name} is not empty; delete its {row.objects} objects and abort its "
            "uploads first, or ask for its contents to be removed with it."
        )
    if not views_empty and views.has_any(tx, row):
        raise BucketNotEmpty(
            f"Snapshots of tasks are seen in the bucket {name}; delete what is in it first, or "
            "ask for its contents to be removed with it. The snapshots themselves stay."
        )
    assert not row.stored_bytes, "nothing is in the bucket, and something is counted"
    set_meters(tx, [row], now=now)
    tx.execute(delete(View).where(View.bucket_id == row.id))
    tx.execute(delete(StoredObject).where(StoredObject.bucket_id == row.id))  # hidden ones
    audit.record(tx, who, "bucket.remove", KIND, row.id, now=now, before={"name": row.name})
    tx.delete(row)
    tx.flush()


def meter(tx: Tx, *, now: datetime) -> int:
    """Bring the meters of buckets after what they store; how many those were.

    One call takes up to 500 buckets. Call it again, in another one, until it returns 0.
    """
    behind: dict[str, list[str]] = defaultdict(list)
    # The words themselves and not columns: only then is the partial index used.
    for account_id, bucket_id in tx.execute(
        select(Bucket.account_id, Bucket.id)
        .where(literal_column("stored_bytes <> metered_bytes"))
        .order_by(Bucket.account_id, Bucket.id)
        .limit(_METERED_AT_ONCE)
    ):
        behind[account_id].append(bucket_id)
    metered = 0
    for account_id, ids in behind.items():
        lock_account(tx, account_id)
        rows = lock_counters(tx, ids)
        set_meters(tx, rows, now=now)
        metered += len(rows)
    return metered


def lock_counters(tx: Tx, ids: Sequence[str]) -> Sequence[Bucket]:
    """Buckets with what they count, locked in the order of their ids; one that is gone is not.

    Others who have a bucket stay go on beside it.
    """
    return tx.scalars(
        select(Bucket)
        .where(Bucket.id.in_(ids))
        .order_by(Bucket.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()


def set_meters(tx: Tx, rows: Sequence[Bucket], *, now: datetime) -> None:
    """Set the meters of one account's buckets; the account and they are locked."""
    by_region: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        by_region[row.region_id][row.id] = row.stored_bytes
        row.metered_bytes = row.stored_bytes
    for region_id, quantities in by_region.items():
        metering.set_quantities(
            tx,
            account_id=rows[0].account_id,
            region_id=region_id,
            what=STORED,
            resource_kind=KIND,
            quantities=quantities,
            now=now,
        )


def may_write(who: Principal, right: Right) -> None:
    """Raise `Forbidden` unless the one who asks may change buckets so; agents only read."""
    who.require(right)
    if who.kind == "agent":
        raise Forbidden("A host's own credential reads from buckets and changes nothing in them.")


def keep(tx: Tx, bucket: Bucket) -> None:
    """Have a bucket stay until the transaction ends; `NoSuchBucket` where it went meanwhile."""
    found = select(Bucket.id).where(Bucket.id == bucket.id)
    # FOR KEY SHARE: any number of writers go on beside each other.
    if tx.scalars(found.with_for_update(read=True, key_share=True)).first() is None:
        raise NoSuchBucket(f"The bucket {bucket.name} was removed meanwhile; make it again.")


def _find(tx: Tx, account_id: str, name: str) -> Bucket | None:
    # PostgreSQL refuses text with zero bytes, so what cannot be a name is not asked for.
    if not name.isascii() or not name.isprintable():
        return None
    return tx.scalar(select(Bucket).where(Bucket.account_id == account_id, Bucket.name == name))


def _locked(tx: Tx, bucket: Bucket) -> Bucket:
    """The bucket as it is now; nobody puts anything into it until the transaction ends."""
    found = select(Bucket).where(Bucket.id == bucket.id).with_for_update()
    row = tx.scalars(found.execution_options(populate_existing=True)).first()
    if row is None:
        raise NoSuchBucket(f"The bucket {bucket.name} was removed meanwhile.")
    return row


def _has(tx: Tx, table: type[StoredObject] | type[Upload], bucket: Bucket) -> bool:
    if table is StoredObject:
        found = exists().where(StoredObject.bucket_id == bucket.id, ~StoredObject.hidden)
    else:
        found = exists().where(Upload.bucket_id == bucket.id)
    return bool(tx.scalar(select(found)))
