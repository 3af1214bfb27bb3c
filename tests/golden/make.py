"""Makes the golden repositories: ``python tests/golden/make.py NAME...``, as root.

An archive that exists is never written again: what an old version wrote must stay as it
wrote it. restic is found by HOLDFAST_RESTIC_OLD (0.14) and HOLDFAST_RESTIC_NEW (0.19).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden_archive import HERE, NAMES, PASSWORD, Listing, listing

from holdfast.flows.backup import BackupRequest, backup
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

FILES = Path("/tmp/holdfast-golden/files")
_SECOND = 1_000_000_000


def first_state(with_zeros: bool) -> None:
    """What the first snapshot holds; every kind of entry that needs no privilege."""
    chance = random.Random(1)
    shutil.rmtree(FILES, ignore_errors=True)
    (FILES / "dir" / "nested").mkdir(parents=True)
    (FILES / "empty directory").mkdir()
    (FILES / "a text.txt").write_text("The quick brown fox.\n" * 200)
    (FILES / "random.bin").write_bytes(chance.randbytes(20_000))
    shutil.copy(FILES / "random.bin", FILES / "dir" / "copy of random.bin")
    (FILES / "dir" / "nested" / "deep.txt").write_text("deep\n")
    (FILES / "dir" / "kept.bin").write_bytes(chance.randbytes(3_000))
    (FILES / "empty").touch()
    (FILES / "naïve ☂ 日本").write_text("a name in Unicode\n")
    (FILES / 'quote " back \\ slash').write_text("a name to escape\n")
    (FILES / "new\nline\ttab").write_text("a name with control characters\n")
    Path(os.fsdecode(bytes(FILES) + b"/not \xff UTF-8")).write_text("a name of bytes\n")
    (FILES / "hard 1").write_text("one file with two names\n")
    os.link(FILES / "hard 1", FILES / "dir" / "hard 2")
    (FILES / "link").symlink_to("a text.txt")
    os.symlink(b"nowhere \xfe <&>", os.fsencode(FILES / "broken link"))
    os.mkfifo(FILES / "fifo")
    (FILES / "set-id").write_text("#!/bin/sh\n")
    os.chmod(FILES / "set-id", 0o6755)
    os.chmod(FILES / "dir" / "nested", 0o1770)
    os.setxattr(FILES / "a text.txt", "user.colour", b"\x00red")
    if with_zeros:
        (FILES / "zeros.bin").write_bytes(bytes(1_500_000))
    for number, path in enumerate(sorted(FILES.rglob("*"), reverse=True)):
        moment = 1_600_000_000 * _SECOND + number * 86_400 * _SECOND + number * 123_456_789
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    os.utime(FILES / "empty", ns=(-_SECOND, -_SECOND))


def second_state() -> None:
    """What the second snapshot holds: something changed, gone and new."""
    (FILES / "a text.txt").write_text("The lazy dog.\n" * 300)
    (FILES / "dir" / "nested" / "deep.txt").unlink()
    (FILES / "dir" / "new.bin").write_bytes(random.Random(2).randbytes(6_000))


def restic(variable: str, repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        [os.environ[variable], "--no-cache", *arguments],
        env=os.environ
        | {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": PASSWORD, "TZ": "Asia/Tokyo"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def back_up(name: str, repository: Path) -> str:
    """Make one snapshot with the program that `name` says; return its id."""
    if name.startswith("holdfast"):
        store = LocalStore(str(repository))
        opened = Repository.open(store, PASSWORD)
        made = backup(opened, BackupRequest((os.fsencode(FILES),), hostname="golden")).snapshot
        assert made is not None
        return made.id
    variable = "HOLDFAST_RESTIC_OLD" if "0.14" in name else "HOLDFAST_RESTIC_NEW"
    restic(variable, repository, "backup", "--host", "golden", str(FILES))
    return str(json.loads(restic(variable, repository, "snapshots", "--json"))[-1]["id"])


def create(name: str, repository: Path) -> None:
    if name.startswith("holdfast"):
        Repository.create(LocalStore(str(repository)), PASSWORD, scrypt=Scrypt(n=16))
        return
    variable = "HOLDFAST_RESTIC_OLD" if "0.14" in name else "HOLDFAST_RESTIC_NEW"
    restic(variable, repository, "init", "--repository-version", name[-1])


def as_stored(name: str, files: Listing) -> Listing:
    """What the program could keep: restic 0.14 loses bytes of links that are not UTF-8."""
    if "0.14" in name:
        for entry in files.values():
            target = unquote_to_bytes(entry["linktarget"]).decode("utf-8", "replace")
            entry["linktarget"] = quote_from_bytes(target.encode())
    return files


def make(name: str) -> None:
    archive = HERE / f"{name}.tar.xz"
    if archive.exists():
        sys.exit(f"{archive} exists; golden repositories are never made again")
    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory) / name
        create(name, repository)
        snapshots = {}
        first_state(with_zeros=not name.endswith("v1"))  # nothing is compressed in version 1
        snapshots[back_up(name, repository)] = as_stored(name, listing(FILES))
        second_state()
        snapshots[back_up(name, repository)] = as_stored(name, listing(FILES))
        with tarfile.open(archive, "w:xz") as packed:
            packed.add(repository, name)
    document = {"files": str(FILES), "snapshots": snapshots}
    (HERE / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{archive}: {archive.stat().st_size} bytes")


if __name__ == "__main__":
    for each in sys.argv[1:] or NAMES:
        make(each)
