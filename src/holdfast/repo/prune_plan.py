"""What a prune would do with each pack, and why: a value, and the rules that make it.

Pure but for looking things up in the index. Nothing here writes or deletes. A pack that is
needed is never marked or swept; a marked one is swept only when its mark is older than
the grace period and than every writer at work (``docs/design/operations.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from holdfast.errors import Damaged, UsageError
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.pack import BlobType, pack_size_bytes
from holdfast.repo.packlist import PackList
from holdfast.repo.writer import PACK_BYTES

GRACE = timedelta(hours=23)
_WRITER_MARGIN = timedelta(hours=1)
_SMALL_PACK_BYTES = PACK_BYTES // 4
_LEAST_SMALL_PACKS = 8


class PackAction(StrEnum):
    """What becomes of a pack that does not simply stay."""

    REPACK = "repack"
    """What is needed of it is copied into a new pack, and it is marked."""
    MARK = "mark"
    """Nothing of it is needed: marked now, deleted after the grace period."""
    WAIT = "wait"
    """Marked before, and not for long enough."""
    SWEEP = "sweep"
    """Marked long ago and still not needed: deleted."""
    REVIVE = "revive"
    """Marked, and needed after all: listed as alive again."""
    FORGET = "forget"
    """Listed, but gone, and not needed: taken out of the index."""
    RELIST = "relist"
    """In several index files: listed once from now on."""


@dataclass(frozen=True, slots=True)
class PackDecision:
    """One pack's fate. `needed` has a byte for each blob in the order of offsets, for a repack."""

    pack: bytes
    action: PackAction
    reason: str
    size_bytes: int
    needed_bytes: int = 0
    needed: bytes = b""


@dataclass(frozen=True, slots=True)
class PruneLimits:
    """How far a prune goes.

    `max_unused_percent` is how much of the needed bytes may lie unused in packs that stay;
    `max_repack_bytes` bounds what one run copies; `merge_small` joins packs that are much
    smaller than they should be. `instant` deletes at once instead of marking.
    """

    max_unused_percent: float = 5.0
    max_repack_bytes: int | None = None
    grace: timedelta = GRACE
    merge_small: bool = True
    instant: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_unused_percent <= 100:
            raise UsageError(f"max-unused {self.max_unused_percent}% cannot be; give 0 to 100")
        if self.grace < timedelta(0):
            raise UsageError("a grace period cannot be negative")


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Everything that a prune will do; executing it takes nothing else.

    `snapshots` and `indexes` are what it was made from. `kept_packs` and `kept_bytes` are
    of packs that stay as they are, `unused_bytes` what is not needed in them.
    """

    repository_id: str
    limits: PruneLimits
    made: datetime
    snapshots: frozenset[str]
    indexes: frozenset[bytes]
    decisions: tuple[PackDecision, ...]
    kept_packs: int
    kept_bytes: int
    needed_bytes: int
    unused_bytes: int
    spare_blobs: int
    workers: int = 2

    def count(self, *actions: PackAction) -> int:
        return sum(decision.action in actions for decision in self.decisions)

    def bytes_of(self, *actions: PackAction) -> int:
        return sum(d.size_bytes for d in self.decisions if d.action in actions)

    @property
    def repacked_bytes(self) -> int:
        """Bytes that are copied into new packs."""
        return sum(d.needed_bytes for d in self.decisions if d.action is PackAction.REPACK)

    @property
    def freed_now_bytes(self) -> int:
        """Bytes that this run gives back; negative where it first has to copy."""
        swept = self.bytes_of(PackAction.SWEEP)
        return swept - self.repacked_bytes + (self._going if self.limits.instant else 0)

    @property
    def freed_later_bytes(self) -> int:
        """Bytes that a run after the grace period gives back."""
        return self.bytes_of(PackAction.WAIT) + (0 if self.limits.instant else self._going)

    @property
    def _going(self) -> int:
        return self.bytes_of(PackAction.MARK, PackAction.REPACK)

    @property
    def does_nothing(self) -> bool:
        return not any(d.action is not PackAction.WAIT for d in self.decisions)


@dataclass(slots=True)
class _Candidate:
    number: int
    size: int
    needed: int
    why: str = ""
    must: bool = False


class PackRules:
    """Decides about every pack, given what is needed."""

    def __init__(
        self,
        packs: PackList,
        needed: NeededBlobs,
        sizes: Mapping[bytes, int],
        *,
        limits: PruneLimits,
        now: datetime,
        oldest_writer: datetime | None,
    ) -> None:
        """`sizes` are those of the pack files; `needed` has chosen its copies.

        `oldest_writer` is when the writer that has been at work longest began, if any is.
        """
        self._packs, self._needed, self._sizes, self._limits = packs, needed, sizes, limits
        sweep_before = now - limits.grace
        if oldest_writer is not None:
            # A mark carries the time at which writing index files began; whoever opened the
            # index before that was done was still offered the pack.
            sweep_before = min(sweep_before, oldest_writer - _WRITER_MARGIN)
        self._sweep_before_ns = int(sweep_before.timestamp() * 1_000_000_000)
        self.decisions: list[PackDecision] = []
        self.kept_packs = self.kept_bytes = self.unused_bytes = 0
        self.needed_bytes = 0

    def decide(self) -> None:
        """Fill `decisions`; raise `Damaged` where something needed is not there."""
        needed_bytes = self._needed.bytes_by_pack().tolist()
        self.needed_bytes = sum(needed_bytes)
        candidates: dict[int, _Candidate] = {}
        small: dict[BlobType, dict[int, _Candidate]] = {kind: {} for kind in BlobType}
        relist: list[int] = []
        for number, pack in enumerate(self._packs.packs):
            size, needed = self._sizes.get(pack.id), needed_bytes[number]
            if not needed:
                self._not_needed(number, size)
                continue
            size = self._whole_size(number, size, needed)
            if pack.marked_ns is not None:
                self._add(number, PackAction.REVIVE, "a snapshot needs it after all", size, needed)
                continue
            if pack.listings > 1:
                relist.append(number)
            self._consider(_Candidate(number, size, needed), candidates, small)
        for of_kind in small.values():
            if self._limits.merge_small and len(of_kind) >= _LEAST_SMALL_PACKS:
                candidates |= of_kind
        repacked = self._choose(list(candidates.values()))
        for number in relist:
            if number not in repacked:
                size = self._sizes[self._packs.packs[number].id]
                self._add(number, PackAction.RELIST, "listed in several index files", size)
        self._unlisted()
        self._count_kept(repacked, needed_bytes)

    def _not_needed(self, number: int, size: int | None) -> None:
        pack = self._packs.packs[number]
        if size is None:
            self._add(number, PackAction.FORGET, "listed, but gone, and not needed", 0)
        elif pack.marked_ns is None:
            self._add(number, PackAction.MARK, "no snapshot needs it", size)
        elif self._limits.instant or pack.marked_ns < self._sweep_before_ns:
            self._add(number, PackAction.SWEEP, "marked long ago, and not needed since", size)
        else:
            self._add(number, PackAction.WAIT, "marked, the grace period is not over", size)

    def _whole_size(self, number: int, size: int | None, needed: int) -> int:
        pack = self._packs.packs[number]
        if size == pack_size_bytes(self._packs.blobs(number)):
            return size
        state = "is gone" if size is None else f"has {size} bytes, which the index does not list"
        raise Damaged(
            f"pack {pack.id.hex()[:8]} {state}, and snapshots need {needed} bytes of it; nothing "
            "was pruned. Run `holdfast verify`, then `holdfast repair`"
        )

    def _consider(
        self,
        pack: _Candidate,
        candidates: dict[int, _Candidate],
        small: dict[BlobType, dict[int, _Candidate]],
    ) -> None:
        blobs = self._packs.blobs(pack.number)
        kinds = {blob.type for blob in blobs}
        unused = sum(blob.length for blob in blobs) - pack.needed
        if len(kinds) > 1:
            pack.why = "holds trees and data, as old versions of restic mixed them"
            pack.must = True
            candidates[pack.number] = pack
            return
        if unused:
            pack.why = f"{unused} of its {pack.size} bytes are not needed"
            candidates[pack.number] = pack
        if pack.size < _SMALL_PACK_BYTES:
            why = f"small, with {pack.size} bytes"
            small[kinds.pop()][pack.number] = _Candidate(
                pack.number, pack.size, pack.needed, why, must=True
            )

    def _choose(self, candidates: list[_Candidate]) -> set[int]:
        """Add decisions to repack; return the numbers of those packs."""
        allowed = self.needed_bytes * self._limits.max_unused_percent / 100
        unused = sum(c.size - c.needed for c in candidates)
        budget = self._limits.max_repack_bytes
        repacked: set[int] = set()
        for candidate in sorted(
            candidates, key=lambda c: (not c.must, -(c.size - c.needed) / c.size, c.number)
        ):
            if not candidate.must and unused <= allowed:
                break
            if budget is not None:
                if candidate.needed > budget:
                    continue
                budget -= candidate.needed
            unused -= candidate.size - candidate.needed
            repacked.add(candidate.number)
            self._repack(candidate)
        return repacked

    def _repack(self, candidate: _Candidate) -> None:
        rows = sorted(
            self._packs.rows(candidate.number),
            key=lambda place: self._packs.index.tables[place[0]].row(place[1])[2],
        )
        self.decisions.append(
            PackDecision(
                self._packs.packs[candidate.number].id,
                PackAction.REPACK,
                candidate.why,
                candidate.size,
                candidate.needed,
                bytes(self._needed.is_needed(t, row) for t, row in rows),
            )
        )

    def _unlisted(self) -> None:
        for pack, size in self._sizes.items():
            if pack not in self._packs.number_of:
                self.decisions.append(PackDecision(pack, PackAction.MARK, "in no index file", size))

    def _count_kept(self, repacked: set[int], needed_bytes: list[int]) -> None:
        decided = {
            decision.pack for decision in self.decisions if decision.action is not PackAction.RELIST
        }
        for number, pack in enumerate(self._packs.packs):
            if pack.id not in decided and number not in repacked:
                size = self._sizes[pack.id]
                self.kept_packs += 1
                self.kept_bytes += size
                self.unused_bytes += max(
                    0, sum(b.length for b in self._packs.blobs(number)) - needed_bytes[number]
                )

    def _add(
        self, number: int, action: PackAction, reason: str, size: int, needed: int = 0
    ) -> None:
        self.decisions.append(
            PackDecision(self._packs.packs[number].id, action, reason, size, needed)
        )
