"""Objects: what lies in a bucket under a key, as the bodies that it is made of.

Of two who put an object under one key the one that commits later wins, and the bodies of the
other go. A key can also be hidden: then it is no object, and files of views are not seen
under it. Keys are compared byte by byte in UTF-8, on both databases.

Putting an object is not audited: there are too many, and the object itself says when it was
put. What people delete is, with one entry for each request that deleted something. Lists are
in `object_list`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast.control import audit, credit, quotas
from holdfast.control.bodies import Piece, Use, check_size, kept_as, pieces_of, settle
from holdfast.control.bucket_name import check_key
from holdfast.control.buckets import KIND, keep, may_write
from holdfast.control.database import Tx
from holdfast.control.object_list import is_utf8
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Account, Bucket, StoredObject
from holdfast.errors import Changed, Conflict, NoSuchKey, UsageError

UNTYPED: Final = "binary/octet-stream"
MAX_KEYS: Final = 1000
MAX_HEADER_BYTES: Final = 8192


def put(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    key: str,
    *,
    bodies: Sequence[Piece],
    size: int,
    etag: str,
    content_type: str = UNTYPED,
    headers: Mapping[str, str] | None = None,
    only_new: bool = False,
    now: datetime,
) -> StoredObject:
    """An object of these bodies, in place of what was there; repeated, it is found done.

    With `only_new` raises `Changed` where there is an object of other bodies.
    """
    may_write(who, Right.CREATE)
    check_size(bodies, size)
    check_may_add(tx, bucket, size)
    keep(tx, bucket)
    row = locked(tx, bucket, key, now=now)
    is_done = not row.hidden and row.etag == etag and row.bodies == kept_as(bodies)
    # An empty object has no body of its own by which a repetition could be known.
    if is_done and (bodies or not only_new):
        return row
    if only_new:
        check_new(row)
    place(
        tx,
        who,
        bucket,
        row,
        pieces=bodies,
        etag=etag,
        content_type=content_type,
        headers=headers or {},
        now=now,
    )
    return row


def head(tx: Tx, who: Principal, bucket: Bucket, key: str, *, hidden: bool = False) -> StoredObject:
    """One object; with `hidden` also what says that there is none. `NoSuchKey` otherwise."""
    who.require(Right.READ)
    check_key(key)
    row = tx.scalar(
        select(StoredObject).where(StoredObject.bucket_id == bucket.id, StoredObject.key == key)
    )
    if row is None or (row.hidden and not hidden):
        raise _nothing(bucket, key)
    return row


def copy(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    key: str,
    *,
    source_bucket: Bucket,
    source_key: str,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    only_new: bool = False,
    now: datetime,
) -> StoredObject:
    """The same object under another key; with `headers` those are its own. No byte moves.

    With `only_new` raises `Changed` where there is an object, also when it is repeated: two
    who copy the same one could not be told apart.
    """
    who.require(Right.READ)
    may_write(who, Right.CREATE)
    if source_bucket.repository_id != bucket.repository_id:
        raise UsageError(
            f"The buckets {source_bucket.name} and {bucket.name} lie in different regions; read "
            "the object and put it again."
        )
    credit.check_may_create(tx, tx.get_one(Account, bucket.account_id))
    for each in sorted({source_bucket, bucket}, key=lambda each: each.id):
        keep(tx, each)
    check_key(source_key)
    # The source is locked so that its bodies stay in use; both in one order.
    rows: dict[tuple[str, str], StoredObject | None] = {}
    for place_of in sorted({(source_bucket.id, source_key), (bucket.id, key)}):
        if place_of == (bucket.id, key):
            rows[place_of] = locked(tx, bucket, key, now=now)
        else:
            rows[place_of] = _find_locked(tx, *place_of)
    source, row = rows[source_bucket.id, source_key], rows[bucket.id, key]
    if source is None or source.hidden:
        raise _nothing(source_bucket, source_key)
    assert row is not None
    if only_new:
        check_new(row)
    place(
        tx,
        who,
        bucket,
        row,
        pieces=pieces_of(source.bodies),
        etag=source.etag,
        content_type=source.content_type if content_type is None else content_type,
        headers=source.headers if headers is None else headers,
        now=now,
    )
    return row


def delete(
    tx: Tx, who: Principal, bucket: Bucket, keys: Sequence[str], *, now: datetime
) -> list[str]:
    """Delete objects; returns those of the keys under which there was one. Again is no error."""
    may_write(who, Right.DELETE)
    keep(tx, bucket)
    rows = _many(tx, bucket, keys)
    take_away(tx, who, bucket, rows, now=now)
    return [each.key for each in rows]


def hide(
    tx: Tx, who: Principal, bucket: Bucket, keys: Sequence[str], *, now: datetime
) -> list[str]:
    """Delete objects and hide the files of views under these keys; returns all of them."""
    may_write(who, Right.DELETE)
    wanted = sorted({check_key(each) for each in keys})
    keep(tx, bucket)
    rows = [locked(tx, bucket, each, now=now) for each in wanted]
    there = [each for each in rows if not each.hidden]
    gone = [Use(bucket.id, pieces_of(each.bodies)) for each in there]
    for row in rows:
        row.hidden, row.size_bytes, row.etag, row.bodies = True, 0, "", []
        row.content_type, row.headers, row.modified_at = UNTYPED, {}, now
    settle(tx, bucket.repository_id, dropped=gone, objects={bucket.id: -len(there)}, now=now)
    _audit(tx, who, bucket, wanted, now=now)
    return wanted


def take_away(
    tx: Tx, who: Principal, bucket: Bucket, rows: Sequence[StoredObject], *, now: datetime
) -> None:
    """Delete locked objects of a bucket that is kept."""
    if not rows:
        return
    gone = [Use(bucket.id, pieces_of(each.bodies)) for each in rows]
    tx.execute(delete_rows(StoredObject).where(StoredObject.id.in_([each.id for each in rows])))
    settle(tx, bucket.repository_id, dropped=gone, objects={bucket.id: -len(rows)}, now=now)
    _audit(tx, who, bucket, [each.key for each in rows], now=now)


def check_may_add(tx: Tx, bucket: Bucket, size: int) -> None:
    """Raise `CreditExhausted` or `QuotaExceeded` unless the account may store so much more.

    What is replaced still counts: its bytes go only afterwards.
    """
    account = tx.get_one(Account, bucket.account_id)
    credit.check_may_create(tx, account)
    quotas.check(tx, account, snapshots=0, stored_bytes=size)


def locked(tx: Tx, bucket: Bucket, key: str, *, now: datetime) -> StoredObject:
    """What is under a key, locked; where there was nothing it is made, as a hidden one."""
    check_key(key)
    insert = sqlite.insert if tx.connection().dialect.name == "sqlite" else postgresql.insert
    empty = {"bucket_id": bucket.id, "key": key, "hidden": True, "modified_at": now}
    for _ in range(5):
        row = _find_locked(tx, bucket.id, key)
        if row is not None:
            return row
        # Of two who make it, one waits here for the other and finds its row.
        tx.execute(insert(StoredObject).values(empty).on_conflict_do_nothing())
    raise Conflict(f"The object {key[:80]!r} is put and deleted by others all the time; try again.")


def check_new(row: StoredObject) -> None:
    """`Changed` unless there is no object under a locked row's key."""
    if not row.hidden:
        raise Changed(
            f"There is an object {row.key[:80]!r} by now, and only a new one was to be put; "
            "nothing was changed. Read that one, or choose another key."
        )


def place(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    row: StoredObject,
    *,
    pieces: Sequence[Piece],
    etag: str,
    content_type: str,
    headers: Mapping[str, str],
    dropped: Sequence[Use] = (),
    uses_begin: bool = True,
    now: datetime,
) -> None:
    """Make a locked row an object of these pieces; `Forbidden` where that needs to replace one.

    `dropped` goes besides. Not `uses_begin`: the pieces are in use in this bucket already.
    """
    replaces = not row.hidden
    if replaces:
        who.require(Right.DELETE)
    kept = checked_headers(headers)
    gone = [Use(bucket.id, pieces_of(row.bodies)), *dropped]
    row.hidden, row.bodies, row.etag = False, kept_as(pieces), etag
    row.size_bytes = sum(each.bytes for each in pieces)
    row.content_type, row.headers, row.modified_at = content_type, kept, now
    settle(
        tx,
        bucket.repository_id,
        added=[Use(bucket.id, pieces)] if uses_begin else [],
        dropped=gone,
        objects={bucket.id: 0 if replaces else 1},
        now=now,
    )


def _many(tx: Tx, bucket: Bucket, keys: Sequence[str]) -> list[StoredObject]:
    wanted = sorted({check_key(each) for each in keys})
    if len(wanted) > MAX_KEYS:
        raise UsageError(f"At most {MAX_KEYS} objects are deleted at once.")
    found = select(StoredObject).where(
        StoredObject.bucket_id == bucket.id, StoredObject.key.in_(wanted), ~StoredObject.hidden
    )
    return _lock(tx, found)


def first(tx: Tx, bucket: Bucket, limit: int) -> list[StoredObject]:
    """Some objects of a bucket, locked; hidden ones are none."""
    found = select(StoredObject).where(StoredObject.bucket_id == bucket.id, ~StoredObject.hidden)
    return _lock(tx, found.limit(limit))


def _lock(tx: Tx, found: Any) -> list[StoredObject]:
    ordered = found.order_by(StoredObject.key).with_for_update()
    return list(tx.scalars(ordered.execution_options(populate_existing=True)))


def _find_locked(tx: Tx, bucket_id: str, key: str) -> StoredObject | None:
    found = select(StoredObject).where(StoredObject.bucket_id == bucket_id, StoredObject.key == key)
    locking = found.with_for_update().execution_options(populate_existing=True)
    return tx.scalars(locking).first()


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    size = 0
    for name, value in headers.items():
        if "\0" in name + value or not is_utf8(name + value):
            raise UsageError("A header of an object is text in UTF-8 without zero bytes.")
        size += len(name.encode()) + len(value.encode())
    if size > MAX_HEADER_BYTES:
        raise UsageError(
            f"The headers of an object have {size} bytes; at most {MAX_HEADER_BYTES} are kept."
        )
    return dict(headers)


def _audit(tx: Tx, who: Principal, bucket: Bucket, keys: Sequence[str], *, now: datetime) -> None:
    if who.kind == "system" or not keys:
        return
    audit.record(
        tx,
        who,
        "bucket.delete_objects",
        KIND,
        bucket.id,
        now=now,
        before={"bucket": bucket.name, "objects": len(keys), "first": keys[0][:200]},
    )


def _nothing(bucket: Bucket, key: str) -> NoSuchKey:
    return NoSuchKey(f"There is no object {key[:200]!r} in the bucket {bucket.name}.")
