"""Keys: list, add and remove the passwords of a repository, or change the one in use.

Needs no lock: only files under ``keys/`` change, and whoever has the repository open does
not need them again. What must not be removed, `repo/keyring.py` refuses to.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.model.finding import Finding
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.keyring import KeyInfo, add_key, change_password, list_keys, remove_key
from holdfast.repo.repository import Repository


@dataclass(frozen=True, slots=True)
class KeysResult:
    """The keys as they are afterwards; `changed` is the id that was added or removed."""

    keys: tuple[KeyInfo, ...]
    findings: tuple[Finding, ...]
    changed: str = ""


def keys(repository: Repository) -> KeysResult:
    """List the keys."""
    return _now(repository, "")


def key_add(repository: Repository, password: str, *, scrypt: Scrypt | None = None) -> KeysResult:
    """Add a password."""
    return _now(repository, add_key(repository, password, scrypt=scrypt))


def key_remove(repository: Repository, name: str) -> KeysResult:
    """Remove a key by id; raise `Conflict` for the last one and for the one in use."""
    return _now(repository, remove_key(repository, name))


def key_change(
    repository: Repository, password: str, *, scrypt: Scrypt | None = None
) -> KeysResult:
    """Replace the password in use by a new one."""
    return _now(repository, change_password(repository, password, scrypt=scrypt))


def _now(repository: Repository, changed: str) -> KeysResult:
    found, findings = list_keys(repository)
    return KeysResult(tuple(found), tuple(findings), changed)
