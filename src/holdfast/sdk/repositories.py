"""Repositories: the account's own in each region, and how plain restic reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/repositories"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of restic's format; `url` is what restic calls it."""

    id: str
    region_id: str = ""
    url: str = ""
    created_at: datetime | None = None
    created_in_store_at: datetime | None = None
    stored_bytes: int = 0
    verified_at: datetime | None = None
    pruned_at: datetime | None = None
    reconciled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RepositoryAccess:
    """How to reach a repository with plain restic; a token goes in place of TOKEN."""

    url: str
    password: str = field(repr=False)
    command: str = field(default="", repr=False)


class RepositoriesResource:
    """The account's repositories."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Repository]:
        return pages(self._transport, _PATH, Repository)

    def access(self, repository_id: str) -> RepositoryAccess:
        """The password and the command; needs restore and administer, and is audited."""
        document = self._transport.post(f"{_PATH}/{repository_id}/password")
        return from_json(RepositoryAccess, document)

    def declare_lost(self, repository_id: str) -> Repository:
        """Have the next backup make it anew, because its store has lost it for good.

        Needs delete and administer. What was in it is marked as missing.
        """
        return from_json(Repository, self._transport.post(f"{_PATH}/{repository_id}/lost"))
