"""Bodies: the pieces in a region's store that objects and parts are made of.

A gateway reserves a body before it writes it, and the object that is made of it counts as
its use. A body without uses goes: a gateway asks which ones are due, removes their bytes and
reports that. Nothing here touches a byte.

Counting: a body is counted once in its account, at the bucket that began first to use it.
When that bucket no longer does, it is counted at the next one that began, and when none is
left, nowhere, from that moment on. So the sum of `stored_bytes` over an account's buckets is
the sum of the bodies in use, and each byte is in the ledger once. Parts of uploads count:
they lie there as well.

Invariant: `uses` and `used_by` are what objects and parts say, and change in the same
transaction as those. A body that was given out as due is never used again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import delete, literal_column, select

from holdfast.control import regions
from holdfast.control.buckets import lock_counters
from holdfast.control.database import Tx
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Body, Region, Repository
from holdfast.errors import NotFound, NotReady, UsageError

RESERVED_FOR: Final = timedelta(hours=24)
"""The longest time from the first byte of an upload to the report of its object."""

RELEASED_FOR: Final = timedelta(minutes=15)
"""How long somebody who had begun to read an object can go on after it was removed."""

_MARGIN: Final = timedelta(minutes=1)
"""Replicas' clocks differ, and one may report an object while another one gives out."""

_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Piece:
    """A body, and how many bytes it has."""

    id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Use:
    """Pieces that something in a bucket is made of, or no longer."""

    bucket_id: str
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class DueBody:
    """A body to be removed, and where it lies."""

    id: str
    repository_id: str
    location: str
    options: Mapping[str, Any]


def pieces_of(kept: Iterable[Mapping[str, Any]]) -> list[Piece]:
    """The `bodies` of an object or part."""
    return [Piece(each["id"], each["bytes"]) for each in kept]


def kept_as(pieces: Iterable[Piece]) -> list[dict[str, Any]]:
    """How an object or part keeps its bodies."""
    return [{"id": each.id, "bytes": each.bytes} for each in pieces]


def check_size(pieces: Iterable[Piece], size_bytes: int) -> None:
    """`UsageError` unless the pieces have so many bytes together."""
    found = sum(each.bytes for each in pieces)
    if found != size_bytes:
        raise UsageError(f"The bodies have {found} bytes together and not {size_bytes}.")


def reserve(tx: Tx, repository_id: str, count: int, *, now: datetime) -> list[str]:
    """Ids for bodies that are about to be written."""
    if tx.get(Repository, repository_id) is None:
        raise NotFound(f"There is no repository {repository_id}.")
    ids = [str(uuid4()) for _ in range(count)]
    tx.add_all(
        Body(id=each, repository_id=repository_id, due_at=now + RESERVED_FOR) for each in ids
    )
    tx.flush()
    return ids


def settle(
    tx: Tx,
    repository_id: str,
    *,
    added: Sequence[Use] = (),
    dropped: Sequence[Use] = (),
    objects: Mapping[str, int] | None = None,
    now: datetime,
) -> None:
    """Count uses that begin and end, and the buckets' bytes and `objects` (by bucket) with them.

    `NotReady` where a body that is to be used was given up meanwhile. The last thing of a
    transaction: it locks the bodies and then the buckets, each in the order of their ids.
    """
    tx.flush()
    change: dict[str, Counter[str]] = defaultdict(Counter)
    sizes: dict[str, int] = {}
    for sign, uses in ((1, added), (-1, dropped)):
        for use in uses:
            for piece in use.pieces:
                change[piece.id][use.bucket_id] += sign
                sizes[piece.id] = piece.bytes
    moved = {body_id: each for body_id, each in change.items() if any(each.values())}
    stored: Counter[str] = Counter()
    for ids in _batches(sorted(moved)):
        rows = _locked(tx, ids)
        for body_id in ids:
            body = rows.get(body_id)
            if body is None or body.repository_id != repository_id:
                raise NotReady(_GIVEN_UP)
            _count(body, moved[body_id], sizes[body_id], stored, now=now)
        tx.flush()
    _add(tx, stored, Counter(objects or {}))


_GIVEN_UP: Final = (
    "What was stored for this object was given up meanwhile, because it was reported too late; "
    "send the object again."
)


def _count(
    body: Body, change: Mapping[str, int], size: int, stored: Counter[str], *, now: datetime
) -> None:
    uses: dict[str, int] = dict(body.used_by)
    if not uses:
        if body.due_at is None or body.due_at <= now:
            raise NotReady(_GIVEN_UP)
        body.size_bytes = size
    elif body.size_bytes != size:
        raise UsageError(f"The body {body.id} has {body.size_bytes} bytes and not {size}.")
    before = next(iter(uses), None)
    for bucket_id, number in change.items():
        uses[bucket_id] = uses.get(bucket_id, 0) + number
    assert min(uses.values()) >= 0, f"the body {body.id} is used less often than not at all"
    left = {bucket_id: number for bucket_id, number in uses.items() if number}
    after = next(iter(left), None)
    if before is not None:
        stored[before] -= size
    if after is not None:
        stored[after] += size
    body.used_by = [[bucket_id, number] for bucket_id, number in left.items()]
    body.uses = sum(left.values())
    body.due_at = None if left else now + RELEASED_FOR


def _add(tx: Tx, stored: Counter[str], objects: Counter[str]) -> None:
    wanted = sorted({each for each in (*stored, *objects) if stored[each] or objects[each]})
    if not wanted:
        return
    for row in lock_counters(tx, wanted):
        row.stored_bytes += stored[row.id]
        row.objects += objects[row.id]
    tx.flush()


def due(tx: Tx, *, limit: int, keys: MasterKeys, now: datetime) -> list[DueBody]:
    """Bodies to be removed, those that wait longest first."""
    rows = tx.execute(
        select(Body.id, Body.repository_id, Region)
        .join(Repository, Repository.id == Body.repository_id)
        .join(Region, Region.id == Repository.region_id)
        # The words themselves and not parameters: only then is the partial index used.
        .where(literal_column("bodies.uses = 0"), Body.due_at <= now - _MARGIN)
        .order_by(Body.due_at)
        .limit(limit)
    ).all()
    options: dict[str, Mapping[str, Any]] = {}
    for _, _, region in rows:
        if region.id not in options:
            options[region.id] = regions.options_of(region, keys)
    return [
        DueBody(body_id, repository_id, region.location, options[region.id])
        for body_id, repository_id, region in rows
    ]


def removed(tx: Tx, ids: Sequence[str], *, now: datetime) -> int:
    """Forget bodies whose bytes are gone; how many those were. One that is in use stays."""
    rows = tx.scalars(
        select(Body.id)
        .where(Body.id.in_(ids), Body.uses == 0, Body.due_at <= now)
        .order_by(Body.id)
        .with_for_update()
    ).all()
    tx.execute(delete(Body).where(Body.id.in_(rows)))
    return len(rows)


def _locked(tx: Tx, ids: Sequence[str]) -> dict[str, Body]:
    rows = tx.scalars(
        select(Body)
        .where(Body.id.in_(ids))
        .order_by(Body.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return {each.id: each for each in rows}


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), _AT_ONCE):
        yield ids[first : first + _AT_ONCE]
