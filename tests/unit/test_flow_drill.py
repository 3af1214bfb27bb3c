"""S5: a drill restores, reads back, compares, and finds whatever did not come back as it was.

What goes wrong between the writing and the reading is done in the callback that every caller
of a drill has: when it is told that comparing begins.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade_snapshot import Handmade
from sample_repository import CHEAP, PASSWORD, fill, flip, make, packs_holding, save

from holdfast.errors import NotFound, PathEscapes, TargetFull
from holdfast.flows import drill_content
from holdfast.flows.drill import DrillRequest, DrillResult, drill
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.model.progress import Progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository, pack_key
from holdfast.store.local import LocalStore

NOBODY = 65534
FILES: dict[str, int | bytes] = {
    "a.txt": 100,
    "empty": b"",
    "d/b.txt": 2000,
    "d/e/large": 1 << 20,
    "d/e/x.txt": 5,
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners can be set by root only")


class Sample:
    """A directory, a snapshot of it, and a scratch to drill in."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.repository = make()
        self.source = fill(base / "source", FILES)
        self.scratch = base / "scratch"
        self.scratch.mkdir(mode=0o700)
        self.snapshot: Snapshot | None = None
        self.stages: list[str] = []

    @property
    def restored(self) -> Path:
        return self.scratch / "restored"

    def drill(self, spoil: Callable[[], object] = lambda: None, **more: object) -> DrillResult:
        """Back up (once) and drill; `spoil` is called when comparing begins."""
        self.snapshot = self.snapshot or save(self.repository, self.source)
        options: dict[str, object] = {
            "snapshot": self.snapshot.id,
            "scratch": os.fsencode(self.scratch),
            "path": os.fsencode(self.source),
            "workers": 0,
        }

        def report(progress: Progress) -> None:
            if progress.step == "comparing" and "comparing" not in self.stages:
                spoil()
            self.stages.append(progress.step)

        return drill(self.repository, DrillRequest(**{**options, **more}), report)  # type: ignore[arg-type]


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


def faults(result: DrillResult) -> set[tuple[str, str]]:
    return {(finding.code, finding.subject) for finding in result.findings}


def only(result: DrillResult, code: str) -> Finding:
    """The one finding of a drill that did not pass."""
    assert not result.passed
    (finding,) = result.findings
    assert finding.code == code, finding
    return finding


def drill_of(repository: Repository, snapshot: Snapshot, base: Path) -> DrillResult:
    """A drill of a snapshot that was written by hand."""
    scratch = base / "scratch"
    scratch.mkdir()
    return drill(repository, DrillRequest(snapshot.id, os.fsencode(scratch), workers=0))


# What comes back as it was


def test_everything_comes_back(sample: Sample) -> None:
    result = sample.drill()
    assert result.passed
    assert result.findings == ()
    size = sum(len(v) if isinstance(v, bytes) else v for v in FILES.values())
    assert (result.files, result.directories) == (5, 2)
    assert result.restored_bytes == result.compared_bytes == size
    assert 0 < result.restore_seconds <= result.seconds
    assert list(dict.fromkeys(sample.stages)) == ["preparing", "restoring", "comparing"]


@pytest.mark.parametrize("workers", [1, 3])
def test_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Many files, and a large one that several threads read at the same time."""
    monkeypatch.setattr(drill_content, "_RUN_BYTES", 2 << 20)
    sample = Sample(tmp_path)
    fill(sample.source, {f"many/{number}": 3000 + number for number in range(40)})
    fill(sample.source, {"huge": 9 << 20})
    store = LocalStore(str(tmp_path / "repository"))
    sample.repository = Repository.create(store, PASSWORD, scrypt=CHEAP)
    result = sample.drill(workers=workers)
    assert result.passed
    assert result.findings == ()
    assert result.compared_bytes == result.restored_bytes > 10 << 20


def test_a_fault_of_a_large_file_is_told_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_content, "_RUN_BYTES", 1)
    fill(sample.source, {"huge": 5 << 20})

    def spoil() -> None:
        path = sample.restored / "huge"
        times = path.stat()
        path.write_bytes(bytes(5 << 20))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert only(sample.drill(spoil, workers=2), "drill_content").subject == "huge"


def test_every_kind_of_entry(sample: Sample) -> None:
    """Sparse files, hard links, fifos, links, attributes, odd names, odd times and modes."""
    source = sample.source
    with (source / "sparse").open("wb") as file:
        file.truncate(40 << 20)
        file.seek(20 << 20)
        file.write(b"in the middle")
    os.link(source / "a.txt", source / "d/another name")
    os.link(source / "d/e/large", source / "d/large too")
    (source / "link").symlink_to("nowhere")
    os.link(source / "link", source / "d/link too", follow_symlinks=False)
    os.mkfifo(source / "fifo", 0o620)
    for name in (b"new\nline", b"\xff\xfe", b"n" * 255, b" ", b"-rf"):
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_bytes(name)
    os.setxattr(source / "a.txt", "user.colour", b"blue")
    os.setxattr(source / "d", "user.colour", b"red")
    (source / "empty").chmod(0o4711)
    (source / "d/e").chmod(0o2750)
    (source / "closed").mkdir()
    (source / "closed/in").write_text("in")
    (source / "closed").chmod(0)
    os.utime(source / "d/b.txt", ns=(1, -5_000_000_001))
    result = sample.drill()
    assert result.findings == ()
    assert result.passed
    assert result.files == 5 + 1 + 2 + 5 + 1
    assert result.compared_bytes >= 41 << 20


def test_a_whole_snapshot_from_its_top(sample: Sample) -> None:
    result = sample.drill(path=b"")
    assert result.passed
    assert result.findings == ()
    assert not (sample.restored / ".holdfast").exists()
    assert result.files == 5


def test_parts_of_a_snapshot(sample: Sample) -> None:
    result = sample.drill(paths=(b"d/e", b"/a.txt"))
    assert result.passed
    assert result.findings == ()
    assert (result.files, result.directories) == (3, 2)
    names = {str(path.relative_to(sample.restored)) for path in sample.restored.rglob("*")}
    assert names == {"a.txt", "d", "d/e", "d/e/large", "d/e/x.txt"}


def test_one_file(sample: Sample) -> None:
    result = sample.drill(path=os.fsencode(sample.source / "d/b.txt"))
    assert result.passed
    assert (result.files, result.compared_bytes) == (1, 2000)


def test_a_path_that_is_not_there(sample: Sample) -> None:
    with pytest.raises(NotFound):
        sample.drill(paths=(b"nothing",))
    assert os.listdir(sample.scratch) == []


def test_an_empty_snapshot(tmp_path: Path) -> None:
    repository = make()
    with Handmade(repository) as made:
        snapshot = made.snapshot([])
    result = drill_of(repository, snapshot, tmp_path)
    assert (result.passed, result.files, result.findings) == (True, 0, ())


def test_a_socket_is_not_missed(tmp_path: Path) -> None:
    """Another program may have stored one; nobody can bring it back."""
    repository = make()
    with Handmade(repository) as made:
        snapshot = made.snapshot([Node(b"s", NodeType.SOCKET, 0o600, 7, 7)])
    result = drill_of(repository, snapshot, tmp_path)
    assert result.passed
    assert faults(result) == {("socket_skipped", "s")}


def test_names_of_one_file_that_were_captured_at_different_moments(tmp_path: Path) -> None:
    """Its mode was changed in between; whichever name is made first, nothing was done wrong."""
    repository = make()
    with Handmade(repository) as made:
        one = made.make.file(b"a", b"content", links=2)
        snapshot = made.snapshot([one, one._replace(name=b"b", mode=0o600)])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    request = DrillRequest(snapshot.id, os.fsencode(scratch), workers=0)

    def second_first(progress: Progress) -> None:
        if progress.step == "comparing" and not progress.files_done:
            (scratch / "restored/a").chmod(0o600)

    assert drill(repository, request, second_first).passed


# What did not


def test_a_flipped_byte(sample: Sample) -> None:
    def spoil() -> None:
        path = sample.restored / "d/e/large"
        times = path.stat()
        with path.open("r+b") as file:
            file.seek(500_000)
            byte = file.read(1)
            file.seek(500_000)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    finding = only(sample.drill(spoil), "drill_content")
    assert finding.subject == "d/e/large"
    assert "read back" in finding.message


@pytest.mark.parametrize("what", ["a hole for data", "data for a hole", "short", "long"])
def test_holes_and_ends_are_compared_too(sample: Sample, what: str) -> None:
    """Holes are told by the file system and not read, so that has to be right."""
    with (sample.source / "sparse").open("wb") as file:
        file.truncate(12 << 20)
        file.seek(5 << 20)
        file.write(b"in the middle")

    def spoil() -> None:
        path = sample.restored / "sparse"
        times = path.stat()
        with path.open("r+b") as file:
            if what == "a hole for data":
                file.truncate(0)
                file.truncate(12 << 20)
            elif what == "data for a hole":
                file.seek(9 << 20)
                file.write(b"!")
            else:
                file.truncate((12 << 20) + (1 if what == "long" else -1))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert only(sample.drill(spoil), "drill_content").subject == "sparse"


def test_it_is_the_disk_that_is_read(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel remembers of a file is dropped, after all of it was written out."""
    calls: list[str] = []
    advise = os.posix_fadvise

    def noted(fd: int, offset: int, length: int, advice: int) -> None:
        calls.append(f"{sample.stages[-1]} {advice}")
        advise(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", noted)
    sample.drill()
    assert calls.count(f"comparing {os.POSIX_FADV_DONTNEED}") == 5


def spoil_bytes(restored: Path) -> None:
    path = restored / "a.txt"
    times = path.stat()
    path.write_bytes(path.read_bytes() + b"!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def keeping_time(path: Path, act: Callable[[], object]) -> None:
    times = path.stat()
    act()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def make_it_another_kind(restored: Path) -> None:
    def act() -> None:
        (restored / "empty").unlink()
        (restored / "empty").symlink_to("a.txt")

    keeping_time(restored, act)


def link_it_to_another(restored: Path) -> None:
    def act() -> None:
        (restored / "d/link").unlink()
        (restored / "d/link").symlink_to("elsewhere")
        os.utime(restored / "d/link", ns=(7, 7), follow_symlinks=False)

    keeping_time(restored / "d", act)


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, str]]] = {
    "size": (spoil_bytes, ("drill_content", "a.txt")),
    "mode": (lambda top: (top / "a.txt").chmod(0o666), ("drill_metadata", "a.txt")),
    "mode of a directory": (lambda top: (top / "d").chmod(0o777), ("drill_metadata", "d")),
    "time": (lambda top: os.utime(top / "d/e", ns=(1, 1)), ("drill_metadata", "d/e")),
    "mode of the top": (lambda top: top.chmod(0o777), ("drill_metadata", "")),
    "attribute": (
        lambda top: os.setxattr(top / "a.txt", "user.colour", b"red"),
        ("drill_metadata", "a.txt"),
    ),
    "attribute lost": (
        lambda top: os.removexattr(top / "a.txt", "user.colour"),
        ("drill_metadata", "a.txt"),
    ),
    "attribute new": (
        lambda top: os.setxattr(top / "d/b.txt", "user.colour", b"red"),
        ("drill_metadata", "d/b.txt"),
    ),
    "missing": (
        lambda top: keeping_time(top / "d", (top / "d/b.txt").unlink),
        ("drill_missing", "d/b.txt"),
    ),
    "extra": (
        lambda top: keeping_time(top / "d", (top / "d/more").mkdir),
        ("drill_extra", "d/more"),
    ),
    "kind": (make_it_another_kind, ("drill_metadata", "empty")),
    "link target": (link_it_to_another, ("drill_metadata", "d/link")),
}


@pytest.mark.parametrize(("spoil", "expected"), SPOILT.values(), ids=SPOILT)
def test_what_is_not_as_it_was_is_found(
    sample: Sample, spoil: Callable[[Path], object], expected: tuple[str, str]
) -> None:
    os.setxattr(sample.source / "a.txt", "user.colour", b"blue")
    (sample.source / "d/link").symlink_to("nowhere")
    os.utime(sample.source / "d/link", ns=(7, 7), follow_symlinks=False)
    result = sample.drill(lambda: spoil(sample.restored))
    assert not result.passed
    assert faults(result) == {expected}


@needs_root
def test_another_owner_is_found(sample: Sample) -> None:
    os.chown(sample.source / "a.txt", 1000, 1001)
    result = sample.drill(lambda: os.chown(sample.restored / "a.txt", 1000, 0))
    assert "1000:0" in only(result, "drill_metadata").message


@needs_root
def test_another_device_is_found(sample: Sample) -> None:
    os.mknod(sample.source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def spoil() -> None:
        path = sample.restored / "null"
        times = path.stat()

        def act() -> None:
            path.unlink()
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            path.chmod(stat.S_IMODE(times.st_mode))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

        keeping_time(sample.restored, act)

    assert only(sample.drill(spoil), "drill_metadata").subject == "null"


def test_names_that_are_not_one_file_any_more(sample: Sample) -> None:
    os.link(sample.source / "a.txt", sample.source / "b.txt")

    def spoil() -> None:
        path = sample.restored / "b.txt"
        content, times = path.read_bytes(), path.stat()

        def act() -> None:
            path.unlink()
            path.write_bytes(content)
            path.chmod(stat.S_IMODE(times.st_mode))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

        keeping_time(sample.restored, act)

    finding = only(sample.drill(spoil), "drill_metadata")
    assert finding.subject == "b.txt"
    assert "another name" in finding.message


def test_files_that_came_back_as_one(sample: Sample) -> None:
    fill(sample.source, {"one": b"same", "two": b"same"})
    for name in ("one", "two"):
        os.utime(sample.source / name, ns=(7, 7))

    def spoil() -> None:
        def act() -> None:
            (sample.restored / "two").unlink()
            os.link(sample.restored / "one", sample.restored / "two")

        keeping_time(sample.restored, act)

    assert only(sample.drill(spoil), "drill_metadata").subject == "two"


def test_the_further_name_is_read_where_the_first_is_missing(sample: Sample) -> None:
    os.link(sample.source / "a.txt", sample.source / "b.txt")

    def spoil() -> None:
        def act() -> None:
            times = (sample.restored / "b.txt").stat()
            (sample.restored / "a.txt").unlink()
            (sample.restored / "b.txt").write_bytes(bytes(100))
            os.utime(sample.restored / "b.txt", ns=(times.st_atime_ns, times.st_mtime_ns))

        keeping_time(sample.restored, act)

    result = sample.drill(spoil)
    assert faults(result) == {("drill_missing", "a.txt"), ("drill_content", "b.txt")}


def test_a_link_in_place_of_a_directory_is_not_followed(sample: Sample) -> None:
    elsewhere = fill(sample.base / "elsewhere", {"e/x.txt": b"mine"})

    def spoil() -> None:
        def act() -> None:
            (sample.restored / "d").rename(sample.scratch / "moved")
            (sample.restored / "d").symlink_to(elsewhere)

        keeping_time(sample.restored, act)

    assert only(sample.drill(spoil), "drill_metadata").subject == "d"
    assert (elsewhere / "e/x.txt").read_bytes() == b"mine"


# Damage in the repository


def test_damage_is_found_and_the_drill_goes_on(sample: Sample) -> None:
    sample.snapshot = save(sample.repository, sample.source)
    index = sample.repository.open_index()
    data = (sample.source / "d/b.txt").read_bytes()
    location = index.find(BlobType.DATA, hashlib.sha256(data).digest())
    assert location is not None
    flip(sample.repository.store, pack_key(location.pack), location.offset + 40)
    result = sample.drill()
    assert only(result, "file_damaged").subject == "d/b.txt"
    assert result.files == 5
    assert result.compared_bytes == result.restored_bytes - 2000


def test_packs_that_are_gone(sample: Sample) -> None:
    sample.snapshot = save(sample.repository, sample.source)
    for pack in packs_holding(sample.repository, BlobType.DATA):
        sample.repository.store.delete(pack_key(pack))
    result = sample.drill()
    assert not result.passed
    assert {code for code, _ in faults(result)} == {"file_damaged"}
    assert len(result.findings) == 4


def test_blobs_in_no_index(tmp_path: Path) -> None:
    repository = make()
    with Handmade(repository) as made:
        whole = made.make.file(b"f", b"a" * 1000)
        short = whole._replace(name=b"short", size=900)
        snapshot = made.snapshot([whole._replace(content=(bytes(32),)), short])
    result = drill_of(repository, snapshot, tmp_path)
    assert not result.passed
    assert faults(result) == {("file_damaged", "f"), ("file_damaged", "short")}


def test_a_directory_that_is_lost(sample: Sample) -> None:
    from holdfast.flows.locate import Trees, locate
    from holdfast.repo.reader import BlobReader

    sample.snapshot = save(sample.repository, sample.source)
    index = sample.repository.open_index()
    trees = Trees(BlobReader(sample.repository, index))
    tree = locate(trees, sample.snapshot, os.fsencode(sample.source / "d/e")).tree
    assert tree is not None
    location = index.find(BlobType.TREE, tree)
    assert location is not None
    flip(sample.repository.store, pack_key(location.pack), location.offset + 20)
    result = sample.drill()
    assert only(result, "directory_damaged").subject == "d/e"
    assert result.files == 3


@pytest.mark.parametrize("name", [b"..", b"../x", b"/etc/x"])
def test_a_snapshot_that_would_lead_out_of_the_scratch(tmp_path: Path, name: bytes) -> None:
    repository = make()
    with Handmade(repository) as made:
        evil = made.make.file(name, b"evil")
        snapshot = made.snapshot([made.make.directory(b"d", [evil])])
    scratch = tmp_path / "deep/scratch"
    scratch.mkdir(parents=True)
    with pytest.raises(PathEscapes):
        drill(repository, DrillRequest(snapshot.id, os.fsencode(scratch), workers=0))
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "deep", scratch]


def test_a_link_in_the_snapshot_leads_nowhere(tmp_path: Path) -> None:
    """A directory of the same name as a link: neither written through nor read through."""
    outside = fill(tmp_path / "outside", {"f": b"theirs"})
    repository = make()
    with Handmade(repository) as made:
        link = made.make.link(b"x", os.fsencode(outside))
        inner = made.make.directory(b"x", [made.make.file(b"f", b"evil")])
        snapshot = made.snapshot([link, inner])
    result = drill_of(repository, snapshot, tmp_path)
    assert not result.passed
    assert (outside / "f").read_bytes() == b"theirs"


# Room


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "holdfast", str(sample.scratch)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        with pytest.raises(TargetFull, match=r"65536 bytes free and [0-9]+ are needed"):
            sample.drill()
        assert os.listdir(sample.scratch) == []
        assert sample.drill(paths=(b"a.txt", b"d/e/x.txt")).passed
    finally:
        subprocess.run(["umount", str(sample.scratch)], check=True)


# What a host cannot do


def as_nobody(act: Callable[[], None]) -> None:
    """Run in a child without any rights; its failure is the test's failure."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def open_up(path: Path) -> None:
    """Let everybody reach a directory of this test."""
    for parent in [path, *path.parents][:-1]:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    path.chmod(0o777)


def foreign(sample: Sample) -> None:
    """Give the source what only root can bring back."""
    source = sample.source
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(source / "a.txt", "trusted.secret", b"root's")
    os.setxattr(source / "d/b.txt", "user.colour", b"blue")
    os.link(source / "a.txt", source / "d/a too")
    (source / "a.txt").chmod(0o4000)
    (source / "d/b.txt").chmod(0)
    (source / "closed").mkdir()
    (source / "closed/in").write_bytes(b"in")
    (source / "closed").chmod(0)


@needs_root
def test_what_only_root_can_bring_back_comes_back_for_root(sample: Sample) -> None:
    foreign(sample)
    result = sample.drill()
    assert result.findings == ()
    assert result.passed


@needs_root
def test_what_nobody_cannot_bring_back_does_not_fail_the_drill(sample: Sample) -> None:
    foreign(sample)
    sample.snapshot = save(sample.repository, sample.source)
    open_up(sample.base)
    sample.scratch.chmod(0o777)

    def act() -> None:
        result = sample.drill()
        assert result.passed, result.findings
        codes = {finding.code for finding in result.findings}
        assert codes == {
            *("drill_not_compared", "owner_not_restored", "setid_not_restored"),
            *("xattr_not_restored", "entry_not_restored"),
        }
        aspects = {
            finding.message.partition(":")[0]
            for finding in result.findings
            if finding.code == "drill_not_compared"
        }
        assert aspects == {"owner", "set-id bits", "attributes", "entries of kind chardev"}
        assert result.files == 5 + 1 + 1
        assert result.compared_bytes == result.restored_bytes

    as_nobody(act)


@needs_root
@pytest.mark.parametrize("what", ["content", "mode", "attribute", "time"])
def test_what_nobody_can_bring_back_has_to_be_right(sample: Sample, what: str) -> None:
    foreign(sample)
    sample.snapshot = save(sample.repository, sample.source)
    open_up(sample.base)
    sample.scratch.chmod(0o777)
    path = sample.restored / "d/b.txt"

    def spoil() -> None:
        if what == "mode":
            path.chmod(0o640)
            return
        times = path.stat()
        path.chmod(0o600)
        if what == "content":
            path.write_bytes(bytes(2000))
        elif what == "attribute":
            os.setxattr(path, "user.colour", b"red")
        if what != "time":
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        else:
            os.utime(path, ns=(1, 1))
        path.chmod(0)

    def act() -> None:
        result = sample.drill(spoil)
        assert not result.passed
        wrong = {
            f.subject for f in result.findings if f.code in ("drill_content", "drill_metadata")
        }
        assert wrong == {"d/b.txt"}

    as_nobody(act)


def test_what_no_file_system_keeps_does_not_fail_the_drill(tmp_path: Path) -> None:
    """Such as an attribute of a user on a symbolic link."""
    repository = make()
    with Handmade(repository) as made:
        uid, gid = os.geteuid(), os.getegid()
        link = made.make.link(b"l", b"nowhere")._replace(
            xattrs=((b"user.x", b"y"),), uid=uid, gid=gid
        )
        fifo = Node(b"p", NodeType.FIFO, 0o600, 7, 7)._replace(uid=uid, gid=gid)
        snapshot = made.snapshot([link, fifo])
    result = drill_of(repository, snapshot, tmp_path)
    assert result.passed
    assert faults(result) == {("xattr_not_restored", "l"), ("drill_not_compared", "l")}
