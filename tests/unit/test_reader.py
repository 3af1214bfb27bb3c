"""The reader of blobs: exactly the bytes of the id, from any copy that is good, or `Damaged`."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import pytest
import zstandard
from sample_repository import flip, make, reopen, replace

from holdfast.errors import Damaged, StoreUnavailable
from holdfast.repo.crypto import Sealer
from holdfast.repo.index import IndexCache
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType, PackedBlob, encode_header, header_length_field
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.store.faults import FaultyStore, fail_before, on

CONTENT = b"what the file holds, " * 100
CONTENT_ID = hashlib.sha256(CONTENT).digest()


def plant(
    repository: Repository,
    content: bytes = CONTENT,
    *,
    blob_id: bytes = CONTENT_ID,
    kind: BlobType = BlobType.DATA,
    compressed: bool = False,
    raw_length: int | None = None,
    marked: bool = False,
) -> bytes:
    """Store and list a pack of one blob whose content is whatever it is; return its id.

    A blob in front of it differs each time, so that no two packs are the same.
    """
    sealer = Sealer(repository.key)
    first, sealed = sealer.seal(random.randbytes(50)), sealer.seal(content)
    raw = raw_length if raw_length is not None else len(content)
    blobs = [
        PackedBlob(random.randbytes(32), kind, 0, len(first), 50, False),
        PackedBlob(blob_id, kind, len(first), len(sealed), raw, compressed),
    ]
    header = sealer.seal(encode_header(blobs))
    pack = first + sealed + header + header_length_field(len(header))
    pack_id = hashlib.sha256(pack).digest()
    repository.store.create(pack_key(pack_id), pack)
    listed = IndexedPack(pack_id, blobs, 10**18 if marked else None)
    repository.save(FileKind.INDEX, encode_index([listed]))
    return pack_id


def reader(repository: Repository) -> BlobReader:
    return BlobReader(repository, repository.open_index(IndexCache(None)))


def load(repository: Repository) -> bytes:
    return reader(repository).load(BlobType.DATA, CONTENT_ID)


def chosen_first(repository: Repository) -> bytes:
    location = repository.open_index(IndexCache(None)).find(BlobType.DATA, CONTENT_ID)
    assert location is not None
    return location.pack


@pytest.mark.parametrize("kind", BlobType)
def test_a_blob_is_read_by_its_id_and_type(kind: BlobType) -> None:
    repository = make()
    plant(repository, kind=kind)
    assert reader(repository).load(kind, CONTENT_ID) == CONTENT
    other = BlobType.TREE if kind is BlobType.DATA else BlobType.DATA
    with pytest.raises(
        Damaged, match=f"{other.word} blob .* is in no index; run `holdfast verify`"
    ):
        reader(repository).load(other, CONTENT_ID)


@pytest.mark.parametrize("with_size", [True, False])
def test_a_compressed_blob_is_unpacked(with_size: bool) -> None:
    repository = make()
    frame = zstandard.ZstdCompressor(write_content_size=with_size).compress(CONTENT)
    plant(repository, frame, compressed=True, raw_length=len(CONTENT))
    assert load(repository) == CONTENT


def test_an_empty_blob_is_read() -> None:
    repository = make()
    empty = hashlib.sha256(b"").digest()
    plant(repository, b"", blob_id=empty)
    assert reader(repository).load(BlobType.DATA, empty) == b""


@dataclass(frozen=True)
class Harm:
    """What happens to a pack; returns what the error then says."""

    what: str

    def __call__(self, repository: Repository, pack: bytes) -> str:
        store, key = repository.store, pack_key(pack)
        match self.what:
            case "flipped":
                flip(store, key, 100)
                return "authentication code does not match"
            case "cut":
                replace(store, key, store.read(key)[:120])
                return "is truncated"
            case _:
                store.delete(key)
                return "is missing, and with it blob"


HARMS = [Harm(what) for what in ("flipped", "cut", "gone")]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.what)
def test_any_copy_that_is_left_is_read(harm: Harm) -> None:
    packs = 4
    for good in range(packs):
        repository = make()
        planted = [plant(repository) for _ in range(packs)]
        for number, pack in enumerate(planted):
            if number != good:
                harm(repository, pack)
        assert load(repository) == CONTENT


@pytest.mark.parametrize("first", HARMS, ids=lambda harm: harm.what)
@pytest.mark.parametrize("second", HARMS, ids=lambda harm: harm.what)
def test_the_last_good_copy_is_found_and_then_the_damage_is_told(first: Harm, second: Harm) -> None:
    repository = make()
    packs = {plant(repository), plant(repository)}
    preferred = chosen_first(repository)
    (other,) = packs - {preferred}
    said = first(repository, preferred)
    assert load(repository) == CONTENT
    second(repository, other)
    with pytest.raises(Damaged, match=said) as caught:
        load(repository)
    assert preferred.hex()[:8] in caught.value.message
    assert CONTENT_ID.hex()[:16] in caught.value.message


def test_a_pack_in_use_is_preferred_to_a_marked_one_and_that_one_still_helps() -> None:
    repository = make()
    old = plant(repository, marked=True)
    assert load(repository) == CONTENT
    new = plant(repository)
    assert chosen_first(repository) == new
    repository.store.delete(pack_key(new))
    assert load(repository) == CONTENT
    repository.store.delete(pack_key(old))
    with pytest.raises(Damaged, match=f"pack {new.hex()[:8]} is missing"):
        load(repository)


def test_content_that_opens_and_is_not_its_ids_never_leaves() -> None:
    repository = make()
    plant(repository, b"something else")
    with pytest.raises(Damaged, match="opens, but its content does not match its id"):
        load(repository)
    plant(repository)
    assert load(repository) == CONTENT


@pytest.mark.parametrize(
    ("content", "raw_length", "said"),
    [
        (b"no frame", 2100, "does not decompress"),
        (b"", 2100, "does not decompress"),
        (zstandard.compress(CONTENT)[:-3], len(CONTENT), "does not decompress"),
        (zstandard.compress(CONTENT + b"!"), len(CONTENT), "does not match its id"),
        (
            zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT),
            len(CONTENT) - 1,
            "does not decompress",
        ),
    ],
    ids=["no frame", "nothing", "half", "other", "longer than listed"],
)
def test_a_frame_that_is_not_the_blob_is_damage(content: bytes, raw_length: int, said: str) -> None:
    repository = make()
    plant(repository, content, compressed=True, raw_length=raw_length)
    with pytest.raises(Damaged, match=said):
        load(repository)


def test_a_store_that_is_away_is_not_taken_for_damage() -> None:
    repository = make()
    plant(repository)
    plant(repository)
    index = repository.open_index(IndexCache(None))
    store = FaultyStore(repository.store, on("read", fail_before(StoreUnavailable("away"))))
    away = Repository(store, repository.config, repository.key, repository.key_id)
    with pytest.raises(StoreUnavailable):
        BlobReader(away, index).load(BlobType.DATA, CONTENT_ID)


def test_bytes_of_another_length_are_not_unpacked() -> None:
    repository = make()
    sealed = Sealer(repository.key).seal(CONTENT)
    location = Location(bytes(32), 0, len(sealed), len(CONTENT), False, BlobType.DATA, marked=False)
    unpack = reader(reopen(repository)).unpack
    assert unpack(memoryview(sealed), location, CONTENT_ID) == CONTENT
    for wrong in (sealed[:-1], sealed + b"\0", b""):
        with pytest.raises(Damaged, match="is truncated"):
            unpack(wrong, location, CONTENT_ID)
