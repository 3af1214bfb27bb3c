"""Reading blobs: find, fetch, open, unpack, and check against the id.

Nothing leaves this module that is not exactly what its id says. Where a blob lies in
several packs and one is damaged, the others are tried.
"""

from __future__ import annotations

import hashlib

import zstandard

from holdfast.errors import Damaged, HoldfastError, ObjectNotFound
from holdfast.repo.crypto import Sealer
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository, pack_key


class BlobReader:
    """Reads blobs of one repository. Not thread-safe: one for each thread."""

    def __init__(self, repository: Repository, index: BlobIndex) -> None:
        self._store = repository.store
        self._index = index
        self._sealer = Sealer(repository.key)
        self._decompressor = zstandard.ZstdDecompressor()
        self._tree_packs = repository.open_tree_cache()

    def load(self, kind: BlobType, blob_id: bytes) -> bytes:
        """Return a blob; raise `Damaged` where no good copy is left."""
        location = self._index.find(kind, blob_id)
        if location is None:
            raise Damaged(
                f"{kind.word} blob {blob_id.hex()[:16]} is in no index; run `holdfast verify`, "
                "then `holdfast repair index`"
            )
        try:
            return self._load_at(location, blob_id)
        except (Damaged, ObjectNotFound) as first:
            for other in self._index.find_all(kind, blob_id):
                if other[:2] == location[:2]:
                    continue
                try:
                    return self._load_at(other, blob_id)
                except (Damaged, ObjectNotFound):
                    continue
            raise _as_damage(first, location, blob_id) from None

    def _load_at(self, location: Location, blob_id: bytes) -> bytes:
        if self._tree_packs is not None and location.type is BlobType.TREE:
            try:
                return self.unpack(self._tree_packs.read(location), location, blob_id)
            except Damaged:
                self._tree_packs.drop(location)  # the store has the last word
        sealed = self._store.read(pack_key(location.pack), location.offset, location.length)
        return self.unpack(sealed, location, blob_id)

    def unpack(self, sealed: bytes | memoryview, location: Location, blob_id: bytes) -> bytes:
        """Return the plain bytes of a sealed blob; raise `Damaged` where they are not its own."""
        what = f"blob {blob_id.hex()[:16]} in pack {location.pack.hex()[:8]}"
        if len(sealed) != location.length:
            raise Damaged(f"{what} is truncated")
        plain = self._sealer.open(sealed, what)
        if location.compressed:
            try:
                plain = self._decompressor.decompress(plain, max_output_size=location.raw_length)
            except zstandard.ZstdError:
                raise Damaged(f"{what} does not decompress") from None
        if hashlib.sha256(plain).digest() != blob_id:
            raise Damaged(f"{what} opens, but its content does not match its id")
        return plain


def _as_damage(error: HoldfastError, location: Location, blob_id: bytes) -> Damaged:
    if isinstance(error, Damaged):
        return error
    return Damaged(
        f"pack {location.pack.hex()[:8]} is missing, and with it blob {blob_id.hex()[:16]}; run "
        "`holdfast verify` to see what is lost, and `holdfast repair` for what can be mended"
    )
