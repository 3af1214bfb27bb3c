"""Multipart uploads: parts that are stored one by one, in any order, and become one object.

Parts count as stored while they lie there. An upload ends when it is completed or aborted,
and an old one is aborted by the clockwork. The ETag of what it becomes is the MD5 of its
parts' MD5s and their number, as S3 has it, because clients calculate that themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final
from uuid import uuid4

from sqlalchemy import Select, delete, select, tuple_

from holdfast.control import objects
from holdfast.control.bodies import Piece, Use, check_size, kept_as, pieces_of, settle
from holdfast.control.bucket_name import check_key
from holdfast.control.buckets import keep, may_write
from holdfast.control.database import Tx
from holdfast.control.object_list import position, span
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Bucket, StoredObject, Upload, UploadPart
from holdfast.errors import InvalidPart, NoSuchUpload, PartTooSmall, UsageError

LEAST_PART_BYTES: Final = 5 * 1024 * 1024
MAX_PARTS: Final = 10_000
LASTS: Final = timedelta(days=7)

_MD5: Final = re.compile(r"[0-9a-f]{32}")
_ABORTED_AT_ONCE: Final = 20


def begin(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    key: str,
    *,
    content_type: str = objects.UNTYPED,
    headers: Mapping[str, str] | None = None,
    now: datetime,
) -> Upload:
    """A new upload of an object."""
    may_write(who, Right.CREATE)
    check_key(key)
    objects.check_may_add(tx, bucket, 0)
    keep(tx, bucket)
    row = Upload(
        id=str(uuid4()),
        bucket_id=bucket.id,
        key=key,
        content_type=content_type,
        headers=objects.checked_headers(headers or {}),
        started_at=now,
    )
    tx.add(row)
    tx.flush()
    return row


def part(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    key: str,
    upload_id: str,
    *,
    number: int,
    bodies: Sequence[Piece],
    size: int,
    etag: str,
    now: datetime,
) -> UploadPart:
    """A part of these bodies, in place of an earlier one; repeated, it is found done."""
    may_write(who, Right.CREATE)
    if not 1 <= number <= MAX_PARTS or not _MD5.fullmatch(etag):
        raise UsageError(f"A part has a number of 1 to {MAX_PARTS}, and its MD5 as ETag.")
    check_size(bodies, size)
    objects.check_may_add(tx, bucket, size)
    keep(tx, bucket)
    upload = _locked(tx, bucket, key, upload_id)
    row = tx.get(UploadPart, (upload.id, number), populate_existing=True)
    if row is not None and row.etag == etag and row.bodies == kept_as(bodies):
        return row
    gone = []
    if row is None:
        row = UploadPart(upload_id=upload.id, number=number)
        tx.add(row)
    else:
        gone = [Use(bucket.id, pieces_of(row.bodies))]
    row.size_bytes, row.etag, row.bodies, row.stored_at = size, etag, kept_as(bodies), now
    settle(tx, bucket.repository_id, added=[Use(bucket.id, bodies)], dropped=gone, now=now)
    return row


def parts(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    key: str,
    upload_id: str,
    *,
    after: int = 0,
    limit: int = 1000,
) -> tuple[Upload, list[UploadPart]]:
    """An upload and its stored parts by number, those behind `after`."""
    who.require(Right.READ)
    upload = _found(tx.get(Upload, _id(upload_id)), bucket, key, upload_id)
    found = select(UploadPart).where(UploadPart.upload_id == upload.id, UploadPart.number > after)
    return upload, list(tx.scalars(found.order_by(UploadPart.number).limit(limit)))


def uploads(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    *,
    prefix: str = "",
    after_key: str | None = None,
    after_id: str | None = None,
    limit: int = 1000,
) -> list[Upload]:
    """Uploads in progress by key and id, behind (`after_key`, `after_id`)."""
    who.require(Right.READ)
    found = select(Upload).where(Upload.bucket_id == bucket.id)
    paired = after_key is not None and after_id is not None
    for condition in span(Upload.key, prefix, after=None if paired else after_key):
        found = found.where(condition)
    if paired:
        behind = tuple_(position(after_key or ""), position(after_id or ""))
        found = found.where(tuple_(Upload.key, Upload.id) > behind)
    return list(tx.scalars(found.order_by(Upload.key, Upload.id).limit(limit)))


def complete(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    key: str,
    upload_id: str,
    *,
    parts: Sequence[tuple[int, str]],
    only_new: bool = False,
    now: datetime,
) -> StoredObject:
    """The object of these parts, given by number and ETag; parts that are not named go.

    Repeated after its answer was lost, it returns the object that was made of the same parts.
    With `only_new` raises `Changed` where there is another one; the upload stays then.
    """
    may_write(who, Right.CREATE)
    if not 1 <= len(parts) <= MAX_PARTS:
        raise InvalidPart(f"An upload is completed with 1 to {MAX_PARTS} parts.")
    numbers = [number for number, _ in parts]
    if any(left >= right for left, right in pairwise(numbers)):
        raise InvalidPart("The parts are not in ascending order of their numbers.")
    wanted = [(number, etag.strip('"').lower()) for number, etag in parts]
    keep(tx, bucket)
    try:
        upload = _locked(tx, bucket, key, upload_id)
    except NoSuchUpload:
        return _made_before(tx, bucket, key, wanted)
    stored = {
        each.number: each
        for each in tx.scalars(
            select(UploadPart)
            .where(UploadPart.upload_id == upload.id)
            .execution_options(populate_existing=True)
        )
    }
    chosen = _chosen(stored, wanted)
    left = [each for number, each in stored.items() if number not in set(numbers)]
    row = objects.locked(tx, bucket, key, now=now)
    if only_new:
        objects.check_new(row)
    tx.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))
    tx.delete(upload)
    objects.place(
        tx,
        who,
        bucket,
        row,
        pieces=[piece for each in chosen for piece in pieces_of(each.bodies)],
        etag=etag_of([each.etag for each in chosen]),
        content_type=upload.content_type,
        headers=upload.headers,
        dropped=[Use(bucket.id, pieces_of(each.bodies)) for each in left],
        uses_begin=False,
        now=now,
    )
    return row


def abort(
    tx: Tx, who: Principal, bucket: Bucket, key: str, upload_id: str, *, now: datetime
) -> None:
    """Give an upload up; its parts go."""
    may_write(who, Right.CREATE)
    keep(tx, bucket)
    give_up(tx, bucket, [_locked(tx, bucket, key, upload_id)], now=now)


def abort_old(tx: Tx, *, now: datetime) -> int:
    """Give up uploads that nobody has completed for seven days; how many those were.

    One call takes a few. Call it again, in another one, until it returns 0.
    """
    found = tx.execute(
        select(Upload.id, Upload.bucket_id)
        .where(Upload.started_at <= now - LASTS)
        .order_by(Upload.started_at)
        .limit(_ABORTED_AT_ONCE)
    ).all()
    if not found:
        return 0
    bucket_id = found[0].bucket_id
    bucket = tx.get(Bucket, bucket_id)
    if bucket is None:
        return 0
    keep(tx, bucket)
    ids = [each.id for each in found if each.bucket_id == bucket_id]
    rows = lock(tx, select(Upload).where(Upload.id.in_(ids)))
    give_up(tx, bucket, rows, now=now)
    return len(rows)


def etag_of(part_etags: Sequence[str]) -> str:
    """The ETag of an object that is made of parts with these."""
    joined = b"".join(bytes.fromhex(each) for each in part_etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(part_etags)}"


def give_up(tx: Tx, bucket: Bucket, rows: Sequence[Upload], *, now: datetime) -> None:
    """Remove locked uploads of a bucket that is kept, with their parts."""
    ids = [each.id for each in rows]
    found = tx.scalars(select(UploadPart.bodies).where(UploadPart.upload_id.in_(ids)))
    gone = [Use(bucket.id, pieces_of(each)) for each in found]
    tx.execute(delete(UploadPart).where(UploadPart.upload_id.in_(ids)))
    tx.execute(delete(Upload).where(Upload.id.in_(ids)))
    settle(tx, bucket.repository_id, dropped=gone, now=now)


def lock(tx: Tx, found: Select[Upload]) -> list[Upload]:
    """Uploads that a statement selects, locked in the order of their ids."""
    ordered = found.order_by(Upload.id).with_for_update()
    return list(tx.scalars(ordered.execution_options(populate_existing=True)))


def _chosen(
    stored: Mapping[int, UploadPart], wanted: Sequence[tuple[int, str]]
) -> list[UploadPart]:
    chosen = []
    for number, etag in wanted:
        row = stored.get(number)
        if row is None or row.etag != etag:
            raise InvalidPart(
                f"Part {number} was not uploaded, or is another one by now (its ETag is not "
                f"{etag[:40]!r}); list the parts and complete with those."
            )
        chosen.append(row)
    for row in chosen[:-1]:
        if row.size_bytes < LEAST_PART_BYTES:
            raise PartTooSmall(
                f"Part {row.number} has {row.size_bytes} bytes; each part but the last needs at "
                f"least {LEAST_PART_BYTES}. Upload larger parts."
            )
    return chosen


def _made_before(
    tx: Tx, bucket: Bucket, key: str, wanted: Sequence[tuple[int, str]]
) -> StoredObject:
    etags = [etag for _, etag in wanted]
    row = tx.scalar(
        select(StoredObject).where(
            StoredObject.bucket_id == bucket.id, StoredObject.key == key, ~StoredObject.hidden
        )
    )
    if row is None or not all(map(_MD5.fullmatch, etags)) or row.etag != etag_of(etags):
        raise NoSuchUpload(_NO_UPLOAD)
    return row


_NO_UPLOAD: Final = (
    "There is no such upload of this key: it was completed, aborted, or never begun. Begin "
    "a new one."
)


def _locked(tx: Tx, bucket: Bucket, key: str, upload_id: str) -> Upload:
    row = tx.get(Upload, _id(upload_id), with_for_update=True, populate_existing=True)
    return _found(row, bucket, key, upload_id)


def _found(row: Upload | None, bucket: Bucket, key: str, upload_id: str) -> Upload:
    del upload_id
    if row is None or row.bucket_id != bucket.id or row.key != key:
        raise NoSuchUpload(_NO_UPLOAD)
    return row


def _id(upload_id: str) -> str:
    """PostgreSQL refuses text with zero bytes, so what cannot be an id is not asked for."""
    return upload_id if upload_id.isascii() and upload_id.isprintable() else ""
