"""Views of live trees on real btrfs, xfs and ext4 file systems in loop-mounted images."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from holdfast.errors import SourceError, SourceVanished, UsageError
from holdfast.model.consistency import Consistency
from holdfast.sources.path.ladder import VIEW_PREFIX, StableView, Wish, stable_view

DAY = 86_400


@contextmanager
def mounted(where: Path, kind: str, options: str = "loop") -> Iterator[Path]:
    """An empty file system of that kind, or a skip that says why there is none."""
    maker = shutil.which(f"mkfs.{kind}", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if os.geteuid() != 0 or maker is None:
        pytest.skip(f"{kind} needs root and mkfs.{kind}")
    image, point = where / f"{kind}.img", where / kind
    with image.open("wb") as file:
        file.truncate(320 << 20)
    point.mkdir()
    subprocess.run([maker, "-q", image], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", options, image, point], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "btrfs") as point:
        yield point


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "xfs") as point:
        yield point


def hidden(where: Path) -> list[str]:
    return [name for name in os.listdir(where) if name.startswith(os.fsdecode(VIEW_PREFIX))]


@contextmanager
def lock_step_writer(where: Path) -> Iterator[None]:
    """A process that puts the same number into `a` and then into `z`, again and again.

    Each number is on the disk before the next is written, as databases do it. Names made in
    `names-a` and `names-z` are in lock step too, and need no sync for that.
    """
    for name in ("names-a", "names-z"):
        (where / name).mkdir()
    files = [os.open(where / name, os.O_CREAT | os.O_WRONLY | os.O_DSYNC) for name in ("a", "z")]
    for fd in files:
        os.pwrite(fd, b"%016d" % 0 * 1024, 0)
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(1, 1 << 40):
                for fd in files:
                    os.pwrite(fd, b"%016d" % number * 1024, 0)
                for name in ("names-a", "names-z"):
                    (where / name / str(number)).touch()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in files:
            os.close(fd)


def data_in(view: StableView, name: str) -> Path:
    return Path(os.fsdecode(view.path), name)


def numbers(view: StableView, name: str) -> list[int]:
    """The numbers in a file; one if it is whole."""
    content = data_in(view, name).read_bytes()
    return sorted({int(content[at : at + 16]) for at in range(0, len(content), 16)})


def in_two_days() -> float:
    return time.time() + 2 * DAY


# Snapshots


def test_a_snapshot_is_of_one_moment(btrfs: Path) -> None:
    subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / "v"], check=True)
    data = btrfs / "v" / "deep" / "data"
    data.mkdir(parents=True)
    seen = set()
    with lock_step_writer(data):
        for _ in range(15):
            with stable_view(str(data)) as view:
                assert (view.grade, view.findings) == (Consistency.ATOMIC, ())
                time.sleep(0.01)  # time for the writer to go on, if it could
                (first,) = numbers(view, "a")
                (second,) = numbers(view, "z")
                assert first - second in (0, 1)
                names = [len(os.listdir(data_in(view, f"names-{x}"))) for x in "az"]
                assert names[0] - names[1] in (0, 1)
                seen.add(first)
                with pytest.raises(OSError, match="Read-only"):
                    Path(os.fsdecode(view.path), "new").touch()
    assert len(seen) > 3, "the writer did not run; nothing was proven"
    assert hidden(btrfs / "v") == []


def test_a_live_read_of_the_same_writer_is_not(btrfs: Path) -> None:
    """What the snapshot is measured against: without it the same reading tells two moments."""
    apart = 0
    with lock_step_writer(btrfs):
        for _ in range(50):
            with stable_view(str(btrfs), Wish.LIVE) as view:
                assert view.path == os.fsencode(btrfs)
                assert view.grade is Consistency.PER_FILE
                first = numbers(view, "a")
                time.sleep(0.005)
                apart += numbers(view, "z") != first
    assert apart > 0


def test_a_single_file_and_odd_names(btrfs: Path) -> None:
    path = os.fsencode(btrfs) + b"/\xff\n"
    with open(path, "wb") as file:
        file.write(b"x")
    before = os.lstat(path)
    with stable_view(path) as view:
        assert view.grade is Consistency.ATOMIC
        after = os.lstat(view.path)
        assert after.st_ino == before.st_ino
        assert after.st_ctime_ns == before.st_ctime_ns
        assert after.st_dev != before.st_dev


def test_what_a_snapshot_leaves_out_is_found(btrfs: Path, tmp_path: Path) -> None:
    for name in ("in", "in/nested", "in/nested/deeper", "beside"):
        (btrfs / name).parent.mkdir(exist_ok=True)
        subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / name], check=True)
    (btrfs / "in/dir/mnt").mkdir(parents=True)
    subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / "in/dir/sub"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "holdfast", btrfs / "in/dir/mnt"], check=True)
    try:
        with stable_view(str(btrfs / "in")) as view, stable_view(str(btrfs / "in/dir")) as narrow:
            found = [(f.code, os.path.relpath(f.subject, btrfs)) for f in view.findings]
            assert sorted(found) == [
                ("mount_not_captured", "in/dir/mnt"),
                ("nested_subvolume", "in/dir/sub"),
                ("nested_subvolume", "in/nested"),
            ]
            assert len(narrow.findings) == 2
            assert os.listdir(os.path.join(view.path, b"nested")) == []
    finally:
        subprocess.run(["umount", btrfs / "in/dir/mnt"], check=True)
    with stable_view(str(btrfs / "beside")) as view:
        assert view.findings == ()


def test_a_snapshot_that_may_not_be_is_a_finding_or_an_error(btrfs: Path) -> None:
    (btrfs / "in").mkdir()
    (btrfs / "in").chmod(0o777)
    subprocess.run(["mount", "-o", "remount,ro", btrfs], check=True)
    with stable_view(str(btrfs)) as view:
        assert view.grade is Consistency.PER_FILE
        assert [f.code for f in view.findings] == ["snapshot_refused"]
    with pytest.raises(SourceError, match="Read-only"), stable_view(str(btrfs), Wish.SNAPSHOT):
        pass
    subprocess.run(["mount", "-o", "remount,rw", btrfs], check=True)
    bound = btrfs.parent / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", btrfs / "in", bound], check=True)
    try:
        with stable_view(str(bound)) as view:
            assert [f.code for f in view.findings] == ["snapshot_refused"]
            assert "not mounted" in view.findings[0].message
    finally:
        subprocess.run(["umount", bound], check=True)


def test_an_owner_without_rights_leaves_no_snapshot_behind() -> None:
    # Not below pytest's directories, which only their owner may enter.
    with TemporaryDirectory() as directory, mounted(Path(directory), "btrfs") as point:
        Path(directory).chmod(0o755)
        point.chmod(0o777)
        os.chown(point, 65534, 65534)
        (point / "f").touch()
        for options, grade in (
            ("remount,rw", Consistency.PER_FILE),
            ("remount,user_subvol_rm_allowed", Consistency.ATOMIC),
        ):
            subprocess.run(["mount", "-o", options, point], check=True)
            pid = os.fork()
            if pid == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                try:
                    with stable_view(str(point)) as view:
                        refused = [f.code for f in view.findings] == ["snapshot_refused"]
                        good = view.grade is grade and refused == (grade is not Consistency.ATOMIC)
                    os._exit(0 if good else 1)
                except BaseException as error:
                    print(repr(error), flush=True)
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert os.listdir(point) == ["f"]


def test_a_view_is_removed_when_the_reader_fails(btrfs: Path, xfs: Path) -> None:
    for where, wish in ((btrfs, Wish.AUTO), (xfs, Wish.REFLINK)):
        before = os.stat(where).st_mtime_ns
        with pytest.raises(ZeroDivisionError), stable_view(str(where), wish):
            _ = 1 // (len(hidden(where)) - 1)
        assert hidden(where) == []
        assert os.stat(where).st_mtime_ns == before


def test_views_of_killed_processes_are_removed_when_old(btrfs: Path, xfs: Path) -> None:
    for where, wish in ((btrfs, Wish.AUTO), (xfs, Wish.REFLINK)):
        (where / "sub").mkdir()
        (where / "sub" / "f").write_bytes(b"x")
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                with stable_view(str(where), wish):
                    os.write(told, b"!")
                    time.sleep(600)
            finally:
                os._exit(1)
        os.close(told)
        assert os.read(ready, 1) == b"!"
        (left,) = hidden(where)
        with stable_view(str(where), Wish.LIVE, now=in_two_days):
            assert hidden(where) == [left], "its process lives"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with stable_view(str(where), Wish.LIVE):
            assert hidden(where) == [left], "it is not old"
        with stable_view(str(where), Wish.LIVE, now=in_two_days) as view:
            assert hidden(where) == []
            assert view.findings == ()
        assert os.listdir(where) == ["sub"]
        os.close(ready)


def test_only_our_own_hidden_entries_are_removed(xfs: Path) -> None:
    prefix = os.fsdecode(VIEW_PREFIX)
    (xfs / f"{prefix}nonsense").mkdir()
    (xfs / f"{prefix}1-file").touch()
    outside = xfs / "kept"
    outside.mkdir()
    (xfs / f"{prefix}1-link").symlink_to(outside)
    (xfs / f"{prefix}1-dir").mkdir()
    (xfs / f"{prefix}1-dir" / "out").symlink_to(outside)
    with stable_view(str(xfs)) as view:
        assert sorted(f.code for f in view.findings) == ["stale_view_kept"] * 2
    assert sorted(os.listdir(xfs)) == [
        f"{prefix}1-file",
        f"{prefix}1-link",
        f"{prefix}nonsense",
        "kept",
    ]


# Reflinks


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_clones_are_whole_files_with_their_metadata(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind) as where:
        (where / "dir").mkdir(mode=0o700)
        (where / "dir" / "link").symlink_to("nowhere")
        (where / "one").write_bytes(b"1" * 5000)
        os.link(where / "one", where / "dir" / "two")
        os.setxattr(where / "one", b"user.a", b"b")
        os.chown(where / "one", 1000, 1001)
        os.chmod(where / "one", 0o6750)
        os.utime(where / "one", ns=(5, 1_000_000_007))
        os.utime(where, ns=(5, 1_000_000_009))
        with lock_step_writer(where / "dir"), stable_view(str(where), Wish.REFLINK) as view:
            assert (view.grade, view.findings) == (Consistency.PER_FILE, ())
            copy = Path(os.fsdecode(view.path))
            assert copy.parent == where
            assert sorted(os.listdir(copy)) == ["dir", "one"]
            (copied, original) = (os.stat(copy / "one"), os.stat(where / "one"))
            assert copied.st_mode == original.st_mode
            assert (copied.st_uid, copied.st_gid) == (1000, 1001)
            assert copied.st_mtime_ns == 1_000_000_007
            assert os.stat(copy).st_mtime_ns == 1_000_000_009
            assert os.path.samefile(copy / "one", copy / "dir" / "two")
            assert os.getxattr(copy / "one", b"user.a") == b"b"
            assert os.readlink(copy / "dir" / "link") == "nowhere"
            assert (copy / "one").read_bytes() == b"1" * 5000
            before = numbers(view, "dir/a")
            time.sleep(0.05)
            assert numbers(view, "dir/a") == before, "the clone does not move"
            assert len(before) == 1, "each file is of one moment"
        assert hidden(where) == []
        with stable_view(str(where / "one"), Wish.REFLINK) as view:
            assert os.path.basename(view.path) == b"one"
            assert Path(os.fsdecode(view.path)).read_bytes() == b"1" * 5000


def test_too_many_files_are_not_cloned(xfs: Path) -> None:
    for number in range(5):
        (xfs / str(number)).touch()
    with (
        pytest.raises(UsageError, match="more than 4"),
        stable_view(str(xfs), Wish.REFLINK, max_reflink_files=4),
    ):
        pass
    assert hidden(xfs) == []


def test_wishes_that_cannot_be_met_are_errors(tmp_path: Path) -> None:
    with mounted(tmp_path, "ext4") as where:
        (where / "f").write_bytes(b"x")
        for wish in (Wish.SNAPSHOT, Wish.REFLINK):
            with pytest.raises(SourceError, match="wish for"), stable_view(str(where), wish):
                pass
        assert hidden(where) == []
        with stable_view(str(where)) as view:
            assert (view.grade, view.findings) == (Consistency.PER_FILE, ())
        with pytest.raises(SourceVanished), stable_view(str(where / "gone")):
            pass
