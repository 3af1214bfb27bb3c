"""Key files: the master key wrapped under a password by scrypt.

A repository has one file per password under ``keys/``; any of them opens it. Files are
plain JSON, as restic's design document describes under "Keys, Encryption and MAC".
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from holdfast.errors import Damaged, WrongPassword
from holdfast.repo.crypto import MasterKey, Sealer

SCRYPT_MAX_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Scrypt:
    """Cost of the key derivation: memory is about ``128 * n * r`` bytes."""

    n: int = 1 << 15
    r: int = 8
    p: int = 1

    def derive(self, password: bytes, salt: bytes) -> MasterKey:
        derived = hashlib.scrypt(
            password,
            salt=salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=SCRYPT_MAX_MEMORY_BYTES,
            dklen=64,
        )
        return MasterKey.from_bytes(derived)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One parsed key file. `id` is the SHA-256 of the file, in hexadecimal."""

    id: str
    created: str
    username: str
    hostname: str
    scrypt: Scrypt
    salt: bytes
    sealed_master: bytes

    def unwrap(self, password: str) -> MasterKey:
        """Return the master key; raise `WrongPassword` where this file does not open.

        Raises `Damaged` where the cost cannot be, or what opens is no master key.
        """
        secret = password.encode()
        try:
            user_key = self.scrypt.derive(secret, self.salt)
        except (ValueError, TypeError) as error:
            raise Damaged(
                f"key file {self.id[:8]} is damaged: its scrypt parameters cannot be: {error}"
            ) from None
        try:
            plain = Sealer(user_key).open(self.sealed_master, f"key {self.id[:8]}")
        except Damaged:
            raise WrongPassword(
                "the password opens no key of this repository; check HOLDFAST_PASSWORD or "
                "the password file"
            ) from None
        try:
            return MasterKey.from_json(plain)
        except (KeyError, ValueError, TypeError):
            raise Damaged(f"key {self.id[:8]} opens, but holds no master key") from None


def parse_key_file(key_id: str, text: bytes) -> KeyFile:
    """Parse a key file; raise `Damaged` for anything that is not one."""
    try:
        document = orjson.loads(text)
        if document["kdf"] != "scrypt":
            raise Damaged(f"key {key_id[:8]} uses {document['kdf']!r}; only scrypt is known")
        return KeyFile(
            id=key_id,
            created=str(document.get("created", "")),
            username=str(document.get("username", "")),
            hostname=str(document.get("hostname", "")),
            scrypt=Scrypt(int(document["N"]), int(document["r"]), int(document["p"])),
            salt=b64decode(document["salt"]),
            sealed_master=b64decode(document["data"]),
        )
    except (KeyError, ValueError, TypeError):
        raise Damaged(f"key file {key_id[:8]} is damaged: it is not a key document") from None


def make_key_file(
    master: MasterKey, password: str, scrypt: Scrypt, now: datetime | None = None
) -> bytes:
    """Return the bytes of a new key file for `password`."""
    salt = os.urandom(64)
    sealed = Sealer(scrypt.derive(password.encode(), salt)).seal(master.to_json())
    created = (now or datetime.now(UTC)).isoformat().replace("+00:00", "Z")
    try:
        username = getpass.getuser()
    except (KeyError, OSError):
        username = ""
    return orjson.dumps(
        {
            "created": created,
            "username": username,
            "hostname": socket.gethostname(),
            "kdf": "scrypt",
            "N": scrypt.n,
            "r": scrypt.r,
            "p": scrypt.p,
            "salt": b64encode(salt).decode(),
            "data": b64encode(sealed).decode(),
        }
    )
