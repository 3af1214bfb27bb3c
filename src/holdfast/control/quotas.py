"""Quotas: what an account may have at most, and what it has.

A check locks the account's row, so that two requests do not both take the last place. It
is made before something new is begun; what exists is never removed for a quota's sake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select

from holdfast.control.database import Tx
from holdfast.control.ledger import lock_account
from holdfast.control.prices import STORED
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Account, Bucket, Job, Meter, Snapshot
from holdfast.errors import QuotaExceeded
from holdfast.model.quantity import print_bytes

COUNTED: Final = ("PENDING", "RUNNING", "COMPLETED")
"""Snapshots in the recycle bin, and copies, count as stored bytes but not as snapshots."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an account has, and its limits; a limit is None where there is none."""

    stored_bytes: int
    snapshots: int
    running_jobs: int
    quota_stored_bytes: int | None
    quota_snapshots: int | None
    quota_running_jobs: int | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "stored_bytes": {"used": self.stored_bytes, "quota": self.quota_stored_bytes},
            "snapshots": {"used": self.snapshots, "quota": self.quota_snapshots},
            "running_jobs": {"used": self.running_jobs, "quota": self.quota_running_jobs},
        }


def usage(tx: Tx, who: Principal) -> Usage:
    """What the account of the one who asks has."""
    who.require(Right.READ)
    return _usage(tx, tx.get_one(Account, who.account_id))


def check(tx: Tx, account: Account, *, snapshots: int = 1, stored_bytes: int = 0) -> None:
    """Raise `QuotaExceeded` unless the account may have so much more.

    `stored_bytes` is 0 while it is not known; then nothing may be added once the quota is
    used up. Running jobs are limited where they are given out, by waiting.
    """
    if account.quota_snapshots is None and account.quota_stored_bytes is None:
        return
    account = lock_account(tx, account.id)
    if account.quota_snapshots is not None and snapshots:
        used = _snapshots(tx, account.id)
        if used + snapshots > account.quota_snapshots:
            raise QuotaExceeded(
                f"The account has {used} of {account.quota_snapshots} snapshots; delete some, "
                "keep fewer, or ask the operator for more."
            )
    if account.quota_stored_bytes is not None:
        stored = _stored(tx, account.id)
        room = account.quota_stored_bytes - stored
        if room <= 0 or stored_bytes > room:
            raise QuotaExceeded(
                f"The account stores {print_bytes(stored)} of "
                f"{print_bytes(account.quota_stored_bytes)}; delete snapshots (their space comes "
                "back after the recycle period) or objects, or ask the operator for more."
            )


def _usage(tx: Tx, account: Account) -> Usage:
    leased = select(func.count()).where(
        Job.state == "leased", Job.account_id == account.id, Job.host_id.is_not(None)
    )
    return Usage(
        _stored(tx, account.id),
        _snapshots(tx, account.id),
        tx.scalars(leased).one(),
        account.quota_stored_bytes,
        account.quota_snapshots,
        account.quota_running_jobs,
    )


def _stored(tx: Tx, account_id: str) -> int:
    found = select(func.coalesce(func.sum(Meter.quantity_bytes), 0)).where(
        Meter.account_id == account_id, Meter.what == STORED, Meter.until.is_(None)
    )
    # Meters of buckets follow within a minute; what was put meanwhile counts already.
    ahead = select(func.coalesce(func.sum(Bucket.stored_bytes - Bucket.metered_bytes), 0)).where(
        Bucket.account_id == account_id
    )
    return int(tx.scalars(found).one()) + int(tx.scalars(ahead).one())


def _snapshots(tx: Tx, account_id: str) -> int:
    found = select(func.count()).where(
        Snapshot.account_id == account_id,
        Snapshot.status.in_(COUNTED),
        Snapshot.copy_of_id.is_(None),
    )
    return tx.scalars(found).one()
