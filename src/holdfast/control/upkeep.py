"""Upkeep: the work that a repository needs without anybody asking for it.

For each repository: a check every day (its structure, and a share of its contents, so that
a round of all shares is done in thirty days even when a day is left out now and then);
pruning at most daily, after something was removed, and monthly in any case, because failed
runs leave blobs; measuring at most hourly, after something changed, which begins with a merge
of small index files where there are many; a comparison with the catalog every day, which finds
what an attempt wrote that had lost its lease. And retention, where a snapshot may have become
too old without a new run.

It only makes jobs; keepers do the work. Invariant: of a repository and a kind at most one
job waits or runs, and at most one is made for each day (or hour, for measuring), however
many replicas plan: the idempotency keys say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from holdfast.control import jobs, retention
from holdfast.control.database import Database, Tx
from holdfast.control.tables import Job, Repository, Snapshot

SHARES: Final = 28
"""A round has fewer shares than thirty days, so that it can miss two of them."""

MAX_UNUSED_PERCENT: Final = 5
"""Pruning leaves so much unused, because the last percents cost the most rewriting."""

BATCH_REPOSITORIES: Final = 200

_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)
_MONTH: Final = timedelta(days=30)
_STRANGER: Final = timedelta(days=1)
"""What no row knows is removed when it is so old: a host's clock may be that wrong."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A job that a repository should have."""

    kind: str
    key: str
    lock_key: str
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Situation:
    """A repository, and what happened in it since it was last looked after."""

    repository: Repository
    removed: bool
    changed: bool
    busy: frozenset[str]
    """Kinds of which a job waits or runs."""


def plan(database: Database, *, now: datetime) -> int:
    """Make the jobs that are due, and apply retention; returns how many jobs were made."""
    retention.apply_due(database, now=now)
    made = 0
    after = ""
    while True:
        with database.read() as tx:
            situations = _situations(tx, after)
            wanted = _not_made_yet(
                tx, {each.repository: list(_wanted(each, now=now)) for each in situations}
            )
        for repository, missing in wanted.items():

            def enqueue(
                tx: Tx, repository: Repository = repository, missing: list[_Wanted] = missing
            ) -> int:
                return _enqueue(tx, repository, missing, now=now)

            made += database.transact(enqueue)
        if len(situations) < BATCH_REPOSITORIES:
            return made
        after = situations[-1].repository.id


def _wanted(situation: _Situation, *, now: datetime) -> Iterator[_Wanted]:
    repository = situation.repository
    today = f"{now.astimezone(UTC):%Y-%m-%d}"
    exclusive = f"repository:{repository.id}"
    if "verify" not in situation.busy and _is_old(repository.verified_at, now, _DAY):
        yield _Wanted(
            "verify",
            f"verify:{repository.id}:{today}",
            f"{exclusive}:verify",
            {"share": _next_share(repository)},
        )
    rest = _DAY if situation.removed else _MONTH
    if "prune" not in situation.busy and _is_old(_pruned_at(repository), now, rest):
        yield _Wanted(
            "prune",
            f"prune:{repository.id}:{today}",
            exclusive,
            {"max_unused_percent": MAX_UNUSED_PERCENT},
        )
    if (
        "measure" not in situation.busy
        and situation.changed
        and _is_old(repository.measured_at, now, _HOUR)
    ):
        yield _Wanted(
            "measure",
            f"measure:{repository.id}:{now.astimezone(UTC):%Y-%m-%dT%H}",
            f"{exclusive}:measure",
        )
    if "reconcile" not in situation.busy and _is_old(repository.reconciled_at, now, _DAY):
        yield _Wanted("reconcile", f"reconcile:{repository.id}:{today}", exclusive)


def _not_made_yet(
    tx: Tx, wanted: dict[Repository, list[_Wanted]]
) -> dict[Repository, list[_Wanted]]:
    """Without the jobs whose keys have been used, and repositories that want nothing."""
    keys = [each.key for all_ in wanted.values() for each in all_]
    accounts = {repository.account_id for repository, all_ in wanted.items() if all_}
    known = set(
        tx.scalars(
            select(Job.idempotency_key).where(
                Job.account_id.in_(accounts), Job.idempotency_key.in_(keys)
            )
        )
    )
    missing = {
        repository: [each for each in all_ if each.key not in known]
        for repository, all_ in wanted.items()
    }
    return {repository: all_ for repository, all_ in missing.items() if all_}


def _enqueue(tx: Tx, repository: Repository, wanted: list[_Wanted], *, now: datetime) -> int:
    for each in wanted:
        comparison = each.kind == "reconcile"
        jobs.enqueue(
            tx,
            account_id=repository.account_id,
            region_id=repository.region_id,
            repository_id=repository.id,
            host_id=None,
            kind=each.kind,
            subject_kind="repository",
            subject_id=repository.id,
            lock_key=each.lock_key,
            spec=_comparison(tx, repository, now=now) if comparison else each.spec,
            now=now,
            idempotency_key=each.key,
        )
    return len(wanted)


def _situations(tx: Tx, after: str) -> list[_Situation]:
    was_removed = exists().where(
        Snapshot.repository_id == Repository.id,
        Snapshot.purged_at > func.coalesce(Repository.pruned_at, _EPOCH),
        Snapshot.manifest_id.is_not(None),
    )
    # A run that ended while the repository was measured is not in that measurement.
    completed = exists().where(
        Snapshot.repository_id == Repository.id,
        _later(Snapshot.finished_at, Repository.measured_at),
        Snapshot.status == "COMPLETED",
    )
    was_changed = or_(completed, _later(Repository.pruned_at, Repository.measured_at))
    rows = tx.execute(
        select(Repository, was_removed, was_changed)
        .where(Repository.id > after, Repository.created_in_store_at.is_not(None))
        .order_by(Repository.id)
        .limit(BATCH_REPOSITORIES)
    ).all()
    busy: dict[str, set[str]] = defaultdict(set)
    # All of them: few jobs wait or run, and many are in the history of each repository.
    for repository_id, kind in tx.execute(
        select(Job.subject_id, Job.kind).where(
            Job.state.in_(("queued", "leased")), Job.subject_kind == "repository"
        )
    ):
        busy[repository_id].add(kind)
    return [
        _Situation(repository, bool(removed), bool(changed), frozenset(busy[repository.id]))
        for repository, removed, changed in rows
    ]


def _later(
    column: InstrumentedAttribute[datetime | None], than: InstrumentedAttribute[datetime | None]
) -> ColumnElement[bool]:
    return column > func.coalesce(than, _EPOCH)


def _is_old(at: datetime | None, now: datetime, span: timedelta) -> bool:
    # A job takes a while; without the slack each day's would be a little later.
    return at is None or now - at >= span * 0.9


def _pruned_at(repository: Repository) -> datetime | None:
    # A new repository has nothing to free yet.
    return repository.pruned_at or repository.created_in_store_at


def _next_share(repository: Repository) -> dict[str, int]:
    """The share after the last one that was read, in a round of `SHARES`."""
    last = repository.verify_share
    number = int(last.get("number") or 0) if last.get("of") == SHARES else 0
    return {"number": number % SHARES + 1, "of": SHARES}


def _comparison(tx: Tx, repository: Repository, *, now: datetime) -> dict[str, Any]:
    """What the catalog knows, and how old a stranger must be to be one.

    A run's snapshot in the repository has the time of the run's beginning, and gets its row
    at the end. So whatever began with or after the oldest run that has not ended may get
    one yet. A copy has the time of its original; of one that is found, its job decides.
    """
    # The runs first: one that ends between the two questions is an answer to both.
    oldest = tx.scalar(
        select(func.min(Job.created_at)).where(
            Job.kind == "backup",
            Job.repository_id == repository.id,
            Job.state.in_(("queued", "leased")),
        )
    )
    known = tx.scalars(
        select(Snapshot.manifest_id).where(
            Snapshot.repository_id == repository.id,
            Snapshot.manifest_id.is_not(None),
            Snapshot.purged_at.is_(None),
        )
    ).all()
    older_than = min(now, oldest or now) - _STRANGER
    return {"known": sorted(each for each in known if each), "older_than": older_than.isoformat()}
