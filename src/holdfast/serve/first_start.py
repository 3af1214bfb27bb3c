"""The first start in a data directory: what a server needs before it can serve anybody.

Every step finds out whether it is done, so a start that was killed is made up for by the
next one. The order keeps secrets recoverable: a password or key is on disk, readable by
its owner only, before the database refers to it. Nothing that exists is ever replaced.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from holdfast.control import accounts, members, regions, tokens, users
from holdfast.control.database import Database, Tx
from holdfast.control.principal import system
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account
from holdfast.errors import NotFound, UsageError
from holdfast.serve.settings import Settings

OWNER_PASSWORD_FILE = "owner.password"  # noqa: S105 a file's name


@dataclass(frozen=True, slots=True)
class FirstStart:
    """What was made, or found: the operator's account, and who signs in to it.

    `new` says whether the account was made just now.
    """

    account_id: str
    owner_email: str
    password_file: str
    new: bool


def make_directory(path: str) -> None:
    """Make the data directory for its owner only; refuse one that others can write to."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(
            f"The data directory {path} cannot be made: {error.strerror}. Choose another one with "
            "--data-directory."
        ) from None
    if mode & 0o022:
        raise UsageError(
            f"Others than its owner may write to the data directory {path}; allow its owner only: "
            f"chmod 700 {path}."
        )


def master_keys(settings: Settings, database: Database) -> MasterKeys:
    """The ring of master keys; a new one is made only for a database that seals nothing yet."""
    path = settings.master_key
    if not os.path.exists(path):
        with database.read() as tx:
            if tx.scalar(select(Account.id).limit(1)) is not None:
                raise NotFound(
                    f"The database is in use, but there is no master key file at {path}. Put back "
                    "the one that belongs to it: without it no backup can be opened."
                )
        return MasterKeys.create(path)
    return MasterKeys.load(path)


def first_start(
    settings: Settings, database: Database, keys: MasterKeys, *, now: datetime
) -> FirstStart:
    """The operator's account with its owner and region, made where it is not there."""
    password_file = os.path.join(settings.data_directory, OWNER_PASSWORD_FILE)
    with database.read() as tx:
        found = _operator(tx)
    if found is not None:
        return FirstStart(found.id, settings.owner_email, password_file, new=False)
    password = _password_in(password_file)

    def make(tx: Tx) -> str:
        there = _operator(tx)
        if there is not None:
            return there.id
        region = regions.create(
            tx,
            name=settings.region_name,
            location=settings.first_location,
            options=settings.region_options or None,
            keys=keys,
            now=now,
        )
        account = accounts.create(
            tx, name=settings.operator_name, region_id=region.id, is_operator=True, now=now
        )
        users.create_user(tx, settings.owner_email, password, now=now)
        members.add(tx, system(account.id), email=settings.owner_email, role="owner", now=now)
        return account.id

    account_id = database.transact(make)
    return FirstStart(account_id, settings.owner_email, password_file, new=True)


def gateway_credential(
    settings: Settings, database: Database, account_id: str, *, now: datetime
) -> str:
    """The credential of this directory's gateway; a new one if its file is not there."""
    path = settings.gateway_credential
    try:
        return read_secret(path)
    except FileNotFoundError:
        with database.write() as tx:
            secret = tokens.issue_gateway(tx, account_id, now=now)
        write_secret(path, secret)
        return secret


def read_secret(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def write_secret(path: str, secret: str) -> None:
    """Write a file for its owner only, whole and on disk when this returns."""
    beside = f"{path}.{os.getpid()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{secret}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _password_in(path: str) -> str:
    """The first owner's password: what the file holds, or a new one that it holds from now on."""
    try:
        return read_secret(path)
    except FileNotFoundError:
        password = secrets.token_urlsafe(18)
        write_secret(path, password)
        return password


def _operator(tx: Tx) -> Account | None:
    return tx.scalar(
        select(Account).where(Account.is_operator).order_by(Account.created_at).limit(1)
    )
