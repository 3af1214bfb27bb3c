"""Reading metadata from real files: attributes, owners, kinds, and the node made of them."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from holdfast.model.finding import Finding
from holdfast.model.node import NodeType
from holdfast.sources.path.metadata import OwnerNames, node_from_stat, node_type, read_xattrs

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def here(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


def test_a_file_without_attributes_has_none(here: bytes) -> None:
    path = here + b"/f"
    Path(os.fsdecode(path)).touch()
    assert read_xattrs(path) == ()


def test_attributes_come_sorted_and_as_bytes(here: bytes) -> None:
    path = here + b"/f"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.setxattr(path, b"user.z", b"\0binary\xff")
    os.setxattr(path, b"user.\xff", b"")
    os.setxattr(path, b"user.a", b"1" * 300)
    expected = ((b"user.a", b"1" * 300), (b"user.z", b"\0binary\xff"), (b"user.\xff", b""))
    assert read_xattrs(path) == expected
    assert read_xattrs(fd) == expected
    os.close(fd)


@as_root
def test_acl_capability_and_trusted_are_read(here: bytes) -> None:
    path = here + b"/f"
    Path(os.fsdecode(path)).touch()
    subprocess.run(["setfacl", "-m", "u:1234:rw", path], check=True)
    subprocess.run(["setcap", "cap_net_raw+ep", path], check=True)
    os.setxattr(path, b"trusted.t", b"v")
    names = [name for name, _ in read_xattrs(path)]
    assert names == [b"security.capability", b"system.posix_acl_access", b"trusted.t"]


@as_root
def test_a_link_is_followed_only_on_request(here: bytes) -> None:
    target, link = here + b"/f", here + b"/l"
    Path(os.fsdecode(target)).touch()
    os.symlink(b"f", link)
    os.setxattr(target, b"trusted.of", b"file")
    os.setxattr(link, b"trusted.of", b"link", follow_symlinks=False)
    assert read_xattrs(link) == ((b"trusted.of", b"link"),)
    assert read_xattrs(link, follow=True) == ((b"trusted.of", b"file"),)


def test_what_cannot_be_read_is_a_finding(here: bytes) -> None:
    found: list[Finding] = []
    assert read_xattrs(here + b"/gone", on_finding=found.append, subject=b"gone\xff") == ()
    assert [(f.code, f.subject) for f in found] == [("xattr_unreadable", "gone\\xff")]
    with pytest.raises(FileNotFoundError):
        read_xattrs(here + b"/gone")


def test_a_file_system_without_attributes_gives_none() -> None:
    assert read_xattrs(b"/proc/self/status") == ()


def test_owner_names() -> None:
    owners = OwnerNames()
    assert owners.user(0) == pwd.getpwuid(0).pw_name == owners.user(0)
    assert owners.group(0) == "root"
    assert owners.user(3_999_999_999) == owners.group(3_999_999_999) == ""


def test_every_kind_is_told_apart(here: bytes) -> None:
    made: dict[bytes, NodeType] = {}
    os.mkdir(here + b"/d")
    made[b"d"] = NodeType.DIRECTORY
    os.symlink(b"d", here + b"/l")
    made[b"l"] = NodeType.SYMLINK
    os.mkfifo(here + b"/p")
    made[b"p"] = NodeType.FIFO
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fsdecode(here + b"/s"))
    listener.close()
    made[b"s"] = NodeType.SOCKET
    os.close(os.open(here + b"/f", os.O_CREAT))
    made[b"f"] = NodeType.FILE
    for name, kind in made.items():
        assert node_type(os.lstat(here + b"/" + name).st_mode) is kind
    assert node_type(os.stat("/dev/null").st_mode) is NodeType.CHARACTER_DEVICE
    assert node_type(stat.S_IFBLK) is NodeType.BLOCK_DEVICE
    assert node_type(0) is NodeType.IRREGULAR


def test_a_node_has_what_stat_says(here: bytes) -> None:
    path = here + b"/f"
    Path(os.fsdecode(path)).write_bytes(b"12345")
    os.chmod(path, 0o4751)
    os.utime(path, ns=(7, -1_500_000_001))
    st = os.lstat(path)
    node = node_from_stat(b"f", st, OwnerNames())
    assert (node.type, node.mode, node.size, node.links) == (NodeType.FILE, 0o4751, 5, 1)
    assert (node.mtime_ns, node.atime_ns, node.ctime_ns) == (
        -1_500_000_001,
        -1_500_000_001,
        st.st_ctime_ns,
    )
    assert (node.uid, node.gid, node.inode, node.device_id) == (st.st_uid, st.st_gid, st.st_ino, 0)
    assert node_from_stat(b"f", st, OwnerNames(), with_atime=True).atime_ns == 7
    assert node_from_stat(b"f", st, OwnerNames(), size=3).size == 3


def test_device_ids_are_kept_for_hard_links_only(here: bytes) -> None:
    os.close(os.open(here + b"/f", os.O_CREAT))
    os.link(here + b"/f", here + b"/g")
    st = os.lstat(here + b"/g")
    linked = node_from_stat(b"g", st, OwnerNames())
    assert (linked.device_id, linked.links) == (st.st_dev, 2)
    directory = node_from_stat(b"", os.lstat(here), OwnerNames())
    assert (directory.device_id, directory.links, directory.size) == (0, 0, 0)


def test_device_numbers_belong_to_devices() -> None:
    null = os.stat("/dev/null")
    node = node_from_stat(b"null", null, OwnerNames())
    assert node.device == null.st_rdev != 0
