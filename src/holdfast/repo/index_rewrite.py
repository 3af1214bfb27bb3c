"""Rewriting index files: some packs change their listing, all others keep theirs.

New files are written before old ones are removed. Killed in between, a repository has
packs listed twice, of which the listing as alive wins; nothing is ever listed nowhere.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from holdfast.errors import Damaged, ObjectNotFound
from holdfast.repo.indexfile import IndexedPack, decode_index, encode_index
from holdfast.repo.repository import FileKind, Repository

_BLOBS_IN_FILE = 50_000
_PACKS_IN_FILE = 10_000


class IndexRewrite:
    """Call `write`, then whatever must come in between, then `remove_superseded`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._pending: list[IndexedPack] = []
        self._blobs = 0
        self._superseded: list[str] = []
        self.written: list[str] = []

    def write(
        self,
        sources: Iterable[bytes],
        changed: Container[bytes],
        listings: Iterable[IndexedPack],
        *,
        damaged: Container[bytes] = (),
    ) -> None:
        """Write `listings`, and what stands beside `changed` packs in the index files `sources`.

        A source without a changed pack is left alone. One in `damaged` is replaced unread;
        any other that cannot be read raises `Damaged`, before anything is removed.
        """
        for source in sorted(sources):
            name = source.hex()
            if source in damaged:
                self._superseded.append(name)
                continue
            try:
                text = self._repository.load(FileKind.INDEX, name)
            except ObjectNotFound:
                raise Damaged(
                    f"index {name[:8]} vanished while it was rewritten; nothing was removed"
                ) from None
            packs = decode_index(text, f"index {name[:8]}")
            if any(pack.id in changed for pack in packs):
                self._superseded.append(name)
                for pack in packs:
                    if pack.id not in changed:
                        self._add(pack)
        for pack in listings:
            self._add(pack)
        self._flush()

    def remove_superseded(self) -> int:
        """Remove what `write` has replaced; return how many files that were."""
        for name in self._superseded:
            self._repository.remove(FileKind.INDEX, name)
        count, self._superseded = len(self._superseded), []
        return count

    def _add(self, pack: IndexedPack) -> None:
        self._pending.append(pack)
        self._blobs += len(pack.blobs)
        if self._blobs >= _BLOBS_IN_FILE or len(self._pending) >= _PACKS_IN_FILE:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self.written.append(self._repository.save(FileKind.INDEX, encode_index(self._pending)))
            self._pending, self._blobs = [], 0
