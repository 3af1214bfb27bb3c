"""The writer of blobs: what it stores, how often, in what form, and what it tells when it fails."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zstandard
from sample_repository import PASSWORD, make

from holdfast.errors import StoreFull
from holdfast.repo.crypto import OVERHEAD_BYTES, Sealer
from holdfast.repo.index import BlobIndex
from holdfast.repo.indexfile import IndexedPack
from holdfast.repo.known import KnownBlobs
from holdfast.repo.pack import (
    BlobType,
    PackedBlob,
    decode_header,
    pack_size_bytes,
    sealed_header_length,
)
from holdfast.repo.repository import Repository, pack_key
from holdfast.repo.writer import (
    _MAX_BLOBS,
    BlobWriter,
    Compression,
    StoredPack,
    WriteSetup,
    WriteTotals,
)
from holdfast.store.faults import FaultyStore, fail_after, fail_before, on
from holdfast.store.memory import MemoryStore
from holdfast.store.protocol import ObjectStore

FULL = StoreFull("no room")


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@contextmanager
def writing(
    repository: Repository, *, store: ObjectStore | None = None, **options: object
) -> Iterator[BlobWriter]:
    known = KnownBlobs()
    setup = WriteSetup(
        store=store or repository.store,
        key=repository.key,
        index=BlobIndex([]),
        known=known,
        version=repository.config.version,
        **options,  # type: ignore[arg-type]
    )
    writer = BlobWriter(setup)
    try:
        yield writer
    finally:
        writer.close()
        known.close()


def packs(repository: Repository) -> dict[bytes, list[PackedBlob]]:
    """Every pack in the store, read as a reader without any index would."""
    sealer, found = Sealer(repository.key), {}
    for pack_id, info in repository.pack_files():
        content = repository.store.read(info.key)
        assert hashlib.sha256(content).digest() == pack_id
        length = sealed_header_length(content[-4:], len(content), "it")
        blobs = decode_header(sealer.open(content[-4 - length : -4], "it"), "it")
        assert pack_size_bytes(blobs) == len(content)
        found[pack_id] = blobs
    return found


def plain(repository: Repository, pack: bytes, blob: PackedBlob) -> bytes:
    sealed = repository.store.read(pack_key(pack), blob.offset, blob.length)
    content = Sealer(repository.key).open(sealed, "it")
    if blob.compressed:
        content = zstandard.decompress(content, max_output_size=blob.raw_length)
    assert len(content) == blob.raw_length
    assert hashlib.sha256(content).digest() == blob.id
    return content


def everything(repository: Repository) -> dict[tuple[BlobType, bytes], bytes]:
    return {
        (blob.type, blob.id): plain(repository, pack, blob)
        for pack, blobs in packs(repository).items()
        for blob in blobs
    }


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_added_lies_in_packs_that_decode(version: int) -> None:
    repository = make(version=version)
    contents = [b"", b"x", b"text " * 400, noise(1, 5000), noise(2, 70_000), bytes(100_000)]
    with writing(repository, pack_bytes=30_000) as writer:
        ids = [writer.add(BlobType.DATA, content) for content in contents]
        tree = writer.add(BlobType.TREE, b'{"nodes":[]}\n')
        stored = writer.flush()
    assert ids == [hashlib.sha256(content).digest() for content in contents]
    reopened = Repository.open(repository.store, PASSWORD)
    assert everything(reopened) == {
        **{(BlobType.DATA, i): c for i, c in zip(ids, contents, strict=True)},
        (BlobType.TREE, tree): b'{"nodes":[]}\n',
    }
    found = packs(repository)
    assert {pack.id: decode_header(pack.header, "it") for pack in stored} == found
    # Data and trees never share a pack.
    assert all(len({blob.type for blob in blobs}) == 1 for blobs in found.values())


def test_a_blob_is_stored_once() -> None:
    repository = make()
    with writing(repository) as writer:
        assert len({writer.add(BlobType.DATA, b"the same") for _ in range(5)}) == 1
        writer.flush()
        writer.add(BlobType.DATA, b"the same")
        assert writer.flush() == []
        assert writer.take_totals() == WriteTotals(
            1, 0, 8, sum(info.size_bytes for _, info in repository.pack_files())
        )
        assert writer.take_totals() == WriteTotals()


def test_a_blob_that_the_index_lists_is_not_stored() -> None:
    repository = make()
    known_id = hashlib.sha256(b"known").digest()
    with writing(repository) as writer:
        blob = PackedBlob(known_id, BlobType.DATA, 0, 37, 5, False)
        writer._index.add([IndexedPack(bytes(32), [blob])])
        assert writer.knows(BlobType.DATA, known_id)
        assert not writer.knows(BlobType.TREE, known_id)
        assert writer.add(BlobType.DATA, b"known") == known_id
        assert writer.flush() == []


def test_data_and_a_tree_of_the_same_bytes_are_both_stored() -> None:
    repository = make()
    with writing(repository) as writer:
        blob_id = writer.add(BlobType.DATA, b"same")
        assert writer.add(BlobType.TREE, b"same") == blob_id
        writer.flush()
        assert (writer.totals.data_blobs, writer.totals.tree_blobs) == (1, 1)
    assert set(everything(repository)) == {(BlobType.DATA, blob_id), (BlobType.TREE, blob_id)}


def gaining(size: int, gain: int) -> bytes:
    """Bytes that compress to exactly `gain` fewer."""
    compressor = zstandard.ZstdCompressor(level=1)
    for zeros in range(gain, size):
        data = bytes(zeros) + noise(3, size - zeros)
        if size - len(compressor.compress(data)) == gain:
            return data
    raise AssertionError("no such bytes")


def test_a_blob_is_compressed_only_where_a_64th_is_won() -> None:
    repository = make()
    size = 6400
    at_limit, beyond = gaining(size, 100), gaining(size, 101)
    with writing(repository) as writer:
        ids = [writer.add(BlobType.DATA, data) for data in (at_limit, beyond)]
        writer.flush()
    ((_, blobs),) = packs(repository).items()
    by_id = {blob.id: blob for blob in blobs}
    assert not by_id[ids[0]].compressed
    assert by_id[ids[0]].length == size + OVERHEAD_BYTES
    assert by_id[ids[1]].compressed
    assert by_id[ids[1]].length == size - 101 + OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("version", "compression", "data_compressed", "tree_compressed"),
    [
        (2, Compression.FAST, True, True),
        (2, Compression.BEST, True, True),
        (2, Compression.OFF, False, True),
        (1, Compression.BEST, False, False),
    ],
)
def test_which_blobs_are_compressed(
    version: int, compression: Compression, data_compressed: bool, tree_compressed: bool
) -> None:
    repository = make(version=version)
    with writing(repository, compression=compression) as writer:
        writer.add(BlobType.DATA, b"text " * 1000)
        # Even a tree that does not gain: restic repacks packs of trees where one is not.
        writer.add(BlobType.TREE, b"{}")
        writer.flush()
    told = {blob.type: blob.compressed for blobs in packs(repository).values() for blob in blobs}
    assert told == {BlobType.DATA: data_compressed, BlobType.TREE: tree_compressed}


def test_an_empty_blob_is_never_compressed() -> None:
    repository = make()
    with writing(repository) as writer:
        writer.add(BlobType.DATA, b"")
        writer.add(BlobType.TREE, b"")
        writer.flush()
    assert not any(blob.compressed for blobs in packs(repository).values() for blob in blobs)


def test_packs_stay_within_their_size() -> None:
    repository = make()
    limit = 50_000
    with writing(repository, pack_bytes=limit) as writer:
        for seed in range(100):
            writer.add(BlobType.DATA, noise(seed, 3000 + seed))
        writer.flush()
    filled = [sum(blob.length for blob in blobs) for blobs in packs(repository).values()]
    assert max(filled) <= limit
    assert sorted(filled)[1] > limit - 3200, "all but the last are as full as they can be"


def test_a_pack_holds_no_more_blobs_than_its_header_has_room_for() -> None:
    repository = make()
    with writing(repository, compression=Compression.OFF) as writer:
        for number in range(_MAX_BLOBS + 1):
            writer.add(BlobType.DATA, b"%d" % number)
        writer.flush()
    assert sorted(len(blobs) for blobs in packs(repository).values()) == [1, _MAX_BLOBS]


# The buffers have room for a full header, so that what exceeds them is far larger than a pack.
@pytest.mark.parametrize("size", [9_900, 10_001, 330_000, 345_000, 1_000_000])
def test_a_blob_larger_than_a_pack_has_a_pack_of_its_own(size: int) -> None:
    repository = make()
    contents = [noise(1, 300), noise(2, size), noise(3, 300), noise(4, size), noise(5, 300)]
    with writing(repository, pack_bytes=10_000) as writer:
        for content in contents:
            writer.add(BlobType.DATA, content)
        writer.flush()
    assert sorted(everything(repository).values()) == sorted(contents)
    large = [b for b in packs(repository).values() if any(blob.raw_length == size for blob in b)]
    assert [len(blobs) for blobs in large] == [1, 1]


@pytest.mark.parametrize("uploads", [1, 3])
def test_acknowledged_packs_are_told_once(uploads: int) -> None:
    repository = make()
    told: list[StoredPack] = []
    with writing(repository, pack_bytes=5_000, uploads=uploads) as writer:
        for seed in range(60):
            writer.add(BlobType.DATA, noise(seed, 2000))
            for pack in writer.take_stored():
                repository.store.size(pack_key(pack.id))  # it is there when it is told
                told.append(pack)
        told += writer.flush()
        assert writer.take_stored() == []
        assert writer.flush() == []
    assert len({pack.id for pack in told}) == len(told)
    assert {pack.id for pack in told} == set(packs(repository))
    assert len(everything(repository)) == 60


def test_a_sealed_blob_is_taken_over_as_it_is() -> None:
    repository = make()
    sealed = Sealer(repository.key).seal(b"moved")
    blob = PackedBlob(hashlib.sha256(b"moved").digest(), BlobType.DATA, 777, len(sealed), 5, False)
    with writing(repository) as writer:
        writer.add(BlobType.DATA, b"first")
        writer.add_sealed(blob, sealed)
        writer.flush()
    ((pack, blobs),) = packs(repository).items()
    assert blobs[1] == blob._replace(offset=blobs[0].length)
    assert repository.store.read(pack_key(pack), blobs[1].offset, blobs[1].length) == sealed


def test_a_store_that_fails_is_told_at_flush() -> None:
    repository = make()
    store = FaultyStore(repository.store, on("create", fail_before(FULL)))
    with writing(repository, store=store) as writer:
        writer.add(BlobType.DATA, b"x")
        for _ in range(2):  # and again: it never passes for stored
            with pytest.raises(StoreFull):
                writer.flush()
    assert packs(repository) == {}


def add_noise(writer: BlobWriter, count: int) -> None:
    for seed in range(count):
        writer.add(BlobType.DATA, noise(seed, 2000))


def test_a_store_that_fails_is_told_when_room_is_wanted() -> None:
    repository = make()
    store = FaultyStore(repository.store, on("create", fail_before(FULL)))
    with writing(repository, store=store, pack_bytes=3_000) as writer:
        with pytest.raises(StoreFull):
            add_noise(writer, 50)
        assert writer.totals.data_blobs < 10, "it stops when the buffers are used up"


def test_a_store_that_fails_is_told_when_stored_packs_are_taken() -> None:
    repository = make()
    store = FaultyStore(repository.store, on("create", fail_before(FULL)))
    with writing(repository, store=store) as writer:
        writer.add(BlobType.DATA, noise(1, 2000))
        writer._finish(BlobType.DATA)
        writer._threads.shutdown(wait=True)  # the upload has failed by now
        with pytest.raises(StoreFull):
            writer.take_stored()


def test_an_upload_whose_answer_was_lost_is_no_success() -> None:
    repository = make()
    store = FaultyStore(repository.store, on("create", fail_after(FULL)))
    with writing(repository, store=store) as writer:
        writer.add(BlobType.DATA, b"x")
        with pytest.raises(StoreFull):
            writer.flush()
    assert len(packs(repository)) == 1


class TwiceStore(MemoryStore):
    """Somebody else always stores the same object a moment before."""

    def create(self, key: str, data: bytes | bytearray | memoryview) -> None:
        super().create(key, bytes(data))
        super().create(key, bytes(data))


def test_a_pack_that_is_there_already_is_stored() -> None:
    repository = make()
    store = TwiceStore()
    with writing(repository, store=store) as writer:
        writer.add(BlobType.DATA, b"x")
        (pack,) = writer.flush()
    assert store.size(pack_key(pack.id)) > 0
