"""What a data plane is told: an agent about its job's repository, a gateway about a credential.

A gateway has no rights of its own. It shows the credential that it was given, and learns
what that one may do with one repository or snapshot. What belongs to another account is
not found. A password is told only where something has to be decoded for somebody who may
read it.

A keeper reaches the repositories of its own region. Of another region's it reads the one
that it copies from, while it holds the job; nothing else, and nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select

from holdfast.control import credit, regions, scope, sign_in, tokens
from holdfast.control.database import Tx
from holdfast.control.job_end import JobState
from holdfast.control.principal import Principal, Right
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account, Host, Job, Region, Repository, Snapshot, Source
from holdfast.errors import CreditExhausted, Forbidden, NotFound, NotReady, UsageError

APPEND: Final = "append"
READ: Final = "read"
DELETE: Final = "delete"

_MEANING: Final = {Right.CREATE: APPEND, Right.RESTORE: READ, Right.DELETE: DELETE}
_ALL: Final = frozenset(_MEANING.values())
_COPIED_FROM: Final = frozenset({READ})
"""No more: a lock, which a reader leaves as well, takes no right to add."""

_REPOSITORY: Final = "repository"


@dataclass(frozen=True, slots=True)
class RepositoryKey:
    """A repository and what opens it; `exists` where it was made in its store already."""

    repository_id: str
    password: str = field(repr=False)
    exists: bool


@dataclass(frozen=True, slots=True)
class GatewayGrant:
    """What a credential may do with a repository, and where that lies.

    `rights`: append, read, delete. `put_only`: it adds and can neither read packs nor
    delete. The last five are there where a snapshot was asked for; `password` too.
    """

    account_id: str
    principal: Principal
    rights: frozenset[str]
    put_only: bool
    repository_id: str
    location: str
    options: Mapping[str, Any] = field(repr=False)
    password: str | None = field(default=None, repr=False)
    manifest_id: str | None = None
    captured_path: str | None = None
    snapshot_name: str | None = None
    snapshot_status: str | None = None


def repository_of_job(tx: Tx, job: Job, *, keys: MasterKeys) -> RepositoryKey | None:
    """What the host that was given this job opens its repository with; None: it needs none."""
    if job.repository_id is None:
        return None
    return _key(tx, tx.get_one(Repository, job.repository_id), keys)


def source_of_job(tx: Tx, job: Job, *, keys: MasterKeys) -> RepositoryKey | None:
    """The repository that the host makes a copy from; None: the job is no copy."""
    named = job.spec.get("source_repository_id") if job.kind == "copy" else None
    row = tx.get(Repository, named) if isinstance(named, str) else None
    if row is None or row.account_id != job.account_id:
        return None
    return _key(tx, row, keys)


def _key(tx: Tx, row: Repository, keys: MasterKeys) -> RepositoryKey:
    password = regions.password_of(tx, row, keys)
    return RepositoryKey(row.id, password, exists=row.created_in_store_at is not None)


def resolve(
    tx: Tx,
    credential: str,
    *,
    repository_id: str | None = None,
    snapshot_id: str | None = None,
    address: str,
    request_id: str,
    keys: MasterKeys,
    now: datetime,
) -> GatewayGrant:
    """What `credential` may do with a repository, or (exactly one of both) with a snapshot.

    `NotSignedIn` where the credential is none, `NotFound` for what it does not extend to.
    """
    if (repository_id is None) == (snapshot_id is None):
        raise UsageError("Ask for a repository or for a snapshot: exactly one of both.")
    known = sign_in.authenticate_cookie if _is_session(credential) else tokens.authenticate
    who = known(tx, credential, address=address, request_id=request_id, now=now)
    if who.kind == "gateway":
        raise Forbidden("This credential is for asking about others; it reaches no data itself.")
    if repository_id is not None:
        row, most = _repository(tx, who, repository_id, now=now)
        return _grant(tx, who, row, keys, most=most)
    assert snapshot_id is not None
    return _of_snapshot(tx, who, snapshot_id, keys)


def _is_session(credential: str) -> bool:
    """A browser that downloads has no token; its cookie reads what its owner may."""
    return credential.startswith("hs_")


def _of_snapshot(tx: Tx, who: Principal, snapshot_id: str, keys: MasterKeys) -> GatewayGrant:
    snapshot = scope.find(tx, who, Snapshot, snapshot_id)
    if snapshot.manifest_id is None:
        raise NotReady(
            f"The snapshot is {snapshot.status} and holds nothing; only one that was completed "
            "can be looked into."
        )
    if snapshot.status != "COMPLETED":
        raise NotReady(
            f"The snapshot is {snapshot.status}; recover it first, while its data is there."
        )
    source = tx.get_one(Source, snapshot.source_id)
    repository = tx.get_one(Repository, snapshot.repository_id)
    return _grant(tx, who, repository, keys, snapshot=snapshot, captured_path=source.path)


def _may_add(tx: Tx, account_id: str) -> bool:
    """Whether people may add data; an agent was allowed to when it was given its job."""
    try:
        credit.check_may_create(tx, tx.get_one(Account, account_id))
    except CreditExhausted:
        return False
    return True


def _repository(
    tx: Tx, who: Principal, repository_id: str, *, now: datetime
) -> tuple[Repository, frozenset[str]]:
    """The repository, and what may be done with it at most."""
    row = tx.get(Repository, repository_id) if len(repository_id) == 36 else None
    most = frozenset[str]() if row is None else _reaches(tx, who, row, now=now)
    if row is None or not most:
        raise NotFound("There is no such repository; list the account's repositories.")
    if not who.covers(_REPOSITORY, row.id):
        raise Forbidden(
            "This token is limited to parts of the account, and a repository holds all of it; "
            "use a token that is not limited, or download from single snapshots."
        )
    return row, most


def _reaches(tx: Tx, who: Principal, repository: Repository, *, now: datetime) -> frozenset[str]:
    """What one may do at most: with one's own account's repositories everything.

    So may a keeper with those of others in its region; what it copies from it may read.
    """
    if repository.account_id == who.account_id:
        return _ALL
    if who.kind != "agent" or who.host_id is None:
        return frozenset()
    host = tx.get_one(Host, who.host_id)
    if not host.keeper:
        return frozenset()
    if host.region_id == repository.region_id:
        return _ALL
    return _COPIED_FROM if _copies_from(tx, host, repository, now=now) else frozenset()


def _copies_from(tx: Tx, host: Host, repository: Repository, *, now: datetime) -> bool:
    """Whether the host holds a job, now, that copies from this repository."""
    specs = tx.scalars(
        select(Job.spec).where(
            Job.account_id == repository.account_id,
            Job.state == JobState.LEASED,
            Job.leased_to == host.id,
            Job.lease_until > now,
            Job.kind == "copy",
        )
    )
    return any(spec.get("source_repository_id") == repository.id for spec in specs)


def _grant(
    tx: Tx,
    who: Principal,
    repository: Repository,
    keys: MasterKeys,
    *,
    most: frozenset[str] = _ALL,
    snapshot: Snapshot | None = None,
    captured_path: str | None = None,
) -> GatewayGrant:
    region = tx.get_one(Region, repository.region_id)
    rights = most & {_MEANING[right] for right in who.rights if right in _MEANING}
    if who.kind != "agent" and not _may_add(tx, repository.account_id):
        rights -= {APPEND}
    decodes = snapshot is not None and READ in rights
    return GatewayGrant(
        account_id=repository.account_id,
        principal=who,
        rights=rights,
        put_only=rights == {APPEND},
        repository_id=repository.id,
        location=region.location,
        options=regions.options_of(region, keys),
        password=regions.password_of(tx, repository, keys) if decodes else None,
        manifest_id=snapshot.manifest_id if snapshot else None,
        captured_path=captured_path,
        snapshot_name=snapshot.name if snapshot else None,
        snapshot_status=snapshot.status if snapshot else None,
    )
