"""Members: who belongs to an account, and as what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/members"


@dataclass(frozen=True, slots=True)
class Member:
    """A person in the account. `role`: owner, admin, member or viewer."""

    user_id: str
    email: str
    role: str
    created_at: datetime | None = None

    @property
    def id(self) -> str:
        return self.user_id


class MembersResource:
    """The account's members."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Member]:
        """Everybody, longest there first."""
        return pages(self._transport, _PATH, Member)

    def add(self, email: str, role: str, *, password: str | None = None) -> Member:
        """Add a person; `password` is for one who is new to the installation."""
        body = {"email": email, "role": role}
        if password is not None:
            body["password"] = password
        return from_json(Member, self._transport.post(_PATH, body))

    def set_role(self, user_id: str, role: str) -> Member:
        return from_json(Member, self._transport.patch(f"{_PATH}/{user_id}", {"role": role}))

    def remove(self, user_id: str) -> None:
        """Remove a person, with the sessions and tokens that they have in this account."""
        self._transport.delete(f"{_PATH}/{user_id}")
