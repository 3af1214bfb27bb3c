"""The layout of a disk in segments, by example."""

from __future__ import annotations

import pytest

from holdfast.errors import SourceError, UsageError
from holdfast.model.extent import Extent
from holdfast.sources.disk.segments import (
    SEGMENTS_AT_MOST,
    ChunkRun,
    DiskLayout,
    RunKind,
    choose_segment_bytes,
    plan_chunks,
    runs_by_segment,
)

MIB = 1 << 20
GIB = 1 << 30


def test_the_default_segment_is_a_gibibyte_until_there_would_be_too_many() -> None:
    assert choose_segment_bytes(0) == GIB
    assert choose_segment_bytes(SEGMENTS_AT_MOST * GIB) == GIB
    assert choose_segment_bytes(SEGMENTS_AT_MOST * GIB + 1) == 2 * GIB
    assert choose_segment_bytes(100 << 40) == 32 * GIB
    assert choose_segment_bytes(5, 4 * MIB) == 4 * GIB


def test_a_disk_that_ends_inside_a_chunk() -> None:
    layout = DiskLayout(2 * GIB + MIB + 5, MIB, GIB)
    assert layout.chunk_count == 2050
    assert layout.segment_count == 3
    assert list(layout.segment_names()) == ["segment-000000", "segment-000001", "segment-000002"]
    assert layout.chunks_of_segment(1) == range(1024, 2048)
    assert layout.chunks_of_segment(2) == range(2048, 2050)
    assert layout.segment_of_chunk(2047) == 1
    assert layout.segment_of_chunk(2048) == 2
    assert layout.chunk_length(2048) == MIB
    assert layout.chunk_length(2049) == 5
    assert layout.segment_length(1) == GIB
    assert layout.segment_length(2) == MIB + 5


def test_an_empty_disk_has_nothing() -> None:
    layout = DiskLayout(0, MIB, GIB)
    assert (layout.chunk_count, layout.segment_count) == (0, 0)
    assert list(plan_chunks(0, MIB, [])) == []
    assert list(runs_by_segment(layout, [])) == []


@pytest.mark.parametrize(
    ("size", "chunk", "segment"),
    [(-1, 1, 1), (1, 0, 1), (1, 2, 0), (1, 2, 3), (10**6 + 1, 1, 1)],
)
def test_impossible_layouts_are_refused(size: int, chunk: int, segment: int) -> None:
    with pytest.raises(UsageError):
        DiskLayout(size, chunk, segment)


def test_chunks_and_segments_that_do_not_exist_are_refused() -> None:
    layout = DiskLayout(10, 2, 4)
    for call in (layout.chunk_start, layout.chunk_length, layout.segment_of_chunk):
        for index in (-1, 5):
            with pytest.raises(UsageError):
                call(index)
    for ask in (layout.segment_name, layout.segment_length, layout.chunks_of_segment):
        for index in (-1, 3):
            with pytest.raises(UsageError):
                ask(index)


def test_a_chunk_is_zero_only_if_all_of_it_is_and_dirty_if_any_is() -> None:
    extents = [
        Extent(0, 15, zero=True),
        Extent(15, 5),
        Extent(20, 9, dirty=False),
        Extent(29, 1),
        Extent(30, 10, dirty=False),
        Extent(40, 5, zero=True, dirty=False),
        Extent(45, 5, dirty=False),
        Extent(50, 3, zero=True),
    ]
    assert list(plan_chunks(53, 10, extents)) == [
        ChunkRun(0, 1, RunKind.ZERO),
        ChunkRun(1, 2, RunKind.READ),
        ChunkRun(3, 2, RunKind.REUSE),
        ChunkRun(5, 1, RunKind.ZERO),
    ]


@pytest.mark.parametrize(
    "extents",
    [
        [],
        [Extent(0, 9)],
        [Extent(0, 11)],
        [Extent(1, 9)],
        [Extent(0, 5), Extent(6, 4)],
        [Extent(0, 5), Extent(4, 6)],
        [Extent(0, 0), Extent(0, 10)],
        [Extent(0, 5), Extent(5, -1), Extent(4, 6)],
        [Extent(0, 10), Extent(10, 1)],
    ],
)
def test_extents_that_do_not_cover_the_disk_once_are_refused(extents: list[Extent]) -> None:
    with pytest.raises(SourceError):
        list(plan_chunks(10, 4, extents))


def test_runs_are_cut_at_segment_borders() -> None:
    layout = DiskLayout(95, 10, 40)
    runs = [ChunkRun(0, 1, RunKind.READ), ChunkRun(1, 9, RunKind.REUSE)]
    assert list(runs_by_segment(layout, runs)) == [
        (0, (ChunkRun(0, 1, RunKind.READ), ChunkRun(1, 3, RunKind.REUSE))),
        (1, (ChunkRun(4, 4, RunKind.REUSE),)),
        (2, (ChunkRun(8, 2, RunKind.REUSE),)),
    ]


def test_an_exbibyte_of_hole_costs_nothing() -> None:
    size = 1 << 60
    runs = list(plan_chunks(size, MIB, [Extent(0, size - 1, zero=True), Extent(size - 1, 1)]))
    assert runs == [
        ChunkRun(0, (1 << 40) - 1, RunKind.ZERO),
        ChunkRun((1 << 40) - 1, 1, RunKind.READ),
    ]
