"""The demonstration: the main job of Holdfast on real files, with every byte compared.

``./dev demo`` runs it. It works in a temporary directory, which it removes, and changes
nothing outside. It ends with a failure if anything that comes back differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.cli.invocation import processors
from holdfast.errors import HoldfastError
from holdfast.flows.backup import BackupRequest, BackupResult, backup
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.quantity import print_bytes
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

PASSWORD = "only for this demonstration"  # noqa: S105
_LEFT_OUT = ("__pycache__", "site-packages", "dist-packages", "test")
_NEW_BYTES = 8 << 20
_RESTICS = ("restic", ".cache/restic-sid/usr/bin/restic", "/usr/bin/restic")

Inventory = dict[str, tuple[object, ...]]


class Differs(Exception):
    """What came back is not what was stored."""


def main() -> None:
    """Run the demonstration; exit with 1 where something differs."""
    parser = argparse.ArgumentParser("holdfast.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the directory afterwards")
    keep = parser.parse_args().keep
    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        Demonstration(directory).run()
    except (Differs, HoldfastError) as error:
        sys.exit(f"\nThe demonstration FAILED: {error}")
    finally:
        if keep:
            write(f"\nEverything is still there: {directory}  (password: {PASSWORD})")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Demonstration:
    """All steps, in a directory of its own."""

    directory: Path

    def run(self) -> None:
        work = self.directory / "library"
        workers = processors()
        with step("A directory worth keeping: a copy of Python's own library"):
            source = sysconfig.get_path("stdlib")
            shutil.copytree(source, work, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
            first = inventory(work)
            size = sum(path.lstat().st_size for path in work.rglob("*") if path.is_file())
            say(f"{len(first):,} entries, {print_bytes(size)}")

        with step("A repository: encrypted, compressed, every piece stored once"):
            store = LocalStore(str(self.directory / "repository"))
            cache = str(self.directory / "cache")
            repository = Repository.create(store, PASSWORD, cache_directory=cache)

        request = BackupRequest(paths=(os.fsencode(work),), workers=workers, settle_ns=0)
        with step("First backup"):
            describe(backup(repository, request))
            say(f"the repository takes {print_bytes(disk_usage(self.directory / 'repository'))}")

        with step("Some work: a file edited, one grown, one new, one removed, one renamed"):
            change(work)
            second = inventory(work)

        with step("Second backup: only what changed is read and stored"):
            describe(backup(repository, request))
            say(f"the repository takes {print_bytes(disk_usage(self.directory / 'repository'))}")

        with step("History"):
            snapshots, findings = repository.snapshots()
            expect(not findings, "a snapshot cannot be read")
            for snapshot in snapshots:
                say(f"{snapshot.short_id}  {snapshot.time:%H:%M:%S}  {', '.join(snapshot.paths)}")

        with step("Disaster: the directory is gone. Restore it, and compare every entry"):
            shutil.rmtree(work)
            for snapshot, expected in ((snapshots[1], second), (snapshots[0], first)):
                target = work if expected is second else self.directory / "as-it-was"
                asked = RestoreRequest(
                    snapshot=snapshot.id,
                    target=os.fsencode(target),
                    path=os.fsencode(work).strip(b"/"),
                    workers=workers,
                )
                result = restore(repository, asked)
                expect(not result.findings, f"the restore of {snapshot.short_id} has findings")
                compare(expected, inventory(target))
                say(
                    f"{snapshot.short_id}: {len(expected):,} entries are the same in content, "
                    f"mode, owner and time; {result.seconds:.1f} s"
                )

        with step("Verify: read the whole repository"):
            verified = verify(repository, VerifyRequest(read_data=True, workers=workers))
            expect(verified.clean, "; ".join(each.message for each in verified.findings))
            say(f"{verified.packs_read} packs, {print_bytes(verified.bytes_read)}: all is right")

        self._ask_restic()
        write(_NEXT)

    def _ask_restic(self) -> None:
        program = next(filter(None, map(shutil.which, _RESTICS)), None)
        with step("A second opinion: plain restic reads the same repository"):
            if program is None:
                say("there is no restic here; `apt install restic` and run this again")
                return
            environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD}
            where = ["-r", str(self.directory / "repository"), "--no-cache"]
            checked = subprocess.run(
                [program, *where, "check", "--read-data"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            expect(checked.returncode == 0, f"restic says:\n{checked.stdout}{checked.stderr}")
            say(f"`restic check --read-data`: {checked.stdout.strip().splitlines()[-1]}")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a title, and how long what follows took."""
    write(f"\n{title}")
    began = time.monotonic()
    yield
    say(f"[{time.monotonic() - began:.1f} s]")


def say(line: str) -> None:
    write(f"    {line}")


def write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Differs(otherwise)


def describe(result: BackupResult) -> None:
    """Print what a backup did."""
    expect(not result.findings, "; ".join(each.message for each in result.findings))
    counts, added = result.counts, result.added
    speed = print_bytes(int(counts.bytes_seen / max(result.seconds, 1e-3)))
    say(
        f"{counts.files_new:,} new, {counts.files_changed:,} changed, "
        f"{counts.files_unmodified:,} unmodified files; {print_bytes(counts.bytes_seen)} "
        f"in {result.seconds:.1f} s ({speed}/s)"
    )
    say(f"{print_bytes(added.raw_bytes)} were new; stored as {print_bytes(added.stored_bytes)}")


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
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


_NEXT = """
Everything came back as it was. Next, with your own files:

    export HOLDFAST_REPOSITORY=/srv/backup
    export HOLDFAST_PASSWORD_FILE=$HOME/.config/holdfast/password
    .venv/bin/holdfast init
    .venv/bin/holdfast backup ~/project
    .venv/bin/holdfast restore latest --target /tmp/back

`.venv/bin/holdfast --help` lists all commands; docs/tutorial/first-backup.md goes on from here."""


if __name__ == "__main__":
    main()
