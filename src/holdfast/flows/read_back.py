"""Read back what a backup has stored, through the store, and hold it against what was meant.

The snapshot's record, the index files and every pack that the run wrote are fetched anew and
checked as a verification does: name, header, every blob. Blobs that were there before are
not read; verifying them is another act. Reads only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from holdfast.errors import Damaged, ObjectNotFound, StoreDenied
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.model.snapshot import Snapshot
from holdfast.repo.check_packs import CheckedPack, CheckPack, CheckSetup
from holdfast.repo.indexfile import decode_index
from holdfast.repo.lock import PRUNE
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.pack import PackedBlob, pack_size_bytes
from holdfast.repo.packlist import PackList
from holdfast.repo.pool import Pool
from holdfast.repo.repository import FileKind, Repository, pack_key

_REPORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What was looked at. `bytes_read` is 0 where only sizes could be asked for."""

    packs: int
    bytes_read: int


def read_back(
    repository: Repository,
    snapshot_id: str,
    packs: Sequence[bytes],
    indexes: Sequence[str],
    report: Report = ignore_progress,
    *,
    workers: int = 2,
    wait_for_lock_seconds: float = 0.0,
) -> ReadBack:
    """Read a snapshot's record, index files and packs; raise `Damaged` at the first fault."""
    with repository.lock("verify", tolerates={PRUNE}, wait_seconds=wait_for_lock_seconds) as lock:
        return check_stored(
            repository, snapshot_id, packs, indexes, report, workers=workers, forked=lock.keep
        )


def check_stored(
    repository: Repository,
    snapshot_id: str,
    packs: Sequence[bytes],
    indexes: Sequence[str],
    report: Report = ignore_progress,
    *,
    workers: int = 0,
    forked: Callable[[], object] = lambda: None,
) -> ReadBack:
    """As `read_back`, for who holds a lock; `forked` is called when the workers run."""
    repository.snapshot(snapshot_id)
    blobs = _listed(repository, packs, indexes)
    total = sum(pack_size_bytes(each) for each in blobs.values())
    count = read = 0
    reported = 0.0
    workers = workers if repository.store.shareable and len(packs) > 1 else 0
    with Pool(workers, CheckSetup(repository), fork=repository.store.fork_safe) as pool:
        forked()
        checked: CheckedPack
        for checked in pool.unordered(CheckPack(pack, blobs[pack]) for pack in packs):
            _refuse(checked)
            count += 1
            read += checked.bytes_read
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                report(Progress("read_back", bytes_done=read, bytes_total=total))
    return ReadBack(count, read)


def compare_sizes(
    repository: Repository, packs: Sequence[bytes], indexes: Sequence[str]
) -> ReadBack | None:
    """For who may not read packs: ask their sizes only. None where even that is refused."""
    blobs = _listed(repository, packs, indexes)
    for pack in packs:
        try:
            size = repository.store.size(pack_key(pack))
        except StoreDenied:
            return None
        except ObjectNotFound:
            raise _gone(pack) from None
        expected = pack_size_bytes(blobs[pack])
        if size != expected:
            raise Damaged(
                f"pack {pack.hex()[:8]} has {size} bytes in the store and {expected} were "
                "written; the store lost some, so this backup cannot be trusted"
            )
    return ReadBack(len(packs), 0)


def packs_of(repository: Repository, snapshot: Snapshot) -> list[bytes]:
    """The packs that a snapshot needs and its parent does not: what its run has written.

    Packs that another run wrote at the same time may be among them.
    """
    packs = PackList(repository.open_index())
    mine, before = NeededBlobs(packs), NeededBlobs(packs)
    mine.add_trees(repository, [bytes.fromhex(snapshot.tree)])
    mine.choose()
    if snapshot.parent in repository.ids(FileKind.SNAPSHOT):
        parent = repository.snapshot(str(snapshot.parent))
        before.add_trees(repository, [bytes.fromhex(parent.tree)])
    own = mine.bytes_without(before).tolist()
    return sorted(packs.packs[number].id for number, size in enumerate(own) if size)


def _listed(
    repository: Repository, packs: Iterable[bytes], indexes: Iterable[str]
) -> dict[bytes, list[PackedBlob]]:
    """The blobs of each pack, by the index files as they are in the store now."""
    wanted = set(packs)
    found: dict[bytes, list[PackedBlob]] = {}
    for name in indexes:
        try:
            text = repository.load(FileKind.INDEX, name)
        except ObjectNotFound:
            continue  # a prune has put another in its place
        for listed in decode_index(text, f"index {name[:8]}"):
            if listed.id in wanted:
                found[listed.id] = listed.blobs
    if wanted - found.keys():
        every = PackList(repository.open_index())
        for pack in wanted - found.keys():
            number = every.number_of.get(pack)
            if number is None:
                raise Damaged(f"pack {pack.hex()[:8]} was stored and is in no index")
            found[pack] = every.blobs(number)
    return found


def _refuse(checked: CheckedPack) -> None:
    if checked.missing:
        raise _gone(checked.pack)
    if checked.findings:
        raise Damaged(
            f"{checked.findings[0].message}. What was just stored cannot be read back; run "
            "`holdfast verify`, and look after the storage"
        )


def _gone(pack: bytes) -> Damaged:
    return Damaged(
        f"pack {pack.hex()[:8]} was stored a moment ago and is gone; look after the storage"
    )
