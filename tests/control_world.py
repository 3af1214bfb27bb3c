"""A small world for tests of the control plane: rows that exist before the test begins.

It writes rows itself rather than through the services under test. Its clock stands still
until it is told to advance. Rows stay readable after their transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from holdfast.control.database import Database
from holdfast.control.principal import ALL_RIGHTS, ROLE_RIGHTS, Principal, Right
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import (
    Account,
    Base,
    Host,
    Member,
    Region,
    Repository,
    Snapshot,
    Source,
    User,
)

START = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)
PROFILE = {
    "legal_name": "Example GmbH",
    "address": "Street 1, 10115 Berlin",
    "country": "DE",
    "currency": "EUR",
    "contact": "Erika Example",
    "email": "billing@example.org",
}
REPOSITORY_PASSWORD = "repository password"

_Row = TypeVar("_Row", bound=Base)


class World:
    """A database with one region, an operator's account and what a test adds to it.

    `account` is the first customer's, with a complete profile.
    """

    def __init__(self, database: Database, *, now: datetime = START) -> None:
        self.database = database
        self.now = now
        self.keys = MasterKeys([bytes(range(32))])
        self._made = 0
        self.region = self.add_region("here")
        self.operator_account = self.add_account("Operator", is_operator=True)
        self.account = self.add_account("Customer")

    def advance(self, **span: float) -> datetime:
        """Move the clock, such as ``advance(hours=1)``; returns the new time."""
        self.now += timedelta(**span)
        return self.now

    def insert(self, row: _Row) -> _Row:
        """Add any row in a transaction of its own."""
        with self.database.write() as tx:
            tx.add(row)
        return row

    def again(self, row: _Row) -> _Row:
        """The same row as the database has it now."""
        with self.database.read() as tx:
            return tx.get_one(type(row), _key_of(row))

    def add_region(self, name: str, location: str = "/srv/holdfast") -> Region:
        return self.insert(Region(name=name, location=location, created_at=self.now))

    def add_account(self, name: str, *, profile: bool = True, **fields: Any) -> Account:
        """An account with a complete profile, or none; `fields` are columns."""
        fields.setdefault("profile", dict(PROFILE) if profile else {})
        fields.setdefault("region_id", self.region.id)
        return self.insert(Account(name=name, created_at=self.now, **fields))

    def add_user(
        self, email: str, *, account: Account | None = None, role: str = "owner"
    ) -> tuple[User, Principal]:
        """A member of `account` (the first one) without a usable password, and as who asks."""
        account = account or self.account
        user = self.insert(User(email=email, password_hash="!", created_at=self.now))
        self.insert(Member(account_id=account.id, user_id=user.id, role=role, created_at=self.now))
        return user, Principal(
            "user",
            user.id,
            account.id,
            ROLE_RIGHTS[role],
            operator=account.is_operator,
            user_id=user.id,
            address="192.0.2.1",
            request_id="request",
        )

    def add_host(
        self, account: Account | None = None, *, root: str = "/root", **fields: Any
    ) -> Host:
        """An enrolled host of `account` (the first one) that was seen just now."""
        self._made += 1
        fields.setdefault("name", f"host-{self._made}")
        fields.setdefault("roots", [{"path": root, "directory": root}])
        fields.setdefault("seen_at", self.now)
        owner = account or self.account
        return self.insert(
            Host(
                account_id=owner.id,
                region_id=owner.region_id,
                created_at=self.now,
                enrolled_at=self.now,
                **fields,
            )
        )

    def add_source(self, host: Host, path: str = "/root/models", **fields: Any) -> Source:
        return self.insert(
            Source(
                account_id=host.account_id,
                host_id=host.id,
                path=path,
                created_at=self.now,
                **fields,
            )
        )

    def add_repository(self, account: Account | None = None) -> Repository:
        """The repository of `account` (the first one) in its region."""
        owner = account or self.account
        row = Repository(
            account_id=owner.id,
            region_id=owner.region_id,
            sealed_password="",
            created_at=self.now,
        )
        with self.database.write() as tx:
            tx.add(row)
            tx.flush()
            context = context_of(Repository, row.id)
            row.sealed_password = self.keys.seal(REPOSITORY_PASSWORD.encode(), context)
        return row

    def add_snapshot(
        self, source: Source, repository: Repository, *, status: str = "COMPLETED", **fields: Any
    ) -> Snapshot:
        """A snapshot of `source`; where it is COMPLETED, with a manifest and sizes."""
        self._made += 1
        if status == "COMPLETED":
            fields = {
                "manifest_id": f"{self._made:064x}",
                "captured_at": self.now,
                "started_at": self.now,
                "finished_at": self.now,
                "files": 3,
                "logical_bytes": 3_000_000,
                "read_bytes": 3_000_000,
                "stored_bytes": 2_000_000,
                "share_bytes": 2_000_000,
                "consistency": "per-file",
            } | fields
        return self.insert(
            Snapshot(
                account_id=source.account_id,
                source_id=source.id,
                host_id=source.host_id,
                repository_id=repository.id,
                status=status,
                created_at=fields.pop("created_at", self.now),
                **fields,
            )
        )

    def principal(
        self,
        account: Account | None = None,
        rights: Iterable[Right | str] = ALL_RIGHTS,
        **fields: Any,
    ) -> Principal:
        """A user of `account` (the first one) with these rights, without a row."""
        owner = account or self.account
        fields = {"kind": "user", "id": f"someone of {owner.name}"} | fields
        return Principal(
            account_id=owner.id,
            rights=frozenset(Right(each) for each in rights),
            operator=owner.is_operator,
            address="192.0.2.1",
            request_id="request",
            **fields,
        )

    def operator(self) -> Principal:
        """Somebody of the operator's account with all rights."""
        return self.principal(self.operator_account)

    def agent(self, host: Host) -> Principal:
        """What authenticating with the host's own credential gives."""
        rights = {Right.CREATE}
        if not host.put_only:
            rights |= {Right.READ, Right.RESTORE}
        if host.keeper:
            rights |= {Right.DELETE}
        return Principal(
            "agent",
            host.id,
            host.account_id,
            frozenset(rights),
            host_id=host.id,
            address="192.0.2.2",
            request_id="request",
        )

    def set(self, row: _Row, **values: Any) -> _Row:
        """Change columns of a row, as something outside the test would have."""
        with self.database.write() as tx:
            found = tx.get_one(type(row), _key_of(row))
            for name, value in values.items():
                setattr(found, name, value)
        return found


def _key_of(row: Base) -> tuple[Any, ...]:
    return tuple(getattr(row, column.key) for column in type(row).__table__.primary_key)


@pytest.fixture
def world(database: Database) -> World:
    """A small world in each of the databases."""
    return World(database)
