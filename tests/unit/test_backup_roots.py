"""Backups of several paths at once: which of them is read where, and what none may hide."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from backup_sample import BackedUp, codes, snapshot_of
from sample_repository import keys_of

from holdfast.errors import SourceVanished, UsageError
from holdfast.flows import backup_tasks
from holdfast.flows.backup_tasks import BackupWorker
from holdfast.repo.repository import FileKind
from holdfast.sources.path.ladder import VIEW_PREFIX

MIB = 1 << 20


@pytest.fixture
def sample(tmp_path: Path) -> BackedUp:
    return BackedUp(tmp_path)


def test_large_files_of_every_path_are_read_from_their_own(
    sample: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single large file behind another path was once looked for inside that one."""
    monkeypatch.setattr(backup_tasks, "STREAMED_FROM_BYTES", MIB)
    sample.fill({"a/one": 2 * MIB, "b/two": 3 * MIB, "c/three": 2 * MIB})
    paths = [sample.source / name for name in ("a", "b/two", "c/three")]
    result = sample.clean(*paths)
    assert sample.names(result) == {"a", "a/one", "b", "b/two", "c", "c/three"}
    for path in paths[1:]:
        assert sample.contents(result)[path.name] == path.read_bytes()
    assert sample.clean(*paths).counts.bytes_read == 0


def test_a_path_inside_another_must_be_there(sample: BackedUp) -> None:
    with pytest.raises(SourceVanished, match=r"missing does not exist; nothing was stored"):
        sample.run(sample.source, sample.source / "missing")
    assert not list(keys_of(sample.repository.store, FileKind.SNAPSHOT))


def test_nothing_can_be_stored_inside_a_link_that_is_stored_itself(sample: BackedUp) -> None:
    sample.fill({"real/x": b"1"})
    link = sample.source / "link"
    link.symlink_to("real")
    with pytest.raises(UsageError, match="name what it points to instead"):
        sample.run(link, link / "x")
    result = sample.clean(link, sample.source / "real")
    assert sample.names(result) == {"link", "real", "real/x"}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts: needs root")
def test_a_named_path_on_another_file_system_is_taken_with_the_one_around_it(
    sample: BackedUp,
) -> None:
    sample.fill({"named/below": b"hidden", "other/below": b"hidden", "own": b"1"})
    mounts = [sample.source / "named", sample.source / "other"]
    mounted = []
    try:
        for mount in mounts:
            if subprocess.run(["mount", "-t", "tmpfs", "none", str(mount)], check=False).returncode:
                pytest.skip("this machine does not let us mount")
            mounted.append(mount)
            (mount / "inner").write_bytes(b"2")
        result = sample.clean(sample.source, mounts[0], one_file_system=True)
    finally:
        for mount in mounted:
            subprocess.run(["umount", str(mount)], check=True)
    assert sample.names(result) == {"own", "named", "named/inner", "other"}
    assert snapshot_of(result).paths == (str(sample.source),)


def test_attributes_of_the_directories_on_the_way_are_kept(sample: BackedUp) -> None:
    sample.fill({"d/x": b"1"})
    try:
        os.setxattr(sample.base, "user.above", b"1")
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    os.setxattr(sample.source / "d", "user.top", b"2")
    result = sample.clean(sample.source / "d")
    assert sample.nodes(result, sample.base)[b"."].xattrs == ((b"user.above", b"1"),)
    assert sample.nodes(result)[b"d"].xattrs == ((b"user.top", b"2"),)


def test_views_that_other_runs_have_open_are_left_out(sample: BackedUp) -> None:
    view = os.fsdecode(VIEW_PREFIX) + f"{int(time.time())}-abcdef"  # an older one is removed
    names = ["-", "a", ".holdfast-vie", ".holdfast-views", ".holdfast", ".zzz"]
    sample.fill({f"{view}/x": b"1", **dict.fromkeys(names, b"2")})
    assert sample.names(sample.clean()) == set(names)


def test_a_part_that_a_worker_cannot_read_is_a_finding(
    sample: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_tasks, "STREAMED_FROM_BYTES", MIB)
    sample.fill({"good": b"1", "large": 20 * MIB})
    store = BackupWorker._store_chunks
    parts: list[None] = []

    def act(worker: BackupWorker, task: Any) -> Any:
        parts.append(None)
        if len(parts) == 2:
            task = task._replace(path="/dev/null/not there")
        return store(worker, task)

    monkeypatch.setattr(BackupWorker, "_store_chunks", act)
    result = sample.run()
    assert codes(result) == {"file_unreadable": "large"}
    assert sample.names(result) == {"good"}
