"""Regions, where things are stored, and each account's own repository in them.

Deduplication never crosses accounts, because no two share a repository. A repository's
password is random, is made here, and is kept sealed only; it goes to agents and gateways
that act for the account, and to a person who may restore everything and asks for it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import object_session

from holdfast.control import audit
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right, system
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import Region, Repository, Snapshot
from holdfast.errors import NameTaken, NotFound, UsageError

INSTALLATION: Final = "installation"
"""Stands for the account in the audit log where a thing was made before there was any."""
MAX_NAME: Final = 50
MAX_LOCATION: Final = 1000


def create(
    tx: Tx,
    *,
    name: str,
    location: str,
    options: Mapping[str, Any] | None,
    keys: MasterKeys,
    now: datetime,
) -> Region:
    """A new region, made by Holdfast itself; `options` are its store's credentials."""
    return create_as(
        tx,
        system(INSTALLATION),
        name=name,
        location=location,
        options=options,
        keys=keys,
        now=now,
    )


def create_as(
    tx: Tx,
    who: Principal,
    *,
    name: str,
    location: str,
    options: Mapping[str, Any] | None,
    keys: MasterKeys,
    now: datetime,
) -> Region:
    """A new region, made by an operator; `NameTaken` where another one is called so."""
    if who.kind != "system":
        who.require_operator()
    for what, text, longest in (("name", name, MAX_NAME), ("location", location, MAX_LOCATION)):
        if not text.strip() or len(text) > longest or not text.isprintable():
            raise UsageError(f"A region's {what} has 1 to {longest} printable characters.")
    region = Region(id=str(uuid4()), name=name.strip(), location=location.strip(), created_at=now)
    region.sealed_options = _sealed_options(region, options, keys)
    try:
        with tx.begin_nested():
            tx.add(region)
    except IntegrityError:
        raise NameTaken(f"There is a region called {region.name} already.") from None
    after = audit.state_of(region, "name", "location")
    audit.record(tx, who, "region.create", "region", region.id, now=now, after=after)
    return region


def set_options(
    tx: Tx,
    who: Principal,
    region_id: str,
    options: Mapping[str, Any] | None,
    *,
    keys: MasterKeys,
    now: datetime,
) -> Region:
    """Give a region's store other credentials; operators only."""
    who.require_operator()
    region = tx.get(Region, region_id, with_for_update={"key_share": True})
    if region is None:
        raise NotFound(f"There is no region {region_id}.")
    region.sealed_options = _sealed_options(region, options, keys)
    after = {"option_names": sorted(options or ())}
    audit.record(tx, who, "region.options", "region", region.id, now=now, after=after)
    return region


def regions(tx: Tx, who: Principal) -> list[Region]:
    """All regions by name. Their locations are the operator's business."""
    who.require(Right.READ)
    return list(tx.scalars(select(Region).order_by(Region.name)))


def options_of(region: Region, keys: MasterKeys) -> dict[str, Any]:
    """The options of a region's store, with its credentials, opened."""
    if region.sealed_options is None:
        return {}
    opened = keys.unseal(region.sealed_options, context_of(Region, region.id))
    found: dict[str, Any] = json.loads(opened)
    return found


def repository_for(
    tx: Tx, account_id: str, region_id: str, *, keys: MasterKeys, now: datetime
) -> Repository:
    """The account's repository in a region; its row is made on first use."""
    statement = select(Repository).where(
        Repository.account_id == account_id, Repository.region_id == region_id
    )
    found = tx.scalar(statement)
    if found is not None:
        return found
    if tx.get(Region, region_id) is None:
        raise NotFound(f"There is no region {region_id}.")
    row = Repository(
        id=str(uuid4()),
        account_id=account_id,
        region_id=region_id,
        created_at=now,
    )
    password = secrets.token_urlsafe(32)
    row.sealed_password = keys.seal(password.encode(), context_of(Repository, row.id))
    try:
        with tx.begin_nested():
            tx.add(row)
    except IntegrityError:  # another transaction made it meanwhile
        return tx.scalars(statement).one()
    after = {"region_id": region_id}
    who = system(account_id)
    audit.record(tx, who, "repository.create", "repository", row.id, now=now, after=after)
    return row


def region_of(row: Snapshot) -> str:
    """The id of the region in which a snapshot lies; its transaction is not over yet."""
    tx = object_session(row)
    assert tx is not None
    return tx.get_one(Repository, row.repository_id).region_id


def repositories(tx: Tx, who: Principal) -> list[Repository]:
    """The account's repositories, oldest first."""
    who.require(Right.READ)
    statement = select(Repository).where(Repository.account_id == who.account_id)
    return list(tx.scalars(statement.order_by(Repository.created_at, Repository.id)))


def password_of(tx: Tx, repository: Repository, keys: MasterKeys) -> str:
    """The password, for an agent or gateway that was found entitled to it."""
    del tx
    context = context_of(Repository, repository.id)
    return keys.unseal(repository.sealed_password, context).decode()


def reveal_password(
    tx: Tx, who: Principal, repository_id: str, *, keys: MasterKeys, now: datetime
) -> str:
    """The password, for a person who wants to reach the repository without Holdfast.

    Whoever has it can read everything that the account stores there, now and later, so it
    takes the rights to restore and to administer, and is noted.
    """
    who.require_everywhere(Right.RESTORE)
    who.require_everywhere(Right.ADMINISTER)
    row = tx.get(Repository, repository_id)
    if row is None or row.account_id != who.account_id:
        raise NotFound(f"There is no repository {repository_id}.")
    audit.record(tx, who, "repository.reveal", "repository", row.id, now=now)
    return password_of(tx, row, keys)


def _sealed_options(
    region: Region, options: Mapping[str, Any] | None, keys: MasterKeys
) -> str | None:
    if not options:
        return None
    return keys.seal(json.dumps(dict(options)).encode(), context_of(Region, region.id))
