"""Restores onto a file system that takes `A` and `a` for one name, as some shares do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import mfusepy
import pytest

from holdfast.model.node import Node, NodeType
from holdfast.sources.path.restore_plan import Overwrite, RestoreOptions
from holdfast.sources.path.target import RestoreTarget

FILE = Node(b"a", NodeType.FILE, 0o644, 10**18, 10**18)
DIRECTORY = Node(b"d", NodeType.DIRECTORY, 0o755, 10**18, 10**18)
STAT_FIELDS = ("mode", "nlink", "uid", "gid", "size")


class FoldingFileSystem(mfusepy.Operations):  # type: ignore[misc]
    """Shows a directory under folded names; remembers how each name was first written."""

    use_ns = True

    def __init__(self, backing: str) -> None:
        self.backing = backing
        self.shown: dict[str, str] = {}

    def real(self, path: str) -> str:
        return self.backing + path.lower()

    def show(self, path: str) -> None:
        self.shown[path.lower()] = os.path.basename(path)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        st = os.lstat(self.real(path))
        fields = {f"st_{name}": getattr(st, f"st_{name}") for name in STAT_FIELDS}
        return fields | {f"st_{x}time": getattr(st, f"st_{x}time_ns") for x in "amc"}

    def readdir(self, path: str, fh: int) -> list[str]:
        folder = path.lower().rstrip("/")
        return [".", "..", *(self.shown[f"{folder}/{n}"] for n in os.listdir(self.real(path)))]

    def create(self, path: str, mode: int, fi: object = None) -> int:
        self.show(path)
        return os.open(self.real(path), os.O_CREAT | os.O_RDWR, mode)

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self.real(path), mode)
        self.show(path)
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self.real(old), self.real(new))
        self.show(new)
        return 0

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self.real(path))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self.real(path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self.real(path), mode)
        return 0

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        raise mfusepy.FuseOSError(errno.ENOTSUP)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self.real(path), ns=times or (0, 0))
        return 0


@pytest.fixture
def folding(tmp_path: Path) -> Iterator[Path]:
    backing, point = tmp_path / "backing", tmp_path / "folding"
    backing.mkdir()
    point.mkdir()
    pid = os.fork()
    if pid == 0:
        try:
            file_system = FoldingFileSystem(str(backing))
            mfusepy.FUSE(file_system, str(point), foreground=True, nothreads=True)
        finally:
            os._exit(0)
    try:
        for _ in range(100):
            if os.path.ismount(point):
                break
            time.sleep(0.05)
        else:
            pytest.skip("no FUSE file system may be mounted here")
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_names_that_fold_together_are_findings_and_not_overwritten(folding: Path) -> None:
    with RestoreTarget(str(folding)) as target:
        target.prepare()
        assert target.write_file(b"", FILE, [b"lower"])
        assert not target.write_file(b"", FILE._replace(name=b"A"), [b"upper"])
        assert target.make_directory(b"", DIRECTORY)
        assert not target.make_directory(b"", DIRECTORY._replace(name=b"D"))
        target.finish()
        findings = [f for f in target.tally.findings() if f.code == "name_collision"]
        assert [f.subject for f in findings] == ["A", "D"]
    assert sorted(os.listdir(folding)) == ["a", "d"]
    assert os.stat(folding / "a").st_size == 5


def test_in_place_the_same_name_is_replaced_and_another_case_is_not(folding: Path) -> None:
    options = RestoreOptions(in_place=True, overwrite=Overwrite.ALWAYS)
    (folding / "Kept").touch()
    (folding / "a").touch()
    with RestoreTarget(str(folding), options) as target:
        assert target.write_file(b"", FILE, [b"new"])
        assert not target.write_file(b"", FILE._replace(name=b"kept"), [b"new"])
        assert target.tally.count("name_collision") == 1
    assert sorted(os.listdir(folding)) == ["Kept", "a"]
    assert [os.stat(folding / name).st_size for name in ("Kept", "a")] == [0, 3]
