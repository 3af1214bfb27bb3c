"""Disks from image to repository and back, over a store in memory.

The oracle is a bytearray: whatever was done to the image, each snapshot gives back the
bytes that the image had when it was made.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from holdfast.errors import (
    NotFound,
    SourceError,
    SourceVanished,
    TargetError,
    TargetNotEmpty,
    UsageError,
)
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.backup_disk import DiskBackupRequest, DiskBackupResult, backup_disk
from holdfast.flows.disk_tree import load_manifest, load_segment_trees
from holdfast.flows.export_disk import (
    DiskExportRequest,
    DiskExportResult,
    DiskFormat,
    export_disk,
)
from holdfast.flows.read_disk import StoredDisk
from holdfast.model.consistency import Consistency
from holdfast.model.manifest import Manifest, SourceKind, to_json
from holdfast.model.progress import Progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import BlobIndex
from holdfast.repo.indexfile import IndexedPack, decode_index, encode_index
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.repo.session import WriteSession
from holdfast.repo.writer import BlobWriter
from holdfast.sources.disk.image import ImageReader
from holdfast.store.memory import MemoryStore

KIB, MIB = 1 << 10, 1 << 20
CHUNK = 4 * KIB
SEGMENT = 1024 * CHUNK


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(
        MemoryStore(), "pw", scrypt=Scrypt(n=16), cache_directory=str(tmp_path / "cache")
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(7).randbytes(2 * SEGMENT + 3 * CHUNK + 5))
    return path


def request(image: Path, **options: object) -> DiskBackupRequest:
    wanted = DiskBackupRequest({"vda": image}, chunk_size_bytes=CHUNK, workers=0, hostname="host")
    return replace(wanted, **options)  # type: ignore[arg-type]


def stored(repository: Repository, snapshot: Snapshot, name: str = "") -> bytes:
    with StoredDisk.open(repository, repository.open_index(), snapshot, name) as disk:
        return disk.read(0, disk.size_bytes)


def manifest_of(repository: Repository, snapshot: Snapshot) -> Manifest:
    reader = BlobReader(repository, repository.open_index())
    return load_manifest(reader, bytes.fromhex(snapshot.tree))


def segments_of(repository: Repository, snapshot: Snapshot) -> list[bytes]:
    reader = BlobReader(repository, repository.open_index())
    root = bytes.fromhex(snapshot.tree)
    return load_segment_trees(reader, root, load_manifest(reader, root).disks[0])


def export(repository: Repository, output: Path, **options: object) -> DiskExportResult:
    wanted = DiskExportRequest("latest", output, workers=0, durable=False)
    return export_disk(repository, replace(wanted, **options))  # type: ignore[arg-type]


def codes(result: DiskBackupResult | DiskExportResult) -> list[str]:
    return [finding.code for finding in result.findings]


def write(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def random_change(rng: random.Random, content: bytearray) -> tuple[int, int]:
    """Change `content` somewhere, often at a chunk's border; return what was changed."""
    size = len(content)
    start = rng.randrange(size)
    if rng.random() < 0.5:
        start = max(0, min(size - 1, start - start % CHUNK + rng.choice((-1, 0, 1))))
    length = min(size - start, rng.choice((1, CHUNK - 1, CHUNK, 5 * CHUNK, 300 * CHUNK)))
    data = bytes(length) if rng.random() < 0.4 else rng.randbytes(length)
    content[start : start + length] = data
    return start, length


def put(image: Path, content: bytearray) -> None:
    """Write the file so that long zeroes are holes."""
    with image.open("wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), 16 * KIB):
            piece = content[start : start + 16 * KIB]
            if piece.count(0) < len(piece):
                file.seek(start)
                file.write(piece)
    os.utime(image, (1, 1))  # a reader waits a moment for files that were written just now


@pytest.mark.parametrize("seed", range(30))
def test_every_generation_gives_back_its_bytes(
    repository: Repository, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    image = tmp_path / "disk.raw"
    content = bytearray(rng.choice((1, CHUNK, SEGMENT, 2 * SEGMENT, 2 * SEGMENT + 12345)))
    made: list[tuple[Snapshot, bytes]] = []
    for _ in range(4):
        dirty = [random_change(rng, content) for _ in range(rng.randrange(4))]
        case = rng.choice(("exact", "exact", "wider", "outside", "resized", "unknown", "no parent"))
        listed: list[tuple[int, int]] | None = dirty
        if case == "wider":
            start = rng.randrange(len(content))
            listed = [*dirty, (start, rng.randrange(len(content) - start + 1)), (0, 0)]
        elif case == "outside":
            listed = [*dirty, (len(content) - 1, 2)]
        elif case == "resized":
            content = bytearray(content[: max(1, len(content) - CHUNK)]) + bytes(
                rng.choice((0, 3 * CHUNK + 1))
            )
        elif case == "unknown":
            listed = None
        put(image, content)
        result = backup_disk(
            repository,
            request(
                image,
                dirty={} if listed is None else {"vda": listed},
                parent=None if case == "no parent" else "",
            ),
        )
        (disk,) = result.disks
        assert disk.size_bytes == len(content)
        resized = bool(made) and len(made[-1][1]) != len(content)
        if made and not resized and case in ("exact", "wider", "resized"):
            assert disk.whole_read_reason is None
            assert result.findings == ()
            assert disk.reused_bytes + disk.read_bytes <= len(content)
        else:
            assert disk.whole_read_reason
            assert disk.reused_bytes == 0
        if resized or case in ("outside", "no parent"):
            assert len(result.findings) == 1
        made.append((result.snapshot, bytes(content)))
    for snapshot, expected in made:
        with StoredDisk.open(repository, repository.open_index(), snapshot) as disk_:
            chunks = (
                disk_.fetch(chunk) or bytes(disk_.layout.chunk_length(chunk))
                for chunk in range(disk_.layout.chunk_count)
            )
            assert b"".join(chunks) == expected
            for _ in range(5):
                start = rng.randrange(len(expected))
                length = rng.randrange(min(len(expected) - start, 9 * CHUNK) + 1)
                assert disk_.read(start, length) == expected[start : start + length]
    out = tmp_path / "out.raw"
    assert export(repository, out).complete
    assert out.read_bytes() == content


def test_what_is_not_dirty_is_not_read(repository: Repository, image: Path) -> None:
    first = backup_disk(repository, request(image))
    before = image.read_bytes()
    # A change that nobody tells of proves where the bytes came from.
    write(image, 0, b"unseen")
    write(image, SEGMENT + CHUNK, b"seen")
    second = backup_disk(repository, request(image, dirty={"vda": [(SEGMENT + CHUNK, 1)]}))
    assert second.parent == first.snapshot.id
    assert second.disks[0].read_bytes == CHUNK
    assert second.disks[0].reused_bytes == len(before) - CHUNK
    expected = bytearray(before)
    expected[SEGMENT + CHUNK : SEGMENT + CHUNK + 4] = b"seen"
    assert stored(repository, second.snapshot) == expected
    old, new = segments_of(repository, first.snapshot), segments_of(repository, second.snapshot)
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]
    manifest = manifest_of(repository, second.snapshot)
    assert manifest.disks[0].parent == first.snapshot.id
    assert second.added.data_blobs == 2  # the chunk, and the manifest


def test_a_snapshot_does_not_need_its_parent(repository: Repository, image: Path) -> None:
    first = backup_disk(repository, request(image))
    second = backup_disk(repository, request(image, dirty={"vda": [(0, 1)]}))
    repository.remove(FileKind.SNAPSHOT, first.snapshot.id)
    assert stored(repository, second.snapshot) == image.read_bytes()


def test_the_same_disk_gives_the_same_trees(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    first = backup_disk(repository, request(image))
    copy = tmp_path / "copy"
    copy.write_bytes(image.read_bytes())
    os.utime(copy, (1, 1))
    second = backup_disk(repository, request(copy, parent=None))
    assert segments_of(repository, first.snapshot) == segments_of(repository, second.snapshot)


def test_the_record_says_what_it_is(repository: Repository, image: Path) -> None:
    result = backup_disk(
        repository,
        request(
            image,
            kind=SourceKind.VM,
            source={"name": "web"},
            configuration={"cpus": 2},
            consistency=Consistency.FROZEN,
            tags=("mine",),
        ),
    )
    assert result.snapshot.paths == ("/vda.disk",)
    assert result.snapshot.tags == ("holdfast:disk", "mine")
    assert result.snapshot.summary["total_bytes_processed"] == image.stat().st_size
    manifest = manifest_of(repository, result.snapshot)
    assert (manifest.kind, manifest.source) == (SourceKind.VM, {"name": "web"})
    assert manifest.configuration == {"cpus": 2}
    assert manifest.consistency is result.consistency is Consistency.FROZEN


def test_several_disks(repository: Repository, image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    result = backup_disk(repository, request(image, disks={"vdb": other, "vda": image}))
    assert stored(repository, result.snapshot, "vda") == image.read_bytes()
    assert stored(repository, result.snapshot, "vdb") == b""
    with pytest.raises(UsageError, match="name one: vdb, vda"):
        stored(repository, result.snapshot)
    with pytest.raises(NotFound, match="no disk 'sda'"):
        stored(repository, result.snapshot, "sda")
    # A parent with other disks is none of the same disks; named, it serves those it has.
    named = backup_disk(
        repository,
        request(image, parent=result.snapshot.short_id, dirty={"vda": [(0, 9)]}),
    )
    assert named.disks[0].read_bytes == CHUNK
    assert stored(repository, named.snapshot) == image.read_bytes()


def test_a_terabyte_of_holes_takes_what_its_data_takes(
    repository: Repository, tmp_path: Path
) -> None:
    image, size = tmp_path / "disk.raw", (1 << 40) + 77
    with image.open("wb") as file:
        file.truncate(size)
        for offset in (0, (300 << 30) + MIB, size - 5):
            file.seek(offset)
            file.write(b"data!")
    result = backup_disk(repository, DiskBackupRequest({"vda": image}, workers=0))
    assert result.disks[0].zero_bytes == size - result.disks[0].read_bytes
    assert result.disks[0].read_bytes < 4 * MIB
    # Two segments with data, one without, the short last one, the directory, two for the
    # manifest: holes share one tree.
    assert result.added.tree_blobs == 7
    again = backup_disk(
        repository, DiskBackupRequest({"vda": image}, dirty={"vda": [(500 << 30, 1)]}, workers=0)
    )
    assert again.disks[0].read_bytes == 0
    out = tmp_path / "out.raw"
    exported = export(repository, out, verify=True)
    assert exported.complete
    assert out.stat().st_size == size
    assert out.stat().st_blocks * 512 < MIB
    with out.open("rb") as file:
        for offset in (0, (300 << 30) + MIB, size - 5):
            file.seek(offset)
            assert file.read(5) == b"data!"


# Lists of changes


def test_a_list_of_changes_may_be_a_file(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    backup_disk(repository, request(image))
    write(image, CHUNK, b"new")
    listed = tmp_path / "dirty.json"
    listed.write_text(json.dumps([{"start": CHUNK, "length": 3, "dirty": True}]))
    result = backup_disk(repository, request(image, dirty={"vda": listed}))
    assert result.disks[0].read_bytes == CHUNK
    assert stored(repository, result.snapshot) == image.read_bytes()


@pytest.mark.parametrize(
    ("listed", "code"),
    [
        ([(-1, 5)], "dirty_list_unusable"),
        ([(0, 1 << 40)], "dirty_list_unusable"),
        ("missing.json", "dirty_list_unusable"),
        ("/etc/hostname", "dirty_list_unusable"),
    ],
)
def test_a_doubtful_list_is_a_whole_read(
    repository: Repository, image: Path, listed: object, code: str
) -> None:
    backup_disk(repository, request(image))
    write(image, 5, b"x")
    result = backup_disk(repository, request(image, dirty={"vda": listed}))
    assert codes(result) == [code]
    assert result.disks[0].whole_read_reason
    assert manifest_of(repository, result.snapshot).disks[0].parent is None
    assert stored(repository, result.snapshot) == image.read_bytes()


def test_a_list_without_a_parent_is_a_whole_read(repository: Repository, image: Path) -> None:
    result = backup_disk(repository, request(image, dirty={"vda": []}))
    assert codes(result) == ["no_parent"]
    assert stored(repository, result.snapshot) == image.read_bytes()


def test_other_chunks_are_a_whole_read(repository: Repository, image: Path) -> None:
    backup_disk(repository, request(image))
    result = backup_disk(
        repository, request(image, chunk_size_bytes=2 * CHUNK, dirty={"vda": [(0, 1)]})
    )
    assert codes(result) == ["chunk_size_changed"]
    assert stored(repository, result.snapshot) == image.read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"disks": {}},
        {"disks": {"a/b": "x"}},
        {"dirty": {"vdb": []}},
        {"chunk_size_bytes": 3 * CHUNK},
        {"chunk_size_bytes": 512},
        {"configuration": {1, 2}},
    ],
)
def test_requests_that_cannot_be_meant(
    repository: Repository, image: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        backup_disk(repository, request(image, **wrong))
    assert repository.snapshots() == ([], [])


# Parents that are not what they should be


def forget_blobs(repository: Repository, kind: BlobType) -> None:
    """Take all packs with blobs of a kind out of the index."""
    for name in repository.ids(FileKind.INDEX):
        packs = decode_index(repository.load(FileKind.INDEX, name), name)
        kept: list[IndexedPack] = [p for p in packs if all(b.type is not kind for b in p.blobs)]
        repository.remove(FileKind.INDEX, name)
        repository.save(FileKind.INDEX, encode_index(kept))


def test_chunks_that_are_gone_are_read_again(repository: Repository, image: Path) -> None:
    backup_disk(repository, request(image))
    trees = segments_of(repository, repository.find_snapshot("latest"))
    lose_chunks(repository, in_index=False)
    result = backup_disk(
        repository, request(image, dirty={"vda": [(0, 1), (SEGMENT, 1), (2 * SEGMENT, 1)]})
    )
    assert codes(result) == ["parent_incomplete"] * len(trees)
    assert stored(repository, result.snapshot) == image.read_bytes()


def chunk_packs(repository: Repository, snapshot: Snapshot) -> set[bytes]:
    index = repository.open_index()
    with StoredDisk.open(repository, index, snapshot) as disk:
        places = [
            index.find(BlobType.DATA, disk.chunk_id(chunk))
            for chunk in range(disk.layout.chunk_count)
        ]
    return {place.pack for place in places if place is not None}


def lose_chunks(repository: Repository, *, in_index: bool) -> set[bytes]:
    """Lose every pack with chunks of the latest disk, but for a copy of its manifest."""
    snapshot = repository.find_snapshot("latest")
    packs = chunk_packs(repository, snapshot)
    content = to_json(manifest_of(repository, snapshot))
    if not in_index:
        for name in repository.ids(FileKind.INDEX):
            listed = decode_index(repository.load(FileKind.INDEX, name), name)
            repository.remove(FileKind.INDEX, name)
            kept = [pack for pack in listed if pack.id not in packs]
            repository.save(FileKind.INDEX, encode_index(kept))
    else:
        for pack in packs:
            repository.store.delete(pack_key(pack))
    with WriteSession(repository, "copy") as session:
        writer = BlobWriter(replace(session.setup, index=BlobIndex([])))
        writer.add(BlobType.DATA, content)
        session.take(writer.flush())
        session.write_index()
        writer.close()
    return packs


def test_a_parent_without_its_trees_is_not_used(repository: Repository, image: Path) -> None:
    backup_disk(repository, request(image))
    forget_blobs(repository, BlobType.TREE)
    result = backup_disk(repository, request(image, dirty={"vda": []}))
    assert codes(result) == ["parent_unusable", "no_parent"]
    assert result.parent is None
    assert stored(repository, result.snapshot) == image.read_bytes()


def test_a_snapshot_of_paths_is_no_parent(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    paths = backup(repository, BackupRequest((os.fsencode(tmp_path / "files"),), workers=0))
    assert paths.snapshot is not None
    result = backup_disk(repository, request(image, parent=paths.snapshot.id))
    assert result.disks[0].whole_read_reason == "There is no parent snapshot of this disk."
    with pytest.raises(NotFound, match="holds no disk"):
        stored(repository, paths.snapshot)
    with pytest.raises(NotFound):
        backup_disk(repository, request(image, parent="0123"))


# Disks that move under the reader


@dataclass
class Disturbed:
    """Opens an image and does something to it before the first read through each reader."""

    path: Path
    disturb: Callable[[], None]

    def __call__(self) -> ImageReader:
        reader = ImageReader(self.path)
        read_into = reader.read_into

        def disturbed(offset: int, buffer: memoryview) -> None:
            self.disturb()
            read_into(offset, buffer)

        reader.read_into = disturbed  # type: ignore[method-assign]
        return reader


def test_an_image_that_changes_meanwhile_is_torn(repository: Repository, image: Path) -> None:
    result = backup_disk(
        repository,
        request(image, disks={"vda": Disturbed(image, lambda: write(image, 9, b"late"))}),
    )
    assert result.consistency is Consistency.TORN
    assert codes(result) == ["disk_changed"]
    manifest = manifest_of(repository, result.snapshot)
    assert manifest.consistency is Consistency.TORN
    assert [finding.code for finding in manifest.findings] == ["disk_changed"]
    calm = backup_disk(repository, request(image))
    assert (calm.consistency, calm.findings) == (Consistency.ATOMIC, ())


def no_trace_of_a_snapshot(repository: Repository) -> bool:
    return not repository.ids(FileKind.SNAPSHOT) and not repository.ids(FileKind.LOCK)


def test_a_disk_that_cannot_be_read_makes_no_snapshot(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceVanished):
        backup_disk(repository, request(tmp_path / "nothing"))
    shrinking = Disturbed(image, lambda: os.truncate(image, 10))
    with pytest.raises(SourceError, match="shorter"):
        backup_disk(repository, request(image, disks={"vda": shrinking}))
    assert no_trace_of_a_snapshot(repository)


def interrupt(_progress: Progress) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing_half_made(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        backup_disk(repository, request(image), interrupt)
    assert no_trace_of_a_snapshot(repository)
    backup_disk(repository, request(image))
    place = tmp_path / "exports"
    place.mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_disk(repository, DiskExportRequest("latest", place / "x", workers=0), interrupt)
    assert list(place.iterdir()) == []
    assert repository.ids(FileKind.LOCK) == []


def test_progress_counts_the_disk(repository: Repository, image: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    backup_disk(repository, request(image), seen.append)
    size = image.stat().st_size
    assert (seen[-1].bytes_done, seen[-1].bytes_total) == (size, size)
    seen.clear()
    export_disk(repository, DiskExportRequest("latest", tmp_path / "x", workers=0), seen.append)
    assert (seen[-1].bytes_done, seen[-1].bytes_total) == (size, size)


# Export


def test_an_export_replaces_only_what_it_may(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    backup_disk(repository, request(image))
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    with pytest.raises(TargetNotEmpty):
        export(repository, out)
    assert out.read_bytes() == b"precious"
    result = export(repository, out, overwrite=True, verify=True)
    assert (result.complete, result.verified, result.findings) == (True, True, ())
    assert out.read_bytes() == image.read_bytes()


def damage(repository: Repository, packs: set[bytes]) -> Iterator[None]:
    for pack in packs:
        content = bytearray(repository.store.read(pack_key(pack)))
        content[100] ^= 1
        repository.store.delete(pack_key(pack))
        repository.store.create(pack_key(pack), content)
        yield


@pytest.mark.parametrize("format_", list(DiskFormat))
def test_one_damaged_chunk_is_zero_and_a_finding(
    repository: Repository, image: Path, tmp_path: Path, format_: DiskFormat
) -> None:
    result = backup_disk(repository, request(image))
    packs = chunk_packs(repository, result.snapshot)
    damaged = len(list(damage(repository, packs)))
    out = tmp_path / "out"
    exported = export(repository, out, format=format_, verify=True)
    assert exported.damaged_bytes == damaged * CHUNK
    assert not exported.complete
    assert codes(exported) == ["disk_damaged"] * damaged
    if format_ is DiskFormat.RAW:
        expected, found = image.read_bytes(), out.read_bytes()
        wrong = [
            start
            for start in range(0, len(expected), CHUNK)
            if expected[start : start + CHUNK] != found[start : start + CHUNK]
        ]
        assert len(wrong) == damaged
        assert all(found[start : start + CHUNK] == bytes(CHUNK) for start in wrong)
        assert exported.findings[0].message.startswith(f"{CHUNK} bytes at {min(wrong)} ") or (
            damaged > 1
        )


@pytest.mark.parametrize("in_index", [True, False])
def test_lost_packs_are_findings(
    repository: Repository, image: Path, tmp_path: Path, in_index: bool
) -> None:
    backup_disk(repository, request(image))
    lose_chunks(repository, in_index=in_index)
    exported = export(repository, tmp_path / "out", verify=True)
    assert exported.damaged_bytes == exported.size_bytes
    assert codes(exported) == ["disk_damaged"]
    assert (tmp_path / "out").read_bytes() == bytes(exported.size_bytes)


def test_verify_notices_a_target_that_lies(
    repository: Repository, image: Path, tmp_path: Path
) -> None:
    write(image, 0, bytes(SEGMENT))
    backup_disk(repository, request(image))
    place = tmp_path / "exports"
    place.mkdir()
    wanted = DiskExportRequest("latest", place / "x", workers=0, verify=True)
    for position in (10, SEGMENT + 10):  # a zero that is none, and data that differs

        def spoil(progress: Progress, position: int = position) -> None:
            if progress.step == "export":
                for partial in place.iterdir():
                    write(partial, position, b"?")

        with pytest.raises(TargetError, match="read back"):
            export_disk(repository, wanted, spoil)
    assert list(place.iterdir()) == []
