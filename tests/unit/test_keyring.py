"""Keys and locks: a repository can always be opened, and only stale locks go by themselves."""

from __future__ import annotations

import pytest
from sample_repository import CHEAP, PASSWORD, flip, make

from holdfast.errors import Conflict, NotFound, StoreUnavailable, UsageError, WrongPassword
from holdfast.flows.keys import key_add, key_change, key_remove, keys
from holdfast.flows.unlock import unlock
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.faults import FaultyStore, fail_before, on


def opens(repository: Repository, password: str) -> bool:
    try:
        return Repository.open(repository.store, password).key == repository.key
    except WrongPassword:
        return False


def test_a_new_repository_has_one_key() -> None:
    repository = make()
    (key,) = keys(repository).keys
    assert key.id == repository.key_id
    assert key.current
    assert key.created is not None


def test_passwords_can_be_added_and_removed() -> None:
    repository = make()
    added = key_add(repository, "second", scrypt=CHEAP)
    assert len(added.keys) == 2
    assert opens(repository, "second")
    assert opens(repository, PASSWORD)
    key_remove(repository, added.changed[:12])
    assert not opens(repository, "second")
    assert opens(repository, PASSWORD)


def test_changing_a_password_replaces_the_key_in_use() -> None:
    repository = make()
    key_add(repository, "colleague", scrypt=CHEAP)
    old = repository.key_id
    result = key_change(repository, "new", scrypt=CHEAP)
    assert repository.key_id == result.changed != old
    assert old not in {key.id for key in result.keys}
    assert opens(repository, "new")
    assert opens(repository, "colleague")
    assert not opens(repository, PASSWORD)


def test_a_change_that_fails_half_way_leaves_both_passwords() -> None:
    repository = make()
    store = FaultyStore(repository.store, on("delete", fail_before(StoreUnavailable("down"))))
    half = Repository.open(store, PASSWORD)
    with pytest.raises(StoreUnavailable):
        key_change(half, "new", scrypt=CHEAP)
    assert opens(repository, PASSWORD)
    assert opens(repository, "new")


def test_the_last_key_and_the_one_in_use_are_not_removed() -> None:
    repository = make()
    with pytest.raises(Conflict, match="in use"):
        key_remove(repository, repository.key_id)
    other = (
        Repository.open(repository.store, "second")
        if key_add(repository, "second", scrypt=CHEAP)
        else repository
    )
    key_remove(other, repository.key_id)
    with pytest.raises(Conflict, match="in use"):
        key_remove(other, other.key_id)
    with pytest.raises(Conflict, match="last"):
        key_remove(repository, other.key_id)  # opened by a key that is gone
    assert opens(repository, "second")


def test_names_that_mean_no_key_are_refused() -> None:
    repository = make()
    with pytest.raises(NotFound):
        key_remove(repository, "zz")
    with pytest.raises(NotFound):
        key_remove(repository, "")
    with pytest.raises(UsageError, match="empty"):
        key_add(repository, "", scrypt=CHEAP)


def test_a_damaged_key_is_named_and_can_be_removed() -> None:
    repository = make()
    added = key_add(repository, "second", scrypt=CHEAP).changed
    flip(repository.store, f"keys/{added}", 20)
    result = keys(repository)
    assert [(finding.code, finding.subject) for finding in result.findings] == [
        ("key_damaged", added)
    ]
    assert [key.id for key in result.keys] == [repository.key_id]
    key_remove(repository, added)
    assert keys(repository).findings == ()


def stale(repository: Repository) -> str:
    return repository.save(
        FileKind.LOCK,
        b'{"time":"2020-01-01T00:00:00Z","exclusive":true,"hostname":"h","username":"u","pid":1}',
    )


def test_stale_and_unreadable_locks_are_removed() -> None:
    repository = make()
    gone = {stale(repository), repository.save(FileKind.LOCK, b'{"what":1}')}
    with repository.lock("backup"):
        name = stale(repository)
        result = unlock(repository)
        assert name in result.removed
        assert gone <= {*result.removed, *gone}
        assert [record.purpose for record in result.left] == ["backup"]
        assert "holdfast backup" in result.findings[0].message
        assert len(repository.ids(FileKind.LOCK)) == 1
        everything = unlock(repository, every_lock=True)
        assert everything.left == ()
        assert repository.ids(FileKind.LOCK) == []
