"""Exported disks judged by qemu-img, and real block devices as source and target."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from holdfast.errors import SourceError, TargetError, TargetFull, TargetNotEmpty
from holdfast.model.extent import Extent
from holdfast.sources.disk.export import write_raw
from holdfast.sources.disk.image import ImageReader
from holdfast.sources.disk.qcow2 import write_qcow2
from holdfast.sources.disk.segments import RunKind, plan_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30

Chunks = list[tuple[int, bytes]]


def skip_or_fail(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _qemu_img() -> None:
    if shutil.which("qemu-img") is None:
        skip_or_fail("qemu-img is not installed (Debian: qemu-utils)")


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def loop_device(backing: Path, *options: str) -> Iterator[str]:
    attach = subprocess.run(
        ["losetup", "--find", "--show", *options, str(backing)],
        capture_output=True,
        text=True,
        check=False,
    )
    if attach.returncode:
        skip_or_fail(f"loop devices cannot be made here: {attach.stderr.strip()}")
    device = attach.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def random_disk(seed: int, size: int, chunk: int = MIB) -> Chunks:
    """Chunks of a disk: random, partly zero, all zero, or left out."""
    rng = random.Random(seed)
    chunks: Chunks = []
    for start in range(0, size, chunk):
        length = min(chunk, size - start)
        match rng.randrange(5):
            case 0 | 1:
                chunks.append((start, rng.randbytes(length)))
            case 2:
                part = rng.randrange(length + 1)
                chunks.append((start, bytes(part) + rng.randbytes(length - part)))
            case 3:
                chunks.append((start, bytes(length)))
            case _:
                pass
    return chunks


def flat(size: int, chunks: Chunks) -> bytes:
    disk = bytearray(size)
    for start, data in chunks:
        disk[start : start + len(data)] = data
    return bytes(disk)


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (0, MIB),
        (1, MIB),
        (512, MIB),
        (65536, MIB),
        (65537, MIB),
        (10 * MIB, MIB),
        (10 * MIB + 1234, MIB),
        (7 * MIB + 512, 100_000),
        (3 * MIB, 4096),
    ],
)
def test_qemu_reads_from_both_formats_what_was_written(
    tmp_path: Path, size: int, chunk: int
) -> None:
    chunks = random_disk(size + chunk, size, chunk)
    write_raw(tmp_path / "disk.raw", size, chunks)
    result = write_qcow2(tmp_path / "disk.qcow2", size, chunks)
    assert (tmp_path / "disk.raw").read_bytes() == flat(size, chunks)
    qemu_img("check", tmp_path / "disk.qcow2")
    info = json.loads(qemu_img("info", "--output=json", tmp_path / "disk.qcow2"))
    assert info["virtual-size"] == result.size_bytes
    assert info["format-specific"]["data"]["compat"] == "1.1"
    qemu_img("compare", "-f", "raw", "-F", "qcow2", tmp_path / "disk.raw", tmp_path / "disk.qcow2")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", tmp_path / "disk.qcow2", tmp_path / "back.raw")
    back = (tmp_path / "back.raw").read_bytes()
    assert back == flat(size, chunks).ljust(result.size_bytes, b"\0")


def test_only_clusters_with_data_are_allocated(tmp_path: Path) -> None:
    size = 6 * GIB + 512
    places = [0, 512 * MIB - 65536, 4 * GIB - 1000, 5 * GIB + 3, size - 1]
    chunks: Chunks = [(place, b"\x01") for place in places]
    write_raw(tmp_path / "disk.raw", size, chunks)
    result = write_qcow2(tmp_path / "disk.qcow2", size, chunks)
    assert result.data_bytes == len(places) * 65536
    assert (tmp_path / "disk.qcow2").stat().st_size < MIB
    check = json.loads(qemu_img("check", "--output=json", tmp_path / "disk.qcow2"))
    assert check["allocated-clusters"] == len(places)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", tmp_path / "disk.raw", tmp_path / "disk.qcow2")


def test_an_image_of_more_than_one_refcount_block_is_clean(tmp_path: Path) -> None:
    # One block of refcounts counts 32768 clusters, which are 2 GiB.
    size = 2 * GIB + 200 * MIB
    chunk = bytes(65535) + b"\x01"
    block = chunk * 16
    write_qcow2(
        tmp_path / "disk.qcow2",
        size,
        ((start, block) for start in range(0, size, len(block))),
        fsync=False,
    )
    check = json.loads(qemu_img("check", "--output=json", tmp_path / "disk.qcow2"))
    assert check["allocated-clusters"] == size // 65536
    assert check.get("corruptions", 0) == check.get("leaks", 0) == check["check-errors"] == 0


def test_qemu_can_write_to_an_exported_image(tmp_path: Path) -> None:
    if shutil.which("qemu-io") is None:
        skip_or_fail("qemu-io is not installed (Debian: qemu-utils)")
    path = tmp_path / "disk.qcow2"
    write_qcow2(path, 700 * MIB, [(0, b"a" * MIB)])
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 65000 3M", "-c", "write -P 9 600M 1M", path],
        check=True,
        capture_output=True,
    )
    qemu_img("check", path)


def test_qemu_can_enlarge_an_exported_empty_image(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    write_qcow2(path, 0, [])
    qemu_img("resize", "-f", "qcow2", path, "3G")
    qemu_img("check", path)


def test_an_image_made_by_qemu_is_refused_as_a_source(tmp_path: Path) -> None:
    for name in ("qcow2", "vmdk", "vhdx", "vdi", "vpc"):
        qemu_img("create", "-f", name, tmp_path / name, "10M")
        with pytest.raises(SourceError, match=f"a {name} image"):
            ImageReader(tmp_path / name)


def test_a_block_device_is_read_whole(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    content = random.Random(3).randbytes(2 * MIB)
    backing.write_bytes(content + bytes(MIB))
    with loop_device(backing) as device, ImageReader(device) as reader:
        assert reader.size_bytes == 3 * MIB
        assert list(reader.extents()) == [Extent(0, 3 * MIB)]
        assert [run.kind for run in plan_chunks(3 * MIB, MIB, reader.extents())] == [RunKind.READ]
        buffer = bytearray(2 * MIB)
        reader.read_into(0, memoryview(buffer))
        assert buffer == content
        assert reader.findings() == ()


@pytest.mark.parametrize("size", [0, 8 * MIB, 5 * MIB + 77])
@pytest.mark.parametrize("zero_out", [True, False])
def test_a_block_device_is_written_with_every_zero(
    tmp_path: Path, size: int, zero_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xee" * 8 * MIB)
    chunks = random_disk(size + 1, size, 300_000)
    if not zero_out:  # as on a machine where the ioctl has another number
        monkeypatch.setattr("holdfast.sources.disk.export._BLKZEROOUT", 0x1)
    with loop_device(backing) as device:
        with pytest.raises(TargetNotEmpty):
            write_raw(device, size, chunks)
        result = write_raw(device, size, chunks, overwrite=True)
        with open(device, "rb") as file:
            assert file.read() == flat(size, chunks) + b"\xee" * (8 * MIB - size)
    expected = ["device_larger"] if size < 8 * MIB else []
    assert [finding.code for finding in result.findings] == expected


def test_a_block_device_too_small_is_refused_untouched(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xee" * MIB)
    with loop_device(backing) as device, pytest.raises(TargetError, match="larger device"):
        write_raw(device, MIB + 1, [(0, b"x")], overwrite=True)
    assert backing.read_bytes() == b"\xee" * MIB


@contextmanager
def mounted(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A file system of 8 MiB on a loop device: the device, and where it is mounted."""
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext2", str(backing)], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    with loop_device(backing) as device:
        mount = subprocess.run(
            ["mount", device, str(place)], capture_output=True, text=True, check=False
        )
        if mount.returncode:
            skip_or_fail(f"file systems cannot be mounted here: {mount.stderr.strip()}")
        try:
            yield device, place
        finally:
            subprocess.run(["umount", str(place)], check=True)


def test_a_mounted_device_is_not_overwritten(tmp_path: Path) -> None:
    with mounted(tmp_path) as (device, _), pytest.raises(TargetError, match="in use"):
        write_raw(device, MIB, [(0, b"x" * MIB)], overwrite=True)


@pytest.mark.parametrize("write", [write_raw, write_qcow2])
def test_a_full_file_system_is_left_as_it_was(tmp_path: Path, write: object) -> None:
    assert callable(write)
    with mounted(tmp_path) as (_, place):
        before = sorted(os.listdir(place))
        with pytest.raises(TargetFull, match="Make room"):
            write(place / "disk", 20 * MIB, [(0, random.Random(1).randbytes(20 * MIB))])
        assert sorted(os.listdir(place)) == before
