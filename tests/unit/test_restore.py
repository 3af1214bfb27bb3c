"""Restoring: what is chosen, what may be replaced or deleted, and what happens to damage."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from handmade_snapshot import Handmade
from sample_repository import fill, flip, keys_of, make, packs_holding, save
from tree_compare import assert_same_tree, describe_tree

from holdfast.errors import (
    Damaged,
    NotFound,
    PathEscapes,
    TargetFull,
    TargetNotEmpty,
    UsageError,
)
from holdfast.flows import restore_tasks
from holdfast.flows.restore import plan_restore, restore
from holdfast.flows.restore_request import RestoreRequest, RestoreResult
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import FileKind, Repository, pack_key
from holdfast.sources.path.restore_plan import Action, Overwrite, RestoreOptions
from holdfast.sources.path.selection import Selection

IN_PLACE = RestoreOptions(in_place=True)
MIRROR = RestoreOptions(in_place=True, delete_extra=True)


class Sample:
    """A directory, a snapshot of it, and an empty place to restore to."""

    def __init__(self, base: Path, files: dict[str, int | bytes]) -> None:
        self.repository = make()
        self.source = fill(base / "source", files)
        self.snapshot = save(self.repository, self.source)
        self.target = base / "target"

    def request(self, **more: object) -> RestoreRequest:
        options: dict[str, object] = {
            "snapshot": self.snapshot.id,
            "target": os.fsencode(self.target),
            "path": os.fsencode(self.source),
            "workers": 0,
        }
        return RestoreRequest(**{**options, **more})  # type: ignore[arg-type]

    def restore(self, **more: object) -> RestoreResult:
        return restore(self.repository, self.request(**more))

    def names(self) -> set[str]:
        return {str(path.relative_to(self.target)) for path in self.target.rglob("*")}


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(
        tmp_path,
        {"a.txt": 100, "empty": b"", "d/b.txt": 2000, "d/e/c.bin": 3 << 20, "d/e/x.txt": 5, "z": 1},
    )


def findings_of(result: RestoreResult, code: str) -> list[Finding]:
    return [finding for finding in result.findings if finding.code == code]


# What is restored, and where to


def test_everything_comes_back_under_its_full_path(sample: Sample) -> None:
    result = sample.restore(path=b"")
    assert_same_tree(sample.source, f"{sample.target}{sample.source}", root_entry=True)
    assert not result.findings
    assert result.counts.files == 6
    assert result.counts.bytes_written == sum(
        path.stat().st_size for path in sample.source.rglob("*") if path.is_file()
    )
    assert not (sample.target / ".holdfast").exists()


def test_a_path_inside_becomes_the_top(sample: Sample) -> None:
    sample.restore(root_metadata=True)
    assert_same_tree(sample.source, sample.target, root_entry=True)


def test_without_root_metadata_the_target_keeps_its_own(sample: Sample) -> None:
    sample.target.mkdir(mode=0o711)
    sample.restore()
    assert stat.S_IMODE(sample.target.stat().st_mode) == 0o711
    assert_same_tree(sample.source, sample.target)


def test_one_file_is_put_into_the_target(sample: Sample) -> None:
    sample.restore(path=os.fsencode(sample.source / "d/b.txt"))
    assert sample.names() == {"b.txt"}
    assert (sample.target / "b.txt").read_bytes() == (sample.source / "d/b.txt").read_bytes()


def test_chosen_paths_come_with_what_is_below_and_on_the_way(sample: Sample) -> None:
    sample.restore(paths=(b"/d/e", b"a.txt"))
    assert sample.names() == {"a.txt", "d", "d/e", "d/e/c.bin", "d/e/x.txt"}
    whole = describe_tree(sample.source)
    for path, entry in describe_tree(sample.target).items():
        assert entry == whole[path]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(exclude=("*.txt",)), {"empty", "d", "d/e", "d/e/c.bin", "z"}),
        (Selection(include=("b.txt",)), {"d", "d/b.txt"}),
        (Selection(include=("/d/e/",)), {"d", "d/e", "d/e/c.bin", "d/e/x.txt"}),
        (Selection(include=("nothing",)), set()),
        (Selection(whitelist=(r"\.bin$",)), {"d", "d/e", "d/e/c.bin"}),
        (Selection(larger_than_bytes=50, exclude=("/d",)), {"empty", "z"}),
    ],
)
def test_patterns(sample: Sample, selection: Selection, expected: set[str]) -> None:
    result = sample.restore(selection=selection)
    assert sample.names() == expected
    plan = plan_restore(
        sample.repository,
        sample.request(selection=selection, target=os.fsencode(sample.target) + b".new"),
    )
    assert plan.plan.counts[Action.CREATE] == len(expected)
    assert result.counts.files + result.counts.directories == len(expected)


def test_an_included_empty_directory_is_made_and_one_on_the_way_is_not(tmp_path: Path) -> None:
    (tmp_path / "source/keep/empty").mkdir(parents=True)
    (tmp_path / "source/other").mkdir()
    sample = Sample(tmp_path, {})
    sample.restore(selection=Selection(include=("keep/",)))
    assert sample.names() == {"keep", "keep/empty"}


def test_the_manifest_comes_only_when_asked_for(sample: Sample) -> None:
    sample.restore(path=b"", with_manifest=True)
    assert (sample.target / ".holdfast/manifest.json").read_bytes().startswith(b"{")


def test_a_directory_of_that_name_in_a_foreign_snapshot_is_restored(tmp_path: Path) -> None:
    repository = make()
    with Handmade(repository) as made:
        mine = made.make.directory(b".holdfast", [made.make.file(b"f", b"user's")])
        snapshot = made.snapshot([mine])
    restore(repository, RestoreRequest(snapshot.id, os.fsencode(tmp_path / "target"), workers=0))
    assert (tmp_path / "target/.holdfast/f").read_bytes() == b"user's"


@pytest.mark.parametrize("path", [b"/nowhere", b"/d/nothing"])
def test_unknown_paths_and_snapshots(sample: Sample, path: bytes) -> None:
    with pytest.raises(NotFound):
        sample.restore(path=os.fsencode(sample.source) + path)
    with pytest.raises(NotFound):
        sample.restore(paths=(path,))
    with pytest.raises(NotFound):
        sample.restore(snapshot="0123")
    assert not sample.target.exists()


def test_requests_that_cannot_be_meant(sample: Sample) -> None:
    with pytest.raises(UsageError):
        sample.restore(path=b"/a/../b")
    with pytest.raises(UsageError):
        sample.restore(selection=Selection(caches=True))
    with pytest.raises(UsageError):
        sample.restore(
            verify=True, options=RestoreOptions(in_place=True, overwrite=Overwrite.NEVER)
        )
    assert not sample.target.exists()


def test_a_large_directory_is_cut_into_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_tasks, "_SLICED_FROM_BYTES", 2000)
    monkeypatch.setattr(restore_tasks, "_SLICE_NODES", 7)
    # Names and attributes that look like the beginning of a node.
    hostile = '"},{"name":"x","type":"'
    files = {f"d/{number}{hostile}": number for number in range(60)}
    sample = Sample(tmp_path, dict(files))
    for name in list(files)[::3]:
        os.setxattr(sample.source / name, "user.a", b'{"name":"x"}')
    sample.snapshot = save(sample.repository, sample.source)
    seen: list[int] = []
    cut = restore_tasks._slices

    def counted(text: bytes) -> Iterator[tuple[int, int]]:
        found = list(cut(text))
        seen.append(len(found))
        return iter(found)

    monkeypatch.setattr(restore_tasks, "_slices", counted)
    result = sample.restore()
    assert max(seen) == 9
    assert_same_tree(sample.source, sample.target)
    assert result.counts.files == 60


def test_empty_snapshot(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    sample = Sample(tmp_path, {})
    result = sample.restore()
    assert result.counts.files == 0
    assert sample.target.is_dir()
    assert not result.findings


def test_a_directory_that_went_as_another_came_is_gone(tmp_path: Path) -> None:
    sample = Sample(tmp_path, {"d/file": 1, "d/old/x": 1})
    (sample.source / "d/old/x").unlink()
    (sample.source / "d/old").rmdir()
    fill(sample.source, {"d/new/y": 1})
    sample.snapshot = save(sample.repository, sample.source)
    sample.restore()
    assert_same_tree(sample.source, sample.target)


# What is there already


def test_a_target_with_entries_is_refused(sample: Sample) -> None:
    fill(sample.target, {"mine": b"1"})
    before = describe_tree(sample.target)
    with pytest.raises(TargetNotEmpty):
        sample.restore()
    with pytest.raises(TargetNotEmpty):
        plan_restore(sample.repository, sample.request())
    assert describe_tree(sample.target) == before


def test_a_second_restore_in_place_leaves_everything(sample: Sample) -> None:
    sample.restore()
    before = {path: path.stat().st_ino for path in sample.target.rglob("*")}
    result = sample.restore(options=IN_PLACE)
    assert {path: path.stat().st_ino for path in sample.target.rglob("*")} == before
    assert result.counts.left == 6
    assert result.counts.files == 0


def test_in_place_mends_what_differs_and_keeps_what_is_extra(sample: Sample) -> None:
    sample.restore()
    (sample.target / "a.txt").write_bytes(b"changed")
    (sample.target / "z").chmod(0o600)
    (sample.target / "d/b.txt").unlink()
    fill(sample.target, {"extra": b"1", "d/extra": b"2"})
    planned = plan_restore(sample.repository, sample.request(options=IN_PLACE))
    assert [path for path, _ in planned.plan.overwritten] == [b"a.txt"]
    assert planned.plan.counts[Action.CREATE] == 1
    assert planned.plan.deletions == ()
    result = sample.restore(options=IN_PLACE)
    assert (result.counts.files, result.counts.updated, result.counts.left) == (2, 1, 3)
    assert (sample.target / "extra").exists()
    (sample.target / "extra").unlink()
    (sample.target / "d/extra").unlink()
    assert_same_tree(sample.source, sample.target, ignore={"mtime_ns"})


def test_content_is_compared_when_asked(sample: Sample) -> None:
    sample.restore()
    path = sample.target / "d/e/c.bin"
    st = path.stat()
    with path.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"different")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    assert sample.restore(options=IN_PLACE).counts.files == 0
    assert sample.restore(options=IN_PLACE, compare_content=True).counts.files == 1
    assert_same_tree(sample.source, sample.target)


def test_nothing_is_overwritten_when_never(sample: Sample) -> None:
    fill(sample.target, {"a.txt": b"mine"})
    result = sample.restore(options=RestoreOptions(in_place=True, overwrite=Overwrite.NEVER))
    assert (sample.target / "a.txt").read_bytes() == b"mine"
    assert result.counts.left == 1
    assert (sample.target / "d/b.txt").exists()


def test_extra_entries_are_deleted_as_planned(sample: Sample) -> None:
    sample.restore()
    fill(sample.target, {"extra/deep/f": b"1", "d/extra": b"2"})
    before = describe_tree(sample.target)
    planned = plan_restore(sample.repository, sample.request(options=MIRROR))
    assert [d.path for d in planned.plan.deletions] == [
        b"extra/deep/f",
        b"extra/deep",
        b"extra",
        b"d/extra",
    ]
    assert describe_tree(sample.target) == before
    fill(sample.target, {"later": b"not in the plan that somebody agreed to"})
    result = restore(sample.repository, sample.request(options=MIRROR), plan=planned)
    assert result.deleted == 4
    assert (sample.target / "later").exists()
    assert sample.restore(options=MIRROR).deleted == 1
    assert_same_tree(sample.source, sample.target)


def test_what_is_out_of_scope_is_not_deleted(sample: Sample) -> None:
    fill(sample.target, {"mine.txt": b"1", "mine.log": b"2", "d/mine.txt": b"3", "e/x.txt": b"4"})
    sample.restore(options=MIRROR, selection=Selection(include=("/d/*.txt",)))
    assert sample.names() == {"mine.txt", "mine.log", "d", "d/b.txt", "e", "e/x.txt"}


def test_a_directory_in_the_way_goes_only_when_deleting_is_allowed(sample: Sample) -> None:
    fill(sample.target, {"a.txt/inside": b"1"})
    kept = sample.restore(options=IN_PLACE)
    assert (sample.target / "a.txt/inside").exists()
    assert [finding.subject for finding in findings_of(kept, "type_conflict")] == ["a.txt"]
    sample.restore(options=MIRROR)
    assert_same_tree(sample.source, sample.target)


def test_a_plan_for_another_snapshot_is_refused(sample: Sample) -> None:
    planned = plan_restore(sample.repository, sample.request())
    fill(sample.source, {"new": 1})
    other = save(sample.repository, sample.source)
    with pytest.raises(UsageError):
        restore(sample.repository, sample.request(snapshot=other.id), plan=planned)


def test_a_dry_run_changes_nothing(sample: Sample) -> None:
    result = sample.restore(dry_run=True)
    assert result.plan is not None
    assert result.plan.plan.counts[Action.CREATE] == 8
    assert not sample.target.exists()
    fill(sample.target, {"extra": b"1", "a.txt": b"2"})
    before = describe_tree(sample.target, root_entry=True)
    sample.restore(dry_run=True, options=MIRROR)
    assert describe_tree(sample.target, root_entry=True) == before


# Room


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    repository = make()
    with Handmade(repository) as made:
        snapshot = made.snapshot([made.make.file(b"f", b"x", size=1 << 60)])
    request = RestoreRequest(snapshot.id, os.fsencode(tmp_path / "target"), workers=0)
    with pytest.raises(TargetFull):
        restore(repository, request)
    assert list((tmp_path / "target").iterdir()) == []
    planned = plan_restore(repository, request)
    assert not planned.fits
    assert planned.plan.needed_bytes == 1 << 60


def test_holes_need_no_room(tmp_path: Path) -> None:
    repository = make()
    with Handmade(repository) as made:
        hole, data = bytes(1 << 20), b"x" * 1000
        file = made.make.file(b"f", hole, data)
        ids = (file.content[0],) * (1 << 19) + file.content[1:]
        snapshot = made.snapshot([file._replace(content=ids, size=(1 << 39) + 1000)])
    request = RestoreRequest(snapshot.id, os.fsencode(tmp_path / "target"), workers=0)
    planned = plan_restore(repository, request)
    assert planned.plan.needed_bytes == 1000
    assert planned.fits
    whole = plan_restore(repository, replace(request, sparse=False))
    assert whole.plan.needed_bytes == (1 << 39) + 1000


# Damage


def data_packs(repository: Repository) -> list[str]:
    return [pack_key(pack) for pack in packs_holding(repository, BlobType.DATA)]


def test_damage_is_named_and_zero(tmp_path: Path) -> None:
    sample = Sample(tmp_path, {"good": 100, "large": 20 << 20, "small": 5000, "two": 700_000})
    index = sample.repository.open_index()
    for name in ("small", "large"):
        ids = content_of(sample, name)
        location = index.find(BlobType.DATA, ids[len(ids) // 2])
        assert location is not None
        flip(sample.repository.store, pack_key(location.pack), location.offset + 40)
    result = sample.restore()
    damaged = findings_of(result, "file_damaged")
    assert sorted(finding.subject for finding in damaged) == ["large", "small"]
    assert (sample.target / "small").read_bytes() == bytes(5000)
    for name in ("good", "two"):
        assert (sample.target / name).read_bytes() == (sample.source / name).read_bytes()
    was, now = (sample.source / "large").read_bytes(), (sample.target / "large").read_bytes()
    assert len(was) == len(now)
    ids = content_of(sample, "large")
    at = 0
    for number, blob_id in enumerate(ids):
        found = index.find(BlobType.DATA, blob_id)
        assert found is not None
        end = at + found.raw_length
        broken = number == len(ids) // 2
        assert now[at:end] == (bytes(found.raw_length) if broken else was[at:end])
        at = end


def content_of(sample: Sample, name: str) -> tuple[bytes, ...]:
    from holdfast.flows.locate import Trees, locate
    from holdfast.repo.reader import BlobReader

    reader = BlobReader(sample.repository, sample.repository.open_index())
    place = locate(Trees(reader), sample.snapshot, os.fsencode(sample.source / name))
    assert place.node is not None
    return place.node.content


def test_strict_makes_damage_an_error(sample: Sample) -> None:
    for key in data_packs(sample.repository):
        flip(sample.repository.store, key, 50)
    with pytest.raises(Damaged):
        sample.restore(strict=True)


def test_a_missing_pack_names_every_file(sample: Sample) -> None:
    for key in data_packs(sample.repository):
        sample.repository.store.delete(key)
    result = sample.restore()
    assert {finding.subject for finding in findings_of(result, "file_damaged")} == {
        "a.txt",
        "d/b.txt",
        "d/e/c.bin",
        "d/e/x.txt",
        "z",
    }
    assert (sample.target / "d/e/c.bin").read_bytes() == bytes(3 << 20)


def test_another_copy_is_used(sample: Sample) -> None:
    keys = data_packs(sample.repository)
    # A second writer that could not see the first one's index stores everything again.
    listed = {key: sample.repository.store.read(key) for key in keys_of_index(sample)}
    for key in listed:
        sample.repository.store.delete(key)
    save(sample.repository, sample.source, parent=None)
    for key, content in listed.items():
        sample.repository.store.create(key, content)
    for key in keys:
        sample.repository.store.delete(key)
    result = sample.restore()
    assert not result.findings
    assert_same_tree(sample.source, sample.target)


def keys_of_index(sample: Sample) -> list[str]:
    return list(keys_of(sample.repository.store, FileKind.INDEX))


def test_blobs_in_no_index_leave_the_rest_in_its_place(tmp_path: Path) -> None:
    repository = make()
    unknown = bytes(range(32))
    with Handmade(repository) as made:
        make_file = made.make.file
        chunks = [b"a" * 1000, b"b" * 2000, b"c" * 3000, b"d" * 500]
        whole = make_file(b"f", *chunks)
        one, _, three, four = whole.content
        snapshot = made.snapshot(
            [
                whole._replace(name=b"middle", content=(one, unknown, three, four)),
                whole._replace(name=b"two", content=(one, unknown, unknown, four)),
                whole._replace(name=b"between", content=(one, unknown, three, unknown)),
                whole._replace(name=b"short", size=6600),
                whole._replace(name=b"only", content=(unknown,), size=70_000),
                whole._replace(name=b"large", content=(one, unknown, four), size=9 << 20),
            ]
        )
    target = tmp_path / "target"
    result = restore(repository, RestoreRequest(snapshot.id, os.fsencode(target), workers=0))
    read = {path.name: path.read_bytes() for path in target.iterdir()}
    a, b, c, d = chunks
    assert read["middle"] == a + bytes(2000) + c + d
    assert read["two"] == a + bytes(5000) + d
    assert read["between"] == a + bytes(5500)
    assert read["short"] == a + b + c + d + bytes(100)
    assert read["only"] == bytes(70_000)
    assert read["large"] == a + bytes((9 << 20) - 1500) + d
    assert {f.subject for f in findings_of(result, "file_damaged")} == set(read)


def test_a_damaged_directory_is_a_finding_and_the_rest_comes_back(sample: Sample) -> None:
    from holdfast.flows.locate import Trees, locate
    from holdfast.repo.reader import BlobReader

    index = sample.repository.open_index()
    trees = Trees(BlobReader(sample.repository, index))
    place = locate(trees, sample.snapshot, os.fsencode(sample.source / "d/e"))
    assert place.tree is not None
    location = index.find(BlobType.TREE, place.tree)
    assert location is not None
    flip(sample.repository.store, pack_key(location.pack), location.offset + 20)
    result = sample.restore()
    assert [f.subject for f in findings_of(result, "directory_damaged")] == ["d/e"]
    assert sample.names() == {"a.txt", "empty", "d", "d/b.txt", "d/e", "z"}
    with pytest.raises(Damaged):
        sample.restore(strict=True, target=os.fsencode(sample.target) + b"2")


def test_verify_reads_back(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sample.restore(verify=True)
    assert result.counts.verified == 6
    assert not result.findings

    def spoil(progress: Progress) -> None:
        path = sample.target / "d/b.txt"
        if progress.step == "restore" and path.exists():
            path.write_bytes(b"?" * 2000)

    sample.target = sample.target.with_name("second")
    monkeypatch.setattr("holdfast.flows.restore._REPORT_SECONDS", 0.0)
    spoiled = restore(sample.repository, sample.request(verify=True), spoil)
    assert [f.subject for f in findings_of(spoiled, "verify_failed")] == ["d/b.txt"]


# Interruption


def test_an_interruption_leaves_whole_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Sample(tmp_path, {**{f"f{n}": 3000 for n in range(5)}, "large": 30 << 20})
    monkeypatch.setattr("holdfast.flows.restore._REPORT_SECONDS", 0.0)

    def interrupt(progress: Progress) -> None:
        if progress.bytes_done > 8 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(sample.repository, sample.request(), interrupt)
    assert sample.names() == {f"f{n}" for n in range(5)}
    result = sample.restore(options=IN_PLACE)
    assert result.counts.left == 5
    assert_same_tree(sample.source, sample.target)


# Hard links, and snapshots that nobody honest wrote


def test_hard_links_of_all_kinds(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"d/a": 100, "d/big": 9 << 20, "empty": b""})
    (source / "e").mkdir()
    os.link(source / "d/a", source / "e/a")
    os.link(source / "d/a", source / "a")
    os.link(source / "d/big", source / "big")
    os.link(source / "empty", source / "e/empty")
    (source / "l").symlink_to("nowhere")
    os.link(source / "l", source / "e/l", follow_symlinks=False)
    sample = Sample(tmp_path, {})
    result = sample.restore()
    assert_same_tree(sample.source, sample.target)
    assert result.counts.links == 5
    assert sample.restore(options=IN_PLACE, paths=(b"e",)).counts.left == 3


def test_names_of_one_inode_with_other_content_are_two_files(tmp_path: Path) -> None:
    repository = make()
    with Handmade(repository) as made:
        one = made.make.file(b"a", b"first", links=2)
        snapshot = made.snapshot([one, made.make.file(b"b", b"other", links=2)])
    target = tmp_path / "target"
    restore(repository, RestoreRequest(snapshot.id, os.fsencode(target), workers=0))
    assert [(target / name).read_bytes() for name in "ab"] == [b"first", b"other"]


def test_when_the_first_name_cannot_be_made_the_next_one_is(tmp_path: Path) -> None:
    target = fill(tmp_path / "target", {"a/in/the/way": b"1"})
    repository = make()
    with Handmade(repository) as made:
        first = made.make.file(b"a", b"content", links=3)
        snapshot = made.snapshot([first, first._replace(name=b"b"), first._replace(name=b"c")])
    request = RestoreRequest(snapshot.id, os.fsencode(target), options=IN_PLACE, workers=0)
    result = restore(repository, request)
    assert (target / "b").read_bytes() == b"content"
    assert (target / "b").stat().st_ino == (target / "c").stat().st_ino
    assert (target / "a").is_dir()
    assert [f.subject for f in findings_of(result, "type_conflict")] == ["a"]


@pytest.mark.parametrize("name", [b"..", b".", b"../x", b"a/b", b"/etc/x", b""])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_names_that_lead_out_stop_the_restore(tmp_path: Path, name: bytes, kind: str) -> None:
    repository = make()
    with Handmade(repository) as made:
        inner = [made.make.file(b"f", b"evil")]
        node = {
            "file": made.make.file(name, b"evil"),
            "directory": made.make.directory(name, inner),
            "link": made.make.link(name, b"/tmp"),
        }[kind]
        snapshot = made.snapshot([made.make.directory(b"d", [node])])
    target = tmp_path / "deep/target"
    with pytest.raises(PathEscapes):
        restore(repository, RestoreRequest(snapshot.id, os.fsencode(target), workers=0))
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} <= {
        "deep",
        "deep/target",
        "deep/target/d",
    }


def test_nothing_is_written_through_a_link_of_the_snapshot(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    repository = make()
    with Handmade(repository) as made:
        make_link, make_directory = made.make.link, made.make.directory
        snapshot = made.snapshot(
            [
                make_link(b"d", os.fsencode(outside)),
                make_directory(b"d", [made.make.file(b"f", b"evil")]),
                make_directory(b"e", [made.make.file(b"g", b"good")]),
            ]
        )
    target = tmp_path / "target"
    result = restore(repository, RestoreRequest(snapshot.id, os.fsencode(target), workers=0))
    assert list(outside.iterdir()) == []
    assert (target / "e/g").read_bytes() == b"good"
    assert result.findings
    assert result.counts.failed == 1
