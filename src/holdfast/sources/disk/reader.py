"""The `DiskReader` protocol: a disk to capture is extents over positional reads.

It says what a flow needs of any disk (an image file, a block device, an NBD export) and
nothing about where the disk comes from. Nothing here does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.model.extent import Extent
    from holdfast.model.finding import Finding


@runtime_checkable
class DiskReader(Protocol):
    """One disk, opened for reading, of a size that is fixed when it is opened.

    Obligations of every implementation and wrapper:

    - **Cover**: `extents` yields extents of positive length, in order, without gap or
      overlap, from 0 to exactly `size_bytes`; a disk of 0 bytes has none.
    - **Zero is a promise**: a range is called zero only where every byte reads as zero
      at the instant that is captured. Not knowing means `zero=False`.
    - **Clean is a promise**: `dirty=False` only where every byte equals the parent
      snapshot. Without such knowledge everything is dirty.
    - **Lazy**: `extents` costs time and memory by the number of extents, not of bytes,
      and may be called again.
    - **Exact**: `read_into` fills the whole buffer or raises; it never returns less.
    - **Thread-safe**: `read_into` may be called from many threads at once.
    - **Errors**: `SourceVanished` where the disk as a whole is gone, `SourceError` for
      anything else; `findings` for what a person should know about a usable result.
    """

    @property
    def size_bytes(self) -> int:
        """The size of the disk in bytes."""
        ...

    def extents(self) -> Iterator[Extent]:
        """Yield what is known of each range of the disk, in disk order."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the writable `buffer` of bytes with what lies at `offset`."""
        ...

    def findings(self) -> tuple[Finding, ...]:
        """What to tell people about the capture; asked once, after the last read."""
        ...

    def close(self) -> None:
        """Give back descriptors and connections; the reader is not used afterwards."""
        ...
