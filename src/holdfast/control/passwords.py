"""Passwords: argon2id, and the same cost whether or not there is anything to compare with.

A password is never kept, logged or compared in any other way. Hashing takes 64 MiB each
time, so only a few run at once in a process, whoever asks.
"""

from __future__ import annotations

import threading
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from holdfast.errors import UsageError

MIN_CHARACTERS: Final = 10
MAX_BYTES: Final = 1000
UNUSABLE: Final = "!"
"""Kept in place of a hash where no password opens."""

NOBODY: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$eFbEeXxgbk1cg6ZYIvRDBA"
    "$2QeVV1mLbJxkXQpYB6nC3KIWYzGfKqP0oRr1mVwxKzg"
)
"""A hash with today's parameters of no password, for those who do not exist."""

_HASHER: Final = PasswordHasher()
_AT_ONCE: Final = threading.BoundedSemaphore(4)


def check_new(password: str) -> None:
    """`UsageError` where a password that somebody chooses is too short or too long."""
    if len(password) < MIN_CHARACTERS:
        raise UsageError(f"A password has at least {MIN_CHARACTERS} characters; choose a longer.")
    if len(_encoded(password)) > MAX_BYTES:
        raise UsageError(f"A password has at most {MAX_BYTES} bytes; choose a shorter.")


def hash_of(password: str) -> str:
    """What is kept of a password."""
    with _AT_ONCE:
        return _HASHER.hash(_encoded(password))


def matches(password: str, kept: str | None) -> bool:
    """Whether this is the password; `kept` is None where there is no such person.

    Every answer costs one hash.
    """
    usable = kept is not None and kept.startswith("$argon2id$")
    secret = _encoded(password)[: MAX_BYTES + 1]
    with _AT_ONCE:
        try:
            found = _HASHER.verify(kept if usable and kept else NOBODY, secret)
        except (VerificationError, InvalidHashError):
            return False
    return found and usable and len(secret) <= MAX_BYTES


def is_outdated(kept: str) -> bool:
    """Whether a hash was made with parameters that are no longer the ones to use."""
    return _HASHER.check_needs_rehash(kept)


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
