"""Whether a file is as in the parent snapshot: what the comparison must not be fooled by."""

from __future__ import annotations

import mmap
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backup_sample import BackedUp, codes, snapshot_of
from sample_repository import expected, flip, keys_of, packs_holding

from holdfast.flows.backup import SETTLE_NS
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.node import NodeType
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, pack_key


@pytest.fixture
def sample(tmp_path: Path) -> BackedUp:
    sample = BackedUp(tmp_path)
    sample.fill({"a": b"1" * 100, "d/b": b"2" * 200})
    return sample


def overwrite(path: Path, content: bytes) -> None:
    """Other content of the same size in the same inode, the modification time put back."""
    before = path.stat()
    assert before.st_size == len(content)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_unchanged_files_are_not_read(sample: BackedUp) -> None:
    sample.clean()
    second = sample.clean()
    assert (second.counts.files_unmodified, second.counts.bytes_read) == (2, 0)
    assert second.counts.bytes_seen == 300
    assert sample.clean(parent=None).counts.bytes_read == 300


def test_same_size_and_time_do_not_hide_a_change(sample: BackedUp) -> None:
    sample.clean()
    overwrite(sample.source / "a", b"x" * 100)
    result = sample.clean()
    assert (result.counts.files_changed, result.counts.files_unmodified) == (1, 1)
    assert sample.contents(result) == expected(sample.source)


@pytest.mark.parametrize("ignore_inode", [False, True])
def test_a_replaced_file_is_read(sample: BackedUp, ignore_inode: bool) -> None:
    first = sample.source / "a"
    sample.clean()
    times = first.stat()
    other = sample.source / "other"
    other.write_bytes(b"y" * 100)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(first)
    # Even without inodes the change time tells.
    result = sample.clean(ignore_inode=ignore_inode)
    assert sample.contents(result) == expected(sample.source)
    assert result.counts.files_changed == 1


def test_metadata_that_changed_is_taken_although_content_did_not(sample: BackedUp) -> None:
    sample.clean()
    (sample.source / "a").chmod(0o600)
    os.setxattr(sample.source / "d/b", "user.x", b"1")
    os.setxattr(sample.source / "d", "user.y", b"2")
    os.setxattr(sample.source, "user.z", b"3")
    nodes = sample.nodes(sample.clean())
    assert nodes[b"a"].mode == 0o600
    assert nodes[b"d/b"].xattrs == ((b"user.x", b"1"),)
    assert nodes[b"d"].xattrs == ((b"user.y", b"2"),)
    assert nodes[b"."].xattrs == ((b"user.z", b"3"),)
    (sample.source / "d").chmod(0o711)
    nodes = sample.nodes(sample.clean())
    assert nodes[b"d"].mode == 0o711
    assert nodes[b"d/b"].xattrs == ((b"user.x", b"1"),), "attributes of files not read stay"


def test_a_link_that_leads_elsewhere_is_seen(sample: BackedUp) -> None:
    link = sample.source / "d/link"
    link.symlink_to("one")
    sample.clean()
    link.unlink()
    link.symlink_to("two")
    assert sample.nodes(sample.clean())[b"d/link"].linktarget == b"two"


def test_files_changed_shortly_before_the_parent_are_read_again(sample: BackedUp) -> None:
    """The settle rule: so soon a change may have left no trace in any time."""
    sample.clean()
    settled = sample.run(settle_ns=0)
    assert settled.counts.bytes_read == 0
    cautious = sample.run(settle_ns=SETTLE_NS)
    assert cautious.counts.bytes_read == 300
    assert sample.tree(cautious) == sample.tree(settled)


def test_a_store_through_a_memory_map_after_a_backup_is_not_missed(sample: BackedUp) -> None:
    """A page that was dirty before the backup takes further stores without a new time."""
    path = sample.source / "a"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0] = ord("p")
        sample.run(settle_ns=SETTLE_NS)
        before = path.stat()
        memory[0] = ord("q")
        assert path.stat().st_ctime_ns == before.st_ctime_ns, "the kernel does better; rewrite this"
        result = sample.run(settle_ns=SETTLE_NS)
    assert sample.contents(result)["a"] == b"q" + b"1" * 99


def test_the_time_given_to_a_snapshot_settles_nothing(sample: BackedUp) -> None:
    """Only when the parent really began counts, whatever time a person gave it."""
    future = datetime.now(UTC) + timedelta(days=3)
    sample.run(time=future, settle_ns=SETTLE_NS)
    assert sample.run(settle_ns=SETTLE_NS).counts.bytes_read == 300


# What the shape of a directory may hide


def test_an_entry_replaced_by_another_of_the_same_number(sample: BackedUp) -> None:
    for name in ("x", "y"):
        (sample.source / name).mkdir()
    sample.clean()
    (sample.source / "x").rename(sample.source / "z")
    result = sample.clean()
    assert sample.names(result) == {"a", "d", "d/b", "y", "z"}


@pytest.mark.parametrize("before", ["file", "directory", "link", "fifo"])
@pytest.mark.parametrize("after", ["file", "directory", "link", "fifo", "nothing"])
def test_an_entry_becomes_something_else(sample: BackedUp, before: str, after: str) -> None:
    path = sample.source / "d/changing"
    kinds = {
        "file": NodeType.FILE,
        "directory": NodeType.DIRECTORY,
        "link": NodeType.SYMLINK,
        "fifo": NodeType.FIFO,
    }

    def make(kind: str) -> None:
        if kind == "file":
            path.write_bytes(b"")
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("x")
        elif kind == "fifo":
            os.mkfifo(path)

    make(before)
    assert sample.nodes(sample.clean())[b"d/changing"].type is kinds[before]
    if before == "directory":
        path.rmdir()
    else:
        path.unlink()
    make(after)
    node = sample.nodes(sample.clean()).get(b"d/changing")
    assert (node.type if node else None) == kinds.get(after)


def test_a_change_deep_below_reaches_the_top_only_where_it_is(sample: BackedUp) -> None:
    sample.fill({"p/q/r/file": b"1", "p/q/s/file2": b"2", "p/t/file3": b"3"})
    first = sample.clean()
    (sample.source / "p/q/r/file").write_bytes(b"other")
    second = sample.clean()
    for same in ("p/q/s", "p/t", "d"):
        assert sample.tree(first, sample.source / same) == sample.tree(second, sample.source / same)
    assert sample.contents(second) == expected(sample.source)
    assert second.counts.dirs_unmodified == 3


# A parent that is damaged


def test_a_file_whose_content_the_index_lost_is_stored_again(sample: BackedUp) -> None:
    sample.clean()
    packs = packs_holding(sample.repository, BlobType.DATA)
    sample.fill({"late": b"3"})
    second = sample.clean()
    for key in list(keys_of(sample.repository.store, FileKind.INDEX)):
        sample.repository.store.delete(key)
    for pack in packs:
        sample.repository.store.delete(pack_key(pack))
    result = sample.run(parent=snapshot_of(second).id)
    # The whole root tree of the parent is gone, so the run begins without it, and says so.
    assert codes(result).keys() == {"parent_damaged"}
    assert sample.contents(result) == expected(sample.source)


def test_lost_content_alone_heals_silently(tmp_path: Path) -> None:
    sample = BackedUp(tmp_path)
    sample.fill({"a": b"1" * 100})
    sample.clean(parent=None)
    lost = list(keys_of(sample.repository.store, FileKind.INDEX))
    second = sample.clean(dry_run=True)
    assert second.counts.files_unmodified == 1
    # Another run stores trees of its own; then what listed the content goes.
    (sample.source / "empty").write_bytes(b"")
    third = sample.clean()
    assert third.counts.files_unmodified == 1
    for key in lost:
        sample.repository.store.delete(key)
    healed = sample.clean()
    assert healed.counts.bytes_read == 100
    assert sample.contents(healed)["a"] == b"1" * 100
    result = verify(sample.repository, VerifyRequest(read_data=True, workers=0))
    # The first snapshot's own trees are gone with that index file, the others are whole.
    assert {each.id for each in result.damaged} <= {
        snapshot.id for snapshot in sample.repository.snapshots()[0][:1]
    }


def test_a_damaged_tree_of_the_parent_is_a_finding_and_its_files_are_read(
    sample: BackedUp,
) -> None:
    first = sample.clean()
    for pack in packs_holding(sample.repository, BlobType.TREE):
        key = pack_key(pack)
        flip(sample.repository.store, key, len(sample.repository.store.read(key)) // 3)
    result = sample.run()
    assert result.parent == snapshot_of(first).id
    assert {finding.code for finding in result.findings} == {"parent_damaged"}
    assert result.counts.bytes_read >= 100
