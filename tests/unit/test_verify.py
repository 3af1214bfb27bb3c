"""Verify: every damage has its finding and its price in files, and leftovers are no damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sample_repository import (
    contents,
    expected,
    fill,
    flip,
    keys_of,
    make,
    pack_list,
    packs_holding,
    reopen,
    replace,
    save,
)

from holdfast.errors import UsageError
from holdfast.flows.verify import VerifyRequest, VerifyResult, verify
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index_rewrite import IndexRewrite
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.keyring import add_key
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.store.local import LocalStore

READ = VerifyRequest(read_data=True, workers=0)
STRUCTURE = VerifyRequest(workers=0)


class Sample:
    """Two snapshots: `first` of a.bin, b/c.bin and b/d.txt; `second` with a.bin changed."""

    def __init__(self, directory: Path) -> None:
        self.repository = make()
        self.directory = fill(directory, {"a.bin": 90_000, "b/c.bin": 60_000, "b/d.txt": b"hello"})
        self.first = save(self.repository, directory)
        self.first_packs = {info.key for _, info in self.repository.pack_files()}
        fill(directory, {"a.bin": 90_000}, seed=1)
        self.second = save(self.repository, directory)

    def pack(self, snapshot: Snapshot, kind: BlobType) -> str:
        """The key of the pack with that snapshot's own data or trees."""
        for pack in packs_holding(self.repository, kind):
            key = pack_key(pack)
            if (key in self.first_packs) == (snapshot is self.first):
                return key
        raise AssertionError

    def offset_of(self, name: str) -> tuple[str, int]:
        """Where the content of a file of the first snapshot lies: a pack's key and offset."""
        data = (self.directory / name).read_bytes()
        packs = pack_list(self.repository)
        for number, pack in enumerate(packs.packs):
            for blob in packs.blobs(number):
                if blob.type is BlobType.DATA and blob.raw_length == len(data):
                    key = pack_key(pack.id)
                    if key in self.first_packs:
                        return key, blob.offset
        raise AssertionError


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


def codes(result: VerifyResult) -> set[str]:
    return {finding.code for finding in result.findings}


def lost(result: VerifyResult, snapshot: Snapshot, below: Path) -> set[str]:
    """The lost paths of a snapshot, relative to what was backed up."""
    for each in result.damaged:
        if each.id == snapshot.id:
            return {os.path.relpath(path.path, below) for path in each.lost}
    return set()


def test_a_whole_repository_is_clean(sample: Sample) -> None:
    result = verify(sample.repository, READ)
    assert result.clean
    assert (result.findings, result.notes, result.damaged) == ((), (), ())
    assert result.snapshots == 2
    stored = [info.size_bytes for _, info in sample.repository.pack_files()]
    assert (result.packs_read, result.bytes_read) == (len(stored), sum(stored))
    assert not list(keys_of(sample.repository.store, FileKind.LOCK))


def test_the_structure_alone_reads_no_pack_of_data(sample: Sample) -> None:
    result = verify(sample.repository, STRUCTURE)
    assert result.clean
    assert result.packs_read == result.bytes_read == 0


def test_a_missing_pack_of_data_costs_the_files_in_it(sample: Sample) -> None:
    sample.repository.store.delete(sample.pack(sample.second, BlobType.DATA))
    result = verify(sample.repository, STRUCTURE)
    assert not result.clean
    assert codes(result) == {"pack_missing"}
    # The new a.bin, and the new manifest, which lies in the same pack.
    assert "a.bin" in lost(result, sample.second, sample.directory)
    assert "b/c.bin" not in lost(result, sample.second, sample.directory)
    assert lost(result, sample.first, sample.directory) == set()


def test_a_missing_pack_of_trees_costs_directories(sample: Sample) -> None:
    sample.repository.store.delete(sample.pack(sample.first, BlobType.TREE))
    result = verify(sample.repository, STRUCTURE)
    assert "pack_missing" in codes(result)
    assert lost(result, sample.first, Path("/")) == {"."}
    assert lost(result, sample.second, sample.directory) == {"b"}, "b's tree is shared"


def test_a_missing_index_file_costs_everything_that_it_listed(sample: Sample) -> None:
    for key in keys_of(sample.repository.store, FileKind.INDEX):
        sample.repository.store.delete(key)
    result = verify(sample.repository, STRUCTURE)
    assert codes(result) == {"tree_blobs_unlisted"}
    assert {each.id for each in result.damaged} == {sample.first.id, sample.second.id}
    assert {note.code for note in result.notes} == {"packs_unreferenced"}


def test_a_bit_flip_in_a_blob_is_seen_by_reading_and_names_the_file(sample: Sample) -> None:
    key, offset = sample.offset_of("b/c.bin")
    flip(sample.repository.store, key, offset + 1000)
    assert verify(sample.repository, STRUCTURE).clean, "its size is right"
    result = verify(sample.repository, READ)
    assert codes(result) == {"pack_damaged"}
    assert "1 of its" in result.findings[0].message
    assert result.damaged_packs == (key.rsplit("/", 1)[1],)
    assert lost(result, sample.first, sample.directory) == {"b/c.bin"}
    assert lost(result, sample.second, sample.directory) == {"b/c.bin"}


@pytest.mark.parametrize("from_end", [3, 20])
def test_a_bit_flip_in_a_header_costs_no_file(sample: Sample, from_end: int) -> None:
    flip(sample.repository.store, sample.pack(sample.first, BlobType.DATA), -from_end)
    result = verify(sample.repository, READ)
    assert codes(result) == {"pack_damaged", "pack_header_damaged"}
    assert result.damaged == ()
    assert not result.clean


def test_a_bit_flip_in_a_tree_is_seen_without_reading_data(sample: Sample) -> None:
    flip(sample.repository.store, sample.pack(sample.first, BlobType.TREE), 40)
    result = verify(sample.repository, STRUCTURE)
    assert "tree_damaged" in codes(result)
    assert sample.first.id in {each.id for each in result.damaged}


def test_a_bit_flip_in_an_index_file_is_seen_although_the_table_is_cached(
    sample: Sample, tmp_path: Path
) -> None:
    cached = Repository.open(
        sample.repository.store, "correct horse", cache_directory=str(tmp_path / "cache")
    )
    cached.open_index()
    flip(sample.repository.store, next(keys_of(sample.repository.store, FileKind.INDEX)), 50)
    result = verify(cached, STRUCTURE)
    assert "index_damaged" in codes(result)
    assert result.damaged


def test_a_bit_flip_in_a_snapshot_costs_that_snapshot(sample: Sample) -> None:
    flip(sample.repository.store, f"snapshots/{sample.first.id}", 30)
    result = verify(sample.repository, STRUCTURE)
    assert codes(result) == {"snapshot_damaged"}
    assert [each.id for each in result.damaged] == [sample.first.id]
    assert result.snapshots == 2


def test_a_bit_flip_in_a_second_key_is_damage(sample: Sample) -> None:
    key_id = add_key(sample.repository, "another", scrypt=Scrypt(n=16))
    flip(sample.repository.store, f"keys/{key_id}", 30)
    assert codes(verify(sample.repository, STRUCTURE)) == {"key_damaged"}


def test_a_damaged_config_is_damage(sample: Sample) -> None:
    flip(sample.repository.store, "config", 30)
    assert codes(verify(sample.repository, STRUCTURE)) == {"config_damaged"}


@pytest.mark.parametrize("kind", ["index", "snapshots", "keys"])
def test_a_truncated_small_file_is_damage(sample: Sample, kind: str) -> None:
    store = sample.repository.store
    key = next(info.key for info in store.list(f"{kind}/"))
    replace(store, key, store.read(key)[:-7])
    assert not verify(sample.repository, STRUCTURE).clean


def test_a_truncated_pack_costs_what_lay_behind_the_cut(sample: Sample) -> None:
    store = sample.repository.store
    key, offset = sample.offset_of("b/c.bin")
    replace(store, key, store.read(key)[: offset + 10])
    for request in (STRUCTURE, READ):
        result = verify(sample.repository, request)
        assert "pack_size_wrong" in codes(result)
        assert "b/c.bin" in lost(result, sample.first, sample.directory)
    packs = pack_list(sample.repository)
    number = packs.number_of[bytes.fromhex(key.rsplit("/", 1)[1])]
    before = [blob for blob in packs.blobs(number) if blob.offset + blob.length <= offset]
    assert len(lost(result, sample.first, sample.directory)) == len(packs.blobs(number)) - len(
        before
    )


def test_an_emptied_pack_is_damage(sample: Sample) -> None:
    replace(sample.repository.store, sample.pack(sample.second, BlobType.DATA), b"")
    result = verify(sample.repository, READ)
    assert {"pack_size_wrong", "pack_damaged", "pack_header_damaged"} <= codes(result)
    assert "a.bin" in lost(result, sample.second, sample.directory)


def test_an_index_that_lists_a_blob_wrongly_is_damage(sample: Sample) -> None:
    repository = sample.repository
    packs = pack_list(repository)
    number = packs.number_of[bytes.fromhex(sample.pack(sample.first, BlobType.DATA)[-64:])]
    first, *others = packs.blobs(number)
    wrong = IndexedPack(packs.packs[number].id, [first._replace(offset=first.offset + 1), *others])
    rewrite = IndexRewrite(repository)
    rewrite.write(packs.index.sources, {wrong.id}, [wrong])
    rewrite.remove_superseded()
    assert codes(verify(repository, READ)) == {"blob_damaged", "pack_header_differs"}


def test_a_blob_with_a_second_good_copy_is_not_lost(sample: Sample, tmp_path: Path) -> None:
    key, offset = sample.offset_of("b/c.bin")
    # The same content stored again by a writer that did not know it.
    other = make_beside(sample, tmp_path)
    flip(sample.repository.store, key, offset + 1000)
    result = verify(sample.repository, READ)
    assert codes(result) == {"pack_damaged"}
    assert result.damaged == ()
    assert contents(sample.repository, other) == expected(sample.directory)


def make_beside(sample: Sample, tmp_path: Path) -> Snapshot:
    """Back up while the index is out of sight, as two writers at once would."""
    store = sample.repository.store
    hidden = {key: store.read(key) for key in keys_of(store, FileKind.INDEX)}
    for key in hidden:
        store.delete(key)
    snapshot = save(sample.repository, sample.directory, parent=None)
    for key, content in hidden.items():
        store.create(key, content)
    return snapshot


def test_duplicate_blobs_are_no_damage(sample: Sample, tmp_path: Path) -> None:
    make_beside(sample, tmp_path)
    assert verify(sample.repository, READ).clean


def leave_unlisted_pack(repository: Repository) -> None:
    packs = pack_list(repository)
    content = repository.store.read(pack_key(packs.packs[0].id))
    import hashlib

    name = hashlib.sha256(content[:-1]).hexdigest()
    repository.store.create(f"data/{name[:2]}/{name}", content[:-1])


def leave_marks_beside_live_listings(repository: Repository) -> None:
    packs = pack_list(repository)
    marks = [packs.listing(number, 1_900_000_000 * 10**9) for number in range(len(packs))]
    repository.save(FileKind.INDEX, encode_index(marks))


def leave_a_stale_lock(repository: Repository) -> None:
    repository.save(
        FileKind.LOCK,
        b'{"time":"2020-01-01T00:00:00Z","exclusive":true,"hostname":"gone","username":"x",'
        b'"pid":1,"uid":0,"gid":0}',
    )


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (leave_unlisted_pack, "packs_unreferenced"),
        (leave_marks_beside_live_listings, "packs_listed_twice"),
    ],
)
def test_leftovers_of_interrupted_runs_are_notes(
    sample: Sample, leave: Callable[[Repository], None], code: str
) -> None:
    leave(sample.repository)
    result = verify(sample.repository, READ)
    assert result.clean
    assert {note.code for note in result.notes} == {code}


def test_a_stale_lock_does_not_keep_verify_out(sample: Sample) -> None:
    leave_a_stale_lock(sample.repository)
    assert verify(sample.repository, READ).clean


def test_a_file_of_the_wrong_size_is_damage(sample: Sample) -> None:
    from holdfast.repo.reader import BlobReader
    from holdfast.repo.session import WriteSession
    from holdfast.repo.tree import decode_tree, encode_tree
    from holdfast.repo.writer import BlobWriter

    repository = sample.repository
    reader = BlobReader(repository, repository.open_index())
    packs = pack_list(repository)
    with WriteSession(repository, "backup") as session:
        writer = BlobWriter(session.setup)
        for number, _ in enumerate(packs.packs):
            for blob in packs.blobs(number):
                if blob.type is BlobType.TREE:
                    nodes = decode_tree(reader.load(BlobType.TREE, blob.id), "tree")
                    files = [node for node in nodes if node.name == b"c.bin"]
                    if files:
                        tree = writer.add(BlobType.TREE, encode_tree([files[0]._replace(size=7)]))
        session.take(writer.flush())
        writer.close()
        session.commit(sample.first.document | {"tree": tree.hex()})
    result = verify(repository, STRUCTURE)
    assert codes(result) == {"file_size_wrong"}
    assert "'c.bin'" in result.findings[0].message


def test_shares_cover_everything_once(sample: Sample, tmp_path: Path) -> None:
    for seed in range(2, 8):
        fill(sample.directory, {"a.bin": 9_000}, seed=seed)
        save(sample.repository, sample.directory)
    packs = [pack.id for pack in pack_list(sample.repository).packs]
    parts = [VerifyRequest(share=(n, 3)).chosen(packs) for n in (1, 2, 3)]
    assert sorted(pack for part in parts for pack in part) == sorted(packs)
    read = [verify(sample.repository, VerifyRequest(share=(n, 3), workers=0)) for n in (1, 2, 3)]
    assert sum(result.packs_read for result in read) == len(packs)


def test_a_percentage_reads_so_many_packs_and_never_none(sample: Sample) -> None:
    packs = [bytes([n]) * 32 for n in range(50)]
    assert len(VerifyRequest(percent=10, seed=1).chosen(packs)) == 5
    assert len(VerifyRequest(percent=0.1, seed=1).chosen(packs)) == 1
    assert VerifyRequest(percent=100).chosen(packs) == packs
    assert VerifyRequest(percent=30, seed=7).chosen(packs) == VerifyRequest(
        percent=30, seed=7
    ).chosen(packs)


@pytest.mark.parametrize(
    "options",
    [
        {"percent": 0},
        {"percent": 101},
        {"share": (0, 3)},
        {"share": (4, 3)},
        {"share": (1, 3), "read_data": True},
    ],
)
def test_a_wish_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        VerifyRequest(**options)  # type: ignore[arg-type]


def test_workers_find_the_same_as_one_process(tmp_path: Path) -> None:
    repository = make(LocalStore(str(tmp_path / "repository")))
    save(repository, fill(tmp_path / "files", {"x": 400_000, "y": 200_000}), workers=2)
    pack = packs_holding(repository, BlobType.DATA)[0]
    path = tmp_path / "repository" / pack_key(pack)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    one = verify(reopen(repository), READ)
    two = verify(reopen(repository), VerifyRequest(read_data=True, workers=2))
    assert one.findings == two.findings != ()
    assert one.damaged == two.damaged != ()
