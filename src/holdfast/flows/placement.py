"""Where the blobs of a file go: offsets from lengths, also where some blobs are unknown.

A blob in no index has no known length. What stands before the first such blob is placed from
the beginning of the file, what stands behind the last one from its end; so nothing is ever
written at a guessed position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

_SEGMENT_BYTES = 64 << 10
_BLOCK_BYTES = 4 << 10
_ZEROES = bytes(_SEGMENT_BYTES)


def placed(
    content: Sequence[bytes], size: int, length_of: Callable[[bytes], int | None]
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (offset, length, blob id) of every blob that has a certain place.

    Blobs that reach beyond `size` are given too; the caller compares what it got with `size`.
    """
    first = last = -1
    tail = 0
    for number, blob_id in enumerate(content):
        length = length_of(blob_id)
        if length is None:
            first = number if first < 0 else first
            last, tail = number, 0
        else:
            tail += length
    at = 0
    for blob_id in content[: first if first >= 0 else len(content)]:
        length = length_of(blob_id) or 0
        yield at, length, blob_id
        at += length
    if first < 0:
        return
    at = max(at, size - tail)
    for blob_id in content[last + 1 :]:
        length = length_of(blob_id) or 0
        yield at, length, blob_id
        at += length


def is_zero(data: bytes) -> bool:
    """Whether these are nothing but zeroes; usually decided at the first byte."""
    if not data or data[0] or data[-1]:
        return not data
    for at in range(0, len(data), _SEGMENT_BYTES):
        part = data[at : at + _SEGMENT_BYTES]
        if part != _ZEROES[: len(part)]:
            return False
    return True


def without_zeroes(data: bytes, offset: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, bytes) of what of `data` is not a run of zeroes.

    `offset` is where `data` stands in its file. Runs are looked for in steps of 64 KiB of the
    file and then followed to the last block of 4 KiB; a run that goes on in the neighbouring
    `data` is left out on both sides.
    """
    view = memoryview(data)
    start = at = 0
    while at < len(data):
        stop = min(len(data), at + _SEGMENT_BYTES - (offset + at) % _SEGMENT_BYTES)
        # Bytes compare by memcmp, views one by one; most parts are told by their ends.
        if not data[at] and not data[stop - 1] and data[at:stop] == _ZEROES[: stop - at]:
            yield from _trimmed(data, view, offset, start, at)
            start = stop
        at = stop
    yield from _trimmed(data, view, offset, start, at)


def _trimmed(
    data: bytes, view: memoryview, offset: int, start: int, stop: int
) -> Iterator[tuple[int, memoryview]]:
    """One run without the zero blocks at its ends; nothing where nothing is left."""
    while start < stop and not data[start]:
        end = min(stop, start + _BLOCK_BYTES - (offset + start) % _BLOCK_BYTES)
        if data[start:end] != _ZEROES[: end - start]:
            break
        start = end
    while start < stop and not data[stop - 1]:
        begin = max(start, stop - ((offset + stop) % _BLOCK_BYTES or _BLOCK_BYTES))
        if data[begin:stop] != _ZEROES[: stop - begin]:
            break
        stop = begin
    if start < stop:
        yield offset + start, view[start:stop]
