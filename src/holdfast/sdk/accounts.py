"""Accounts: one's own with its profile and limits, and for operators all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_OWN = "/api/v1/account"
_ALL = "/api/v1/accounts"


@dataclass(frozen=True, slots=True)
class Profile:
    """Whom to bill."""

    legal_name: str | None = None
    address: str | None = None
    country: str | None = None
    currency: str | None = None
    contact: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of an account; None where there is none."""

    stored_bytes: int | None = None
    snapshots: int | None = None
    running_jobs: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A team; `profile_missing` are the fields of the profile that billing lacks."""

    id: str
    name: str
    region_id: str = ""
    is_operator: bool = False
    created_at: datetime | None = None
    profile: Profile = field(default_factory=Profile)
    profile_missing: tuple[str, ...] = ()
    quotas: Quotas = field(default_factory=Quotas)
    recycle_days: int = 0
    prepaid: bool = False
    balance: Decimal = Decimal(0)
    low_credit: Decimal = Decimal(0)
    credit_state: str = ""
    credit_state_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """How much of one limit is used; `quota` is None where there is none."""

    used: int = 0
    quota: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an account has of what is limited."""

    stored_bytes: Used = field(default_factory=Used)
    snapshots: Used = field(default_factory=Used)
    running_jobs: Used = field(default_factory=Used)


class AccountsResource:
    """One's own account; and all of them, for an operator."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def own(self) -> Account:
        return from_json(Account, self._transport.get(_OWN))

    def usage(self) -> Usage:
        """How much of its limits one's own account uses."""
        return from_json(Usage, self._transport.get(f"{_OWN}/usage"))

    def edit(self, **changes: object) -> Account:
        """Change `name`, `recycle_days` or `low_credit` of one's own account."""
        return from_json(Account, self._transport.patch(_OWN, changes))

    def edit_profile(self, **changes: object) -> Account:
        """Change fields of one's own profile; None removes one."""
        return from_json(Account, self._transport.patch(f"{_OWN}/profile", changes))

    def list(self) -> Iterator[Account]:
        """All accounts, newest first; operators only, and without their profiles."""
        return pages(self._transport, _ALL, Account)

    def create(
        self,
        name: str,
        region_id: str,
        *,
        prepaid: bool = False,
        owner_email: str | None = None,
        owner_password: str | None = None,
    ) -> Account:
        """Make an account, with its first owner where one is named; operators only."""
        body: dict[str, object] = {"name": name, "region_id": region_id, "prepaid": prepaid}
        if owner_email is not None:
            body["owner_email"] = owner_email
        if owner_password is not None:
            body["owner_password"] = owner_password
        return from_json(Account, self._transport.post(_ALL, body))

    def set_quotas(self, account_id: str, **quotas: object) -> Account:
        """Set `stored_bytes`, `snapshots`, `running_jobs` (None: no limit) or `prepaid`."""
        document = self._transport.patch(f"{_ALL}/{account_id}/quotas", quotas)
        return from_json(Account, document)
