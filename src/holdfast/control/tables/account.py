"""Accounts, the people in them, and what they prove who they are with."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from holdfast.control.tables.base import Base, Id, Json, JsonList, NewId, Number, Time, UtcTime


class Account(Base):
    """A team: the owner of everything that it can see.

    `profile`: legal_name, address, country, currency (USD, EUR, INR), contact, email.
    Quotas are None where there is no limit. `balance_femto` is the sum of its ledger, in
    1e-15 of a currency unit, kept in two parts (see `tables.money`) that only the ledger
    changes. `prepaid`: whether running out of credit has consequences.
    """

    __tablename__ = "accounts"

    id: Mapped[NewId]
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[Time]
    is_operator: Mapped[bool] = mapped_column(default=False)
    profile: Mapped[Json] = mapped_column(default=dict)
    region_id: Mapped[str] = mapped_column(ForeignKey("regions.id"))
    quota_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    quota_snapshots: Mapped[int | None] = mapped_column(BigInteger)
    quota_running_jobs: Mapped[int | None] = mapped_column(BigInteger)
    recycle_days: Mapped[int] = mapped_column(default=7)
    prepaid: Mapped[bool] = mapped_column(default=False)
    balance_micro: Mapped[Number] = mapped_column(default=0)
    balance_rest_femto: Mapped[Number] = mapped_column(default=0)
    low_credit_micro: Mapped[Number] = mapped_column(default=5_000_000)
    credit_state: Mapped[str] = mapped_column(String(16), default="good")
    credit_state_since: Mapped[datetime | None] = mapped_column(UtcTime)


class User(Base):
    """A person who signs in. The address is kept in lower case."""

    __tablename__ = "users"

    id: Mapped[NewId]
    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[Time]


class SignInFailure(Base):
    """Failed sign-ins in a row for one e-mail address, or from one network address.

    `subject` is ``email:<sha256>``, whether or not anybody has that address, or
    ``address:<address>``. A sign-in counts as failed until it has succeeded.
    """

    __tablename__ = "sign_in_failures"
    __table_args__ = (Index(None, "last_at"),)

    subject: Mapped[str] = mapped_column(String(80), primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[Time]
    blocked_until: Mapped[datetime | None] = mapped_column(UtcTime)


class Member(Base):
    """A user in an account, with a role: owner, admin, member or viewer."""

    __tablename__ = "members"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[Time]


class SignIn(Base):
    """A browser's session; its cookie is kept as a SHA-256 only."""

    __tablename__ = "sign_ins"

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[Time]
    expires_at: Mapped[Time]
    address: Mapped[str] = mapped_column(String(64), default="")


class Token(Base):
    """A secret that stands for rights; kept as a SHA-256, shown once.

    An access token's is kept sealed besides: a request to a bucket is signed with it and
    does not carry it, so whoever checks the signature must know it.

    `purpose`: ``access`` (people and programs), ``enrolment`` (once, for a new host),
    ``agent`` (an enrolled host's own credential) or ``gateway`` (a data plane's). `kinds`
    and `resources` (ids of hosts, sources, schedules) narrow it where they are not empty.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        UniqueConstraint("secret_sha256"),
        Index(None, "account_id", "created_at", "id"),
    )

    id: Mapped[NewId]
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    user_id: Mapped[Id | None]
    host_id: Mapped[Id | None]
    purpose: Mapped[str] = mapped_column(String(16), default="access")
    name: Mapped[str] = mapped_column(String(100))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    sealed_secret: Mapped[str | None]
    hint: Mapped[str] = mapped_column(String(16), default="")
    rights: Mapped[JsonList] = mapped_column(default=list)
    kinds: Mapped[JsonList] = mapped_column(default=list)
    resources: Mapped[JsonList] = mapped_column(default=list)
    options: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[Time]
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcTime)
    used_from: Mapped[str] = mapped_column(String(64), default="")
