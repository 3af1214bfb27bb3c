"""Looking into snapshots: listing, finding and dumping, and what a path means."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from handmade_snapshot import Handmade
from sample_repository import fill, flip, keys_of, make, save

from holdfast.errors import Damaged, NotFound, UsageError
from holdfast.flows.browse import BrowseRequest, browse
from holdfast.flows.dump import DumpRequest, dump
from holdfast.flows.find import FindRequest, FindResult, find
from holdfast.flows.locate import Trees, locate, normal_path, split_reference
from holdfast.model.finding import Finding
from holdfast.model.node import NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import FileKind, Repository, pack_key

FILES: dict[str, int | bytes] = {"a.txt": 100, "d/b.txt": 2000, "d/e/c.bin": 3 << 20, "z": b""}


@pytest.fixture
def repository() -> Repository:
    return make()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", FILES)


def listed(repository: Repository, snapshot: Snapshot, path: bytes, **more: bool) -> list[bytes]:
    findings: list[Finding] = []
    request = BrowseRequest(snapshot.id, path, **more)
    entries = [entry.path for entry in browse(repository, request, findings.append)]
    assert not findings
    return entries


# Paths


@pytest.mark.parametrize(
    ("written", "name", "path"),
    [
        ("latest", "latest", b""),
        ("4f3c:/a/b", "4f3c", b"a/b"),
        ("4f3c:a//b/./c/", "4f3c", b"a/b/c"),
        ("4f3c:/a:b", "4f3c", b"a:b"),
        ("4f3c:/", "4f3c", b""),
        ("4f3c:/\udcff", "4f3c", b"\xff"),
    ],
)
def test_references(written: str, name: str, path: bytes) -> None:
    assert split_reference(written) == (name, path)


def test_a_path_may_not_lead_upwards() -> None:
    with pytest.raises(UsageError):
        normal_path(b"/a/../b")


def test_locating(repository: Repository, source: Path) -> None:
    (source / "link").symlink_to("d")
    snapshot = save(repository, source)
    trees = Trees(BlobReader(repository, repository.open_index()))
    top = os.fsencode(source)
    file = locate(trees, snapshot, top + b"/d/b.txt")
    assert file.node is not None
    assert (file.node.size, file.is_directory) == (2000, False)
    assert locate(trees, snapshot, top + b"/d/").is_directory
    assert locate(trees, snapshot, b"/").node is None
    for wrong, said in (
        (b"/nowhere", "holds no 'nowhere'"),
        (b"/a.txt/x", "is a file"),
        (b"/link/b.txt", "symbolic link to d"),
    ):
        with pytest.raises(NotFound, match=said):
            locate(trees, snapshot, top + wrong)


# Listing


def test_listing(repository: Repository, source: Path) -> None:
    snapshot = save(repository, source)
    top = os.fsencode(source).lstrip(b"/")
    below = [b"a.txt", b"d", b"d/b.txt", b"d/e", b"d/e/c.bin", b"z"]
    everything = [top + b"/" + name for name in below]
    assert listed(repository, snapshot, top, recursive=True) == everything
    assert listed(repository, snapshot, top) == [top + b"/" + n for n in (b"a.txt", b"d", b"z")]
    assert listed(repository, snapshot, top + b"/z") == [top + b"/z"]
    assert listed(repository, snapshot, b"") == [top.partition(b"/")[0]]
    assert b".holdfast" in listed(repository, snapshot, b"", with_manifest=True)
    assert list(keys_of(repository.store, FileKind.LOCK)) == []


def test_a_closed_listing_gives_its_lock_back(repository: Repository, source: Path) -> None:
    snapshot = save(repository, source)
    entries = browse(repository, BrowseRequest(snapshot.id, recursive=True), lambda _: None)
    next(entries)
    assert len(list(keys_of(repository.store, FileKind.LOCK))) == 1
    entries.close()  # type: ignore[attr-defined]
    assert list(keys_of(repository.store, FileKind.LOCK)) == []


def damage_tree(repository: Repository, snapshot: Snapshot, path: bytes) -> None:
    index = repository.open_index()
    place = locate(Trees(BlobReader(repository, index)), snapshot, path)
    assert place.tree is not None
    location = index.find(BlobType.TREE, place.tree)
    assert location is not None
    flip(repository.store, pack_key(location.pack), location.offset + 20)


def test_a_damaged_directory_is_a_finding(repository: Repository, source: Path) -> None:
    snapshot = save(repository, source)
    top = os.fsencode(source)
    damage_tree(repository, snapshot, top + b"/d/e")
    findings: list[Finding] = []
    request = BrowseRequest(snapshot.id, top, recursive=True)
    names = [entry.node.name for entry in browse(repository, request, findings.append)]
    assert names == [b"a.txt", b"d", b"b.txt", b"e", b"z"]
    assert [finding.code for finding in findings] == ["directory_damaged"]
    found = find(repository, FindRequest(("*",)))
    assert [finding.code for finding in found.findings] == ["directory_damaged"]


# Finding


def test_every_version_and_who_holds_it(repository: Repository, source: Path) -> None:
    first = save(repository, source)
    second = save(repository, source)
    (source / "d/b.txt").write_bytes(b"changed")
    third = save(repository, source)
    (source / "d/b.txt").unlink()
    save(repository, source)

    def ids(*snapshots: Snapshot) -> tuple[str, ...]:
        return tuple(s.id for s in sorted(snapshots, key=lambda s: (s.time, s.id)))

    result = find(repository, FindRequest(("b.txt",)))
    assert result.searched_snapshots == 4
    assert [(v.node.size, v.snapshots) for v in result.versions] == [
        (2000, ids(first, second)),
        (7, ids(third)),
    ]
    assert names(find(repository, FindRequest(("b.txt",), snapshots=(third.id,)))) == [b"b.txt"]


def names(result: FindResult) -> list[bytes]:
    return [version.path.rpartition(b"/")[2] for version in result.versions]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("*.txt",), [b"a.txt", b"b.txt"]),
        (("*.txt", "!a.txt"), [b"b.txt"]),
        (("e",), [b"e", b"c.bin"]),
        (("e/",), [b"e", b"c.bin"]),
        (("**/d/*.txt",), [b"b.txt"]),
        (("manifest.json",), []),
        (("nothing",), []),
    ],
)
def test_patterns(
    repository: Repository, source: Path, patterns: tuple[str, ...], expected: list[bytes]
) -> None:
    save(repository, source)
    assert names(find(repository, FindRequest(patterns))) == expected


def test_limits_of_a_search(repository: Repository, source: Path) -> None:
    os.utime(source / "a.txt", (1e9, 1e9))
    save(repository, source)
    top = os.fsencode(source)
    assert names(find(repository, FindRequest(("*.txt",), path=top + b"/d"))) == [b"b.txt"]
    moment = datetime.fromtimestamp(1e9, UTC)
    early = FindRequest(("*.txt",), modified_until=moment)
    assert names(find(repository, early)) == [b"a.txt"]
    late = FindRequest(("*.txt",), modified_from=datetime.fromtimestamp(1e9 + 1, UTC))
    assert names(find(repository, late)) == [b"b.txt"]
    with pytest.raises(UsageError):
        find(repository, FindRequest(()))


def test_trees_deeper_than_the_stack(repository: Repository) -> None:
    with Handmade(repository) as made:
        node = made.make.file(b"bottom", b"x")
        for _ in range(1500):
            node = made.make.directory(b"d", [node])
        snapshot = made.snapshot([node])
    result = find(repository, FindRequest(("bottom",)))
    assert result.versions[0].path == b"d/" * 1500 + b"bottom"
    assert len(listed(repository, snapshot, b"", recursive=True)) == 1501


# Dumping


def dumped(repository: Repository, snapshot: Snapshot, path: bytes) -> bytes:
    out = io.BytesIO()
    size = dump(repository, DumpRequest(snapshot.id, path), out)
    assert size == len(out.getvalue())
    return out.getvalue()


def test_dumping(repository: Repository, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {**FILES, "large": 30 << 20})
    snapshot = save(repository, source)
    for name in (*FILES, "large"):
        path = source / name
        assert dumped(repository, snapshot, os.fsencode(path)) == path.read_bytes()
    with pytest.raises(UsageError):
        dumped(repository, snapshot, os.fsencode(source / "d"))
    with pytest.raises(UsageError):
        dumped(repository, snapshot, b"/")


def test_damage_stops_a_dump(repository: Repository) -> None:
    with Handmade(repository) as made:
        whole = made.make.file(b"f", b"a" * 1000, b"b" * 1000)
        unknown = whole._replace(content=(whole.content[0], bytes(32)))
        snapshot = made.snapshot(
            [
                whole,
                unknown._replace(name=b"unknown"),
                whole._replace(name=b"short", size=1500),
                whole._replace(name=b"long", size=2500),
                whole._replace(name=b"dev", type=NodeType.FIFO),
            ]
        )
    assert dumped(repository, snapshot, b"f") == b"a" * 1000 + b"b" * 1000
    for name in (b"unknown", b"short", b"long"):
        out = io.BytesIO()
        with pytest.raises(Damaged):
            dump(repository, DumpRequest(snapshot.id, name), out)
        assert out.getvalue() in b"a" * 1000 + b"b" * 1000
    with pytest.raises(UsageError):
        dumped(repository, snapshot, b"dev")
