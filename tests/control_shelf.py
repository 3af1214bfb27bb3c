"""A shelf: one account's buckets in a small world, and short ways to use them.

Every act is a transaction of its own, as a gateway's call is. Bodies are reserved as a
gateway does it; their bytes exist nowhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from control_world import World
from sqlalchemy import select

from holdfast.control import bodies, bucket_clearing, buckets, object_list, objects, uploads
from holdfast.control.bodies import Piece
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import Body, Bucket, StoredObject, Upload, UploadPart

_T = TypeVar("_T")

MB = 1_000_000
PART = 5 * 1024 * 1024


def md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass")).hexdigest()


class Shelf:
    """Buckets of `world.account`, used by `who`."""

    def __init__(self, world: World, who: Principal | None = None) -> None:
        self.world = world
        self.who = who or world.principal()

    def _do(self, act: Callable[[Tx], _T]) -> _T:
        # Not `transact`, which would try again after two had waited for each other.
        with self.world.database.write() as tx:
            return act(tx)

    def bucket(self, name: str = "results", who: Principal | None = None) -> Bucket:
        return self._do(
            lambda tx: buckets.create(
                tx, who or self.who, name, keys=self.world.keys, now=self.world.now
            )[0]
        )

    def pieces(self, bucket: Bucket, *sizes: int) -> list[Piece]:
        """Reserved bodies of these sizes."""
        ids = self._do(
            lambda tx: bodies.reserve(tx, bucket.repository_id, len(sizes), now=self.world.now)
        )
        return [Piece(body_id, size) for body_id, size in zip(ids, sizes, strict=True)]

    def put(
        self,
        bucket: Bucket,
        key: str,
        size: int = MB,
        *,
        etag: str | None = None,
        pieces: list[Piece] | None = None,
        who: Principal | None = None,
        **fields: Any,
    ) -> StoredObject:
        stored = self.pieces(bucket, size) if pieces is None else pieces
        return self._do(
            lambda tx: objects.put(
                tx,
                who or self.who,
                bucket,
                key,
                bodies=stored,
                size=sum(each.bytes for each in stored),
                etag=etag or md5(f"{key}{stored}"),
                now=self.world.now,
                **fields,
            )
        )

    def copy(
        self, source: Bucket, source_key: str, bucket: Bucket, key: str, **fields: Any
    ) -> StoredObject:
        return self._do(
            lambda tx: objects.copy(
                tx,
                self.who,
                bucket,
                key,
                source_bucket=source,
                source_key=source_key,
                now=self.world.now,
                **fields,
            )
        )

    def delete(self, bucket: Bucket, *keys: str, who: Principal | None = None) -> list[str]:
        return self._do(
            lambda tx: objects.delete(tx, who or self.who, bucket, keys, now=self.world.now)
        )

    def hide(self, bucket: Bucket, *keys: str) -> list[str]:
        return self._do(lambda tx: objects.hide(tx, self.who, bucket, keys, now=self.world.now))

    def begin(self, bucket: Bucket, key: str, **fields: Any) -> Upload:
        return self._do(
            lambda tx: uploads.begin(tx, self.who, bucket, key, now=self.world.now, **fields)
        )

    def part(
        self,
        bucket: Bucket,
        upload: Upload,
        number: int,
        size: int = PART,
        *,
        pieces: list[Piece] | None = None,
        etag: str | None = None,
    ) -> UploadPart:
        stored = self.pieces(bucket, size) if pieces is None else pieces
        return self._do(
            lambda tx: uploads.part(
                tx,
                self.who,
                bucket,
                upload.key,
                upload.id,
                number=number,
                bodies=stored,
                size=sum(each.bytes for each in stored),
                etag=etag or md5(f"{number}{stored}"),
                now=self.world.now,
            )
        )

    def complete(
        self,
        bucket: Bucket,
        upload: Upload,
        parts: Iterable[UploadPart | tuple[int, str]],
        **fields: Any,
    ) -> StoredObject:
        named = [each if isinstance(each, tuple) else (each.number, each.etag) for each in parts]
        return self._do(
            lambda tx: uploads.complete(
                tx,
                self.who,
                bucket,
                upload.key,
                upload.id,
                parts=named,
                now=self.world.now,
                **fields,
            )
        )

    def abort(self, bucket: Bucket, upload: Upload) -> None:
        self._do(
            lambda tx: uploads.abort(
                tx, self.who, bucket, upload.key, upload.id, now=self.world.now
            )
        )

    def remove(self, name: str = "results", **fields: Any) -> str:
        self._do(lambda tx: buckets.remove(tx, self.who, name, now=self.world.now, **fields))
        return name

    def clear(self, name: str = "results", limit: int = 1000) -> list[int]:
        """Empty a bucket; how much each batch removed."""
        counts: list[int] = []
        while not counts or counts[-1]:
            counts.append(
                self._do(
                    lambda tx: bucket_clearing.clear(
                        tx, self.who, name, limit=limit, now=self.world.now
                    )
                )
            )
        return counts

    def meter(self) -> int:
        return self._do(lambda tx: buckets.meter(tx, now=self.world.now))

    def keys(self, bucket: Bucket, **fields: Any) -> list[str]:
        """The keys in the bucket as it is listed; hidden ones with a minus."""
        with self.world.database.read() as tx:
            found = object_list.objects(tx, self.who, bucket, **fields)
        return [f"-{each.key}" if each.hidden else each.key for each in found]

    def stored(self, bucket: Bucket) -> int:
        return self.world.again(bucket).stored_bytes

    def check(self) -> None:
        """Every counter is what a new count gives, for all buckets of all accounts."""
        with self.world.database.read() as tx:
            rows = tx.scalars(select(StoredObject)).all()
            parts = tx.execute(
                select(Upload.bucket_id, UploadPart.bodies).join(
                    Upload, Upload.id == UploadPart.upload_id
                )
            ).all()
            uses: dict[str, Counter[str]] = {}
            for bucket_id, kept in [*((row.bucket_id, row.bodies) for row in rows), *parts]:
                for each in kept:
                    uses.setdefault(each["id"], Counter())[bucket_id] += 1
            stored: Counter[str] = Counter()
            for body in tx.scalars(select(Body)):
                used_by = dict(body.used_by)
                assert used_by == dict(uses.pop(body.id, Counter()))
                assert body.uses == sum(used_by.values())
                assert (body.due_at is None) == bool(body.uses)
                if used_by:
                    stored[body.used_by[0][0]] += body.size_bytes
            assert not uses, "an object is made of a body that is not there"
            count = Counter(row.bucket_id for row in rows if not row.hidden)
            for bucket in tx.scalars(select(Bucket)):
                assert bucket.stored_bytes == stored[bucket.id], bucket.name
                assert bucket.objects == count[bucket.id], bucket.name
            for row in rows:
                assert row.size_bytes == sum(each["bytes"] for each in row.bodies)
                assert not (row.hidden and row.bodies)
