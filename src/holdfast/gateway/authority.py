"""Who may do what with which repository: the one question that the gateway asks.

The answer is a value, good for one request. It carries the store's credentials and, for what
has to be decoded, the repository's password; its repr shows neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from holdfast.errors import Forbidden


class GrantedRight(StrEnum):
    """What may be done with the bytes of a repository."""

    APPEND = "append"
    READ = "read"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a credential may do with one repository, and how that is reached.

    `put_only` limits the rest: nothing is deleted but locks, and of what is stored only the
    config, keys, index and locks are read. `location` and `options` (fields of `StoreOptions`)
    are those of the region's store, in which each repository has a place of its own. The
    members from `password` on are set where a snapshot was asked for: `manifest_id` is its id
    in the repository, None where it has no data; `captured_path` is where in it the captured
    path lies; `name` and `status` are the catalog's.
    """

    account_id: str
    principal: str
    rights: frozenset[str]
    repository_id: str
    location: str
    put_only: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    password: str | None = field(default=None, repr=False)
    manifest_id: str | None = None
    captured_path: str | None = None
    name: str = ""
    status: str = ""

    @property
    def repository_location(self) -> str:
        """Where the repository lies: below the region's location, apart from all others."""
        return f"{self.location.rstrip('/')}/repositories/{self.repository_id}"

    def allows(self, right: GrantedRight) -> bool:
        """Whether this right is held; a put-only grant holds no other than `append`."""
        return right in self.rights and (right is GrantedRight.APPEND or not self.put_only)

    def require(self, right: GrantedRight) -> None:
        """Raise `Forbidden` unless this right is held."""
        if not self.allows(right):
            raise Forbidden(
                f"This credential does not carry the right to {_MEANINGS[right]}; use one that "
                "does, or ask an owner of the account."
            )


_MEANINGS = {
    GrantedRight.APPEND: "add to this repository",
    GrantedRight.READ: "read what is stored",
    GrantedRight.DELETE: "delete from this repository",
}


class Authority(Protocol):
    """Knows credentials. Called from several threads at once; it may take a while."""

    def resolve(
        self,
        credential: str,
        *,
        repository_id: str | None = None,
        snapshot_id: str | None = None,
    ) -> Grant:
        """Say what `credential` may do with exactly one of the two.

        Raises `NotSignedIn` for an unknown credential; `NotFound` for what does not exist and
        just so for what is another account's; `Forbidden` for a known one without any right;
        `ServerUnavailable` where the answer cannot be had now.
        """
        ...


@runtime_checkable
class RecallingAuthority(Protocol):
    """An `Authority` that can also tell at once, without blocking, what it knows already."""

    def recall(
        self,
        credential: str,
        *,
        repository_id: str | None = None,
        snapshot_id: str | None = None,
    ) -> Grant | None:
        """What `resolve` would answer without asking anybody; None where it would ask."""
        ...
