"""Giving work out: one queued job to a host that asks, under a lease.

It never ends a job itself. Invariants, each kept by the database and not by timing: a job
is leased to one host at a time; of one lock key one job is leased at a time; no host has
more than its `max_jobs` (besides tasks, of which it is given what it has slots for) and no
account's hosts more than its quota; a revoked host gets nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from holdfast.control import completion, job_end
from holdfast.control.database import Tx
from holdfast.control.job_end import JobState
from holdfast.control.principal import Principal
from holdfast.control.tables import Account, Host, Job
from holdfast.control.tables.base import UtcTime
from holdfast.errors import Forbidden, UsageError

_TASK: Final = "task"
_OTHERS: Final = "other"
_ALL: Final = "any"
_OF_KIND: Final = {_ALL: (), _TASK: (Job.kind == _TASK,), _OTHERS: (Job.kind != _TASK,)}

LEASE_SECONDS: Final = 60
"""How long a job stays with a host that says nothing, if nobody says otherwise; each
report starts it anew."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much more a host wants to have: of instances of tasks, and of all other jobs."""

    jobs: int
    tasks: int


def working_host(tx: Tx, who: Principal, *, lock: bool = False) -> Host:
    """The host that asks; `Forbidden` where it is none or was revoked."""
    host = None
    if who.kind == "agent" and who.host_id is not None:
        # NO KEY UPDATE: rows that refer to the host can be made meanwhile.
        locking = {"key_share": True} if lock else None
        host = tx.get(Host, who.host_id, with_for_update=locking, populate_existing=True)
    if host is None or host.account_id != who.account_id:
        raise Forbidden("Only an enrolled host's agent may do this, with the host's credential.")
    if host.revoked_at is not None:
        raise Forbidden("This host was revoked; enrol it again with a new enrolment token.")
    return host


def claim(
    tx: Tx,
    who: Principal,
    *,
    instance: str,
    lease_seconds: float = LEASE_SECONDS,
    room: Room | None = None,
    now: datetime,
) -> Job | None:
    """Lease the most urgent, then oldest job that this host may do now; None: there is none.

    Without `room` the agent takes whatever there is for its host.

    `instance` is a random id of the agent's process. A new one means that the process
    before it is gone and its children with it, so what that one had is returned first.
    """
    if not 0 < len(instance) <= 36:
        raise UsageError("An agent's instance is a random id of 1 to 36 characters.")
    host = working_host(tx, who, lock=True)
    if host.agent_instance != instance:
        message = f"The agent on {host.name} was started anew while it worked on this."
        job_end.return_leases(tx, host, message, now=now)
        host.agent_instance = instance
    leased = select(func.count()).where(
        Job.state == JobState.LEASED, Job.leased_to == host.id, Job.kind != _TASK
    )
    wanted = _wanted(room, full=tx.scalars(leased).one() >= host.max_jobs)
    if wanted is None:
        return None
    refused_keys: set[str] = set()
    while True:
        values = _values(host, now, refused_keys)
        job = tx.scalars(_NEXT[host.keeper, wanted], values).first()
        if job is None:
            return None
        completion.lock_behind(tx, job)
        if job.host_id is not None and not _has_room(tx, job.account_id):
            return None
        if _lease(tx, job, host, timedelta(seconds=lease_seconds), now=now):
            completion.started(tx, job, now=now)
            return job
        refused_keys.add(job.lock_key)


def is_worth_claiming(
    tx: Tx, who: Principal, *, instance: str, room: Room | None = None, now: datetime
) -> bool:
    """Whether `claim` might have something to do; it locks and changes nothing.

    Thousands of agents ask for work and mostly there is none, so that is found out cheaply.
    """
    host = working_host(tx, who)
    if host.agent_instance != instance:
        return True
    wanted = _wanted(room, full=False)
    return (
        wanted is not None and tx.scalar(_ANY[host.keeper, wanted], _values(host, now)) is not None
    )


def claimable(host: Host, *, now: datetime) -> Select[Job]:
    """The jobs that `host` may take at `now`, the next one first."""
    return _claimable(keeper=host.keeper).params(_values(host, now))


def waiting_hosts(tx: Tx, *, now: datetime) -> set[str | None]:
    """Hosts for which there is work that could begin now; None stands for all keepers."""
    return set(tx.scalars(_WAITING, {"now": now}))


def _wanted(room: Room | None, *, full: bool) -> str | None:
    """Which kinds the host may be given: any, task, other; None for nothing."""
    jobs = not full and (room is None or room.jobs > 0)
    tasks = room is None or room.tasks > 0
    if jobs:
        return _ALL if tasks else _OTHERS
    return _TASK if tasks else None


def _values(host: Host, now: datetime, except_keys: Collection[str] = ()) -> dict[str, Any]:
    values = {"host_id": host.id, "now": now, "except_keys": sorted(except_keys)}
    return values | {"region_id": host.region_id} if host.keeper else values


def _claimable(*, keeper: bool, wanted: str = _ALL) -> Select[Job]:
    its = Job.host_id == bindparam("host_id")
    if keeper:
        its = or_(its, Job.host_id.is_(None) & (Job.region_id == bindparam("region_id")))
    refused = Job.lock_key.in_(bindparam("except_keys", expanding=True))
    return (
        select(Job)
        .where(its, *_ready(), ~refused, *_OF_KIND[wanted])
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
    )


def _ready() -> tuple[ColumnElement[bool], ...]:
    now = bindparam("now", type_=UtcTime)
    running = aliased(Job)
    # The word itself and not a parameter: only then is the index of leased jobs used.
    leased: ColumnElement[Any] = literal_column("'leased'")
    key_taken = exists().where(running.lock_key == Job.lock_key, running.state == leased)
    return (
        Job.state == JobState.QUEUED,
        Job.not_before <= now,
        or_(Job.give_up_at.is_(None), Job.give_up_at > now),
        ~key_taken,
    )


# Built once: it takes longer to build them than to run them.
_NEXT: Final = {
    (keeper, wanted): _claimable(keeper=keeper, wanted=wanted)
    .limit(1)
    .with_for_update(skip_locked=True, of=Job)
    .execution_options(populate_existing=True)
    for keeper in (False, True)
    for wanted in _OF_KIND
}
_ANY: Final = {
    (keeper, wanted): _claimable(keeper=keeper, wanted=wanted)
    .with_only_columns(Job.id)
    .order_by(None)
    .limit(1)
    for keeper in (False, True)
    for wanted in _OF_KIND
}
_WAITING: Final = select(Job.host_id).where(*_ready()).distinct()


def _has_room(tx: Tx, account_id: str) -> bool:
    """Whether the account's hosts may do one more thing at the same time.

    Its row is locked, so that two hosts do not take the last place both. What keepers do
    for it does not count: that is the service's own work.
    """
    account = tx.get_one(
        Account, account_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if account.quota_running_jobs is None:
        return True
    running = tx.scalar(
        select(func.count()).where(
            Job.state == JobState.LEASED, Job.account_id == account_id, Job.host_id.is_not(None)
        )
    )
    return (running or 0) < account.quota_running_jobs


def _lease(tx: Tx, job: Job, host: Host, span: timedelta, *, now: datetime) -> bool:
    """Whether it could be leased; not, when another job of its lock key just was."""
    taken = (
        update(Job)
        .where(Job.id == job.id, Job.state == JobState.QUEUED)
        .values(
            state=JobState.LEASED,
            attempt=Job.attempt + 1,
            leased_to=host.id,
            lease_until=now + span,
            started_at=func.coalesce(Job.started_at, now),
            stage="",
            progress={},
        )
        .execution_options(synchronize_session=False)
    )
    try:
        with tx.begin_nested():
            tx.execute(taken)
    except IntegrityError:
        return False
    tx.refresh(job)
    return True
