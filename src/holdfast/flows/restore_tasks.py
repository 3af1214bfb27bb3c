"""What a worker process does of a restore: parts of directories, parts of large files.

A worker reads a tree, makes what is in it, and hands back what others must go on with:
subdirectories, files that are large enough to be shared out, further names of hard links.
Small files are collected until there are enough to read their packs in long runs. Nothing
damaged is written as if it were whole: what is lost is zero, and a finding says so.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from holdfast.errors import Damaged
from holdfast.flows.fetch import BlobFetcher, holds_content
from holdfast.flows.placement import is_zero, placed, without_zeroes
from holdfast.flows.restore_messages import (
    Answer,
    ChunksDone,
    FurtherName,
    MakeLinks,
    Part,
    PartDone,
    RestoreOne,
    RestoreParts,
    SharedFile,
    VerifyParts,
    WriteChunks,
    damage_finding,
)
from holdfast.flows.restore_request import RestoreCounts, RestoreScope
from holdfast.model.finding import Finding
from holdfast.model.node import Node, NodeType
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.known import KnownBlobs
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository
from holdfast.repo.tree import decode_documents, decode_node
from holdfast.sources.path.confine import join
from holdfast.sources.path.restore_plan import Action, Overwrite, RestoreOptions
from holdfast.sources.path.survey import TargetSurvey
from holdfast.sources.path.tally import FindingTally, printable
from holdfast.sources.path.target import RestoreTarget

SHARED_FROM_BYTES = 8 << 20
_BATCH_BYTES = 4 << 20
_BATCH_FILES = 1024
_SPARSE_FROM_BYTES = 64 << 10
_SLICED_FROM_BYTES = 1 << 20
_SLICE_NODES = 1024
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NODE_START = re.compile(rb'\{"name":"(?:[^"\\]|\\.)*","type":"')


@dataclass(frozen=True, slots=True)
class RestoreSetup:
    """Makes a worker's handler; everything in it can be sent to another process.

    `taken` holds which files with several names have been taken on; `taking` is a lock of
    all workers, None where there is one. `survey` says that the target holds entries.
    """

    repository: Repository
    index: BlobIndex
    root: bytes
    options: RestoreOptions
    scope: RestoreScope
    taken: KnownBlobs
    taking: Any
    survey: bool = False
    compare_content: bool = False
    sparse: bool = True
    strict: bool = False

    def __call__(self) -> RestoreWorker:
        if multiprocessing.parent_process() is not None:
            # Modes are set as they are in the snapshot; this saves a call for most files.
            os.umask(0)
        return RestoreWorker(self)


class _SmallFile(NamedTuple):
    parent: bytes
    node: Node
    key: bytes


class RestoreWorker:
    """Does tasks one after another; one for each process."""

    def __init__(self, setup: RestoreSetup) -> None:
        self._setup = setup
        self._scope = setup.scope
        self._takes_all = setup.scope.takes_all and not setup.scope.leaves_manifest
        self._fetcher = BlobFetcher(setup.repository, setup.index)
        self._target = RestoreTarget(setup.root, setup.options)
        self._survey: TargetSurvey | None = None
        if setup.survey:
            same = self._same_content if setup.compare_content else None
            self._survey = TargetSurvey(setup.root, setup.options, same_content=same)
        self._taking = setup.taking or nullcontext()
        self._text: tuple[bytes, bytes] = (b"", b"")
        self._batch: list[_SmallFile] = []
        self._batch_bytes = 0
        self._wanted: dict[bytes, Location] = {}
        self._zeroes: set[bytes] = set()
        self._counts = RestoreCounts()
        self._damaged: list[Finding] = []
        self._firsts: list[tuple[bytes, bytes]] = []
        self._current = b""

    def __call__(self, task: Any) -> Answer:
        value: Any = None
        if isinstance(task, RestoreParts):
            value = [self._restore_part(part) for part in task.parts]
            self._write_batch()
        elif isinstance(task, WriteChunks):
            value = self._write_chunks(task)
        elif isinstance(task, VerifyParts):
            value = [self._verify_part(part) for part in task.parts]
        elif isinstance(task, MakeLinks):
            for parent, node, first in task.links:
                self._link(parent, node, first)
        elif isinstance(task, RestoreOne):
            value = self._restore_one(task)
            self._write_batch()
        else:
            value = self._take_findings()
        counts, self._counts = self._counts, RestoreCounts()
        damaged, self._damaged = self._damaged, []
        firsts, self._firsts = self._firsts, []
        made = self._target.take_directories()
        return Answer(value, made, firsts, counts, damaged, self._current)

    def _take_findings(self) -> FindingTally:
        tally = self._target.tally
        if self._survey is not None:
            tally.merge(self._survey.tally)
        return tally

    # Directories

    def _restore_part(self, part: Part) -> PartDone:
        done = PartDone(part.path, [], [], [], [])
        self._current = part.path
        for node in self._nodes(part, done):
            if node.type is NodeType.DIRECTORY:
                self._directory(part.path, node, done)
            else:
                self._entry(part.path, node, done)
        return done

    def _nodes(self, part: Part, done: PartDone) -> Iterator[Node]:
        """The nodes of a part that are to be restored, or the parts of a large tree."""
        try:
            documents = self._documents(part, done)
        except Damaged as error:
            if not part.path or self._setup.strict:
                raise
            message = f"what is in this directory is lost: {error.message}"
            self._damaged.append(Finding("directory_damaged", message, printable(part.path)))
            return
        excludes = None if self._takes_all else self._scope.excludes
        for document in documents:
            try:
                node = decode_node(document)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                self._bad_node(part, document, error)
                continue
            if excludes is not None and excludes(
                join(part.path, node.name), node.type is NodeType.DIRECTORY, node.size
            ):
                continue
            yield node

    def _bad_node(self, part: Part, document: object, error: Exception) -> None:
        name = document.get("name") if isinstance(document, dict) else None
        message = f"the entry {name!r} cannot be read from the snapshot: {error}"
        if self._setup.strict:
            raise Damaged(f"{message} (in {printable(part.path)!r})") from error
        self._damaged.append(Finding("node_damaged", message, printable(part.path)))

    def _documents(self, part: Part, done: PartDone) -> list[dict[str, Any]]:
        what = f"tree {part.tree.hex()[:8]}"
        known, text = self._text
        if known != part.tree:
            text = self._fetcher.tree(part.tree)
        if part.stop < 0 and len(text) < _SLICED_FROM_BYTES:
            return decode_documents(text, what)
        self._text = (part.tree, text)
        if part.stop < 0:
            slices = list(_slices(text))
            if len(slices) < 2:
                return decode_documents(text, what)
            done.more.extend(part._replace(start=start, stop=stop) for start, stop in slices)
            return []
        try:
            documents: list[dict[str, Any]] = orjson.loads(
                b"[%b]" % text[part.start : part.stop].rstrip(b", \n")
            )
        except ValueError:
            raise Damaged(f"{what} is not a tree document") from None
        return documents

    def _directory(self, parent: bytes, node: Node, done: PartDone) -> None:
        if self._target.make_directory(parent, node):
            self._counts.directories += 1
            done.subdirectories.append((node.name, node.subtree or b""))
        else:
            self._counts.failed += 1

    # Entries

    def _entry(self, parent: bytes, node: Node, done: PartDone) -> None:
        key = b""
        if node.links > 1 and node.inode:
            key = _link_key(node)
            with self._taking:
                first = self._setup.taken.take(BlobType.DATA, key)
            if not first:
                done.links.append(FurtherName(node, key))
                return
        shared = self._begin(parent, node, key)
        if shared is not None:
            done.shared.append(shared)

    def _restore_one(self, task: RestoreOne) -> PartDone:
        done = PartDone(task.parent, [], [], [], [])
        shared = self._begin(task.parent, task.node, task.key)
        if shared is not None:
            done.shared.append(shared)
        return done

    def _begin(self, parent: bytes, node: Node, key: bytes) -> SharedFile | None:
        """Make an entry, or put it into the batch, or begin a file that all workers fill."""
        if self._survey is not None and not self._wants(self._survey, parent, node, key):
            return None
        if node.type is not NodeType.FILE:
            made = self._target.make_other(parent, node)
            self._counts.others += made
            self._settled(parent, node, key, made)
            return None
        find, wanted = self._fetcher.find, self._wanted
        places: list[tuple[bytes, Location]] = []
        size = 0
        if node.size < SHARED_FROM_BYTES:
            for blob_id in node.content:
                location = wanted.get(blob_id) or find(blob_id)
                if location is not None:
                    places.append((blob_id, location))
                    size += location.raw_length
        if max(size, node.size) >= SHARED_FROM_BYTES:
            pending = self._target.begin_file(parent, node)
            if pending is not None:
                return SharedFile(pending, node, key)
            self._settled(parent, node, key, made=False)
            return None
        wanted.update(places)
        self._batch_bytes += size
        self._batch.append(_SmallFile(parent, node, key))
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_FILES:
            self._write_batch()
        return None

    def _wants(self, survey: TargetSurvey, parent: bytes, node: Node, key: bytes) -> bool:
        """Whether an entry must be written; does what else is to be done with it."""
        decision = survey.plan_entry(parent, node)
        if decision.action in (Action.CREATE, Action.OVERWRITE):
            return True
        made = True
        if decision.action is Action.UPDATE:
            made = self._target.update(parent, node)
            self._counts.updated += made
        elif decision.action is Action.LEAVE:
            self._counts.left += 1
        else:
            self._target.tally.add(decision.code, decision.reason, join(parent, node.name))
            made = False
        self._settled(parent, node, key, made)
        return False

    def _settled(self, parent: bytes, node: Node, key: bytes, made: bool) -> None:
        self._counts.failed += not made
        if key:
            self._firsts.append((key, join(parent, node.name) if made else b""))

    def _link(self, parent: bytes, node: Node, first: bytes) -> None:
        if (
            self._survey is not None
            and self._setup.options.overwrite is Overwrite.NEVER
            and self._survey.plan_entry(parent, node).action is Action.LEAVE
        ):
            self._counts.left += 1
        elif self._target.link(parent, node, first):
            self._counts.links += 1
        else:
            self._counts.failed += 1

    # Small files

    def _write_batch(self) -> None:
        batch, wanted = self._batch, self._wanted
        self._batch, self._wanted, self._batch_bytes = [], {}, 0
        waiting: dict[bytes, list[int]] = {}
        missing = [0] * len(batch)
        for number, file in enumerate(batch):
            known = {blob_id for blob_id in file.node.content if blob_id in wanted}
            missing[number] = len(known)
            for blob_id in known:
                waiting.setdefault(blob_id, []).append(number)
            if not known:
                self._write_small(file, wanted, {})
        plain: dict[bytes, bytes | Damaged] = {}
        uses = {blob_id: len(files) for blob_id, files in waiting.items()}
        for blob_id, data in self._fetcher.fetch(wanted):
            plain[blob_id] = data
            for number in waiting[blob_id]:
                missing[number] -= 1
                if missing[number]:
                    continue
                file = batch[number]
                self._write_small(file, wanted, plain)
                for used in set(file.node.content):
                    if used in uses:
                        uses[used] -= 1
                        if not uses[used]:
                            del plain[used]

    def _write_small(
        self, file: _SmallFile, wanted: dict[bytes, Location], plain: dict[bytes, bytes | Damaged]
    ) -> None:
        node = file.node
        content = node.content
        whole: list[bytes | memoryview | int] | None = None
        if len(content) < 2:
            data = plain.get(content[0]) if content else b""
            if isinstance(data, bytes) and len(data) == node.size:
                whole = [data] if data else []
        else:
            pieces = [plain.get(blob_id) for blob_id in content]
            if all(isinstance(piece, bytes) for piece in pieces):
                good = [piece for piece in pieces if isinstance(piece, bytes)]
                if sum(map(len, good)) == node.size:
                    whole = [*good]
        if whole is None:
            whole = self._damaged_pieces(file, wanted, plain)
        if node.size >= _SPARSE_FROM_BYTES and self._setup.sparse:
            whole = _with_holes(whole)
        made = self._target.write_file(file.parent, node, whole)
        if made:
            self._counts.files += 1
            self._counts.bytes_written += node.size
        self._settled(file.parent, node, file.key, made)

    def _damaged_pieces(
        self, file: _SmallFile, wanted: dict[bytes, Location], plain: dict[bytes, bytes | Damaged]
    ) -> list[bytes | memoryview | int]:
        """What is left of a file, with zeroes where bytes are lost, and a finding."""
        node = file.node
        pieces: list[bytes | memoryview | int] = []
        at = good = 0
        reason = "blobs of it are in no index"

        def length_of(blob_id: bytes) -> int | None:
            location = wanted.get(blob_id)
            return None if location is None else location.raw_length

        for offset, length, blob_id in placed(node.content, node.size, length_of):
            data = plain[blob_id]
            if isinstance(data, Damaged):
                reason = data.message
                continue
            if offset > at:
                pieces.append(bytes(offset - at))
            pieces.append(data)
            at, good = offset + length, good + length
        if at < node.size:
            pieces.append(bytes(node.size - at))
        if good > node.size:
            reason = f"its content has {good} bytes and not the {node.size} that it should have"
        self._report_damage(file.parent, node, node.size - good, reason)
        return pieces

    def _report_damage(self, parent: bytes, node: Node, lost_bytes: int, reason: str) -> None:
        finding = damage_finding(join(parent, node.name), node.size, lost_bytes, reason)
        if self._setup.strict:
            raise Damaged(f"{finding.subject}: {finding.message}")
        self._damaged.append(finding)

    # Large files

    def _write_chunks(self, task: WriteChunks) -> ChunksDone:
        places: dict[bytes, list[int]] = {}
        wanted: dict[bytes, Location] = {}
        for offset, blob_id in task.chunks:
            if blob_id in self._zeroes:
                continue
            if blob_id not in wanted:
                location = self._fetcher.find(blob_id)
                assert location is not None  # the parent found it in the same index
                wanted[blob_id] = location
            places.setdefault(blob_id, []).append(offset)
        lost, reason = 0, ""
        self._current = task.pending.path
        try:
            fd = self._target.open_pending(task.pending)
            try:
                for blob_id, data in self._fetcher.fetch(wanted):
                    if isinstance(data, Damaged):
                        lost += wanted[blob_id].raw_length * len(places[blob_id])
                        reason = data.message
                    else:
                        self._put(fd, blob_id, data, places[blob_id])
            finally:
                os.close(fd)
        except OSError as error:
            self._target.writing_failed(error, task.pending.path)
            return ChunksDone(lost, reason, failed=True)
        self._counts.bytes_written += task.size_bytes
        return ChunksDone(lost, reason, failed=False)

    def _put(self, fd: int, blob_id: bytes, data: bytes, offsets: list[int]) -> None:
        if not self._setup.sparse:
            for offset in offsets:
                _pwrite_all(fd, data, offset)
            return
        if is_zero(data):
            self._zeroes.add(blob_id)  # the file was begun as one hole
            return
        for offset in offsets:
            for at, piece in without_zeroes(data, offset):
                _pwrite_all(fd, piece, at)

    # Reading back

    def _same_content(self, fd: int, node: Node) -> bool:
        return holds_content(fd, node, self._fetcher.find)

    def _verify_part(self, part: Part) -> PartDone:
        done = PartDone(part.path, [], [], [], [])
        self._current = part.path
        known_damage, self._damaged = self._damaged, []  # all of it was reported before
        for node in self._nodes(part, done):
            if node.type is NodeType.DIRECTORY:
                done.subdirectories.append((node.name, node.subtree or b""))
            elif node.type is NodeType.FILE:
                self._verify_file(part.path, node)
        self._damaged = known_damage
        return done

    def _verify_file(self, parent: bytes, node: Node) -> None:
        self._counts.verified += 1
        self._counts.bytes_verified += node.size
        path = join(parent, node.name)
        try:
            fd = os.open(node.name, _READ_FLAGS, dir_fd=self._target.tree.directory(parent))
            try:
                # What was just written is to be read from the disk and not from memory.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                same = self._same_content(fd, node)
            finally:
                os.close(fd)
        except OSError as error:
            message = f"it cannot be read back: {error.strerror}"
            self._target.tally.add("verify_failed", message, path)
            return
        if not same:
            message = "it was read back, and is not what the snapshot holds"
            self._target.tally.add("verify_failed", message, path)


def _link_key(node: Node) -> bytes:
    """What two names of one file have in common; other content makes it another file."""
    key = hashlib.sha256(
        b"%d/%d/%d/%b/" % (node.device_id, node.inode, node.device, node.type.encode())
    )
    key.update(node.linktarget)
    for blob_id in node.content:
        key.update(blob_id)
    return key.digest()


def _slices(text: bytes) -> Iterator[tuple[int, int]]:
    """Cut a tree's text into runs of whole nodes; nothing where it is of an unusual form."""
    starts = [match.start() for match in _NODE_START.finditer(text)]
    end = text.rstrip()
    if not starts or not end.endswith(b"]}") or not text.startswith(b'{"nodes":['):
        return
    if starts[0] != len(b'{"nodes":['):
        return
    cuts = [*starts[::_SLICE_NODES], len(end) - 2]
    yield from itertools.pairwise(cuts)


def _with_holes(pieces: list[bytes | memoryview | int]) -> list[bytes | memoryview | int]:
    sparse: list[bytes | memoryview | int] = []
    at = end = 0
    for piece in pieces:
        assert isinstance(piece, bytes)
        for offset, data in without_zeroes(piece, at):
            if offset > end:
                sparse.append(offset - end)
            sparse.append(data)
            end = offset + len(data)
        at += len(piece)
    if at > end:
        sparse.append(at - end)
    return sparse


def _pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    if written < len(data):
        rest = memoryview(data)
        while written < len(rest):
            written += os.pwrite(fd, rest[written:], offset + written)
