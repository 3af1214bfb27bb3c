"""What piles up beside a catalog: jobs and their logs, events, the audit log, the ledger.

All of it is about rows that are there already. Rows are made one by one while they are
written, because together they would fill the memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Row = dict[str, Any]

_KINDS = ("snapshot.completed", "snapshot.started", "snapshot.expired")
RARE_KIND, _RARE_ACTION = "snapshot.failed", "schedule.edit"
_HOUR = timedelta(hours=1)
_UPKEEP_DAYS = 120


def jobs(kind: str, subjects: Iterable[Row], repositories: Mapping[str, Row]) -> Iterator[Row]:
    """The job of each snapshot or restore that has one."""
    for each in subjects:
        if each["job_id"] is None:
            continue
        repository = repositories[each["account_id"]]
        yield _job(kind, each["job_id"], each["id"], repository, each["created_at"]) | {
            "host_id": each["host_id"],
            "subject_kind": "restore" if kind == "restore" else "snapshot",
            "state": {"FAILED": "failed", "CANCELLED": "cancelled"}.get(
                each["status"], "succeeded"
            ),
        }


def upkeep(repositories: Iterable[Row], now: datetime) -> Iterator[Row]:
    """A job for each repository and day: a prune in every week, else a verification."""
    for each in repositories:
        for day in range(_UPKEEP_DAYS):
            kind = "verify" if day % 7 else "prune"
            yield _job(kind, str(uuid.uuid4()), each["id"], each, now - timedelta(days=day))


def _job(kind: str, job_id: str, subject_id: str, repository: Row, at: datetime) -> Row:
    return {
        "id": job_id,
        "account_id": repository["account_id"],
        "region_id": repository["region_id"],
        "repository_id": repository["id"],
        "host_id": None,
        "kind": kind,
        "subject_kind": "repository",
        "subject_id": subject_id,
        "lock_key": f"{kind}:{subject_id}",
        "spec": {"path": "/root/x", "directory": "/root/x", "options": {}},
        "state": "succeeded",
        "attempt": 1,
        "not_before": at,
        "created_at": at,
        "started_at": at + timedelta(seconds=2),
        "finished_at": at + timedelta(seconds=90),
        "result": {"files": 1000, "stored_bytes": 10**8},
    }


def logs(jobs_with_log: Iterable[str], long: str, at: datetime) -> Iterator[Row]:
    """Three lines for each of these jobs, and 5,000 for one more."""
    for job_id, lines in [*((each, 3) for each in jobs_with_log), (long, 5000)]:
        for number in range(lines):
            text = f"file {number} of many was read"
            yield {"job_id": job_id, "attempt": 1, "at": at, "text": text}


def events(
    snapshots: Sequence[Row], small_account: str, at: datetime, number: int
) -> Iterator[Row]:
    """Events, a tenth of which is a small account's; one in a hundred is of `RARE_KIND`."""
    for n in range(number):
        row = snapshots[n % len(snapshots)]
        yield {
            "account_id": row["account_id"] if n % 10 else small_account,
            "at": at,
            "kind": _KINDS[n % len(_KINDS)] if n % 100 else RARE_KIND,
            "subject_kind": "snapshot",
            "subject_id": row["id"],
            "message": "Backup is complete: 1,000 files.",
            "data": {"status": row["status"], "source_id": row["source_id"]},
        }


def deliveries(webhooks: Sequence[Row], at: datetime, number: int) -> Iterator[Row]:
    """The first events to webhooks in turn."""
    for n in range(number):
        yield {
            "event_id": 1 + n,
            "webhook_id": webhooks[n % len(webhooks)]["id"],
            "state": "delivered",
            "attempt": 1,
            "not_before": at,
            "answer": "200",
        }


def audit(snapshots: Sequence[Row], at: datetime, number: int) -> Iterator[Row]:
    """What was done to snapshots; one entry in 5,000 is of another action."""
    for n in range(number):
        row = snapshots[n % len(snapshots)]
        yield {
            "account_id": row["account_id"],
            "at": at,
            "actor_kind": "system",
            "actor_id": "holdfast",
            "action": "backup.succeeded" if n % 5000 else _RARE_ACTION,
            "subject_kind": "snapshot",
            "subject_id": row["id"],
            "after": {"job_id": row["job_id"], "attempt": 1, "state": "succeeded"},
        }


def stored_lines(sources: Sequence[Row], start: datetime, end: datetime) -> Iterator[Row]:
    """The ledger's line of each source for each hour."""
    hour = start
    while hour < end:
        for each in sources:
            yield _line(each, "source", hour) | {"kind": "hourly", "what": "stored"}
        hour += _HOUR


def transfer_lines(snapshots: Iterable[Row]) -> Iterator[Row]:
    """The ledger's line for the upload of each snapshot that has data."""
    for each in snapshots:
        if each["captured_at"]:
            yield _line(each, "snapshot", each["finished_at"]) | {
                "kind": "once",
                "what": "uploaded",
            }


def _line(row: Row, resource_kind: str, at: datetime) -> Row:
    return {
        "account_id": row["account_id"],
        "at": at,
        "resource_kind": resource_kind,
        "resource_id": row["id"],
        "hour": at.replace(minute=0, second=0, microsecond=0),
        "quantity_mb": 1000,
        "currency": "EUR",
        "amount_micro": -32,
        "amount_rest_femto": 494_000_000,
        "labels": {},
    }
