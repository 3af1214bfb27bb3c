"""Putting entries back, onto real files: every kind, every attribute, and in the right order."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import TargetError, TargetFull, TargetNotEmpty, UsageError
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.hard_links import HardLinks
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, read_xattrs
from holdfast.sources.path.restore_plan import RestoreOptions
from holdfast.sources.path.tally import FindingTally
from holdfast.sources.path.target import RestoreTarget

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

MTIME = 1_700_000_000_123_456_789
CLAMPED_BY_NONE = 2**31 * 10**9 + 987_654_321


def file(name: bytes, **fields: object) -> Node:
    return _node(name, NodeType.FILE, 0o644, fields)


def directory(name: bytes, **fields: object) -> Node:
    return _node(name, NodeType.DIRECTORY, 0o755, fields)


def _node(name: bytes, kind: NodeType, mode: int, fields: dict[str, object]) -> Node:
    node = Node(name=name, type=kind, mode=mode, mtime_ns=MTIME, atime_ns=MTIME)
    return node._replace(**fields)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path / "root")


@pytest.fixture
def target(root: bytes) -> Iterator[RestoreTarget]:
    with RestoreTarget(root) as target:
        target.prepare()
        yield target


def read(path: bytes) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


def as_nobody(act: Callable[[], None]) -> None:
    """Run in a child without any rights; its failure is the test's failure."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
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


# Kinds and attributes


@pytest.mark.parametrize(
    "name",
    [b"plain", b"new\nline 'single' \"double\" $x", b"\xff\xfe\x80", b"n" * 255, b" ", b"-rf"],
    ids=["plain", "quotes", "not-utf8", "long", "blank", "option"],
)
def test_files_come_back_with_any_name(target: RestoreTarget, root: bytes, name: bytes) -> None:
    node = file(name, mode=0o640, uid=1000, gid=1001)
    assert target.write_file(b"", node, [b"con", memoryview(b"tent")])
    st = os.lstat(root + b"/" + name)
    assert read(root + b"/" + name) == b"content"
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o640, 1000, 1001)
    assert (st.st_mtime_ns, st.st_atime_ns) == (MTIME, MTIME)
    assert not target.tally


@pytest.mark.parametrize("mtime_ns", [-1, -(10**18), 0, CLAMPED_BY_NONE])
def test_times_far_from_now(target: RestoreTarget, root: bytes, mtime_ns: int) -> None:
    target.write_file(b"", file(b"f", mtime_ns=mtime_ns, atime_ns=5), [])
    st = os.lstat(root + b"/f")
    assert (st.st_mtime_ns, st.st_atime_ns) == (mtime_ns, 5)
    assert not target.tally


@pytest.mark.parametrize("mtime_ns", [2**62, 2**200], ids=["clamped", "no number of the kernel"])
def test_a_time_the_file_system_cannot_hold_is_a_finding(
    target: RestoreTarget, mtime_ns: int
) -> None:
    far = mtime_ns * 4  # beyond what ext4 and xfs keep
    assert target.write_file(b"", file(b"f", mtime_ns=far), [])
    assert target.tally.count("time_not_restored") == 1


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1644, 0o000, 0o777])
def test_set_id_bits_survive_the_change_of_owner(
    target: RestoreTarget, root: bytes, mode: int
) -> None:
    target.write_file(b"", file(b"f", mode=mode, uid=1000, gid=1000), [b"x"])
    pending = target.begin_file(b"", file(b"g", size=1))
    assert pending is not None
    target.finish_file(pending, file(b"g", mode=mode, uid=1000, gid=1000))
    assert [os.lstat(root + name).st_mode & 0o7777 for name in (b"/f", b"/g")] == [mode, mode]


def test_attributes_acl_and_capability(target: RestoreTarget, root: bytes, tmp_path: Path) -> None:
    original = os.fsencode(tmp_path / "original")
    Path(os.fsdecode(original)).write_bytes(b"x")
    os.chown(original, 1000, 1000)
    os.chmod(original, 0o2750)
    os.setxattr(original, b"user.\xff", b"\0\1")
    os.setxattr(original, b"trusted.t", b"")
    subprocess.run(["setfacl", "-m", "u:1234:rwx,g:99:r", original], check=True)
    subprocess.run(["setcap", "cap_net_raw+ep", original], check=True)
    xattrs = read_xattrs(original)
    assert len(xattrs) == 4
    node = node_from_stat(b"f", os.lstat(original), OwnerNames(), xattrs=xattrs)
    assert target.write_file(b"", node, [b"x"])
    restored = root + b"/f"
    assert read_xattrs(restored) == xattrs
    assert os.lstat(restored).st_mode == os.lstat(original).st_mode
    caps = subprocess.run(["getcap", restored], check=True, capture_output=True).stdout
    assert b"cap_net_raw" in caps
    assert not target.tally


def test_an_attribute_that_is_refused_is_a_finding(target: RestoreTarget) -> None:
    node = file(b"f", xattrs=((b"nonsense.x", b"1"), (b"user.a\0b", b""), (b"user.ok", b"1")))
    assert target.write_file(b"", node, [])
    assert target.tally.count("xattr_not_restored") == 2


def test_inherited_acls_are_not_left_on_what_had_none(root: bytes) -> None:
    os.mkdir(root)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", root], check=True)
    with RestoreTarget(root) as target:
        target.prepare()
        target.make_directory(b"", directory(b"d"))
        target.write_file(b"d", file(b"f", mode=0o664), [])
        target.write_file(b"", file(b"f", mode=0o664), [])
        target.make_other(b"", Node(b"p", NodeType.FIFO, 0o664))
        target.finish()
    for path in (b"/d", b"/d/f", b"/f", b"/p"):
        assert read_xattrs(root + path) == ()
        wanted = 0o755 if path == b"/d" else 0o664
        assert os.lstat(root + path).st_mode & 0o7777 == wanted


def test_directories_get_their_metadata_last(target: RestoreTarget, root: bytes) -> None:
    acl = b"\2\0\0\0" + b"".join(
        bytes([tag, 0, perm, 0]) + b"\xff\xff\xff\xff" for tag, perm in ((1, 7), (4, 5), (32, 0))
    )
    default_acl = ((b"system.posix_acl_default", acl), (b"user.x", b"y"))
    top = directory(b"a", mode=0o1555, uid=7, mtime_ns=1_000_000_007, xattrs=default_acl)
    target.claim_root(directory(b"", mode=0o750, mtime_ns=3_000_000_009))
    assert target.make_directory(b"", top)
    assert target.make_directory(b"a", directory(b"b", mode=0o000, mtime_ns=2_000_000_008))
    assert target.write_file(b"a/b", file(b"f"), [b"1"])
    target.finish()
    seen = [os.lstat(root + path) for path in (b"/a", b"/a/b", b"")]
    assert [s.st_mode & 0o7777 for s in seen] == [0o1555, 0o000, 0o750]
    assert [s.st_mtime_ns for s in seen] == [1_000_000_007, 2_000_000_008, 3_000_000_009]
    assert read_xattrs(root + b"/a") == default_acl
    assert read_xattrs(root + b"/a/b") == ()
    assert not target.tally


def test_links_fifos_and_devices(target: RestoreTarget, root: bytes) -> None:
    link = Node(b"l", NodeType.SYMLINK, 0o777, MTIME, MTIME, uid=5, gid=6)
    target.make_other(b"", link._replace(linktarget=b"/etc/\xff", xattrs=((b"trusted.t", b"1"),)))
    for name, kind in ((b"c", NodeType.CHARACTER_DEVICE), (b"b", NodeType.BLOCK_DEVICE)):
        device = os.makedev(7, 300)
        target.make_other(b"", Node(name, kind, 0o620, MTIME, uid=5, gid=6, device=device))
        st = os.lstat(root + b"/" + name)
        assert (st.st_rdev, st.st_mode & 0o7777, st.st_uid) == (device, 0o620, 5)
        assert stat.S_ISCHR(st.st_mode) == (name == b"c")
    target.make_other(b"", Node(b"p", NodeType.FIFO, 0o666, MTIME))
    assert stat.filemode(os.lstat(root + b"/p").st_mode) == "prw-rw-rw-"
    st = os.lstat(root + b"/l")
    assert os.readlink(root + b"/l") == b"/etc/\xff"
    assert (st.st_mtime_ns, st.st_uid, st.st_gid) == (MTIME, 5, 6)
    assert read_xattrs(root + b"/l") == ((b"trusted.t", b"1"),)
    assert not target.tally


def test_sockets_and_unknown_kinds_are_skipped_with_a_finding(target: RestoreTarget) -> None:
    assert not target.make_other(b"", Node(b"s", NodeType.SOCKET))
    assert not target.make_other(b"", Node(b"i", NodeType.IRREGULAR))
    codes = [finding.code for finding in target.tally.findings()]
    assert codes == ["socket_skipped", "irregular_skipped"]


def test_hard_links_are_one_file_again(target: RestoreTarget, root: bytes) -> None:
    links = HardLinks()
    node = file(b"a", links=2, inode=9, content=(b"1",))
    assert links.first(node, b"a") is None
    assert links.first(node._replace(name=b"b"), b"d/b") == b"a"
    assert links.first(node._replace(content=(b"2",)), b"torn") is None
    assert links.first(file(b"c", links=1, inode=9), b"c") is None
    target.make_directory(b"", directory(b"d"))
    target.write_file(b"", node, [b"x"])
    assert target.link(b"d", node._replace(name=b"b"), b"a")
    assert target.link(b"d", node._replace(name=b"b"), b"a"), "again, as after a retry"
    assert os.path.samefile(root + b"/a", root + b"/d/b")


def test_more_links_than_the_file_system_has_become_copies(
    target: RestoreTarget, root: bytes
) -> None:
    node = file(b"a", links=65_002, inode=9, mode=0o640)
    target.write_file(b"", node, [b"x"])
    for number in range(65_001):  # ext4 allows 65,000 names, xfs and btrfs more
        assert target.link(b"", node._replace(name=b"%d" % number), b"a")
        if target.tally:
            break
    else:
        pytest.skip("this file system has no limit that is quick to reach")
    assert target.tally.count("hard_link_copied") == 1
    copy = os.lstat(root + b"/%d" % number)
    assert (copy.st_nlink, copy.st_mtime_ns, copy.st_mode & 0o777) == (1, MTIME, 0o640)
    assert read(root + b"/%d" % number) == b"x"


def test_a_big_file_is_filled_by_another_process_and_keeps_its_holes(
    target: RestoreTarget, root: bytes
) -> None:
    node = file(b"big", size=64 << 20, mode=0o444)
    pending = target.begin_file(b"", node)
    assert pending is not None
    packed = pickle.dumps(pending)
    pid = os.fork()
    if pid == 0:
        worker = RestoreTarget(root)
        fd = worker.open_pending(pickle.loads(packed))
        os._exit(0 if os.pwrite(fd, b"data", 32 << 20) == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert target.finish_file(pending, node)
    path = root + b"/big"
    st = os.lstat(path)
    assert (st.st_size, st.st_mode & 0o777, st.st_mtime_ns) == (64 << 20, 0o444, MTIME)
    assert st.st_blocks * 512 < 1 << 20
    fd = os.open(path, os.O_RDONLY)
    assert os.lseek(fd, 0, os.SEEK_DATA) // (1 << 20) == 32
    assert os.lseek(fd, 33 << 20, os.SEEK_HOLE) == 33 << 20
    os.close(fd)


def test_an_abandoned_file_is_gone(target: RestoreTarget, root: bytes) -> None:
    pending = target.begin_file(b"", file(b"f", size=3))
    assert pending is not None
    target.abandon_file(pending)
    target.abandon_file(pending)
    assert os.listdir(root) == []


def test_a_failing_stream_leaves_no_file(target: RestoreTarget, root: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionError

    assert not target.write_file(b"", file(b"f"), pieces())  # an OSError: a finding
    assert os.listdir(root) == []
    assert target.tally.count("entry_not_restored") == 1


@pytest.mark.parametrize("size", [-1, 2**63 - 1, 2**80])
def test_sizes_no_file_can_have_are_findings(target: RestoreTarget, size: int) -> None:
    assert target.begin_file(b"", file(b"f", size=size)) is None
    assert target.tally.count("entry_not_restored") == 1


def test_deep_trees_need_few_descriptors(root: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with RestoreTarget(root) as target:
        target.prepare()
        path = b""
        for _ in range(600):  # longer than PATH_MAX, deeper than what is kept open
            name = b"d" * 20
            assert target.make_directory(path, directory(name))
            path = path + b"/" + name if path else name
        assert target.write_file(path, file(b"f"), [b"deep"])
        target.finish()
        assert not target.tally
        assert len(os.listdir("/proc/self/fd")) - before < 300


# Without root's rights


def test_owners_are_one_kind_of_finding_and_counted(tmp_path: Path, root: bytes) -> None:
    open_up(tmp_path)

    def restore() -> None:
        with RestoreTarget(root) as target:
            target.prepare()
            for number in range(50):
                node = file(b"%d" % number, uid=1000, mode=0o4755 if number < 30 else 0o644)
                assert target.write_file(b"", node, [b"x"])
            assert target.tally.count("owner_not_restored") == 50
            assert target.tally.count("setid_not_restored") == 30
            findings = target.tally.findings()
            assert len(findings) == 42
            assert "30 more" in findings[20].message
            device = Node(b"c", NodeType.CHARACTER_DEVICE, device=os.makedev(1, 3))
            assert not target.make_other(b"", device)
            assert target.tally.count("entry_not_restored") == 1

    as_nobody(restore)
    st = os.lstat(root + b"/0")
    assert (st.st_uid, st.st_mode & 0o7777) == (65534, 0o755), "never lends our own rights"


def test_closed_directories_and_files_as_their_owner(tmp_path: Path, root: bytes) -> None:
    open_up(tmp_path)

    def restore() -> None:
        me = {"uid": 65534, "gid": 65534}
        for attempt in range(2):
            with RestoreTarget(root, RestoreOptions(in_place=True)) as target:
                target.prepare()
                closed = directory(b"closed", mode=0o000, xattrs=((b"user.d", b"1"),), **me)
                assert target.make_directory(b"", closed)
                assert target.make_directory(b"closed", directory(b"in", mode=0o500, **me))
                node = file(b"f", mode=0o400, xattrs=((b"user.a", b"1"),), **me)
                assert target.write_file(b"closed/in", node, [b"x"]), attempt
                assert target.update(b"closed/in", node._replace(xattrs=((b"user.b", b"2"),)))
                target.finish()
                assert target.tally.findings() == ()

    as_nobody(restore)
    assert os.lstat(root + b"/closed").st_mode & 0o7777 == 0
    assert os.lstat(root + b"/closed/in").st_mode & 0o7777 == 0o500
    st = os.lstat(root + b"/closed/in/f")
    assert (st.st_mode & 0o7777, st.st_mtime_ns) == (0o400, MTIME)
    assert read_xattrs(root + b"/closed/in/f") == ((b"user.b", b"2"),)


# The root


def test_a_target_with_entries_is_refused(root: bytes) -> None:
    os.makedirs(root + b"/lost+found")
    RestoreTarget(root).prepare()
    os.mkdir(root + b"/x")
    with pytest.raises(TargetNotEmpty, match="in place"):
        RestoreTarget(root).prepare()
    RestoreTarget(root, RestoreOptions(in_place=True)).prepare()


def test_a_target_that_is_no_directory_is_refused(root: bytes) -> None:
    Path(os.fsdecode(root)).touch()
    with pytest.raises(TargetError, match="directory"):
        RestoreTarget(root)
    with pytest.raises(TargetError, match="cannot be made"):
        RestoreTarget(root + b"/below").prepare()


def test_room_is_checked_before(root: bytes) -> None:
    with RestoreTarget(root) as target:
        with pytest.raises(TargetFull, match="free"):
            target.prepare(needed_bytes=1 << 60)
        with pytest.raises(TargetFull, match="more files"):
            target.prepare(needed_entries=1 << 50)


def test_a_target_that_fills_up_stops_the_restore(tmp_path: Path) -> None:
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "holdfast", str(where)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        with RestoreTarget(str(where)) as target:
            target.prepare()
            with pytest.raises(TargetFull, match="became full"):
                target.write_file(b"", file(b"f"), [b"x" * 8192] * 20)
            assert os.listdir(where) == [], "no half file is left"
            target.sync()
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_read_only_target_stops_the_restore(tmp_path: Path) -> None:
    where = tmp_path / "ro"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "holdfast", str(where)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        with RestoreTarget(str(where)) as target, pytest.raises(TargetError, match="Read-only"):
            target.write_file(b"", file(b"f"), [b"x"])
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_deleting_needs_its_option(target: RestoreTarget) -> None:
    with pytest.raises(UsageError):
        target.delete([])
    with pytest.raises(UsageError):
        RestoreOptions(delete_extra=True)


def test_a_tally_keeps_counting_when_merged() -> None:
    one, two = FindingTally(limit=2), FindingTally(limit=2)
    for tally, count in ((one, 1), (two, 5)):
        for number in range(count):
            tally.add("code", "message", b"%d" % number)
    assert not FindingTally()
    one.merge(pickle.loads(pickle.dumps(two)))
    assert one.count("code") == 6
    assert [f.subject for f in one.findings()] == ["0", "0", ""]
    assert "4 more" in one.findings()[-1].message
