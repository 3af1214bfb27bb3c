"""What has to hold after a crash: nothing promised is lost, and work goes on.

`look` changes nothing that lasts: it verifies everything and goes through what is listed.
`go_on` backs up and prunes on top of what was left, until the leftovers are gone, and then
restores everything.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from crash_history import MAIN, SECOND, Ground
from crash_journal import Content, Promises, attempt_of
from sample_repository import CHEAP, DAY, NOW, PASSWORD
from tree_compare import Entry, describe_tree, differences

from holdfast.errors import NotARepository
from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.prune import PruneRequest, plan_prune, prune
from holdfast.flows.read_disk import StoredDisk
from holdfast.flows.restore import restore
from holdfast.flows.restore_request import RestoreRequest
from holdfast.flows.verify import VerifyRequest, VerifyResult, verify
from holdfast.model.snapshot import Snapshot
from holdfast.repo.prune_plan import PruneLimits
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.protocol import ObjectStore

HARMLESS = frozenset({"packs_unreferenced", "packs_marked", "packs_listed_twice", "lock_stale"})
AFTERWARDS = NOW + 400 * DAY


def look(ground: Ground, where: int, store: ObjectStore, promises: Promises) -> list[Snapshot]:
    """Fail unless the repository is whole and lists what it has to; return what it lists.

    With `assert_restores` for each of them that is all that was promised.
    """
    try:
        repository = Repository.open(store, PASSWORD)
    except NotARepository:
        assert not promises.kept(where), "an acknowledged snapshot's repository is gone"
        return []
    assert_whole(repository)
    listed = {snapshot.id: snapshot for snapshot in repository.snapshots()[0]}
    lost = promises.kept(where).keys() - listed.keys()
    assert not lost, f"acknowledged snapshots are gone: {sorted(lost)}"
    back = listed.keys() & {name for place, name in promises.gone if place == where}
    assert not back, f"forgotten snapshots are there again: {sorted(back)}"
    for name, snapshot in listed.items():
        attempt = attempt_of(snapshot.tags)
        assert promises.stored.get((where, name), attempt) == attempt
    return list(listed.values())


def assert_whole(repository: Repository) -> VerifyResult:
    """Everything can be read, and what is left over is known to be harmless."""
    result = verify(repository, VerifyRequest(read_data=True, workers=0))
    assert result.clean, (result.findings, result.damaged)
    codes = {note.code for note in result.notes}
    assert codes <= HARMLESS, result.notes
    return result


def assert_restores(
    ground: Ground, repository: Repository, snapshot: Snapshot, content: Content
) -> None:
    """What comes back of a snapshot is what was there, to the last attribute."""
    if isinstance(content, str):
        disk = StoredDisk.open(repository, repository.open_index(), snapshot)
        assert hashlib.sha256(disk.read(0, disk.size_bytes)).hexdigest() == content
        return
    target = ground.directory / "restored"
    result = restore(
        repository,
        RestoreRequest(
            snapshot.id,
            os.fsencode(target),
            path=os.fsencode(snapshot.paths[0]).lstrip(b"/"),
            root_metadata=True,
            workers=0,
        ),
    )
    assert not result.findings, result.findings
    try:
        assert_content(target, content)
    finally:
        shutil.rmtree(target)


def assert_content(target: Path, content: dict[bytes, Entry]) -> None:
    found = differences(describe_tree(target, root_entry=True), content)
    assert not found, "\n".join(found[:20])


def go_on(ground: Ground, where: int, store: ObjectStore, promises: Promises) -> None:
    """Fail unless a backup and prunes work as if nothing had happened, and tidy up.

    Every snapshot is restored at the end; a prune loses what it can and mends nothing.
    """
    try:
        repository = Repository.open(store, PASSWORD)
    except NotARepository:
        Repository.create(store, PASSWORD, scrypt=CHEAP)
        repository = Repository.open(store, PASSWORD)
    kept = {snapshot.id for snapshot in repository.snapshots()[0]}
    content = describe_tree(ground.tree, root_entry=True)
    request = BackupRequest((os.fsencode(ground.tree),), workers=0, settle_ns=0)
    snapshot = backup(repository, request).snapshot
    assert snapshot is not None
    for days in range(5):
        now = AFTERWARDS + days * DAY
        tidy = PruneRequest(PruneLimits(max_unused_percent=0), workers=0, now=now)
        plan = plan_prune(repository, tidy)
        if plan.does_nothing:
            break
        prune(repository, plan, now=now)
    notes = assert_whole(repository).notes
    assert not notes, f"prunes leave something behind: {notes}"
    assert not repository.ids(FileKind.LOCK)
    listed = {each.id: each for each in repository.snapshots()[0]}
    assert listed.keys() == kept | {snapshot.id}
    assert_restores(ground, repository, snapshot, content)
    for name in kept:
        attempt = attempt_of(listed[name].tags)
        assert_restores(ground, repository, listed[name], promises.contents[attempt])


def assert_nothing_lost(
    ground: Ground,
    stores: tuple[ObjectStore, ObjectStore],
    promises: Promises,
    places: tuple[int, ...] = (MAIN, SECOND),
) -> None:
    """Look at both repositories, or at some, and restore everything."""
    for where in places:
        for snapshot in look(ground, where, stores[where], promises):
            content = promises.contents[attempt_of(snapshot.tags)]
            assert_restores(ground, Repository.open(stores[where], PASSWORD), snapshot, content)


def assert_all_well(
    ground: Ground,
    stores: tuple[ObjectStore, ObjectStore],
    promises: Promises,
    places: tuple[int, ...] = (MAIN, SECOND),
) -> None:
    """Look at both repositories, or at some, go on with them, and restore everything."""
    for where in places:
        look(ground, where, stores[where], promises)
    for where in places:
        go_on(ground, where, stores[where], promises)


def assert_restic_agrees(program: str, directory: Path) -> None:
    """Plain restic finds nothing wrong either."""
    if not (directory / "config").exists():
        return
    done = subprocess.run(
        [program, "-r", str(directory), "--no-cache", "check", "--read-data"],
        env={**os.environ, "RESTIC_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
