"""Money: prices, meters that stand, and the ledger, which only grows.

Amounts are whole numbers of 1e-15 of a currency unit (femto), so that a rate with twelve
decimals per GB and hour times a whole number of MB is exact. 10,000 units would exceed 64
bits; an amount is therefore kept, and summed up, in two parts, micro (1e-6, whole, rounded
down) and the rest in femto (0 to 1e9 - 1).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import Base, Id, Json, NewId, Number, Sequence, Time, UtcTime


class Price(Base):
    """One rate, valid from an instant until a later row of the same what, region, currency.

    `what`: stored (by MB and hour), uploaded, downloaded (by MB). `rate_femto` is per MB,
    or per MB and hour, where a MB is 1,000,000 bytes; `rate` and `unit` are as published,
    such as 0.023 per GB-month, where a month has 730 hours.
    """

    __tablename__ = "prices"
    __table_args__ = (UniqueConstraint("what", "region_id", "currency", "valid_from"),)

    id: Mapped[NewId]
    what: Mapped[str] = mapped_column(String(32))
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    currency: Mapped[str] = mapped_column(String(3))
    rate: Mapped[str] = mapped_column(String(40))
    unit: Mapped[str] = mapped_column(String(32))
    rate_femto: Mapped[Number]
    valid_from: Mapped[Time]
    origin: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[Time]


class Meter(Base):
    """Something that costs by the hour: since when, how much of it, booked until when.

    A change of quantity books what the meter is still owed, closes it (`until`) and opens
    another one. So only an open meter is ever behind, and a thing has one at most in each
    region.
    """

    __tablename__ = "meters"
    __table_args__ = (
        Index(
            "uq_meters_open",
            "resource_id",
            "what",
            "region_id",
            unique=True,
            sqlite_where=text("until IS NULL"),
            postgresql_where=text("until IS NULL"),
        ),
        Index(None, "account_id"),
        Index(None, "resource_id"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    what: Mapped[str] = mapped_column(String(32))
    resource_kind: Mapped[str] = mapped_column(String(32))
    resource_id: Mapped[Id]
    quantity_bytes: Mapped[Number]
    since: Mapped[Time]
    until: Mapped[datetime | None] = mapped_column(UtcTime)
    booked_until: Mapped[Time]


class LedgerEntry(Base):
    """One line of an account's ledger; charges are negative, credit is positive.

    `kind`: hourly, once (a transfer), credit or correction. `hour` is the beginning of the
    hour that it belongs to, `at` when it was booked. For a charge (resource_id, what,
    region_id, hour) is unique: no hour is booked twice. `labels` are the resource's at that
    time.
    """

    __tablename__ = "ledger"
    __table_args__ = (
        # The hour comes first: what is booked together then lies together.
        UniqueConstraint("hour", "resource_id", "what", "region_id"),
        Index(
            "uq_ledger_once",
            "resource_id",
            "what",
            unique=True,
            sqlite_where=text("kind = 'once'"),
            postgresql_where=text("kind = 'once'"),
        ),
        Index(None, "account_id", "hour", "id"),
        Index(None, "resource_id", "hour", "id"),
    )

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    at: Mapped[Time]
    kind: Mapped[str] = mapped_column(String(16))
    what: Mapped[str | None] = mapped_column(String(32))
    resource_kind: Mapped[str | None] = mapped_column(String(32))
    resource_id: Mapped[Id | None]
    region_id: Mapped[Id | None]
    hour: Mapped[Time]
    quantity_mb: Mapped[Number] = mapped_column(default=0)
    price_id: Mapped[Id | None]
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[Number]
    amount_rest_femto: Mapped[Number]
    note: Mapped[str] = mapped_column(Text, default="")
    labels: Mapped[Json] = mapped_column(default=dict)

    @property
    def amount_femto(self) -> int:
        """The whole amount; in SQL it must be summed in its parts."""
        return self.amount_micro * 1_000_000_000 + self.amount_rest_femto
