"""Merging small index files: the same listings in fewer files.

A directory that is captured every two seconds leaves an index file each time, and whoever
opens the repository reads all of them. Nothing about a pack changes here: every listing,
also a second one and that of a marked pack, is in a new file before the file that it was in
is removed. Killed in between, packs are listed twice, which the next prune tidies up.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import Damaged, ObjectNotFound, RepositoryLocked
from holdfast.repo.indexfile import IndexedPack, decode_index, encode_index
from holdfast.repo.lock import Lock
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.threads import JoinedThreads

MANY_FILES = 256
"""So many small files are worth a merge: everybody's cache of them is of no use after it."""

SMALL_BYTES = 1 << 20
_IDS_IN_FILE = 50_000
"""Of packs and blobs together. An id has 32 bytes that do not compress, so a full file is
never small, and is not merged again."""

_REQUESTS = 8
_READ_AHEAD = 32


@dataclass(frozen=True, slots=True)
class IndexMerge:
    """How many index files were replaced, and by how many."""

    replaced: int = 0
    written: int = 0


def small_index_files(repository: Repository) -> list[str]:
    """The ids of the index files that a merge would take; sizes come with the listing."""
    sizes = repository.sizes(FileKind.INDEX)
    return sorted(name for name, size_bytes in sizes.items() if size_bytes < SMALL_BYTES)


def merge_small_index_files(
    repository: Repository, lock: Lock, *, many: int = MANY_FILES
) -> IndexMerge:
    """Merge where at least `many` index files are small; the caller holds a prune's `lock`.

    `Damaged` where one cannot be read; what was not merged by then stays as it is.
    """
    names = small_index_files(repository)
    if len(names) < many:
        return IndexMerge()
    run = _MergeRun(repository, lock)
    with JoinedThreads(_REQUESTS) as threads:
        for first in range(0, len(names), _READ_AHEAD):
            part = names[first : first + _READ_AHEAD]
            for name, text in zip(part, list(threads.map(run.read, part)), strict=True):
                run.take(name, decode_index(text, f"index {name[:8]}"))
                if run.is_full:
                    run.finish(threads)
        run.finish(threads)
    return IndexMerge(run.replaced, run.written)


class _MergeRun:
    """Gathers files until they fill one, writes that, and removes what it replaces.

    One at a time, so that a kill leaves few files of which there is a second copy.
    """

    def __init__(self, repository: Repository, lock: Lock) -> None:
        self._repository, self._lock = repository, lock
        self._sources: list[str] = []
        self._packs: dict[tuple[bytes, int | None], list[IndexedPack]] = {}
        self._ids = 0
        self.replaced = self.written = 0

    @property
    def is_full(self) -> bool:
        return self._ids >= _IDS_IN_FILE

    def read(self, name: str) -> bytes:
        try:
            return self._repository.load(FileKind.INDEX, name)
        except ObjectNotFound:
            raise Damaged(
                f"index {name[:8]} vanished while it was merged; nothing more was removed. Run "
                "`holdfast verify`"
            ) from None

    def take(self, name: str, packs: list[IndexedPack]) -> None:
        self._sources.append(name)
        for pack in packs:
            # What a killed merge or mark has listed twice is listed once again.
            same = self._packs.setdefault((pack.id, pack.marked_ns), [])
            if pack not in same:
                same.append(pack)
                self._ids += 1 + len(pack.blobs)

    def finish(self, threads: JoinedThreads) -> None:
        """Write what was gathered, and remove where it came from."""
        sources, gathered = self._sources, list(self._packs.values())
        self._sources, self._packs, self._ids = [], {}, 0
        if len(sources) < 2:
            return
        self._refuse_if_lapsed()
        packs = [pack for same in gathered for pack in same]
        if packs:
            self._repository.save(FileKind.INDEX, encode_index(packs))
            self.written += 1
        self._refuse_if_lapsed()
        # Many at once: whoever reads the index meanwhile has to list it again.
        for _ in threads.map(self._remove, sources):
            pass
        self.replaced += len(sources)

    def _remove(self, name: str) -> None:
        self._refuse_if_lapsed()
        self._repository.remove(FileKind.INDEX, name)

    def _refuse_if_lapsed(self) -> None:
        if self._lock.lapsed():
            raise RepositoryLocked(
                "this process was stopped for so long that its lock expired; no more index files "
                "were merged. It is done again by itself"
            )
