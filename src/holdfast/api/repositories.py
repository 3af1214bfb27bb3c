"""Repositories: an account's own in each region, and how to reach them without Holdfast."""

from __future__ import annotations

import shlex
from datetime import datetime
from urllib.parse import urlsplit

from fastapi import Response

from holdfast.api.document import Document, Listing
from holdfast.api.fields import PathId
from holdfast.api.operation import router
from holdfast.control import lost_repository
from holdfast.control import regions as service
from holdfast.control.tables import Repository as Row
from holdfast.edge.answers import listing, plain
from holdfast.edge.call import Asked, Call
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit, page_of_all

routes = router("repositories")


class Repository(Document):
    """An account's repository in a region, in restic's format.

    `url` is what restic calls the repository; its user name may be anything, and its
    password there is a token.
    """

    id: str
    region_id: str
    url: str
    created_at: datetime
    created_in_store_at: datetime | None
    stored_bytes: int
    verified_at: datetime | None
    pruned_at: datetime | None
    reconciled_at: datetime | None


class Repositories(Listing[Repository]):
    """A page of repositories."""


class RepositoryAccess(Document):
    """How to reach a repository with plain restic.

    `command` lists the snapshots; put a token that may restore in place of TOKEN.
    """

    url: str
    password: str
    command: str


@routes.get("/repositories", response_model=Repositories)
def list_repositories(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List the account's repositories, oldest first."""
    with call.reading() as tx:
        found = service.repositories(tx, call.who)
    page = page_of_all(found, name=lambda row: row.id, cursor=cursor, limit=limit)
    return listing(call.request, page, lambda row: _show(call, row))


@routes.post("/repositories/{repository_id}/password", response_model=RepositoryAccess)
def reveal_repository_password(call: Asked, repository_id: PathId) -> Response:
    """Reveal a repository's password, for use with restic itself.

    Whoever has it and reaches the store can read everything in it. That it was revealed is
    in the audit log.
    """
    with call.writing() as tx:
        password = service.reveal_password(
            tx, call.who, repository_id, keys=call.keys, now=call.now
        )
    url = _url(call, repository_id)
    quoted = shlex.quote(password)
    return plain(
        RepositoryAccess(
            url=url,
            password=password,
            command=f"RESTIC_PASSWORD={quoted} restic --repo {shlex.quote(url)} snapshots",
        )
    )


@routes.post("/repositories/{repository_id}/lost", response_model=Repository)
def declare_repository_lost(call: Asked, repository_id: PathId, key: KeyHeader = None) -> Response:
    """Declare that a repository's store has lost it for good.

    Its snapshots are marked as missing, and the next backup makes it anew. Until then no
    job does, because the store may only be out of sight.
    """
    return once(
        call,
        key,
        None,
        lambda tx: lost_repository.declare_lost(tx, call.who, repository_id, now=call.now),
        lambda row: _show(call, row),
    )


def _url(call: Call, repository_id: str) -> str:
    parts = urlsplit(call.deployment.repository_url(repository_id))
    return f"rest:{parts.scheme}://holdfast:TOKEN@{parts.netloc}{parts.path}"


def _show(call: Call, row: Row) -> Repository:
    members = {name: getattr(row, name) for name in Repository.model_fields if name != "url"}
    return Repository.model_validate({**members, "url": _url(call, row.id)})
