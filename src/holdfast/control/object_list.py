"""Lists of objects, in the byte order of their keys, on both databases.

Rows are read as plain values: a page has a thousand. With a delimiter a directory costs one
step through the index, whatever is in it. Hidden keys are listed, because they hide what
views show.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import select

from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Bucket, StoredObject
from holdfast.errors import UsageError

_LAST: Final = chr(0x10FFFF)
_STRIDE: Final = 64
"""Rows that are read at once where directories are passed over."""


class ListedObject(NamedTuple):
    """One key of a bucket; with `hidden` it hides that key of views made until `modified_at`."""

    key: str
    hidden: bool
    size_bytes: int
    etag: str
    modified_at: datetime


_COLUMNS: Final = (
    StoredObject.key,
    StoredObject.hidden,
    StoredObject.size_bytes,
    StoredObject.etag,
    StoredObject.modified_at,
)


def objects(
    tx: Tx,
    who: Principal,
    bucket: Bucket,
    *,
    prefix: str = "",
    delimiter: str = "",
    after: str | None = None,
    begin_at: str | None = None,
    limit: int = 1000,
) -> list[ListedObject]:
    """Keys with a prefix, only those behind `after`, and from `begin_at` on, also hidden ones.

    With a delimiter those that share what stands up to it, behind the prefix, are listed
    only as far as the first that is not hidden: enough to know that there is something.
    """
    who.require(Right.READ)
    if not delimiter:
        return _rows(tx, bucket, prefix, after=after, begin_at=begin_at, limit=limit)
    grouped = _grouped(tx, bucket, prefix, delimiter, after=after, begin_at=begin_at)
    return list(islice(grouped, limit))


def _grouped(
    tx: Tx,
    bucket: Bucket,
    prefix: str,
    delimiter: str,
    *,
    after: str | None,
    begin_at: str | None,
) -> Iterator[ListedObject]:
    passed = None  # the directory of which enough was listed
    while True:
        rows = _rows(tx, bucket, prefix, after=after, begin_at=begin_at, limit=_STRIDE)
        for row in rows:
            at = row.key.find(delimiter, len(prefix))
            group = None if at < 0 else row.key[: at + len(delimiter)]
            if group is not None and group == passed:
                continue
            yield row
            passed = None if row.hidden else group
        if len(rows) < _STRIDE:
            return
        after = rows[-1].key
        if passed is not None:
            begin_at = end_of(passed)
            if begin_at is None:
                return


def _rows(
    tx: Tx, bucket: Bucket, prefix: str, *, after: str | None, begin_at: str | None, limit: int
) -> list[ListedObject]:
    found = select(*_COLUMNS).where(StoredObject.bucket_id == bucket.id)
    for condition in span(StoredObject.key, prefix, after=after, begin_at=begin_at):
        found = found.where(condition)
    rows = tx.execute(found.order_by(StoredObject.key).limit(limit))
    return [ListedObject(*row) for row in rows]


def span(column: Any, prefix: str, *, after: str | None, begin_at: str | None = None) -> list[Any]:
    """The conditions for keys with a prefix behind a position, as bounds of an index."""
    least = max(prefix, begin_at or "")
    conditions = []
    if after is not None and after >= least:
        conditions.append(column > position(after))
    elif least:
        conditions.append(column >= position(least))
    if (end := end_of(prefix)) is not None:
        conditions.append(column < end)
    return conditions


def end_of(prefix: str) -> str | None:
    """The first text in byte order behind all that begin with `prefix`; None: there is none."""
    kept = position(prefix).rstrip(_LAST)
    if not kept:
        return None
    after = ord(kept[-1]) + 1
    # UTF-8 has no surrogates: behind the last character before them comes the first after.
    return kept[:-1] + chr(0xE000 if after == 0xD800 else after)


def position(text: str) -> str:
    """A place in a list of keys, if both databases can compare with it."""
    if "\0" in text or not is_utf8(text):
        raise UsageError("A prefix or position in a list of keys is text in UTF-8 without NUL.")
    return text


def is_utf8(text: str) -> bool:
    """Whether UTF-8 has it; half a surrogate pair it has not."""
    return not any("\ud800" <= each <= "\udfff" for each in text)
