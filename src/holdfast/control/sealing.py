"""Secrets at rest: what the database keeps of them, and the master keys that open it.

AES-256-GCM under the newest master key. A sealed text names its key and is bound to a
context, which says what the secret is for and whose it is; a text that is moved to
another row does not open there. Master keys live in one file outside the database, newest
first, and never in the database, a log or an argument list.

Invariant: nothing is sealed with a key that is not in the file at that moment, and a key
leaves the file only when nothing in the database needs it any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute

from holdfast.control.database import Tx
from holdfast.control.tables import Base, Region, Repository, Token, Webhook
from holdfast.errors import Conflict, InUse, NotFound, UsageError, WrongMasterKey

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_FORM: Final = "s1"
_HEADER: Final = (
    "# Holdfast's master keys, newest first. Whoever has this file and the database can read\n"
    "# every backup; whoever has only one of the two can read none. Keep a copy elsewhere.\n"
)

SEALED_COLUMNS: Final[tuple[InstrumentedAttribute[Any], ...]] = (
    Repository.sealed_password,
    Region.sealed_options,
    Webhook.sealed_secret,
    Token.sealed_secret,
)
"""Every column that holds sealed text; rotation seals all of them again."""


def context_of(table: type[Base], row_id: str) -> str:
    """The context that a secret of this row is sealed for, such as ``repositories:<id>``."""
    return f"{table.__tablename__}:{row_id}"


class MasterKeys:
    """The ring of master keys: seals with the newest, opens with any.

    Thread-safe. One that was loaded from a file follows the file, so that a process that
    was started before a rotation does not go on with a key that is about to be retired.
    """

    def __init__(self, keys: Sequence[bytes], *, path: str | None = None) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise UsageError(f"A ring needs at least one master key; each has {KEY_BYTES} bytes.")
        self._ring = tuple(keys)
        self._path = path

    @classmethod
    def load(cls, path: str) -> MasterKeys:
        """The keys in a file; `UsageError` or `NotFound` where it is not one to be used."""
        return cls(_read(path), path=path)

    @classmethod
    def create(cls, path: str) -> MasterKeys:
        """Make the file with one new key; `Conflict` where there is one already.

        The file appears whole, readable by its owner only, and is on disk on return.
        """
        directory = os.path.dirname(os.path.abspath(path))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fresh = _write_aside(directory, [os.urandom(KEY_BYTES)])
        try:
            os.link(fresh, path)  # fails where the name is taken, as O_EXCL does
        except FileExistsError:
            raise Conflict(
                f"There is a master key file at {path} already; it is not replaced, because "
                "what was sealed with it could never be opened again."
            ) from None
        finally:
            os.unlink(fresh)
        _sync_directory(directory)
        return cls.load(path)

    @property
    def newest_id(self) -> str:
        """Names the key that seals now."""
        return _key_id(self._ring[0])

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of all keys, newest first; they tell nothing about the keys."""
        return tuple(_key_id(key) for key in self._ring)

    def seal(self, plain: bytes, context: str) -> str:
        """Encrypt for one context; the text is safe to keep and differs every time."""
        self._follow_file()
        key, nonce = self._ring[0], os.urandom(_NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, plain, context.encode())
        return f"{_FORM}.{_key_id(key)}.{urlsafe_b64encode(nonce + sealed).decode()}"

    def unseal(self, sealed: str, context: str) -> bytes:
        """Decrypt; `WrongMasterKey` where no key here opens it for this context."""
        key_id, body = _parts(sealed)
        key = self._key(key_id)
        if key is None:
            self._follow_file()
            key = self._key(key_id)
        if key is None:
            raise WrongMasterKey(
                f"A secret in the database is sealed with the master key {key_id}, but the ring "
                f"holds {', '.join(self.ids)} only. The master key file belongs to another "
                "database or has lost that key: put back the file that was used with this one."
            )
        try:
            return AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], context.encode())
        except InvalidTag:
            raise WrongMasterKey(
                f"A secret in the database does not open for {context}: it was changed or moved "
                "there from another row. Restore the database from a copy."
            ) from None

    def is_newest(self, sealed: str) -> bool:
        """Whether this text was sealed with the newest key."""
        return _parts(sealed)[0] == self.newest_id

    def _key(self, key_id: str) -> bytes | None:
        return next((key for key in self._ring if _key_id(key) == key_id), None)

    def _follow_file(self) -> None:
        if self._path is not None:
            self._ring = tuple(_read(self._path))


def rotate(path: str) -> MasterKeys:
    """Put a new key at the head of the file's ring; the old ones still open.

    `reseal` comes next, then `retire`.
    """
    with _locked(path):
        _replace(path, [os.urandom(KEY_BYTES), *_read(path)])
    return MasterKeys.load(path)


def reseal(tx: Tx, keys: MasterKeys) -> int:
    """Seal everything again with the newest key; how many secrets that were.

    All or nothing: one secret that does not open ends it before any is changed.
    """
    changed = 0
    for column in SEALED_COLUMNS:
        table: Any = column.class_
        statement = select(table).where(column.is_not(None)).order_by(table.id)
        for row in tx.scalars(statement.with_for_update()):
            sealed = getattr(row, column.key)
            if keys.is_newest(sealed):
                continue
            context = context_of(table, row.id)
            setattr(row, column.key, keys.seal(keys.unseal(sealed, context), context))
            changed += 1
    tx.flush()
    return changed


def retire(tx: Tx, path: str) -> MasterKeys:
    """Drop all keys but the newest from the file; `InUse` while a secret needs one of them.

    Not within a minute of `rotate`: a transaction that began before it may still write a
    secret under the old key.
    """
    with _locked(path):
        keys = MasterKeys.load(path)
        old = sum(
            not keys.is_newest(sealed)
            for column in SEALED_COLUMNS
            for sealed in tx.scalars(select(column).where(column.is_not(None)))
        )
        if old:
            raise InUse(
                f"{old} secrets in the database are still sealed with an older master key; "
                "seal them again before the old keys are retired."
            )
        _replace(path, _read(path)[:1])
    return MasterKeys.load(path)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"holdfast master key id" + key).hexdigest()[:12]


def _parts(sealed: str) -> tuple[str, bytes]:
    form, _, rest = sealed.partition(".")
    key_id, _, text = rest.partition(".")
    try:
        body = urlsafe_b64decode(text)
    except ValueError:
        body = b""
    # The decoder passes over what it does not know; there is one way to write a text.
    readable = len(body) >= _NONCE_BYTES + _TAG_BYTES
    if form != _FORM or not readable or urlsafe_b64encode(body).decode() != text:
        raise WrongMasterKey(
            "A secret in the database is not in a form that this version of Holdfast knows; "
            "was it written by a newer one?"
        )
    return key_id, body


def _read(path: str) -> list[bytes]:
    try:
        with open(path, encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            lines = file.read().splitlines()
    except FileNotFoundError:
        raise NotFound(
            f"There is no master key file at {path}. Put back the one that belongs to this "
            "database; only a new database gets a new one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The master key file {path} cannot be read: {error}.") from None
    if mode & 0o007:
        raise UsageError(
            f"Everybody on this machine may read the master key file {path}; "
            f"allow its owner only (chmod 600 {path}), and rotate the key if others log in here."
        )
    try:
        keys = [bytes.fromhex(line) for line in lines if line.strip() and line[0] != "#"]
    except ValueError:
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise UsageError(
            f"{path} is no master key file, or it was damaged: it holds lines of "
            f"{2 * KEY_BYTES} hexadecimal digits, newest key first."
        )
    return keys


def _write_aside(directory: str, keys: Sequence[bytes]) -> str:
    """A new file that nobody else can open, whole and on disk; mkstemp is 0600 and O_EXCL."""
    descriptor, fresh = tempfile.mkstemp(dir=directory, prefix=".master-key-")
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(_HEADER + "".join(f"{key.hex()}\n" for key in keys))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(fresh)
        raise
    return fresh


def _replace(path: str, keys: Sequence[bytes]) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    os.replace(_write_aside(directory, keys), path)
    _sync_directory(directory)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """One change of the file at a time; the lock is on its directory, which stays."""
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
