"""The keys of a repository: which passwords open it.

Every key file wraps the same master key, so adding, removing or changing one touches no
data. The last key is never removed, nor the one that opened the repository, and a new key
is there, and proven to open, before an old one goes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import Conflict, Damaged, NotFound, UsageError
from holdfast.model.finding import Finding
from holdfast.repo import rfc3339
from holdfast.repo.keyfile import Scrypt, make_key_file, parse_key_file
from holdfast.repo.repository import FileKind, Repository


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key, as people are shown it; `created` is None where the file does not say."""

    id: str
    created: datetime | None
    username: str
    hostname: str
    current: bool


def list_keys(repository: Repository) -> tuple[list[KeyInfo], list[Finding]]:
    """Return the readable keys, oldest first, and a finding for each that is damaged."""
    keys: list[KeyInfo] = []
    findings: list[Finding] = []
    for key_id, text in repository.key_files():
        try:
            if hashlib.sha256(text).hexdigest() != key_id:
                raise Damaged(f"key {key_id[:8]} does not match its name")
            file = parse_key_file(key_id, text)
        except Damaged as error:
            findings.append(Finding("key_damaged", error.message, key_id))
            continue
        try:
            created = rfc3339.to_datetime(file.created)
        except ValueError:
            created = None
        current = key_id == repository.key_id
        keys.append(KeyInfo(key_id, created, file.username, file.hostname, current))
    keys.sort(key=lambda key: (0.0 if key.created is None else key.created.timestamp(), key.id))
    return keys, findings


def add_key(repository: Repository, password: str, *, scrypt: Scrypt | None = None) -> str:
    """Let `password` open the repository as well; return the new key's id."""
    if not password:
        raise UsageError("an empty password protects nothing; choose one that is not empty")
    text = make_key_file(repository.key, password, scrypt or Scrypt())
    key_id = hashlib.sha256(text).hexdigest()
    repository.store.create(f"{FileKind.KEY.value}/{key_id}", text)
    stored = repository.store.read(f"{FileKind.KEY.value}/{key_id}")
    if parse_key_file(key_id, stored).unwrap(password) != repository.key:
        repository.remove(FileKind.KEY, key_id)
        raise Damaged("the new key does not open the repository; no key was changed")
    return key_id


def remove_key(repository: Repository, name: str) -> str:
    """Remove the key with that id, or beginning of one; return its whole id."""
    ids = repository.ids(FileKind.KEY)
    matching = [key_id for key_id in ids if name and key_id.startswith(name.lower())]
    if not matching:
        raise NotFound(f"there is no key {name!r}; see `holdfast key list`")
    if len(matching) > 1:
        raise UsageError(f"{name!r} is the beginning of {len(matching)} key ids; give more digits")
    key_id = matching[0]
    if key_id == repository.key_id:
        raise Conflict(
            f"key {key_id[:8]} is the one in use; open the repository with another password to "
            "remove it"
        )
    if len(ids) == 1:
        raise Conflict(f"key {key_id[:8]} is the last one; without it nothing opens the repository")
    repository.remove(FileKind.KEY, key_id)
    return key_id


def change_password(repository: Repository, password: str, *, scrypt: Scrypt | None = None) -> str:
    """Replace the key in use by one for `password`; return the new key's id.

    Killed in between, both passwords open the repository.
    """
    old = repository.key_id
    new = add_key(repository, password, scrypt=scrypt)
    repository.key_id = new
    repository.remove(FileKind.KEY, old)
    return new
