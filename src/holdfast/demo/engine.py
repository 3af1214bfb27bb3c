"""The engine by itself: back up, change, back up again, restore, verify, ask restic.

It works in a temporary directory, changes nothing outside of it, and ends with a failure
if anything that comes back differs.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.cli.invocation import processors
from holdfast.demo import restic, work_tree
from holdfast.demo.narration import expect, say, step, write
from holdfast.flows.backup import BackupRequest, BackupResult, backup
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, verify
from holdfast.model.quantity import print_bytes
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

PASSWORD = "only for this demonstration"  # noqa: S105


@dataclass
class Demonstration:
    """All steps, in a directory of its own."""

    directory: Path

    def run(self) -> None:
        work = self.directory / "library"
        workers = processors()
        with step("A directory worth keeping: a copy of Python's own library"):
            work_tree.make(work)
            first = work_tree.inventory(work)
            say(f"{len(first):,} entries, {print_bytes(work_tree.disk_usage(work))}")

        with step("A repository: encrypted, compressed, every piece stored once"):
            store = LocalStore(str(self.directory / "repository"))
            cache = str(self.directory / "cache")
            repository = Repository.create(store, PASSWORD, cache_directory=cache)

        request = BackupRequest(paths=(os.fsencode(work),), workers=workers, settle_ns=0)
        with step("First backup"):
            describe(backup(repository, request))
            self._say_size()

        with step("Some work: a file edited, one grown, one new, one removed, one renamed"):
            work_tree.change(work)
            second = work_tree.inventory(work)

        with step("Second backup: only what changed is read and stored"):
            describe(backup(repository, request))
            self._say_size()

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
                work_tree.compare(expected, work_tree.inventory(target))
                say(
                    f"{snapshot.short_id}: {len(expected):,} entries are the same in content, "
                    f"mode, owner and time; {result.seconds:.1f} s"
                )

        with step("Verify: read the whole repository"):
            verified = verify(repository, VerifyRequest(read_data=True, workers=workers))
            expect(verified.clean, "; ".join(each.message for each in verified.findings))
            say(f"{verified.packs_read} packs, {print_bytes(verified.bytes_read)}: all is right")

        with step("A second opinion: plain restic reads the same repository"):
            restic.check({"RESTIC_PASSWORD": PASSWORD}, "-r", str(self.directory / "repository"))
        write(_NEXT)

    def _say_size(self) -> None:
        size = work_tree.disk_usage(self.directory / "repository")
        say(f"the repository takes {print_bytes(size)}")


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


_NEXT = """
Everything came back as it was. Next, with your own files:

    export HOLDFAST_REPOSITORY=/srv/backup
    export HOLDFAST_PASSWORD_FILE=$HOME/.config/holdfast/password
    .venv/bin/holdfast init
    .venv/bin/holdfast backup ~/project
    .venv/bin/holdfast restore latest --target /tmp/back

`.venv/bin/holdfast --help` lists all commands; docs/tutorial/first-backup.md goes on from here."""
