"""Buckets: named objects of an account, and snapshots that are seen among them.

The bytes of an object lie in the region's store as bodies, which gateways write, read and
remove; here is what there is, and which bodies nobody needs.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import (
    Base,
    Id,
    Json,
    JsonList,
    NewId,
    Number,
    Time,
    UtcTime,
)

# Keys are compared byte by byte, as S3 lists them, whatever the database's language is.
KeyText = Text().with_variant(Text(collation="C"), "postgresql")


class Bucket(Base):
    """A bucket of an account, by its name.

    `objects` counts those that are not hidden. `stored_bytes` is the sum over the bodies
    that are counted here, `metered_bytes` what the meter was set to last.
    """

    __tablename__ = "buckets"
    __table_args__ = (
        UniqueConstraint("account_id", "name"),
        Index(None, "account_id", "created_at", "id"),
        Index(
            "ix_buckets_unmetered",
            "account_id",
            "id",
            sqlite_where=text("stored_bytes <> metered_bytes"),
            postgresql_where=text("stored_bytes <> metered_bytes"),
        ),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    repository_id: Mapped[str] = mapped_column(ForeignKey("repositories.id"))
    name: Mapped[str] = mapped_column(String(63))
    created_at: Mapped[Time]
    objects: Mapped[Number] = mapped_column(default=0)
    stored_bytes: Mapped[Number] = mapped_column(default=0)
    metered_bytes: Mapped[Number] = mapped_column(default=0)


class StoredObject(Base):
    """An object. `bodies` are ``[{"id": body id, "bytes": n}]``, read one after another.

    With `hidden` it is none: it says that a file of a view of that name was deleted.
    `etag` has no quotation marks.
    """

    __tablename__ = "objects"
    __table_args__ = (Index("uq_objects_bucket_id_key", "bucket_id", "key", unique=True),)

    id: Mapped[NewId]
    bucket_id: Mapped[str] = mapped_column(ForeignKey("buckets.id"))
    key: Mapped[str] = mapped_column(KeyText)
    hidden: Mapped[bool] = mapped_column(default=False)
    size_bytes: Mapped[Number] = mapped_column(default=0)
    etag: Mapped[str] = mapped_column(String(64), default="")
    content_type: Mapped[str] = mapped_column(String(255), default="binary/octet-stream")
    headers: Mapped[Json] = mapped_column(default=dict)
    bodies: Mapped[JsonList] = mapped_column(default=list)
    modified_at: Mapped[Time]


class Upload(Base):
    """A multipart upload that is neither completed nor aborted."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index(None, "bucket_id", "key", "id"),
        Index(None, "started_at"),
    )

    id: Mapped[NewId]
    bucket_id: Mapped[str] = mapped_column(ForeignKey("buckets.id"))
    key: Mapped[str] = mapped_column(KeyText)
    content_type: Mapped[str] = mapped_column(String(255), default="binary/octet-stream")
    headers: Mapped[Json] = mapped_column(default=dict)
    started_at: Mapped[Time]


class UploadPart(Base):
    """One part of an upload that was stored."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    size_bytes: Mapped[Number]
    etag: Mapped[str] = mapped_column(String(64))
    bodies: Mapped[JsonList] = mapped_column(default=list)
    stored_at: Mapped[Time]


class Body(Base):
    """Bytes in the region's store, and how many objects and parts are made of them.

    `used_by` are ``[[bucket id, uses], ...]`` in the order in which buckets began to use it,
    and `uses` is their sum; the first of them is where its bytes are counted. A body with no
    `uses` is to be removed from `due_at` on: one that a gateway was given to write and never
    reported, or one that was deleted or replaced. Its row goes after it.
    """

    __tablename__ = "bodies"
    __table_args__ = (
        Index(
            "ix_bodies_due_at",
            "due_at",
            sqlite_where=text("uses = 0"),
            postgresql_where=text("uses = 0"),
        ),
        Index(None, "repository_id"),
    )

    id: Mapped[NewId]
    repository_id: Mapped[str] = mapped_column(ForeignKey("repositories.id"))
    size_bytes: Mapped[Number] = mapped_column(default=0)
    uses: Mapped[int] = mapped_column(default=0)
    used_by: Mapped[JsonList] = mapped_column(default=list)
    due_at: Mapped[datetime | None] = mapped_column(UtcTime)


class View(Base):
    """A snapshot that is seen in a bucket, below `prefix` (empty, or ending in a slash).

    It holds no bytes of its own: what it shows lies in the repository. Objects of the
    bucket lie over it, and of two views that show the same key the later one wins. It is
    seen while its snapshot is COMPLETED and it was not removed.
    """

    __tablename__ = "views"
    __table_args__ = (
        Index(None, "bucket_id", "created_at", "id"),
        Index(
            "uq_views_bucket_id_prefix_snapshot_id",
            "bucket_id",
            "prefix",
            "snapshot_id",
            unique=True,
        ),
        Index(None, "snapshot_id"),
    )

    id: Mapped[NewId]
    bucket_id: Mapped[str] = mapped_column(ForeignKey("buckets.id"))
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    task_id: Mapped[Id | None]
    prefix: Mapped[str] = mapped_column(KeyText, default="")
    created_at: Mapped[Time]
    removed_at: Mapped[datetime | None] = mapped_column(UtcTime)
