"""Comparing snapshots: every kind of change, by name and by size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from handmade_snapshot import Handmade
from sample_repository import fill, make, save

from holdfast.errors import NotFound, UsageError
from holdfast.flows.diff import Change, ChangeKind, DiffRequest, DiffTotals, diff
from holdfast.model.finding import Finding
from holdfast.model.snapshot import Snapshot
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository


@pytest.fixture
def repository() -> Repository:
    return make()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", {"a": 100, "d/b": 2000, "d/e/c": 30, "kind": 7, "m": 1})


def changes(
    repository: Repository, one: Snapshot, other: Snapshot, path: Path, **more: object
) -> list[Change]:
    findings: list[Finding] = []
    place = os.fsencode(path)
    request = DiffRequest(one.id, other.id, place, place, **more)  # type: ignore[arg-type]
    found = list(diff(repository, request, findings.append))
    assert not findings
    return found


def shown(found: list[Change]) -> list[tuple[str, bytes]]:
    return [(change.kind.value, change.path) for change in found]


def test_every_kind_of_change(repository: Repository, source: Path) -> None:
    times = source.stat().st_mtime_ns, (source / "d").stat().st_mtime_ns
    first = save(repository, source)
    (source / "a").write_bytes(b"shorter")
    fill(source, {"d/new/x": 10, "d/new/y": 20})
    (source / "d/e/c").unlink()
    (source / "d/e").rmdir()
    (source / "kind").unlink()
    fill(source, {"kind/inside": 3})
    (source / "m").chmod(0o600)
    for path, moment in zip((source, source / "d"), times, strict=True):
        os.utime(path, ns=(moment, moment))
    second = save(repository, source)
    found = changes(repository, first, second, source)
    assert shown(found) == [
        ("modified", b"a"),
        ("removed", b"d/e"),
        ("removed", b"d/e/c"),
        ("added", b"d/new"),
        ("added", b"d/new/x"),
        ("added", b"d/new/y"),
        ("type", b"kind"),
        ("added", b"kind/inside"),
        ("metadata", b"m"),
    ]
    totals = DiffTotals()
    for change in found:
        totals.add(change)
    assert (totals.added_bytes, totals.removed_bytes) == (7 + 30 + 3, 100 + 30 + 7)
    assert totals.files[ChangeKind.ADDED] == 3
    assert totals.directories[ChangeKind.REMOVED] == 1
    assert found[0].growth_bytes == -93
    assert "metadata" not in {
        change.kind for change in changes(repository, first, second, source, metadata=False)
    }
    back = changes(repository, second, first, source)
    assert ("removed", b"kind/inside") in shown(back)
    assert changes(repository, first, first, source) == []
    # From the top the manifests differ, which is nothing that a person changed.
    top = diff(repository, DiffRequest(first.id, second.id), lambda _: None)
    assert not any(change.path.startswith(b".holdfast") for change in top)


def test_equal_directories_are_not_read(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(repository, source)
    (source / "a").write_bytes(b"x")
    second = save(repository, source)
    read: list[bytes] = []
    load = BlobReader.load

    def counted(self: BlobReader, kind: object, blob_id: bytes) -> bytes:
        read.append(blob_id)
        return load(self, kind, blob_id)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobReader, "load", counted)
    changes(repository, first, second, source)
    levels = len(source.parts) - 1
    assert len(read) == 2 * (levels + 1)


def test_two_paths(repository: Repository, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"one/a": b"1", "two/a": b"2", "two/b": b"3"})
    snapshot = save(repository, source)

    def compared(one: str, other: str) -> list[tuple[str, bytes]]:
        request = DiffRequest(
            "latest", "latest", os.fsencode(source / one), os.fsencode(source / other)
        )
        return shown(list(diff(repository, request, lambda _: None)))

    assert compared("one", "two") == [("modified", b"a"), ("added", b"b")]
    assert compared("one/a", "two/b")[0][0] == "modified"
    with pytest.raises(UsageError):
        compared("one", "two/a")
    with pytest.raises(NotFound):
        compared("one", "three")
    assert snapshot


def test_deep_and_damaged_trees(repository: Repository) -> None:
    with Handmade(repository) as made:
        old, new = made.make.file(b"f", b"1"), made.make.file(b"f", b"2")
        for _ in range(1500):
            old, new = made.make.directory(b"d", [old]), made.make.directory(b"d", [new])
        one, other = made.snapshot([old]), made.snapshot([new])
        broken = made.snapshot([new._replace(subtree=bytes(32))])
    found = list(diff(repository, DiffRequest(one.id, other.id), lambda _: None))
    assert shown(found) == [("modified", b"d/" * 1500 + b"f")]
    findings: list[Finding] = []
    assert list(diff(repository, DiffRequest(one.id, broken.id), findings.append)) == []
    assert [(f.code, f.subject) for f in findings] == [("directory_damaged", "d")]
