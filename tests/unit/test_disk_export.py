"""Raw export: sparse, atomic, careful with what exists, and exact through a pipe too."""

from __future__ import annotations

import os
import resource
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from holdfast.errors import TargetError, TargetFull, TargetNotEmpty, UsageError
from holdfast.sources.disk.export import write_raw
from holdfast.sources.disk.qcow2 import write_qcow2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
WRITERS = pytest.mark.parametrize("write", [write_raw, write_qcow2])


def test_missing_ranges_and_zeroes_are_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    chunks = [(MIB, b"a" * MIB), (3 * MIB, bytes(MIB)), (5 * MIB, bytes(MIB - 1) + b"z")]
    result = write_raw(path, 64 * MIB + 3, chunks)
    content = path.read_bytes()
    assert len(content) == 64 * MIB + 3
    assert content[MIB : 2 * MIB] == b"a" * MIB
    assert content[6 * MIB - 1] == ord("z")
    assert content.count(0) == len(content) - MIB - 1
    assert result.data_bytes == MIB + 65536
    assert path.stat().st_blocks * 512 <= result.data_bytes + 65536
    assert path.stat().st_mode & 0o777 == 0o600


@WRITERS
def test_an_existing_file_is_kept_unless_told(tmp_path: Path, write: Callable[..., object]) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"precious")
    with pytest.raises(TargetNotEmpty):
        write(path, 5, [(0, b"other")])
    assert path.read_bytes() == b"precious"
    write(path, 5, [(0, b"other")], overwrite=True)
    assert b"other" in path.read_bytes()
    assert os.listdir(tmp_path) == ["disk"]


@WRITERS
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, write: Callable[..., object]
) -> None:
    path = tmp_path / "disk"

    def chunks() -> Iterator[tuple[int, bytes]]:
        path.write_bytes(b"precious")
        yield 0, b"other"

    with pytest.raises(TargetNotEmpty):
        write(path, 5, chunks())
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["disk"]


@WRITERS
@pytest.mark.parametrize("failure", [RuntimeError("far away"), OSError(5, "not the target's")])
def test_a_failure_of_the_chunks_passes_through_and_leaves_nothing(
    tmp_path: Path, write: Callable[..., object], failure: Exception
) -> None:
    def chunks() -> Iterator[tuple[int, bytes]]:
        yield 0, b"x" * MIB
        assert os.listdir(tmp_path) != ["disk"]
        raise failure

    with pytest.raises(type(failure)) as caught:
        write(tmp_path / "disk", 2 * MIB, chunks(), overwrite=True)
    assert caught.value is failure
    assert os.listdir(tmp_path) == []


@WRITERS
@pytest.mark.parametrize(
    "chunks",
    [[(5, b"ab")], [(-1, b"a")], [(2, b"ab"), (3, b"a")], [(4, b"a"), (0, b"a")]],
)
def test_chunks_out_of_order_or_outside_are_refused(
    tmp_path: Path, write: Callable[..., object], chunks: list[tuple[int, bytes]]
) -> None:
    with pytest.raises(UsageError):
        write(tmp_path / "disk", 6, chunks)
    assert os.listdir(tmp_path) == []


@WRITERS
def test_a_target_that_cannot_be_is_said_so(tmp_path: Path, write: Callable[..., object]) -> None:
    with pytest.raises(TargetError):
        write(tmp_path / "missing" / "disk", 1, [])
    with pytest.raises(TargetError, match="is a directory"):
        write(tmp_path, 1, [])
    with pytest.raises(UsageError):
        write(tmp_path / "disk", -1, [])


@WRITERS
def test_a_file_too_large_leaves_nothing(tmp_path: Path, write: Callable[..., object]) -> None:
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
        with pytest.raises(TargetError, match="does not hold files of that size"):
            write(tmp_path / "disk", 4 * MIB, [(0, b"x" * 4 * MIB)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_no_room_is_target_full() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(TargetFull):
            write_raw(fd, 5, [(0, b"abcde")])
    finally:
        os.close(fd)


def test_a_symbolic_link_stays_and_leads_to_the_new_disk(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_raw(tmp_path / "link", 3, [(0, b"new")], overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_name_of_full_length_works(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_raw(path, 3, [(0, b"new")])
    assert path.read_bytes() == b"new"


def test_a_descriptor_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        write_raw(fd, 10, [(4, b"ab")])
        assert path.read_bytes() == b"\0\0\0\0ab\0\0\0\0"
        with pytest.raises(TargetNotEmpty):
            write_raw(fd, 3, [])
        write_raw(fd, 3, [(1, b"x")], overwrite=True)
        assert path.read_bytes() == b"\0x\0"
    finally:
        os.close(fd)


def test_a_pipe_receives_every_zero() -> None:
    reading, writing = os.pipe()
    received = bytearray()

    def drain() -> None:
        with os.fdopen(reading, "rb") as file:
            received.extend(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        write_raw(writing, 3 * MIB + 1, [(MIB, b"abc"), (2 * MIB, b"d" * 5)])
    finally:
        os.close(writing)
        thread.join()
    expected = bytearray(3 * MIB + 1)
    expected[MIB : MIB + 3] = b"abc"
    expected[2 * MIB : 2 * MIB + 5] = b"d" * 5
    assert received == expected


def test_qcow2_has_a_largest_disk(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="too large for qcow2"):
        write_qcow2(tmp_path / "disk", (2 << 50) + 1, [])
    assert os.listdir(tmp_path) == []
