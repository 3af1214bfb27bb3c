"""Hosts: machines with an agent; how they come, what they report, and how they go.

A host is invited with a token that works once, and has its own credential from then on.
Invariants: a revoked host gets nothing and changes nothing; silence is noted once, and its
end once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import func, select, update

from holdfast.control import audit, events, job_end, scope, tokens
from holdfast.control.database import Tx
from holdfast.control.job_claim import working_host
from holdfast.control.job_end import JobState
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right, system
from holdfast.control.storable import storable_document, storable_text
from holdfast.control.tables import Account, Host, Job, Region, Token
from holdfast.errors import NotReady, NotSignedIn, UsageError
from holdfast.model.caption import check_labels
from holdfast.model.guarded_path import canonical_path

HEARTBEAT_SECONDS: Final = 20
"""How often an agent should be heard."""

SILENT_AFTER_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""Two heartbeats may get lost; a third is a host that is silent."""

MAX_JOBS: Final = 64
MAX_ROOTS: Final = 64
_MAX_INVENTORY_BYTES: Final = 256 * 1024
_MAX_INVITATION: Final = timedelta(days=30)
_AT_ONCE: Final = 200
_NEVER_ENROLLED: Final = (
    "This enrolment token cannot be used: it is unknown, has expired, was revoked, or enrolled "
    "a host already. Ask an administrator of the account for a new one."
)

Status = Literal["online", "silent", "revoked", "new"]


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that an agent says it works on."""

    job_id: str
    attempt: int


def invite(
    tx: Tx,
    who: Principal,
    *,
    name: str = "",
    roots: Sequence[Mapping[str, Any]] | None = None,
    put_only: bool = False,
    keeper: bool = False,
    region_id: str | None = None,
    expires_in_seconds: int = 3600,
    now: datetime,
) -> tuple[Token, str]:
    """A token that enrols one host, and its secret, which is not kept.

    `name` and `roots` stand above what the machine says of itself. A keeper does the
    region's work for every account, so only an operator may invite one, for any region;
    other hosts are of their account's region.
    """
    who.require_everywhere(Right.ADMINISTER)
    if keeper:
        who.require_operator()
    if keeper and put_only:
        raise UsageError("A keeper removes and reads; it cannot be put-only as well.")
    if region_id is not None:
        if not keeper:
            raise UsageError(
                "Only a keeper is invited for a region; what other hosts store goes to their "
                "account's region."
            )
        if tx.get(Region, region_id) is None:
            raise UsageError(
                f"There is no region {region_id}; list the regions to see which there are."
            )
    lasting = timedelta(seconds=expires_in_seconds)
    if not timedelta() < lasting <= _MAX_INVITATION:
        raise UsageError(f"An enrolment token lasts 1 second to {_MAX_INVITATION.days} days.")
    secret = tokens.new_secret()
    token = Token(
        account_id=who.account_id,
        user_id=who.user_id,
        purpose="enrolment",
        name=_name(name) if name else "enrolment",
        secret_sha256=tokens.sha256_of(secret),
        hint=tokens.hint_of(secret),
        options={
            "name": _name(name) if name else "",
            "roots": None if roots is None else check_roots(roots),
            "put_only": put_only,
            "keeper": keeper,
            "region_id": region_id,
        },
        created_at=now,
        expires_at=now + lasting,
    )
    tx.add(token)
    tx.flush()
    after = audit.state_of(token, "name", "options", "expires_at")
    audit.record(tx, who, "host.invite", "token", token.id, now=now, after=after)
    return token, secret


def enrol(
    tx: Tx,
    secret: str,
    *,
    name: str,
    version: str,
    roots: Sequence[Mapping[str, Any]],
    inventory: Mapping[str, Any],
    address: str,
    now: datetime,
) -> tuple[Host, str]:
    """Make a host of the machine that has an enrolment token; its credential, shown once.

    The token is spent in the same transaction: of two machines with one token, one comes in.
    """
    token = tokens.find(tx, secret)
    if token is None or token.purpose != "enrolment":
        raise NotSignedIn(_NEVER_ENROLLED)
    spent = tx.execute(
        update(Token)
        .where(
            Token.id == token.id,
            Token.used_at.is_(None),
            Token.revoked_at.is_(None),
            Token.expires_at > now,
        )
        .values(used_at=now, used_from=address[:64])
        .execution_options(synchronize_session=False)
        .returning(Token.id)
    ).first()
    account = tx.get_one(Account, token.account_id)
    if spent is None:
        raise NotSignedIn(_NEVER_ENROLLED)
    options = token.options
    given = options.get("roots")
    host = Host(
        account_id=account.id,
        region_id=options.get("region_id") or account.region_id,
        name=options.get("name") or _name(name),
        enrolled_at=now,
        created_at=now,
        version=storable_text(version, limit=50),
        inventory=storable_document(inventory, limit_bytes=_MAX_INVENTORY_BYTES),
        roots=check_roots(roots if given is None else given),
        put_only=bool(options.get("put_only")),
        keeper=bool(options.get("keeper")) and account.is_operator,
    )
    tx.add(host)
    tx.flush()
    credential = tokens.issue_for_host(tx, host, now=now)
    who = Principal("agent", host.id, account.id, host_id=host.id, address=address)
    after = audit.state_of(host, "name", "roots", "put_only", "keeper") | {"token_id": token.id}
    audit.record(tx, who, "host.enrol", "host", host.id, now=now, after=after)
    message = f"The host {host.name} was enrolled."
    events.emit(tx, account.id, "host.enrolled", "host", host.id, message, now=now)
    return host, credential


def heartbeat(
    tx: Tx,
    who: Principal,
    *,
    instance: str,
    version: str,
    inventory: Mapping[str, Any],
    running: Sequence[RunningJob],
    now: datetime,
) -> list[str]:
    """Note that a host is alive and how it is; the ids of jobs that it should stop.

    These are jobs of which it holds the current attempt no longer, and jobs that somebody
    wants cancelled. It renews no lease: only a report from the job itself does.
    """
    host = working_host(tx, who, lock=True)
    host.seen_at = now
    host.version = storable_text(version, limit=50)
    kept = storable_document(inventory, limit_bytes=_MAX_INVENTORY_BYTES)
    if kept != host.inventory:
        host.inventory = kept
    if host.silent_since is not None:
        minutes = max(1, round((now - host.silent_since).total_seconds() / 60))
        host.silent_since = None
        message = f"The host {host.name} is back after {minutes} minutes."
        events.emit(tx, host.account_id, "host.returned", "host", host.id, message, now=now)
    if host.inventory.get("task_slots"):
        from holdfast.control import task_place  # which asks this module who is online

        task_place.place_waiting(tx, account_id=host.account_id, now=now)
    if host.agent_instance is not None and host.agent_instance != instance:
        return [each.job_id for each in running]
    held = {
        (job_id, attempt)
        for job_id, attempt in tx.execute(
            select(Job.id, Job.attempt).where(
                Job.state == JobState.LEASED,
                Job.leased_to == host.id,
                Job.cancel_requested_at.is_(None),
            )
        )
    }
    return [each.job_id for each in running if (each.job_id, each.attempt) not in held]


def hosts(
    tx: Tx,
    who: Principal,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
    search: str | None = None,
) -> Page[Host]:
    """The account's hosts, newest first; `search` is looked for in their names."""
    who.require(Right.READ)
    statement = select(Host).where(Host.account_id == who.account_id)
    sieve = scope.narrowing(who, kind=None, host=Host.id, ids=())
    if search:
        words = storable_text(search, limit=200)
        sieve.append(Host.name.icontains(words, autoescape=True))
    order = (Host.created_at.desc(), Host.id.desc())
    return page(tx, statement, order=order, cursor=cursor, limit=limit, sieve=sieve)


def get(tx: Tx, who: Principal, host_id: str) -> Host:
    """One host, also a revoked one."""
    who.require(Right.READ)
    return scope.find(tx, who, Host, host_id)


def edit(
    tx: Tx,
    who: Principal,
    host_id: str,
    *,
    name: str | None = None,
    labels: Mapping[str, object] | None = None,
    max_jobs: int | None = None,
    roots: Sequence[Mapping[str, Any]] | None = None,
    now: datetime,
) -> Host:
    """Change what is given. A root that goes leaves its sources, which then fail to run."""
    who.require(Right.ADMINISTER)
    host = scope.find(tx, who, Host, host_id, lock=True)
    if host.revoked_at is not None:
        raise NotReady(f"The host {host.name} was revoked; enrol it again to change it.")
    before = audit.state_of(host, "name", "labels", "max_jobs", "roots")
    if name is not None:
        host.name = _name(name)
    if labels is not None:
        host.labels = check_labels(labels)
    if max_jobs is not None:
        if not 1 <= max_jobs <= MAX_JOBS:
            raise UsageError(f"A host does 1 to {MAX_JOBS} jobs at a time, not {max_jobs}.")
        host.max_jobs = max_jobs
    if roots is not None:
        host.roots = check_roots(roots)
    after = audit.state_of(host, "name", "labels", "max_jobs", "roots")
    audit.record(tx, who, "host.edit", "host", host.id, now=now, before=before, after=after)
    return host


def revoke(tx: Tx, who: Principal, host_id: str, *, now: datetime) -> Host:
    """End a host's credential and its work; again is no error. Its snapshots stay.

    Jobs that only it could do have failed by that; a keeper's go to another keeper.
    """
    who.require(Right.ADMINISTER)
    host = scope.find(tx, who, Host, host_id, lock=True)
    if host.revoked_at is not None:
        return host
    host.revoked_at = now
    tx.execute(
        update(Token)
        .where(Token.host_id == host.id, Token.revoked_at.is_(None))
        .values(revoked_at=now)
        .execution_options(synchronize_session=False)
    )
    job_end.fail_all_of(tx, host, who, now=now)
    job_end.return_leases(tx, host, f"The host {host.name} was revoked.", now=now)
    audit.record(tx, who, "host.revoke", "host", host.id, now=now)
    message = f"The host {host.name} was revoked; nothing on it is protected any more."
    events.emit(tx, host.account_id, "host.revoked", "host", host.id, message, now=now)
    return host


def status_of(host: Host, now: datetime) -> Status:
    """In one word how a host is; silent also before that was noted."""
    if host.revoked_at is not None:
        return "revoked"
    if host.silent_since is not None or _heard_at(host) <= _silent_before(now):
        return "silent"
    return "new" if host.seen_at is None else "online"


def note_silence(tx: Tx, *, now: datetime) -> int:
    """Say of hosts that were not heard any more that they are silent; how many those are.

    The caller sees to it that this server could have heard them.
    """
    quiet = tx.scalars(
        select(Host)
        .where(
            Host.revoked_at.is_(None),
            Host.silent_since.is_(None),
            func.coalesce(Host.seen_at, Host.enrolled_at) <= _silent_before(now),
        )
        .order_by(Host.id)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for host in quiet:
        host.silent_since = _heard_at(host)
        message = (
            f"The host {host.name} has not been heard since {host.silent_since:%Y-%m-%d %H:%M} "
            "UTC. Nothing on it is being protected; check the machine, its agent and its network."
        )
        events.emit(tx, host.account_id, "host.silent", "host", host.id, message, now=now)
        audit.record(
            tx, system(host.account_id), "host.silent", "host", host.id, now=now,
            after={"silent_since": host.silent_since},
        )  # fmt: skip
    return len(quiet)


def check_roots(roots: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Guarded roots as they are kept; without a `directory` one lies where it says."""
    if len(roots) > MAX_ROOTS:
        raise UsageError(f"There are {len(roots)} roots; a host has at most {MAX_ROOTS}.")
    checked: dict[str, dict[str, str]] = {}
    for each in roots:
        path, directory = each.get("path"), each.get("directory") or each.get("path")
        if not isinstance(path, str) or not isinstance(directory, str):
            raise UsageError("A root has a path, and may have a directory where it really lies.")
        path = canonical_path(path)
        if path in checked:
            raise UsageError(f"The root {path} is given twice; give it once.")
        checked[path] = {"path": path, "directory": canonical_path(directory)}
    return list(checked.values())


def _heard_at(host: Host) -> datetime:
    return host.seen_at or host.enrolled_at


def _silent_before(now: datetime) -> datetime:
    return now - timedelta(seconds=SILENT_AFTER_SECONDS)


def _name(name: str) -> str:
    text = name.strip()
    if not text or len(text) > 100 or not text.isprintable():
        raise UsageError("A host needs a name of 1 to 100 printable characters, to know it by.")
    return text
