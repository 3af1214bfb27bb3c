from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest

from holdfast.errors import Damaged
from holdfast.repo.index import IndexCache
from holdfast.repo.indexfile import IndexedPack, decode_index, encode_index
from holdfast.repo.pack import BlobType, PackedBlob


def make_packs(seed: int, packs: int, blobs: int) -> list[IndexedPack]:
    """Packs that share some ids with the packs of other seeds; every fifth is marked."""
    chance, shared = random.Random(seed), random.Random("shared")
    ids = [shared.randbytes(32) for _ in range(50)]
    made = []
    for number in range(packs):
        listed, offset = [], 0
        for _ in range(blobs):
            blob_id = chance.choice(ids) if chance.random() < 0.1 else chance.randbytes(32)
            length, compressed = chance.randrange(40, 1 << 20), chance.random() < 0.5
            raw = 2 * length if compressed else length - 32
            kind = chance.choice((BlobType.DATA, BlobType.TREE))
            listed.append(PackedBlob(blob_id, kind, offset, length, raw, compressed))
            offset += length
        made.append(IndexedPack(chance.randbytes(32), listed, None if number % 5 else 10**18))
    return made


@pytest.mark.parametrize("kept", [True, False])
def test_an_index_finds_exactly_what_is_listed_however_its_tables_were_made(
    tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.repo.index._ROWS_PER_BUILD", 1000)
    monkeypatch.setattr("holdfast.repo.indextable._MERGE_ROWS_AT_ONCE", 500)
    files = {bytes([n]) * 32: make_packs(n, packs=3 * n + 1, blobs=37) for n in range(12)}
    texts = {source: encode_index(packs) for source, packs in files.items()}
    cache = IndexCache(str(tmp_path / "index") if kept else None)
    sources = sorted(texts)
    # Some at first, the others later, so that tables are built, kept and merged.
    cache.open(sources[:7], texts.__getitem__)
    index = cache.open(sources[:-1], texts.__getitem__)
    cache.add(index, sources[-1], files[sources[-1]])

    listings = [
        (pack.id, pack.marked_ns, blob)
        for packs in files.values()
        for pack in packs
        for blob in pack.blobs
    ]
    assert sorted(index.blobs(), key=repr) == sorted(listings, key=repr)
    assert index.sources == frozenset(sources)
    for pack_id, marked, blob in listings:
        places = index.find_all(blob.type, blob.id)
        assert (pack_id, blob.offset, marked is not None) in {
            (place.pack, place.offset, place.marked) for place in places
        }
        alive = [place for place in places if not place.marked]
        assert index.knows(blob.type, blob.id) is bool(alive)
        found = index.find(blob.type, blob.id)
        assert found is not None
        assert found.marked is not bool(alive)
    assert not index.knows(BlobType.DATA, bytes(32))
    assert index.find(BlobType.DATA, bytes(32)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -1},
        {"offset": 1 << 32},
        {"offset": 1.5},
        {"offset": "0"},
        {"length": 31},
        {"length": 1 << 32},
        {"uncompressed_length": 1 << 32},
        {"id": "ab"},
        {"id": "zz" * 32},
    ],
    ids=repr,
)
def test_an_index_file_with_a_blob_that_cannot_be_is_damaged(change: dict[str, object]) -> None:
    blob = {"id": "ab" * 32, "type": "data", "offset": 0, "length": 100}
    document = {"packs": [{"id": "cd" * 32, "blobs": [blob]}]}
    assert decode_index(orjson.dumps(document), "it")[0].blobs[0].raw_length == 68
    document["packs"][0]["blobs"] = [{**blob, **change}]
    with pytest.raises(Damaged, match="it is not an index document"):
        decode_index(orjson.dumps(document), "it")


def test_an_index_file_with_a_pack_that_cannot_be_is_damaged() -> None:
    with pytest.raises(Damaged):
        decode_index(b'{"packs":[{"id":"ab","blobs":[]}]}', "it")
