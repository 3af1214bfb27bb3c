"""Verifying the structure of a repository: what refers to what, and is it all there?

Reads keys, index files, snapshots, trees and the list of packs, but no pack of data. What
is wrong goes to `findings`; what is merely left over, and harmless, goes to `notes`.
Nothing is written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from holdfast.errors import Damaged, HoldfastError, ObjectNotFound
from holdfast.model.finding import Finding
from holdfast.model.snapshot import Snapshot
from holdfast.repo.config import RepositoryConfig
from holdfast.repo.index import IndexCache
from holdfast.repo.keyfile import parse_key_file
from holdfast.repo.lock import LockRecord
from holdfast.repo.needed import NeededBlobs
from holdfast.repo.pack import BlobType, pack_size_bytes
from holdfast.repo.packlist import PackList
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.tree import decode_node
from holdfast.repo.treestream import StreamedTree, stream_trees

_LEFTOVERS = (
    (
        "packs_unreferenced",
        "unlisted",
        "are in no index: of a backup that is at work or was interrupted; a prune removes them",
    ),
    ("packs_marked", "marked", "wait for their deletion by a prune"),
    ("packs_listed_twice", "twice", "are listed in several index files; a prune tidies up"),
)


class Structure:
    """What a look at the structure has found; call the steps in the order of `check`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.findings: list[Finding] = []
        self.notes: list[Finding] = []
        self.lost: set[tuple[BlobType, bytes]] = set()
        """Blobs of which no good copy is left, as far as is known."""
        self.bad: set[tuple[BlobType, bytes, bytes]] = set()
        """(type, id, pack) of every copy that is known to be bad."""
        self.unreadable_snapshots: list[str] = []
        self.trees = 0

    def check(self, on_tree: Callable[[int], None] = lambda _count: None) -> None:
        """Look at everything but the content of packs."""
        self._check_config_and_keys()
        self._note_locks()
        # Snapshots before the index: a writer stores them in the other order.
        self.snapshots: list[Snapshot]
        self.snapshots, damaged = self._repository.snapshots()
        self.findings.extend(damaged)
        self.unreadable_snapshots = [finding.subject for finding in damaged]
        # Every index file is read anew: a cached table would hide damage to the file.
        index = self._repository.open_index(IndexCache(None), tolerant=True)
        self.findings.extend(f for f in index.findings if f.code != "index_vanished")
        self.packs = PackList(index)
        self.index = index
        # And the packs after the index, so that what is listed can be expected.
        self.sizes = {pack: info.size_bytes for pack, info in self._repository.pack_files()}
        self._check_packs()
        self._check_trees(on_tree)

    # Files by kind

    def _check_config_and_keys(self) -> None:
        repository = self._repository
        try:
            sealed = repository.store.read("config")
            RepositoryConfig.from_json(repository.sealer.open(sealed, "the repository's config"))
        except ObjectNotFound:
            self.findings.append(
                Finding("config_missing", "the repository's config is gone", "config")
            )
        except HoldfastError as error:
            self.findings.append(Finding("config_damaged", error.message, "config"))
        for key_id, text in repository.key_files():
            try:
                if hashlib.sha256(text).hexdigest() != key_id:
                    raise Damaged(f"key {key_id[:8]} does not match its name")
                parse_key_file(key_id, text)
            except Damaged as error:
                self.findings.append(Finding("key_damaged", error.message, key_id))

    def _note_locks(self) -> None:
        now = datetime.now(UTC)
        for name in self._repository.ids(FileKind.LOCK):
            try:
                text = self._repository.load(FileKind.LOCK, name)
                stale = LockRecord.from_json(name, text).is_stale(now)
            except ObjectNotFound:
                continue
            except Damaged:
                stale = True
            if stale:
                self.notes.append(
                    Finding(
                        "lock_stale",
                        f"lock {name[:8]} is of a process that is gone; see `holdfast unlock`",
                        name,
                    )
                )

    def _check_packs(self) -> None:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for number, pack in enumerate(self.packs.packs):
            name = pack.id.hex()
            size = self.sizes.get(pack.id)
            if pack.marked_ns is not None:
                counts["marked"] += 1
                sizes["marked"] += size or 0
            if pack.listings > 1:
                counts["twice"] += 1
            if pack.differs:
                self.findings.append(
                    Finding(
                        "index_contradicts",
                        f"two index files list different blobs for pack {name[:8]}; run "
                        "`holdfast repair index`",
                        name,
                    )
                )
            if size is None:
                self._lose(number, "pack_missing", "is gone", readable_bytes=0)
            elif pack.blob_count:
                listed = pack_size_bytes(self.packs.blobs(number))
                if listed != size:
                    how = f"has {size} bytes where the index lists {listed}"
                    self._lose(number, "pack_size_wrong", how, readable_bytes=size)
        for pack_id, size in self.sizes.items():
            if pack_id not in self.packs.number_of:
                counts["unlisted"] += 1
                sizes["unlisted"] += size
        for code, word, text in _LEFTOVERS:
            if counts[word]:
                volume = f" ({sizes[word]} bytes)" if sizes[word] else ""
                self.notes.append(Finding(code, f"{counts[word]} packs{volume} {text}"))
        # A blob is lost where each of its copies is.
        self.lost = {
            (kind, blob_id) for kind, blob_id, _ in self.bad if self.is_lost(kind, blob_id)
        }

    def _lose(self, number: int, code: str, how: str, *, readable_bytes: int) -> None:
        pack = self.packs.packs[number]
        name = pack.id.hex()
        gone = [b for b in self.packs.blobs(number) if b.offset + b.length > readable_bytes]
        self.bad.update((blob.type, blob.id, pack.id) for blob in gone)
        if pack.marked_ns is None:
            message = f"pack {name[:8]} {how}: {len(gone)} blobs in it cannot be read"
            self.findings.append(Finding(code, message, name))

    def is_lost(self, kind: BlobType, blob_id: bytes) -> bool:
        """Whether no copy of a listed blob is left that could be good."""
        copies = self.packs.copies(kind, blob_id)
        ids = (self.packs.packs[number].id for number, _, _ in copies)
        return all((kind, blob_id, pack) in self.bad for pack in ids)

    # Trees

    def _check_trees(self, on_tree: Callable[[int], None]) -> None:
        self.needed = NeededBlobs(self.packs)
        unlisted: Counter[BlobType] = Counter()
        first: dict[BlobType, bytes] = {}

        def missing(kind: BlobType, blob_id: bytes) -> None:
            if (kind, blob_id) not in self.lost:
                self.lost.add((kind, blob_id))
                unlisted[kind] += 1
                first.setdefault(kind, blob_id)

        def enter(tree_id: bytes) -> bool:
            new = self.needed.need(BlobType.TREE, tree_id)
            if new is None:
                missing(BlobType.TREE, tree_id)
                return False
            return new and (BlobType.TREE, tree_id) not in self.lost

        roots = (bytes.fromhex(snapshot.tree) for snapshot in self.snapshots)
        for tree in stream_trees(self._repository, self.index, roots, enter):
            self.trees += 1
            on_tree(self.trees)
            if tree.damage is not None:
                self.lost.add((BlobType.TREE, tree.id))
                self.findings.append(Finding("tree_damaged", tree.damage.message, tree.id.hex()))
                continue
            for node in tree.nodes:
                self._check_node(tree, node, missing)
        for kind, count in sorted(unlisted.items()):
            self.findings.append(
                Finding(
                    f"{kind.word}_blobs_unlisted",
                    f"{count} {kind.word} blobs that snapshots need are in no index, the first is "
                    f"{first[kind].hex()[:16]}; run `holdfast repair index`",
                    first[kind].hex(),
                )
            )

    def _check_node(
        self,
        tree: StreamedTree,
        node: dict[str, Any],
        missing: Callable[[BlobType, bytes], None],
    ) -> None:
        where = f"tree {tree.id.hex()[:8]}"
        try:
            name = str(node["name"])
            decode_node({**node, "content": None})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self._fault("node_damaged", f"{where} holds a node that cannot be read: {error}", tree)
            return
        if not name:
            self._fault("node_damaged", f"{where} holds a node without a name", tree)
        if node["type"] == "dir" and not node.get("subtree"):
            self._fault("node_damaged", f"directory {name!r} in {where} has no tree", tree)
        if node["type"] != "file":
            return
        total = 0
        known = True
        for text in node.get("content") or ():
            blob_id = bytes.fromhex(text)
            if self.needed.need(BlobType.DATA, blob_id) is None:
                missing(BlobType.DATA, blob_id)
                known = False
            else:
                place = self.index.find(BlobType.DATA, blob_id)
                total += place.raw_length if place is not None else 0
        if known and total != node.get("size", 0):
            message = (
                f"file {name!r} in {where} says {node.get('size', 0)} bytes and has {total}; "
                "`holdfast repair snapshots` corrects it"
            )
            self._fault("file_size_wrong", message, tree)

    def _fault(self, code: str, message: str, tree: StreamedTree) -> None:
        self.findings.append(Finding(code, message, tree.id.hex()))
