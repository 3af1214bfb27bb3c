"""Unlock: remove locks whose holders are gone, or all of them on explicit request.

A lock that is not stale belongs to somebody who may be at work; removing it lets others
delete what that one counts on, so it is never done unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.errors import Damaged, ObjectNotFound
from holdfast.model.finding import Finding
from holdfast.repo.lock import LockRecord
from holdfast.repo.repository import FileKind, Repository


@dataclass(frozen=True, slots=True)
class UnlockResult:
    """Locks that were removed and locks that stay; a finding names each that stays."""

    removed: tuple[str, ...]
    left: tuple[LockRecord, ...]
    findings: tuple[Finding, ...]


def unlock(
    repository: Repository, *, every_lock: bool = False, now: datetime | None = None
) -> UnlockResult:
    """Remove stale locks and those that cannot be read, or with `every_lock` all."""
    moment = now or datetime.now(UTC)
    removed: list[str] = []
    left: list[LockRecord] = []
    for name in repository.ids(FileKind.LOCK):
        try:
            record = LockRecord.from_json(name, repository.load(FileKind.LOCK, name))
        except ObjectNotFound:
            continue
        except Damaged:
            record = None
        if record is None or every_lock or record.is_stale(moment):
            repository.remove(FileKind.LOCK, name)
            removed.append(name)
        else:
            left.append(record)
    findings = tuple(
        Finding("locked", f"the repository is {record.describe()}", record.id) for record in left
    )
    return UnlockResult(tuple(removed), tuple(left), findings)
