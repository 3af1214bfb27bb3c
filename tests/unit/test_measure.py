"""Measuring: shares that add up exactly, against counting every blob by hand."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest
from sample_repository import fill, make, packs_holding, save

from holdfast.flows.forget import remove_records
from holdfast.flows.measure import Measurement, measure
from holdfast.flows.statistics import statistics
from holdfast.model.snapshot import Snapshot
from holdfast.repo.index import IndexCache
from holdfast.repo.pack import BlobType
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import Repository, pack_key
from holdfast.repo.treestream import stream_trees


def users_by_hand(repository: Repository) -> dict[tuple[BlobType, bytes], set[str]]:
    """For every blob that is needed, the snapshots that need it; each walked by itself."""
    index = repository.open_index(IndexCache(None))
    users: dict[tuple[BlobType, bytes], set[str]] = {}
    for snapshot in repository.snapshots()[0]:
        root = bytes.fromhex(snapshot.tree)
        for tree in stream_trees(repository, index, [root], lambda _id: True):
            users.setdefault((BlobType.TREE, tree.id), set()).add(snapshot.id)
            for node in tree.nodes:
                for text in node.get("content") or ():
                    blob = (BlobType.DATA, bytes.fromhex(text))
                    users.setdefault(blob, set()).add(snapshot.id)
    return users


def check(repository: Repository, found: Measurement) -> None:
    packs = PackList(repository.open_index(IndexCache(None)))
    exact: dict[str, Fraction] = {share.snapshot_id: Fraction(0) for share in found.shares}
    alone = dict.fromkeys(exact, 0)
    total = 0
    groups = set()
    for (kind, blob_id), users in users_by_hand(repository).items():
        _, table, row = packs.copies(kind, blob_id)[0]
        size = packs.blob(table, row).length
        total += size
        groups.add(frozenset(users))
        for user in users:
            exact[user] += Fraction(size, len(users))
        if len(users) == 1:
            alone[next(iter(users))] += size
    assert found.stored_bytes == total == sum(share.share_bytes for share in found.shares)
    for share in found.shares:
        # Each group of snapshots is divided for itself, so each may be off by one byte.
        assert abs(share.share_bytes - exact[share.snapshot_id]) < len(groups) + 1
        assert share.freed_bytes == alone[share.snapshot_id]


def test_an_empty_repository() -> None:
    assert measure(make()) == Measurement(0, 0, (), ())


def test_one_snapshot_has_everything(tmp_path: Path) -> None:
    repository = make()
    save(repository, fill(tmp_path / "d", {"a": 100_000, "x/b": 10}))
    found = measure(repository)
    check(repository, found)
    (share,) = found.shares
    assert share.share_bytes == share.freed_bytes == found.stored_bytes
    assert found.pack_bytes >= found.stored_bytes


def test_equal_snapshots_have_equal_shares_and_free_almost_nothing(tmp_path: Path) -> None:
    repository = make()
    directory = fill(tmp_path / "d", {"a": 300_001})
    for _ in range(3):
        save(repository, directory)
    found = measure(repository)
    check(repository, found)
    shares = [share.share_bytes for share in found.shares]
    assert max(shares) - min(shares) < 2000, "their manifests differ"
    assert all(share.freed_bytes < 2000 for share in found.shares)


@pytest.mark.parametrize("seed", range(12))
def test_any_history_adds_up_to_the_byte(tmp_path: Path, seed: int) -> None:
    """Random trees that change, share directories and files, move, and come back."""
    rng = random.Random(seed)
    repository = make()
    directory = tmp_path / "d"
    directory.mkdir()
    kept: list[Snapshot] = []
    for turn in range(rng.randint(2, 7)):
        for _ in range(rng.randint(1, 6)):
            name = "/".join(rng.choice("abc") for _ in range(rng.randint(1, 3))) + ".f"
            fill(directory, {name: rng.randint(0, 3000)}, seed=rng.randint(0, 5))
        files = [path for path in directory.rglob("*") if path.is_file()]
        if turn and rng.random() < 0.5:
            files.pop(rng.randrange(len(files))).unlink()
        if files and rng.random() < 0.3:
            rng.choice(files).rename(directory / f"moved-{turn}")
        kept.append(save(repository, directory))
    if len(kept) > 2 and rng.random() < 0.5:
        remove_records(repository, [kept.pop(0).id])
    found = measure(repository)
    check(repository, found)
    counted = statistics(repository)
    assert found.stored_bytes == counted.needed_bytes
    unique = {each.id: each.unique_bytes for each in counted.snapshots}
    assert {share.snapshot_id: share.freed_bytes for share in found.shares} == unique


def test_every_tree_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred snapshots of one directory cost what one costs."""
    from holdfast.repo.reader import BlobReader

    repository = make()
    directory = fill(tmp_path / "d", {f"{n}/f": 10 for n in range(20)})
    save(repository, directory)
    read: list[bytes] = []
    load = BlobReader.load

    def counted(self: BlobReader, kind: BlobType, blob_id: bytes) -> bytes:
        read.append(blob_id)
        return load(self, kind, blob_id)

    for _ in range(5):
        save(repository, directory)
    monkeypatch.setattr(BlobReader, "load", counted)
    measure(repository)
    assert len(read) == len(set(read))


def test_damage_is_a_finding_and_the_rest_is_counted(tmp_path: Path) -> None:
    repository = make()
    save(repository, fill(tmp_path / "d", {"a": 100_000}))
    for pack in packs_holding(repository, BlobType.TREE):
        repository.store.delete(pack_key(pack))
    fill(tmp_path / "d", {"b": 5000})
    save(repository, tmp_path / "d", parent=None)
    found = measure(repository)
    assert {finding.code for finding in found.findings} == {"tree_damaged"}
    assert found.stored_bytes == sum(share.share_bytes for share in found.shares) > 0
