"""Where things run and lie: regions, each account's repository in them, and hosts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import Base, Id, Json, JsonList, NewId, Number, Time, UtcTime


class Region(Base):
    """A place with one object store. `sealed_options` are its credentials, sealed."""

    __tablename__ = "regions"

    id: Mapped[NewId]
    name: Mapped[str] = mapped_column(String(50), unique=True)
    location: Mapped[str] = mapped_column(String(1000))
    sealed_options: Mapped[str | None]
    created_at: Mapped[Time]


class Repository(Base):
    """One account's repository in one region; its password is sealed with the master key.

    It is made by the first job that needs it (`created_in_store_at`), and by none again
    until somebody declares that it is lost.
    """

    __tablename__ = "repositories"
    __table_args__ = (UniqueConstraint("account_id", "region_id"),)

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    sealed_password: Mapped[str]
    created_at: Mapped[Time]
    created_in_store_at: Mapped[datetime | None] = mapped_column(UtcTime)
    stored_bytes: Mapped[Number] = mapped_column(default=0)
    pruned_at: Mapped[datetime | None] = mapped_column(UtcTime)
    verified_at: Mapped[datetime | None] = mapped_column(UtcTime)
    reconciled_at: Mapped[datetime | None] = mapped_column(UtcTime)
    measured_at: Mapped[datetime | None] = mapped_column(UtcTime)
    verify_share: Mapped[Json] = mapped_column(default=dict)


class Host(Base):
    """A machine with an agent.

    `inventory` is the agent's last report: hostname, version, kinds, GPUs, free bytes of
    each root, workloads. `roots` are guarded paths, each with the directory that it is
    mapped onto: ``[{"path": "/root", "directory": "/root"}]``. `keeper`: it may also do
    the region's work (verify, prune, delete), for every account; an operator's host only.
    """

    __tablename__ = "hosts"
    __table_args__ = (Index(None, "account_id", "created_at", "id"),)

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    name: Mapped[str] = mapped_column(String(100))
    labels: Mapped[Json] = mapped_column(default=dict)
    enrolled_at: Mapped[Time]
    created_at: Mapped[Time]
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
    seen_at: Mapped[datetime | None] = mapped_column(UtcTime)
    silent_since: Mapped[datetime | None] = mapped_column(UtcTime)
    version: Mapped[str] = mapped_column(String(50), default="")
    inventory: Mapped[Json] = mapped_column(default=dict)
    roots: Mapped[JsonList] = mapped_column(default=list)
    put_only: Mapped[bool] = mapped_column(default=False)
    keeper: Mapped[bool] = mapped_column(default=False)
    max_jobs: Mapped[int] = mapped_column(default=2)
    agent_instance: Mapped[Id | None]
