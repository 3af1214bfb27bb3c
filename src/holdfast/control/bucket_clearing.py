"""Emptying a bucket, one bounded batch in each transaction, for somebody who removes it.

It can be ended at any time and taken up again: what is gone is gone, and the bucket is there
until `buckets.remove` finds it empty. Each batch has its entry in the audit log.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import delete, select

from holdfast.control import buckets, objects, uploads
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Upload, View

AT_ONCE: Final = 1000


def clear(tx: Tx, who: Principal, name: str, *, limit: int = AT_ONCE, now: datetime) -> int:
    """Remove some of what is in a bucket; how much it was, 0 when it is empty.

    Views go with the last of it; their snapshots stay.
    """
    buckets.may_write(who, Right.DELETE)
    bucket = buckets.get(tx, who, name)
    buckets.keep(tx, bucket)
    begun = uploads.lock(tx, select(Upload).where(Upload.bucket_id == bucket.id).limit(limit))
    if begun:
        uploads.give_up(tx, bucket, begun, now=now)
        return len(begun)
    rows = objects.first(tx, bucket, limit)
    if rows:
        objects.take_away(tx, who, bucket, rows, now=now)
        return len(rows)
    tx.execute(delete(View).where(View.bucket_id == bucket.id))
    return 0
