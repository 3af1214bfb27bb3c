"""Sources: what is protected, a path on a host.

The directories of tasks' instances are sources, too, and not kept here: they come and go
with their tasks, are in no list, and are captured by snapshots of the task alone.

Invariant: a host has at most one source for a path that is not removed. A source that is
removed takes its schedules with it and leaves its snapshots: they stay listed, can be
restored, and cost what they cost, until retention or a person removes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select

from holdfast.control import audit, jobs, scope
from holdfast.control.database import Tx
from holdfast.control.due import settle_before_end
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.run_row import UNFINISHED
from holdfast.control.schedule_row import retire
from holdfast.control.tables import Host, Schedule, Snapshot, Source
from holdfast.control.unindexed import unindexed
from holdfast.errors import NameTaken, NotFound, NotReady, UsageError
from holdfast.model.caption import check_labels, check_text
from holdfast.model.guarded_path import canonical_path, check_path, roots_of
from holdfast.model.patterns import PathFilter

CONSISTENCIES: Final = ("auto", "snapshot", "reflink", "live")
"""How the path is read: what the file system offers, one way of it, or the live path."""

TASK: Final = "task"
"""The kind of the directory of a task's instance."""

_MAX_PATTERNS = 1000


def create(
    tx: Tx,
    who: Principal,
    *,
    host_id: str,
    path: str,
    options: Mapping[str, Any] | None = None,
    labels: Mapping[str, object] | None = None,
    now: datetime,
) -> Source:
    """Protect `path` of a host; `NameTaken` names the source that does so already."""
    who.require(Right.CREATE)
    # The lock on the host keeps two requests from making the same source.
    host = scope.find(tx, who, Host, host_id, lock=True)
    if host.revoked_at is not None:
        raise NotReady(f"The host {host.name} was revoked; enrol it again, then protect it.")
    wanted = canonical_path(path)
    check_path(wanted, roots_of(host.roots))
    if not who.covers("path", host.id):
        raise NotFound("This token extends to nothing of kind 'path' on that host; use another.")
    existing = tx.scalar(
        select(Source).where(
            Source.host_id == host.id,
            Source.path == wanted,
            Source.kind == "path",
            Source.removed_at.is_(None),
        )
    )
    if existing is not None:
        raise NameTaken(
            f"The path {wanted} of the host {host.name} is the source {existing.id} already; "
            "use that one."
        )
    row = Source(
        account_id=who.account_id,
        host_id=host.id,
        kind="path",
        path=wanted,
        options=checked_options(options or {}),
        labels=check_labels(labels or {}),
        created_at=now,
    )
    tx.add(row)
    tx.flush()
    audit.record(tx, who, "source.create", "source", row.id, now=now, after=_record(row))
    return row


def ensure(tx: Tx, who: Principal, *, host_id: str, path: str, now: datetime) -> Source:
    """The source for `path` of a host: the one that is there, or a new one."""
    who.require(Right.CREATE)
    host = scope.find(tx, who, Host, host_id, lock=True)
    wanted = canonical_path(path)
    existing = tx.scalar(
        scope.narrowed(
            select(Source).where(
                Source.account_id == who.account_id,
                Source.host_id == host.id,
                Source.path == wanted,
                Source.kind == "path",
                Source.removed_at.is_(None),
            ),
            who,
            kind=Source.kind,
            host=Source.host_id,
            ids=(Source.id,),
        )
    )
    return existing or create(tx, who, host_id=host_id, path=path, now=now)


def get(tx: Tx, who: Principal, source_id: str) -> Source:
    """One source, also a removed one."""
    who.require(Right.READ)
    return scope.find(tx, who, Source, source_id)


def sources(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    host_id: str | None = None,
    search: str | None = None,
    removed: bool = False,
) -> Page[Source]:
    """The sources, newest first; `search` is looked for in paths, `removed` shows those too."""
    who.require(Right.READ)
    statement = select(Source).where(Source.account_id == who.account_id)
    sieve = scope.narrowing(who, kind=Source.kind, host=Source.host_id, ids=(Source.id,))
    sieve.append(Source.kind != TASK)
    if host_id is not None:
        statement = select(Source).where(
            Source.host_id == host_id, unindexed(Source.account_id) == who.account_id
        )
    if not removed:
        sieve.append(Source.removed_at.is_(None))
    if search:
        words = check_text(search, "search", longest=200)
        sieve.append(Source.path.icontains(words, autoescape=True))
    order = (Source.created_at.desc(), Source.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def edit(
    tx: Tx,
    who: Principal,
    source_id: str,
    *,
    options: Mapping[str, Any] | None = None,
    labels: Mapping[str, object] | None = None,
    now: datetime,
) -> Source:
    """Change what is given. Another path is another source."""
    who.require(Right.CREATE)
    row = current(tx, who, source_id, lock=True)
    before = _record(row)
    if options is not None:
        row.options = checked_options(options)
    if labels is not None:
        row.labels = check_labels(labels)
    audit.record(
        tx, who, "source.edit", "source", row.id, now=now, before=before, after=_record(row)
    )
    return row


def remove(tx: Tx, who: Principal, source_id: str, *, now: datetime) -> Source:
    """Stop protecting: schedules end, runs in progress are cancelled, snapshots stay."""
    who.require(Right.CREATE)
    row = scope.find(tx, who, Source, source_id)
    _check_kind(row)
    if row.removed_at is not None:
        return row
    # Jobs before schedules, as the end of a run locks them.
    active = select(Snapshot.job_id).where(
        Snapshot.source_id == row.id,
        Snapshot.status.in_(UNFINISHED),
        Snapshot.job_id.is_not(None),
    )
    for job_id in tx.scalars(active.order_by(Snapshot.job_id)).all():
        assert job_id is not None
        jobs.request_cancel(tx, who, job_id, now=now)
    schedules = (
        select(Schedule)
        .where(Schedule.source_id == row.id, Schedule.removed_at.is_(None))
        .order_by(Schedule.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    for schedule in tx.scalars(schedules).all():
        settle_before_end(tx, schedule, now=now)
        retire(tx, who, schedule, now=now)
    row.removed_at = now
    audit.record(tx, who, "source.remove", "source", row.id, now=now, before=_record(row))
    return row


def current(tx: Tx, who: Principal, source_id: str, *, lock: bool = False) -> Source:
    """A source that is not removed, for services that act on it."""
    row = scope.find(tx, who, Source, source_id, lock=lock)
    _check_kind(row)
    if row.removed_at is not None:
        raise NotReady(
            f"The source {row.path} is no longer protected; create it again to go on with it."
        )
    return row


def _check_kind(row: Source) -> None:
    if row.kind == TASK:
        raise NotReady(
            "This is the directory of a task's instance, which begins and ends with the task; "
            "ask the task for snapshots of it."
        )


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a path: `exclude` (patterns), `one_file_system`, `consistency`.

    What is not given is left to the agent's defaults.
    """
    known = {"exclude", "one_file_system", "consistency"}
    if unknown := sorted(set(options) - known):
        raise UsageError(
            f"A source has no option {unknown[0]!r}; it has {', '.join(sorted(known))}."
        )
    exclude = options.get("exclude", [])
    if not isinstance(exclude, list | tuple) or not all(isinstance(each, str) for each in exclude):
        raise UsageError("The option exclude is not a list of patterns; write one, also for one.")
    if len(exclude) > _MAX_PATTERNS:
        raise UsageError(
            f"There are {len(exclude)} patterns; at most {_MAX_PATTERNS} are possible."
        )
    for each in exclude:
        check_text(each, "pattern", longest=1000)
    PathFilter(exclude=exclude)  # raises BadPattern that says which one, and why
    if not isinstance(options.get("one_file_system", False), bool):
        raise UsageError("The option one_file_system is true or false.")
    if options.get("consistency", "auto") not in CONSISTENCIES:
        raise UsageError(f"The option consistency is one of {', '.join(CONSISTENCIES)}.")
    return {key: list(exclude) if key == "exclude" else options[key] for key in sorted(options)}


def _record(row: Source) -> dict[str, Any]:
    """What the audit log keeps of a source."""
    return {
        "host_id": row.host_id,
        "path": row.path,
        "options": row.options,
        "labels": row.labels,
    }
