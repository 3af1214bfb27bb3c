"""The index cache on local disk: what is wrong with it costs time, and never an answer."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from holdfast.repo import index as index_module
from holdfast.repo.index import BlobIndex, IndexCache
from holdfast.repo.indexfile import IndexedPack, encode_index
from holdfast.repo.pack import BlobType, PackedBlob

FILES = 6


def made(number: int) -> list[IndexedPack]:
    """What index file `number` lists: two packs of some blobs, of which one is in all files."""
    chance = random.Random(number)
    packs = []
    for _ in range(2):
        ids = [chance.randbytes(32) for _ in range(20 * number + 1)] + [b"s" * 32]
        blobs = [
            PackedBlob(each, BlobType.DATA, 40 * n, 40, 8, False) for n, each in enumerate(ids)
        ]
        packs.append(IndexedPack(chance.randbytes(32), blobs))
    return packs


class Listed:
    """Index files by id; counts how often each is loaded."""

    def __init__(self) -> None:
        self.packs = {bytes([n]) * 32: made(n) for n in range(FILES)}
        self.loaded: list[bytes] = []

    def load(self, source: bytes) -> bytes:
        self.loaded.append(source)
        return encode_index(self.packs[source])

    def open(self, directory: Path | None, sources: list[bytes] | None = None) -> BlobIndex:
        """Open through the cache and check every answer."""
        wanted = list(self.packs) if sources is None else sources
        cache = IndexCache(None if directory is None else str(directory))
        index = cache.open(wanted, self.load)
        expected = [
            (pack.id, blob) for each in wanted for pack in self.packs[each] for blob in pack.blobs
        ]
        assert sorted((pack, blob) for pack, _, blob in index.blobs()) == sorted(expected)
        assert index.sources == set(wanted)
        assert all(index.knows(blob.type, blob.id) for _, blob in expected)
        return index


@pytest.fixture
def listed() -> Listed:
    return Listed()


@pytest.fixture
def filled(listed: Listed, tmp_path: Path) -> Path:
    """A cache directory of two tables."""
    directory = tmp_path / "cache"
    listed.open(directory, list(listed.packs)[3:])
    listed.open(directory)
    listed.loaded.clear()
    assert len(list(directory.glob("*.table"))) >= 1
    return directory


def test_what_is_cached_is_not_loaded_again(listed: Listed, filled: Path) -> None:
    listed.open(filled)
    assert not listed.loaded


def test_a_file_that_is_not_listed_any_more_leaves_the_cache(listed: Listed, filled: Path) -> None:
    listed.open(filled, list(listed.packs)[:-1])
    listed.loaded.clear()
    listed.open(filled, list(listed.packs)[:-1])
    assert not listed.loaded


def flipped(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), max(1, len(content) // 40)):
        yield content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def cut(content: bytes) -> Iterator[bytes]:
    yield from (content[:n] for n in (0, 1, 7, 40, len(content) // 2, len(content) - 1))
    yield content + b"\0"


@pytest.mark.parametrize("change", [flipped, cut])
def test_a_damaged_table_is_dropped_and_built_again(
    listed: Listed, tmp_path: Path, change: object
) -> None:
    directory = tmp_path / "cache"
    listed.open(directory)
    (table,) = directory.glob("*.table")
    good = table.read_bytes()
    table.unlink()
    assert callable(change)
    for bad in change(good):
        table.write_bytes(bad)
        listed.loaded.clear()
        listed.open(directory)
        assert set(listed.loaded) == set(listed.packs)
        (rebuilt,) = directory.glob("*.table")
        assert rebuilt != table
        rebuilt.unlink()


def test_a_cache_that_is_gone_meanwhile(listed: Listed, filled: Path) -> None:
    cache = IndexCache(str(filled))
    for path in filled.iterdir():
        path.unlink()
    filled.rmdir()
    index = cache.open(listed.packs, listed.load)
    assert index.sources == set(listed.packs)


def test_a_file_in_the_place_of_the_directory(listed: Listed, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    listed.open(tmp_path / "cache")
    listed.open(tmp_path / "cache" / "index")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small file system: needs root")
@pytest.mark.parametrize("options", ["size=8k", "ro"])
def test_a_full_or_read_only_disk(listed: Listed, tmp_path: Path, options: str) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(mounted)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        index = listed.open(mounted)
        IndexCache(str(mounted)).add(index, bytes(32), made(9))
        assert not list(mounted.iterdir()), "half a table was left"
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_what_a_killed_process_was_writing_goes_after_a_day(listed: Listed, filled: Path) -> None:
    old, fresh = filled / "aa.table.1.tmp", filled / "bb.table.2.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half a table")
    os.utime(old, (1, 1))
    listed.open(filled)
    assert not old.exists()
    assert fresh.exists()


def share(directory: Path, seed: int) -> None:
    chance = random.Random(seed)
    listed = Listed()
    index_module._ROWS_PER_BUILD = chance.choice((1, 100, 10_000))
    sources = list(listed.packs)
    for _ in range(60):
        # As processes do that listed the repository before and after others wrote or pruned.
        listed.open(directory, chance.sample(sources, chance.randint(0, FILES)))


def test_processes_that_share_a_cache_get_the_right_answers(tmp_path: Path) -> None:
    context = get_context("fork")
    sharing = [context.Process(target=share, args=(tmp_path / "cache", n)) for n in range(4)]
    for process in sharing:
        process.start()
    for process in sharing:
        process.join(60)
    assert [process.exitcode for process in sharing] == [0] * len(sharing)
    Listed().open(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tmp"))
