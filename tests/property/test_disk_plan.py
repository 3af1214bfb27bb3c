"""Plans of chunks and dirty ranges against models that go byte by byte."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.extent import Extent
from holdfast.sources.disk.dirty import (
    DirtyRange,
    mark_dirty,
    normalise_dirty_ranges,
    parse_dirty_ranges,
)
from holdfast.sources.disk.segments import DiskLayout, RunKind, plan_chunks, runs_by_segment
from holdfast.sources.disk.zeroes import is_zero, nonzero_runs

pieces = st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), max_size=20)
chunk_sizes = st.integers(1, 20)


def as_extents(parts: list[tuple[int, bool, bool]]) -> tuple[int, list[Extent]]:
    extents: list[Extent] = []
    position = 0
    for length, zero, dirty in parts:
        extents.append(Extent(position, length, zero=zero, dirty=dirty))
        position += length
    return position, extents


def by_byte(extents: list[Extent]) -> list[tuple[bool, bool]]:
    return [(extent.zero, extent.dirty) for extent in extents for _ in range(extent.length)]


@given(pieces, chunk_sizes)
def test_every_chunk_gets_the_kind_that_its_bytes_say(
    parts: list[tuple[int, bool, bool]], chunk: int
) -> None:
    size, extents = as_extents(parts)
    disk = by_byte(extents)
    expected = []
    for start in range(0, size, chunk):
        flags = disk[start : start + chunk]
        if not any(dirty for _, dirty in flags):
            expected.append(RunKind.REUSE)
        elif all(zero for zero, _ in flags):
            expected.append(RunKind.ZERO)
        else:
            expected.append(RunKind.READ)
    runs = list(plan_chunks(size, chunk, extents))
    assert [run.kind for run in runs for _ in range(run.count)] == expected
    assert [number for run in runs for number in range(run.first, run.end)] == list(
        range(len(expected))
    )
    assert all(one.kind is not two.kind for one, two in pairwise(runs))


@given(pieces, chunk_sizes, st.integers(1, 5))
def test_cutting_at_segments_loses_and_adds_nothing(
    parts: list[tuple[int, bool, bool]], chunk: int, per_segment: int
) -> None:
    size, extents = as_extents(parts)
    layout = DiskLayout(size, chunk, chunk * per_segment)
    runs = list(plan_chunks(size, chunk, extents))
    cut = list(runs_by_segment(layout, iter(runs)))
    assert [segment for segment, _ in cut] == list(range(layout.segment_count))
    for segment, inside in cut:
        numbers = [number for run in inside for number in range(run.first, run.end)]
        assert numbers == list(layout.chunks_of_segment(segment))
        assert all(layout.segment_of_chunk(number) == segment for number in numbers)
    assert [run.kind for _, inside in cut for run in inside for _ in range(run.count)] == [
        run.kind for run in runs for _ in range(run.count)
    ]


@given(st.integers(0, 500), chunk_sizes, st.integers(1, 5))
def test_segments_concatenated_in_name_order_are_the_disk(
    size: int, chunk: int, per_segment: int
) -> None:
    layout = DiskLayout(size, chunk, chunk * per_segment)
    names = list(layout.segment_names())
    assert names == sorted(names, key=str.encode)
    position = 0
    for segment in range(layout.segment_count):
        begin = position
        for number in layout.chunks_of_segment(segment):
            assert layout.chunk_start(number) == position
            position += layout.chunk_length(number)
        assert position - begin == layout.segment_length(segment)
    assert position == size


@st.composite
def disks_with_ranges(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    size = draw(st.integers(0, 300))
    starts = draw(st.lists(st.integers(0, size), max_size=15))
    return size, [(start, draw(st.integers(0, size - start))) for start in starts]


@given(disks_with_ranges(), chunk_sizes)
def test_normalised_ranges_are_the_chunks_that_any_range_touches(
    disk: tuple[int, list[tuple[int, int]]], chunk: int
) -> None:
    size, ranges = disk
    touched = {byte // chunk for start, length in ranges for byte in range(start, start + length)}
    got = normalise_dirty_ranges(ranges, size, chunk)
    covered = [byte for each in got for byte in range(each.start, each.end)]
    assert covered == [byte for byte in range(size) if byte // chunk in touched]
    assert all(one.end < two.start for one, two in pairwise(got))
    assert normalise_dirty_ranges(got, size, chunk) == got


@given(pieces, chunk_sizes, st.data())
def test_marking_is_by_byte_and_keeps_zeroes(
    parts: list[tuple[int, bool, bool]], chunk: int, data: st.DataObject
) -> None:
    size, extents = as_extents(parts)
    starts = data.draw(st.lists(st.integers(0, size), max_size=8))
    ranges = normalise_dirty_ranges(
        [(start, data.draw(st.integers(0, size - start))) for start in starts], size, chunk
    )
    inside = {byte for each in ranges for byte in range(each.start, each.end)}
    marked = list(mark_dirty(iter(extents), ranges))
    assert all(extent.length > 0 for extent in marked)
    assert by_byte(marked) == [
        (zero, byte in inside) for byte, (zero, _) in enumerate(by_byte(extents))
    ]
    position = 0
    for extent in marked:
        assert extent.start == position
        position = extent.end


@given(st.lists(st.tuples(st.integers(), st.integers())))
def test_lists_survive_json_in_both_shapes(ranges: list[tuple[int, int]]) -> None:
    expected = [DirtyRange(*each) for each in ranges]
    assert parse_dirty_ranges(json.dumps(ranges)) == expected
    objects = [{"start": start, "length": length} for start, length in ranges]
    assert parse_dirty_ranges(json.dumps(objects).encode()) == expected


@given(
    st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=12),
    st.integers(0, 50),
    st.integers(1, 16),
)
def test_parts_that_are_not_zero_are_found_in_aligned_blocks(
    parts: list[tuple[int, bool]], offset: int, block: int
) -> None:
    data = b"".join((b"x" if full else b"\0") * length for length, full in parts)
    assert is_zero(data) == (not any(data))
    rebuilt = bytearray(len(data))
    behind = -1
    for start, part in nonzero_runs(offset, data, block):
        assert start > behind
        behind = start + len(part)
        assert start == offset or start % block == 0
        assert behind == offset + len(data) or behind % block == 0
        for first in range(start - start % block, behind, block):
            low, high = max(first, start), min(first + block, behind)
            assert any(data[low - offset : high - offset])
        rebuilt[start - offset : behind - offset] = part
    assert rebuilt == data
