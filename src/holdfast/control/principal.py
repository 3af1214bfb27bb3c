"""Who asks, and what they may do. A value: made at the edge, checked by services.

Rights are separate words. A service calls `require` before it looks at anything; what
belongs to another account is not found, never forbidden, so that nobody learns that it
exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from holdfast.errors import Forbidden


class Right(StrEnum):
    """One thing that may be done.

    ``create``: protect, capture, add to a repository. ``read``: see what there is, not what
    is in it. ``restore``: read stored data. ``delete``: remove snapshots, and bytes from a
    repository. ``administer``: members, tokens, hosts, money.
    """

    CREATE = "create"
    READ = "read"
    RESTORE = "restore"
    DELETE = "delete"
    ADMINISTER = "administer"


ALL_RIGHTS: Final = frozenset(Right)

ROLE_RIGHTS: Final = {
    "owner": ALL_RIGHTS,
    "admin": ALL_RIGHTS,
    "member": frozenset({Right.CREATE, Right.READ, Right.RESTORE}),
    "viewer": frozenset({Right.READ}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """The one who asks.

    `kind`: user, token, agent, gateway or system (Holdfast's own clockwork). `id` is the
    user's, token's or host's. `kinds` and `resources` narrow a token where they are not
    empty. `operator`: belongs to the operator's account, which sees no customer's data.
    """

    kind: str
    id: str
    account_id: str
    rights: frozenset[Right] = frozenset()
    kinds: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    operator: bool = False
    host_id: str | None = None
    user_id: str | None = None
    address: str = ""
    request_id: str = field(default="", compare=False)

    def require(self, right: Right) -> None:
        """Raise `Forbidden` unless this right is held."""
        if right not in self.rights:
            raise Forbidden(
                f"This needs the right '{right}', which you do not have; ask an owner of the "
                "account, or use a token that carries it."
            )

    def require_everywhere(self, right: Right) -> None:
        """Raise `Forbidden` unless this right is held for the whole account."""
        self.require(right)
        if self.kinds or self.resources:
            raise Forbidden(
                "This concerns the whole account, and the token is limited to parts of it; "
                "use one that is not."
            )

    def require_operator(self) -> None:
        """Raise `Forbidden` unless this is an operator who may administer."""
        if not self.operator:
            raise Forbidden("Only an operator of this installation may do this.")
        self.require(Right.ADMINISTER)

    def covers(self, kind: str, *ids: str | None) -> bool:
        """Whether a narrowed token extends to a thing of this kind with one of these ids."""
        if self.kinds and kind not in self.kinds:
            return False
        return not self.resources or any(each in self.resources for each in ids)


def system(account_id: str) -> Principal:
    """Holdfast itself, acting in an account: schedules, retention, the ledger."""
    return Principal("system", "holdfast", account_id, ALL_RIGHTS)
