"""Raw images as disk readers: holes, exact reads, and every way a file can change."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from holdfast.errors import SourceError, SourceVanished
from holdfast.model.extent import Extent
from holdfast.sources.disk.image import ImageReader
from holdfast.sources.disk.reader import DiskReader
from holdfast.sources.disk.segments import ChunkRun, RunKind, plan_chunks

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def read(reader: ImageReader, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    reader.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def codes(reader: ImageReader) -> list[str]:
    return [finding.code for finding in reader.findings()]


def test_is_a_disk_reader(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    with ImageReader(tmp_path / "disk") as reader:
        assert isinstance(reader, DiskReader)


def test_holes_come_as_zero_extents_and_data_as_data(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(10 * MIB)
        file.seek(4 * MIB)
        file.write(b"d" * MIB)
    with ImageReader(path) as reader:
        assert list(reader.extents()) == [
            Extent(0, 4 * MIB, zero=True),
            Extent(4 * MIB, MIB),
            Extent(5 * MIB, 5 * MIB, zero=True),
        ]
        assert list(reader.extents()) == list(reader.extents())
        assert reader.findings() == ()


def test_a_terabyte_of_holes_is_planned_by_its_extents(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    size = 1 << 40
    with path.open("wb") as file:
        file.truncate(size)
        for place in range(10):
            file.seek(place * (100 << 30) + 5000)
            file.write(b"d")
    with ImageReader(path) as reader:
        runs = list(plan_chunks(size, MIB, reader.extents()))
    assert len(runs) == 20
    assert sum(run.count for run in runs) == 1 << 20
    assert [run.first for run in runs if run.kind is RunKind.READ] == [
        place * 102400 for place in range(10)
    ]


@pytest.mark.parametrize("size", [0, 1, 511, 4097, 3 * MIB + 7])
def test_any_size_is_covered_and_read_exactly(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk"
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    with ImageReader(path) as reader:
        assert reader.size_bytes == size
        assert sum(extent.length for extent in reader.extents()) == size
        assert read(reader, 0, size) == content
        assert read(reader, size // 3, size // 2) == content[size // 3 : size // 3 + size // 2]


def test_reads_from_many_threads_are_right(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    content = random.Random(1).randbytes(4 * MIB)
    path.write_bytes(content)
    with ImageReader(path) as reader, ThreadPoolExecutor(4) as pool:
        places = [random.Random(n).randrange(3 * MIB) for n in range(200)]
        read_all = pool.map(lambda place: read(reader, place, 9999), places)
        for place, got in zip(places, read_all, strict=True):
            assert got == content[place : place + 9999]


def test_reads_far_apart_and_long_ones_drop_the_cache_without_harm(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(300 * MIB)
        for place in range(0, 300, 10):
            file.seek(place * MIB)
            file.write(bytes([place % 251 + 1]))
    with ImageReader(path) as reader:
        for order in (range(0, 300, 10), range(290, -1, -10), [0, 290, 10, 280]):
            for place in order:
                assert read(reader, place * MIB, 1)[0] == place % 251 + 1


def test_a_read_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"12345")
    with ImageReader(path) as reader:
        for offset, length in [(3, 3), (6, 0), (-1, 1)]:
            with pytest.raises(SourceError):
                read(reader, offset, length)


def test_a_file_that_shrinks_is_an_error_and_not_zeroes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"d" * 2 * MIB)
    with ImageReader(path) as reader:
        os.truncate(path, MIB)
        with pytest.raises(SourceError, match="became shorter"):
            read(reader, MIB - 10, 20)
        with pytest.raises(SourceError, match="became shorter"):
            list(reader.extents())
        os.truncate(path, 0)
        with pytest.raises(SourceError, match="became shorter"):
            list(reader.extents())
        assert codes(reader) == ["disk_changed"]


def test_a_file_that_grows_is_read_as_it_was_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"d" * MIB)
    with ImageReader(path) as reader:
        with path.open("ab") as file:
            file.write(b"more")
        assert list(reader.extents()) == [Extent(0, MIB)]
        assert codes(reader) == ["disk_changed"]
        assert "changed its size" in reader.findings()[0].message


def test_a_file_that_is_written_removed_or_replaced_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"d" * MIB)
    os.utime(path, ns=(1, 1))
    with ImageReader(path) as reader:
        with path.open("r+b") as file:
            file.write(b"new")
        assert "was written to" in reader.findings()[0].message
        path.unlink()
        assert "was removed" in reader.findings()[0].message
        path.write_bytes(b"d" * MIB)
        assert "was replaced" in reader.findings()[0].message
        # What was opened is still there, whatever has its name now.
        assert read(reader, 0, 4) == b"newd"


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceVanished):
        ImageReader(tmp_path / "missing")
    with pytest.raises(SourceError, match="neither a file nor a block device"):
        ImageReader(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="neither a file nor a block device"):
        ImageReader(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"KDMV", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"<<< VM Disk Image >>>".ljust(64, b"\0") + b"\x7f\x10\xda\xbe", "vdi"),
    ],
)
def test_containers_are_not_taken_for_raw_disks(tmp_path: Path, head: bytes, name: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(head.ljust(4096, b"\0"))
    with pytest.raises(SourceError, match=f"qemu-img convert -f {name}"):
        ImageReader(path)
    with ImageReader(path, accept_containers=True) as reader:
        assert read(reader, 0, len(head)) == head


def test_a_file_system_that_knows_no_holes_is_read_whole_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither kind of file system can be counted on to be mountable where tests run.
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
        file.write(b"d")

    def refuses(fd: int, position: int, whence: int) -> int:
        raise OSError(22, "Invalid argument")

    def knows_nothing(fd: int, position: int, whence: int) -> int:
        return position if whence == os.SEEK_DATA else 4 * MIB

    for answer in (refuses, knows_nothing):
        with ImageReader(path) as reader:
            monkeypatch.setattr(os, "lseek", answer)
            assert list(plan_chunks(4 * MIB, MIB, reader.extents())) == [
                ChunkRun(0, 4, RunKind.READ)
            ]
            assert codes(reader) == ["holes_unknown"]
            monkeypatch.undo()


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    reader = ImageReader(tmp_path / "disk")
    reader.close()
    # A descriptor that is taken again must not be closed by the second call.
    with (tmp_path / "disk").open("rb") as file:
        reader.close()
        assert file.read() == b"x"
