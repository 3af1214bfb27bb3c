"""What a restore is asked to do: the request, its scope within the snapshot, its plan, its result.

Values only: they say what is wanted, and can be sent to worker processes. Paths are relative
to the top of what is restored, bytes, without a slash at either end.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from holdfast.errors import UsageError
from holdfast.flows.locate import MANIFEST_DIRECTORY
from holdfast.model.finding import Finding
from holdfast.model.patterns import PathFilter
from holdfast.model.snapshot import Snapshot
from holdfast.sources.path.restore_plan import Overwrite, RestoreOptions, RestorePlan
from holdfast.sources.path.selection import Selection


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to restore, where to, and how.

    `snapshot` is an id, the beginning of one, or ``latest``. The content of the directory
    `path` inside it, by default its root, is put below `target`; of a file, the file itself.
    `paths`, relative to `path`, and `selection` limit what is taken of it.

    `compare_content` reads files that exist instead of trusting their size and time.
    `verify` reads everything back from the disk. `sparse` leaves runs of zeroes as holes.
    `root_metadata` gives `target` itself the owner, mode and times of `path`. `strict`
    makes damage an error instead of a finding. `sync` returns only when all is on disk.
    `finish_begun` lets an interruption wait for files that are being written, so that what
    is there is whole; without it the restore ends at once, for a target that nobody keeps.
    `workers` is 0 to work inside this process.
    """

    snapshot: str
    target: bytes
    path: bytes = b""
    paths: tuple[bytes, ...] = ()
    selection: Selection = field(default_factory=Selection)
    options: RestoreOptions = field(default_factory=RestoreOptions)
    compare_content: bool = False
    verify: bool = False
    sparse: bool = True
    with_manifest: bool = False
    root_metadata: bool = False
    check_space: bool = True
    strict: bool = False
    sync: bool = False
    finish_begun: bool = True
    dry_run: bool = False
    workers: int = 2
    with_lock: bool = True
    wait_for_lock_seconds: float = 0.0

    def check(self) -> None:
        """Raise `UsageError` for a request that contradicts itself."""
        if self.selection.caches or self.selection.if_present:
            raise UsageError(
                "rules on cache directories and on what a directory holds are for backups; "
                "use patterns to choose what to restore"
            )
        if self.verify and self.options.overwrite is Overwrite.NEVER:
            raise UsageError(
                "files that exist are kept as they are when nothing may be overwritten, so they "
                "cannot be verified against the snapshot; leave out one of the two"
            )
        self.selection.check()


@dataclass(frozen=True)
class RestoreScope:
    """Which entries below the top are restored.

    `paths` are chosen with everything below them; without any, everything is. A directory
    that patterns only lead through is taken where it is in `needed`, which a plan finds.
    """

    selection: Selection = field(default_factory=Selection)
    paths: tuple[bytes, ...] = ()
    leaves_manifest: bool = False
    needed: frozenset[bytes] | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out but perhaps the manifest."""
        return self.selection.takes_all and not self.paths

    @property
    def leads_through(self) -> bool:
        """Whether directories may be only on the way to what is chosen."""
        return bool(self.selection.include or self.selection.whitelist)

    def excludes(self, path: bytes, is_directory: bool, size: int = 0) -> bool:
        """Whether an entry is left out; of a directory, with everything below it."""
        if self.leaves_manifest and path == MANIFEST_DIRECTORY:
            return True
        if self.paths and not self._chosen_by_path(path, is_directory):
            return True
        if self.selection.takes_all:
            return False
        if self._filter.excludes(path, is_directory):
            return True
        if is_directory:
            return self.needed is not None and not (path in self.needed or self.takes_itself(path))
        limit = self.selection.larger_than_bytes
        return limit is not None and size > limit

    def takes_itself(self, directory: bytes) -> bool:
        """Whether a directory is chosen, and not only on the way to something chosen."""
        # No file can have that name, so no pattern means it: what decides is the directory.
        return not self.leads_through or not self._filter.excludes(
            directory + b"/\0", is_directory=False
        )

    def _chosen_by_path(self, path: bytes, is_directory: bool) -> bool:
        if is_directory and path in self._leading:
            return True
        while path:
            if path in self._chosen:
                return True
            path = path.rpartition(b"/")[0]
        return False

    @functools.cached_property
    def _chosen(self) -> frozenset[bytes]:
        return frozenset(self.paths)

    @functools.cached_property
    def _leading(self) -> frozenset[bytes]:
        leading = set()
        for path in self.paths:
            above = path.rpartition(b"/")[0]
            while above:
                leading.add(above)
                above = above.rpartition(b"/")[0]
        return frozenset(leading)

    @functools.cached_property
    def _filter(self) -> PathFilter:
        rules = self.selection
        return PathFilter(
            exclude=rules.exclude,
            include=rules.include,
            whitelist=rules.whitelist,
            blacklist=rules.blacklist,
        )


@dataclass(frozen=True, slots=True)
class PlannedRestore:
    """What a restore would do; what ``--dry-run`` prints.

    `free_bytes` is the room at the target now. A restore in place carries out this plan's
    deletions and no others.
    """

    snapshot: Snapshot
    plan: RestorePlan
    free_bytes: int
    needed_directories: frozenset[bytes] | None = None

    @property
    def fits(self) -> bool:
        """Whether the target has the room."""
        return self.plan.needed_bytes <= self.free_bytes


@dataclass(slots=True)
class RestoreCounts:
    """Entries by what was done with them, and the logical bytes of files written."""

    files: int = 0
    directories: int = 0
    links: int = 0
    others: int = 0
    updated: int = 0
    left: int = 0
    failed: int = 0
    verified: int = 0
    bytes_written: int = 0
    bytes_verified: int = 0

    @property
    def entries(self) -> int:
        """Everything but directories that has been dealt with."""
        return self.files + self.links + self.others + self.updated + self.left + self.failed

    def include(self, other: RestoreCounts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did. `plan` is set for a dry run and where one was made.

    `findings` names what is not as in the snapshot; every damaged file is among them.
    """

    snapshot: Snapshot
    plan: PlannedRestore | None
    counts: RestoreCounts
    deleted: int
    findings: tuple[Finding, ...]
    seconds: float
