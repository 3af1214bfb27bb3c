"""Verify a repository: is what the snapshots refer to there, and are the bytes right?

Reads only. Damage is traced to the files of the snapshots that it costs. The structure is
always checked whole; content is read whole, as a random part, or as a rolling share, of
which so many runs together cover everything.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.model.finding import Finding
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.repo.check_packs import CheckedPack, CheckPack, CheckSetup
from holdfast.repo.damage import DamagedSnapshot, LostPath, trace_damage
from holdfast.repo.lock import PRUNE
from holdfast.repo.pool import Pool
from holdfast.repo.repository import Repository
from holdfast.repo.verify import Structure

_REPORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """How much of the content to read, beside the structure.

    `read_data` reads every pack, `percent` so much of them by chance (`seed` repeats a
    choice), `share` is (n, t): the n-th of t parts, which never overlap and of which all t
    together are everything. Only one of the three may be given. `workers` is 0 to work
    inside this process.
    """

    read_data: bool = False
    percent: float | None = None
    share: tuple[int, int] | None = None
    seed: int | None = None
    workers: int = 2
    wait_for_lock_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.read_data + (self.percent is not None) + (self.share is not None) > 1:
            raise UsageError("give one of read-data, a percentage and a share, not several")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise UsageError(
                f"a percentage of {self.percent} cannot be; give more than 0, up to 100"
            )
        if self.share is not None and not 1 <= self.share[0] <= self.share[1]:
            raise UsageError(f"share {self.share[0]}/{self.share[1]} cannot be; give 1/t to t/t")

    def chosen(self, packs: list[bytes]) -> list[bytes]:
        """Return the packs to read, in the order of their ids."""
        packs = sorted(packs)
        if self.read_data:
            return packs
        if self.percent is not None:
            count = -(-len(packs) * self.percent // 100)
            return sorted(random.Random(self.seed).sample(packs, min(len(packs), int(count))))
        if self.share is not None:
            n, parts = self.share
            # By the id alone, so that packs that come and go do not move the others.
            return [pack for pack in packs if int.from_bytes(pack[:8], "big") % parts == n - 1]
        return []


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was found. `findings` are damage, `notes` are harmless leftovers.

    `damaged` names the snapshots that cannot be restored whole, each with its lost paths.
    """

    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    damaged: tuple[DamagedSnapshot, ...]
    snapshots: int
    trees: int
    packs: int
    packs_read: int
    bytes_read: int
    damaged_packs: tuple[str, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, as far as was looked."""
        return not self.findings and not self.damaged


def verify(
    repository: Repository, request: VerifyRequest, report: Report = ignore_progress
) -> VerifyResult:
    """Check a repository and return everything that is wrong with it."""
    started = time.monotonic()
    with repository.lock(
        "verify", tolerates={PRUNE}, wait_seconds=request.wait_for_lock_seconds
    ) as lock:
        structure = Structure(repository)
        speaker = _Speaker(report)
        structure.check(lambda trees: speaker.say(Progress("trees", files_done=trees)))
        wanted = request.chosen([pack.id for pack in structure.packs.packs if pack.blob_count])
        wanted = [pack for pack in wanted if pack in structure.sizes]
        workers = request.workers if repository.store.shareable and wanted else 0
        with Pool(workers, CheckSetup(repository), fork=repository.store.fork_safe) as pool:
            lock.keep()
            packs_read, bytes_read, bad_packs = _read(structure, wanted, pool, speaker)
        damaged = _damaged_snapshots(repository, structure)
    bad_packs |= {
        f.subject for f in structure.findings if f.code in ("pack_missing", "pack_size_wrong")
    }
    return VerifyResult(
        tuple(structure.findings),
        tuple(structure.notes),
        tuple(damaged),
        len(structure.snapshots) + len(structure.unreadable_snapshots),
        structure.trees,
        len(structure.packs),
        packs_read,
        bytes_read,
        tuple(sorted(bad_packs)),
        time.monotonic() - started,
    )


class _Speaker:
    """Passes progress on, several times a second at most."""

    def __init__(self, report: Report) -> None:
        self._report, self._said = report, 0.0

    def say(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said >= _REPORT_SECONDS:
            self._said = now
            self._report(progress)


def _read(
    structure: Structure, wanted: list[bytes], pool: Pool, speaker: _Speaker
) -> tuple[int, int, set[str]]:
    packs = structure.packs
    total = sum(structure.sizes[pack] for pack in wanted)
    tasks = (CheckPack(pack, packs.blobs(packs.number_of[pack])) for pack in wanted)
    count = read = 0
    bad_packs: set[str] = set()
    checked: CheckedPack
    for checked in pool.unordered(tasks):
        count += not checked.missing
        read += checked.bytes_read
        structure.findings.extend(checked.findings)
        if checked.findings:
            bad_packs.add(checked.pack.hex())
        structure.bad.update((kind, blob_id, checked.pack) for kind, blob_id in checked.bad)
        speaker.say(Progress("packs", bytes_done=read, bytes_total=total))
    structure.lost |= {
        (kind, blob_id) for kind, blob_id, _ in structure.bad if structure.is_lost(kind, blob_id)
    }
    return count, read, bad_packs


def _damaged_snapshots(repository: Repository, structure: Structure) -> list[DamagedSnapshot]:
    whole = (LostPath("/", "the snapshot's record cannot be read"),)
    damaged = [
        DamagedSnapshot(name, None, "", (), whole) for name in structure.unreadable_snapshots
    ]
    if structure.lost:
        damaged.extend(
            trace_damage(repository, structure.index, structure.snapshots, structure.lost)
        )
    return damaged
