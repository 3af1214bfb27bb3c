"""Dumping one file: its content in order, to any writer, fetched ahead by threads.

Every blob is checked before a byte of it is written. What is damaged stops a dump, because a
stream has no place for a remark; with a handler for damage it is written as zeroes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from holdfast.errors import Damaged, UsageError
from holdfast.flows.fetch import BlobFetcher
from holdfast.flows.locate import Trees, locate
from holdfast.flows.placement import placed
from holdfast.flows.read_session import ReadSession
from holdfast.model.node import Node, NodeType
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.repository import Repository

_PIECE_BYTES = 4 << 20
_THREADS = 3
_AHEAD = 4
_ZEROES_AT_ONCE = 1 << 20

OnDamage = Callable[[int, Damaged], None]
"""Told how many bytes are lost and why; without one, damage is raised."""


class Sink(Protocol):
    """Where a stream goes: anything with a ``write`` for bytes. A short write is an error
    of the sink; wrap what may write less than it is given."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """Which file of which snapshot."""

    snapshot: str
    path: bytes
    with_lock: bool = True


def dump(
    repository: Repository, request: DumpRequest, out: Sink, report: Report = ignore_progress
) -> int:
    """Write a file's content to `out` and return its size in bytes.

    Raises `NotFound`, `UsageError` where the path is no regular file, and `Damaged`, by when
    a part may have been written.
    """
    with ReadSession(repository, with_lock=request.with_lock) as session:
        snapshot = session.snapshot(request.snapshot)
        place = locate(Trees(session.reader), snapshot, request.path)
        node = place.node
        if node is None or node.type is not NodeType.FILE:
            raise UsageError(
                "only a regular file can be dumped; use `holdfast export` for a directory"
            )
        session.keep_lock()
        written = 0
        with ContentReader(repository, session.index) as content:
            for piece in content.stream(node):
                out.write(piece)
                written += len(piece)
                report(Progress("dump", bytes_done=written, bytes_total=node.size))
    return written


class ContentReader:
    """Streams the content of files; threads fetch ahead. Use with ``with``, in one thread."""

    def __init__(self, repository: Repository, index: BlobIndex) -> None:
        self._repository, self._index = repository, index
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="content")

    def __enter__(self) -> ContentReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def stream(self, node: Node, on_damage: OnDamage | None = None) -> Iterator[bytes]:
        """Yield exactly `node.size` bytes of a file in order.

        Raises `Damaged` at the first byte that is lost, unless `on_damage` is told of it.
        """
        written = 0
        for piece in self._pieces(node, on_damage):
            if written + len(piece) > node.size:
                piece = piece[: node.size - written]  # noqa: PLW2901 - never more than promised
            written += len(piece)
            if piece:
                yield piece
        if sum(self._lengths(node)) > node.size:
            _report(on_damage, 0, Damaged("its content is longer than its size says"))

    def _lengths(self, node: Node) -> Iterator[int]:
        for blob_id in node.content:
            location = self._find(blob_id)
            yield 0 if location is None else location.raw_length

    def _pieces(self, node: Node, on_damage: OnDamage | None) -> Iterator[bytes]:
        ahead: deque[tuple[list[tuple[int, int, bytes]], Future[dict[bytes, bytes | Damaged]]]]
        ahead = deque()
        at = 0
        try:
            groups = _groups(node, self._length_of)
            while True:
                while len(ahead) < _AHEAD and (group := next(groups, None)) is not None:
                    ahead.append((group, self._threads.submit(self._fetch, group)))
                if not ahead:
                    break
                group, future = ahead.popleft()
                plain = future.result()
                for offset, length, blob_id in group:
                    if offset > at:
                        yield from _lost(offset - at, on_damage, None)
                    data = plain[blob_id]
                    if isinstance(data, Damaged):
                        yield from _lost(length, on_damage, data)
                    else:
                        yield data
                    at = offset + length
            if at < node.size:
                yield from _lost(node.size - at, on_damage, None)
        finally:
            for _, future in ahead:
                future.cancel()

    def _find(self, blob_id: bytes) -> Location | None:
        return self._fetcher().find(blob_id)

    def _length_of(self, blob_id: bytes) -> int | None:
        location = self._find(blob_id)
        return None if location is None else location.raw_length

    def _fetch(self, group: Sequence[tuple[int, int, bytes]]) -> dict[bytes, bytes | Damaged]:
        fetcher = self._fetcher()
        wanted: dict[bytes, Location] = {}
        for _, _, blob_id in group:
            location = fetcher.find(blob_id)
            assert location is not None  # only what is in the index has a place
            wanted[blob_id] = location
        return dict(fetcher.fetch(wanted))

    def _fetcher(self) -> BlobFetcher:
        """This thread's fetcher."""
        fetcher: BlobFetcher | None = getattr(self._local, "fetcher", None)
        if fetcher is None:
            fetcher = self._local.fetcher = BlobFetcher(self._repository, self._index)
        return fetcher


def _groups(
    node: Node, length_of: Callable[[bytes], int | None]
) -> Iterator[list[tuple[int, int, bytes]]]:
    """Chunks of a file in order, in groups that are fetched together."""
    group: list[tuple[int, int, bytes]] = []
    total = 0
    for chunk in placed(node.content, node.size, length_of):
        if group and total + chunk[1] > _PIECE_BYTES:
            yield group
            group, total = [], 0
        group.append(chunk)
        total += chunk[1]
    if group:
        yield group


def _lost(length: int, on_damage: OnDamage | None, error: Damaged | None) -> Iterator[bytes]:
    missing = Damaged(f"{length} bytes of it are in no index; run `holdfast verify`")
    _report(on_damage, length, error or missing)
    while length > 0:
        part = min(length, _ZEROES_AT_ONCE)
        yield bytes(part)
        length -= part


def _report(on_damage: OnDamage | None, length: int, error: Damaged) -> None:
    if on_damage is None:
        raise error
    on_damage(length, error)
