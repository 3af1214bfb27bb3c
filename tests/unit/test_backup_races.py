"""Files that change, go away or become something else while they are backed up."""

from __future__ import annotations

import functools
import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backup_sample import BackedUp, codes, snapshot_of
from sample_repository import expected, fill

from holdfast.errors import SourceVanished
from holdfast.flows import backup_tasks, large_file
from holdfast.flows.backup_tasks import BackupSetup, BackupWorker, ScanDirectory, ScanNames
from holdfast.flows.dump import DumpRequest, dump
from holdfast.flows.large_file import LargeFileReader
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.manifest import from_json
from holdfast.sources.path import read
from holdfast.sources.path.read import TRIES, Look, look

MIB = 1 << 20


@pytest.fixture
def sample(tmp_path: Path) -> BackedUp:
    sample = BackedUp(tmp_path)
    sample.fill({"a": b"first", "changing": 5000, "z/y": b"last"})
    return sample


def manifest_grade(sample: BackedUp, result: Any) -> str:
    """The grade in the manifest that lies in the snapshot."""
    read = io.BytesIO()
    request = DumpRequest(snapshot_of(result).id, b".holdfast/manifest.json")
    dump(sample.repository, request, read)
    return from_json(read.getvalue()).consistency.value


@pytest.fixture
def before_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Do something once, between the listing of ``changing`` and its reading."""

    def install(act: Callable[[], None]) -> None:
        pending = [act]

        def hook(path: bytes) -> None:
            if path.endswith(b"changing") and pending:
                pending.pop()()

        monkeypatch.setattr(
            "holdfast.flows.backup.BackupSetup", functools.partial(BackupSetup, before_read=hook)
        )

    return install


def change_while_read(
    monkeypatch: pytest.MonkeyPatch, module: Any, act: Callable[[int], None], least: int = 1
) -> None:
    """Do something after each look at the file's metadata, when its content is read next."""
    really_look = module.look
    looks = 0

    def look(fd: int) -> Look:
        nonlocal looks
        seen: Look = really_look(fd)
        if seen.status.st_size >= least:
            looks += 1
            act(looks)
        return seen

    monkeypatch.setattr(module, "look", look)


# While it is read


def test_a_file_that_changes_while_it_is_read_is_read_again(
    sample: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sample.source / "changing"

    def act(look: int) -> None:
        if look < TRIES:
            path.write_bytes(b"%d" % look * 6000)

    change_while_read(monkeypatch, backup_tasks, act, least=1000)
    result = sample.clean()
    assert sample.contents(result) == expected(sample.source)
    assert manifest_grade(sample, result) == "per_file"


def test_a_file_that_never_rests_is_torn(sample: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample.source / "changing"
    change_while_read(
        monkeypatch, backup_tasks, lambda look: fill_with(path, look, 5000 + look), least=1000
    )
    result = sample.run()
    assert codes(result) == {"file_torn": "changing"}
    assert manifest_grade(sample, result) == "torn"
    assert len(sample.contents(result)["changing"]) == sample.nodes(result)[b"changing"].size
    assert sample.contents(result)["a"] == b"first"
    assert verify(sample.repository, VerifyRequest(read_data=True, workers=0)).clean
    # It is not taken for unchanged by the next run, even where the clocks of a file server
    # and of this machine differ.
    assert sample.nodes(result)[b"changing"].ctime_ns != path.stat().st_ctime_ns
    monkeypatch.undo()
    assert sample.contents(sample.clean(settle_ns=-(10**18))) == expected(sample.source)


def fill_with(path: Path, number: int, size: int) -> None:
    path.write_bytes(bytes([number % 256]) * size)


def test_a_file_written_in_place_all_the_while_is_torn(
    sample: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last write may be under way still: neither size nor times move when it ends."""
    path = sample.source / "changing"

    def write(_seconds: float) -> None:
        with path.open("r+b") as file:
            file.write(b"x" * 5000)

    write(0)
    time.sleep(0.05)
    monkeypatch.setattr(backup_tasks, "look", functools.partial(look, sleep=write))
    assert not sample.run().findings, "what is at rest needs no second look"
    # A busy machine may take longer than this from the write to the look.
    monkeypatch.setattr(read, "_RACY_NS", 60_000_000_000)
    write(0)
    assert codes(sample.run()) == {"file_torn": "changing"}


def test_a_look_waits_for_a_change_to_be_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    waited: list[float] = []

    def wait(seconds: float, *, busy: bool) -> None:
        waited.append(seconds)
        if busy:
            path.write_bytes(b"again")
        else:
            time.sleep(seconds)

    path.write_bytes(b"now")
    with path.open("rb") as file:
        seen = look(file.fileno(), functools.partial(wait, busy=False))
        assert seen.settled
        assert len(waited) == 1
        path.write_bytes(b"again")
        assert not look(file.fileno(), functools.partial(wait, busy=True)).settled
        assert len(waited) < 10


# Between listing and reading


def test_what_changed_since_the_listing_is_stored_as_it_is_now(
    sample: BackedUp, before_read: Callable[[Callable[[], None]], None]
) -> None:
    path = sample.source / "changing"
    before_read(lambda: os.truncate(path, 10))
    result = sample.clean()
    assert sample.nodes(result)[b"changing"].size == 10
    assert sample.contents(result) == expected(sample.source)


def test_what_vanished_since_the_listing_was_never_there(
    sample: BackedUp, before_read: Callable[[Callable[[], None]], None]
) -> None:
    before_read((sample.source / "changing").unlink)
    assert sample.names(sample.clean()) == {"a", "z", "z/y"}


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_what_became_something_else_is_a_finding(
    sample: BackedUp, before_read: Callable[[Callable[[], None]], None], kind: str
) -> None:
    path = sample.source / "changing"
    (sample.base / "outside").write_bytes(b"nobody asked for this")

    def act() -> None:
        import socket

        path.unlink()
        if kind == "link":
            path.symlink_to(sample.base / "outside")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))

    before_read(act)
    result = sample.run()
    assert codes(result) == {"file_unreadable": "changing"}
    assert sample.names(result) == {"a", "z", "z/y"}
    later = sample.clean()
    assert ("changing" in sample.names(later)) == (kind != "socket")


def during_tasks(monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None]) -> None:
    call = BackupWorker.__call__

    def watched(worker: BackupWorker, task: Any) -> Any:
        act(task)
        return call(worker, task)

    monkeypatch.setattr(BackupWorker, "__call__", watched)


@pytest.mark.parametrize("becomes", ["nothing", "link"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_directory_that_goes_away(
    sample: BackedUp, monkeypatch: pytest.MonkeyPatch, becomes: str, wide: bool
) -> None:
    sample.fill({f"dir/{number}": b"x" for number in range(1100 if wide else 1)})
    path, outside = sample.source / "dir", sample.base / "outside"
    fill(outside, {"0": b"not ours"})
    kind = ScanNames if wide else ScanDirectory

    def act(task: Any) -> None:
        if (
            isinstance(task, kind)
            and task.path == b"dir"
            and path.is_dir()
            and not path.is_symlink()
        ):
            shutil.rmtree(path)
            if becomes == "link":
                path.symlink_to(outside)

    during_tasks(monkeypatch, act)
    result = sample.run()
    names = sample.names(result)
    assert {"a", "changing", "z/y"} <= names
    assert not any(name.startswith("dir/") for name in names)
    if not wide:
        expected_code = "directory_vanished" if becomes == "nothing" else "directory_unreadable"
        assert codes(result) == {expected_code: "dir"}


def test_the_path_itself_goes_away(sample: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(task: Any) -> None:
        if isinstance(task, ScanNames) and sample.source.exists():
            shutil.rmtree(sample.source)

    during_tasks(monkeypatch, act)
    with pytest.raises(SourceVanished):
        sample.run(sample.source / "a")
    assert not sample.repository.snapshots()[0]


# Large files, which are cut here and read by workers


@pytest.fixture
def large(sample: BackedUp, monkeypatch: pytest.MonkeyPatch) -> BackedUp:
    monkeypatch.setattr(backup_tasks, "STREAMED_FROM_BYTES", MIB)
    sample.fill({"changing": 30 * MIB + 5})
    return sample


@pytest.mark.parametrize("alone", [False, True])
def test_a_large_file_is_stored_like_any_other(
    large: BackedUp, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    path = large.source / "changing"
    where = (path,) if alone else ()
    result = large.clean(*where)
    assert large.contents(result)["changing"] == path.read_bytes()
    streamed = large.nodes(result)[b"changing"]
    assert (result.counts.files_new, result.counts.bytes_seen >= 30 * MIB) == (1 if alone else 3, 1)
    with monkeypatch.context() as patch:
        patch.setattr(backup_tasks, "STREAMED_FROM_BYTES", 1 << 40)
        whole = large.nodes(large.clean(*where, parent=None))[b"changing"]
    assert whole == streamed
    assert large.clean(*where).counts.bytes_read == 0
    with path.open("ab") as file:
        file.write(b"more")
    (large.source / "another").write_bytes(bytes(2 * MIB))
    again = large.clean(*where)
    assert (again.counts.files_changed, again.counts.files_new) == (1, 0 if alone else 1)
    assert large.contents(again)["changing"] == path.read_bytes()


@pytest.mark.parametrize("size", [0, 10, 3 * MIB])
@pytest.mark.parametrize("at_look", [1, 2])
def test_a_large_file_that_is_cut_short(
    large: BackedUp, monkeypatch: pytest.MonkeyPatch, size: int, at_look: int
) -> None:
    """Before it is read, or before it is read again."""
    path = large.source / "changing"

    def act(look: int) -> None:
        if look == at_look:
            os.truncate(path, size)
        elif look < at_look:
            with path.open("r+b") as file:
                file.write(b"other")

    change_while_read(monkeypatch, large_file, act, least=0)
    result = large.clean()
    assert large.contents(result)["changing"] == path.read_bytes()
    assert large.nodes(result)[b"changing"].size == size
    assert verify(large.repository, VerifyRequest(read_data=True, workers=0)).clean


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("size", [0, 3 * MIB])
def test_a_large_file_that_never_rests_is_torn(
    large: BackedUp, monkeypatch: pytest.MonkeyPatch, alone: bool, size: int
) -> None:
    path = large.source / "changing"

    def act(look: int) -> None:
        os.truncate(path, size)
        os.utime(path, ns=(look, look))

    change_while_read(monkeypatch, large_file, act, least=0)
    result = large.run(*([path] if alone else []))
    assert codes(result) == {"file_torn": "changing"}
    assert large.nodes(result)[b"changing"].size == size
    assert manifest_grade(large, result) == "torn"
    assert large.nodes(result)[b"changing"].ctime_ns != path.stat().st_ctime_ns


def test_parts_that_are_gone_when_a_worker_reads_them(
    large: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent has found the cuts, then the file is truncated: no blob of nothing is stored."""
    path = large.source / "changing"
    store = BackupWorker._store_chunks
    cut: list[None] = []

    def act(worker: BackupWorker, task: Any) -> Any:
        if not cut:
            cut.append(None)
            os.truncate(path, 100)
        return store(worker, task)

    monkeypatch.setattr(BackupWorker, "_store_chunks", act)
    result = large.clean()
    assert large.contents(result)["changing"] == path.read_bytes()
    index = large.repository.open_index()
    assert all(blob.raw_length for _, _, blob in index.blobs())


@pytest.mark.parametrize("kind", ["nothing", "link", "fifo", "linked directory"])
def test_a_large_file_that_is_not_there_when_its_turn_comes(
    large: BackedUp, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    large.fill({"z/changing": 2 * MIB})
    path = large.source / "z/changing"
    outside = large.base / "outside"
    fill(outside, {"changing": 2 * MIB})
    start = LargeFileReader.__init__

    def act(reader: LargeFileReader, tree: Any, name: bytes, *rest: Any, **more: Any) -> None:
        if name == b"z/changing":
            shutil.rmtree(path.parent)
            if kind == "linked directory":
                path.parent.symlink_to(outside)
            else:
                path.parent.mkdir()
            if kind == "link":
                path.symlink_to(outside / "changing")
            elif kind == "fifo":
                os.mkfifo(path)
        start(reader, tree, name, *rest, **more)

    monkeypatch.setattr(LargeFileReader, "__init__", act)
    result = large.run()
    assert "z/changing" not in large.names(result)
    assert "changing" in large.names(result)
    if kind == "nothing":
        assert not result.findings
    else:
        assert codes(result) == {"file_unreadable": "z/changing"}


def test_a_large_file_that_fails_to_be_read(
    large: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(backup_tasks, "STREAMED_FROM_BYTES", 20 * MIB)
    result = large.run(large.source / "changing")
    assert codes(result) == {"file_unreadable": "changing"}
    assert large.names(result) == set()
