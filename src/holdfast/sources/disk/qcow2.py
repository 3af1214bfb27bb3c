"""qcow2 export: write a disk as a qcow2 version 3 image without a backing file.

Formula source: QEMU's ``docs/interop/qcow2.txt``. Clusters of 64 KiB, 16-bit refcounts, no
compression, no snapshots; only clusters that hold anything but zeroes are allocated. Data
is appended as it comes and each level-2 table after its data; level-1 table, refcounts
and, last of all, the header follow at the end. So memory is one cluster, one level-2
table and 8 bytes per 512 MiB of disk; the target must be seekable (a file, never a
pipe), and a file that was not finished has no magic and is taken for qcow2 by nobody.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import TYPE_CHECKING

from holdfast.errors import TargetError, UsageError
from holdfast.sources.disk.export import ExportResult, in_order
from holdfast.sources.disk.target import TargetFile, write_all
from holdfast.sources.disk.zeroes import is_zero, nonzero_runs

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from holdfast.sources.disk.zeroes import Buffer

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_ENTRIES = _CLUSTER // 8
"""Entries of 8 bytes in one cluster: of a level-2 table, or of the refcount table."""
_REFCOUNTS = _CLUSTER // 2
"""Refcounts of 16 bits in one refcount block."""
_COPIED = 1 << 63
"""Set where the refcount is exactly one, which here is everywhere."""
_SECTOR = 512
_SIZE_AT_MOST = (32 << 20) // 8 * _ENTRIES * _CLUSTER
"""QEMU reads level-1 tables of up to 32 MiB: 2 PiB of disk."""

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")


def write_qcow2(
    path: str | os.PathLike[str],
    size_bytes: int,
    chunks: Iterable[tuple[int, Buffer]],
    *,
    overwrite: bool = False,
    fsync: bool = True,
) -> ExportResult:
    """Write a disk as a qcow2 file; whatever `chunks` (in disk order) leave out is zero.

    QEMU counts disks in sectors: the virtual size, which is that of the result, is
    `size_bytes` rounded up to 512. Raises as `write_raw` does.
    """
    if size_bytes < 0:
        raise UsageError(f"A disk cannot have {size_bytes} bytes.")
    with TargetFile(path, overwrite=overwrite, fsync=fsync) as file:
        image = Qcow2Image(file.fd, file.path, size_bytes)
        for offset, view in in_order(size_bytes, chunks):
            image.write(offset, view)
        image.finish()
        return ExportResult(image.virtual_bytes, image.data_bytes)


class Qcow2Image:
    """An image being written to a descriptor; cluster 0 is kept for the header.

    Data comes in disk order, either through `write`, or, where others write it, by asking
    `allocate` where it has to go. Nothing is an image before `finish`.
    """

    def __init__(self, fd: int, name: str, size_bytes: int) -> None:
        virtual_bytes = -(-size_bytes // _SECTOR) * _SECTOR
        if virtual_bytes > _SIZE_AT_MOST:
            raise TargetError(
                f"A disk of {size_bytes} bytes is too large for qcow2 with clusters of 64 KiB. "
                "Export it raw."
            )
        self._fd = fd
        self._name = name
        self.virtual_bytes = virtual_bytes
        self._clusters = 1
        self._level1 = array("Q", bytes(8 * -(-virtual_bytes // (_ENTRIES * _CLUSTER))))
        self._level2 = array("Q", bytes(_CLUSTER))
        self._level2_index = -1
        # The cluster of which only a part has come so far.
        self._begun = bytearray(_CLUSTER)
        self._begun_index = -1
        # The last cluster that `allocate` gave out, and where it lies.
        self._given_index = self._given_at = -1
        self.data_bytes = 0

    def allocate(self, offset: int, length: int) -> int:
        """Return where in the file the `length` bytes at `offset` of the disk are to be written.

        The ranges must be of one power of two in size and aligned to it, but for a short one
        at the disk's end; what is not written of them reads as zero.
        """
        index, inside = divmod(offset, _CLUSTER)
        if index == self._given_index:
            return self._given_at + inside
        clusters = -(-(inside + length) // _CLUSTER)
        at = self._reserve(clusters)
        self._note(index, at, clusters)
        self._given_index = index + clusters - 1
        self._given_at = at + (clusters - 1) * _CLUSTER
        return at + inside

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            index, inside = divmod(offset, _CLUSTER)
            if inside or len(data) < _CLUSTER:
                length = min(_CLUSTER - inside, len(data))
                self._begin(index)
                self._begun[inside : inside + length] = data[:length]
            else:
                self._flush()
                length = len(data) - len(data) % _CLUSTER
                for start, part in nonzero_runs(offset, data[:length], _CLUSTER):
                    self._place(start // _CLUSTER, part)
            offset += length
            data = data[length:]

    def finish(self) -> None:
        self._flush()
        self._end_level2()
        # A disk of 0 bytes has no table, and a cluster for it would count as leaked.
        level1_at = self._append(_big_endian(self._level1)) if self._level1 else 0
        # Refcounts count their own clusters too: enlarge until everything fits.
        blocks = tables = 0
        while True:
            total = self._clusters + blocks + tables
            need = -(-total // _REFCOUNTS)
            need_tables = -(-need // _ENTRIES)
            if (need, need_tables) == (blocks, tables):
                break
            blocks, tables = need, need_tables
        first_block = self._clusters
        table = array("Q", [(first_block + block) * _CLUSTER for block in range(blocks)])
        for block in range(blocks):
            used = min(_REFCOUNTS, total - block * _REFCOUNTS)
            self._append(b"\x00\x01" * used)
        table_at = self._append(_big_endian(table))
        header = _HEADER.pack(
            b"QFI\xfb",
            3,
            0,  # no backing file
            0,
            _CLUSTER_BITS,
            self.virtual_bytes,
            0,  # no encryption
            len(self._level1),
            level1_at,
            table_at,
            tables,
            0,  # no snapshots
            0,
            0,  # no features that a reader must, may or should know of
            0,
            0,
            4,  # refcounts of 2**4 bits
            _HEADER.size,
        )
        # The rest of the first cluster stays a hole: zeroes are the end of header extensions.
        write_all(self._fd, memoryview(header), 0, self._name)

    def _begin(self, index: int) -> None:
        if index != self._begun_index:
            self._flush()
            self._begun_index = index

    def _flush(self) -> None:
        if self._begun_index < 0:
            return
        if not is_zero(self._begun):
            self._place(self._begun_index, memoryview(self._begun))
            self._begun[:] = bytes(_CLUSTER)
        self._begun_index = -1

    def _place(self, index: int, data: memoryview) -> None:
        """Append whole clusters, of which `index` is the first, and note where they are."""
        at = self._append(data)
        self.data_bytes += len(data)
        self._note(index, at, len(data) // _CLUSTER)

    def _note(self, index: int, at: int, clusters: int) -> None:
        """Enter in the tables that `clusters` of the disk from `index` lie in the file at `at`."""
        for number in range(clusters):
            table, entry = divmod(index + number, _ENTRIES)
            if table != self._level2_index:
                self._end_level2()
                self._level2_index = table
            self._level2[entry] = (at + number * _CLUSTER) | _COPIED

    def _end_level2(self) -> None:
        if self._level2_index < 0:
            return
        self._level1[self._level2_index] = self._append(_big_endian(self._level2)) | _COPIED
        self._level2 = array("Q", bytes(_CLUSTER))
        self._level2_index = -1

    def _append(self, data: Buffer) -> int:
        """Write at the end of the file, padded to whole clusters; return the position."""
        clusters = -(-len(data) // _CLUSTER)
        at = self._reserve(clusters)
        write_all(self._fd, memoryview(data), at, self._name)
        padding = clusters * _CLUSTER - len(data)
        if padding:
            write_all(self._fd, memoryview(bytes(padding)), at + len(data), self._name)
        return at

    def _reserve(self, clusters: int) -> int:
        at = self._clusters * _CLUSTER
        self._clusters += clusters
        return at


def _big_endian(table: array[int]) -> bytes:
    if sys.byteorder == "little":
        table = table[:]
        table.byteswap()
    return table.tobytes()
