"""Lists of changed ranges: what is understood, and that a doubtful one is never used."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.model.extent import Extent
from holdfast.model.manifest import DiskManifest
from holdfast.sources.disk.dirty import (
    DirtyRange,
    MarkedReader,
    decide_read,
    normalise_dirty_ranges,
    parse_dirty_ranges,
)
from holdfast.sources.disk.image import ImageReader

PARENT = DiskManifest("vda", 1000, 100, 1000, "disks/vda")


def test_pairs_and_objects_are_understood() -> None:
    assert parse_dirty_ranges(b'[[0, 5], {"start": 7, "length": 2, "zero": true}]') == [
        (0, 5),
        (7, 2),
    ]
    assert parse_dirty_ranges("[]") == []


def test_extents_marked_clean_are_left_out() -> None:
    document = (
        '[{"start":0,"length":5,"dirty":false},{"start":5,"length":5,"dirty":true,"zero":false}]'
    )
    assert parse_dirty_ranges(document) == [(5, 5)]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "7",
        "[7]",
        "[[1]]",
        "[[1,2,3]]",
        "[[1,2.0]]",
        "[[true,2]]",
        '[["1","2"]]',
        '[{"start":1}]',
        '[{"start":1,"length":null}]',
        '[{"start":1,"length":1,"dirty":"no"}]',
        '[{"start":1,"length":1,"dirty":0}]',
        "[" * 100_000,
        b"\xff\xfe[[",
    ],
)
def test_anything_else_is_refused(document: str | bytes) -> None:
    with pytest.raises(UsageError):
        parse_dirty_ranges(document)


def test_ranges_are_widened_sorted_and_merged() -> None:
    assert normalise_dirty_ranges([(950, 50), (210, 1), (150, 51), (7, 0)], 1000, 100) == (
        DirtyRange(100, 200),
        DirtyRange(900, 100),
    )
    assert normalise_dirty_ranges([(1004, 1)], 1005, 100) == (DirtyRange(1000, 5),)


@pytest.mark.parametrize("bad", [(-1, 5), (5, -1), (996, 5), (1001, 0)])
def test_a_range_outside_the_disk_spoils_the_list(bad: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        normalise_dirty_ranges([(0, 1), bad], 1000, 100)


def test_a_good_list_against_a_fitting_parent_is_used() -> None:
    decision = decide_read("vda", 1000, 100, PARENT, b"[[5,1]]")
    assert decision.ranges == (DirtyRange(0, 100),)
    assert decision.whole_read_reason is None
    assert decision.findings == ()
    assert decide_read("vda", 1000, 100, PARENT, []).ranges == ()


def test_a_plain_whole_read_has_a_reason_and_no_finding() -> None:
    for decision in (
        decide_read("vda", 1000, 100, None, b"[]"),
        decide_read("vda", 1000, 100, PARENT, None),
    ):
        assert decision.ranges is None
        assert decision.whole_read_reason
        assert decision.findings == ()


@pytest.mark.parametrize(
    ("size", "chunk", "changed", "code"),
    [
        (1001, 100, b"[]", "disk_resized"),
        (999, 100, None, "disk_resized"),
        (1000, 50, b"[]", "chunk_size_changed"),
        (1000, 100, b"[[0,1001]]", "dirty_list_unusable"),
        (1000, 100, [(0, -1)], "dirty_list_unusable"),
        (1000, 100, b"garbage", "dirty_list_unusable"),
    ],
)
def test_a_doubtful_one_is_a_whole_read_with_a_finding(
    size: int, chunk: int, changed: bytes | list[tuple[int, int]] | None, code: str
) -> None:
    decision = decide_read("vda", size, chunk, PARENT, changed)
    assert decision.ranges is None
    assert decision.whole_read_reason
    assert [(finding.code, finding.subject) for finding in decision.findings] == [(code, "vda")]


def test_a_marked_reader_keeps_everything_but_dirtiness(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"d" * 8192)
    reader = MarkedReader(ImageReader(path), [DirtyRange(100, 50)])
    assert reader.size_bytes == 8192
    assert list(reader.extents()) == [
        Extent(0, 100, dirty=False),
        Extent(100, 50),
        Extent(150, 8042, dirty=False),
    ]
    buffer = bytearray(3)
    reader.read_into(5, memoryview(buffer))
    assert buffer == b"ddd"
    assert reader.findings() == ()
    reader.close()
