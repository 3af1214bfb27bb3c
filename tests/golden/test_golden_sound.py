"""Repositories that older programs made stay readable, whole, and can be added to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from golden_archive import HERE, NAMES, PASSWORD, Golden, listing
from tree_compare import assert_same_tree

from holdfast.errors import WrongPassword
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.repo.indexfile import decode_index
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.local import LocalStore

ROOT = os.geteuid() == 0


def opened(golden: Golden, directory: Path) -> Repository:
    return Repository.open(LocalStore(str(golden.unpack(directory))), PASSWORD)


def restored(repository: Repository, golden: Golden, snapshot: str, target: Path) -> None:
    """Restore a snapshot and compare every entry with what was backed up."""
    request = RestoreRequest(snapshot, os.fsencode(target), path=golden.inside, workers=0)
    result = restore(repository, request)
    found, expected = listing(target), golden.snapshots[snapshot]
    if ROOT:
        assert not result.findings
    else:  # others may not give files away, and set-id bits go with the owner
        for entries in (found, expected):
            for entry in entries.values():
                entry["mode"] &= 0o777
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_snapshot_is_restored_as_it_was(name: str, tmp_path: Path) -> None:
    golden = Golden.load(name)
    repository = opened(golden, tmp_path)
    snapshots, findings = repository.snapshots()
    assert not findings
    assert [each.id for each in snapshots] == list(golden.snapshots)
    assert {each.hostname for each in snapshots} == {"golden"}
    assert {each.paths for each in snapshots} == {(golden.files,)}
    for snapshot in golden.snapshots:
        restored(repository, golden, snapshot, tmp_path / snapshot[:8])


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_of_it_is_verified(name: str, tmp_path: Path) -> None:
    result = verify(opened(Golden.load(name), tmp_path), VerifyRequest(read_data=True, workers=0))
    assert (result.findings, result.notes, result.damaged) == ((), (), ())
    assert result.snapshots == 2
    assert result.packs_read == result.packs > 2


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_password_opens_nothing(name: str, tmp_path: Path) -> None:
    store = LocalStore(str(Golden.load(name).unpack(tmp_path)))
    with pytest.raises(WrongPassword, match="opens none of the 1 key"):
        Repository.open(store, PASSWORD + " ")


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_added_to(name: str, tmp_path: Path) -> None:
    golden = Golden.load(name)
    repository = opened(golden, tmp_path)
    snapshot = next(iter(golden.snapshots))
    restored(repository, golden, snapshot, tmp_path / "out")
    result = backup(
        repository, BackupRequest((os.fsencode(tmp_path / "out"),), workers=0, settle_ns=0)
    )
    assert result.snapshot is not None
    # The content is there already; only the manifest and directories are new.
    assert result.added.data_blobs <= 1 + (name != "holdfast-0.1")  # restic cuts zeros.bin
    restore(
        repository,
        RestoreRequest(
            result.snapshot.id,
            os.fsencode(tmp_path / "again"),
            path=os.fsencode(tmp_path / "out")[1:],
            workers=0,
        ),
    )
    assert_same_tree(tmp_path / "out", tmp_path / "again")
    assert verify(repository, VerifyRequest(read_data=True, workers=0)).clean
    for old in golden.snapshots:
        restored(repository, golden, old, tmp_path / old[:8])
    if repository.config.version == 1:
        for index in repository.ids(FileKind.INDEX):
            for pack in decode_index(repository.load(FileKind.INDEX, index), index):
                assert not any(blob.compressed for blob in pack.blobs)


def test_no_archive_is_large() -> None:
    sizes = {path.name: path.stat().st_size for path in HERE.glob("*.tar.xz")}
    assert set(sizes) == {f"{name}.tar.xz" for name in NAMES}
    assert max(sizes.values()) < 100_000
