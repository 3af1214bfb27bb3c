"""A repository as a whole: made once, opened by its password, its files found by their names."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from sample_repository import CHEAP, PASSWORD, flip, keys_of, make, reopen, replace

from holdfast.errors import (
    Damaged,
    HoldfastError,
    NewerVersion,
    NotARepository,
    NotFound,
    ObjectNotFound,
    RepositoryExists,
    StoreUnavailable,
    UsageError,
    WrongPassword,
)
from holdfast.repo.config import RepositoryConfig
from holdfast.repo.crypto import Sealer
from holdfast.repo.keyfile import make_key_file
from holdfast.repo.repository import FileKind, Repository, decode_snapshot, pack_key
from holdfast.store.faults import Call, Fault, FaultyStore, at, fail_after, fail_before
from holdfast.store.local import LocalStore
from holdfast.store.memory import MemoryStore

TREE = "ab" * 32


def snapshot_of(repository: Repository, time: str, **fields: object) -> str:
    return repository.save_snapshot({"time": time, "tree": TREE, "paths": ["/x"]} | fields).id


def add_key(repository: Repository, password: str) -> str:
    text = make_key_file(repository.key, password, CHEAP)
    name = hashlib.sha256(text).hexdigest()
    repository.store.create(f"keys/{name}", text)
    return name


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_made_opens(version: int) -> None:
    repository = make(version=version)
    again = Repository.open(repository.store, PASSWORD)
    assert again.config == repository.config
    assert again.key == repository.key
    assert again.key_id == repository.key_id
    assert again.config.version == version
    assert {info.key.partition("/")[0] for info in repository.store.list("")} == {"config", "keys"}


def test_a_second_creation_is_refused_and_changes_nothing() -> None:
    repository = make()
    before = list(repository.store.list(""))
    with pytest.raises(RepositoryExists, match="choose another place"):
        Repository.create(repository.store, "other", scrypt=CHEAP)
    assert list(repository.store.list("")) == before
    assert reopen(repository).key == repository.key


def test_an_empty_password_is_refused_before_anything_is_stored() -> None:
    store = MemoryStore()
    with pytest.raises(UsageError, match="empty password"):
        Repository.create(store, "", scrypt=CHEAP)
    assert list(store.list("")) == []


@pytest.mark.parametrize("fault", [fail_before, fail_after])
def test_a_creation_that_was_interrupted_anywhere_can_be_run_again(
    fault: Callable[[Exception], Fault],
) -> None:
    for number in range(6):
        memory = MemoryStore()
        store = FaultyStore(memory, at(number, fault(StoreUnavailable("away"))))
        try:
            Repository.create(store, "first", scrypt=CHEAP)
        except StoreUnavailable:
            pass
        else:
            # Four calls make a repository; of the first, the answer is an error anyway.
            assert number >= 4 or (number == 0 and fault is fail_after)
        try:
            Repository.open(memory, "first")
        except NotARepository:
            made = Repository.create(memory, "second", scrypt=CHEAP)
            assert Repository.open(memory, "second").key == made.key
            assert len(list(memory.list("keys/"))) == 1, "a key of no use was left"


def test_of_two_that_create_at_once_one_is_told() -> None:
    memory = MemoryStore()
    barrier = threading.Barrier(2)

    def meet() -> None:
        barrier.wait()

    def plan(call: Call) -> Fault | None:
        return Fault(before=meet) if call.number == 1 else None

    made: list[Repository] = []
    refused: list[HoldfastError] = []

    def create(password: str) -> None:
        try:
            made.append(Repository.create(FaultyStore(memory, plan), password, scrypt=CHEAP))
        except HoldfastError as error:
            refused.append(error)

    threads = [threading.Thread(target=create, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in refused] == [RepositoryExists]
    assert len(made) == 1
    working = [name for name in ("one", "two") if opens(memory, name)]
    assert len(working) == 1


def opens(store: MemoryStore, password: str) -> bool:
    try:
        Repository.open(store, password)
    except WrongPassword:
        return False
    return True


def test_there_is_no_repository() -> None:
    with pytest.raises(NotARepository, match="holdfast init"):
        Repository.open(MemoryStore(), PASSWORD)


@pytest.mark.parametrize("password", ["", "wrong", PASSWORD + " "])
def test_a_wrong_password_is_told(password: str) -> None:
    repository = make()
    add_key(repository, "another")
    with pytest.raises(WrongPassword, match=r"none of the 2 key\(s\)"):
        Repository.open(repository.store, password)


def test_every_key_opens() -> None:
    repository = make()
    name = add_key(repository, "another")
    other = Repository.open(repository.store, "another")
    assert other.key == repository.key
    assert other.key_id == name != repository.key_id


def test_a_damaged_key_file_is_named() -> None:
    repository = make()
    flip(repository.store, f"keys/{repository.key_id}", 40)
    with pytest.raises(Damaged, match=f"key file {repository.key_id[:8]} is damaged"):
        reopen(repository)
    # Also where another key is whole, and the password is the damaged one's.
    add_key(repository, "another")
    with pytest.raises(WrongPassword, match=f"key file {repository.key_id[:8]} is damaged"):
        reopen(repository)
    assert Repository.open(repository.store, "another").key == repository.key


def test_a_repository_without_keys_says_so() -> None:
    repository = make()
    repository.store.delete(f"keys/{repository.key_id}")
    repository.store.create("keys/README", b"not a key")
    with pytest.raises(Damaged, match="has no key file"):
        reopen(repository)


def test_a_key_of_another_repository_is_passed_over() -> None:
    repository = make()
    own = f"keys/{repository.key_id}"
    text = repository.store.read(own)
    repository.store.delete(own)
    add_key_of_another(repository)  # listed, and so tried, before our own
    repository.store.create(own, text)
    assert next(repository.store.list("keys/")).key != own
    assert reopen(repository).key == repository.key
    repository.store.delete(f"keys/{repository.key_id}")
    with pytest.raises(Damaged, match="the repository's config is damaged"):
        reopen(repository)


def add_key_of_another(repository: Repository) -> None:
    other = make()
    (key,) = keys_of(other.store, FileKind.KEY)
    repository.store.create(key, other.store.read(key))


def test_a_damaged_config_is_told() -> None:
    repository = make()
    flip(repository.store, "config", 20)
    with pytest.raises(Damaged, match="the repository's config is damaged"):
        reopen(repository)


def test_a_newer_repository_is_told() -> None:
    repository = make()
    config = RepositoryConfig(3, repository.config.id, repository.config.chunker_polynomial)
    replace(repository.store, "config", Sealer(repository.key).seal(config.to_json()))
    with pytest.raises(NewerVersion, match="Use a newer Holdfast"):
        reopen(repository)


@pytest.mark.parametrize("version", [1, 2])
def test_small_files_come_back_and_are_what_their_name_says(version: int) -> None:
    repository = make(version=version)
    json = orjson.dumps({"packs": []})
    name = repository.save(FileKind.INDEX, json)
    assert repository.load(FileKind.INDEX, name) == json
    assert repository.ids(FileKind.INDEX) == [name]
    stored = repository.store.read(f"index/{name}")
    other = "cd" * 32
    repository.store.create(f"index/{other}", stored)
    with pytest.raises(Damaged, match="index cdcdcdcd is damaged: its content does not match"):
        repository.load(FileKind.INDEX, other)
    repository.remove(FileKind.INDEX, name)
    repository.remove(FileKind.INDEX, other)
    assert repository.ids(FileKind.INDEX) == []
    with pytest.raises(ObjectNotFound):
        repository.load(FileKind.INDEX, name)


def test_names_that_are_no_ids_are_passed_over() -> None:
    repository = make()
    for name in ("tmp", "AB" * 32, "ab" * 31, f"{'ab' * 32}.part"):
        repository.store.create(f"snapshots/{name}", b"x")
        repository.store.create(f"data/ab/{name}", b"x")
    repository.store.create(pack_key(b"\xab" * 32), b"a pack")
    assert repository.ids(FileKind.SNAPSHOT) == []
    assert [pack for pack, _ in repository.pack_files()] == [b"\xab" * 32]


def test_snapshots_are_listed_by_time_and_damaged_ones_are_findings() -> None:
    repository = make()
    late = snapshot_of(repository, "2030-01-02T00:30:00+02:00")
    early = snapshot_of(repository, "2030-01-01T22:00:00Z")
    bad = snapshot_of(repository, "2030-01-01T00:00:00Z")
    flip(repository.store, f"snapshots/{bad}", 30)
    found, findings = repository.snapshots()
    assert [snapshot.id for snapshot in found] == [early, late]
    assert [(finding.code, finding.subject) for finding in findings] == [("snapshot_damaged", bad)]


def test_a_snapshot_is_found_by_any_unique_beginning() -> None:
    repository = make()
    ids = [snapshot_of(repository, f"2030-01-{day:02}T00:00:00Z") for day in range(1, 19)]
    chosen = ids[3]
    unique = next(n for n in range(65) if sum(i.startswith(chosen[:n]) for i in ids) == 1)
    for length in (unique, 8, 64):
        assert repository.find_snapshot(chosen[:length]).id == chosen
        assert repository.find_snapshot(chosen[:length].upper()).id == chosen
    # Of eighteen ids two begin with the same of sixteen digits.
    digits = [i[0] for i in ids]
    twice = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(UsageError, match=f"'{twice}' is the beginning of {digits.count(twice)} "):
        repository.find_snapshot(twice)
    for nothing in ("", "zz", chosen + "0", "*", "Latest"):
        with pytest.raises(NotFound, match="holdfast snapshots"):
            repository.find_snapshot(nothing)


def test_the_latest_is_that_of_the_latest_time_among_those_that_match() -> None:
    repository = make()
    with pytest.raises(NotFound, match="no snapshot that matches"):
        repository.find_snapshot("latest")
    old = snapshot_of(repository, "2030-01-01T00:00:00Z", hostname="a")
    new = snapshot_of(repository, "2031-01-01T00:00:00Z", hostname="b")
    snapshot_of(repository, "2029-01-01T00:00:00Z", hostname="a")
    assert repository.find_snapshot("latest").id == new
    assert repository.find_snapshot("latest", lambda s: s.hostname == "a").id == old
    with pytest.raises(NotFound):
        repository.find_snapshot("latest", lambda s: s.hostname == "c")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"time":"2030-01-01T00:00:00Z"}',
        b'{"time":5,"tree":"%s"}' % TREE.encode(),
        b'{"time":"now","tree":"%s"}' % TREE.encode(),
        b'{"time":"2030-01-01T00:00:00Z","tree":null}',
        b'{"time":"2030-01-01T00:00:00Z","tree":"zz"}',
        b'{"time":"2030-01-01T00:00:00Z","tree":"%s","paths":5}' % TREE.encode(),
    ],
)
def test_what_is_no_snapshot_is_damage(text: bytes) -> None:
    with pytest.raises(Damaged, match="snapshot abababab is not a snapshot document"):
        decode_snapshot("ab" * 32, text)


def test_a_snapshot_keeps_what_it_does_not_know() -> None:
    repository = make()
    name = snapshot_of(repository, "2030-01-01T00:00:00Z", future={"x": 1}, tags=None)
    snapshot = repository.snapshot(name)
    assert snapshot.document["future"] == {"x": 1}
    assert snapshot.tags == ()
    assert snapshot.summary == {}


def test_a_repository_can_be_sent_to_another_process(tmp_path: Path) -> None:
    repository = Repository.create(
        LocalStore(str(tmp_path / "repo")),
        PASSWORD,
        scrypt=CHEAP,
        cache_directory=str(tmp_path / "cache"),
    )
    name = snapshot_of(repository, "2030-01-01T00:00:00Z")
    copy: Repository = pickle.loads(pickle.dumps(repository))
    assert copy.cache_directory == repository.cache_directory
    assert copy.find_snapshot("latest").id == name
