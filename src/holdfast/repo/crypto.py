"""Sealing and opening of bytes: AES-256-CTR with a Poly1305-AES code, as restic lays it out.

A sealed message is ``IV (16) || ciphertext || MAC (16)``; the MAC covers the ciphertext and
its one-time key is ``r || AES128_k(IV)``. Source: restic's design document, "Keys,
Encryption and MAC". This module never stores keys and never sees passwords.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from holdfast.errors import Damaged

IV_BYTES = 16
MAC_BYTES = 16
OVERHEAD_BYTES = IV_BYTES + MAC_BYTES
_NONCES_AT_ONCE = 256
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The three secrets of a repository; `repr` shows none of them."""

    encrypt: bytes = field(repr=False)
    mac_k: bytes = field(repr=False)
    mac_r: bytes = field(repr=False)

    @classmethod
    def random(cls) -> MasterKey:
        return cls(os.urandom(32), os.urandom(16), os.urandom(16))

    @classmethod
    def from_bytes(cls, derived: bytes) -> MasterKey:
        """Split 64 derived bytes: 32 for AES-256, 16 for k, 16 for r."""
        return cls(derived[:32], derived[32:48], derived[48:64])

    @classmethod
    def from_json(cls, text: bytes) -> MasterKey:
        """Parse a master key; raise KeyError, TypeError or ValueError where it is none."""
        document = orjson.loads(text)
        mac = document["mac"]
        key = cls(b64decode(document["encrypt"]), b64decode(mac["k"]), b64decode(mac["r"]))
        if (len(key.encrypt), len(key.mac_k), len(key.mac_r)) != (32, 16, 16):
            raise ValueError("a key of another length than the cipher's")
        return key

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "mac": {"k": b64encode(self.mac_k).decode(), "r": b64encode(self.mac_r).decode()},
                "encrypt": b64encode(self.encrypt).decode(),
            }
        )


class Sealer:
    """Seals and opens under one master key. Not thread-safe: one per thread.

    The cipher contexts are kept and given a new nonce for each message, because making
    one costs seven times as much as sealing 300 bytes (4.4 against 0.6 microseconds).
    """

    def __init__(self, key: MasterKey) -> None:
        self._ctr = Cipher(algorithms.AES(key.encrypt), modes.CTR(bytes(16))).encryptor()
        self._ecb = Cipher(algorithms.AES(key.mac_k), modes.ECB()).encryptor()  # noqa: S305 - the nonce step of Poly1305-AES
        self._r = key.mac_r
        self._nonces: list[tuple[bytes, bytes]] = []
        self._pid = os.getpid()

    def _new_nonces(self) -> list[tuple[bytes, bytes]]:
        # Also after a fork, which copied what was prepared: no nonce is ever used twice.
        self._pid = os.getpid()
        raw = os.urandom(IV_BYTES * _NONCES_AT_ONCE)
        masked, r = self._ecb.update(raw), self._r
        self._nonces = [
            (raw[i : i + 16], r + masked[i : i + 16]) for i in range(0, len(raw), IV_BYTES)
        ]
        return self._nonces

    def seal_into(self, plain: Buffer, out: memoryview) -> int:
        """Write the sealed message to the start of `out`; return its length in bytes.

        `out` must have room for ``len(plain) + OVERHEAD_BYTES``.
        """
        nonces = self._nonces
        if not nonces or self._pid != os.getpid():
            nonces = self._new_nonces()
        iv, one_time_key = nonces.pop()
        end = IV_BYTES + len(plain)
        out[:IV_BYTES] = iv
        self._ctr.reset_nonce(iv)
        self._ctr.update_into(plain, out[IV_BYTES : end + MAC_BYTES])
        out[end : end + MAC_BYTES] = Poly1305.generate_tag(one_time_key, out[IV_BYTES:end])
        return end + MAC_BYTES

    def seal(self, plain: Buffer) -> bytes:
        out = bytearray(len(plain) + OVERHEAD_BYTES)
        self.seal_into(plain, memoryview(out))
        return bytes(out)

    def open(self, sealed: Buffer, what: str) -> bytes:
        """Return the plain bytes; raise `Damaged`, naming `what`, where the MAC is wrong."""
        view = memoryview(sealed)
        if len(view) < OVERHEAD_BYTES:
            raise Damaged(f"{what} is truncated: {len(view)} bytes is shorter than any sealed data")
        iv = bytes(view[:IV_BYTES])
        ciphertext = view[IV_BYTES:-MAC_BYTES]
        try:
            Poly1305.verify_tag(
                self._r + self._ecb.update(iv), ciphertext, bytes(view[-MAC_BYTES:])
            )
        except InvalidSignature:
            raise Damaged(f"{what} is damaged: its authentication code does not match") from None
        self._ctr.reset_nonce(iv)
        return self._ctr.update(ciphertext)
