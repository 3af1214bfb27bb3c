"""Storing a file's content: cut into chunks, each a blob of data.

Reads from a descriptor's beginning or from memory; the same bytes give the same blobs either
way. It does not look whether the file changes meanwhile, which is for who holds it open.
"""

from __future__ import annotations

import os

from holdfast.repo.chunking import Chunker
from holdfast.repo.pack import BlobType
from holdfast.repo.writer import BlobWriter

READ_BYTES = 4 << 20


class ContentWriter:
    """Belongs to the thread of its writer; `buffer` is for whoever reads in between, too."""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer
        self.chunker = Chunker()
        self.buffer = memoryview(bytearray(self.chunker.max_bytes + READ_BYTES))

    def from_file(self, fd: int, expected: int) -> tuple[list[bytes], int]:
        """Store what a descriptor reads, about `expected` bytes; return ids and bytes read."""
        ids: list[bytes] = []
        add = self._writer.add
        if expected < self.chunker.min_bytes:
            data = os.pread(fd, expected + 1, 0)
            if len(data) <= expected:
                return ([add(BlobType.DATA, data)] if data else []), len(data)
        buffer = self.buffer
        held = offset = 0
        while True:
            read = os.preadv(fd, [buffer[held : held + READ_BYTES]], offset)
            offset += read
            held += read
            ends = self.chunker.cut(buffer[:held], last=not read)
            start = 0
            for end in ends:
                ids.append(add(BlobType.DATA, buffer[start:end]))
                start = end
            held -= start
            if start and held:
                buffer[:held] = bytes(buffer[start : start + held])
            if not read:
                return ids, offset

    def from_memory(self, content: memoryview) -> list[bytes]:
        """Store bytes that are in memory; return the ids of their blobs."""
        ids: list[bytes] = []
        start = 0
        for end in self.chunker.cut(content, last=True):
            ids.append(self._writer.add(BlobType.DATA, content[start:end]))
            start = end
        return ids
