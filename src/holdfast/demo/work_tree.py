"""A directory worth keeping: made of real files, changed as work does, compared exactly."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sysconfig
from pathlib import Path

from holdfast.demo.narration import expect

_LEFT_OUT = ("__pycache__", "site-packages", "dist-packages", "test", "config-*")
_NEW_BYTES = 8 << 20

Inventory = dict[str, tuple[object, ...]]


def make(work: Path) -> None:
    """Fill a new directory with a copy of Python's own library."""
    source = sysconfig.get_path("stdlib")
    shutil.copytree(source, work, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))


def change(work: Path) -> None:
    """Do to a directory what a day of work does."""
    with (work / "argparse.py").open("a") as file:
        file.write("# edited\n")
    (work / "checkpoint.bin").write_bytes(os.urandom(_NEW_BYTES))
    with (work / "typing.py").open("ab") as file:
        file.write(bytes(1 << 20))
    (work / "this.py").unlink()
    (work / "json").rename(work / "json-renamed")


def inventory(root: Path) -> Inventory:
    """Everything below a directory that has to come back, content as SHA-256."""
    found: Inventory = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).digest()
        owner = (status.st_uid, status.st_gid)
        name = str(path.relative_to(root))
        found[name] = (status.st_mode, owner, status.st_mtime_ns, content)
    return found


def compare(expected: Inventory, found: Inventory) -> None:
    """Raise `Differs` that names what is not the same."""
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    expect(not wrong, f"{len(wrong)} entries differ: {', '.join(wrong[:10])}")


def disk_usage(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())
