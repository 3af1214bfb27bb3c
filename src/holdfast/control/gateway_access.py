"""What a data plane is told: an agent about its job's repository, a gateway about a credential.

A gateway has no rights of its own. It shows the credential that it was given, and learns
what that one may do with one repository or snapshot. What belongs to another account is
not found. A password is told only where something has to be decoded for somebody who may
read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from holdfast.control import credit, regions, scope, sign_in, tokens
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account, Host, Job, Region, Repository, Snapshot, Source
from holdfast.errors import CreditExhausted, Forbidden, NotFound, NotReady, UsageError

APPEND: Final = "append"
READ: Final = "read"
DELETE: Final = "delete"

_MEANING: Final = {Right.CREATE: APPEND, Right.RESTORE: READ, Right.DELETE: DELETE}
_REPOSITORY: Final = "repository"


@dataclass(frozen=True, slots=True)
class RepositoryKey:
    """A repository and what opens it."""

    repository_id: str
    password: str


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
    options: Mapping[str, Any]
    password: str | None = None
    manifest_id: str | None = None
    captured_path: str | None = None
    snapshot_name: str | None = None
    snapshot_status: str | None = None


def repository_of_job(tx: Tx, job: Job, *, keys: MasterKeys) -> RepositoryKey | None:
    """What the host that was given this job opens its repository with; None: it needs none."""
    if job.repository_id is None:
        return None
    row = tx.get_one(Repository, job.repository_id)
    return RepositoryKey(row.id, regions.password_of(tx, row, keys))


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
        return _grant(tx, who, _repository(tx, who, repository_id), keys)
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


def _repository(tx: Tx, who: Principal, repository_id: str) -> Repository:
    row = tx.get(Repository, repository_id) if len(repository_id) == 36 else None
    if row is None or not _reaches(tx, who, row):
        raise NotFound("There is no such repository; list the account's repositories.")
    if not who.covers(_REPOSITORY, row.id):
        raise Forbidden(
            "This token is limited to parts of the account, and a repository holds all of it; "
            "use a token that is not limited, or download from single snapshots."
        )
    return row


def _reaches(tx: Tx, who: Principal, repository: Repository) -> bool:
    """One's own account's repositories; a keeper also those of others in its region."""
    if repository.account_id == who.account_id:
        return True
    if who.kind != "agent" or who.host_id is None:
        return False
    host = tx.get_one(Host, who.host_id)
    return host.keeper and host.region_id == repository.region_id


def _grant(
    tx: Tx,
    who: Principal,
    repository: Repository,
    keys: MasterKeys,
    *,
    snapshot: Snapshot | None = None,
    captured_path: str | None = None,
) -> GatewayGrant:
    region = tx.get_one(Region, repository.region_id)
    rights = frozenset(_MEANING[right] for right in who.rights if right in _MEANING)
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
