"""Accounts: one's own with its profile and limits, and for operators all of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.fields import Boolean, Count, Email, Id, Money, PathId, Secret, Word
from holdfast.api.operation import router
from holdfast.control import accounts as service
from holdfast.control import ledger, quotas
from holdfast.control.principal import Right
from holdfast.control.tables import Account as Row
from holdfast.edge.answers import change, document, listing, plain
from holdfast.edge.call import Asked
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("accounts")

OBSERVED: Final = ("balance", "credit_state", "credit_state_since")
MICRO: Final = 1_000_000


class Profile(Document):
    """Whom to bill. Fields that billing lacks are in the account's `profile_missing`."""

    legal_name: str | None = None
    address: str | None = None
    country: str | None = None
    currency: str | None = None
    contact: str | None = None
    email: str | None = None


class Quotas(Document):
    """Limits of an account; null where there is none."""

    stored_bytes: int | None
    snapshots: int | None
    running_jobs: int | None


class Used(Document):
    """How much of one limit is used; `quota` is null where there is none."""

    used: int
    quota: int | None


class Usage(Document):
    """What an account has of what is limited."""

    stored_bytes: Used
    snapshots: Used
    running_jobs: Used


class Account(Document):
    """A team. `balance` and `low_credit` are in the profile's currency."""

    id: str
    name: str
    region_id: str
    is_operator: bool
    created_at: datetime
    profile: Profile
    profile_missing: list[str]
    quotas: Quotas
    recycle_days: int
    prepaid: bool
    balance: Money
    low_credit: Money
    credit_state: str
    credit_state_since: datetime | None


class Overview(Document):
    """An account as operators see it: its limits, and nothing of what it stores."""

    id: str
    name: str
    region_id: str
    is_operator: bool
    created_at: datetime
    quotas: Quotas
    prepaid: bool
    balance: Money
    credit_state: str


class Overviews(Listing[Overview]):
    """A page of accounts."""


class ProfileEdit(Changes):
    """What can be changed of a profile; null removes a field."""

    legal_name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    address: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] | None = None
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    currency: Literal["USD", "EUR", "INR"] | None = None
    contact: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    email: Email | None = None


class AccountEdit(Changes):
    """What an account decides for itself."""

    name: Word = ""
    recycle_days: Annotated[
        int, Field(strict=True, ge=1, le=90, description="For this long deletion can be undone.")
    ] = 7
    low_credit: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$",
            description="Warn when the balance falls below.",
        ),
    ] = "5"


class NewAccount(Body):
    """A new account, and who is its first owner."""

    name: Word
    region_id: Id
    prepaid: Boolean = False
    owner_email: Email | None = None
    owner_password: Secret | None = None


class QuotasEdit(Changes):
    """Limits; null for no limit."""

    stored_bytes: Count | None = None
    snapshots: Count | None = None
    running_jobs: Count | None = None
    prepaid: Boolean = False


@routes.get("/account", response_model=Account)
def get_account(call: Asked) -> Response:
    """Show one's own account: profile, limits and balance."""
    call.who.require(Right.READ)
    with call.reading() as tx:
        row = service.get(tx, call.who)
    return document(call.request, _show(row), observed=OBSERVED)


@routes.patch("/account", response_model=Account)
def edit_account(call: Asked, body: AccountEdit, if_match: IfMatch = None) -> Response:
    """Change one's account: its name, its recycle period, when to warn of low credit."""
    changes = dict(body.given())
    if "low_credit" in changes:
        changes["low_credit_micro"] = int(_micro(changes.pop("low_credit")))
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who),
        act=lambda tx: service.edit_settings(tx, call.who, now=call.now, **changes),
        show=_show,
        observed=OBSERVED,
    )


@routes.patch("/account/profile", response_model=Account)
def edit_profile(call: Asked, body: ProfileEdit, if_match: IfMatch = None) -> Response:
    """Change one's profile. Billing needs all of its fields."""
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who),
        act=lambda tx: service.edit_profile(tx, call.who, body.given(), now=call.now),
        show=_show,
        observed=OBSERVED,
    )


@routes.get("/account/usage", response_model=Usage)
def get_usage(call: Asked) -> Response:
    """Show how much of its limits the account uses."""
    with call.reading() as tx:
        found = quotas.usage(tx, call.who)
    return plain(Usage.model_validate(found.as_dict()))


@routes.get("/accounts", response_model=Overviews)
def list_accounts(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List all accounts, newest first. Operators only."""
    with call.reading() as tx:
        found = service.accounts(tx, call.who, cursor=cursor, limit=limit)
    return listing(call.request, found, _overview)


@routes.post("/accounts", response_model=Overview, status_code=201)
def create_account(call: Asked, body: NewAccount, key: KeyHeader = None) -> Response:
    """Make an account, with its first owner where one is named. Operators only."""
    return once(
        call,
        key,
        body,
        lambda tx: service.create_as(
            tx,
            call.who,
            name=body.name,
            region_id=body.region_id,
            prepaid=body.prepaid,
            owner_email=body.owner_email,
            owner_password=body.owner_password,
            now=call.now,
        ),
        _overview,
        status=201,
    )


@routes.patch("/accounts/{account_id}/quotas", response_model=Overview)
def set_quotas(call: Asked, account_id: PathId, body: QuotasEdit) -> Response:
    """Set limits of an account. Operators only."""
    return change(
        call,
        None,
        read=lambda tx: service.get(tx, call.who),
        act=lambda tx: service.set_quotas(tx, call.who, account_id, now=call.now, **body.given()),
        show=_overview,
    )


def _micro(amount: str) -> str:
    whole, _, part = amount.partition(".")
    return whole + part.ljust(6, "0")


def _show(row: Row) -> Account:
    return Account(
        id=row.id,
        name=row.name,
        region_id=row.region_id,
        is_operator=row.is_operator,
        created_at=row.created_at,
        profile=Profile.model_validate(row.profile),
        profile_missing=service.missing_profile_fields(row),
        quotas=_quotas(row),
        recycle_days=row.recycle_days,
        prepaid=row.prepaid,
        balance=format(ledger.balance(row), "f"),
        low_credit=_decimal(row.low_credit_micro),
        credit_state=row.credit_state,
        credit_state_since=row.credit_state_since,
    )


def _overview(row: Row) -> Overview:
    return Overview(
        id=row.id,
        name=row.name,
        region_id=row.region_id,
        is_operator=row.is_operator,
        created_at=row.created_at,
        quotas=_quotas(row),
        prepaid=row.prepaid,
        balance=format(ledger.balance(row), "f"),
        credit_state=row.credit_state,
    )


def _quotas(row: Row) -> Quotas:
    return Quotas(
        stored_bytes=row.quota_stored_bytes,
        snapshots=row.quota_snapshots,
        running_jobs=row.quota_running_jobs,
    )


def _decimal(micro: int) -> str:
    whole, part = divmod(micro, MICRO)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
